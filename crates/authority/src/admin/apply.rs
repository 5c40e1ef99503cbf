//! Apply: many sites, registrations, policies and keys at once, all of them or none.
//!
//! What is described is planned against the state that the commit is made to, so that a dry run (the same plan, against
//! the state of now) tells exactly what the commit does. There is no ownership of fields: a resource becomes what is
//! described, whoever wrote it before. That nobody's change is lost unseen is the callers' part: they list what they
//! compared, and whatever has another revision by then refuses the whole.
//!
//! What keys need beside a commit is done around it: the secrets of new ones are drawn before, and the ledger of keys has the
//! intent before and the outcome after. A commit that would do something else to keys than was intended is refused.

mod plan;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bonafide_kms::ciphertext::KeyId;
use bonafide_wire::{
    admin::{
        Applied, ApplyRequest, ApplyResponse, Compared, Resource, ResourceKind, applied::Action,
        resource::Resource as Described,
    },
    types,
};

use self::plan::{Item, Outcome, Plan, Record, Request, TouchedKey};
use super::{Admin, Caller, idempotency, keys};
use crate::{
    convert::wire,
    idempotency::Idempotency,
    kms::lifecycle::{self, Drawn, Title},
    policy::{PolicyRecord, read_one},
    refusal::Refusal,
    state::State,
};

/// Resources of one apply; with what they entail, they fit one commit.
const MAX_RESOURCES: usize = 4000;
/// Longest name of any resource: that of a key.
const MAX_NAME: usize = bonafide_kms::key::MAX_NAME;
/// What an idempotency key remembers of an apply.
const NAME: &str = "apply";

/// What a resource is called.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    kind: ResourceKind,
    name: String,
}

impl Admin {
    /// Makes sites and registrations as they are described, in one commit. If anything is refused, nothing is written:
    /// the answer then says what is refused, and is not `committed`.
    ///
    /// # Errors
    /// A caller without rights, a request beyond its bounds, and what keeps the commit itself from happening.
    pub async fn apply(&self, caller: &Caller, request: ApplyRequest) -> Result<ApplyResponse, Refusal> {
        let count = request.resources.len().max(request.compared.len());
        if count > MAX_RESOURCES {
            return Err(Refusal::invalid(
                "apply.too-many",
                format!("{count} resources are more than {MAX_RESOURCES}"),
            )
            .hint("apply them in parts, or write a rule in place of many entries"));
        }
        let key = request.idempotency_key.clone();
        let own = ApplyRequest { idempotency_key: String::new(), ..request };
        let idempotency = idempotency(caller, "Apply", &key, &own)?;
        let units = u32::try_from(count).unwrap_or(u32::MAX);
        self.quota.charge(caller, if own.dry_run { 1 + units / 100 } else { 1 + units / 20 })?;
        let now = self.clock.now();
        let (state, rights) = self.reader(caller)?;
        let wanted = Request {
            items: items(&own.resources, &state, now, || KeyId::from_bytes(self.random.array())),
            pruned: prune_candidates(&own, &state, &rights)?,
            prune: own.prune.clone(),
            compared: compared(&own.compared)?,
            drawn: BTreeMap::new(),
            now,
        };
        let plan =
            Plan::of(&wanted, &state, &rights).guarded(|call| self.guard.check(caller, call, &state, now));
        if own.dry_run {
            return Ok(answer(&plan.warned(&state), Some(&state), state.revision(), false));
        }
        let touched = if plan.is_refused() { Vec::new() } else { plan.keys() };
        drop((plan, state));
        if touched.is_empty() {
            return self.commit(caller, wanted, idempotency, touched).await;
        }
        self.apply_keys(caller, wanted, idempotency, touched).await
    }

    /// Draws what is new, and commits, with the ledger of keys around it.
    async fn apply_keys(
        &self,
        caller: &Caller,
        wanted: Request,
        idempotency: Idempotency,
        touched: Vec<TouchedKey>,
    ) -> Result<ApplyResponse, Refusal> {
        let service = self.service_of_keys()?;
        let title = |key: &TouchedKey| Title {
            actor: Self::actor(caller),
            change: if key.created { "create" } else { "configure" },
            key: key.record.name().to_owned(),
            key_id: bytes::Bytes::copy_from_slice(key.record.id()),
            version: u32::from(key.created),
        };
        let titles = touched.iter().map(title).collect();
        let mut drawn: BTreeMap<String, Drawn> = BTreeMap::new();
        let commit = async {
            for TouchedKey { record, .. } in touched.iter().filter(|key| key.created) {
                let (key, flags) = (&record.key, lifecycle::flags_of(&record.key));
                let first = service.draw(key.id, 1, key.key_type, flags, None).await?;
                drawn.insert(record.name().to_owned(), first);
            }
            let wanted = Request { drawn: drawn.clone(), ..wanted };
            let answer = self.commit(caller, wanted, idempotency, touched.clone()).await?;
            if !answer.committed && !answer.replayed {
                return Err(changed_meanwhile());
            }
            let revision = answer.revision;
            Ok((answer, revision))
        };
        let done = service.recorded_all(titles, commit).await;
        let taken_back = match &done {
            Ok(answer) if answer.committed => None,
            Ok(_) => Some(Refusal::precondition("kms.replayed", "it was done before")),
            Err(refusal) => Some(refusal.clone()),
        };
        if let Some(refusal) = taken_back {
            for one in drawn.values() {
                service.undo(one, &refusal).await;
            }
        }
        done
    }

