//! The kinds: what each document may say, and what it is to the authority.

use bonafide_attest::{Selector, SelectorError, template::IdTemplate};
use bonafide_authority::{Refusal, site::check_name};
use bonafide_identity::{DnsName, DnsPattern, SpiffeId, SpiffeIdPattern};
use bonafide_policy::yaml::{
    fault::{Fault, Spot},
    fields::{Fields, Text, is_nothing, nearest, quoted, short, text},
    tree::{Node, Value},
};
use bonafide_wire::{
    admin::resource::Resource as Wire,
    types::{self, registration},
};
use bytes::Bytes;
use jiff::Timestamp;

use crate::pem;

/// Every kind, and how its `spec` is read.
const KINDS: [(&str, ReadSpec); 4] =
    [("Site", site), ("Entry", entry), ("Rule", rule), (KEY, super::key::read)];
/// The name of every kind.
pub const KIND_NAMES: [&str; 4] = ["Site", "Entry", "Rule", KEY];
/// The one kind whose names have segments.
const KEY: &str = "Key";
/// Longest name.
const MAX_NAME: usize = 64;
const DOCUMENT: [&str; 4] = ["kind", "name", "labels", "spec"];
const SITE: [&str; 4] = ["scope", "x509Ttl", "jwtTtl", "x509popRoots"];
const SCOPE: [&str; 8] = [
    "spiffeIds",
    "dnsNames",
    "certifiedLabels",
    "admin",
    "maxX509Ttl",
    "maxJwtTtl",
    "signaturesPerSecond",
    "attestationsPerSecond",
];
const ENTRY: [&str; 11] = [
    "site",
    "spiffeId",
    "selectors",
    "parent",
    "x509Ttl",
    "jwtTtl",
    "dnsNames",
    "certifiedLabels",
    "admin",
    "hint",
    "expiresAt",
];
const RULE: [&str; 11] = [
    "site",
    "template",
    "selectors",
    "parent",
    "x509Ttl",
    "jwtTtl",
    "dnsNames",
    "certifiedLabels",
    "admin",
    "hint",
    "expiresAt",
];
/// What people bring from elsewhere.
const DOCUMENT_HABITS: [(&str, &str); 4] = [
    ("apiVersion", "leave it out: a document begins with `kind`"),
    ("metadata", "write `name` and `labels` beside `kind`, not indented"),
    ("id", "write `name`: it is the ID"),
    ("site", "write it under `spec`"),
];
const SPEC_HABITS: [(&str, &str); 4] = [
    ("labels", "write `certifiedLabels` for what SVIDs certify; labels for management stand beside `name`"),
    ("ttl", "write `x509Ttl` or `jwtTtl`"),
    ("template", "write `spiffeId`; templates are for `kind: Rule`"),
    ("spiffeId", "write `template`: a rule makes IDs from what is attested"),
];

type ReadSpec = fn(&Node, Named<'_>, &mut Vec<Fault>) -> Option<Wire>;

/// What stands beside a `spec`.
pub(super) struct Named<'a> {
    pub(super) name: Text<'a>,
    pub(super) labels: std::collections::BTreeMap<String, String>,
}

/// Reads one document. `None` when it has faults, or is empty.
pub(super) fn read(node: &Node, faults: &mut Vec<Fault>) -> Option<(Wire, Spot)> {
    // What stands between two `---` may be comments alone.
    if is_nothing(node) {
        return None;
    }
    let before = faults.len();
    let fields = Fields::of(node, "a document", &DOCUMENT, &DOCUMENT_HABITS, faults)?;
    let kind = fields.required("kind", "Entry", faults);
    let kind = kind.and_then(|kind| text(kind, "kind", faults));
    let name = fields.required("name", "web", faults);
    let name = name.and_then(|name| text(name, "name", faults));
    let labels = fields.pairs("labels", faults);
    let spec = fields.required("spec", "…", faults);
    let read_spec = kind.and_then(|kind| read_spec(kind, faults));
    let (spec, read_spec) = (spec?, read_spec?);
    // Without a name its other faults are worth telling all the same.
    let name = name.unwrap_or(Text { text: "x", spot: node.spot });
    if kind.is_some_and(|kind| kind.text == KEY) {
        check_key(name, faults);
    } else {
        check_id(name, faults);
    }
    let wire = read_spec(spec, Named { name, labels }, faults);
    if faults.len() > before { None } else { wire.map(|wire| (wire, name.spot)) }
}

