//! What is decided: who wants to do what to which thing, in which circumstances.
//!
//! Two kinds of facts never mix. [`CertifiedLabels`] were certified by our authority and are read from a verified
//! certificate. [`AssertedProps`] are what the guarded program says; nobody vouches for them.

use std::net::IpAddr;

use bonafide_identity::{
    SpiffeId, UnixTime,
    attributes::{Attributes, Kind},
};

use crate::words;

/// Most labels, or properties, of one thing.
pub const MAX_FACTS: usize = 64;

/// Why facts are no facts.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum FactsFault {
    /// More than 64.
    #[error("there are more than 64 labels or properties")]
    TooMany,
    /// A key that is empty, too long or not printable ASCII.
    #[error("the key of a label or property is not 1 to 128 printable ASCII characters")]
    Key,
    /// A value of more than 1024 bytes.
    #[error("the value of a label or property is longer than 1024 bytes")]
    Value,
    /// Two values of one key.
    #[error("a label or property has two values")]
    Twice,
}

impl FactsFault {
    /// A stable name of this error for programs.
    pub fn code(self) -> &'static str {
        match self {
            Self::TooMany => "policy.facts-too-many",
            Self::Key => "policy.facts-key",
            Self::Value => "policy.facts-value",
            Self::Twice => "policy.facts-twice",
        }
    }

    /// What a person can do about it.
    pub fn hint(self) -> &'static str {
        match self {
            Self::TooMany => "give only those that policies look at",
            Self::Key => "use keys of 1 to 128 printable ASCII characters without space",
            Self::Value => "use values of at most 1024 bytes",
            Self::Twice => "give each key one value",
        }
    }
}

/// Labels that our authority certified of a workload. One value per key, text or not.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct CertifiedLabels(Vec<(Box<str>, Box<[u8]>)>);

/// Properties that the guarded program asserts. One value per key.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct AssertedProps(Vec<(Box<str>, Box<str>)>);

/// A workload that proved who it is. Made once per connection.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Caller {
    id: SpiffeId,
    labels: CertifiedLabels,
}

/// One question. Times and the network come from the guarded program, which is not asked to lie to itself.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// Who asks.
    pub who: &'a Caller,
    /// What the guarded program says of the caller.
    pub who_props: &'a AssertedProps,
    /// What it wants to do, as the guarded program calls it.
    pub can: &'a str,
    /// To what.
    pub on: Thing<'a>,
    /// In which circumstances.
    pub when: Circumstances<'a>,
    /// Now.
    pub now: UnixTime,
    /// When it was last known that these policies are the current ones.
    pub current_at: UnixTime,
}

/// What is done something to. What a field does not have is `None`; texts are as they came, and normalised here.
#[derive(Clone, Copy, Debug)]
pub struct Thing<'a> {
    /// The path of a call, with or without its query.
    pub path: Option<&'a str>,
    /// The host of a call, with or without a port.
    pub host: Option<&'a str>,
    /// The name of a key.
    pub key: Option<&'a str>,
    /// The name of a service.
    pub service: Option<&'a str>,
    /// What the guarded program says of the thing.
    pub props: &'a AssertedProps,
}

/// Circumstances of a request.
#[derive(Clone, Copy, Debug)]
pub struct Circumstances<'a> {
    /// The context that is bound to a ciphertext.
    pub aad: &'a AssertedProps,
    /// The algorithm that is asked for.
    pub algorithm: Option<&'a str>,
    /// The address that the request came from.
    pub source: Option<IpAddr>,
    /// What else the guarded program says.
    pub props: &'a AssertedProps,
}

static NO_PROPS: AssertedProps = AssertedProps(Vec::new());

impl CertifiedLabels {
    /// No labels.
    pub const fn none() -> Self {
        Self(Vec::new())
    }

    /// Takes labels in any order.
    ///
    /// # Errors
    /// [`FactsFault`]
    pub fn new<K: AsRef<str>, V: AsRef<[u8]>>(
        labels: impl IntoIterator<Item = (K, V)>,
    ) -> Result<Self, FactsFault> {
        collect(labels.into_iter().map(|(key, value)| {
            if value.as_ref().len() > words::MAX_VALUE {
                return Err(FactsFault::Value);
            }
            Ok((key.as_ref().into(), value.as_ref().into()))
        }))
        .map(Self)
    }

