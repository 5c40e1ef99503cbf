use std::collections::VecDeque;

use bonafide_crypto::key::KeyAlgorithm;
use bonafide_crypto::random::SystemRandom;
use bonafide_wire::{node::AuthorityMessage, types};
use proptest::prelude::*;

use super::*;
use crate::testing::{FakeAuthority, FakeLeaf, selectors};

const START: i64 = 1_800_000_000;

/// An agent's core and an authority, with messages between them that may be lost.
struct World {
    core: Core,
    authority: FakeAuthority,
    up: VecDeque<agent_message::Kind>,
    down: VecDeque<AuthorityMessage>,
    connected: bool,
    now: UnixTime,
    saved: HashMap<InstanceId, Saved>,
    view: Option<bonafide_wire::node::Update>,
    running: BTreeMap<i32, (LaunchKey, SelectorSet)>,
    next_start: u64,
    /// How often the authority was given up as one that hangs.
    silences: usize,
}

impl World {
    fn new() -> Self {
        Self {
            core: new_core(),
            authority: FakeAuthority::new(),
            up: VecDeque::new(),
            down: VecDeque::new(),
            connected: false,
            now: UnixTime::from_secs(START),
            saved: HashMap::new(),
            view: None,
            running: BTreeMap::new(),
            next_start: 1,
            silences: 0,
        }
    }

    fn act<R>(&mut self, act: impl FnOnce(&mut Core, UnixTime) -> R) -> R {
        let result = act(&mut self.core, self.now);
        for effect in self.core.take_effects() {
            match effect {
                Effect::Send(kind) if self.connected => self.up.push_back(kind),
                Effect::Save(saved) => {
                    self.saved.insert(saved.id, *saved);
                }
                Effect::Forget(id) => {
                    self.saved.remove(&id);
                }
                Effect::SaveView => self.view = Some(self.core.view.to_snapshot()),
                Effect::Silent => self.silences += 1,
                _ => {}
            }
        }
        result
    }

    fn connect(&mut self) {
        if !self.connected {
            self.connected = true;
            let hello = self.core.connected("a");
            self.up.push_back(agent_message::Kind::Hello(hello));
        }
    }

    fn disconnect(&mut self) {
        if std::mem::take(&mut self.connected) {
            self.up.clear();
            self.down.clear();
            self.authority.disconnected();
            self.act(|core, now| core.disconnected(now));
        }
    }

    fn restart(&mut self) {
        self.disconnect();
        self.core = new_core();
        let (view, saved) = (self.view.clone(), self.saved.values().cloned().collect());
        let running: Vec<LaunchKey> = self.running.values().map(|(key, _)| *key).collect();
        self.act(|core, now| core.restore(view, saved, |key| running.contains(key), now));
    }

    fn deliver_up(&mut self) {
        if let Some(kind) = self.up.pop_front() {
            self.down.extend(self.authority.answer(kind, self.now));
        }
    }

    fn deliver_down(&mut self) {
        if let Some(message) = self.down.pop_front() {
            self.act(|core, now| core.message(message, now)).unwrap();
        }
    }

    fn publish(&mut self) {
        if self.connected {
            self.down.extend(self.authority.news());
        }
    }

    fn settle(&mut self) {
        for _ in 0..10_000 {
            if self.up.is_empty() && self.down.is_empty() {
                return;
            }
            self.deliver_up();
            self.deliver_down();
        }
        panic!("the two never come to rest");
    }

    fn launch(&mut self, pid: i32, uid: u32) {
        let image = Image { start_time: self.next_start, exe_device: 1, exe_inode: 1, layout: [9; 5] };
        self.next_start += 1;
        let key = LaunchKey { pid, image };
        let attested = selectors(&[("unix.uid", &uid.to_string()), ("unix.user", &format!("user-{uid}"))]);
        let _ = self.act(|core, now| core.attach(key, attested.clone(), now));
        self.running.insert(pid, (key, attested));
    }