fn read_spec(kind: Text<'_>, faults: &mut Vec<Fault>) -> Option<ReadSpec> {
    let known = KINDS.map(|(name, _)| name);
    if let Some((_, read)) = KINDS.iter().find(|(name, _)| *name == kind.text) {
        return Some(*read);
    }
    let help = match nearest(kind.text, &known) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("the kinds are {}", quoted(&known)),
    };
    let message = format!("there is no kind `{}`", short(kind.text));
    faults.push(Fault::new("resource.unknown-kind", kind.spot, message, help));
    None
}

fn check_key(name: Text<'_>, faults: &mut Vec<Fault>) {
    if !bonafide_kms::key::is_name(name.text) {
        let what = "a key's name has segments of letters, digits, `.`, `_` and `-`, separated by `/`";
        let help = "choose a name such as `orders/pii`";
        faults.push(Fault::new("resource.name", name.spot, what, help));
    }
}

/// Names of all other kinds are such that any may name a file, or a segment.
fn check_id(name: Text<'_>, faults: &mut Vec<Fault>) {
    if !is_name(name.text) {
        let lower = name.text.to_ascii_lowercase().replace(['_', '.', '/', ' '], "-");
        let help = if is_name(&lower) {
            format!("write `{lower}`")
        } else {
            "choose a name such as `edge-1`".to_owned()
        };
        faults.push(Fault::new("resource.name", name.spot, "a name has 1 to 64 of `a-z 0-9 -`", help));
    }
}

fn site(spec: &Node, named: Named<'_>, faults: &mut Vec<Fault>) -> Option<Wire> {
    // Told already if it is no name of any kind.
    if is_name(named.name.text) {
        check_site(named.name, faults);
    }
    let habits = [("spiffeIds", "write it under `scope`"), ("maxX509Ttl", "write it under `scope`")];
    let fields = Fields::of(spec, "a site's spec", &SITE, &habits, faults)?;
    let scope = match fields.get("scope") {
        Some(scope) => Some(read_scope(scope, faults)?),
        None => None,
    };
    Some(Wire::Site(types::Site {
        name: named.name.text.to_owned(),
        scope,
        default_x509_ttl: fields.duration("x509Ttl", faults),
        default_jwt_ttl: fields.duration("jwtTtl", faults),
        management_labels: named.labels,
        x509pop_roots: roots(&fields, faults),
        ..types::Site::default()
    }))
}

/// Certificates in PEM, and nothing else: above all no key.
fn roots(fields: &Fields<'_>, faults: &mut Vec<Fault>) -> Vec<Bytes> {
    let mut roots = Vec::new();
    for one in fields.texts("x509popRoots", faults) {
        let mut unfit = |what: String| {
            let help = "write `- |`, and below it the PEM of an authority's certificate, indented";
            faults.push(Fault::new("resource.certificate", one.spot, what, help));
        };
        match pem::decode(one.text) {
            Err(error) => unfit(error.to_string()),
            Ok(blocks) if blocks.is_empty() => unfit("there is no certificate in it".to_owned()),
            Ok(blocks) => match blocks.iter().find(|block| block.label != "CERTIFICATE") {
                Some(block) => unfit(format!("there is a `{}` in it", short(&block.label))),
                None => roots.extend(blocks.into_iter().map(|block| Bytes::from(block.der))),
            },
        }
    }
    roots
}

