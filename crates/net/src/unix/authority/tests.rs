use proptest::prelude::*;

use super::super::hpack::{self, tests::huffman_encode};
use super::*;

/// A HEADERS frame around a block.
fn headers(block: &[u8], padding: Option<u8>, priority: bool, end_headers: bool) -> Vec<u8> {
    let mut payload = Vec::new();
    let mut flags = if end_headers { 0x4 } else { 0 };
    if let Some(padding) = padding {
        flags |= PADDED;
        payload.push(padding);
    }
    if priority {
        flags |= PRIORITY;
        payload.extend_from_slice(&[0, 0, 0, 0, 15]);
    }
    payload.extend_from_slice(block);
    payload.extend(std::iter::repeat_n(0, padding.unwrap_or(0).into()));
    frame(HEADERS, flags, &payload)
}

fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    let mut out = vec![length[1], length[2], length[3], kind, flags, 0, 0, 0, 1];
    out.extend_from_slice(payload);
    out
}

/// How a client may write the field.
#[derive(Clone, Copy, Debug)]
enum Form {
    Static(u8),
    Named { first: u8, huffman: bool },
}

fn field(form: Form, value: &[u8], huffman: bool) -> Vec<u8> {
    let mut out = Vec::new();
    match form {
        Form::Static(first) => out.push(first | 1),
        Form::Named { first, huffman } => {
            out.push(first);
            put(&mut out, b":authority", huffman);
        }
    }
    put(&mut out, value, huffman);
    out
}

fn put(out: &mut Vec<u8>, text: &[u8], huffman: bool) {
    if !huffman {
        return hpack::put_plain(out, text);
    }
    let at = out.len();
    hpack::put_plain(out, &huffman_encode(text));
    out[at] |= 0x80;
}

fn filtered(input: &[u8]) -> Vec<u8> {
    let mut output = Vec::new();
    AuthorityFilter::new().feed(input, &mut output);
    output
}

fn connection(frames: &[Vec<u8>]) -> Vec<u8> {
    let mut out = PREFACE.to_vec();
    frames.iter().for_each(|frame| out.extend_from_slice(frame));
    out
}

/// What the first HEADERS frame of a filtered connection says.
fn authority_of(output: &[u8], skip: usize) -> Vec<u8> {
    let frame = &output[PREFACE.len() + skip..];
    let length = u32::from_be_bytes([0, frame[0], frame[1], frame[2]]) as usize;
    let payload = &frame[9..9 + length];
    let mut start = 0;
    let mut padding = 0;
    if frame[4] & PADDED != 0 {
        padding = payload[0].into();
        start += 1;
    }
    if frame[4] & PRIORITY != 0 {
        start += 5;
    }
    let block = &payload[start..length - padding];
    hpack::decoded(block, &hpack::authority(block).unwrap()).unwrap()
}

#[test]
fn a_socket_path_becomes_a_host_name_of_the_same_length() {
    for (path, mended) in [
        (&b"/run/bonafide/agent.sock"[..], &b"-run-bonafide-agent.sock"[..]),
        (b"%2Frun%2Fbonafide%2Fagent.sock", b"-2Frun-2Fbonafide-2Fagent.sock"),
        (b"unix:/run/agent.sock", b"unix--run-agent.sock"),
        (b"\xff\x00:::", b"-----"),
    ] {
        for huffman in [false, true] {
            let input = connection(&[headers(&field(Form::Static(0x40), path, huffman), None, false, true)]);
            let output = filtered(&input);
            assert_eq!(authority_of(&output, 0), mended);
        }
    }
}

#[test]
fn a_valid_authority_is_left_alone() {
    for name in ["localhost", "localhost:80", "[::1]:9", "user@host", ""] {
        for huffman in [false, true] {
            let block = field(Form::Static(0x40), name.as_bytes(), huffman);
            let input = connection(&[headers(&block, None, false, true)]);
            assert_eq!(filtered(&input), input);
        }
    }
}

#[test]
fn other_fields_that_hold_a_path_are_left_alone() {
    let mut block = vec![0x82, 0x86, 0x44]; // :method GET, :scheme http, :path as literal
    put(&mut block, b"/SpiffeWorkloadAPI/FetchX509SVID", true);
    let input = connection(&[headers(&block, None, false, true)]);
    assert_eq!(filtered(&input), input);
}

#[test]
fn http1_passes_untouched() {
    let request = b"GET /v1/whoami HTTP/1.1\r\nHost: /run/x.sock\r\n\r\n\x00\x00\x05\x01";
    assert_eq!(filtered(request), request);
    let almost = b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n and more";
    assert_eq!(filtered(almost), almost);
}

#[test]
fn a_frame_that_would_grow_too_large_is_left_to_h2() {
    let mut block = field(Form::Static(0x40), b"/run/bonafide/agent.sock", true);
    block.push(0x00);
    put(&mut block, b"x", false);
    let rest = MAX_FRAME - block.len() - 3;
    put(&mut block, &vec![b'y'; rest], false);
    block.truncate(MAX_FRAME);
    let input = connection(&[headers(&block, None, false, true)]);
    assert_eq!(filtered(&input), input);
}

