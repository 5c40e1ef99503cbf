//! Who may open a sealed secret: a `SecretPolicy`, as the very bytes that a secret is sealed to.
//!
//! Owners write YAML, and [`SecretPolicy::of`] makes the [canonical bytes](crate::canonical) of it, once, when a secret is sealed.
//! Keyholders read those with [`SecretPolicy::parse`], which takes nothing else: it refuses every text of which the canonical form
//! is another one, and with it repeated and unknown fields, comments, white space and other versions of the language. So a text
//! has one meaning, and a meaning has one text; a reader of YAML is not needed where shares of keys are.
//!
//! It is a closed part of the language: rules over IDs and certified labels, and selectors for a [witness](Evidence). There is no
//! clock, no reference to anything outside of it, and nothing that nobody signed.

use std::{fmt, sync::Arc};

use crate::{
    canonical::Digest,
    explain::{any_of, needed},
    model::{Document, Effect, Evidence, Kind, Policy, Rule, SelectorRequirements, Who},
    read::{self, Exact},
    request::{Caller, FactsFault},
    text::clean,
    words,
    yaml::fields::short,
};

/// The most bytes of a policy that is sealed to, as of the format of sealed secrets.
pub const MAX_BYTES: usize = 8 << 10;
/// Most selectors that were measured of one thing, as agents have them.
pub const MAX_SELECTORS: usize = 128;
/// Most near misses that are told.
const MAX_NEAR_MISSES: usize = 20;

/// Who may open a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretPolicy {
    text: String,
    policy: Arc<Policy>,
}

/// Why bytes, or a document, are no policy that a secret is sealed to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SecretPolicyFault {
    /// More than [`MAX_BYTES`].
    #[error("the policy has more than {MAX_BYTES} bytes in its canonical form")]
    TooLong,
    /// No text of the language: not JSON, or a field that is unknown, repeated or has no such value.
    #[error("the policy is not a canonical `SecretPolicy`")]
    Malformed,
    /// Another version of the language.
    #[error("the policy is of a version of the language that is not known here")]
    Version,
    /// Another kind of policy.
    #[error("the policy is no `SecretPolicy`")]
    Kind,
    /// It means something, and there is another text that says the same.
    #[error("the policy is not in its canonical form")]
    NotCanonical,
}

/// What a node has measured, from a statement that was verified.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Measured {
    /// What its certificate, under a site's root, says of the node.
    pub node: Selectors,
    /// What it has measured of the workload, and signed.
    pub workload: Selectors,
}

/// Selectors: keys, each with one or more values.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selectors(Vec<(Box<str>, Box<str>)>);

/// Why a secret may not be opened. The policy is public, so the caller may know all of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denial<'a> {
    /// Why.
    pub reason: DenialReason<'a>,
    /// Rules that would allow it, and what they miss; those that miss least come first. Without rule: what the witness misses.
    pub near_misses: Vec<SecretNearMiss<'a>>,
}

/// Why a secret may not be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DenialReason<'a> {
    /// This rule denies it.
    Rule(&'a str),
    /// No rule allows it.
    NoRule,
    /// A node must say what it has measured, and none has.
    NoWitness,
    /// A node has measured something else.
    Witness,
}

/// What a rule, or the witness, misses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretNearMiss<'a> {
    /// The rule; `None` for the witness.
    pub rule: Option<&'a str>,
    /// `label env prod required, got dev`, for each thing that is missing.
    pub missing: Vec<String>,
}

impl SecretPolicy {
    /// Reads the exact bytes that a secret is sealed to.
    ///
    /// # Errors
    /// [`SecretPolicyFault`] for everything but the canonical bytes of a `SecretPolicy`.
    pub fn parse(bytes: &[u8]) -> Result<Self, SecretPolicyFault> {
        if bytes.len() > MAX_BYTES {
            return Err(SecretPolicyFault::TooLong);
        }
        let text = str::from_utf8(bytes).map_err(|_| SecretPolicyFault::Malformed)?;
        let document = match read::exactly(text) {
            Exact::Document(document) => document,
            Exact::Version => return Err(SecretPolicyFault::Version),
            Exact::Malformed => return Err(SecretPolicyFault::Malformed),
        };
        let own = Self::of(&document)?;
        if own.as_bytes() == bytes { Ok(own) } else { Err(SecretPolicyFault::NotCanonical) }
    }

