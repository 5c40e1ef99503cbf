use std::collections::BTreeMap;

use bonafide_identity::revocation::{Revocation, Subject};
use bonafide_identity::{InstanceId, TrustDomain, UnixTime};
use bonafide_wire::apply_revocations;
use proptest::prelude::*;

use super::*;
use crate::policy::PolicyRecord;
use crate::records::{Object, RevocationRecord};
use crate::stream::revoked::RevocationRing;

/// A log with registrations of one agent, and a ring of bounded length.
#[derive(Debug)]
struct Log {
    incarnation: u8,
    revision: u64,
    registrations: BTreeMap<String, u64>,
    ring: VecDeque<(u64, AgentChange)>,
    floor: u64,
    bundle_revision: u64,
    padding: usize,
    revocations: Arc<Revocations>,
    revoked: RevocationRing,
    policies: BTreeMap<String, u64>,
}

fn no_revocations() -> Revocations {
    Revocations::new(TrustDomain::parse("example.org").unwrap())
}

/// A policy; `other` says something else under the same name and revision.
fn policy_of(name: &str, revision: u64, other: bool) -> PolicyRecord {
    let rule = if other { "deny" } else { "allow" };
    let source = format!("{{kind: Policy, name: p{name}, rules: [{{name: a, {rule}: {{who: anyone}}}}]}}");
    let record = PolicyRecord::of_source(&source, UnixTime::from_secs(1)).unwrap();
    PolicyRecord { revision, ..record }
}

impl Default for Log {
    fn default() -> Self {
        let revocations = Arc::new(no_revocations());
        Self {
            incarnation: 0,
            revision: 0,
            registrations: BTreeMap::new(),
            ring: VecDeque::new(),
            floor: 0,
            bundle_revision: 0,
            padding: 0,
            revoked: RevocationRing::at(&revocations, 0),
            revocations,
            policies: BTreeMap::new(),
        }
    }
}

impl Log {
    fn put(&mut self, id: &str) {
        self.revision += 1;
        let before = self.registrations.insert(id.to_owned(), self.revision);
        let after = Arc::new(self.show(id, self.revision));
        self.note(AgentChange { id: id.into(), before, after: Some(after) });
    }

    fn remove(&mut self, id: &str) {
        let Some(before) = self.registrations.remove(id) else { return };
        self.revision += 1;
        self.note(AgentChange { id: id.into(), before: Some(before), after: None });
    }

    fn note(&mut self, change: AgentChange) {
        self.ring.push_back((self.revision, change));
        if self.ring.len() > 8 {
            self.floor = self.ring.pop_front().unwrap().0;
        }
    }

    /// Revokes an instance, or takes that back.
    fn toggle(&mut self, instance: u8) {
        self.revision += 1;
        let subject = Subject::Instance(InstanceId::from_bytes([instance; 16]));
        let expires_at = UnixTime::from_secs(i64::try_from(self.revision).unwrap());
        let record = RevocationRecord {
            revocation: Revocation { subject: subject.clone(), issued_before: None, expires_at },
            owner: String::new(),
            reason: String::new(),
            revoked_by: String::new(),
            revoked_at: expires_at,
        };
        let set = Arc::make_mut(&mut self.revocations);
        let object = Object::Revocation(Arc::new(record.clone()));
        if set.remove(&subject) {
            self.revoked.note(self.revision, Some(&object), None);
        } else {
            set.insert(record.revocation).unwrap();
            self.revoked.note(self.revision, None, Some(&object));
        }
        self.revoked.seal();
    }

    /// Puts a policy, or removes it.
    fn guard(&mut self, name: &str) {
        self.revision += 1;
        if self.policies.remove(name).is_none() {
            self.policies.insert(name.to_owned(), self.revision);
        }
    }

    fn wanted(&self) -> Wanted {
        let policy =
            |(name, revision): (&String, &u64)| Arc::new(policy_of(name, *revision, self.incarnation == 9));
        self.policies.iter().map(policy).collect()
    }

