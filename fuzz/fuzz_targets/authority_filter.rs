//! What a client sends over a Unix socket, in one piece and cut up: the same comes out, within bounds, and a connection
//! that is not HTTP/2 comes out as it went in.
#![no_main]

use bonafide_net::unix::AuthorityFilter;
use libfuzzer_sys::fuzz_target;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

fn run<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut filter = AuthorityFilter::new();
    let mut output = Vec::new();
    for piece in pieces {
        filter.feed(piece, &mut output);
    }
    filter.finish(&mut output);
    output
}

fuzz_target!(|input: (bool, u8, &[u8])| {
    let (http2, cut, bytes) = input;
    let mut sent = if http2 { PREFACE.to_vec() } else { Vec::new() };
    sent.extend_from_slice(bytes);
    let whole = run(std::iter::once(sent.as_slice()));
    let pieces = run(sent.chunks(usize::from(cut) + 1));
    assert_eq!(whole, pieces);
    assert!(whole.len() <= 5 * sent.len());
    if !sent.starts_with(PREFACE) {
        assert_eq!(whole, sent);
    }
    // What was mended once needs no mending.
    assert_eq!(run(std::iter::once(whole.as_slice())), whole);
});
