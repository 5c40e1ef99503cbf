//! What a described set of resources comes to in one state: a pure function, for dry runs and commits alike.

mod keys;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use bonafide_attest::registration::Registration;
use bonafide_identity::time::UnixTime;
use bonafide_wire::admin::{ResourceKind, applied::Action};

pub(super) use self::keys::is_kept;
use self::keys::unpruned;
use super::Key;
use crate::{
    admin::{
        Rights,
        policies::Shares,
        registrations::{taken, unknown_site},
        sites::{self, check_count, deletion},
    },
    kms::{KeyRecord, lifecycle::Drawn},
    policy::PolicyRecord,
    records::{self, Object, RecordChange},
    refusal::Refusal,
    scope,
    site::Site,
    state::{SiteState, State},
};

/// Registrations of a site that a narrower scope is tried on, for a warning.
const MAX_TRIED: usize = 10_000;

/// What is wanted: checked in itself, not yet against any state.
#[derive(Clone, Debug)]
pub(super) struct Request {
    pub(super) items: Vec<(Key, Result<Item, Refusal>)>,
    /// What had the labels of `prune`, and is not described.
    pub(super) pruned: Vec<Key>,
    pub(super) prune: BTreeMap<String, String>,
    /// Empty: nothing was compared, and nothing is checked.
    pub(super) compared: BTreeMap<Key, u64>,
    /// First versions of new keys, by name; none as long as nothing is committed.
    pub(super) drawn: BTreeMap<String, Drawn>,
    pub(super) now: UnixTime,
}

/// One described resource.
#[derive(Clone, Debug)]
pub(super) enum Record {
    Site(Arc<Site>),
    Registration(Arc<Registration>),
    Policy(Arc<PolicyRecord>),
    Key(Arc<KeyRecord>),
}

/// A key that an apply makes or sets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TouchedKey {
    pub(super) created: bool,
    /// As it will be.
    pub(super) record: Arc<KeyRecord>,
}

/// As it was described.
pub(super) type Item = Record;

/// What becomes of one resource.
#[derive(Clone, Debug)]
pub(super) struct Outcome {
    pub(super) key: Key,
    pub(super) action: Action,
    pub(super) before: Option<Record>,
    pub(super) after: Option<Record>,
    pub(super) refusal: Option<Refusal>,
    pub(super) warnings: Vec<Refusal>,
}

/// What becomes of all of them.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    /// In the order of the request, then what is pruned.
    pub(super) outcomes: Vec<Outcome>,
    /// Only to be committed if nothing is refused.
    pub(super) changes: Vec<RecordChange>,
}

/// Whether all of `wanted` are among `labels`.
pub(super) fn has_labels(labels: &BTreeMap<String, String>, wanted: &BTreeMap<String, String>) -> bool {
    wanted.iter().all(|(key, value)| labels.get(key) == Some(value))
}

impl Plan {
    /// Sites first, because registrations are judged by the scopes that they bring; then registrations; then what is
    /// pruned.
    pub(super) fn of(request: &Request, state: &State, rights: &Rights) -> Self {
        let mut planner = Planner { request, state, rights, sites: BTreeMap::new(), names: BTreeSet::new() };
        let mut outcomes: Vec<Option<Outcome>> = request.items.iter().map(|_| None).collect();
        for sites_turn in [true, false] {
            for ((key, item), slot) in request.items.iter().zip(&mut outcomes) {
                if (key.kind == ResourceKind::Site) == sites_turn {
                    *slot = Some(match item {
                        Ok(Record::Site(site)) => planner.site(key, site),
                        Ok(Record::Registration(registration)) => planner.registration(key, registration),
                        Ok(Record::Policy(policy)) => planner.policy(key, policy),
                        Ok(Record::Key(record)) => planner.key(key, record),
                        Err(refusal) => Outcome::refused(key, refusal.clone()),
                    });
                }
            }
        }
        let mut outcomes: Vec<Outcome> = outcomes.into_iter().flatten().collect();
        let pruned: Vec<Outcome> =
            [ResourceKind::Key, ResourceKind::Policy, ResourceKind::Registration, ResourceKind::Site]
                .into_iter()
                .flat_map(|kind| request.pruned.iter().filter(move |key| key.kind == kind))
                .filter_map(|key| planner.deletion(key, &outcomes))
                .collect();
        outcomes.extend(pruned);
        planner.count_sites(&mut outcomes);
        planner.count_policies(&mut outcomes);
        planner.count_keys(&mut outcomes);
        let changes = changes(&outcomes, state, &request.drawn);
        Self { outcomes, changes }
    }