    /// The policy of a document, in its canonical form: without comments, management labels and tests.
    ///
    /// # Errors
    /// [`SecretPolicyFault::Kind`] for other documents, and [`SecretPolicyFault::TooLong`].
    pub fn of(document: &Document) -> Result<Self, SecretPolicyFault> {
        let policy = document.policy().filter(|policy| policy.kind == Kind::SecretPolicy);
        let policy = Arc::clone(policy.ok_or(SecretPolicyFault::Kind)?);
        let text = document.canonical();
        if text.len() > MAX_BYTES {
            return Err(SecretPolicyFault::TooLong);
        }
        Ok(Self { text, policy })
    }

    /// The bytes that a secret is sealed to.
    pub fn as_bytes(&self) -> &[u8] {
        self.text.as_bytes()
    }

    /// The same bytes, which are text.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// SHA-256 of these bytes: what a deny-list names it by.
    pub fn digest(&self) -> Digest {
        self.policy.digest()
    }

    /// Its name.
    pub fn name(&self) -> &str {
        self.policy.name.as_str()
    }

    /// Its rules.
    pub fn policy(&self) -> &Arc<Policy> {
        &self.policy
    }

    /// For how many seconds an opened secret may be kept: 0 for none.
    pub fn cache_ttl(&self) -> u32 {
        self.policy.cache_for.unwrap_or(0)
    }

    /// On whose word it believes who asks.
    pub fn evidence(&self) -> &Evidence {
        &self.policy.evidence
    }

    /// Whether it may be opened by who asks; with the name of the rule that allows it.
    ///
    /// `who` is of a certificate that was verified. `measured` is of a statement of the node that was verified too, and is looked
    /// at only where the policy demands it; whether the statement is about this caller and this question is not checked here.
    ///
    /// # Errors
    /// [`Denial`]: deny beats allow beats default deny, and a witness is asked beside what the rules allow.
    pub fn decide(&self, who: &Caller, measured: Option<&Measured>) -> Result<&str, Denial<'_>> {
        let rules = |effect| self.policy.rules.iter().filter(move |rule| rule.effect == effect);
        let denial = |reason| Denial { reason, near_misses: Vec::new() };
        if let Some(rule) = rules(Effect::Deny).find(|rule| rule.who.is_met(who)) {
            return Err(denial(DenialReason::Rule(rule.name.as_str())));
        }
        let Some(allowed) = rules(Effect::Allow).find(|rule| rule.who.is_met(who)) else {
            let near_misses = near_misses(rules(Effect::Allow), who);
            return Err(Denial { reason: DenialReason::NoRule, near_misses });
        };
        if let Evidence::Witness(witness) = self.evidence() {
            let measured = measured.ok_or_else(|| denial(DenialReason::NoWitness))?;
            let mut missing = measured.node.missing("node", &witness.node);
            missing.extend(measured.workload.missing("workload", &witness.workload));
            if !missing.is_empty() {
                let near_misses = vec![SecretNearMiss { rule: None, missing }];
                return Err(Denial { reason: DenialReason::Witness, near_misses });
            }
        }
        Ok(allowed.name.as_str())
    }
}

impl SecretPolicyFault {
    /// A stable name of this error for programs.
    pub fn code(self) -> &'static str {
        match self {
            Self::TooLong => "policy.secret-too-long",
            Self::Malformed => "policy.secret-malformed",
            Self::Version => "policy.version",
            Self::Kind => "policy.secret-kind",
            Self::NotCanonical => "policy.secret-not-canonical",
        }
    }

    /// What a person can do about it.
    pub fn hint(self) -> &'static str {
        match self {
            Self::TooLong => "use patterns and labels in place of many names, or seal to several policies",
            Self::Malformed | Self::NotCanonical => {
                "seal with `bonafide secret seal`, which writes the canonical form"
            }
            Self::Version => "use a newer program",
            Self::Kind => "write `kind: SecretPolicy`",
        }
    }
}

impl Selectors {
    /// Takes keys and values in any order; a key may have several values.
    ///
    /// # Errors
    /// [`FactsFault`] for more than [`MAX_SELECTORS`], and for keys and values that no selector has.
    pub fn new<K: AsRef<str>, V: AsRef<str>>(
        selectors: impl IntoIterator<Item = (K, V)>,
    ) -> Result<Self, FactsFault> {
        let mut all: Vec<(Box<str>, Box<str>)> = Vec::new();
        for (key, value) in selectors {
            if all.len() == MAX_SELECTORS {
                return Err(FactsFault::TooMany);
            }
            let key = words::SelectorKey::parse(key.as_ref()).map_err(|_| FactsFault::Key)?;
            let value = words::SelectorValue::parse(value.as_ref()).map_err(|_| FactsFault::Value)?;
            all.push((key.as_str().into(), value.as_str().into()));
        }
        all.sort_unstable();
        all.dedup();
        Ok(Self(all))
    }

