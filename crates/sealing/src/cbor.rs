//! Deterministic CBOR (RFC 8949 section 4.2.1), as much of it as the documents of this crate have: unsigned numbers, byte and
//! text strings, booleans, arrays, and maps whose keys are ascending numbers.
//!
//! It is written by hand, because a reader has to refuse every other form: what is signed and hashed must have one encoding. The
//! general readers accept long heads, indefinite lengths and keys in any order, and leave the check to a second pass.

const UNSIGNED: u8 = 0;
const BYTES: u8 = 2;
const TEXT: u8 = 3;
const ARRAY: u8 = 4;
const MAP: u8 = 5;
const FALSE: u8 = 0xf4;
const TRUE: u8 = 0xf5;

#[derive(Default)]
pub(crate) struct Writer(Vec<u8>);

impl Writer {
    pub(crate) fn map(&mut self, fields: usize) -> &mut Self {
        self.head(MAP, fields as u64)
    }

    pub(crate) fn array(&mut self, items: usize) -> &mut Self {
        self.head(ARRAY, items as u64)
    }

    pub(crate) fn number(&mut self, number: u64) -> &mut Self {
        self.head(UNSIGNED, number)
    }

    pub(crate) fn boolean(&mut self, value: bool) -> &mut Self {
        self.0.push(if value { TRUE } else { FALSE });
        self
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.head(BYTES, bytes.len() as u64);
        self.0.extend_from_slice(bytes);
        self
    }

    pub(crate) fn text(&mut self, text: &str) -> &mut Self {
        self.head(TEXT, text.len() as u64);
        self.0.extend_from_slice(text.as_bytes());
        self
    }

    pub(crate) fn finish(self) -> Vec<u8> {
        self.0
    }

    /// The shortest head there is.
    fn head(&mut self, major: u8, value: u64) -> &mut Self {
        let major = major << 5;
        match value {
            0..24 => self.0.push(major | value as u8),
            24..0x100 => self.0.extend_from_slice(&[major | 24, value as u8]),
            0x100..0x1_0000 => {
                self.0.push(major | 25);
                self.0.extend_from_slice(&(value as u16).to_be_bytes());
            }
            0x1_0000..0x1_0000_0000 => {
                self.0.push(major | 26);
                self.0.extend_from_slice(&(value as u32).to_be_bytes());
            }
            _ => {
                self.0.push(major | 27);
                self.0.extend_from_slice(&value.to_be_bytes());
            }
        }
        self
    }
}

/// What is left of some bytes.
#[derive(Clone, Copy)]
pub(crate) struct Reader<'a>(&'a [u8]);

/// A map that is being read: its fields must be asked for in the order of their numbers, and all of them.
pub(crate) struct Map {
    left: u64,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(crate) fn map(&mut self) -> Option<Map> {
        Some(Map { left: self.head(MAP)? })
    }

    /// How many items follow, at most `max`.
    pub(crate) fn array(&mut self, max: usize) -> Option<usize> {
        usize::try_from(self.head(ARRAY)?).ok().filter(|count| *count <= max)
    }

    /// As many items as follow, at most `max`.
    pub(crate) fn list<T>(
        &mut self,
        max: usize,
        mut read: impl FnMut(&mut Self) -> Option<T>,
    ) -> Option<Vec<T>> {
        (0..self.array(max)?).map(|_| read(self)).collect()
    }

    pub(crate) fn number(&mut self) -> Option<u64> {
        self.head(UNSIGNED)
    }

    pub(crate) fn byte(&mut self) -> Option<u8> {
        u8::try_from(self.number()?).ok()
    }

    pub(crate) fn boolean(&mut self) -> Option<bool> {
        match self.take(1)? {
            [FALSE] => Some(false),
            [TRUE] => Some(true),
            _ => None,
        }
    }