    /// The keys that it makes or sets.
    pub(super) fn keys(&self) -> Vec<TouchedKey> {
        let touched = |outcome: &Outcome| match (&outcome.after, outcome.action) {
            (Some(Record::Key(record)), Action::Created | Action::Changed) => {
                Some(TouchedKey { created: outcome.action == Action::Created, record: Arc::clone(record) })
            }
            _ => None,
        };
        self.outcomes.iter().filter_map(touched).collect()
    }

    pub(super) fn is_refused(&self) -> bool {
        self.outcomes.iter().any(|outcome| outcome.refusal.is_some())
    }

    /// Refuses what policies deny the caller to do to a resource by itself: together with others it is not less.
    pub(super) fn guarded(mut self, check: impl Fn(&str) -> Result<(), Refusal>) -> Self {
        let mut checked: HashMap<&str, Result<(), Refusal>> = HashMap::new();
        for outcome in &mut self.outcomes {
            let Some(call) = outcome.call() else { continue };
            if let Err(refusal) = checked.entry(call).or_insert_with(|| check(call)) {
                outcome.action = Action::Refused;
                outcome.refusal = Some(refusal.clone());
            }
        }
        self
    }

    /// With what is allowed, and probably not meant.
    pub(super) fn warned(mut self, state: &State) -> Self {
        let described: BTreeSet<String> = self
            .outcomes
            .iter()
            .filter(|outcome| outcome.key.kind == ResourceKind::Registration)
            .map(|outcome| outcome.key.name.clone())
            .collect();
        for outcome in &mut self.outcomes {
            match (&outcome.after, outcome.action) {
                (Some(Record::Site(site)), Action::Changed) => {
                    outcome.warnings.extend(stranded(site, state, &described));
                }
                (Some(Record::Registration(registration)), Action::Created | Action::Changed) => {
                    outcome.warnings.extend(absent_parent(registration, state));
                }
                _ => (),
            }
        }
        self
    }
}

struct Planner<'a> {
    request: &'a Request,
    state: &'a State,
    rights: &'a Rights,
    /// Those that the apply brings or changes.
    sites: BTreeMap<Arc<str>, Arc<Site>>,
    /// Names and aliases of keys that the apply brings.
    names: BTreeSet<String>,
}