fn read_scope(node: &Node, faults: &mut Vec<Fault>) -> Option<types::Scope> {
    let fields = Fields::of(node, "a scope", &SCOPE, &SPEC_HABITS, faults)?;
    let labels = fields.texts("certifiedLabels", faults);
    let labels = labels
        .into_iter()
        .filter_map(|label| match label.text.split_once('=') {
            Some((key, value)) if !key.is_empty() => {
                Some(types::Selector { key: key.to_owned(), value: value.to_owned() })
            }
            _ => {
                let message = format!("`{}` is no label of a scope", short(label.text));
                let help = "write `key=value`, or `key=*` for any value";
                faults.push(Fault::new("resource.label", label.spot, message, help));
                None
            }
        })
        .collect();
    let spiffe_ids = each(&fields, "spiffeIds", faults, |text| {
        text.parse::<SpiffeIdPattern>().map(drop).map_err(|error| {
            let hint = error.hint();
            ("resource.spiffe-id", error.to_string(), hint)
        })
    });
    let dns_names = each(&fields, "dnsNames", faults, |text| {
        DnsPattern::parse(text).map(drop).map_err(|error| {
            let hint = error.hint();
            ("resource.dns-name", error.to_string(), hint)
        })
    });
    Some(types::Scope {
        spiffe_ids,
        dns_names,
        labels,
        admin: sites(&fields, faults),
        max_x509_ttl: fields.duration("maxX509Ttl", faults),
        max_jwt_ttl: fields.duration("maxJwtTtl", faults),
        signatures_per_second: fields.number("signaturesPerSecond", faults),
        attestations_per_second: fields.number("attestationsPerSecond", faults),
    })
}

fn entry(spec: &Node, named: Named<'_>, faults: &mut Vec<Fault>) -> Option<Wire> {
    let fields = Fields::of(spec, "an entry's spec", &ENTRY, &SPEC_HABITS, faults)?;
    let id = fields.required("spiffeId", "spiffe://example.org/web", faults);
    let id = id.and_then(|id| text(id, "spiffeId", faults));
    if let Some(id) = id {
        if id.text.contains('{') {
            let help = "write `kind: Rule`, and `template` for `spiffeId`";
            faults.push(Fault::new(
                "resource.template",
                id.spot,
                "this is a template, and no SPIFFE ID",
                help,
            ));
        } else if let Err(error) = SpiffeId::parse(id.text) {
            faults.push(Fault::new("resource.spiffe-id", id.spot, error.to_string(), error.hint()));
        }
    }
    registration(&fields, named, registration::Kind::Entry, id, faults)
}

fn rule(spec: &Node, named: Named<'_>, faults: &mut Vec<Fault>) -> Option<Wire> {
    let fields = Fields::of(spec, "a rule's spec", &RULE, &SPEC_HABITS, faults)?;
    let template = fields.required("template", "spiffe://example.org/user/{unix.user}", faults);
    let template = template.and_then(|template| text(template, "template", faults));
    if let Some(template) = template
        && let Err(error) = IdTemplate::parse(template.text)
    {
        faults.push(Fault::new("resource.template", template.spot, error.to_string(), error.hint()));
    }
    registration(&fields, named, registration::Kind::Rule, template, faults)
}

