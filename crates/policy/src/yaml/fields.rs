//! The fields of one mapping, each of the type that it must have.

use std::collections::BTreeMap;

use super::{
    fault::{Fault, Spot},
    tree::{Key, Node, Value},
};
use crate::duration;

/// Fields of a mapping whose names are all known.
#[derive(Clone, Copy, Debug)]
pub struct Fields<'a> {
    what: &'static str,
    spot: Spot,
    fields: &'a [(Key, Node)],
}

/// Text and where it stands.
#[derive(Clone, Copy, Debug)]
pub struct Text<'a> {
    /// As YAML reads it.
    pub text: &'a str,
    /// Where it stands.
    pub spot: Spot,
}

impl<'a> Fields<'a> {
    /// Tells of every field that is not among `known`. `habits` says what to write in place of names that people bring
    /// from elsewhere. `None` when it is no mapping, which is told as well.
    pub fn of(
        node: &'a Node,
        what: &'static str,
        known: &[&str],
        habits: &[(&str, &str)],
        faults: &mut Vec<Fault>,
    ) -> Option<Self> {
        let Value::Map(fields) = &node.value else {
            wrong_type(
                node,
                what,
                "fields, such as `name: value`",
                "one field a line, indented alike",
                faults,
            );
            return None;
        };
        for (key, _) in fields {
            if known.contains(&key.text.as_str()) {
                continue;
            }
            let habit = habits.iter().find(|(name, _)| same_letters(name, &key.text));
            let help = match (habit, nearest(&key.text, known)) {
                (_, Some(near)) if same_letters(near, &key.text) => format!("write `{near}`"),
                (Some((_, help)), _) => (*help).to_owned(),
                (None, Some(near)) => format!("did you mean `{near}`?"),
                (None, None) => format!("its fields are {}", quoted(known)),
            };
            faults.push(Fault::new(
                "resource.unknown-field",
                key.spot,
                format!("`{}` is no field of {what}", short(&key.text)),
                help,
            ));
        }
        Some(Self { what, spot: node.spot, fields })
    }

    /// Tells when the field is missing.
    pub fn required(&self, name: &str, example: &str, faults: &mut Vec<Fault>) -> Option<&'a Node> {
        let found = self.get(name);
        if found.is_none() {
            faults.push(Fault::new(
                "resource.missing-field",
                Spot { length: 1, ..self.spot },
                format!("{} has no `{name}`", self.what),
                format!("add `{name}: {example}`"),
            ));
        }
        found
    }

    /// What stands under a name.
    pub fn get(&self, name: &str) -> Option<&'a Node> {
        self.fields.iter().find(|(key, _)| key.text == name).map(|(_, node)| node)
    }

    /// Text under a name.
    pub fn text(&self, name: &str, faults: &mut Vec<Fault>) -> Option<Text<'a>> {
        text(self.get(name)?, name, faults)
    }

    /// A list of texts.
    pub fn texts(&self, name: &str, faults: &mut Vec<Fault>) -> Vec<Text<'a>> {
        let Some(node) = self.get(name) else { return Vec::new() };
        match &node.value {
            Value::List(items) => items.iter().filter_map(|item| text(item, name, faults)).collect(),
            Value::Text { .. } if is_nothing(node) => {
                wrong_type(node, name, "a list", "write one `- item` a line, or leave the field out", faults);
                Vec::new()
            }
            Value::Text { text, .. } => {
                wrong_type(node, name, "a list", &format!("write `[{}]`", short(text)), faults);
                Vec::new()
            }
            _ => {
                wrong_type(node, name, "a list", "write one `- item` a line", faults);
                Vec::new()
            }
        }
    }

    /// `key: value` pairs, both text.
    pub fn pairs(&self, name: &str, faults: &mut Vec<Fault>) -> BTreeMap<String, String> {
        let Some(node) = self.get(name) else { return BTreeMap::new() };
        let Value::Map(fields) = &node.value else {
            wrong_type(node, name, "`key: value` pairs", "write `{key: value}`, or one pair a line", faults);
            return BTreeMap::new();
        };
        fields
            .iter()
            .filter_map(|(key, node)| {
                text(node, &key.text, faults).map(|value| (key.text.clone(), value.text.to_owned()))
            })
            .collect()
    }

    /// Seconds of a duration such as `1h30m`; 0 without the field.
    pub fn duration(&self, name: &str, faults: &mut Vec<Fault>) -> u32 {
        let Some(node) = self.get(name) else { return 0 };
        let Value::Text { text, .. } = &node.value else {
            wrong_type(node, name, "a duration", "write it as `90s`, `5m`, `1h30m` or `2d`", faults);
            return 0;
        };
        duration::parse(text).unwrap_or_else(|_| {
            let help = match text.parse::<u64>() {
                Ok(seconds) if seconds > 0 => {
                    format!("write `{}` if these are seconds", duration::format(seconds))
                }
                _ => "write it as `90s`, `5m`, `1h30m` or `2d`".to_owned(),
            };
            wrong_type(node, name, "a duration", &help, faults);
            0
        })
    }

    /// A whole number from 1; 0 without the field.
    pub fn number(&self, name: &str, faults: &mut Vec<Fault>) -> u32 {
        let Some(node) = self.get(name) else { return 0 };
        let parsed = match &node.value {
            Value::Text { text, plain: true } if text.bytes().all(|byte| byte.is_ascii_digit()) => {
                text.parse::<u32>().ok().filter(|number| *number > 0)
            }
            _ => None,
        };
        parsed.unwrap_or_else(|| {
            let help = "write a whole number from 1, without quotes, or leave the field out";
            wrong_type(node, name, "a whole number", help, faults);
            0
        })
    }
}

