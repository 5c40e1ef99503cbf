//! As much of HPACK (RFC 7541) as it takes to find one literal value in a header block.

use std::ops::Range;

/// The longest `:authority` that is looked at, decoded. A Unix socket's path has 107 bytes at most, three times that when
/// percent-encoded.
pub(super) const MAX_AUTHORITY: usize = 1024;

/// Index of `:authority` in the static table (RFC 7541 Appendix A).
const STATIC_AUTHORITY: usize = 1;

/// `:authority`, plain and in Huffman code.
const NAME: &[u8] = b":authority";
const NAME_HUFFMAN: &[u8] = &[0xb8, 0x3b, 0x53, 0x39, 0xec, 0x32, 0x7d, 0x7f];

/// A string literal (RFC 7541 §5.2) inside a block.
#[derive(Clone, Debug)]
pub(super) struct Literal {
    /// From the length prefix to the last byte.
    pub(super) whole: Range<usize>,
    /// The bytes of the string alone, still encoded.
    pub(super) value: Range<usize>,
    pub(super) huffman: bool,
}

/// Finds the first `:authority` whose value stands in the block as a literal, if everything before it is well-formed.
///
/// The decoder keeps no dynamic table. It needs none: only literals matter, and a value that an earlier literal put into
/// the table was mended when it went in.
pub(super) fn authority(block: &[u8]) -> Option<Literal> {
    let mut at = 0;
    while let Some(&first) = block.get(at) {
        if first & 0x80 != 0 {
            integer(block, &mut at, 7)?; // indexed field, §6.1
            continue;
        }
        if first & 0xe0 == 0x20 {
            integer(block, &mut at, 5)?; // table size update, §6.3
            continue;
        }
        // Literal with incremental indexing (§6.2.1: six bits), without or never indexed (§6.2.2, §6.2.3: four).
        let index = integer(block, &mut at, if first & 0x40 != 0 { 6 } else { 4 })?;
        let is_authority = if index == 0 {
            let name = literal(block, &mut at)?;
            let bytes = block.get(name.value)?;
            bytes == if name.huffman { NAME_HUFFMAN } else { NAME }
        } else {
            index == STATIC_AUTHORITY
        };
        let value = literal(block, &mut at)?;
        if is_authority {
            return Some(value);
        }
    }
    None
}

/// The decoded bytes of a literal of `block`; `None` if the code is broken or the value too long.
pub(super) fn decoded(block: &[u8], literal: &Literal) -> Option<Vec<u8>> {
    let bytes = block.get(literal.value.clone())?;
    if literal.huffman {
        return huffman(bytes);
    }
    (bytes.len() <= MAX_AUTHORITY).then(|| bytes.to_vec())
}

/// Appends `value` as a plain literal.
pub(super) fn put_plain(out: &mut Vec<u8>, value: &[u8]) {
    let mut rest = value.len();
    if rest < 127 {
        out.push(rest as u8); // below 127: the cast loses nothing
    } else {
        out.push(127);
        rest -= 127;
        while rest >= 128 {
            out.push((rest % 128) as u8 | 0x80);
            rest /= 128;
        }
        out.push(rest as u8);
    }
    out.extend_from_slice(value);
}