    fn ask_again(&mut self, pid: i32) {
        if let Some((key, attested)) = self.running.get(&pid).cloned() {
            let _ = self.act(|core, now| core.attach(key, attested, now));
        }
    }

    fn end(&mut self, pid: i32) {
        if let Some((key, _)) = self.running.remove(&pid) {
            self.act(|core, now| core.ended(key, now));
        }
    }

    fn advance(&mut self, seconds: i64) {
        self.now = UnixTime::from_secs(self.now.as_secs() + seconds);
        self.act(|core, now| core.tick(now));
    }

    /// What always holds.
    fn check(&self) {
        let mut holders = HashMap::new();
        for (key, launch) in &self.core.launches {
            for (registration, slot) in &launch.slots {
                if let launches::Slot::Held(id) = slot {
                    let instance = self.core.instances.get(id).expect("held instances exist");
                    assert_eq!(instance.binding.as_ref().unwrap().launch, *key);
                    assert_eq!(instance.claim.subject.registration, *registration);
                    assert!(holders.insert(*id, *key).is_none(), "two launches share an instance");
                    assert!(self.saved[id].binding.is_some(), "a binding is stored before it is used");
                }
            }
        }
        for (id, instance) in &self.core.instances {
            assert_eq!(instance.binding.is_some(), holders.contains_key(id), "bound, and nobody holds it");
            assert!(self.saved.contains_key(id));
        }
        for bin in self.core.bins.values() {
            for id in &bin.ready {
                assert!(!holders.contains_key(id), "unassigned, and somebody holds it");
            }
        }
        assert!(self.authority.alarms.is_empty(), "{:?}", self.authority.alarms);
    }

    /// What holds once nothing is under way any more.
    fn check_at_rest(&self) {
        assert_eq!(self.core.view.len(), self.authority.registrations.len());
        for (id, registration) in &self.authority.registrations {
            assert_eq!(self.core.view.get(id).unwrap().revision, registration.revision);
        }
        assert!(self.core.conversation.is_quiet());
        for (key, attested) in self.running.values() {
            let matching = self.core.matches(attested, self.now);
            let Some(launch) = self.core.launches.get(key) else {
                assert!(matching.is_empty(), "a launch has nothing although something matches it");
                continue;
            };
            assert_eq!(launch.slots.len(), matching.len());
            for (id, registration) in matching {
                let launches::Slot::Held(instance) = launch.slots[&id] else { panic!("nothing for `{id}`") };
                let instance = &self.core.instances[&instance];
                assert_eq!(*instance.credential.spiffe_id(), registration.spiffe_id(attested).unwrap());
                assert_eq!(instance.credential.not_after(), self.authority.newest[&instance.id].not_after);
            }
        }
        let living: BTreeSet<InstanceId> = self.core.instances.keys().copied().collect();
        let bound = self.core.instances.values().filter(|instance| instance.binding.is_some());
        let bound: BTreeSet<InstanceId> = bound.map(|instance| instance.id).collect();
        assert_eq!(bound, self.authority.running(), "the authority knows which instances run");
        assert!(living.iter().all(|id| !self.authority.ended.contains(id)));
        for bin in self.core.bins.values() {
            assert_eq!(bin.ready.len(), 2, "the pool of {:?} is full", bin.claim.subject);
        }
        assert_eq!(self.core.pooled, self.core.bins.len() * 2);
    }
}

fn new_core() -> Core {
    let habits =
        Habits { pool_size: 2, pool_limit: 1000, max_launches: 100, weak: false, key: KeyAlgorithm::EcP256 };
    Core::new("example.org".parse().unwrap(), habits, Arc::new(SystemRandom), Arc::new(FakeLeaf))
}

fn entry(id: &str, uid: u32) -> types::Registration {
    crate::testing::entry(id, &format!("spiffe://example.org/{id}"), &[("unix.uid", &uid.to_string())])
}