/// Text that YAML takes for text too: every other program that reads the file must see the same.
pub fn text<'a>(node: &'a Node, name: &str, faults: &mut Vec<Fault>) -> Option<Text<'a>> {
    match &node.value {
        Value::Text { text, plain } => {
            if let Some(other) = plain.then(|| other_type(text)).flatten() {
                let help = if other == "nothing" {
                    "write a value, or leave the field out".to_owned()
                } else {
                    format!("put it in quotes: `\"{}\"`", short(text))
                };
                wrong_type(node, name, "text", &help, faults);
                return None;
            }
            Some(Text { text, spot: node.spot })
        }
        Value::Map(fields) => {
            // `- unix.uid: 1000` is what people write for `- unix.uid:1000`.
            let help = match fields.as_slice() {
                [(key, Node { value: Value::Text { text, .. }, .. })] => {
                    format!("write `{}:{}`, without a space", short(&key.text), short(text))
                }
                _ => "write text".to_owned(),
            };
            wrong_type(node, name, "text", &help, faults);
            None
        }
        _ => {
            wrong_type(node, name, "text", "write one value", faults);
            None
        }
    }
}

/// Tells that a value is of another type than it must be.
pub fn wrong_type(node: &Node, name: &str, expected: &str, help: &str, faults: &mut Vec<Fault>) {
    let found = match &node.value {
        Value::Broken => return,
        Value::List(_) => "a list".to_owned(),
        Value::Map(_) => "a mapping".to_owned(),
        Value::Text { text, plain: true } => match other_type(text) {
            Some("nothing") => "nothing".to_owned(),
            Some(other) => format!("{other} `{}`", short(text)),
            None => format!("the text `{}`", short(text)),
        },
        Value::Text { text, .. } => format!("the text `{}`", short(text)),
    };
    let name = if name.contains(' ') { name.to_owned() } else { format!("`{}`", short(name)) };
    let message = format!("{name} must be {expected}, and this is {found}");
    faults.push(Fault::new("resource.wrong-type", node.spot, message, help));
}

