//! The clauses of a rule.

use bonafide_identity::{IdError, SpiffeIdPattern, TrustDomain, UnixTime};

use super::list::{many, map};
use crate::{
    glob::{KeyPattern, PathPattern},
    host::HostPattern,
    model::{
        Bound, Effect, Exception, Kind, LabelRequirements, PropRequirements, Requirement, Rule, Target, When,
        Who,
    },
    network::Network,
    set::{Map, Set},
    words::{Action, Algorithm, LabelKey, LabelValue, Name, PropName, PropValue, ServiceName, Unfit},
    yaml::{
        fault::{Fault, Spot},
        fields::{Fields, short, text, wrong_type},
        tree::{Node, Value},
    },
};

/// The one action that a `SecretPolicy` knows.
pub(crate) const UNSEAL: &str = "unseal";
/// Exceptions of a rule.
const MAX_EXCEPTIONS: usize = 64;

const CLAUSES: [&str; 5] = ["who", "can", "on", "when", "except"];
const SECRET_CLAUSES: [&str; 2] = ["who", "can"];
const WHO: [&str; 4] = ["id", "trustDomain", "labels", "props"];
const SECRET_WHO: [&str; 3] = ["id", "trustDomain", "labels"];
const ON: [&str; 5] = ["path", "host", "key", "service", "props"];
const WHEN: [&str; 6] = ["same", "aad", "alg", "time", "source", "props"];
const EXCEPT: [&str; 8] = ["id", "trustDomain", "labels", "can", "path", "host", "key", "service"];
/// What people bring from elsewhere.
const CLAUSE_HABITS: [(&str, &str); 17] = [
    ("from", "write `who`"),
    ("subject", "write `who`"),
    ("principal", "write `who`"),
    ("principals", "write `who`"),
    ("action", "write `can`"),
    ("actions", "write `can`"),
    ("method", "write `can: [GET]`"),
    ("methods", "write `can: [GET]`"),
    ("verbs", "write `can`"),
    ("to", "write `on`"),
    ("resource", "write `on`"),
    ("path", "write `on: {path: …}`"),
    ("key", "write `on: {key: …}`"),
    ("condition", "write `when`"),
    ("conditions", "write `when`"),
    ("if", "write `when`"),
    ("unless", "write `except`"),
];
const SECRET_HABITS: [(&str, &str); 3] = [
    ("on", "leave it out: a `SecretPolicy` is about the one secret that is sealed to it"),
    ("when", "leave it out: a `SecretPolicy` depends on nothing but who asks"),
    ("except", "leave it out: write a rule that denies"),
];
const WHO_HABITS: [(&str, &str); 5] = [
    ("ids", "write `id`: it takes one or a list"),
    ("spiffeId", "write `id`"),
    ("label", "write `labels: {key: value}`"),
    ("property", "write `props`"),
    ("props", "leave it out: nobody certified what a program asserts, and no secret may depend on it"),
];

pub(super) fn rule(
    name: Option<Name>,
    effect: Effect,
    node: &Node,
    kind: Kind,
    faults: &mut Vec<Fault>,
) -> Option<Rule> {
    let secret = kind == Kind::SecretPolicy;
    let (known, habits) = if secret {
        (SECRET_CLAUSES.as_slice(), SECRET_HABITS.as_slice())
    } else {
        (CLAUSES.as_slice(), CLAUSE_HABITS.as_slice())
    };
    let what = if effect == Effect::Allow { "`allow`" } else { "`deny`" };
    let fields = Fields::of(node, what, known, habits, faults)?;
    let who = fields.required("who", "anyone", faults).and_then(|node| who(node, secret, faults));
    let can = actions(&fields, secret, faults);
    let on = fields.get("on").map(|node| target(node, faults));
    let when = fields.get("when").map(|node| when(node, faults));
    let except = exceptions(&fields, faults);
    Some(Rule {
        name: name?,
        effect,
        who: who?,
        can,
        on: on.unwrap_or_default(),
        when: when.unwrap_or_default(),
        except,
    })
}

fn actions(fields: &Fields<'_>, secret: bool, faults: &mut Vec<Fault>) -> Set<Action> {
    let Some(node) = fields.get("can") else {
        // What is sealed can only be opened, and the exact bytes shall say so.
        return if secret { Action::parse(UNSEAL).into_iter().collect() } else { Set::default() };
    };
    let can: Set<Action> = many(Some(node), "can", faults, |text| {
        if text == "*" {
            let hint = "leave `can` out for any action";
            return Err(Unfit::new("policy.action", "`*` is no action", hint));
        }
        Action::parse(text)
    });
    if secret && can.iter().any(|action| action.as_str() != UNSEAL) {
        let help = "write `can: [unseal]`, or leave it out";
        faults.push(Fault::new("policy.secret-action", node.spot, "a secret can only be unsealed", help));
    }
    can
}