fn rule(id: &str, uid: u32) -> types::Registration {
    types::Registration {
        kind: types::registration::Kind::Rule.into(),
        ..crate::testing::entry(
            id,
            &format!("spiffe://example.org/{id}/{{unix.user}}"),
            &[("unix.uid", &uid.to_string())],
        )
    }
}

fn held(world: &World, pid: i32) -> Vec<IdentityState> {
    world.core.identities(&world.running[&pid].0)
}

fn one_registration() -> World {
    let mut world = World::new();
    world.authority.put(entry("web", 1));
    world.connect();
    world.settle();
    world
}

#[test]
fn the_pool_serves_launches_while_the_authority_is_down() {
    let mut world = one_registration();
    world.disconnect();
    world.launch(10, 1);
    world.launch(11, 1);
    world.launch(12, 1);
    let first = held(&world, 10).remove(0).held.unwrap();
    let second = held(&world, 11).remove(0).held.unwrap();
    assert_ne!(first.instance, second.instance);
    assert_ne!(first.credential.key().public_key(), second.credential.key().public_key());
    assert!(held(&world, 12).remove(0).held.is_none(), "two were in stock");
    world.check();
    world.connect();
    world.settle();
    assert!(held(&world, 12).remove(0).held.is_some());
    world.check_at_rest();
}

#[test]
fn one_process_has_one_svid_and_exec_ends_it() {
    let mut world = one_registration();
    world.launch(10, 1);
    let first = held(&world, 10).remove(0).held.unwrap().instance;
    world.ask_again(10);
    assert_eq!(held(&world, 10).remove(0).held.unwrap().instance, first);
    // Same number, another image.
    world.launch(10, 1);
    assert_ne!(held(&world, 10).remove(0).held.unwrap().instance, first);
    world.settle();
    assert!(world.authority.ended.contains(&first));
    world.check_at_rest();
}

#[test]
fn a_lost_answer_is_asked_for_with_the_same_key() {
    let mut world = one_registration();
    world.launch(10, 1);
    world.settle();
    let before = held(&world, 10).remove(0).held.unwrap();
    world.advance(600);
    // The authority signs, and its answer is lost; then the agent restarts as well.
    while !world.up.is_empty() {
        world.deliver_up();
    }
    world.disconnect();
    world.restart();
    world.connect();
    world.settle();
    let after = held(&world, 10).remove(0).held.unwrap();
    assert_eq!(before.instance, after.instance);
    assert_eq!(after.generation, before.generation + 1);
    world.check();
    assert!(world.authority.alarms.is_empty());
}

#[test]
fn what_is_lost_on_an_open_stream_is_asked_for_again() {
    for answered in [false, true] {
        let mut world = one_registration();
        world.launch(10, 1);
        world.settle();
        let before = held(&world, 10).remove(0).held.unwrap();
        world.advance(600);
        let renewals = |world: &World| {
            let renewals = world.up.iter().filter_map(|kind| match kind {
                agent_message::Kind::RenewX509(renewal) => Some(renewal.clone()),
                _ => None,
            });
            renewals.collect::<Vec<_>>()
        };
        let first = renewals(&world).remove(0);
        // Requests are dropped, or the answers to them.
        while answered && !world.up.is_empty() {
            world.deliver_up();
        }
        world.up.clear();
        world.down.clear();
        world.advance(59);
        assert!(world.up.is_empty());
        assert_eq!(world.silences, 0);
        world.advance(1);
        assert!(world.silences > 0, "an authority that hangs is left for another one");
        let again = renewals(&world).remove(0);
        assert_ne!(again.request, first.request);
        assert_eq!((&again.public_key, &again.nonce), (&first.public_key, &first.nonce));
        assert_eq!(again.generation, first.generation);
        world.settle();
        let after = held(&world, 10).remove(0).held.unwrap();
        assert_eq!((after.instance, after.generation), (before.instance, before.generation + 1));
        world.check();
        world.check_at_rest();
    }
}

