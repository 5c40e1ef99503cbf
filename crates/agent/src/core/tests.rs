use std::collections::VecDeque;

use bonafide_crypto::key::KeyAlgorithm;
use bonafide_crypto::random::SystemRandom;
use bonafide_wire::{node::AuthorityMessage, types};

use super::*;
use crate::testing::{FakeAuthority, FakeLeaf, selectors};

mod distrust;
mod model;
mod renewal;

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
