//! PEM (RFC 7468) in and out, and concatenated DER as the SPIFFE Workload API carries it.

use der::pem::LineEnding;

/// No file of certificates that people pipe around is larger.
pub const MAX_INPUT: usize = 4 << 20;
const MAX_BLOCKS: usize = 10_000;

/// One block.
#[derive(Clone, PartialEq, Eq)]
pub struct Block {
    /// `CERTIFICATE`, `PRIVATE KEY`, ...
    pub label: String,
    /// DER.
    pub der: Vec<u8>,
}

impl std::fmt::Debug for Block {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Block").field("label", &self.label).finish_non_exhaustive()
    }
}

/// Why PEM or DER could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadPem {
    /// A block is broken.
    #[error("PEM block {0} is broken: {1}")]
    Block(usize, String),
    /// The DER values do not follow one another.
    #[error("DER value {0} is cut off or is no SEQUENCE")]
    Der(usize),
    /// More than anybody needs.
    #[error("more than {MAX_BLOCKS} values")]
    TooMany,
}

/// One PEM block.
pub fn encode(label: &str, der: &[u8]) -> String {
    // INVARIANT: fails only for a label that is no label; ours are constants.
    der::pem::encode_string(label, LineEnding::LF, der).unwrap_or_default()
}

/// All certificates as PEM.
pub fn encode_certificates<'a>(certificates: impl IntoIterator<Item = &'a [u8]>) -> String {
    certificates.into_iter().map(|der| encode("CERTIFICATE", der)).collect()
}

/// All blocks of a text; what stands between them is ignored.
///
/// # Errors
/// The first block that is broken.
pub fn decode(text: &str) -> Result<Vec<Block>, BadPem> {
    let mut blocks = Vec::new();
    let mut rest = text;
    while let Some((_, from_label)) = rest.split_once("-----BEGIN ") {
        if blocks.len() >= MAX_BLOCKS {
            return Err(BadPem::TooMany);
        }
        let number = blocks.len() + 1;
        let broken = |why: &str| BadPem::Block(number, why.to_owned());
        let (label, _) = from_label.split_once("-----").ok_or_else(|| broken("no label"))?;
        let end = format!("-----END {label}-----");
        let (body, after) = from_label.split_once(end.as_str()).ok_or_else(|| broken("no end"))?;
        let whole = format!("-----BEGIN {body}{end}\n");
        let (label, der) =
            der::pem::decode_vec(whole.as_bytes()).map_err(|cause| broken(&cause.to_string()))?;
        blocks.push(Block { label: label.to_owned(), der });
        rest = after;
    }
    Ok(blocks)
}

/// Splits concatenated DER SEQUENCEs, by their outer lengths alone.
///
/// # Errors
/// When a value is cut off, is no SEQUENCE, or has a length of more than four bytes.
pub fn split_der(mut der: &[u8]) -> Result<Vec<&[u8]>, BadPem> {
    let mut values = Vec::new();
    while !der.is_empty() {
        if values.len() >= MAX_BLOCKS {
            return Err(BadPem::TooMany);
        }
        let split = sequence_length(der).and_then(|length| der.split_at_checked(length));
        let (value, rest) = split.ok_or(BadPem::Der(values.len() + 1))?;
        values.push(value);
        der = rest;
    }
    Ok(values)
}

/// Length of the SEQUENCE at the start, header included.
fn sequence_length(der: &[u8]) -> Option<usize> {
    let (&[tag, first], rest) = der.split_first_chunk::<2>()?;
    if tag != 0x30 {
        return None;
    }
    if first < 0x80 {
        return Some(usize::from(first) + 2);
    }
    let count = usize::from(first & 0x7f);
    if !(1..=4).contains(&count) {
        return None;
    }
    let length = rest.get(..count)?.iter().fold(0_usize, |length, byte| length << 8 | usize::from(*byte));
    length.checked_add(2 + count)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn several_blocks_with_prose_between() {
        let text = format!("hello\n{}prose\n{}", encode("CERTIFICATE", b"one"), encode("PUBLIC KEY", b"two"));
        let blocks = decode(&text).unwrap();
        assert_eq!(blocks.len(), 2);
        assert_eq!((blocks[0].label.as_str(), blocks[0].der.as_slice()), ("CERTIFICATE", b"one".as_slice()));
        assert_eq!((blocks[1].label.as_str(), blocks[1].der.as_slice()), ("PUBLIC KEY", b"two".as_slice()));
    }

    #[test]
    fn broken_blocks_are_named() {
        assert_eq!(decode("-----BEGIN X-----\nAAAA\n"), Err(BadPem::Block(1, "no end".into())));
        assert!(matches!(decode("-----BEGIN X-----\n!!\n-----END X-----\n"), Err(BadPem::Block(1, _))));
    }

    #[test]
    fn der_is_split_by_its_lengths() {
        let long = [vec![0x30, 0x81, 0x80], vec![7; 0x80]].concat();
        let both = [vec![0x30, 1, 9], long.clone()].concat();
        assert_eq!(split_der(&both).unwrap(), [&[0x30, 1, 9], long.as_slice()]);
        assert_eq!(split_der(&[0x30, 2, 9]), Err(BadPem::Der(1)));
        assert_eq!(split_der(&[0x30, 0x84, 0xff, 0xff, 0xff, 0xff]), Err(BadPem::Der(1)));
    }

    proptest! {
        #[test]
        fn no_input_makes_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), text in "\\PC{0,200}") {
            let _ = split_der(&bytes);
            let _ = decode(&format!("-----BEGIN A-----{text}-----END A-----"));
        }

        #[test]
        fn what_was_encoded_is_decoded(bytes in proptest::collection::vec(any::<u8>(), 1..300)) {
            let blocks = decode(&encode("CERTIFICATE", &bytes)).unwrap();
            prop_assert_eq!(&blocks[0].der, &bytes);
        }
    }
}