fn who(node: &Node, secret: bool, faults: &mut Vec<Fault>) -> Option<Who> {
    if let Value::Text { text, .. } = &node.value {
        if text == "anyone" {
            return Some(Who::default());
        }
        let help = if text.starts_with("spiffe://") {
            format!("write `who: {{id: {}}}`", short(text))
        } else {
            "write `anyone`, or what must be true of the caller: `{id: …}`, `{labels: {key: value}}`"
                .to_owned()
        };
        let message = format!("`{}` says not who", short(text));
        faults.push(Fault::new("policy.who", node.spot, message, help));
        return None;
    }
    let known = if secret { SECRET_WHO.as_slice() } else { WHO.as_slice() };
    let fields = Fields::of(node, "`who`", known, &WHO_HABITS, faults)?;
    let who = Who {
        ids: ids(&fields, faults),
        trust_domains: trust_domains(&fields, faults),
        labels: labels(&fields, "labels", faults),
        props: props(&fields, "props", faults),
    };
    let is_empty = matches!(&node.value, Value::Map(fields) if fields.is_empty());
    if is_empty {
        let help = "write `who: anyone` if anyone is meant";
        faults.push(Fault::new("policy.who", node.spot, "`who` is empty", help));
    }
    Some(who)
}

fn ids(fields: &Fields<'_>, faults: &mut Vec<Fault>) -> Set<SpiffeIdPattern> {
    let unfit = |error: IdError| {
        let hint = match error {
            IdError::PatternWithoutPath => "write `trustDomain: …` for all of a trust domain, or add a path",
            error => error.hint(),
        };
        Unfit::new("policy.spiffe-id", error.to_string(), hint)
    };
    many(fields.get("id"), "id", faults, |text| SpiffeIdPattern::parse(text).map_err(unfit))
}

fn trust_domains(fields: &Fields<'_>, faults: &mut Vec<Fault>) -> Set<TrustDomain> {
    many(fields.get("trustDomain"), "trustDomain", faults, |text| {
        TrustDomain::parse(text.strip_prefix("spiffe://").unwrap_or(text))
            .map_err(|error| Unfit::new("policy.trust-domain", error.to_string(), error.hint()))
    })
}

pub(super) fn labels(fields: &Fields<'_>, name: &str, faults: &mut Vec<Fault>) -> LabelRequirements {
    requirements(fields, name, faults, LabelKey::parse, LabelValue::parse)
}

fn props(fields: &Fields<'_>, name: &str, faults: &mut Vec<Fault>) -> PropRequirements {
    requirements(fields, name, faults, PropName::parse, PropValue::parse)
}

fn requirements<K: Ord, V: Ord>(
    fields: &Fields<'_>,
    name: &str,
    faults: &mut Vec<Fault>,
    parse_key: impl Fn(&str) -> Result<K, Unfit>,
    parse_value: impl Fn(&str) -> Result<V, Unfit>,
) -> Map<K, Requirement<V>> {
    let mut all = Vec::new();
    let Some(pairs) = fields.get(name).and_then(|node| map(node, name, faults)) else {
        return Map::default();
    };
    for (key, node) in pairs {
        let requirement = requirement(node, &key.text, faults, &parse_value);
        match parse_key(&key.text) {
            Ok(key) => {
                if let Some(requirement) = requirement {
                    all.push((key, requirement));
                }
            }
            Err(unfit) => {
                let message = format!("`{}`: {unfit}", short(&key.text));
                faults.push(Fault::new(unfit.code(), key.spot, message, unfit.hint()));
            }
        }
    }
    all.into_iter().collect()
}

