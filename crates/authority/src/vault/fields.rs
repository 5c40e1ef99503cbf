//! What a request says: fields of JSON, in which the command line writes numbers and flags as text.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use bonafide_crypto::erased::Erased;
use bytes::Bytes;
use serde_json::{Map, Value};

use crate::refusal::Refusal;

/// Items of a batch.
const MAX_BATCH: usize = 4096;

/// Fields by name. Unknown ones are passed over: Vault does so.
#[derive(Clone, Debug, Default)]
pub(super) struct Fields(Map<String, Value>);

impl Fields {
    /// Of a body, which may be empty.
    ///
    /// # Errors
    /// What is no object.
    pub(super) fn read(body: &[u8]) -> Result<Self, Refusal> {
        if body.is_empty() {
            return Ok(Self::default());
        }
        match serde_json::from_slice(body) {
            Ok(Value::Object(fields)) => Ok(Self(fields)),
            Ok(Value::Null) => Ok(Self::default()),
            _ => Err(Refusal::invalid("vault.body", "error parsing JSON").hint("send an object")),
        }
    }

    /// The items of `batch_input`, if there is such a field.
    ///
    /// # Errors
    /// Something else than objects, or none of them.
    pub(super) fn batch(&mut self) -> Result<Option<Vec<Self>>, Refusal> {
        let items = match self.0.remove("batch_input") {
            None | Some(Value::Null) => return Ok(None),
            Some(Value::Array(items)) => items,
            Some(_) => {
                return Err(Refusal::invalid("vault.batch", "failed to parse batch input: it is no array"));
            }
        };
        if items.len() > MAX_BATCH {
            return Err(Refusal::invalid("vault.batch", format!("a batch has at most {MAX_BATCH} items"))
                .hint("send several of them"));
        }
        if items.is_empty() {
            return Err(Refusal::invalid("vault.batch", "missing batch input to process"));
        }
        let items = items.into_iter().map(|item| match item {
            Value::Object(fields) => Ok(Self(fields)),
            _ => Err(Refusal::invalid("vault.batch", "failed to parse batch input: an item is no object")),
        });
        items.collect::<Result<_, _>>().map(Some)
    }

    /// Whether it is there.
    pub(super) fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// Text.
    ///
    /// # Errors
    /// Something else.
    pub(super) fn text(&self, name: &str) -> Result<Option<&str>, Refusal> {
        match self.0.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(wrong(name, "text")),
        }
    }

    /// A number, also as text.
    ///
    /// # Errors
    /// Something else, and what does not fit.
    pub(super) fn number(&self, name: &str) -> Result<Option<u32>, Refusal> {
        let number = match self.0.get(name) {
            None | Some(Value::Null) => return Ok(None),
            Some(Value::Number(number)) => number.as_u64().and_then(|number| number.try_into().ok()),
            Some(Value::String(text)) => text.parse().ok(),
            Some(_) => None,
        };
        number.map(Some).ok_or_else(|| wrong(name, "a number"))
    }

    /// Yes or no, also as text.
    ///
    /// # Errors
    /// Something else.
    pub(super) fn flag(&self, name: &str) -> Result<bool, Refusal> {
        match self.0.get(name) {
            None | Some(Value::Null) => Ok(false),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(Value::String(text)) if matches!(&**text, "true" | "1") => Ok(true),
            Some(Value::String(text)) if matches!(&**text, "false" | "0" | "") => Ok(false),
            Some(_) => Err(wrong(name, "`true` or `false`")),
        }
    }

    /// A length of time in seconds: a number, or text as `24h`.
    ///
    /// # Errors
    /// Something else.
    pub(super) fn seconds(&self, name: &str) -> Result<Option<u32>, Refusal> {
        let Some(Value::String(text)) = self.0.get(name) else { return self.number(name) };
        let (number, unit) =
            text.split_at(text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic()).len());
        let unit = match unit {
            "" | "s" => 1,
            "m" => 60,
            "h" => 3600,
            "d" => 86_400,
            _ => return Err(wrong(name, "a length of time such as `24h`")),
        };
        let seconds = number.parse::<u32>().ok().and_then(|number| number.checked_mul(unit));
        seconds.map(Some).ok_or_else(|| wrong(name, "a length of time such as `24h`"))
    }

    /// Bytes in base64, erased after use.
    ///
    /// # Errors
    /// What is not base64.
    pub(super) fn bytes(&self, name: &str) -> Result<Option<Bytes>, Refusal> {
        let Some(text) = self.text(name)? else { return Ok(None) };
        decode(text).map(|bytes| Some(Bytes::from_owner(Erased::new(bytes)))).map_err(|()| {
            Refusal::invalid("vault.base64", format!("illegal base64 data in `{name}`"))
                .hint("encode it with the standard alphabet and padding")
        })
    }

    /// The same in text that has one form only, to be bound to a ciphertext.
    ///
    /// # Errors
    /// What is not base64.
    pub(super) fn canonical(&self, name: &str) -> Result<Option<String>, Refusal> {
        Ok(self.bytes(name)?.filter(|bytes| !bytes.is_empty()).map(|bytes| STANDARD.encode(&bytes)))
    }
}