impl Planner<'_> {
    fn site(&mut self, key: &Key, wanted: &Arc<Site>) -> Outcome {
        if let Err(refusal) = self.rights.of_site(&wanted.name) {
            return Outcome::refused(key, refusal);
        }
        let before = self.state.site(&wanted.name).and_then(SiteState::site);
        let created_at = before.as_ref().map_or(wanted.created_at, |before| before.created_at);
        let after = Arc::new(Site { created_at, ..(**wanted).clone() });
        let outcome = Outcome {
            key: key.clone(),
            action: if before.is_some() { Action::Changed } else { Action::Created },
            before: before.cloned().map(Record::Site),
            after: Some(Record::Site(after.clone())),
            refusal: None,
            warnings: Vec::new(),
        };
        if before.is_some_and(|before| before.says_the_same_as(wanted)) {
            return Outcome { action: Action::Unchanged, ..outcome };
        }
        let checked = self
            .rights
            .everything()
            .and_then(|()| self.compared(key, before.map_or(0, |before| before.revision)));
        if checked.is_ok() {
            self.sites.insert(after.name.clone(), after);
        }
        outcome.unless(checked)
    }

    fn registration(&self, key: &Key, wanted: &Arc<Registration>) -> Outcome {
        if let Err(refusal) = self.rights.of_site(&wanted.site) {
            return Outcome::refused(key, refusal);
        }
        let before = match self.state.registration(&wanted.id) {
            // Says no more about what is another site's.
            Some(before) if before.site != wanted.site => return Outcome::refused(key, taken(&wanted.id)),
            before => before,
        };
        let created_at = before.as_ref().map_or(wanted.created_at, |before| before.created_at);
        let after = Registration { created_at, ..(**wanted).clone() };
        let revision = before.as_ref().map_or(0, |before| before.revision);
        let same =
            before.as_ref().is_some_and(|before| **before == Registration { revision, ..after.clone() });
        let outcome = Outcome {
            key: key.clone(),
            action: if before.is_some() { Action::Changed } else { Action::Created },
            before: before.map(Record::Registration),
            after: Some(Record::Registration(Arc::new(after))),
            refusal: None,
            warnings: Vec::new(),
        };
        if same {
            return Outcome { action: Action::Unchanged, ..outcome };
        }
        let known = self.state.site(&wanted.site).and_then(SiteState::site);
        let checked = match self.sites.get(wanted.site.as_str()).or(known) {
            None => Err(unknown_site(&wanted.site)),
            Some(site) => scope::check_registration(site, wanted).and_then(|()| self.compared(key, revision)),
        };
        outcome.unless(checked)
    }

    fn policy(&self, key: &Key, wanted: &Arc<PolicyRecord>) -> Outcome {
        let before = self.state.policy(&wanted.name);
        if let Err(refusal) =
            before.into_iter().chain([wanted]).try_for_each(|one| self.rights.of_policy(one))
        {
            return Outcome::refused(key, refusal);
        }
        let created_at = before.map_or(wanted.created_at, |before| before.created_at);
        let outcome = Outcome {
            key: key.clone(),
            action: if before.is_some() { Action::Changed } else { Action::Created },
            before: before.cloned().map(Record::Policy),
            after: Some(Record::Policy(Arc::new(PolicyRecord { created_at, ..(**wanted).clone() }))),
            refusal: None,
            warnings: Vec::new(),
        };
        if before.is_some_and(|before| before.says_the_same_as(wanted)) {
            return Outcome { action: Action::Unchanged, ..outcome };
        }
        let revision = before.map_or(0, |before| before.revision);
        outcome.unless(self.compared(key, revision))
    }

    /// `None`: it has gone by itself, or has other labels by now.
    fn deletion(&self, key: &Key, outcomes: &[Outcome]) -> Option<Outcome> {
        let prune = &self.request.prune;
        let (before, revision, checked) = if key.kind == ResourceKind::Key {
            let record = self.state.key(&key.name).filter(|record| is_kept(record))?;
            let record = Some(record).filter(|record| has_labels(&record.management_labels, prune))?;
            (Record::Key(Arc::clone(record)), record.revision, Err(unpruned(&key.name)))
        } else if key.kind == ResourceKind::Policy {
            let policy = self.state.policy(&key.name)?;
            let policy = Some(policy).filter(|policy| has_labels(&policy.management_labels, prune))?;
            (Record::Policy(Arc::clone(policy)), policy.revision, self.rights.of_policy(policy))
        } else if key.kind == ResourceKind::Site {
            let site = self.state.site(&key.name)?;
            let record = site.site().filter(|site| has_labels(&site.management_labels, prune))?;
            let checked = self.rights.everything().and_then(|()| self.is_empty(site, key, outcomes));
            (Record::Site(record.clone()), record.revision, checked)
        } else {
            let registration = self.state.registration(&key.name)?;
            if !has_labels(&registration.management_labels, prune) {
                return None;
            }
            let checked = self.rights.of_site(&registration.site);
            (Record::Registration(Arc::clone(&registration)), registration.revision, checked)
        };
        let outcome = Outcome {
            key: key.clone(),
            action: Action::Deleted,
            before: Some(before),
            after: None,
            refusal: None,
            warnings: Vec::new(),
        };
        Some(outcome.unless(checked.and_then(|()| self.compared(key, revision))))
    }

    /// Whether the site may go: after what this very apply does to its registrations.
    fn is_empty(&self, site: &SiteState, key: &Key, outcomes: &[Outcome]) -> Result<(), Refusal> {
        let pruned: BTreeSet<&str> = self
            .request
            .pruned
            .iter()
            .filter(|pruned| pruned.kind == ResourceKind::Registration)
            .map(|pruned| pruned.name.as_str())
            .collect();
        let stays = |id: &&str| {
            let labelled = self
                .state
                .registration(id)
                .is_some_and(|own| has_labels(&own.management_labels, &self.request.prune));
            !(labelled && pruned.contains(id))
        };
        let come = outcomes.iter().filter(|outcome| match (&outcome.after, outcome.action) {
            (Some(Record::Registration(own)), Action::Created) => own.site == key.name,
            _ => false,
        });
        let registrations = site.registration_ids_after("").filter(stays).count() + come.count();
        sites::check_unused(self.state, site, &key.name, registrations)
    }

    fn compared(&self, key: &Key, revision: u64) -> Result<(), Refusal> {
        let compared = &self.request.compared;
        if compared.is_empty() || compared.get(key) == Some(&revision) {
            return Ok(());
        }
        let name = &key.name;
        let message = match (compared.get(key), revision) {
            (None, _) => format!("`{name}` was as it should be when it was compared, and is not any more"),
            (Some(0), _) => format!("`{name}` did not exist when it was compared, and does now"),
            (Some(_), 0) => format!("`{name}` was deleted since it was compared"),
            (Some(then), _) => {
                format!("`{name}` was compared at revision {then}, and is at {revision} by now")
            }
        };
        Err(Refusal::new(tonic::Code::Aborted, "apply.changed-meanwhile", message)
            .hint("somebody else wrote it: run it again, and look at the difference"))
    }

    /// Refuses the new sites if there would be too many.
    fn count_sites(&self, outcomes: &mut [Outcome]) {
        let sites = |outcome: &Outcome, action: Action| {
            outcome.key.kind == ResourceKind::Site && outcome.action == action
        };
        let created = outcomes.iter().filter(|outcome| sites(outcome, Action::Created)).count();
        if created == 0 {
            return;
        }
        let deleted = outcomes.iter().filter(|outcome| sites(outcome, Action::Deleted)).count();
        let count = self.state.sites().count() + created - deleted;
        if let Err(refusal) = check_count(count) {
            for outcome in outcomes.iter_mut().filter(|outcome| sites(outcome, Action::Created)) {
                outcome.action = Action::Refused;
                outcome.refusal = Some(refusal.clone());
            }
        }
    }
}