/// What entries and rules have in common.
fn registration(
    fields: &Fields<'_>,
    named: Named<'_>,
    kind: registration::Kind,
    spiffe_id: Option<Text<'_>>,
    faults: &mut Vec<Fault>,
) -> Option<Wire> {
    let site = fields.required("site", "edge", faults).and_then(|site| text(site, "site", faults));
    if let Some(site) = site {
        check_site(site, faults);
    }
    let selectors = selectors(fields, faults);
    let parent = fields.text("parent", faults);
    if let Some(parent) = parent
        && let Err(error) = SpiffeId::parse(parent.text)
    {
        faults.push(Fault::new("resource.spiffe-id", parent.spot, error.to_string(), error.hint()));
    }
    let dns_names = each(fields, "dnsNames", faults, |text| {
        text.parse::<DnsName>().map(drop).map_err(|error| {
            let hint = error.hint();
            ("resource.dns-name", error.to_string(), hint)
        })
    });
    Some(Wire::Registration(types::Registration {
        id: named.name.text.to_owned(),
        kind: kind.into(),
        site: site?.text.to_owned(),
        spiffe_id: spiffe_id?.text.to_owned(),
        parent: parent.map(|parent| parent.text.to_owned()).unwrap_or_default(),
        selectors,
        x509_ttl: fields.duration("x509Ttl", faults),
        jwt_ttl: fields.duration("jwtTtl", faults),
        dns_names,
        admin: sites(fields, faults),
        hint: fields.text("hint", faults).map(|hint| hint.text.to_owned()).unwrap_or_default(),
        labels: fields.pairs("certifiedLabels", faults),
        expires_at: expiry(fields, faults),
        management_labels: named.labels,
        ..types::Registration::default()
    }))
}

fn selectors(fields: &Fields<'_>, faults: &mut Vec<Fault>) -> Vec<types::Selector> {
    let Some(node) = fields.required("selectors", "[\"unix.uid:1000\"]", faults) else { return Vec::new() };
    if matches!(&node.value, Value::List(items) if items.is_empty()) {
        faults.push(Fault::new(
            "resource.no-selectors",
            node.spot,
            "without selectors every workload of the site would match",
            "name at least one, such as `unix.uid:1000`",
        ));
    }
    let texts = fields.texts("selectors", faults);
    texts
        .into_iter()
        .filter_map(|one| match one.text.parse::<Selector>() {
            Ok(selector) => {
                Some(types::Selector { key: selector.key().to_owned(), value: selector.value().to_owned() })
            }
            Err(error) => {
                let error: SelectorError = error;
                faults.push(Fault::new("resource.selector", one.spot, error.to_string(), error.hint()));
                None
            }
        })
        .collect()
}

/// Unix seconds of a time; 0 without the field.
fn expiry(fields: &Fields<'_>, faults: &mut Vec<Fault>) -> i64 {
    let Some(at) = fields.text("expiresAt", faults) else { return 0 };
    match at.text.parse::<Timestamp>() {
        Ok(time) if time.subsec_nanosecond() == 0 && time.as_second() > 0 => time.as_second(),
        _ => {
            let message = format!("`{}` is no point in time, to the second", short(at.text));
            let help = "write it as `2030-01-31T12:00:00Z`";
            faults.push(Fault::new("resource.time", at.spot, message, help));
            0
        }
    }
}

/// A list of texts that must each be something.
fn each(
    fields: &Fields<'_>,
    name: &str,
    faults: &mut Vec<Fault>,
    check: impl Fn(&str) -> Result<(), (&'static str, String, &'static str)>,
) -> Vec<String> {
    let texts = fields.texts(name, faults);
    for one in &texts {
        if let Err((code, message, help)) = check(one.text) {
            faults.push(Fault::new(code, one.spot, format!("`{}`: {message}", short(one.text)), help));
        }
    }
    texts.into_iter().map(|one| one.text.to_owned()).collect()
}

fn sites(fields: &Fields<'_>, faults: &mut Vec<Fault>) -> Vec<String> {
    let names = fields.texts("admin", faults);
    for name in &names {
        check_site(*name, faults);
    }
    names.into_iter().map(|name| name.text.to_owned()).collect()
}

pub(super) fn check_site(name: Text<'_>, faults: &mut Vec<Fault>) {
    if let Err(refusal) = check_name(name.text) {
        let refusal: Refusal = refusal;
        faults.push(Fault::new("resource.site", name.spot, refusal.message(), refusal.hint_text()));
    }
}

fn is_name(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    !text.is_empty() && text.len() <= MAX_NAME && text.bytes().all(allowed)
}