fn requirement<V: Ord>(
    node: &Node,
    key: &str,
    faults: &mut Vec<Fault>,
    parse: &impl Fn(&str) -> Result<V, Unfit>,
) -> Option<Requirement<V>> {
    match &node.value {
        Value::Text { text, .. } if text == "exists" => Some(Requirement::Exists),
        Value::Text { text, .. } if text == "absent" => Some(Requirement::Absent),
        Value::Text { text, .. } if text == "*" => {
            let message = format!("`{}`: `*` is no value", short(key));
            let help = "write `exists` for any value, or `[\"*\"]` for a star";
            faults.push(Fault::new("policy.label-value", node.spot, message, help));
            None
        }
        Value::Map(_) => {
            let fields = Fields::of(node, "what a label must be", &["not"], &[], faults)?;
            let not = fields.required("not", "[value]", faults)?;
            Some(Requirement::NotIn(many(Some(not), key, faults, parse)))
        }
        _ => Some(Requirement::In(many(Some(node), key, faults, parse))),
    }
}

fn target(node: &Node, faults: &mut Vec<Fault>) -> Target {
    let habits = [("paths", "write `path`: it takes one or a list"), ("url", "write `host` and `path`")];
    let Some(fields) = Fields::of(node, "`on`", &ON, &habits, faults) else { return Target::default() };
    check_not_empty(node, "on", faults);
    Target { props: props(&fields, "props", faults), ..things(&fields, faults) }
}

fn things(fields: &Fields<'_>, faults: &mut Vec<Fault>) -> Target {
    Target {
        paths: many(fields.get("path"), "path", faults, PathPattern::parse),
        hosts: many(fields.get("host"), "host", faults, HostPattern::parse),
        keys: many(fields.get("key"), "key", faults, KeyPattern::parse),
        services: many(fields.get("service"), "service", faults, ServiceName::parse),
        props: PropRequirements::default(),
    }
}

fn when(node: &Node, faults: &mut Vec<Fault>) -> When {
    let habits = [
        ("context", "write `aad` for the bound context, or `props` for what the program asserts"),
        ("sourceIp", "write `source: [10.0.0.0/8]`"),
        ("ip", "write `source: [10.0.0.0/8]`"),
        ("until", "write `time: {until: …}`"),
        ("from", "write `time: {from: …}`"),
        ("algorithm", "write `alg`"),
    ];
    let Some(fields) = Fields::of(node, "`when`", &WHEN, &habits, faults) else { return When::default() };
    check_not_empty(node, "when", faults);
    let (from, until) = fields.get("time").map_or((None, None), |node| time(node, faults));
    When {
        same: many(fields.get("same"), "same", faults, LabelKey::parse),
        aad: aad(&fields, faults),
        algorithms: many(fields.get("alg"), "alg", faults, Algorithm::parse),
        from,
        until,
        sources: many(fields.get("source"), "source", faults, Network::parse),
        props: props(&fields, "props", faults),
    }
}

fn aad(fields: &Fields<'_>, faults: &mut Vec<Fault>) -> Map<PropName, Bound> {
    let mut all = Vec::new();
    let Some(pairs) = fields.get("aad").and_then(|node| map(node, "aad", faults)) else {
        return Map::default();
    };
    for (key, node) in pairs {
        let bound = super::list::one(node, &key.text, faults, bound);
        match PropName::parse(&key.text) {
            Ok(key) => {
                if let Some(bound) = bound {
                    all.push((key, bound));
                }
            }
            Err(unfit) => {
                let message = format!("`{}`: {unfit}", short(&key.text));
                faults.push(Fault::new(unfit.code(), key.spot, message, unfit.hint()));
            }
        }
    }
    all.into_iter().collect()
}

fn bound(text: &str) -> Result<Bound, Unfit> {
    if let Some(key) = text.strip_prefix("{who.labels.").and_then(|rest| rest.strip_suffix('}'))
        && !key.contains(['{', '}'])
    {
        return LabelKey::parse(key).map(Bound::CallersLabel);
    }
    if text.contains(['{', '}']) {
        let hint = "write `\"{who.labels.KEY}\"` and nothing beside it, or text without braces";
        return Err(Unfit::new("policy.template", "this is no value and no template", hint));
    }
    PropValue::parse(text).map(Bound::Is)
}

fn time(node: &Node, faults: &mut Vec<Fault>) -> (Option<UnixTime>, Option<UnixTime>) {
    let habits = [("after", "write `from`"), ("before", "write `until`"), ("to", "write `until`")];
    let Some(fields) = Fields::of(node, "`time`", &["from", "until"], &habits, faults) else {
        return (None, None);
    };
    check_not_empty(node, "time", faults);
    let mut moment =
        |name: &str| fields.get(name).and_then(|node| super::list::one(node, name, faults, moment));
    let (from, until) = (moment("from"), moment("until"));
    if let (Some(from), Some(until)) = (from, until)
        && from >= until
    {
        let help = "let `until` be later than `from`";
        faults.push(Fault::new("policy.time", node.spot, "the time ends before it begins", help));
    }
    (from, until)
}