    async fn commit(
        &self,
        caller: &Caller,
        wanted: Request,
        idempotency: Idempotency,
        touched: Vec<TouchedKey>,
    ) -> Result<ApplyResponse, Refusal> {
        let now = wanted.now;
        let (caller, guard) = (caller.clone(), Arc::clone(&self.guard));
        let (_, told) = self
            .registry
            .write_with(move |state| {
                let rights = caller.rights(state, now)?;
                if let Some(replay) = idempotency.replay(state, now)? {
                    let revision = replay.revision;
                    return Ok((
                        Vec::new(),
                        ApplyResponse { revision, replayed: true, ..ApplyResponse::default() },
                    ));
                }
                let mut plan =
                    Plan::of(&wanted, state, &rights).guarded(|call| guard.check(&caller, call, state, now));
                let mut changes = std::mem::take(&mut plan.changes);
                if plan.is_refused() || changes.is_empty() {
                    return Ok((Vec::new(), answer(&plan, None, state.revision(), false)));
                }
                if plan.keys() != touched {
                    return Err(changed_meanwhile());
                }
                let revision = state.revision() + changes.len() as u64;
                changes.extend(idempotency.remember(revision, NAME, now));
                Ok((changes, answer(&plan, None, revision, true)))
            })
            .await?;
        Ok(told)
    }
}

/// Between the look at the state and the commit, somebody has written what the apply is about.
fn changed_meanwhile() -> Refusal {
    Refusal::new(
        tonic::Code::Aborted,
        "apply.changed-meanwhile",
        "a key that the apply is about was changed meanwhile",
    )
    .hint("run it again, and look at the difference")
}

impl Key {
    fn application_key(name: &str) -> Self {
        Self { kind: ResourceKind::Key, name: name.to_owned() }
    }

    fn policy(name: &str) -> Self {
        Self { kind: ResourceKind::Policy, name: name.to_owned() }
    }

    fn site(name: &str) -> Self {
        Self { kind: ResourceKind::Site, name: name.to_owned() }
    }

    fn registration(id: &str) -> Self {
        Self { kind: ResourceKind::Registration, name: id.to_owned() }
    }
}

/// Each resource in its typed form, or why it has none.
fn items(
    resources: &[Resource],
    state: &State,
    now: bonafide_identity::time::UnixTime,
    fresh_id: impl Fn() -> KeyId,
) -> Vec<(Key, Result<Item, Refusal>)> {
    let mut seen = BTreeSet::new();
    resources
        .iter()
        .map(|resource| {
            let (key, item) = match &resource.resource {
                Some(Described::Site(site)) => {
                    let item = wire::to_site(site, state.trust_domain(), now).map(Arc::new).map(Item::Site);
                    (Key::site(&bounded(&site.name)), item)
                }
                Some(Described::Policy(policy)) => {
                    let item = PolicyRecord::of_source(&policy.source, now);
                    let name = item.as_ref().map_or(policy.name.as_str(), |policy| &policy.name);
                    (Key::policy(&bounded(name)), item.map(Arc::new).map(Item::Policy))
                }
                Some(Described::Key(key)) => {
                    let item = keys::to_described(key, fresh_id(), now).map(Arc::new).map(Item::Key);
                    (Key::application_key(&key.name.chars().take(MAX_NAME).collect::<String>()), item)
                }
                Some(Described::Registration(registration)) => {
                    // There is no ID to draw: to apply the same again must not make another one.
                    let item = wire::to_registration(registration, state.trust_domain(), "", now);
                    let item = item.map(Arc::new).map(Item::Registration);
                    (Key::registration(&bounded(&registration.id)), item)
                }
                None => (
                    Key { kind: ResourceKind::Unspecified, name: String::new() },
                    Err(Refusal::invalid(
                        "apply.kind",
                        "a resource of a kind that this server does not know",
                    )
                    .hint("upgrade the server")),
                ),
            };
            let item = item.and_then(|item| match seen.insert(key.clone()) {
                true => Ok(item),
                false => Err(Refusal::invalid("apply.twice", format!("`{}` is described twice", key.name))
                    .hint("keep one of the two")),
            });
            (key, item)
        })
        .collect()
}