impl Planner<'_> {
    /// Refuses policies beyond what there may be, counted as the whole apply leaves them.
    fn count_policies(&self, outcomes: &mut [Outcome]) {
        let mut after: BTreeMap<&str, &Arc<PolicyRecord>> =
            self.state.policies_after("").map(|policy| (&*policy.name, policy)).collect();
        let mut written = false;
        for outcome in outcomes.iter() {
            match (outcome.action, &outcome.before, &outcome.after) {
                (Action::Created | Action::Changed, _, Some(Record::Policy(policy))) => {
                    after.insert(&policy.name, policy);
                    written = true;
                }
                (Action::Deleted, Some(Record::Policy(policy)), _) => drop(after.remove(&*policy.name)),
                _ => (),
            }
        }
        if !written {
            return;
        }
        let shares = Shares::of(after.into_values());
        let everything = self.rights.everything().is_ok();
        let refusals: Vec<_> = outcomes
            .iter()
            .map(|outcome| match (outcome.action, &outcome.before, &outcome.after) {
                (Action::Created, _, Some(Record::Policy(policy))) => {
                    shares.check(policy, None, everything).err()
                }
                (Action::Changed, Some(Record::Policy(before)), Some(Record::Policy(policy))) => {
                    shares.check(policy, Some(before), everything).err()
                }
                _ => None,
            })
            .collect();
        for (outcome, refusal) in outcomes.iter_mut().zip(refusals) {
            if refusal.is_some() {
                outcome.action = Action::Refused;
                outcome.refusal = refusal;
            }
        }
    }
}

