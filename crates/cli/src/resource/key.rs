//! `kind: Key`: what a key is born as, and how it is set. What is not said is the default; the key's versions are not described, so
//! to apply a file never makes, uses or loses one.

use std::collections::BTreeMap;

use bonafide_kms::algorithm::KeyType;
use bonafide_kms::key::{Ceilings, Local};
use bonafide_policy::yaml::{
    fault::Fault,
    fields::{Fields, nearest, quoted, short, wrong_type},
    tree::{Node, Value},
};
use bonafide_wire::admin::{Key, KeySettings, StringMap, StringSet, resource::Resource as Wire};
use serde::Serialize;

use super::document::{Named, check_site};
use crate::duration;

/// How long who holds leases may have heard nothing, unless it is said.
const MAX_STALE: u32 = 60;
const KEY: [&str; 14] = [
    "type",
    "exportable",
    "convergent",
    "external",
    "aliases",
    "rotateEvery",
    "local",
    "maxStale",
    "leaseAge",
    "leaseMessages",
    "leaseBytes",
    "auditSync",
    "sites",
    "keyLabels",
];
/// What people write for it.
const HABITS: [(&str, &str); 5] = [
    (
        "labels",
        "write `keyLabels` for what policies select keys by; labels for management stand beside `name`",
    ),
    ("site", "write `sites`, a list"),
    ("primary", "leave it out: `bonafide key config` sets it"),
    ("minDecrypt", "leave it out: `bonafide key config` sets it"),
    ("minEncrypt", "leave it out: `bonafide key config` sets it"),
];

/// Reads the `spec` of a key.
pub(super) fn read(spec: &Node, named: Named<'_>, faults: &mut Vec<Fault>) -> Option<Wire> {
    let fields = Fields::of(spec, "a key's spec", &KEY, &HABITS, faults)?;
    let external = flag(&fields, "external", faults);
    let sites = fields.texts("sites", faults);
    sites.iter().for_each(|name| check_site(*name, faults));
    let aliases = fields.texts("aliases", faults);
    for alias in aliases.iter().filter(|alias| !bonafide_kms::key::is_name(alias.text)) {
        let help = "use segments of letters, digits, `.`, `_` and `-`, separated by `/`";
        let message = format!("`{}` is no name of a key", short(alias.text));
        faults.push(Fault::new("resource.name", alias.spot, message, help));
    }
    let default_local = if external { Local::Never } else { Local::default() };
    let ceilings = Ceilings::DEFAULT;
    let settings = KeySettings {
        primary: None,
        min_encrypt: None,
        min_decrypt: None,
        rotation: Some(fields.duration("rotateEvery", faults)),
        local: Some(one_of(
            &fields,
            "local",
            [Local::Process, Local::Agent, Local::Never].map(Local::as_str).as_slice(),
            default_local.as_str(),
            faults,
        )),
        max_stale: Some(or(fields.duration("maxStale", faults), MAX_STALE)),
        max_age: Some(or(fields.duration("leaseAge", faults), seconds(ceilings))),
        max_messages: Some(count(&fields, "leaseMessages", ceilings.messages, faults)),
        max_bytes: Some(count(&fields, "leaseBytes", ceilings.bytes, faults)),
        audit_sync: Some(flag(&fields, "auditSync", faults)),
        sites: Some(StringSet { values: sites.into_iter().map(|name| name.text.to_owned()).collect() }),
        labels: Some(StringMap { values: fields.pairs("keyLabels", faults) }),
    };
    let types = KeyType::ALL.map(KeyType::as_str);
    Some(Wire::Key(Key {
        name: named.name.text.to_owned(),
        aliases: aliases.into_iter().map(|alias| alias.text.to_owned()).collect(),
        r#type: one_of(&fields, "type", &types, KeyType::default().as_str(), faults),
        exportable: flag(&fields, "exportable", faults),
        convergent: flag(&fields, "convergent", faults),
        external,
        settings: Some(settings),
        management_labels: named.labels,
        ..Key::default()
    }))
}

/// A key as [`read`] reads it, without what is the default.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct KeySpec {
    r#type: String,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    exportable: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    convergent: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    external: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    aliases: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rotate_every: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    local: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_stale: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    lease_age: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    lease_messages: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    lease_bytes: Option<u64>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    audit_sync: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    sites: Vec<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    key_labels: BTreeMap<String, String>,
}

impl KeySpec {
    pub(super) fn of(key: &Key) -> Self {
        let none = KeySettings::default();
        let settings = key.settings.as_ref().unwrap_or(&none);
        let time = |seconds: Option<u32>, default: u32| {
            seconds.filter(|seconds| *seconds != default).map(|seconds| duration::format(seconds.into()))
        };
        let default_local = if key.external { Local::Never } else { Local::default() };
        let ceilings = Ceilings::DEFAULT;
        Self {
            r#type: key.r#type.clone(),
            exportable: key.exportable,
            convergent: key.convergent,
            external: key.external,
            aliases: super::print::set(key.aliases.clone()),
            rotate_every: time(settings.rotation, 0),
            local: settings.local.clone().filter(|local| local != default_local.as_str()),
            max_stale: time(settings.max_stale, MAX_STALE),
            lease_age: time(settings.max_age, seconds(ceilings)),
            lease_messages: settings.max_messages.filter(|count| *count != ceilings.messages),
            lease_bytes: settings.max_bytes.filter(|count| *count != ceilings.bytes),
            audit_sync: settings.audit_sync.unwrap_or_default(),
            sites: super::print::set(settings.sites.clone().unwrap_or_default().values),
            key_labels: settings.labels.clone().unwrap_or_default().values,
        }
    }
}

fn seconds(ceilings: Ceilings) -> u32 {
    u32::try_from(ceilings.age.as_secs()).unwrap_or(u32::MAX)
}

fn or(given: u32, default: u32) -> u32 {
    if given == 0 { default } else { given }
}

/// `true` or `false`; false without the field.
fn flag(fields: &Fields<'_>, name: &str, faults: &mut Vec<Fault>) -> bool {
    let Some(node) = fields.get(name) else { return false };
    match &node.value {
        Value::Text { text, plain: true } if text == "true" => true,
        Value::Text { text, plain: true } if text == "false" => false,
        _ => {
            wrong_type(node, name, "`true` or `false`", "write `true` or `false`, without quotes", faults);
            false
        }
    }
}

/// A whole number from 1.
fn count(fields: &Fields<'_>, name: &str, default: u64, faults: &mut Vec<Fault>) -> u64 {
    let Some(node) = fields.get(name) else { return default };
    let parsed = match &node.value {
        Value::Text { text, plain: true } if text.bytes().all(|byte| byte.is_ascii_digit()) => {
            text.parse::<u64>().ok().filter(|number| *number > 0)
        }
        _ => None,
    };
    parsed.unwrap_or_else(|| {
        let help = "write a whole number from 1, without quotes, or leave the field out";
        wrong_type(node, name, "a whole number", help, faults);
        default
    })
}

fn one_of(fields: &Fields<'_>, name: &str, known: &[&str], default: &str, faults: &mut Vec<Fault>) -> String {
    let Some(given) = fields.text(name, faults) else { return default.to_owned() };
    if !known.contains(&given.text) {
        let help = match nearest(given.text, known) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("one of {}", quoted(known)),
        };
        let message = format!("`{name}` can't be `{}`", short(given.text));
        faults.push(Fault::new("resource.value", given.spot, message, help));
    }
    given.text.to_owned()
}
