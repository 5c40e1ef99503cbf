//! The little DER (X.690) that certificates need: a reader that borrows, and functions that write.
//!
//! The reader accepts definite, minimal lengths and single-byte tags only, which is what DER and the types
//! of RFC 5280 leave. It never allocates and never looks beyond its slice.

/// Universal tags of the types that occur in certificates.
pub(crate) mod tag {
    pub(crate) const BOOLEAN: u8 = 0x01;
    pub(crate) const INTEGER: u8 = 0x02;
    pub(crate) const BIT_STRING: u8 = 0x03;
    pub(crate) const OCTET_STRING: u8 = 0x04;
    pub(crate) const OID: u8 = 0x06;
    pub(crate) const ENUMERATED: u8 = 0x0a;
    pub(crate) const UTF8_STRING: u8 = 0x0c;
    pub(crate) const SEQUENCE: u8 = 0x30;
    pub(crate) const SET: u8 = 0x31;
    pub(crate) const UTC_TIME: u8 = 0x17;
    pub(crate) const GENERALIZED_TIME: u8 = 0x18;

    /// `[number] IMPLICIT` of a primitive type.
    pub(crate) const fn context(number: u8) -> u8 {
        0x80 | number
    }

    /// `[number]` of a constructed type.
    pub(crate) const fn context_constructed(number: u8) -> u8 {
        0xa0 | number
    }
}

/// The bytes are not the DER that was expected.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct BadDer;

/// One element: its tag, its content, and the whole of it with tag and length.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Element<'a> {
    pub(crate) tag: u8,
    pub(crate) content: &'a [u8],
    pub(crate) whole: &'a [u8],
}

/// Reads elements one after the other.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether the next element has this tag.
    pub(crate) fn next_is(&self, tag: u8) -> bool {
        self.0.first() == Some(&tag)
    }

    /// The next element, whatever it is.
    pub(crate) fn any(&mut self) -> Result<Element<'a>, BadDer> {
        let (&tag, rest) = self.0.split_first().ok_or(BadDer)?;
        let (&first, rest) = rest.split_first().ok_or(BadDer)?;
        // A tag number of 31 announces more tag bytes; no type of ours has them.
        if tag & 0x1f == 0x1f {
            return Err(BadDer);
        }
        let (length, rest) = match first {
            0..=0x7f => (usize::from(first), rest),
            0x81 => {
                let (&length, rest) = rest.split_first().ok_or(BadDer)?;
                if length < 0x80 {
                    return Err(BadDer);
                }
                (usize::from(length), rest)
            }
            0x82 => {
                let (length, rest) = rest.split_first_chunk::<2>().ok_or(BadDer)?;
                let length = usize::from(u16::from_be_bytes(*length));
                if length < 0x100 {
                    return Err(BadDer);
                }
                (length, rest)
            }
            // Indefinite, or 64 KiB and more: every document here is smaller.
            _ => return Err(BadDer),
        };
        let (content, rest) = rest.split_at_checked(length).ok_or(BadDer)?;
        let whole = self.0.get(..self.0.len() - rest.len()).ok_or(BadDer)?;
        self.0 = rest;
        Ok(Element { tag, content, whole })
    }

    /// The content of the next element, which must have this tag.
    pub(crate) fn read(&mut self, tag: u8) -> Result<&'a [u8], BadDer> {
        if self.next_is(tag) { self.any().map(|element| element.content) } else { Err(BadDer) }
    }

    /// The content of the next element if it has this tag.
    pub(crate) fn optional(&mut self, tag: u8) -> Result<Option<&'a [u8]>, BadDer> {
        if self.next_is(tag) { self.read(tag).map(Some) } else { Ok(None) }
    }

    /// Reads an element of this tag, and all of its content with `inside`.
    pub(crate) fn nested<T, E: From<BadDer>>(
        &mut self,
        tag: u8,
        inside: impl FnOnce(&mut Reader<'a>) -> Result<T, E>,
    ) -> Result<T, E> {
        let mut reader = Reader(self.read(tag)?);
        let value = inside(&mut reader)?;
        reader.finish()?;
        Ok(value)
    }

    /// `BOOLEAN DEFAULT FALSE`: DER writes it only when it is true.
    pub(crate) fn default_false(&mut self) -> Result<bool, BadDer> {
        match self.optional(tag::BOOLEAN)? {
            None => Ok(false),
            Some([0xff]) => Ok(true),
            Some(_) => Err(BadDer),
        }
    }

    /// A non-negative `INTEGER` of at most 64 bits.
    pub(crate) fn u64(&mut self) -> Result<u64, BadDer> {
        let magnitude = unsigned(self.read(tag::INTEGER)?)?;
        if magnitude.len() > 8 {
            return Err(BadDer);
        }
        Ok(magnitude.iter().fold(0, |value, &byte| value << 8 | u64::from(byte)))
    }

    /// An `OBJECT IDENTIFIER`, as its content bytes.
    pub(crate) fn oid(&mut self) -> Result<&'a [u8], BadDer> {
        let content = self.read(tag::OID)?;
        let mut at_start = true;
        for &byte in content {
            // An arc is written without leading zeros.
            if at_start && byte == 0x80 {
                return Err(BadDer);
            }
            at_start = byte & 0x80 == 0;
        }
        if content.is_empty() || !at_start { Err(BadDer) } else { Ok(content) }
    }

    /// Nothing may be left.
    pub(crate) fn finish(self) -> Result<(), BadDer> {
        if self.0.is_empty() { Ok(()) } else { Err(BadDer) }
    }
}

