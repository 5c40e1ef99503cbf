//! Frames: four bytes of length, most significant first, then so many bytes.

use std::io::{self, Read, Write};

use zeroize::Zeroize;

/// No frame is longer. A batch of 32 certificates takes 40 KiB; of what a handler is asked, several MiB may come together.
pub(super) const MAX_FRAME: usize = 8 * 1024 * 1024;
/// A buffer that was larger is given back after use.
const KEEP: usize = 128 * 1024;

/// Reads and writes frames in buffers that are used again.
#[derive(Default)]
pub(super) struct Frames {
    sent: Vec<u8>,
    received: Vec<u8>,
    /// Bytes of `received` that the last frame took.
    used: usize,
}

impl Frames {
    /// Sends one frame, in one call. `fill` appends its content.
    pub(super) fn send(
        &mut self,
        mut to: impl Write,
        fill: impl FnOnce(&mut Vec<u8>) -> Option<()>,
    ) -> io::Result<()> {
        self.sent.clear();
        self.sent.extend_from_slice(&[0; 4]);
        let too_long = || io::Error::new(io::ErrorKind::InvalidInput, "the frame is too long");
        fill(&mut self.sent).ok_or_else(too_long)?;
        let length = self.sent.len().saturating_sub(4);
        let header = self.sent.first_chunk_mut::<4>().filter(|_| length <= MAX_FRAME).ok_or_else(too_long)?;
        *header = u32::try_from(length).map_err(|_| too_long())?.to_be_bytes();
        to.write_all(&self.sent)
    }

    /// Receives one frame; none at an orderly end. There is no other frame behind it, because each waits for the answer
    /// to the one before.
    pub(super) fn receive(&mut self, mut from: impl Read) -> io::Result<Option<&[u8]>> {
        let wrong = |what: &'static str| io::Error::new(io::ErrorKind::InvalidData, what);
        let mut filled = 0;
        let mut wanted = 4;
        if self.received.len() < KEEP {
            self.received.resize(KEEP, 0);
        }
        loop {
            if filled >= 4 && wanted == 4 {
                let header = self.received.first_chunk::<4>().ok_or_else(|| wrong("no header"))?;
                let length = usize::try_from(u32::from_be_bytes(*header)).map_err(|_| wrong("a length"))?;
                if length > MAX_FRAME {
                    return Err(wrong("the frame is too long"));
                }
                wanted = 4 + length;
                if self.received.len() < wanted {
                    self.grow(wanted, filled);
                }
                if length == 0 {
                    return Err(wrong("the frame is empty"));
                }
            }
            if filled > wanted {
                return Err(wrong("two frames at once"));
            }
            if filled == wanted {
                self.used = wanted;
                return Ok(self.received.get(4..wanted));
            }
            match from.read(self.received.get_mut(filled..).unwrap_or_default()) {
                Ok(0) if filled == 0 => return Ok(None),
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(more) => filled += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Forgets what the last frames said. Whoever sends a secret reserves its place before, so that it lies nowhere else.
    pub(super) fn wipe(&mut self) {
        // What earlier secret frames have left behind them was erased in their turn.
        self.sent.as_mut_slice().zeroize();
        self.received.get_mut(..self.used).unwrap_or_default().zeroize();
    }

    /// Makes room, and leaves no copy of what came already.
    fn grow(&mut self, wanted: usize, filled: usize) {
        let mut larger = vec![0; wanted];
        for (to, from) in larger.iter_mut().zip(self.received.iter().take(filled)) {
            *to = *from;
        }
        self.received.as_mut_slice().get_mut(..filled).unwrap_or_default().zeroize();
        self.received = larger;
    }

    /// Gives back what large frames have taken.
    pub(super) fn shrink(&mut self) {
        for buffer in [&mut self.sent, &mut self.received] {
            if buffer.capacity() > KEEP {
                *buffer = Vec::new();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Gives what it has in pieces.
    struct Drip<'a>(&'a [u8], usize);

    impl Read for Drip<'_> {
        fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
            let count = self.1.min(self.0.len()).min(out.len());
            let (now, later) = self.0.split_at(count);
            out[..count].copy_from_slice(now);
            self.0 = later;
            Ok(count)
        }
    }

    proptest! {
        #[test]
        fn what_is_sent_is_received(content in prop::collection::vec(any::<u8>(), 1..200_000), piece in 1..100_000_usize) {
            let (mut frames, mut wire) = (Frames::default(), Vec::new());
            frames.send(&mut wire, |out| { out.extend_from_slice(&content); Some(()) }).unwrap();
            let mut other = Frames::default();
            prop_assert_eq!(other.receive(Drip(&wire, piece)).unwrap().unwrap(), &content);
            prop_assert!(other.receive(Drip(&wire[..wire.len() - 1], piece)).is_err());
        }

        #[test]
        fn noise_is_no_frame_or_fits(noise in prop::collection::vec(any::<u8>(), 0..300), piece in 1..20_usize) {
            if let Ok(Some(content)) = Frames::default().receive(Drip(&noise, piece)) {
                prop_assert_eq!(content, &noise[4..4 + content.len()]);
            }
        }
    }

    #[test]
    fn what_was_wiped_is_gone() {
        let mut frames = Frames::default();
        let secret = vec![0x5a; 200_000];
        let mut wire = Vec::new();
        let put = |out: &mut Vec<u8>| {
            out.extend_from_slice(&secret);
            Some(())
        };
        frames.send(&mut wire, put).unwrap();
        assert_eq!(frames.receive(Drip(&wire, 100_000)).unwrap().unwrap(), secret);
        frames.wipe();
        assert!(frames.sent.iter().chain(&frames.received).all(|byte| *byte == 0));
    }

    #[test]
    fn lengths_are_bounded_before_memory_is_taken() {
        let error = Frames::default().receive(&u32::MAX.to_be_bytes()[..]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        assert!(Frames::default().receive(&[0; 4][..]).is_err());
        let sent = Frames::default().send(Vec::new(), |out| {
            out.resize(MAX_FRAME + 5, 0);
            Some(())
        });
        assert!(sent.is_err());
    }
}