#[test]
fn the_first_fragment_of_a_continued_block_is_mended() {
    let mut block = field(Form::Static(0x40), b"/a/b", true);
    block.extend_from_slice(&[0x00, 0x01]); // a name that goes on in the continuation
    let rest = frame(0x9, 0x4, b"x\x01y");
    let output = filtered(&connection(&[headers(&block, None, false, false), rest.clone()]));
    assert_eq!(authority_of(&output, 0), b"-a-b");
    assert!(output.ends_with(&rest));
}

#[test]
fn a_field_that_straddles_frames_is_left_to_h2() {
    let block = field(Form::Static(0x40), b"/a/b", false);
    let (first, second) = block.split_at(3);
    let input = connection(&[headers(first, None, false, false), frame(0x9, 0x4, second)]);
    assert_eq!(filtered(&input), input);
}

#[test]
fn an_end_in_the_middle_loses_nothing() {
    let whole = connection(&[headers(&field(Form::Static(0x40), b"/a/b", false), None, false, true)]);
    for end in 0..whole.len() {
        let mut output = Vec::new();
        let mut filter = AuthorityFilter::new();
        filter.feed(&whole[..end], &mut output);
        filter.finish(&mut output);
        assert_eq!(output, &whole[..end]);
    }
}

fn forms() -> impl Strategy<Value = Form> {
    let first = prop_oneof![Just(0x40u8), Just(0x00), Just(0x10)];
    prop_oneof![
        first.clone().prop_map(Form::Static),
        (first, any::<bool>()).prop_map(|(first, huffman)| Form::Named { first, huffman }),
    ]
}

proptest! {
    #[test]
    fn every_form_of_every_value_ends_up_valid_and_as_long(
        form in forms(),
        value in proptest::collection::vec(any::<u8>(), 1..300),
        huffman: bool,
        padding: Option<u8>,
        priority: bool,
        cookie in proptest::collection::vec(any::<u8>(), 0..50),
    ) {
        let settings = frame(4, 0, &[]);
        let mut block = vec![0x83, 0x3f, 0xe1, 0x1f]; // :method POST, table size 4096
        block.extend(field(form, &value, huffman));
        let mut tail = vec![0x0f, 0x11]; // cookie, by static name
        put(&mut tail, &cookie, false);
        block.extend_from_slice(&tail);
        let data = frame(0, 1, b"the body");
        let input = connection(&[settings.clone(), headers(&block, padding, priority, true), data.clone()]);

        let output = filtered(&input);
        let mended = authority_of(&output, settings.len());
        prop_assert_eq!(mended.len(), value.len());
        prop_assert!(http::uri::Authority::try_from(mended.as_slice()).is_ok());
        prop_assert!(output.ends_with(&data));
        let mut after = tail;
        after.extend(std::iter::repeat_n(0, padding.unwrap_or(0).into()));
        after.extend_from_slice(&data);
        prop_assert!(output.ends_with(&after));
    }

    #[test]
    fn how_the_bytes_arrive_makes_no_difference(
        frames in proptest::collection::vec(
            prop_oneof![
                (0u8..10, proptest::collection::vec(any::<u8>(), 0..40)).prop_map(|(kind, payload)| frame(kind, 0, &payload)),
                (proptest::collection::vec(any::<u8>(), 1..40), any::<bool>())
                    .prop_map(|(value, huffman)| headers(&field(Form::Static(0x40), &value, huffman), None, false, true)),
            ],
            0..8,
        ),
        cuts in proptest::collection::vec(1usize..30, 1..60),
    ) {
        let input = connection(&frames);
        let mut output = Vec::new();
        let mut filter = AuthorityFilter::new();
        let mut rest = input.as_slice();
        for cut in cuts.iter().cycle() {
            if rest.is_empty() { break; }
            let (now, later) = rest.split_at(rest.len().min(*cut));
            filter.feed(now, &mut output);
            rest = later;
        }
        filter.finish(&mut output);
        let mut whole = Vec::new();
        let mut filter = AuthorityFilter::new();
        filter.feed(&input, &mut whole);
        filter.finish(&mut whole);
        prop_assert_eq!(output, whole);
    }

    #[test]
    fn any_bytes_are_passed_or_mended_but_never_lost(
        bytes in proptest::collection::vec(any::<u8>(), 0..2000),
        http2: bool,
    ) {
        let mut input = if http2 { PREFACE.to_vec() } else { Vec::new() };
        input.extend_from_slice(&bytes);
        let mut output = Vec::new();
        let mut filter = AuthorityFilter::new();
        filter.feed(&input, &mut output);
        filter.finish(&mut output);
        prop_assert!(output.len() <= 5 * input.len(), "Huffman code saves no more than that");
        if !http2 {
            prop_assert_eq!(output, input);
        }
    }
}
