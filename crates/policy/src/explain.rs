//! Why a request is answered as it is, for those who may know the rules; and what a refused caller may know.
//!
//! Every rule is asked, one after the other: this is for people who ask why, not for the path of a request.

use std::{cmp::Reverse, collections::BinaryHeap, fmt};

use crate::{
    asked::{Asked, Unmet, with_room},
    decision::{Decision, Determining, Reason},
    model::{Bound, Effect, Exception, Mode, Requirement, Rule},
    request::Request,
    snapshot::{Class, Found, Snapshot},
};

/// Most near misses that are told.
const MAX_NEAR_MISSES: usize = 20;

/// Why a request is answered as it is. For operators: it tells of rules that are none of the caller's business.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation<'a> {
    /// The answer, and what determined it.
    pub decision: Decision<'a>,
    /// All rules that are met, those of guardrails first.
    pub matched: Vec<Matched<'a>>,
    /// Rules that would allow it, and whose `who` is met: how far they are met, and what is missing. Those that miss
    /// least come first. Empty if it is allowed.
    pub near_misses: Vec<NearMiss<'a>>,
}

/// A rule that is met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Matched<'a> {
    /// Which.
    pub rule: Determining<'a>,
    /// What it says.
    pub effect: Effect,
}

/// A rule that is nearly met.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NearMiss<'a> {
    /// Which.
    pub rule: Determining<'a>,
    /// The first clause that is not met: `can`, `on`, `when` or `except`.
    pub clause: &'static str,
    /// What it needs and what it got, such as `GET required, got POST`.
    pub missing: String,
}

/// What a refused caller may know: a code, and what was certified of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Stable, `policy.…`.
    pub code: &'static str,
    /// What to do about it.
    pub hint: &'static str,
    /// The caller's own ID.
    pub id: String,
    /// The caller's own labels, `key=value`; values that are not text in hexadecimal.
    pub labels: Vec<String>,
}

impl Snapshot {
    /// Why a request is answered as it is.
    pub fn explain<'s>(&'s self, request: &Request<'_>) -> Explanation<'s> {
        let told = |reason| {
            let decision = Decision { effect: Effect::Deny, reason, would: None, revision: self.revision() };
            Explanation { decision, matched: Vec::new(), near_misses: Vec::new() }
        };
        with_room(request, |room| match Asked::new(request, self.callee(), room) {
            Ok(asked) => self.explain_asked(&asked),
            Err(fault) => told(Reason::Input(fault)),
        })
    }

    fn explain_asked<'s>(&'s self, asked: &Asked<'_>) -> Explanation<'s> {
        let mut found = Found::default();
        let mut matched = Vec::new();
        // The best, of which the last is on top; they are put into words when it is known which ones they are.
        let mut near = BinaryHeap::new();
        for number in (0..).take(self.len()) {
            let Some((compiled, rule)) = self.rule(number) else { continue };
            match rule.unmet(asked) {
                None => {
                    found.set(Class::of(compiled.mode(), rule.effect), number);
                    let Some(determining) = self.determining(number) else { continue };
                    matched.push(Matched { rule: determining, effect: rule.effect });
                }
                Some(unmet) if rule.effect == Effect::Allow && unmet.order() > 0 => {
                    near.push((Reverse(unmet.order()), number, unmet));
                    if near.len() > MAX_NEAR_MISSES {
                        near.pop();
                    }
                }
                Some(_) => {}
            }
        }
        let mut decision = self.judge(&found);
        if let Some(reason) = self.staleness(asked.request) {
            decision = Decision { effect: Effect::Deny, reason, would: None, ..decision };
        }
        if decision.is_allowed() {
            near.clear();
        }
        let near_miss = |(_, number, unmet): (_, u32, Unmet)| {
            let (_, rule) = self.rule(number)?;
            let missing = missing(rule, unmet, asked);
            Some(NearMiss { rule: self.determining(number)?, clause: unmet.clause(), missing })
        };
        let near_misses = near.into_sorted_vec().into_iter().filter_map(near_miss).collect();
        Explanation { decision, matched, near_misses }
    }
}

impl Refusal {
    /// What the caller of a refused request may know. `None` if it is allowed.
    pub fn of(decision: &Decision<'_>, request: &Request<'_>) -> Option<Self> {
        let (code, hint) = match &decision.reason {
            _ if decision.is_allowed() => return None,
            // Whether a rule denies it or none allows it is for operators to know.
            Reason::Rule(_) | Reason::NoRule => {
                ("policy.denied", "ask the operators of the service, and show them the ID and the labels")
            }
            Reason::Input(fault) => (fault.code(), fault.hint()),
            Reason::Stale { .. } => ("policy.stale", "try again when the service reaches its authority"),
        };
        let label = |(key, value): (&str, &[u8])| match str::from_utf8(value) {
            Ok(text) => format!("{key}={}", crate::text::clean(text)),
            Err(_) => {
                let hex: String = value.iter().map(|byte| format!("{byte:02x}")).collect();
                format!("{key}=0x{hex}")
            }
        };
        Some(Self {
            code,
            hint,
            id: request.who.id().to_string(),
            labels: request.who.labels().iter().map(label).collect(),
        })
    }
}