/// What a plain scalar is to YAML 1.2, or to the many programs that still read YAML 1.1.
pub(crate) fn other_type(text: &str) -> Option<&'static str> {
    let lower = text.to_ascii_lowercase();
    match lower.as_str() {
        "" | "~" | "null" => return Some("nothing"),
        "true" | "false" | "yes" | "no" | "on" | "off" => return Some("the boolean"),
        ".inf" | "+.inf" | "-.inf" | ".nan" => return Some("the number"),
        _ => (),
    }
    let digits = lower.trim_start_matches(['+', '-']);
    // Without a digit behind it, or in capitals, it is a word to every reader of YAML.
    let radix = digits.len() > 2
        && ["0x", "0o", "0b"].iter().any(|prefix| text.trim_start_matches(['+', '-']).starts_with(prefix));
    let number = digits.starts_with(|c: char| c.is_ascii_digit() || c == '.')
        && (lower.replace('_', "").parse::<f64>().is_ok()
            || radix && digits.bytes().skip(2).all(|byte| byte.is_ascii_hexdigit() || byte == b'_'));
    number.then_some("the number")
}

/// Whether YAML reads it as null, as it does where nothing is written.
pub fn is_nothing(node: &Node) -> bool {
    matches!(&node.value, Value::Text { text, plain: true } if other_type(text) == Some("nothing"))
}

/// The known name that was probably meant.
pub fn nearest<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    if let Some(same) = known.iter().find(|candidate| same_letters(candidate, name)) {
        return Some(same);
    }
    let lower = name.to_lowercase();
    known
        .iter()
        .map(|candidate| (distance(&lower, &candidate.to_lowercase()), *candidate))
        .filter(|(distance, candidate)| *distance <= 1 + candidate.len() / 5)
        .min()
        .map(|(_, candidate)| candidate)
}

/// `spiffe_id`, `SPIFFE-ID` and `spiffeId` are the same to people.
fn same_letters(one: &str, other: &str) -> bool {
    let letters = |text: &str| text.replace(['_', '-'], "").to_ascii_lowercase();
    letters(one) == letters(other)
}

/// Edits between two words (Levenshtein), neighbours that changed places counting once.
fn distance(one: &str, other: &str) -> usize {
    let (one, other): (Vec<char>, Vec<char>) = (one.chars().take(64).collect(), other.chars().collect());
    let at = |row: &[usize], index: usize| row.get(index).copied().unwrap_or(usize::MAX / 2);
    let mut before: Vec<usize> = Vec::new();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (i, letter) in one.iter().enumerate() {
        let mut next = vec![i + 1];
        for (j, wanted) in other.iter().enumerate() {
            let mut best =
                (at(&row, j) + usize::from(letter != wanted)).min(at(&row, j + 1) + 1).min(at(&next, j) + 1);
            let swapped =
                i > 0 && j > 0 && one.get(i - 1) == Some(wanted) && other.get(j - 1) == Some(letter);
            if swapped {
                best = best.min(at(&before, j - 1) + 1);
            }
            next.push(best);
        }
        before = std::mem::replace(&mut row, next);
    }
    at(&row, other.len())
}

/// Names in backticks, with commas.
pub fn quoted(names: &[&str]) -> String {
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

/// A bounded quote.
pub fn short(text: &str) -> String {
    if text.chars().count() > 60 {
        format!("{}…", text.chars().take(60).collect::<String>())
    } else {
        text.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_probably_meant() {
        let known = ["site", "spiffeId", "selectors", "x509Ttl", "jwtTtl"];
        for (typed, meant) in [
            ("spifeId", Some("spiffeId")),
            ("spiffe_id", Some("spiffeId")),
            ("SpiffeID", Some("spiffeId")),
            ("selector", Some("selectors")),
            ("stie", Some("site")),
            ("x509TTL", Some("x509Ttl")),
            ("colour", None),
        ] {
            assert_eq!(nearest(typed, &known), meant, "{typed}");
        }
    }

    #[test]
    fn what_other_programs_do_not_read_as_text() {
        for text in [
            "", "~", "null", "true", "No", "on", "1", "-1", "1.10", "1e3", "0x1f", "0o7", ".5", "1_000",
            ".inf",
        ] {
            assert!(other_type(text).is_some(), "{text}");
        }
        for text in ["web", "1h", "2a", "unix.uid:1000", "-", "1.2.3", "0xyz", "e3", "inf"] {
            assert_eq!(other_type(text), None, "{text}");
        }
    }
}