    /// The values of a key.
    pub fn values(&self, key: &str) -> impl Iterator<Item = &str> {
        self.0.iter().filter(move |(own, _)| **own == *key).map(|(_, value)| &**value)
    }

    /// All of them, by key.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (&**key, &**value))
    }

    fn missing(&self, of: &str, wanted: &SelectorRequirements) -> Vec<String> {
        let unmet = wanted
            .iter()
            .filter(|(key, wanted)| !self.values(key.as_str()).any(|value| wanted.contains(value)));
        unmet
            .map(|(key, wanted)| {
                let got: Vec<String> = self.values(key.as_str()).take(4).map(told).collect();
                let got = if got.is_empty() { "nothing".to_owned() } else { got.join(", ") };
                format!("{of} {key} {} required, got {got}", any_of(wanted))
            })
            .collect()
    }
}

impl Who {
    fn is_met(&self, caller: &Caller) -> bool {
        self.meets_id(caller)
            && self.meets_trust_domain(caller)
            && self.labels.iter().all(|(key, wanted)| wanted.is_met(caller.labels().get(key.as_str())))
    }

    fn meets_id(&self, caller: &Caller) -> bool {
        self.ids.is_empty() || self.ids.iter().any(|pattern| pattern.matches(caller.id()))
    }

    fn meets_trust_domain(&self, caller: &Caller) -> bool {
        self.trust_domains.is_empty() || self.trust_domains.contains(caller.id().trust_domain())
    }

    fn missing(&self, caller: &Caller) -> Vec<String> {
        let mut missing = Vec::new();
        if !self.meets_id(caller) {
            missing.push(format!("{} required, got {}", any_of(&self.ids), caller.id()));
        }
        if !self.meets_trust_domain(caller) {
            let got = caller.id().trust_domain();
            missing.push(format!("trust domain {} required, got {got}", any_of(&self.trust_domains)));
        }
        for (key, wanted) in self.labels.iter() {
            let value = caller.labels().get(key.as_str());
            if !wanted.is_met(value) {
                let got =
                    value.map_or_else(|| "nothing".to_owned(), |value| told(&String::from_utf8_lossy(value)));
                missing.push(format!("label {key} {} required, got {got}", needed(wanted)));
            }
        }
        missing
    }
}

fn near_misses<'a>(rules: impl Iterator<Item = &'a Rule>, who: &Caller) -> Vec<SecretNearMiss<'a>> {
    let miss =
        |rule: &'a Rule| SecretNearMiss { rule: Some(rule.name.as_str()), missing: rule.who.missing(who) };
    let mut all: Vec<_> = rules.map(miss).collect();
    // Rules are in the order of their names, which the sorting keeps.
    all.sort_by_key(|miss| miss.missing.len());
    all.truncate(MAX_NEAR_MISSES);
    all
}

/// What somebody else has said, for a terminal.
fn told(value: &str) -> String {
    clean(&short(value))
}

impl DenialReason<'_> {
    /// A stable name of this reason for programs.
    pub fn code(self) -> &'static str {
        match self {
            Self::Rule(_) | Self::NoRule => "policy.denied",
            Self::NoWitness => "policy.no-witness",
            Self::Witness => "policy.witness",
        }
    }
}

impl fmt::Display for DenialReason<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rule(rule) => write!(f, "rule `{rule}` denies it"),
            Self::NoRule => f.write_str("no rule allows it"),
            Self::NoWitness => {
                f.write_str("the policy demands a witness, and no node has said what it measured")
            }
            Self::Witness => f.write_str("the node has measured something else than the policy demands"),
        }
    }
}

impl fmt::Display for Denial<'_> {
    /// One line, without near misses.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.reason.fmt(f)
    }
}

impl fmt::Display for SecretNearMiss<'_> {
    /// `billing-prod: label env prod required, got dev; label region eu required, got nothing`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.rule.unwrap_or("witness"), self.missing.join("; "))
    }
}