impl Unmet {
    fn clause(self) -> &'static str {
        match self {
            Self::Id | Self::TrustDomain | Self::Label(_) | Self::WhoProp(_) => "who",
            Self::Can => "can",
            Self::Path | Self::Host | Self::Key | Self::Service | Self::OnProp(_) => "on",
            Self::Same(_)
            | Self::Aad(_)
            | Self::Algorithm
            | Self::From
            | Self::Until
            | Self::Source
            | Self::WhenProp(_) => "when",
            Self::Except(_) => "except",
        }
    }

    /// How many clauses before it are met.
    fn order(self) -> usize {
        ["who", "can", "on", "when", "except"].iter().position(|name| *name == self.clause()).unwrap_or(0)
    }
}

/// What a clause needs, and what it got.
fn missing(rule: &Rule, unmet: Unmet, asked: &Asked<'_>) -> String {
    let request = asked.request;
    let caller = request.who;
    let required = |what: &str, wanted: String, got: Option<&str>| {
        let got = got.map_or_else(|| "nothing".to_owned(), crate::text::clean);
        format!("{what}{wanted} required, got {got}")
    };
    let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
    match unmet {
        Unmet::Id => required("", any_of(&rule.who.ids), Some(caller.id().as_str())),
        Unmet::TrustDomain => required(
            "trust domain ",
            any_of(&rule.who.trust_domains),
            Some(caller.id().trust_domain().as_str()),
        ),
        Unmet::Label(index) => rule.who.labels.at(index).map_or_else(String::new, |(key, wanted)| {
            let got = caller.labels().get(key.as_str()).map(text);
            required(&format!("label {key} "), needed(wanted), got.as_deref())
        }),
        Unmet::Can => required("", any_of(&rule.can), Some(request.can)),
        Unmet::Path => required("path ", any_of(&rule.on.paths), asked.path),
        Unmet::Host => required("host ", any_of(&rule.on.hosts), asked.host),
        Unmet::Key => required("key ", any_of(&rule.on.keys), request.on.key),
        Unmet::Service => required("service ", any_of(&rule.on.services), request.on.service),
        Unmet::Same(index) => rule.when.same.get(index).map_or_else(String::new, |key| {
            let value = |of: Option<&[u8]>| of.map_or_else(|| "nothing".to_owned(), text);
            format!(
                "the same {key} required, got {} at the caller and {} at the callee",
                value(caller.labels().get(key.as_str())),
                value(asked.callee.get(key.as_str()))
            )
        }),
        Unmet::Aad(index) => rule.when.aad.at(index).map_or_else(String::new, |(name, bound)| {
            let wanted = match bound {
                Bound::Is(value) => value.to_string(),
                Bound::CallersLabel(key) => match caller.labels().get(key.as_str()) {
                    Some(value) => format!("{} (the caller's {key})", text(value)),
                    None => format!("the caller's {key}, which it has not,"),
                },
            };
            required(&format!("aad {name} "), wanted, request.when.aad.get(name.as_str()))
        }),
        Unmet::Algorithm => required("alg ", any_of(&rule.when.algorithms), request.when.algorithm),
        Unmet::From => rule
            .when
            .from
            .map_or_else(String::new, |from| format!("from {from} on, and it is {}", request.now)),
        Unmet::Until => rule
            .when
            .until
            .map_or_else(String::new, |until| format!("until {until}, and it is {}", request.now)),
        Unmet::Source => {
            let got = asked.source.map(|source| source.to_string());
            required("source ", any_of(&rule.when.sources), got.as_deref())
        }
        Unmet::WhoProp(index) => prop(rule.who.props.at(index), request.who_props),
        Unmet::OnProp(index) => prop(rule.on.props.at(index), request.on.props),
        Unmet::WhenProp(index) => prop(rule.when.props.at(index), request.when.props),
        Unmet::Except(index) => {
            rule.except.get(index).map_or_else(String::new, |except| format!("excepted: {}", carved(except)))
        }
    }
}

fn prop(
    wanted: Option<(&crate::words::PropName, &Requirement<crate::words::PropValue>)>,
    given: &crate::request::AssertedProps,
) -> String {
    wanted.map_or_else(String::new, |(name, wanted)| {
        let got = given.get(name.as_str()).map_or_else(|| "nothing".to_owned(), crate::text::clean);
        format!("property {name} {} required, got {got}", needed(wanted))
    })
}

pub(crate) fn any_of(items: &[impl ToString]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(" or ")
}

pub(crate) fn needed<V: Ord + fmt::Display>(wanted: &Requirement<V>) -> String {
    match wanted {
        Requirement::In(values) => any_of(values),
        Requirement::NotIn(values) => format!("other than {}", any_of(values)),
        Requirement::Exists => "of any value".to_owned(),
        Requirement::Absent => "absent".to_owned(),
    }
}

/// An exception in a few words.
fn carved(except: &Exception) -> String {
    let mut parts = Vec::new();
    let mut add = |what: &str, items: String| {
        if !items.is_empty() {
            parts.push(format!("{what}{items}"));
        }
    };
    add("", any_of(&except.who.ids));
    add("trust domain ", any_of(&except.who.trust_domains));
    for (key, wanted) in except.who.labels.iter() {
        add(&format!("label {key} "), needed(wanted));
    }
    add("", any_of(&except.can));
    add("path ", any_of(&except.on.paths));
    add("host ", any_of(&except.on.hosts));
    add("key ", any_of(&except.on.keys));
    add("service ", any_of(&except.on.services));
    parts.join(", ")
}

impl fmt::Display for NearMiss<'_> {
    /// `prod-readers: can: GET required, got POST`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shadow = if self.rule.mode == Mode::Shadow { " (shadow)" } else { "" };
        write!(f, "{}{shadow}: {}: {}", self.rule.rule, self.clause, self.missing)
    }
}
