//! Mends the `:authority` of clients that put the socket's path there.
//!
//! gRPC C-core (Python, C++, Ruby, PHP), grpc-java and grpc-swift send the path of a Unix socket, plain or
//! percent-encoded, as HTTP/2 `:authority`. That is no authority (RFC 3986 §3.2), and `h2` resets the stream. On a Unix
//! socket the authority means nothing, so this filter rewrites it before `h2` sees it: each character that can't stand in
//! a host name becomes `-`.
//!
//! The rewritten value decodes to as many bytes as the original. So the HPACK dynamic tables of client and server keep the
//! same sizes and evict the same entries, and nothing else needs to be re-encoded. What the filter does not understand
//! (fields that straddle a CONTINUATION, frames above the server's limit) it passes on untouched: `h2` judges it.

use super::hpack;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const FRAME_HEADER: usize = 9;
/// The limit that the server announces (`SETTINGS_MAX_FRAME_SIZE`); `h2` refuses larger frames.
const MAX_FRAME: usize = 16 * 1024;
const HEADERS: u8 = 0x1;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;

/// Rewrites one direction of a connection, from the client to the server, as it streams through.
#[derive(Debug)]
pub struct AuthorityFilter {
    state: State,
    /// The part of a preface, of a frame header or of a HEADERS frame that has arrived. At most 9 + 16,384 bytes.
    pending: Vec<u8>,
}

#[derive(Debug)]
enum State {
    /// Comparing the first bytes with the HTTP/2 preface.
    Preface,
    /// Not HTTP/2: nothing is ever touched.
    Transparent,
    FrameHeader,
    /// Collecting a HEADERS frame of this total length.
    Headers(usize),
    /// Passing on this much of another frame's payload.
    Payload(usize),
}

impl Default for AuthorityFilter {
    fn default() -> Self {
        Self::new()
    }
}

impl AuthorityFilter {
    /// A filter for a new connection. Nothing is allocated before a HEADERS frame comes.
    pub fn new() -> Self {
        Self { state: State::Preface, pending: Vec::new() }
    }

    /// True once the connection is known not to be HTTP/2: from here on bytes may bypass the filter.
    pub fn is_transparent(&self) -> bool {
        matches!(self.state, State::Transparent)
    }

    /// Takes what the client sent and appends what the server shall read.
    pub fn feed(&mut self, mut input: &[u8], output: &mut Vec<u8>) {
        while !input.is_empty() {
            match self.state {
                State::Transparent => {
                    output.extend_from_slice(input);
                    return;
                }
                State::Preface => {
                    input = self.collect(PREFACE.len(), input);
                    if !PREFACE.starts_with(&self.pending) {
                        self.state = State::Transparent;
                        output.append(&mut self.pending);
                    } else if self.pending.len() == PREFACE.len() {
                        self.state = State::FrameHeader;
                        output.append(&mut self.pending);
                    }
                }
                State::FrameHeader => {
                    input = self.collect(FRAME_HEADER, input);
                    let [high, middle, low, kind, ..] = *self.pending.as_slice() else { continue };
                    if self.pending.len() < FRAME_HEADER {
                        continue;
                    }
                    let length = u32::from_be_bytes([0, high, middle, low]) as usize;
                    if kind == HEADERS && length > 0 && length <= MAX_FRAME {
                        self.state = State::Headers(FRAME_HEADER + length);
                    } else {
                        output.append(&mut self.pending);
                        self.state = if length == 0 { State::FrameHeader } else { State::Payload(length) };
                    }
                }
                State::Headers(total) => {
                    input = self.collect(total, input);
                    if self.pending.len() == total {
                        match mended(&self.pending) {
                            Some(frame) => {
                                output.extend_from_slice(&frame);
                                self.pending.clear();
                            }
                            None => output.append(&mut self.pending),
                        }
                        self.state = State::FrameHeader;
                    }
                }
                State::Payload(left) => {
                    let (now, later) = input.split_at(left.min(input.len()));
                    output.extend_from_slice(now);
                    input = later;
                    let left = left - now.len();
                    self.state = if left == 0 { State::FrameHeader } else { State::Payload(left) };
                }
            }
        }
    }

    /// The client has closed its side: gives out what was held back.
    pub fn finish(&mut self, output: &mut Vec<u8>) {
        self.state = State::Transparent;
        output.append(&mut self.pending);
    }

    /// Moves input to `pending` until that holds `target` bytes; returns the rest.
    fn collect<'a>(&mut self, target: usize, input: &'a [u8]) -> &'a [u8] {
        let missing = target.saturating_sub(self.pending.len());
        let (now, later) = input.split_at(missing.min(input.len()));
        self.pending.extend_from_slice(now);
        later
    }
}

/// The HEADERS frame with a valid `:authority`; `None` if it had one, or can't be mended.
fn mended(frame: &[u8]) -> Option<Vec<u8>> {
    let (header, payload) = frame.split_at_checked(FRAME_HEADER)?;
    let [_, _, _, kind, flags, stream @ ..] = header else { return None };

    // RFC 9113 §6.2: pad length and priority before the block, padding after it.
    let mut start = 0;
    let mut padding = 0;
    if flags & PADDED != 0 {
        padding = usize::from(*payload.first()?);
        start += 1;
    }
    if flags & PRIORITY != 0 {
        start += 5;
    }
    let end = payload.len().checked_sub(padding)?;
    let block = payload.get(start..end)?;

    let literal = hpack::authority(block)?;
    let mut value = hpack::decoded(block, &literal)?;
    if value.is_empty() || http::uri::Authority::try_from(value.as_slice()).is_ok() {
        return None;
    }
    for byte in &mut value {
        if !byte.is_ascii_alphanumeric() && *byte != b'.' {
            *byte = b'-';
        }
    }

    let mut out = Vec::with_capacity(frame.len() + value.len());
    out.extend_from_slice(&[0, 0, 0, *kind, *flags]);
    out.extend_from_slice(stream);
    out.extend_from_slice(payload.get(..start)?);
    out.extend_from_slice(block.get(..literal.whole.start)?);
    hpack::put_plain(&mut out, &value);
    out.extend_from_slice(block.get(literal.whole.end..)?);
    out.extend_from_slice(payload.get(end..)?);

    // A plain literal may be longer than a Huffman-coded one.
    let length = out.len() - FRAME_HEADER;
    if length > MAX_FRAME {
        return None;
    }
    let [_, high, middle, low] = (length as u32).to_be_bytes(); // at most 16,384
    out.get_mut(..3)?.copy_from_slice(&[high, middle, low]);
    Some(out)
}

#[cfg(test)]
mod tests;
