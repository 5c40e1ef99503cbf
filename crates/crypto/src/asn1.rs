//! A strict DER reader and a small DER writer (X.690).
//!
//! The reader takes one encoding only: definite minimal lengths up to 16 MiB and one-byte tags. What it reads is
//! borrowed, nothing is copied. `None` always means "not DER of this form".

/// BOOLEAN.
pub const BOOLEAN: u8 = 0x01;
/// INTEGER.
pub const INTEGER: u8 = 0x02;
/// BIT STRING.
pub const BIT_STRING: u8 = 0x03;
/// OCTET STRING.
pub const OCTET_STRING: u8 = 0x04;
/// NULL.
pub const NULL: u8 = 0x05;
/// OBJECT IDENTIFIER.
pub const OBJECT_IDENTIFIER: u8 = 0x06;
/// UTF8String.
pub const UTF8_STRING: u8 = 0x0c;
/// PrintableString.
pub const PRINTABLE_STRING: u8 = 0x13;
/// UTCTime.
pub const UTC_TIME: u8 = 0x17;
/// GeneralizedTime.
pub const GENERALIZED_TIME: u8 = 0x18;
/// SEQUENCE and SEQUENCE OF.
pub const SEQUENCE: u8 = 0x30;
/// SET and SET OF.
pub const SET: u8 = 0x31;

/// The tag of a context-specific, constructed element.
#[must_use]
pub const fn context(number: u8) -> u8 {
    0xa0 | number
}

/// The tag of a context-specific, primitive element.
#[must_use]
pub const fn context_primitive(number: u8) -> u8 {
    0x80 | number
}

/// Reads DER elements, one after the other.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

/// One element as it stood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Element<'a> {
    /// The tag, all eight bits.
    pub tag: u8,
    /// What the element contains.
    pub content: &'a [u8],
    /// The whole element, with tag and length.
    pub encoded: &'a [u8],
}

impl<'a> Reader<'a> {
    /// A reader of `der`.
    #[must_use]
    pub const fn new(der: &'a [u8]) -> Self {
        Self { rest: der }
    }

    /// Whether all was read.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// The next tag.
    #[must_use]
    pub fn peek(&self) -> Option<u8> {
        self.rest.first().copied()
    }

    /// The next element, whatever its tag.
    pub fn any(&mut self) -> Option<Element<'a>> {
        let (&tag, after_tag) = self.rest.split_first()?;
        if tag & 0x1f == 0x1f {
            return None;
        }
        let (&first, after_first) = after_tag.split_first()?;
        let (length, body) = match first {
            0..=0x7f => (usize::from(first), after_first),
            0x81..=0x83 => {
                let (digits, body) = after_first.split_at_checked(usize::from(first & 0x7f))?;
                let length = digits.iter().fold(0usize, |length, digit| length << 8 | usize::from(*digit));
                let minimal = length > 0x7f && digits.first() != Some(&0);
                if !minimal {
                    return None;
                }
                (length, body)
            }
            _ => return None,
        };
        let (content, rest) = body.split_at_checked(length)?;
        let encoded = self.rest.get(..self.rest.len().checked_sub(rest.len())?)?;
        self.rest = rest;
        Some(Element { tag, content, encoded })
    }

    /// The next element, which must have this tag.
    pub fn element(&mut self, tag: u8) -> Option<Element<'a>> {
        if self.peek()? == tag { self.any() } else { None }
    }

    /// The content of the next element, which must have this tag.
    pub fn content(&mut self, tag: u8) -> Option<&'a [u8]> {
        Some(self.element(tag)?.content)
    }

    /// A reader of the content of the next element, which must have this tag.
    pub fn nested(&mut self, tag: u8) -> Option<Self> {
        Some(Self::new(self.content(tag)?))
    }

    /// The content of the next element if it has this tag: `Some(None)` if another one or nothing follows, `None`
    /// if it has this tag and is malformed.
    pub fn optional(&mut self, tag: u8) -> Option<Option<&'a [u8]>> {
        if self.peek() == Some(tag) { Some(Some(self.content(tag)?)) } else { Some(None) }
    }

    /// The magnitude of the next element, an INTEGER > 0, without leading zeros.
    pub fn positive(&mut self) -> Option<&'a [u8]> {
        match self.content(INTEGER)? {
            [0, magnitude @ ..] => magnitude.first().is_some_and(|first| *first >= 0x80).then_some(magnitude),
            magnitude => magnitude.first().is_some_and(|first| *first < 0x80).then_some(magnitude),
        }
    }

    /// The content of the next element, a BIT STRING of whole bytes.
    pub fn bit_string(&mut self) -> Option<&'a [u8]> {
        match self.content(BIT_STRING)? {
            [0, bytes @ ..] => Some(bytes),
            _ => None,
        }
    }

    /// Succeeds if nothing is left.
    #[must_use]
    pub fn finish(self) -> Option<()> {
        self.rest.is_empty().then_some(())
    }
}

/// Writes DER elements into a buffer.
#[derive(Clone, Debug, Default)]
pub struct Writer {
    out: Vec<u8>,
}