/// `2027-01-01` or `2027-01-01T08:30:00Z`.
pub(super) fn moment(text: &str) -> Result<UnixTime, Unfit> {
    let unfit = || {
        let hint = "write it in UTC, as `2027-01-01` or `2027-01-01T08:30:00Z`";
        Unfit::new("policy.time", "this is no date and no time", hint)
    };
    let (date, clock) = match text.split_once('T') {
        Some((date, clock)) => (date, clock.strip_suffix('Z').ok_or_else(unfit)?),
        None => (text, "00:00:00"),
    };
    let digits = |text: &str, length: usize| {
        let fits = text.len() == length && text.bytes().all(|byte| byte.is_ascii_digit());
        fits.then(|| text.parse::<u16>().ok()).flatten()
    };
    let mut date = date.split('-');
    let mut clock = clock.split(':');
    let year = date.next().and_then(|text| digits(text, 4)).ok_or_else(unfit)?;
    let two = |parts: &mut std::str::Split<'_, char>| {
        let number = parts.next().and_then(|text| digits(text, 2))?;
        u8::try_from(number).ok()
    };
    let fields = (two(&mut date), two(&mut date), two(&mut clock), two(&mut clock), two(&mut clock));
    let (Some(month), Some(day), Some(hour), Some(minute), Some(second)) = fields else {
        return Err(unfit());
    };
    if date.next().is_some() || clock.next().is_some() {
        return Err(unfit());
    }
    UnixTime::from_civil(year.into(), month, day, hour, minute, second).ok_or_else(unfit)
}

fn exceptions(fields: &Fields<'_>, faults: &mut Vec<Fault>) -> Set<Exception> {
    let Some(node) = fields.get("except") else { return Set::default() };
    let items = match &node.value {
        Value::List(items) => items.as_slice(),
        Value::Map(_) => std::slice::from_ref(node),
        _ => {
            let help = "write `except: {path: …}`, or a list of such";
            wrong_type(node, "except", "fields, or a list", help, faults);
            return Set::default();
        }
    };
    if items.len() > MAX_EXCEPTIONS {
        let message = format!("these are {} exceptions, more than {MAX_EXCEPTIONS}", items.len());
        faults.push(Fault::new("policy.long-list", node.spot, message, "use lists in one, or several rules"));
        return Set::default();
    }
    if items.is_empty() {
        let help = "write what is excepted, or leave the field out";
        faults.push(Fault::new("policy.empty-list", node.spot, "`except` is empty", help));
    }
    items.iter().filter_map(|item| exception(item, faults)).collect()
}

fn exception(node: &Node, faults: &mut Vec<Fault>) -> Option<Exception> {
    let habits = [
        ("who", "write its fields here: `id`, `trustDomain`, `labels`"),
        ("on", "write its fields here: `path`, `host`, `key`, `service`"),
        ("when", "an exception is about who, what and where; write a rule of its own for circumstances"),
    ];
    let fields = Fields::of(node, "an exception", &EXCEPT, &habits, faults)?;
    check_not_empty(node, "except", faults);
    Some(Exception {
        who: Who {
            ids: ids(&fields, faults),
            trust_domains: trust_domains(&fields, faults),
            labels: labels(&fields, "labels", faults),
            props: PropRequirements::default(),
        },
        can: many(fields.get("can"), "can", faults, Action::parse),
        on: things(&fields, faults),
    })
}

fn check_not_empty(node: &Node, name: &str, faults: &mut Vec<Fault>) {
    if matches!(&node.value, Value::Map(fields) if fields.is_empty()) {
        let spot = Spot { length: 1, ..node.spot };
        let help = "write what is meant, or leave the field out: then it asks nothing";
        faults.push(Fault::new("policy.empty-list", spot, format!("`{name}` is empty"), help));
    }
}

/// A SPIFFE ID, for tests of policies.
pub(super) fn id(node: &Node, faults: &mut Vec<Fault>) -> Option<bonafide_identity::SpiffeId> {
    let found = text(node, "who", faults)?;
    match bonafide_identity::SpiffeId::parse(found.text) {
        Ok(id) => Some(id),
        Err(error) => {
            let message = format!("`{}`: {error}", short(found.text));
            faults.push(Fault::new("policy.spiffe-id", found.spot, message, error.hint()));
            None
        }
    }
}
