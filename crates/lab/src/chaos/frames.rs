//! Frames of HTTP/2 (RFC 9113) as no library sends them.

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Enough of them in one write to be quick.
const AT_ONCE: usize = 64 * 1024;

const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// `:method: POST`, `:scheme: http`, `:path: /`, `:authority: a` (RFC 7541 appendix A).
const REQUEST: &[u8] = b"\x83\x86\x84\x41\x01a";

/// What a stranger sends, over and over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Frames {
    /// A head that never ends, in small parts.
    Continuations,
    /// One in large parts.
    Fields,
    /// One field of the largest size that is remembered, named again and again in few bytes.
    Repeated,
    /// Requests that are taken back at once.
    Resets,
    Settings,
    Pings,
}

/// Sends frames until the other side ends the connection, or has taken `count` of them.
pub(super) async fn send(stream: impl AsyncRead + AsyncWrite + Unpin, frames: Frames, count: usize) {
    let (mut from, mut to) = tokio::io::split(stream);
    let ended = async {
        let mut answers = [0; 16 * 1024];
        while !matches!(from.read(&mut answers).await, Ok(0) | Err(_)) {}
    };
    let sent = async {
        let mut bytes = PREFACE.to_vec();
        frame(&mut bytes, SETTINGS, 0, 0, &[]);
        frames.begin(&mut bytes);
        for number in 0..count {
            frames.next(&mut bytes, u32::try_from(number).unwrap_or(u32::MAX));
            if bytes.len() >= AT_ONCE {
                to.write_all(&bytes).await?;
                bytes.clear();
            }
        }
        to.write_all(&bytes).await?;
        // It reads everything, and then this.
        to.shutdown().await
    };
    tokio::select! {
        () = ended => {}
        () = async {
            // A failed write is an end too; what was said before it is still read.
            let _sent = sent.await;
            std::future::pending().await
        } => {}
    }
}

impl Frames {
    fn begin(self, bytes: &mut Vec<u8>) {
        match self {
            Self::Continuations | Self::Fields => frame(bytes, HEADERS, END_STREAM, 1, REQUEST),
            Self::Repeated => {
                // A field that is remembered: `x`, and 4,000 times the same letter.
                let mut head = REQUEST.to_vec();
                head.extend(b"\x40\x01x\x7f\xa1\x1e");
                head.extend([b'a'; 4000]);
                frame(bytes, HEADERS, END_STREAM, 1, &head);
            }
            Self::Resets | Self::Settings | Self::Pings => {}
        }
    }

    fn next(self, bytes: &mut Vec<u8>, number: u32) {
        match self {
            Self::Continuations => frame(bytes, CONTINUATION, 0, 1, b"\x00\x01y\x01z"),
            Self::Fields => {
                // A field that is not remembered: `y`, and 10,000 letters.
                let mut field = b"\x00\x01y\x7f\x91\x4d".to_vec();
                field.extend([b'z'; 10_000]);
                frame(bytes, CONTINUATION, 0, 1, &field);
            }
            // Entry 62 is the one that was remembered last.
            Self::Repeated => frame(bytes, CONTINUATION, 0, 1, &[0xbe; 1000]),
            Self::Resets => {
                let stream = number.wrapping_mul(2).wrapping_add(1);
                frame(bytes, HEADERS, END_STREAM | END_HEADERS, stream, REQUEST);
                frame(bytes, RST_STREAM, 0, stream, &[0, 0, 0, 8]);
            }
            Self::Settings => frame(bytes, SETTINGS, 0, 0, &[]),
            Self::Pings => frame(bytes, PING, 0, 0, &[0; 8]),
        }
    }
}

fn frame(bytes: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    let [_, length @ ..] = u32::try_from(payload.len()).unwrap_or(u32::MAX).to_be_bytes();
    bytes.extend(length);
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
}