    fn bundle(&self) -> Bytes {
        Bytes::from(format!("bundle {}", self.bundle_revision))
    }

    fn show(&self, id: &str, revision: u64) -> Registration {
        Registration {
            id: id.to_owned(),
            revision,
            hint: "x".repeat(self.padding),
            ..Registration::default()
        }
    }
}

impl AgentView for Log {
    fn head(&self) -> Head {
        let mut digest = SetDigest::default();
        for (id, revision) in &self.registrations {
            digest.insert(&digest_item(id, *revision));
        }
        Head {
            incarnation: [self.incarnation; 16],
            revision: self.revision,
            digest,
            bundle: self.bundle(),
            revocations: Arc::clone(&self.revocations),
            policies: self.wanted(),
        }
    }
    fn hosted(&self) -> Vec<Registration> {
        self.registrations.iter().map(|(id, revision)| self.show(id, *revision)).collect()
    }
    fn changes(&self, since: u64) -> Option<Changes> {
        let later = self.ring.iter().filter(|(at, _)| *at > since);
        (since >= self.floor).then(|| Changes {
            revision: self.revision,
            registrations: later.map(|(_, change)| change.clone()).collect(),
            bundle: (self.bundle_revision > since).then(|| self.bundle()),
            revocations: self.revoked.since(since),
            policies: Some(self.wanted()),
        })
    }
}

/// The agent's half, as the protocol describes it.
#[derive(Clone, Debug)]
struct Agent {
    incarnation: Bytes,
    revision: u64,
    registrations: BTreeMap<String, u64>,
    bundle: Bytes,
    snapshots: usize,
    revocations: Revocations,
    policies: BTreeMap<String, u64>,
}

impl Default for Agent {
    fn default() -> Self {
        Self {
            incarnation: Bytes::new(),
            revision: 0,
            registrations: BTreeMap::new(),
            bundle: Bytes::new(),
            snapshots: 0,
            revocations: no_revocations(),
            policies: BTreeMap::new(),
        }
    }
}

impl Agent {
    fn policies_digest(&self) -> Bytes {
        let mut digest = SetDigest::default();
        for (name, revision) in &self.policies {
            digest.insert(&policy_of(name, *revision, self.incarnation.first() == Some(&9)).digest_item());
        }
        Bytes::copy_from_slice(&digest.bytes())
    }

    fn digest(&self) -> Bytes {
        let mut digest = SetDigest::default();
        for (id, revision) in &self.registrations {
            digest.insert(&digest_item(id, *revision));
        }
        Bytes::copy_from_slice(&digest.bytes())
    }

    fn hello(&self) -> Hello {
        Hello {
            incarnation: self.incarnation.clone(),
            revision: self.revision,
            set_digest: self.digest(),
            agent_version: String::new(),
            revocations_digest: Bytes::copy_from_slice(&self.revocations.digest()),
            policies_digest: self.policies_digest(),
            ..Hello::default()
        }
    }

    fn apply(&mut self, message: &Kind) -> Option<Acknowledge> {
        match message {
            Kind::Update(update) => {
                if update.snapshot_start {
                    self.registrations.clear();
                    self.snapshots += 1;
                }
                for id in &update.removals {
                    self.registrations.remove(id);
                }
                for registration in &update.upserts {
                    self.registrations.insert(registration.id.clone(), registration.revision);
                }
                if update.revocations_start {
                    self.revocations = no_revocations();
                }
                let applied = apply_revocations(&mut self.revocations, &update.revoked, &update.unrevoked);
                assert_eq!(applied.1, 0);
                if update.policies_start {
                    self.policies.clear();
                }
                for name in &update.policies_removed {
                    self.policies.remove(name.trim_start_matches('p'));
                }
                for policy in &update.policies {
                    self.policies.insert(policy.name.trim_start_matches('p').to_owned(), policy.revision);
                }
                if !update.bundle.is_empty() {
                    self.bundle = update.bundle.clone();
                }
                assert_eq!(update.more, update.revision == 0);
                if update.more {
                    return None;
                }
                self.incarnation = update.incarnation.clone();
                self.revision = update.revision;
            }
            Kind::Bookmark(bookmark) => self.revision = bookmark.revision,
            other => panic!("{other:?}"),
        }
        Some(Acknowledge {
            revision: self.revision,
            set_digest: self.digest(),
            revocations_digest: Bytes::copy_from_slice(&self.revocations.digest()),
            policies_digest: self.policies_digest(),
        })
    }
}

