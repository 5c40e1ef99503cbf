//! One value or a list of them.

use crate::{
    words::Unfit,
    yaml::{
        fault::Fault,
        fields::{Text, nearest, quoted, short, text, wrong_type},
        tree::{Node, Value},
    },
};

/// Items of a list.
pub(super) const MAX_LIST: usize = 256;

/// One text, and what it means.
pub(super) fn one<T>(
    node: &Node,
    name: &str,
    faults: &mut Vec<Fault>,
    parse: impl Fn(&str) -> Result<T, Unfit>,
) -> Option<T> {
    parsed(text(node, name, faults)?, faults, &parse)
}

/// `value` or `[value, value]`; a list must have items.
pub(super) fn many<T: Ord, C: FromIterator<T>>(
    node: Option<&Node>,
    name: &str,
    faults: &mut Vec<Fault>,
    parse: impl Fn(&str) -> Result<T, Unfit>,
) -> C {
    let Some(node) = node else { return C::from_iter(None) };
    let items = match &node.value {
        Value::List(items) => items.as_slice(),
        _ => std::slice::from_ref(node),
    };
    if items.is_empty() {
        let help = "write what is meant, or leave the field out: then it asks nothing";
        faults.push(Fault::new("policy.empty-list", node.spot, format!("`{}` is empty", short(name)), help));
    }
    if items.len() > MAX_LIST {
        let message = format!("`{}` has {} items, more than {MAX_LIST}", short(name), items.len());
        let help = "use a pattern or a label in place of many names, or several rules";
        faults.push(Fault::new("policy.long-list", node.spot, message, help));
        return C::from_iter(None);
    }
    let items: Vec<T> =
        items.iter().filter_map(|item| parsed(text(item, name, faults)?, faults, &parse)).collect();
    C::from_iter(items)
}

fn parsed<T>(
    text: Text<'_>,
    faults: &mut Vec<Fault>,
    parse: &impl Fn(&str) -> Result<T, Unfit>,
) -> Option<T> {
    match parse(text.text) {
        Ok(value) => Some(value),
        Err(unfit) => {
            let message = format!("`{}`: {unfit}", short(text.text));
            faults.push(Fault::new(unfit.code(), text.spot, message, unfit.hint()));
            None
        }
    }
}

/// One of a few words.
pub(super) fn word<T: Copy>(
    node: Option<&Node>,
    name: &str,
    words: &[(&str, T)],
    faults: &mut Vec<Fault>,
) -> Option<T> {
    let found = text(node?, name, faults)?;
    if let Some((_, value)) = words.iter().find(|(word, _)| *word == found.text) {
        return Some(*value);
    }
    let known: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
    let help = match nearest(found.text, &known) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("write one of {}", quoted(&known)),
    };
    let message = format!("`{}` is no {name}", short(found.text));
    faults.push(Fault::new("policy.unknown-word", found.spot, message, help));
    None
}

/// A mapping with at most as many fields as a thing has labels.
pub(super) fn map<'a>(
    node: &'a Node,
    name: &str,
    faults: &mut Vec<Fault>,
) -> Option<&'a [(crate::yaml::tree::Key, Node)]> {
    let Value::Map(fields) = &node.value else {
        wrong_type(node, name, "`key: value` pairs", "write `{key: value}`, or one pair a line", faults);
        return None;
    };
    let most = crate::request::MAX_FACTS;
    if fields.len() > most {
        let message = format!("`{}` has {} fields, more than {most}", short(name), fields.len());
        faults.push(Fault::new("policy.long-list", node.spot, message, "use several rules"));
        return None;
    }
    if fields.is_empty() {
        let help = "write what is meant, or leave the field out: then it asks nothing";
        faults.push(Fault::new("policy.empty-list", node.spot, format!("`{}` is empty", short(name)), help));
    }
    Some(fields)
}
