//! Big-endian numbers and length-prefixed strings, read strictly.

/// What is left of some bytes.
#[derive(Clone, Copy)]
pub(crate) struct Input<'a>(pub(crate) &'a [u8]);

impl<'a> Input<'a> {
    pub(crate) fn array<const N: usize>(&mut self) -> Option<&'a [u8; N]> {
        let (head, tail) = self.0.split_first_chunk()?;
        self.0 = tail;
        Some(head)
    }

    pub(crate) fn number(&mut self) -> Option<u32> {
        self.array().map(|bytes| u32::from_be_bytes(*bytes))
    }

    pub(crate) fn byte(&mut self) -> Option<u8> {
        self.array().map(|[byte]| *byte)
    }

    /// Bytes, at most `max`, with a long length.
    pub(crate) fn bytes(&mut self, max: usize) -> Option<&'a [u8]> {
        let len = usize::try_from(self.number()?).ok().filter(|len| *len <= max)?;
        let (head, tail) = self.0.split_at_checked(len)?;
        self.0 = tail;
        Some(head)
    }

    /// A string of at most `max` bytes that is text.
    pub(crate) fn text(&mut self, max: usize) -> Option<&'a str> {
        std::str::from_utf8(self.string(max)?).ok()
    }

    /// Nothing is left.
    pub(crate) fn finish(self) -> Option<()> {
        self.0.is_empty().then_some(())
    }

    /// A string of at most `max` bytes.
    pub(crate) fn string(&mut self, max: usize) -> Option<&'a [u8]> {
        let len = usize::from(u16::from_be_bytes(*self.array()?));
        if len > max {
            return None;
        }
        let (head, tail) = self.0.split_at_checked(len)?;
        self.0 = tail;
        Some(head)
    }
}

/// Appends what [`Input::string`] reads. `None` when it is too long to be written.
pub(crate) fn put_string(out: &mut Vec<u8>, string: &[u8]) -> Option<()> {
    out.extend_from_slice(&u16::try_from(string.len()).ok()?.to_be_bytes());
    out.extend_from_slice(string);
    Some(())
}

/// Appends what [`Input::bytes`] reads. `None` when it is too long to be written.
pub(crate) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) -> Option<()> {
    out.extend_from_slice(&u32::try_from(bytes.len()).ok()?.to_be_bytes());
    out.extend_from_slice(bytes);
    Some(())
}
