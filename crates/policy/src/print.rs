//! Documents as people write them.

use crate::{
    canonical::quote,
    form::{self, Form},
    model::{Document, Effect, Kind, Test},
    scenario::Scenario,
    words::Name,
    yaml::fields::other_type,
};

/// Widest line of fields in braces.
const WIDTH: usize = 110;

/// One document as YAML, without `---`. Comments are lost.
pub fn document(document: &Document) -> String {
    let mut out = String::new();
    for (name, value) in form::document(document) {
        block(&mut out, &name, &value, 0);
    }
    out
}

/// Several documents.
pub fn documents<'a>(documents: impl IntoIterator<Item = &'a Document>) -> String {
    documents.into_iter().map(document).collect::<Vec<_>>().join("---\n")
}

/// A request as an item of `tests`, on one line: what must come out, and by which rule of the policy.
pub fn example(scenario: &Scenario, kind: Kind, expect: Effect, by: Option<&Name>) -> String {
    let test = Test { scenario: scenario.clone(), expect, by: by.cloned() };
    flow(&form::test(&test, kind))
}

/// `name: value`, on as few lines as are good to read.
fn block(out: &mut String, name: &str, value: &Form, indent: usize) {
    let spaces = " ".repeat(indent);
    let name = plain_or_quoted(name);
    let line = format!("{spaces}{name}: {}", flow(value));
    match value {
        Form::Text(text) if name == "rego" && literal(text).is_some() => {
            out.push_str(&format!("{spaces}{name}: |\n"));
            for line in text.lines() {
                let line = if line.is_empty() { String::new() } else { format!("{spaces}  {line}") };
                out.push_str(&line);
                out.push('\n');
            }
        }
        // Rules and tests: one below the other.
        Form::List(items) => {
            out.push_str(&format!("{spaces}{name}:\n"));
            for item in items {
                let short = format!("{spaces}- {}", flow(item));
                match item {
                    Form::Map(fields) if name == "rules" || short.chars().count() > WIDTH => {
                        for (index, (name, value)) in fields.iter().enumerate() {
                            let start = out.len();
                            block(out, name, value, indent + 2);
                            if index == 0 {
                                out.replace_range(start + indent..start + indent + 1, "-");
                            }
                        }
                    }
                    _ => {
                        out.push_str(&short);
                        out.push('\n');
                    }
                }
            }
        }
        Form::Map(fields) if matches!(&*name, "allow" | "deny") || line.chars().count() > WIDTH => {
            out.push_str(&format!("{spaces}{name}:\n"));
            for (name, value) in fields {
                block(out, name, value, indent + 2);
            }
        }
        _ => {
            out.push_str(&line);
            out.push('\n');
        }
    }
}

/// On one line.
fn flow(form: &Form) -> String {
    match form {
        Form::Number(number) => number.to_string(),
        Form::Text(text) => plain_or_quoted(text),
        Form::Set(items) => match items.as_slice() {
            // These would mean something else alone.
            [Form::Text(text)] if !matches!(text.as_str(), "exists" | "absent" | "*") => {
                plain_or_quoted(text)
            }
            [one @ Form::Map(_)] => flow(one),
            _ => flow_list(items),
        },
        Form::List(items) => flow_list(items),
        Form::Map(fields) => {
            let fields: Vec<String> = fields
                .iter()
                .map(|(name, value)| format!("{}: {}", plain_or_quoted(name), flow(value)))
                .collect();
            format!("{{{}}}", fields.join(", "))
        }
    }
}

fn flow_list(items: &[Form]) -> String {
    format!("[{}]", items.iter().map(flow).collect::<Vec<_>>().join(", "))
}

fn plain_or_quoted(text: &str) -> String {
    let plain =
        |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'/' | b'.' | b'_' | b'-' | b':' | b'*');
    let begins = text.starts_with(|first: char| first.is_ascii_alphanumeric() || first == '/');
    if begins && text.bytes().all(plain) && !text.ends_with(':') && other_type(text).is_none() {
        return text.to_owned();
    }
    let mut out = String::new();
    quote(&mut out, text);
    out
}

/// Whether a text can stand as it is below a `|`.
fn literal(text: &str) -> Option<()> {
    let body = text.strip_suffix('\n')?;
    let visible = |letter: char| letter == '\n' || !letter.is_control() && !crate::text::is_deceptive(letter);
    let fits = !body.is_empty()
        && body.chars().all(visible)
        && !body.starts_with([' ', '\n'])
        && !body.ends_with('\n')
        && !body.contains(['\u{fffe}', '\u{ffff}']);
    fits.then_some(())
}
