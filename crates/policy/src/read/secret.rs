//! What a `SecretPolicy` asks for beside the authority's word.

use super::list::{many, map, word};
use crate::{
    model::{Evidence, SelectorRequirements, Witness},
    set::Map,
    words::{SelectorKey, SelectorValue},
    yaml::{
        fault::Fault,
        fields::{Fields, short},
        tree::Value,
    },
};

const HABITS: [(&str, &str); 2] =
    [("selectors", "write `node:` or `workload:`, and the selectors below it"), ("pod", "write `workload`")];

/// `evidence` and `witness`, which come together.
pub(super) fn evidence(fields: &Fields<'_>, faults: &mut Vec<Fault>) -> Evidence {
    let words = [("authority", false), ("witness", true)];
    let node = fields.get("evidence");
    let is_witnessed = word(node, "evidence", &words, faults);
    let witness = fields.get("witness").and_then(|found| {
        let known = Fields::of(found, "`witness`", &["node", "workload"], &HABITS, faults)?;
        let node = selectors(&known, "node", faults);
        Some((found.spot, Witness { node, workload: selectors(&known, "workload", faults) }))
    });
    match (is_witnessed, witness) {
        (Some(true), Some((spot, witness))) => {
            if witness.workload.is_empty() {
                let message = "the witness says nothing of the workload";
                let help = "name selectors of the `workload`; otherwise the authority's word decides alone, \
                            and `evidence: authority` says so";
                faults.push(Fault::new("policy.secret-witness", spot, message, help));
            }
            Evidence::Witness(witness)
        }
        (Some(true), None) => {
            if let Some(node) = node.filter(|_| fields.get("witness").is_none()) {
                let message = "it is not said what the witness must have measured";
                let help = "write `witness: {workload: {k8s.ns: billing}}`, or `evidence: authority`";
                faults.push(Fault::new("policy.secret-witness", node.spot, message, help));
            }
            Evidence::Authority
        }
        (_, Some((spot, _))) => {
            let message = "no witness is asked with `evidence: authority`";
            faults.push(Fault::new("policy.secret-witness", spot, message, "write `evidence: witness`"));
            Evidence::Authority
        }
        (_, None) => Evidence::Authority,
    }
}

/// `{key: value}`, or `{key: [one, another]}`. There is no `not` and no `absent`: what a node has not measured would be met.
fn selectors(fields: &Fields<'_>, name: &'static str, faults: &mut Vec<Fault>) -> SelectorRequirements {
    let Some(pairs) = fields.get(name).and_then(|node| map(node, name, faults)) else {
        return Map::default();
    };
    let mut all = Vec::new();
    for (key, node) in pairs {
        if matches!(node.value, Value::Map(_)) {
            let message = format!("`{}`: a selector has a value, or one of several", short(&key.text));
            let help = "write `key: value`, or `key: [one, another]`";
            faults.push(Fault::new("policy.selector", node.spot, message, help));
            continue;
        }
        let values = many(Some(node), &key.text, faults, SelectorValue::parse);
        match SelectorKey::parse(&key.text) {
            Ok(key) => all.push((key, values)),
            Err(unfit) => {
                let message = format!("`{}`: {unfit}", short(&key.text));
                faults.push(Fault::new(unfit.code(), key.spot, message, unfit.hint()));
            }
        }
    }
    all.into_iter().collect()
}