impl Writer {
    /// An empty buffer with room for `capacity` bytes.
    #[must_use]
    pub fn with_capacity(capacity: usize) -> Self {
        Self { out: Vec::with_capacity(capacity) }
    }

    /// Writes bytes that are DER already.
    pub fn raw(&mut self, der: &[u8]) {
        self.out.extend_from_slice(der);
    }

    /// Writes a primitive element.
    pub fn primitive(&mut self, tag: u8, content: &[u8]) {
        self.out.push(tag);
        self.length(content.len());
        self.out.extend_from_slice(content);
    }

    /// Writes an element around what `content` writes.
    pub fn nested(&mut self, tag: u8, content: impl FnOnce(&mut Self)) {
        self.out.push(tag);
        let start = self.out.len();
        // One byte of length is right for most elements; a longer one moves the content.
        self.out.push(0);
        content(self);
        let length = self.out.len().saturating_sub(start.saturating_add(1));
        if length < 0x80 {
            if let Some(short) = self.out.get_mut(start) {
                *short = length as u8;
            }
        } else {
            let (bytes, zeros) = digits(length);
            let digits = bytes.get(zeros..).unwrap_or_default();
            let (from, to) = (start.saturating_add(1), start.saturating_add(1).saturating_add(digits.len()));
            let end = self.out.len();
            self.out.extend_from_slice(digits);
            self.out.copy_within(from..end, to);
            if let Some([first, rest @ ..]) = self.out.get_mut(start..to) {
                *first = 0x80 | digits.len() as u8;
                rest.copy_from_slice(digits);
            }
        }
    }

    /// Writes an INTEGER > 0 from its magnitude; leading zeros are dropped.
    pub fn positive(&mut self, magnitude: &[u8]) {
        let zeros = magnitude.iter().take_while(|byte| **byte == 0).count();
        let magnitude = magnitude.get(zeros..).unwrap_or_default();
        let sign = magnitude.first().is_none_or(|first| *first >= 0x80);
        self.out.push(INTEGER);
        self.length(magnitude.len().saturating_add(usize::from(sign)));
        if sign {
            self.out.push(0);
        }
        self.out.extend_from_slice(magnitude);
    }

    /// Writes a BIT STRING of whole bytes.
    pub fn bit_string(&mut self, bytes: &[u8]) {
        self.out.push(BIT_STRING);
        self.length(bytes.len().saturating_add(1));
        self.out.push(0);
        self.out.extend_from_slice(bytes);
    }

    /// What was written.
    #[must_use]
    pub fn finish(self) -> Vec<u8> {
        self.out
    }

    fn length(&mut self, length: usize) {
        if length < 0x80 {
            self.out.push(length as u8);
        } else {
            let (bytes, zeros) = digits(length);
            let digits = bytes.get(zeros..).unwrap_or_default();
            // At most eight digits, so the cast keeps its value.
            self.out.push(0x80 | digits.len() as u8);
            self.out.extend_from_slice(digits);
        }
    }
}

/// The big-endian bytes of a length, and how many of them are leading zeros.
fn digits(length: usize) -> ([u8; size_of::<usize>()], usize) {
    (length.to_be_bytes(), length.leading_zeros() as usize / 8)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn other_encodings_of_a_length_are_refused() {
        for bad in [
            &[0x30, 0x80, 0, 0][..],      // indefinite
            &[0x30, 0x81, 0x01, 0],       // long form of a short length
            &[0x30, 0x82, 0x00, 0x80],    // leading zero
            &[0x30, 0x84, 0, 0, 0, 1, 0], // four digits
            &[0x3f, 0x01, 0x00],          // high tag number
            &[0x30, 0x02, 0x00],          // too short
            &[0x30],
        ] {
            assert!(Reader::new(bad).any().is_none(), "{bad:?}");
        }
    }

    #[test]
    fn other_encodings_of_an_integer_are_refused() {
        for bad in [&[2, 0][..], &[2, 1, 0], &[2, 2, 0, 1], &[2, 1, 0x80], &[2, 2, 0xff, 0x80]] {
            assert!(Reader::new(bad).positive().is_none(), "{bad:?}");
        }
        assert_eq!(Reader::new(&[2, 2, 0, 0x80]).positive(), Some(&[0x80][..]));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(content in prop::collection::vec(any::<u8>(), 0..70_000), tag in 0u8..0x1f) {
            let mut writer = Writer::default();
            writer.nested(SEQUENCE, |writer| writer.primitive(tag, &content));
            let der = writer.finish();
            let mut reader = Reader::new(&der);
            let mut inner = reader.nested(SEQUENCE).unwrap();
            prop_assert_eq!(inner.content(tag), Some(content.as_slice()));
            prop_assert!(inner.finish().is_some() && reader.finish().is_some());
        }

        #[test]
        fn what_is_read_is_canonical(der in prop::collection::vec(any::<u8>(), 0..64)) {
            if let Some(element) = Reader::new(&der).any() {
                let mut writer = Writer::default();
                writer.primitive(element.tag, element.content);
                prop_assert_eq!(writer.finish(), element.encoded);
            }
        }
    }
}