#[test]
fn a_report_that_is_lost_is_told_again() {
    let mut world = one_registration();
    world.launch(10, 1);
    world.up.clear();
    world.advance(60);
    world.settle();
    world.check_at_rest();
}

#[test]
fn one_user_gets_half_of_the_launches() {
    let mut world = one_registration();
    world.authority.put(entry("db", 2));
    world.publish();
    world.settle();
    for pid in 1..=60 {
        world.launch(pid, 1);
    }
    assert_eq!(world.core.launches.len(), 50);
    for pid in 101..=150 {
        world.launch(pid, 2);
    }
    assert_eq!(world.core.launches.len(), 100);
    world.end(1);
    world.launch(61, 1);
    assert!(world.core.has_launch(&world.running[&61].0));
}

#[test]
fn a_refused_renewal_keeps_what_there_is_until_it_expires() {
    let mut world = one_registration();
    world.launch(10, 1);
    world.settle();
    world.authority.refuse = Some((String::from("lineage.forked"), 0));
    world.advance(600);
    world.settle();
    let identity = held(&world, 10).remove(0);
    assert_eq!(identity.problem.unwrap().code, "lineage.forked");
    assert_eq!(identity.held.unwrap().generation, 1);
    world.advance(401);
    assert!(held(&world, 10).remove(0).held.is_none(), "nothing expired is served");
    world.check();
}

#[test]
fn a_broken_lineage_is_replaced_before_it_expires() {
    let mut world = one_registration();
    world.launch(10, 1);
    world.settle();
    let before = held(&world, 10).remove(0).held.unwrap().instance;
    world.authority.refuse = Some((String::from("lineage.discontinuous"), 0));
    world.advance(600);
    world.settle();
    assert!(held(&world, 10).remove(0).held.is_some(), "kept until there is another one");
    world.check();
    world.authority.refuse = None;
    world.advance(20);
    world.settle();
    let after = held(&world, 10).remove(0).held.unwrap();
    assert_ne!(after.instance, before);
    assert!(after.credential.not_after() > world.now.saturating_add(Duration::from_secs(900)));
    assert!(world.authority.ended.contains(&before));
    world.check_at_rest();
}

#[test]
fn a_clock_that_went_ahead_and_came_back_stops_nothing() {
    let mut world = one_registration();
    world.launch(10, 1);
    world.settle();
    let real = world.now;
    world.now = real.saturating_add(Duration::from_secs(7200));
    world.act(|core, now| core.observe(now));
    // The authority's clock is right: all that it sends has expired by the agent's.
    while let Some(kind) = world.up.pop_front() {
        world.down.extend(world.authority.answer(kind, real));
        while !world.down.is_empty() {
            world.deliver_down();
        }
    }
    assert!(held(&world, 10).remove(0).held.is_none());
    world.now = real.saturating_add(Duration::from_secs(1));
    world.act(|core, now| core.observe(now));
    world.settle();
    assert!(held(&world, 10).remove(0).held.is_some());
    world.check_at_rest();
}

#[test]
fn a_renewal_that_was_lost_while_the_clock_went_back_is_asked_for_again() {
    let mut world = one_registration();
    world.launch(10, 1);
    world.settle();
    // It was due by a clock that is half a minute ahead.
    let due = held(&world, 10).remove(0).held.unwrap().renew_after;
    world.now = due;
    world.act(|core, now| core.observe(now));
    assert!(!world.up.is_empty());
    world.disconnect();
    world.now = due.saturating_sub(Duration::from_secs(30));
    world.act(|core, now| core.observe(now));
    world.connect();
    world.settle();
    world.advance(60);
    world.settle();
    assert_eq!(held(&world, 10).remove(0).held.unwrap().generation, 2);
}