/// Lets both talk until nobody has anything to say.
fn settle(session: &mut Session, agent: &mut Agent, log: &Log, messages: Vec<Kind>) {
    let mut queue: VecDeque<_> = messages.into();
    while let Some(message) = queue.pop_front() {
        if let Some(acknowledge) = agent.apply(&message) {
            queue.extend(session.acknowledge(&acknowledge, log).unwrap());
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Put(u8),
    Remove(u8),
    /// Revokes, or takes that back.
    Toggle(u8),
    /// Puts a policy, or removes it.
    Guard(u8),
    Rotate,
    Advance,
    Bookmark,
    Reconnect,
    /// The agent's own bug: it loses one.
    Forget,
    Restore,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..6_u8).prop_map(Step::Put),
        3 => (0..6_u8).prop_map(Step::Remove),
        4 => (0..6_u8).prop_map(Step::Toggle),
        4 => (0..6_u8).prop_map(Step::Guard),
        1 => Just(Step::Rotate),
        4 => Just(Step::Advance),
        1 => Just(Step::Bookmark),
        2 => Just(Step::Reconnect),
        1 => Just(Step::Forget),
        1 => Just(Step::Restore),
    ]
}

proptest! {
    #[test]
    fn the_agent_ends_with_what_the_log_says(steps in proptest::collection::vec(step(), 0..60)) {
        let mut log = Log { incarnation: 1, revision: 1, floor: 1, bundle_revision: 1, ..Log::default() };
        let mut agent = Agent::default();
        let (mut session, messages) = Session::begin(&agent.hello(), &log);
        settle(&mut session, &mut agent, &log, messages);
        for step in steps {
            match step {
                Step::Put(id) => log.put(&id.to_string()),
                Step::Remove(id) => log.remove(&id.to_string()),
                Step::Toggle(instance) => log.toggle(instance),
                Step::Guard(policy) => log.guard(&policy.to_string()),
                Step::Rotate => {
                    log.revision += 1;
                    log.bundle_revision = log.revision;
                }
                Step::Advance => {
                    let messages = session.advance(&log);
                    settle(&mut session, &mut agent, &log, messages);
                    prop_assert_eq!(session.acknowledged(), log.revision);
                }
                Step::Bookmark => {
                    let bookmark = session.bookmark();
                    settle(&mut session, &mut agent, &log, vec![bookmark]);
                }
                Step::Reconnect => {
                    let (next, messages) = Session::begin(&agent.hello(), &log);
                    session = next;
                    settle(&mut session, &mut agent, &log, messages);
                }
                Step::Forget => {
                    agent.registrations.pop_first();
                    let lost = agent.revocations.iter().next().map(|revocation| revocation.subject);
                    lost.map(|subject| agent.revocations.remove(&subject));
                    agent.policies.pop_first();
                    // Each stream repairs only so often.
                    let (next, messages) = Session::begin(&agent.hello(), &log);
                    session = next;
                    settle(&mut session, &mut agent, &log, messages);
                }
                Step::Restore => {
                    // A server that has started with another store.
                    log.incarnation += 1;
                    log.ring.clear();
                    log.floor = log.revision;
                    let (next, messages) = Session::begin(&agent.hello(), &log);
                    session = next;
                    settle(&mut session, &mut agent, &log, messages);
                }
            }
        }
        let messages = session.advance(&log);
        settle(&mut session, &mut agent, &log, messages);
        let bookmark = session.bookmark();
        settle(&mut session, &mut agent, &log, vec![bookmark]);
        prop_assert_eq!(&agent.registrations, &log.registrations);
        prop_assert_eq!(&agent.revocations, &*log.revocations);
        prop_assert_eq!(&agent.policies, &log.policies);
        prop_assert_eq!(agent.bundle, log.bundle());
        prop_assert_eq!(session.acknowledged(), log.revision);
    }
}