impl Outcome {
    /// The call that does this to the one resource; none if nothing is done.
    fn call(&self) -> Option<&'static str> {
        match (self.action, self.key.kind) {
            (Action::Created | Action::Changed, ResourceKind::Site) => Some("PutSite"),
            (Action::Created | Action::Changed, ResourceKind::Registration) => Some("PutRegistration"),
            (Action::Created | Action::Changed, ResourceKind::Policy) => Some("PutPolicy"),
            (Action::Created, ResourceKind::Key) => Some("CreateKey"),
            (Action::Changed, ResourceKind::Key) => Some("ChangeKey"),
            (Action::Deleted, ResourceKind::Site) => Some("DeleteSite"),
            (Action::Deleted, ResourceKind::Registration) => Some("DeleteRegistration"),
            (Action::Deleted, ResourceKind::Policy) => Some("DeletePolicy"),
            _ => None,
        }
    }

    fn refused(key: &Key, refusal: Refusal) -> Self {
        Self {
            key: key.clone(),
            action: Action::Refused,
            before: None,
            after: None,
            refusal: Some(refusal),
            warnings: Vec::new(),
        }
    }

    fn unless(self, checked: Result<(), Refusal>) -> Self {
        match checked {
            Ok(()) => self,
            Err(refusal) => Self { action: Action::Refused, refusal: Some(refusal), ..self },
        }
    }
}

/// Registrations go before their site, and sites come before theirs.
fn changes(outcomes: &[Outcome], state: &State, drawn: &BTreeMap<String, Drawn>) -> Vec<RecordChange> {
    let mut sites = Vec::new();
    let mut registrations = Vec::new();
    let mut gone = Vec::new();
    for outcome in outcomes {
        match (outcome.action, &outcome.before, &outcome.after) {
            (Action::Created | Action::Changed, _, Some(Record::Site(site))) => {
                sites.push(RecordChange::Put(Object::Site(site.clone())));
            }
            (Action::Created | Action::Changed, _, Some(Record::Registration(registration))) => {
                registrations.push(RecordChange::Put(Object::Registration(registration.clone())));
            }
            (Action::Deleted, Some(Record::Site(site)), _) => {
                if let Some(own) = state.site(&site.name) {
                    gone.extend(deletion(state, own, &site.name));
                }
            }
            (Action::Created | Action::Changed, _, Some(Record::Policy(policy))) => {
                registrations.push(RecordChange::Put(Object::Policy(policy.clone())));
            }
            (Action::Created | Action::Changed, before, Some(Record::Key(record))) => {
                // Of a new one there is a first version as soon as it is to be committed.
                if before.is_none() {
                    let first = drawn.get(record.name()).map(|drawn| Arc::clone(&drawn.record));
                    registrations.extend(first.map(|first| RecordChange::Put(Object::KeyVersion(first))));
                }
                registrations.push(RecordChange::Put(Object::Key(Arc::clone(record))));
            }
            (Action::Deleted, Some(Record::Policy(policy)), _) => {
                registrations.push(RecordChange::Remove(records::policy_key(&policy.name)));
            }
            (Action::Deleted, Some(Record::Registration(registration)), _) => {
                registrations.push(RecordChange::Remove(records::registration_key(&registration.id)));
            }
            _ => (),
        }
    }
    sites.into_iter().chain(registrations).chain(gone).collect()
}

/// What a narrower scope leaves outside, of what is not described anew.
fn stranded(site: &Site, state: &State, described: &BTreeSet<String>) -> Option<Refusal> {
    let own = state.site(&site.name)?;
    let before = own.site()?;
    let outside = own
        .registration_ids_after("")
        .take(MAX_TRIED)
        .filter(|id| !described.contains(*id))
        .filter_map(|id| state.registration(id))
        .filter(|registration| scope::check_registration(before, registration).is_ok())
        .filter(|registration| scope::check_registration(site, registration).is_err());
    let (mut count, mut first) = (0_usize, None);
    for registration in outside {
        count += 1;
        first.get_or_insert_with(|| registration.id.clone());
    }
    let first = first?;
    let message = format!("the narrower scope leaves {count} registrations outside, `{first}` among them");
    Some(Refusal::precondition("site.strands", message).hint("they stay, and earn nothing from then on"))
}

fn absent_parent(registration: &Registration, state: &State) -> Option<Refusal> {
    let parent = registration.parent.as_ref().filter(|parent| state.agent(parent).is_none())?;
    let message = format!("no agent `{parent}` has joined yet");
    Some(
        Refusal::precondition("registration.parent-unknown", message)
            .hint("until it joins, nobody earns this; `bonafide agent list` names the agents"),
    )
}
