//! Policies as values that can't be wrong: what these types hold was checked when it was read, and lists are sorted and
//! without repetitions wherever their order has no meaning.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::{Arc, OnceLock},
};

use bonafide_identity::{SpiffeIdPattern, TrustDomain, UnixTime};

use crate::{
    canonical::Digest,
    glob::{KeyPattern, PathPattern},
    host::HostPattern,
    network::Network,
    set::{Map, Set},
    words::{
        Action, Algorithm, LabelKey, LabelValue, Name, PropName, PropValue, SelectorKey, SelectorValue,
        ServiceName,
    },
    yaml::fault::Spot,
};

/// One document of a file, with what does not belong to its meaning.
#[derive(Clone, Debug)]
pub struct Document {
    pub(crate) body: Body,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) sites: BTreeSet<Name>,
    pub(crate) tests: Vec<Test>,
    pub(crate) places: Places,
}

/// What a document says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// Rules.
    Policy(Arc<Policy>),
    /// A program.
    Rego(RegoPolicy),
}

/// Where things stand in their file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Places {
    /// The document's name.
    pub name: Spot,
    /// The name of each rule, in the order of [`Policy::rules`].
    pub rules: Vec<Spot>,
    /// Each test, in the order of [`Document::tests`].
    pub tests: Vec<Spot>,
}

/// Which document it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Denies, whatever policies allow. Of the platform.
    Guardrail,
    /// Allows and denies.
    Policy,
    /// Who may open a sealed secret: nothing but IDs and certified labels, so that its bytes mean the same for ever.
    SecretPolicy,
    /// A program in Rego.
    RegoPolicy,
}

/// Whether a policy decides.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Mode {
    /// It does.
    #[default]
    Enforce,
    /// It is evaluated beside those that do, and what it would have changed is told.
    Shadow,
}

/// Allow or deny.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Effect {
    /// The request may be served.
    Allow,
    /// It may not.
    Deny,
}

/// What happens when it is unknown for long whether a policy is still the current one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Stale {
    /// For how long, in seconds.
    pub after: u32,
    /// What then.
    pub then: WhenStale,
}

/// What a stale policy does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WhenStale {
    /// Decides as before.
    Continue,
    /// Every request of the workloads that it applies to is denied.
    Deny,
}

/// On whose word a `SecretPolicy` believes who asks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Evidence {
    /// On that of the authority, which has certified ID and labels: whoever has its keys opens the secret.
    #[default]
    Authority,
    /// Also on that of the node, which has measured the workload.
    Witness(Witness),
}

/// What a node must have measured. It is asked beside the rules, and of nothing that the authority says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Witness {
    /// Of the node: what its certificate, under a site's root, says.
    pub(crate) node: SelectorRequirements,
    /// Of the workload. Never empty: without it, a node would sign for whatever the authority registers.
    pub(crate) workload: SelectorRequirements,
}

/// Selectors, each of which must have one of these values.
pub type SelectorRequirements = Map<SelectorKey, Set<SelectorValue>>;

/// A policy of rules: `Policy`, `Guardrail` or `SecretPolicy`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    pub(crate) kind: Kind,
    pub(crate) name: Name,
    pub(crate) applies_to: LabelRequirements,
    pub(crate) mode: Mode,
    pub(crate) stale: Option<Stale>,
    /// Seconds; only of a `SecretPolicy`.
    pub(crate) cache_for: Option<u32>,
    /// Only a `SecretPolicy` asks for more than the authority's word.
    pub(crate) evidence: Evidence,
    /// By name.
    pub(crate) rules: Vec<Rule>,
    pub(crate) digest: Computed,
}

/// A digest that is computed once. It is no part of what it is the digest of: a copy, which may be changed, computes
/// its own.
#[derive(Debug, Default)]
pub(crate) struct Computed(pub(crate) OnceLock<Digest>);

impl Clone for Computed {
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl PartialEq for Computed {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Computed {}

/// `kind: RegoPolicy`. Its text is not looked into here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegoPolicy {
    pub(crate) name: Name,
    pub(crate) applies_to: LabelRequirements,
    pub(crate) mode: Mode,
    pub(crate) stale: Option<Stale>,
    pub(crate) entrypoint: String,
    pub(crate) rego: String,
}

/// One rule. All of its clauses must be met, and no exception may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    pub(crate) name: Name,
    pub(crate) effect: Effect,
    pub(crate) who: Who,
    /// Any, if empty.
    pub(crate) can: Set<Action>,
    pub(crate) on: Target,
    pub(crate) when: When,
    pub(crate) except: Set<Exception>,
}