#[test]
fn a_launch_is_refused_for_good_or_waits() {
    for (retry_after, for_good) in [(0, true), (5, false)] {
        let mut world = World::new();
        world.authority.put(entry("web", 1));
        world.authority.refuse = Some((String::from("scope.spiffe-id"), retry_after));
        world.connect();
        world.settle();
        world.launch(10, 1);
        let state = world.core.launch_state(&world.running[&10].0);
        assert_eq!(matches!(state, LaunchState::Refused(_)), for_good, "{state:?}");
        assert_eq!(matches!(state, LaunchState::Waiting(_)), !for_good);
        world.authority.refuse = None;
        world.advance(301);
        world.settle();
        assert!(held(&world, 10).remove(0).held.is_some());
        world.check_at_rest();
    }
}

#[test]
fn a_withdrawn_registration_takes_its_svid_along() {
    let mut world = one_registration();
    world.launch(10, 1);
    world.settle();
    world.authority.remove("web");
    world.publish();
    world.settle();
    assert!(matches!(world.core.launch_state(&world.running[&10].0), LaunchState::Gone));
    assert_eq!(world.core.counts(), (0, 0));
    world.check_at_rest();
}

#[test]
fn a_changed_registration_renews_at_once_and_keeps_the_instance() {
    let mut world = one_registration();
    world.launch(10, 1);
    world.settle();
    let before = held(&world, 10).remove(0).held.unwrap();
    world.authority.put(types::Registration { dns_names: vec!["web.example.org".into()], ..entry("web", 1) });
    world.publish();
    world.settle();
    let after = held(&world, 10).remove(0).held.unwrap();
    assert_eq!(after.instance, before.instance);
    assert_eq!(after.generation, 2);
    world.check_at_rest();
}

#[test]
fn the_oldest_registration_is_the_default() {
    let mut world = World::new();
    world.authority.put(types::Registration { created_at: 20, ..entry("aaa", 1) });
    world.authority.put(types::Registration { created_at: 10, ..entry("zzz", 1) });
    world.connect();
    world.settle();
    world.launch(10, 1);
    let order: Vec<String> =
        held(&world, 10).iter().map(|identity| identity.registration.id.clone()).collect();
    assert_eq!(order, ["zzz", "aaa"]);
}

#[test]
fn a_rule_fills_its_pool_after_the_first_launch() {
    let mut world = World::new();
    world.authority.put(rule("user", 7));
    world.connect();
    world.settle();
    assert_eq!(world.core.counts(), (0, 0));
    world.launch(10, 7);
    world.settle();
    let identity = held(&world, 10).remove(0);
    assert_eq!(identity.spiffe_id.unwrap().as_str(), "spiffe://example.org/user/user-7");
    assert_eq!(world.core.counts(), (1, 2));
    world.check_at_rest();
}

#[test]
fn what_a_stolen_key_has_signed_is_replaced_in_the_time_that_was_given() {
    let mut world = one_registration();
    for pid in 1..=20 {
        world.launch(pid, 1);
        world.settle();
    }
    let before: Vec<_> = (1..=20).map(|pid| held(&world, pid)[0].held.clone().unwrap()).collect();
    let pool: BTreeSet<InstanceId> =
        world.core.bins.values().flat_map(|bin| bin.ready.iter().copied()).collect();
    assert!(!pool.is_empty());

    world.authority.stolen(40);
    world.publish();
    world.settle();
    assert!(world.authority.remaining.first().is_some_and(|remaining| *remaining > 0));
    let drawn: BTreeSet<InstanceId> =
        world.core.bins.values().flat_map(|bin| bin.ready.iter().copied()).collect();
    assert!(pool.is_disjoint(&drawn), "the pool is thrown away");
    let renewed = |world: &World| {
        let now: Vec<_> = (1..=20).map(|pid| held(world, pid)[0].held.clone().unwrap()).collect();
        now.iter().zip(&before).filter(|(now, before)| now.generation > before.generation).count()
    };
    let mut seen = BTreeSet::new();
    for _ in 0..45 {
        world.advance(1);
        world.settle();
        seen.insert(renewed(&world));
    }
    assert!(seen.len() > 5, "they come one after the other: {seen:?}");
    assert_eq!(renewed(&world), 20);
    for (pid, before) in (1..=20).zip(&before) {
        let now = held(&world, pid)[0].held.clone().unwrap();
        assert_eq!(now.instance, before.instance, "the lineage goes on");
        assert_eq!(now.credential.chain()[1], "issuer 2".as_bytes());
    }
    assert_eq!(world.authority.remaining.last(), Some(&0));
    world.launch(30, 1);
    world.settle();
    assert_eq!(held(&world, 30)[0].held.as_ref().unwrap().credential.chain()[1], "issuer 2".as_bytes());
    assert_eq!(world.authority.alarms, Vec::<String>::new());
}