    pub(crate) fn bytes(&mut self, max: usize) -> Option<&'a [u8]> {
        let length = usize::try_from(self.head(BYTES)?).ok().filter(|length| *length <= max)?;
        self.take(length)
    }

    pub(crate) fn fixed<const N: usize>(&mut self) -> Option<&'a [u8; N]> {
        self.bytes(N)?.try_into().ok()
    }

    pub(crate) fn text(&mut self, max: usize) -> Option<&'a str> {
        let length = usize::try_from(self.head(TEXT)?).ok().filter(|length| *length <= max)?;
        std::str::from_utf8(self.take(length)?).ok()
    }

    pub(crate) fn finish(self) -> Option<()> {
        self.0.is_empty().then_some(())
    }

    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(length)?;
        self.0 = tail;
        Some(head)
    }

    fn head(&mut self, major: u8) -> Option<u64> {
        let (&first, _) = self.0.split_first()?;
        if first >> 5 != major {
            return None;
        }
        self.take(1)?;
        let (extra, least) = match first & 31 {
            short @ 0..24 => return Some(u64::from(short)),
            24 => (1, 24),
            25 => (2, 0x100),
            26 => (4, 0x1_0000),
            27 => (8, 0x1_0000_0000),
            _ => return None,
        };
        let value = self.take(extra)?.iter().fold(0_u64, |value, byte| value << 8 | u64::from(*byte));
        (value >= least).then_some(value)
    }
}

impl Map {
    pub(crate) fn required(&mut self, reader: &mut Reader<'_>, key: u64) -> Option<()> {
        self.optional(reader, key)?.then_some(())
    }

    /// Whether the next field is this one.
    pub(crate) fn optional(&mut self, reader: &mut Reader<'_>, key: u64) -> Option<bool> {
        if self.left == 0 {
            return Some(false);
        }
        let mut ahead = *reader;
        if ahead.number()? != key {
            return Some(false);
        }
        *reader = ahead;
        self.left -= 1;
        Some(true)
    }

    pub(crate) fn end(self) -> Option<()> {
        (self.left == 0).then_some(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// RFC 8949 appendix A.
    #[test]
    fn numbers_are_as_short_as_they_can_be() {
        let examples: [(u64, &[u8]); 6] = [
            (23, &[0x17]),
            (24, &[0x18, 0x18]),
            (1000, &[0x19, 0x03, 0xe8]),
            (1_000_000, &[0x1a, 0x00, 0x0f, 0x42, 0x40]),
            (1_000_000_000_000, &[0x1b, 0x00, 0x00, 0x00, 0xe8, 0xd4, 0xa5, 0x10, 0x00]),
            (u64::MAX, &[0x1b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]),
        ];
        for (number, encoded) in examples {
            let mut writer = Writer::default();
            writer.number(number);
            assert_eq!(writer.finish(), encoded);
            assert_eq!(Reader::new(encoded).number(), Some(number));
        }
        for long in [
            &[0x18, 23][..],
            &[0x19, 0, 255],
            &[0x1a, 0, 0, 255, 255],
            &[0x1b, 0, 0, 0, 0, 255, 255, 255, 255],
        ] {
            assert_eq!(Reader::new(long).number(), None);
        }
        // Indefinite lengths.
        assert_eq!(Reader::new(&[0x5f, 0x41, 0, 0xff]).bytes(9), None);
        assert!(Reader::new(&[0xbf, 0xff]).map().is_none());
    }

    #[test]
    fn fields_have_an_order_and_none_is_left_over() {
        let read = |bytes: &[u8]| {
            let mut reader = Reader::new(bytes);
            let mut map = reader.map()?;
            map.required(&mut reader, 1)?;
            let one = reader.number()?;
            let two = if map.optional(&mut reader, 2)? { Some(reader.boolean()?) } else { None };
            map.end()?;
            reader.finish()?;
            Some((one, two))
        };
        assert_eq!(read(&[0xa1, 1, 7]), Some((7, None)));
        assert_eq!(read(&[0xa2, 1, 7, 2, 0xf5]), Some((7, Some(true))));
        for bad in [
            &[0xa1, 2, 0xf5][..],
            &[0xa2, 2, 0xf5, 1, 7],
            &[0xa2, 1, 7, 1, 7],
            &[0xa2, 1, 7, 3, 7],
            &[0xa2, 1, 7],
            &[0xa1, 1, 7, 0],
            &[0xa2, 1, 7, 2, 0xf6],
        ] {
            assert_eq!(read(bad), None, "{bad:02x?}");
        }
    }

    proptest! {
        #[test]
        fn what_was_read_is_written_alike(bytes in prop::collection::vec(any::<u8>(), 0..20)) {
            let mut writer = Writer::default();
            let reader = || Reader::new(&bytes);
            if let Some(number) = reader().number() {
                writer.number(number);
            } else if let Some(text) = reader().text(20) {
                writer.text(text);
            } else if let Some(read) = reader().bytes(20) {
                writer.bytes(read);
            }
            let written = writer.finish();
            prop_assert!(bytes.starts_with(&written));
        }
    }
}
