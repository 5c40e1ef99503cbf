//! Rules of the plainest clauses, in one piece of memory: to look a rule up in ten places costs more than to compare it.
//!
//! What they mean is said in [`crate::asked`]; tests hold this against it.

use crate::{
    asked::Asked,
    glob::Segment,
    model::{Requirement, Rule, Target, When, Who},
};

/// The plain rules of a snapshot.
#[derive(Debug, Default)]
pub(super) struct PlainRules {
    /// By number; `None` for rules that say more.
    rules: Vec<Option<Plain>>,
    /// Of each: the ID, the path, actions with their length, keys and values of labels with theirs.
    texts: Vec<u8>,
}

/// Where the texts of a rule stand, and what they are compared with.
#[derive(Clone, Copy, Debug)]
struct Plain {
    start: u32,
    id: Text,
    path: Text,
    actions: u8,
    labels: u8,
}

/// A text of a rule.
#[derive(Clone, Copy, Debug, Default)]
struct Text {
    length: u16,
    compare: Compare,
}

/// How a text is compared.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
enum Compare {
    /// Not at all.
    #[default]
    Nothing,
    /// It is this.
    Exactly,
    /// It is more segments than this.
    Below,
    /// It is this, or more segments.
    From,
}

impl PlainRules {
    /// Adds the next rule.
    pub(super) fn push(&mut self, rule: &Rule) {
        let start = self.texts.len();
        let plain = self.write(rule, start);
        if plain.is_none() {
            self.texts.truncate(start);
        }
        self.rules.push(plain);
    }

    /// Whether a rule is met; `None` if it has to be asked itself.
    #[inline]
    pub(super) fn is_met(&self, number: u32, asked: &Asked<'_>) -> Option<bool> {
        let plain = (*self.rules.get(number as usize)?)?;
        let mut texts = Texts(self.texts.get(plain.start as usize..)?);
        let caller = asked.request.who;
        if !plain.id.is_met(texts.take(plain.id.length.into())?, Some(caller.id().as_str())) {
            return Some(false);
        }
        if !plain.path.is_met(texts.take(plain.path.length.into())?, asked.path) {
            return Some(false);
        }
        let mut can = plain.actions == 0;
        for _ in 0..plain.actions {
            can |= texts.short()? == asked.request.can.as_bytes();
        }
        if !can {
            return Some(false);
        }
        for _ in 0..plain.labels {
            let (key, value) = (texts.short()?, texts.long()?);
            let mut labels = caller.labels().iter();
            if !labels.any(|(own, its)| own.as_bytes() == key && its == value) {
                return Some(false);
            }
        }
        Some(true)
    }

    fn write(&mut self, rule: &Rule, start: usize) -> Option<Plain> {
        let Rule { name: _, effect: _, who, can, on, when, except } = rule;
        let Who { ids, trust_domains, labels, props } = who;
        let Target { paths, hosts, keys, services, props: on_props } = on;
        let is_plain = trust_domains.is_empty()
            && props.is_empty()
            && hosts.is_empty()
            && keys.is_empty()
            && services.is_empty()
            && on_props.is_empty()
            && *when == When::default()
            && except.is_empty();
        if !is_plain || ids.len() > 1 || paths.len() > 1 {
            return None;
        }
        let mut id = Text::default();
        if let Some(pattern) = ids.first() {
            let text = pattern.to_string();
            let literal = if pattern.is_open() { text.strip_suffix("/**")? } else { &text };
            let compare = if pattern.is_open() { Compare::Below } else { Compare::Exactly };
            if literal.contains('*') {
                return None;
            }
            id = self.text(literal, compare)?;
        }
        let mut path = Text::default();
        if let Some(pattern) = paths.first() {
            let glob = pattern.glob();
            let mut literal = String::new();
            for segment in glob.segments() {
                let Segment::Is(text) = segment else { return None };
                literal.push('/');
                literal.push_str(text);
            }
            let compare = if glob.is_open() { Compare::From } else { Compare::Exactly };
            if literal.is_empty() && !glob.is_open() {
                literal.push('/');
            }
            path = self.text(&literal, compare)?;
        }
        for action in can {
            self.texts.push(u8::try_from(action.as_str().len()).ok()?);
            self.texts.extend_from_slice(action.as_str().as_bytes());
        }
        for (key, requirement) in labels.iter() {
            let Requirement::In(values) = requirement else { return None };
            let [value] = &**values else { return None };
            self.texts.push(u8::try_from(key.as_str().len()).ok()?);
            self.texts.extend_from_slice(key.as_str().as_bytes());
            self.texts.extend_from_slice(&u16::try_from(value.as_str().len()).ok()?.to_le_bytes());
            self.texts.extend_from_slice(value.as_str().as_bytes());
        }
        Some(Plain {
            start: u32::try_from(start).ok()?,
            id,
            path,
            actions: u8::try_from(can.len()).ok()?,
            labels: u8::try_from(labels.len()).ok()?,
        })
    }

    fn text(&mut self, text: &str, compare: Compare) -> Option<Text> {
        self.texts.extend_from_slice(text.as_bytes());
        Some(Text { length: u16::try_from(text.len()).ok()?, compare })
    }
}

impl Text {
    #[inline]
    fn is_met(self, own: &[u8], given: Option<&str>) -> bool {
        if self.compare == Compare::Nothing {
            return true;
        }
        let Some(rest) = given.and_then(|given| given.as_bytes().strip_prefix(own)) else { return false };
        match (self.compare, rest.first()) {
            (Compare::Nothing, _) => true,
            (Compare::Exactly | Compare::From, None) => true,
            (Compare::Exactly, Some(_)) | (Compare::Below, None) => false,
            (Compare::Below | Compare::From, Some(next)) => *next == b'/',
        }
    }
}

/// Texts, one after the other.
struct Texts<'a>(&'a [u8]);

impl<'a> Texts<'a> {
    #[inline]
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (text, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(text)
    }

    #[inline]
    fn short(&mut self) -> Option<&'a [u8]> {
        let [length] = *self.take(1)?.first_chunk()?;
        self.take(length.into())
    }

    #[inline]
    fn long(&mut self) -> Option<&'a [u8]> {
        let length = u16::from_le_bytes(*self.take(2)?.first_chunk()?);
        self.take(length.into())
    }
}