/// Padding may be missing.
pub(super) fn decode(text: &str) -> Result<Vec<u8>, ()> {
    STANDARD.decode(text).or_else(|_| STANDARD_NO_PAD.decode(text)).map_err(|_| ())
}

fn wrong(name: &str, expected: &str) -> Refusal {
    Refusal::invalid("vault.field", format!("field validation failed: `{name}` must be {expected}"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn fields(text: &str) -> Fields {
        Fields::read(text.as_bytes()).unwrap()
    }

    #[test]
    fn numbers_and_flags_may_be_text() {
        let read = fields(
            r#"{"a": 7, "b": "7", "c": "x", "d": -1, "t": "true", "f": false, "z": null, "h": "36h"}"#,
        );
        assert_eq!(
            (read.number("a"), read.number("b"), read.number("z")),
            (Ok(Some(7)), Ok(Some(7)), Ok(None))
        );
        assert!(read.number("c").is_err() && read.number("d").is_err() && read.number("t").is_err());
        assert_eq!((read.flag("t"), read.flag("f"), read.flag("none")), (Ok(true), Ok(false), Ok(false)));
        assert!(read.flag("c").is_err() && read.flag("a").is_err());
        assert_eq!((read.seconds("h"), read.seconds("a")), (Ok(Some(129_600)), Ok(Some(7))));
        assert!(read.seconds("c").is_err());
    }

    #[test]
    fn batches_are_lists_of_objects() {
        assert!(fields(r#"{"plaintext": "x"}"#).batch().unwrap().is_none());
        assert_eq!(fields(r#"{"batch_input": [{}, {}]}"#).batch().unwrap().unwrap().len(), 2);
        for wrong in [r#"{"batch_input": []}"#, r#"{"batch_input": "x"}"#, r#"{"batch_input": [1]}"#] {
            assert!(fields(wrong).batch().is_err(), "{wrong}");
        }
        assert!(Fields::read(b"[]").is_err() && Fields::read(b"{").is_err());
    }

    proptest! {
        /// What is bound to a ciphertext has one form, however it was written.
        #[test]
        fn base64_has_one_canonical_form(bytes in prop::collection::vec(any::<u8>(), 1..40)) {
            let (padded, bare) = (STANDARD.encode(&bytes), STANDARD_NO_PAD.encode(&bytes));
            for text in [&padded, &bare] {
                let read = fields(&serde_json::json!({ "context": text }).to_string());
                let canonical = read.canonical("context").unwrap().unwrap();
                prop_assert_eq!(&canonical, &padded);
                let read_bytes = read.bytes("context").unwrap().unwrap();
                prop_assert_eq!(&*read_bytes, bytes.as_slice());
            }
        }
    }
}