#[test]
fn an_agent_that_is_up_to_date_gets_no_registration() {
    let mut log = Log { incarnation: 1, ..Log::default() };
    for id in 0..20 {
        log.put(&id.to_string());
    }
    let mut agent = Agent::default();
    let (mut session, messages) = Session::begin(&agent.hello(), &log);
    settle(&mut session, &mut agent, &log, messages);
    log.revision += 1;
    // The ring of a server that has just started is empty.
    log.ring.clear();
    log.floor = log.revision;
    let (_, messages) = Session::begin(&agent.hello(), &log);
    let [Kind::Update(update)] = messages.as_slice() else { panic!("{messages:?}") };
    assert!(update.upserts.is_empty() && !update.snapshot_start && !update.bundle.is_empty());
}

#[test]
fn an_agent_that_was_away_gets_only_what_changed() {
    let mut log = Log { incarnation: 1, ..Log::default() };
    for id in 0..20 {
        log.put(&id.to_string());
    }
    let mut agent = Agent::default();
    let (mut session, messages) = Session::begin(&agent.hello(), &log);
    settle(&mut session, &mut agent, &log, messages);
    log.put("3");
    log.remove("4");
    log.put("3");
    let (_, messages) = Session::begin(&agent.hello(), &log);
    let [Kind::Update(update)] = messages.as_slice() else { panic!("{messages:?}") };
    assert!(!update.snapshot_start);
    assert_eq!(update.upserts.len(), 1);
    assert_eq!(update.removals, ["4"]);
}

#[test]
fn a_digest_that_disagrees_is_repaired_by_a_snapshot_but_not_for_ever() {
    let mut log = Log { incarnation: 1, ..Log::default() };
    log.put("a");
    let mut agent = Agent::default();
    let (mut session, messages) = Session::begin(&agent.hello(), &log);
    settle(&mut session, &mut agent, &log, messages);
    agent.registrations.clear();
    let bookmark = session.bookmark();
    settle(&mut session, &mut agent, &log, vec![bookmark]);
    assert_eq!(agent.snapshots, 2);
    assert_eq!(agent.registrations, log.registrations);

    let wrong = Acknowledge {
        revision: log.revision,
        set_digest: Bytes::from_static(&[7; 32]),
        ..Acknowledge::default()
    };
    let mut repairs = 0;
    let violation = loop {
        session.bookmark();
        match session.acknowledge(&wrong, &log) {
            Ok(messages) => repairs += usize::from(!messages.is_empty()),
            Err(violation) => break violation,
        }
    };
    assert_eq!(violation, Violation::Diverged);
    assert!(repairs < 8);
}

#[test]
fn nobody_acknowledges_the_future() {
    let log = Log { incarnation: 1, revision: 5, ..Log::default() };
    let (mut session, _) = Session::begin(&Hello::default(), &log);
    let ahead = Acknowledge { revision: 6, ..Acknowledge::default() };
    assert_eq!(session.acknowledge(&ahead, &log), Err(Violation::Ahead));
}

#[test]
fn an_agent_that_claims_the_future_gets_a_snapshot() {
    let log = Log { incarnation: 1, revision: 5, ..Log::default() };
    let hello = Hello { incarnation: Bytes::from_static(&[1; 16]), revision: 6, ..Hello::default() };
    let (_, messages) = Session::begin(&hello, &log);
    assert!(matches!(messages.as_slice(), [Kind::Update(Update { snapshot_start: true, .. })]));
}