/// A name that is echoed before it was checked.
fn bounded(name: &str) -> String {
    name.chars().take(80).collect()
}

fn compared(wire: &[Compared]) -> Result<BTreeMap<Key, u64>, Refusal> {
    wire.iter()
        .map(|compared| {
            if compared.name.len() > MAX_NAME {
                return Err(Refusal::invalid("apply.compared", "a compared name is longer than 128 bytes"));
            }
            Ok((Key { kind: compared.kind(), name: compared.name.clone() }, compared.revision))
        })
        .collect()
}

/// What has the labels now, looked for before the writer's turn: others must not wait for that.
fn prune_candidates(
    request: &ApplyRequest,
    state: &State,
    rights: &super::Rights,
) -> Result<Vec<Key>, Refusal> {
    if request.prune.is_empty() {
        return Ok(Vec::new());
    }
    let labels = wire::to_management_labels(&request.prune)?;
    let described: BTreeSet<Key> = request
        .resources
        .iter()
        .filter_map(|resource| match &resource.resource {
            Some(Described::Site(site)) => Some(Key::site(&site.name)),
            Some(Described::Key(key)) => Some(Key::application_key(&key.name)),
            Some(Described::Registration(registration)) => Some(Key::registration(&registration.id)),
            Some(Described::Policy(policy)) => {
                let name = read_one(&policy.source).map(|document| document.body().name().to_string());
                Some(Key::policy(&name.unwrap_or_else(|_| policy.name.clone())))
            }
            None => None,
        })
        .collect();
    let registrations = state
        .registrations_after("")
        .filter(|registration| rights.sees(&registration.site))
        .filter(|registration| plan::has_labels(&registration.management_labels, &labels))
        .map(|registration| Key::registration(&registration.id));
    // Sites are not a site admin's to delete.
    let sites = state
        .sites_after("")
        .filter(|_| rights.everything().is_ok())
        .filter(|site| plan::has_labels(&site.management_labels, &labels))
        .map(|site| Key::site(&site.name));
    let policies = state
        .policies_after("")
        .filter(|policy| rights.of_policy(policy).is_ok())
        .filter(|policy| plan::has_labels(&policy.management_labels, &labels))
        .map(|policy| Key::policy(&policy.name));
    let keys = state
        .keys_after("")
        .filter(|record| rights.of_key(record).is_ok() && plan::is_kept(record))
        .filter(|record| plan::has_labels(&record.management_labels, &labels))
        .map(|record| Key::application_key(record.name()));
    let found: Vec<Key> = registrations
        .chain(policies)
        .chain(sites)
        .chain(keys)
        .filter(|key| !described.contains(key))
        .take(MAX_RESOURCES + 1 - request.resources.len().min(MAX_RESOURCES))
        .collect();
    if found.len() + request.resources.len() > MAX_RESOURCES {
        return Err(Refusal::invalid(
            "apply.too-many",
            format!("with what would be pruned, these are more than {MAX_RESOURCES} resources"),
        )
        .hint("prune by a narrower label, or delete some of them first"));
    }
    Ok(found)
}

/// The plan on the wire; with the state that it was made for, also what stands and what would stand.
fn answer(plan: &Plan, state: Option<&State>, revision: u64, committed: bool) -> ApplyResponse {
    let results = plan.outcomes.iter().map(|outcome| applied(outcome, state.is_some())).collect();
    ApplyResponse { results, revision, committed, replayed: false }
}

fn applied(outcome: &Outcome, with_records: bool) -> Applied {
    let shown = |record: &Option<Record>| {
        record.as_ref().filter(|_| with_records && outcome.action != Action::Unchanged).map(to_resource)
    };
    Applied {
        kind: outcome.key.kind.into(),
        name: outcome.key.name.clone(),
        action: outcome.action.into(),
        before: shown(&outcome.before),
        after: shown(&outcome.after),
        problem: outcome.refusal.as_ref().map(Refusal::to_problem),
        warnings: outcome.warnings.iter().map(Refusal::to_problem).collect(),
    }
}

fn to_resource(record: &Record) -> Resource {
    let resource = match record {
        Record::Site(site) => Described::Site(wire::from_site(site)),
        Record::Policy(policy) => Described::Policy(policy.to_wire()),
        Record::Key(key) => Described::Key(keys::described(key)),
        Record::Registration(registration) => {
            let wire: types::Registration = wire::from_registration(registration);
            Described::Registration(wire)
        }
    };
    Resource { resource: Some(resource) }
}