/// An integer with an N-bit prefix (§5.1), at most four bytes long.
fn integer(block: &[u8], at: &mut usize, prefix: u32) -> Option<usize> {
    let mask = (1usize << prefix) - 1;
    let mut value = usize::from(*block.get(*at)?) & mask;
    *at += 1;
    if value < mask {
        return Some(value);
    }
    for shift in [0, 7, 14] {
        let byte = usize::from(*block.get(*at)?);
        *at += 1;
        value += (byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

fn literal(block: &[u8], at: &mut usize) -> Option<Literal> {
    let begin = *at;
    let huffman = block.get(begin)? & 0x80 != 0;
    let length = integer(block, at, 7)?;
    let start = *at;
    let end = start.checked_add(length).filter(|end| *end <= block.len())?;
    *at = end;
    Some(Literal { whole: begin..end, value: start..end, huffman })
}

/// Code lengths of the symbols 0..=255 and of EOS (RFC 7541 Appendix B). The code is canonical: codes of one length count
/// up in the order of symbols, so that the lengths say everything.
const LENGTHS: [u8; 257] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28, 28, 28,
    28, 28, 28, 28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5, 5, 6, 6, 6, 6, 6,
    6, 6, 7, 8, 15, 6, 12, 10, 13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7,
    8, 13, 19, 13, 14, 6, 15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7,
    15, 11, 14, 13, 28, 20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24,
    23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, 22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23,
    23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23, 26, 26, 20, 19, 22, 23, 22, 25, 26,
    26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27, 20, 24, 20,
    21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27,
    27, 27, 26, 30,
];
const LONGEST: usize = 30;
const EOS: u16 = 256;

/// Per code length: the first code, and how many there are; and all symbols, ordered by length, then value.
struct Codebook {
    first: [u32; LONGEST + 1],
    count: [u32; LONGEST + 1],
    offset: [u32; LONGEST + 1],
    symbols: [u16; 257],
}

static CODEBOOK: Codebook = codebook();

#[expect(clippy::indexing_slicing, reason = "evaluated by the compiler, which checks every bound")]
const fn codebook() -> Codebook {
    let mut book = Codebook {
        first: [0; LONGEST + 1],
        count: [0; LONGEST + 1],
        offset: [0; LONGEST + 1],
        symbols: [0; 257],
    };
    let (mut length, mut code, mut filled) = (1, 0, 0);
    while length <= LONGEST {
        code <<= 1;
        book.first[length] = code;
        book.offset[length] = filled;
        let mut symbol = 0;
        while symbol < LENGTHS.len() {
            if LENGTHS[symbol] as usize == length {
                book.symbols[filled as usize] = symbol as u16;
                filled += 1;
                code += 1;
            }
            symbol += 1;
        }
        book.count[length] = filled - book.offset[length];
        length += 1;
    }
    book
}

/// Decodes a Huffman-coded string (§5.2): padding is the most significant bits of EOS, fewer than eight.
fn huffman(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(bytes.len().min(MAX_AUTHORITY) * 2);
    let (mut code, mut length) = (0u32, 0usize);
    for byte in bytes {
        for shift in (0..8).rev() {
            code = code << 1 | u32::from(byte >> shift & 1);
            length += 1;
            let within = code.wrapping_sub(*CODEBOOK.first.get(length)?);
            if within < *CODEBOOK.count.get(length)? {
                let symbol = *CODEBOOK.symbols.get((CODEBOOK.offset.get(length)? + within) as usize)?;
                if symbol == EOS || out.len() == MAX_AUTHORITY {
                    return None;
                }
                out.push(symbol as u8); // below 256, since it is not EOS
                (code, length) = (0, 0);
            }
        }
    }
    (length < 8 && code == (1 << length) - 1).then_some(out)
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// An encoder written the other way round: from the table of codes, not from canonical order.
    pub(in super::super) fn huffman_encode(text: &[u8]) -> Vec<u8> {
        let (mut bits, mut count, mut out) = (0u64, 0u32, Vec::new());
        for byte in text {
            let length = u32::from(LENGTHS[usize::from(*byte)]);
            let rank = LENGTHS[..usize::from(*byte)].iter().filter(|l| u32::from(**l) == length).count();
            let code = CODEBOOK.first[length as usize] as u64 + rank as u64;
            bits = bits << length | code;
            count += length;
            while count >= 8 {
                count -= 8;
                out.push((bits >> count) as u8);
                bits &= (1 << count) - 1;
            }
        }
        if count > 0 {
            out.push((bits << (8 - count)) as u8 | ((1u16 << (8 - count)) - 1) as u8);
        }
        out
    }

    #[test]
    fn decodes_the_examples_of_the_rfc() {
        // RFC 7541 C.4.1, C.4.2, C.4.3, C.6.1.
        let www = [0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab, 0x90, 0xf4, 0xff];
        assert_eq!(huffman(&www).unwrap(), b"www.example.com");
        assert_eq!(huffman(&[0xa8, 0xeb, 0x10, 0x64, 0x9c, 0xbf]).unwrap(), b"no-cache");
        let custom = [0x25, 0xa8, 0x49, 0xe9, 0x5b, 0xa9, 0x7d, 0x7f];
        assert_eq!(huffman(&custom).unwrap(), b"custom-key");
        assert_eq!(huffman(&[0xae, 0xc3, 0x77, 0x1a, 0x4b]).unwrap(), b"private");
    }

    #[test]
    fn the_last_code_is_eos() {
        assert_eq!(CODEBOOK.symbols[256], EOS);
        assert_eq!(CODEBOOK.first[30] + CODEBOOK.count[30] - 1, 0x3fff_ffff, "the code is complete");
    }

    #[test]
    fn knows_the_coded_name() {
        assert_eq!(huffman_encode(NAME), NAME_HUFFMAN);
    }

    #[test]
    fn refuses_eos_and_wrong_padding() {
        assert_eq!(huffman(&[0xff, 0xff, 0xff, 0xff]), None);
        assert_eq!(huffman(&[0xff]), None, "eight bits of padding are one too many");
        assert_eq!(huffman(&[0b0001_1000]), None, "`a` and zeros");
    }

    proptest! {
        #[test]
        fn huffman_round_trips(text in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert_eq!(huffman(&huffman_encode(&text)).unwrap(), text);
        }

        #[test]
        fn a_written_literal_reads_back(text in proptest::collection::vec(any::<u8>(), 0..MAX_AUTHORITY)) {
            let mut block = vec![0x41];
            put_plain(&mut block, &text);
            let found = authority(&block).unwrap();
            prop_assert_eq!(found.whole.clone(), 1..block.len());
            prop_assert_eq!(decoded(&block, &found).unwrap(), text);
        }

        #[test]
        fn no_block_is_a_panic(block in proptest::collection::vec(any::<u8>(), 0..300)) {
            if let Some(found) = authority(&block) {
                let _ = decoded(&block, &found);
            }
        }
    }
}