/// Callers. Fields that are empty ask nothing; all of them empty is `anyone`.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Who {
    pub(crate) ids: Set<SpiffeIdPattern>,
    pub(crate) trust_domains: Set<TrustDomain>,
    pub(crate) labels: LabelRequirements,
    pub(crate) props: PropRequirements,
}

/// What it is done to. Fields that are empty ask nothing; a field that the request does not have is not met.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Target {
    pub(crate) paths: Set<PathPattern>,
    pub(crate) hosts: Set<HostPattern>,
    pub(crate) keys: Set<KeyPattern>,
    pub(crate) services: Set<ServiceName>,
    pub(crate) props: PropRequirements,
}

/// Circumstances. Fields that are empty ask nothing; a field that the request does not have is not met.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct When {
    /// Caller and callee have the same value of each.
    pub(crate) same: Set<LabelKey>,
    pub(crate) aad: Map<PropName, Bound>,
    pub(crate) algorithms: Set<Algorithm>,
    /// From this moment.
    pub(crate) from: Option<UnixTime>,
    /// Before this moment.
    pub(crate) until: Option<UnixTime>,
    pub(crate) sources: Set<Network>,
    pub(crate) props: PropRequirements,
}

/// What a value of the bound context must be.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Bound {
    /// This.
    Is(PropValue),
    /// `{who.labels.KEY}`: the caller's certified value of this label. Not met if it has none.
    CallersLabel(LabelKey),
}

/// A carve-out. The rule does not apply where all of it is met. Never empty; without properties.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Exception {
    pub(crate) who: Who,
    pub(crate) can: Set<Action>,
    pub(crate) on: Target,
}

/// What must be true of labels that the authority certified.
pub type LabelRequirements = Map<LabelKey, Requirement<LabelValue>>;
/// What must be true of properties that the guarded program asserts, and that nobody certified.
pub type PropRequirements = Map<PropName, Requirement<PropValue>>;

/// What must be true of one label or property, as in selectors of Kubernetes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Requirement<V: Ord> {
    /// It is there, and is one of these.
    In(Set<V>),
    /// It is none of these, or is not there.
    NotIn(Set<V>),
    /// It is there.
    Exists,
    /// It is not there.
    Absent,
}

/// One of a document's own examples.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Test {
    pub(crate) scenario: crate::scenario::Scenario,
    pub(crate) expect: Effect,
    /// The rule that must decide it.
    pub(crate) by: Option<Name>,
}

impl Document {
    /// What it says.
    pub fn body(&self) -> &Body {
        &self.body
    }

    /// Its rules; `None` if it is a program.
    pub fn policy(&self) -> Option<&Arc<Policy>> {
        match &self.body {
            Body::Policy(policy) => Some(policy),
            Body::Rego(_) => None,
        }
    }

    /// By which operators find and prune what they manage; nothing is decided by them.
    pub fn labels(&self) -> &BTreeMap<String, String> {
        &self.labels
    }

    /// The sites whose agents are to have it; empty: all. Which workloads it guards there is another question, see
    /// [`Body::applies_to`].
    pub fn sites(&self) -> &BTreeSet<Name> {
        &self.sites
    }

    /// Its own examples.
    pub fn tests(&self) -> &[Test] {
        &self.tests
    }

    /// Where things stand in its file.
    pub fn places(&self) -> &Places {
        &self.places
    }
}

impl Body {
    /// Which document it is.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Policy(policy) => policy.kind,
            Self::Rego(_) => Kind::RegoPolicy,
        }
    }

    /// Its name.
    pub fn name(&self) -> &Name {
        match self {
            Self::Policy(policy) => &policy.name,
            Self::Rego(rego) => &rego.name,
        }
    }

    /// To which workloads it applies.
    pub fn applies_to(&self) -> &LabelRequirements {
        match self {
            Self::Policy(policy) => &policy.applies_to,
            Self::Rego(rego) => &rego.applies_to,
        }
    }

    /// Whether it decides.
    pub fn mode(&self) -> Mode {
        match self {
            Self::Policy(policy) => policy.mode,
            Self::Rego(rego) => rego.mode,
        }
    }

    /// What happens when it is stale.
    pub fn stale(&self) -> Option<Stale> {
        match self {
            Self::Policy(policy) => policy.stale,
            Self::Rego(rego) => rego.stale,
        }
    }
}

