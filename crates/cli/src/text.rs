//! Text for a terminal.

use std::fmt::Write as _;

pub use bonafide_policy::text::clean;
use bonafide_policy::text::is_deceptive;

/// Bytes as text if they are clean text, else in hex.
pub fn clean_bytes(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.chars().any(|letter| letter.is_control() || is_deceptive(letter)) => {
            text.to_owned()
        }
        _ => format!("0x{}", hex(bytes)),
    }
}

/// Lower-case hex.
pub fn hex(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len().saturating_mul(2));
    for byte in bytes {
        let _ = write!(out, "{byte:02x}");
    }
    out
}

/// `1 entry`, `2 entries`.
pub fn count(number: u64, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_that_are_no_clean_text_are_hex() {
        assert_eq!(clean_bytes(b"web"), "web");
        assert_eq!(clean_bytes(&[0, 0xff]), "0x00ff");
    }
}