/// The magnitude of a non-negative `INTEGER`'s content, without the sign byte; refuses padding.
pub(crate) fn unsigned(content: &[u8]) -> Result<&[u8], BadDer> {
    match content {
        [] => Err(BadDer),
        [0] => Ok(content),
        [0, second, ..] if *second < 0x80 => Err(BadDer),
        [0, rest @ ..] => Ok(rest),
        [first, ..] if *first >= 0x80 => Err(BadDer),
        _ => Ok(content),
    }
}

/// The bits of a `BIT STRING` with named bits, most significant first: at most 16 of them, without trailing
/// zeros as X.690 section 11.2.2 demands.
pub(crate) fn named_bits(content: &[u8]) -> Result<u16, BadDer> {
    let (&unused, bytes) = content.split_first().ok_or(BadDer)?;
    let bits = match *bytes {
        [] => return if unused == 0 { Ok(0) } else { Err(BadDer) },
        [one] => u16::from(one) << 8,
        [one, two] => u16::from_be_bytes([one, two]),
        _ => return Err(BadDer),
    };
    let last = bytes.last().copied().unwrap_or(0);
    // The last used bit is the last one of the string, so it is set and the unused ones below are not.
    if unused < 8 && last.trailing_zeros() == u32::from(unused) { Ok(bits) } else { Err(BadDer) }
}

/// Appends one element.
pub(crate) fn write(out: &mut Vec<u8>, tag: u8, content: &[u8]) {
    out.push(tag);
    let length = content.len().to_be_bytes();
    let significant = length.iter().position(|&byte| byte != 0).unwrap_or(length.len() - 1);
    let length = length.get(significant..).unwrap_or_default();
    match length {
        [short] if *short < 0x80 => out.push(*short),
        long => {
            out.push(0x80 | u8::try_from(long.len()).unwrap_or(0x7f));
            out.extend_from_slice(long);
        }
    }
    out.extend_from_slice(content);
}

/// Appends a non-negative `INTEGER`.
pub(crate) fn write_u64(out: &mut Vec<u8>, value: u64) {
    let mut bytes = [0; 9];
    if let Some(tail) = bytes.last_chunk_mut::<8>() {
        *tail = value.to_be_bytes();
    }
    // Leading zeros go, except one that keeps the number from being read as negative.
    let needed = 64 - value.leading_zeros() as usize;
    let start = bytes.len() - (needed / 8 + 1);
    write(out, tag::INTEGER, bytes.get(start..).unwrap_or_default());
}