impl Policy {
    /// Which document it is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Its name.
    pub fn name(&self) -> &Name {
        &self.name
    }

    /// To which workloads it applies: to all, if empty.
    pub fn applies_to(&self) -> &LabelRequirements {
        &self.applies_to
    }

    /// Whether it decides.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// What happens when it is stale.
    pub fn stale(&self) -> Option<Stale> {
        self.stale
    }

    /// Of a `SecretPolicy`: for how many seconds an opened secret may be kept.
    pub fn cache_for(&self) -> Option<u32> {
        self.cache_for
    }

    /// Of a `SecretPolicy`: on whose word it believes who asks.
    pub fn evidence(&self) -> &Evidence {
        &self.evidence
    }

    /// The rules, by name.
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// Whether a rule looks at labels that were certified of the caller.
    pub fn looks_at_labels(&self) -> bool {
        let bound = |bound: &Bound| matches!(bound, Bound::CallersLabel(_));
        self.rules.iter().any(|rule| {
            !rule.who.labels.is_empty()
                || !rule.when.same.is_empty()
                || rule.when.aad.iter().any(|(_, value)| bound(value))
                || rule.except.iter().any(|except| !except.who.labels.is_empty())
        })
    }

    /// Whether a rule looks at properties that the guarded program asserts, and that nobody certified.
    pub fn uses_props(&self) -> bool {
        self.rules.iter().any(|rule| {
            !(rule.who.props.is_empty() && rule.on.props.is_empty() && rule.when.props.is_empty())
        })
    }
}

impl Evidence {
    /// As documents write it.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Authority => "authority",
            Self::Witness(_) => "witness",
        }
    }
}

impl Witness {
    /// Selectors of the node.
    pub fn node(&self) -> &SelectorRequirements {
        &self.node
    }

    /// Selectors of the workload.
    pub fn workload(&self) -> &SelectorRequirements {
        &self.workload
    }
}

impl RegoPolicy {
    /// Its name.
    pub fn name(&self) -> &Name {
        &self.name
    }

    /// To which workloads it applies: to all, if empty.
    pub fn applies_to(&self) -> &LabelRequirements {
        &self.applies_to
    }

    /// Whether it decides.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// What happens when it is stale: see [`Snapshot::with_programs`](crate::Snapshot::with_programs).
    pub fn stale(&self) -> Option<Stale> {
        self.stale
    }

    /// The rule that is asked, such as `data.orders.authz.result`.
    pub fn entrypoint(&self) -> &str {
        &self.entrypoint
    }

    /// The module.
    pub fn rego(&self) -> &str {
        &self.rego
    }
}

impl Rule {
    /// Its name, of which a policy has one.
    pub fn name(&self) -> &Name {
        &self.name
    }

    /// Whether it allows or denies.
    pub fn effect(&self) -> Effect {
        self.effect
    }
}

impl Test {
    /// Who asks for what.
    pub fn scenario(&self) -> &crate::scenario::Scenario {
        &self.scenario
    }

    /// What the answer must be.
    pub fn expect(&self) -> Effect {
        self.expect
    }

    /// The rule that must decide it.
    pub fn by(&self) -> Option<&Name> {
        self.by.as_ref()
    }
}

impl Who {
    /// Whether nothing is asked of the caller.
    pub fn is_anyone(&self) -> bool {
        *self == Self::default()
    }
}

impl<V: Ord> Requirement<V> {
    /// Whether the value, `None` if it is not there, is as it must be.
    pub fn is_met<Q: Ord + ?Sized>(&self, value: Option<&Q>) -> bool
    where
        V: std::borrow::Borrow<Q>,
    {
        match (self, value) {
            (Self::In(values), Some(value)) => values.contains(value),
            (Self::NotIn(values), Some(value)) => !values.contains(value),
            (Self::In(_), None) | (Self::Absent, Some(_)) | (Self::Exists, None) => false,
            (Self::NotIn(_) | Self::Absent, None) | (Self::Exists, Some(_)) => true,
        }
    }
}

impl Kind {
    /// As documents write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Guardrail => "Guardrail",
            Self::Policy => "Policy",
            Self::SecretPolicy => "SecretPolicy",
            Self::RegoPolicy => "RegoPolicy",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Mode {
    /// As documents write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Enforce => "enforce",
            Self::Shadow => "shadow",
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Effect {
    /// As documents write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
        }
    }
}

impl fmt::Display for Effect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