#[test]
fn an_agent_that_was_away_learns_of_a_stolen_key_when_it_comes_back() {
    let mut world = one_registration();
    world.launch(1, 1);
    world.settle();
    world.disconnect();
    world.authority.stolen(0);
    world.restart();
    world.connect();
    world.settle();
    world.advance(1);
    world.settle();
    assert_eq!(held(&world, 1)[0].held.as_ref().unwrap().credential.chain()[1], "issuer 2".as_bytes());
    assert_eq!(world.authority.remaining.last(), Some(&0));
    // What it knows survives its own restart, too.
    world.restart();
    assert_eq!(world.core.tainted_keys(), 1);
}

#[test]
fn a_ban_leaves_nothing() {
    let mut world = one_registration();
    world.launch(10, 1);
    world.settle();
    let banned = bonafide_wire::node::Banned { problem: None };
    let message =
        AuthorityMessage { kind: Some(bonafide_wire::node::authority_message::Kind::Banned(banned)) };
    let ended = world.act(|core, now| core.message(message, now));
    assert_eq!(ended, Err(Disconnect::Banned));
    assert!(world.saved.is_empty());
    assert_eq!(world.core.counts(), (0, 0));
    assert!(world.core.check_ready().is_err());
}

#[test]
fn an_agent_that_was_away_learns_of_its_ban_when_it_is_refused() {
    let mut world = one_registration();
    world.launch(10, 1);
    world.settle();
    world.disconnect();
    let mut refused = |code: &str| {
        let problem = Problem { code: code.into(), ..Problem::default() };
        let ended = world.act(|core, now| core.refused(&problem, now));
        (ended, world.saved.is_empty())
    };
    assert_eq!(refused("stream.too-often"), (Ok(()), false), "that may pass");
    assert_eq!(refused("agent.banned"), (Err(Disconnect::Banned), true));
    assert!(world.core.check_ready().is_err());
}

#[test]
fn what_was_refused_in_a_quarantine_is_asked_for_when_it_ends() {
    let site = |start: bool| {
        let subject = bonafide_identity::revocation::Subject::Site("lab".into());
        let revocation = bonafide_identity::Revocation {
            subject,
            issued_before: None,
            expires_at: UnixTime::from_secs(START + 100_000),
        };
        (start, bonafide_wire::from_revocation(&revocation))
    };
    let tell = |world: &mut World, (start, revocation): (bool, types::Revocation)| {
        let (revoked, unrevoked) =
            if start { (vec![revocation], Vec::new()) } else { (Vec::new(), vec![revocation]) };
        let view = world.core.view.to_snapshot();
        let update = bonafide_wire::node::Update {
            incarnation: view.incarnation,
            revision: world.core.view.revision(),
            revoked,
            unrevoked,
            ..Default::default()
        };
        let kind = Some(bonafide_wire::node::authority_message::Kind::Update(update));
        world.down.push_back(AuthorityMessage { kind });
        world.settle();
    };
    let mut world = one_registration();
    let key = bonafide_crypto::key::PrivateKey::generate(bonafide_crypto::key::KeyAlgorithm::EcP256).unwrap();
    let end = UnixTime::from_secs(START + 100_000);
    let id = "spiffe://example.org/bonafide/agent/lab/00000000-0000-4000-8000-000000000001";
    let leaf = crate::testing::fake_leaf(id, None, end, key.public_key().spki_der());
    let node = Credential::new(vec![leaf], Arc::new(key), &FakeLeaf).unwrap();
    world.core.set_node(Arc::new(node), end);
    world.launch(10, 1);
    world.settle();
    tell(&mut world, site(true));
    assert_eq!(world.core.check_ready().unwrap_err().code(), "agent.site-quarantined");
    world.authority.refuse = Some((String::from("site.quarantined"), 0));
    world.advance(600);
    world.settle();
    assert_eq!(held(&world, 10).remove(0).held.unwrap().generation, 1, "refused for good");
    world.authority.refuse = None;
    tell(&mut world, site(false));
    assert_eq!(held(&world, 10).remove(0).held.unwrap().generation, 2, "on the same stream");
}