    /// The labels of a certificate, which must have been verified.
    ///
    /// # Errors
    /// None for what was read from a certificate: its attributes are in these bounds.
    pub fn of(verified: &Attributes) -> Result<Self, FactsFault> {
        let labels = verified.attributes.iter().filter(|attribute| attribute.kind == Kind::Label);
        Self::new(labels.map(|label| (&label.key, &label.value)))
    }

    /// The value of a label.
    pub fn get(&self, key: &str) -> Option<&[u8]> {
        self.0.iter().find(|(own, _)| **own == *key).map(|(_, value)| &**value)
    }

    /// All of them, by key.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.0.iter().map(|(key, value)| (&**key, &**value))
    }
}

impl AssertedProps {
    /// No properties.
    pub const fn none() -> &'static Self {
        &NO_PROPS
    }

    /// Takes properties in any order.
    ///
    /// # Errors
    /// [`FactsFault`]
    pub fn new<K: AsRef<str>, V: AsRef<str>>(
        props: impl IntoIterator<Item = (K, V)>,
    ) -> Result<Self, FactsFault> {
        collect(props.into_iter().map(|(key, value)| {
            if value.as_ref().len() > words::MAX_VALUE {
                return Err(FactsFault::Value);
            }
            Ok((key.as_ref().into(), value.as_ref().into()))
        }))
        .map(Self)
    }

    /// The value of a property.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(own, _)| **own == *key).map(|(_, value)| &**value)
    }

    /// All of them, by key.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (&**key, &**value))
    }
}

/// Sorted, bounded and without repetitions.
fn collect<V>(
    facts: impl Iterator<Item = Result<(Box<str>, V), FactsFault>>,
) -> Result<Vec<(Box<str>, V)>, FactsFault> {
    let mut all: Vec<(Box<str>, V)> = Vec::new();
    for fact in facts {
        let fact = fact?;
        if !words::is_key(&fact.0) {
            return Err(FactsFault::Key);
        }
        if all.len() >= MAX_FACTS {
            return Err(FactsFault::TooMany);
        }
        all.push(fact);
    }
    all.sort_by(|one, other| one.0.cmp(&other.0));
    if all.iter().zip(all.iter().skip(1)).any(|(one, other)| one.0 == other.0) {
        return Err(FactsFault::Twice);
    }
    Ok(all)
}

impl Caller {
    /// A caller. Both must come from one certificate that was verified.
    pub fn new(id: SpiffeId, labels: CertifiedLabels) -> Self {
        Self { id, labels }
    }

    /// Its SPIFFE ID.
    pub fn id(&self) -> &SpiffeId {
        &self.id
    }

    /// What was certified of it.
    pub fn labels(&self) -> &CertifiedLabels {
        &self.labels
    }
}

impl<'a> Request<'a> {
    /// A question about a path, such as a call over HTTP or gRPC. `now`, and the policies are current.
    pub fn path(who: &'a Caller, can: &'a str, path: &'a str, now: UnixTime) -> Self {
        let thing = Thing { path: Some(path), ..Thing::nothing() };
        Self { on: thing, ..Self::new(who, can, now) }
    }

    /// A question about a key.
    pub fn key(who: &'a Caller, can: &'a str, key: &'a str, now: UnixTime) -> Self {
        let thing = Thing { key: Some(key), ..Thing::nothing() };
        Self { on: thing, ..Self::new(who, can, now) }
    }

    /// A question about an action alone. `now`, and the policies are current.
    pub fn new(who: &'a Caller, can: &'a str, now: UnixTime) -> Self {
        Self {
            who,
            who_props: AssertedProps::none(),
            can,
            on: Thing::nothing(),
            when: Circumstances::none(),
            now,
            current_at: now,
        }
    }
}

impl<'a> Thing<'a> {
    /// A path, as of a call over HTTP or gRPC.
    pub const fn path(path: &'a str) -> Self {
        Self { path: Some(path), ..Self::nothing() }
    }

    /// A key, by its name.
    pub const fn key(key: &'a str) -> Self {
        Self { key: Some(key), ..Self::nothing() }
    }

    /// A service, by its name.
    pub const fn service(service: &'a str) -> Self {
        Self { service: Some(service), ..Self::nothing() }
    }

    /// Nothing.
    pub const fn nothing() -> Self {
        Self { path: None, host: None, key: None, service: None, props: AssertedProps::none() }
    }
}

impl Circumstances<'_> {
    /// None that are known.
    pub const fn none() -> Self {
        Self { aad: AssertedProps::none(), algorithm: None, source: None, props: AssertedProps::none() }
    }
}