#[test]
fn a_large_snapshot_comes_in_parts() {
    let mut log = Log { incarnation: 1, padding: 1024, ..Log::default() };
    for id in 0..1000 {
        log.put(&id.to_string());
    }
    let mut agent = Agent::default();
    let (mut session, messages) = Session::begin(&agent.hello(), &log);
    assert!(messages.len() >= 4);
    for message in &messages {
        let Kind::Update(update) = message else { panic!("{message:?}") };
        assert!(update.encoded_len() <= 256 * 1024);
    }
    settle(&mut session, &mut agent, &log, messages);
    assert_eq!(agent.registrations, log.registrations);
    assert_eq!(agent.snapshots, 1);
}

#[test]
fn revocations_are_pushed_with_nothing_else_and_a_liar_is_found_out() {
    let mut log = Log { incarnation: 1, ..Log::default() };
    log.put("a");
    let mut agent = Agent::default();
    let (mut session, messages) = Session::begin(&agent.hello(), &log);
    settle(&mut session, &mut agent, &log, messages);
    log.toggle(7);
    let messages = session.advance(&log);
    let [Kind::Update(first), Kind::Update(update)] = messages.as_slice() else { panic!("{messages:?}") };
    assert!(first.more && !update.revocations_start && update.upserts.is_empty());
    assert_eq!(update.revoked.len(), 1);

    // It says that it has applied the message, but its digest is that of the state before.
    let lie = Acknowledge {
        revision: log.revision,
        set_digest: agent.digest(),
        revocations_digest: Bytes::copy_from_slice(&agent.revocations.digest()),
        policies_digest: agent.policies_digest(),
    };
    let repair = session.acknowledge(&lie, &log).unwrap();
    assert!(session.acknowledged() < log.revision, "a wait for this revision must not end");
    settle(&mut session, &mut agent, &log, repair);
    assert_eq!(agent.revocations, *log.revocations);
    assert_eq!(session.acknowledged(), log.revision);
}

#[test]
fn an_agent_that_knows_nothing_of_revocations_is_spared_them() {
    let mut log = Log { incarnation: 1, ..Log::default() };
    log.put("a");
    log.toggle(7);
    let mut agent = Agent::default();
    let hello = Hello { revocations_digest: Bytes::new(), ..agent.hello() };
    let (mut session, messages) = Session::begin(&hello, &log);
    log.toggle(8);
    let messages: Vec<_> = messages.into_iter().chain(session.advance(&log)).collect();
    for message in messages {
        let Some(acknowledge) = agent.apply(&message) else { continue };
        let acknowledge = Acknowledge { revocations_digest: Bytes::new(), ..acknowledge };
        assert!(session.acknowledge(&acknowledge, &log).unwrap().is_empty());
    }
    assert!(agent.revocations.is_empty());
    assert_eq!(session.acknowledged(), log.revision);
}

#[test]
fn after_a_restore_the_same_revision_is_another_policy() {
    let mut log = Log { incarnation: 1, ..Log::default() };
    log.guard("a");
    let mut agent = Agent::default();
    let (mut session, messages) = Session::begin(&agent.hello(), &log);
    settle(&mut session, &mut agent, &log, messages);
    let tells = |messages: &[Kind]| {
        messages.iter().any(|message| matches!(message, Kind::Update(update) if update.policies_start && !update.policies.is_empty()))
    };
    assert!(!tells(&Session::begin(&agent.hello(), &log).1));
    // Told again whatever the agent claims, in the same words or in others.
    for incarnation in [2, 9] {
        log.incarnation = incarnation;
        assert!(tells(&Session::begin(&agent.hello(), &log).1), "{incarnation}");
    }
    assert_ne!(policy_of("a", 1, false).digest_item(), policy_of("a", 1, true).digest_item());
}