#[derive(Clone, Debug)]
enum Step {
    Put(u8, u32, bool),
    Remove(u8),
    Launch(i32, u32),
    AskAgain(i32),
    End(i32),
    Up(u8),
    Down(u8),
    Connect,
    Disconnect,
    Restart,
    Advance(i64),
    Refuse(bool),
    NewIncarnation,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => (0..4_u8, 1..4_u32, any::<bool>()).prop_map(|(id, uid, rule)| Step::Put(id, uid, rule)),
        1 => (0..4_u8).prop_map(Step::Remove),
        4 => (1..6_i32, 1..4_u32).prop_map(|(pid, uid)| Step::Launch(pid, uid)),
        1 => (1..6_i32).prop_map(Step::AskAgain),
        2 => (1..6_i32).prop_map(Step::End),
        6 => (1..20_u8).prop_map(Step::Up),
        6 => (1..20_u8).prop_map(Step::Down),
        2 => Just(Step::Connect),
        1 => Just(Step::Disconnect),
        1 => Just(Step::Restart),
        2 => (1..700_i64).prop_map(Step::Advance),
        1 => any::<bool>().prop_map(Step::Refuse),
        1 => Just(Step::NewIncarnation),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Whatever happens in between: once a stream has stayed open for a while, both sides agree.
    #[test]
    fn both_sides_agree_in_the_end(steps in prop::collection::vec(step(), 1..60)) {
        let mut world = World::new();
        for step in steps {
            match step {
                Step::Put(id, uid, false) => world.authority.put(entry(&format!("r{id}"), uid)),
                Step::Put(id, uid, true) => world.authority.put(rule(&format!("r{id}"), uid)),
                Step::Remove(id) => world.authority.remove(&format!("r{id}")),
                Step::Launch(pid, uid) => world.launch(pid, uid),
                Step::AskAgain(pid) => world.ask_again(pid),
                Step::End(pid) => world.end(pid),
                Step::Up(count) => (0..count).for_each(|_| world.deliver_up()),
                Step::Down(count) => (0..count).for_each(|_| world.deliver_down()),
                Step::Connect => world.connect(),
                Step::Disconnect => world.disconnect(),
                Step::Restart => world.restart(),
                Step::Advance(seconds) => world.advance(seconds),
                Step::Refuse(refuse) => {
                    world.authority.refuse = refuse.then(|| (String::from("rate.exceeded"), 5));
                }
                Step::NewIncarnation => {
                    world.disconnect();
                    world.authority.new_incarnation();
                }
            }
            world.publish();
            world.check();
        }
        world.authority.refuse = None;
        world.disconnect();
        world.connect();
        world.settle();
        // Past every wait, and past the first half of every life.
        for _ in 0..4 {
            world.advance(301);
            world.settle();
        }
        for pid in world.running.keys().copied().collect::<Vec<_>>() {
            world.ask_again(pid);
        }
        world.settle();
        world.check();
        world.check_at_rest();
    }
}
