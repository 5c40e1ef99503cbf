//! Names of keys and aliases: segments, like paths, so that policies can speak of `orders/**`.

use bonafide_kms::key::{MAX_NAME, is_name};

use crate::refusal::Refusal;

/// Longest name, in bytes.
pub(crate) const MAX: usize = MAX_NAME;

/// Checks a name.
///
/// # Errors
/// `kms.key-name`.
pub(crate) fn check(name: &str) -> Result<(), Refusal> {
    if is_name(name) {
        return Ok(());
    }
    Err(Refusal::invalid(
        "kms.key-name",
        "the name of a key has segments of letters, digits, `.`, `_` and `-`, separated by `/`, and at most 128 bytes",
    )
    .hint("name it after what it protects, such as `orders/pii`; no segment begins with a dot or a dash"))
}

/// A name that was not found, for a message.
pub(crate) fn short(name: &str) -> String {
    name.chars().take(80).filter(|character| !character.is_control()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_paths_without_surprises() {
        for good in ["a", "orders/pii", "a/b/c/d/e/f/g/h", "x.y_z-0", "Pii"] {
            assert!(check(good).is_ok(), "{good}");
        }
        let long = "a".repeat(129);
        for bad in ["", "/", "a/", "/a", "a//b", "a/../b", ".", "a b", "-a", "a/-b", "ä", "a*", &long] {
            assert_eq!(check(bad).unwrap_err().code(), "kms.key-name", "{bad}");
        }
    }
}
