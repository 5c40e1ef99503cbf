use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

const START: UnixTime = UnixTime::from_secs(1_700_000_000);

/// A store, a server that signs, and agents that hear of new keys when they feel like it.
#[derive(Debug)]
struct World {
    policy: Policy,
    now: UnixTime,
    revision: u64,
    next: u32,
    slots: Vec<Slot>,
    /// What each connected agent has applied.
    agents: BTreeMap<u8, u64>,
    /// Latest expiry of what each key signed.
    signed: BTreeMap<String, UnixTime>,
    /// Keys that were stolen: they must never sign again.
    tainted: BTreeSet<String>,
    /// Whether every agent has renewed what it has.
    renewed: bool,
}

#[derive(Clone, Debug)]
enum Step {
    Advance(u16),
    Connect(u8),
    Disconnect(u8),
    Acknowledge(u8),
    /// The driver runs, and dies after so many effects.
    Drive(usize),
    Sign,
    /// An operator asks for something, of the key with this number, perhaps by force.
    Order(u8, u8, bool),
}

impl World {
    fn new(policy: Policy) -> Self {
        Self {
            policy,
            now: START,
            revision: 0,
            next: 0,
            slots: Vec::new(),
            agents: BTreeMap::new(),
            signed: BTreeMap::new(),
            tainted: BTreeSet::new(),
            renewed: true,
        }
    }

    fn acknowledged(&self) -> Acknowledged {
        self.agents
            .values()
            .min()
            .map_or(Acknowledged::NobodyConnected, |least| Acknowledged::Through(*least))
    }

    fn plan(&self) -> Plan {
        plan(&self.policy, &self.slots, self.acknowledged(), self.now)
    }

    fn commit(&mut self, state: State) {
        self.revision += 1;
        self.next += 1;
        self.slots.push(Slot {
            id: format!("k{}", self.next),
            state,
            state_since: self.now,
            // Set back for clocks that are behind.
            not_before: self.now.saturating_sub(crate::BACKDATE),
            not_after: self.now.saturating_add(self.policy.lifetime),
            published_revision: self.revision,
            held: false,
        });
    }

    fn set(&mut self, id: &str, state: State) {
        let slot = self.slots.iter_mut().find(|slot| slot.id == id).unwrap();
        slot.state = state;
        slot.state_since = self.now;
    }

    fn active(&self) -> usize {
        self.slots.iter().filter(|slot| slot.state == State::Active).count()
    }

    fn apply(&mut self, effect: &Effect) {
        self.revision += 1;
        match effect {
            Effect::Prepare => {
                assert!(
                    self.slots.iter().all(|slot| slot.state != State::Prepared || slot.not_after <= self.now)
                );
                self.commit(State::Prepared);
            }
            Effect::Start { demote } => {
                assert!(signing(&self.slots, self.now).is_none());
                demote.iter().for_each(|id| self.set(id, State::Old));
                self.commit(State::Active);
            }
            Effect::Activate { id, demote, forced } => {
                let slot = self.slots.iter().find(|slot| slot.id == *id).unwrap().clone();
                assert_eq!(slot.state, State::Prepared);
                assert!(slot.not_after > self.now);
                let current = signing(&self.slots, self.now);
                match self.policy.floor {
                    None => assert!(!forced),
                    // Never sign with a key that an agent may not know, unless it is that or an outage.
                    Some(floor) => {
                        let unknown = match self.acknowledged() {
                            Acknowledged::Through(least) => least < slot.published_revision,
                            Acknowledged::NobodyConnected => {
                                self.now < slot.state_since.saturating_add(floor)
                            }
                        };
                        assert_eq!(unknown, *forced);
                        let late = |slot: &Slot| {
                            let left = slot.not_after.since(slot.state_since).as_secs();
                            self.now.since(slot.state_since).as_secs() >= left * 7 / 8
                        };
                        assert!(!forced || current.is_none_or(late));
                    }
                }
                demote.iter().for_each(|id| self.set(id, State::Old));
                self.set(id, State::Active);
            }
            Effect::Retire { id } => {
                let slot = self.slots.iter().find(|slot| slot.id == *id).unwrap();
                assert_ne!(slot.state, State::Active);
                assert_ne!(slot.state, State::Tainted, "a thief could sign on");
                if slot.state == State::Revoked {
                    assert!(slot.not_after < self.now);
                    self.slots.retain(|slot| slot.id != *id);
                    return;
                }
                let valid = self.signed.get(id).is_some_and(|expires| *expires > self.now);
                assert!(!valid, "{id} is dropped while what it signed is valid");
                self.slots.retain(|slot| slot.id != *id);
            }
            Effect::Taint { id } => {
                self.set(id, State::Tainted);
                self.tainted.insert(id.clone());
                self.renewed = false;
            }
            Effect::Revoke { id } => {
                self.set(id, State::Revoked);
                self.tainted.insert(id.clone());
            }
        }
        assert!(self.active() <= 1);
    }

    fn drive(&mut self, most: usize) {
        for effect in self.plan().effects.iter().take(most) {
            if let Effect::Revoke { id } = effect {
                let valid = self.signed.get(id).is_some_and(|expires| *expires > self.now);
                assert!(!valid, "by itself only what nobody uses is revoked");
            }
            self.apply(effect);
        }
    }

    /// An operator's order. What it would break is refused, unless he insists.
    fn order(&mut self, what: u8, which: u8, force: bool) {
        let id = match self.slots.get(usize::from(which) % self.slots.len().max(1)) {
            Some(slot) => slot.id.clone(),
            None => "none".into(),
        };
        let wanted = match what {
            0 => Order::Prepare,
            1 => Order::Activate { id: id.clone(), force },
            2 => Order::Taint { id: id.clone(), force },
            _ => Order::Revoke { id: id.clone(), force },
        };
        let known = Known { acknowledged: self.acknowledged(), renewed: self.renewed };
        let state = self.slots.iter().find(|slot| slot.id == id).map(|slot| slot.state);
        match order(&self.policy, &self.slots, known, &wanted, self.now) {
            Ok(Some(Effect::Prepare)) => {
                self.apply(&Effect::Prepare);
                self.slots.last_mut().unwrap().held = true;
            }
            Ok(Some(Effect::Activate { id, demote, forced })) => {
                assert!(force || !forced, "only by force may an agent not know a key");
                // Not by the clock, as the plan's own: so not through `apply`.
                demote.iter().for_each(|id| self.set(id, State::Old));
                self.set(&id, State::Active);
                assert_eq!(self.active(), 1);
            }
            Ok(Some(effect)) => {
                match &effect {
                    Effect::Taint { .. } => {
                        assert!(force || self.policy.floor.is_none() || state != Some(State::Active));
                    }
                    Effect::Revoke { .. } => {
                        let unused =
                            state == Some(State::Prepared) || state == Some(State::Tainted) && self.renewed;
                        assert!(force || unused);
                    }
                    other => panic!("{other:?}"),
                }
                self.apply(&effect);
            }
            Ok(None) => {}
            Err(error) => {
                // Force helps against everything but what is not there.
                let absent = matches!(
                    error,
                    OrderError::Unknown(_)
                        | OrderError::NotPrepared { .. }
                        | OrderError::Expired(_)
                        | OrderError::TooMany
                );
                assert!(absent || !force, "{error}");
            }
        }
    }

    /// Drives until nothing is left to do, and returns when to look again.
    fn settle(&mut self) -> Option<UnixTime> {
        for _ in 0..8 {
            let plan = self.plan();
            if plan.effects.is_empty() {
                assert_eq!(self.active(), 1);
                assert!(signing(&self.slots, self.now).is_some());
                return plan.wake_at;
            }
            self.drive(usize::MAX);
        }
        panic!("the plan never settles: {self:?}");
    }

    fn sign(&mut self) {
        if let Some(key) = signing(&self.slots, self.now) {
            let expires = self.now.saturating_add(self.policy.signature_lifetime);
            assert_eq!(key.state, State::Active);
            assert!(!self.tainted.contains(&key.id), "a stolen key signs");
            self.signed.insert(key.id.clone(), expires);
        }
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Advance(seconds) => {
                self.now = self.now.saturating_add(Duration::from_secs((*seconds).into()));
            }
            Step::Connect(agent) => {
                // A new agent starts with a snapshot of the newest revision.
                self.agents.insert(*agent, self.revision);
            }
            Step::Disconnect(agent) => {
                self.agents.remove(agent);
            }
            Step::Acknowledge(agent) => {
                let revision = self.revision;
                self.agents.entry(*agent).and_modify(|applied| *applied = revision);
                self.renewed = self.agents.values().all(|applied| *applied == revision);
            }
            Step::Drive(most) => self.drive(*most),
            Step::Sign => self.sign(),
            Step::Order(what, which, force) => self.order(*what, *which, *force),
        }
    }
}

fn policies() -> impl Strategy<Value = Policy> {
    let seconds = |range: std::ops::Range<u64>| range.prop_map(Duration::from_secs);
    prop_oneof![
        (seconds(16..2000), seconds(1..500)).prop_map(|(life, signed)| Policy::published(life, signed)),
        seconds(16..2000).prop_map(Policy::unpublished),
    ]
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => (0u16..400).prop_map(Step::Advance),
        1 => (0u8..4).prop_map(Step::Connect),
        1 => (0u8..4).prop_map(Step::Disconnect),
        2 => (0u8..4).prop_map(Step::Acknowledge),
        4 => prop_oneof![Just(usize::MAX), 0usize..3].prop_map(Step::Drive),
        4 => Just(Step::Sign),
        2 => (0u8..4, any::<u8>(), any::<bool>()).prop_map(|(what, which, force)| Step::Order(what, which, force)),
    ];
    prop::collection::vec(step, 1..120)
}

proptest! {
    /// Whatever happens, and wherever the driver dies: the assertions of `apply` hold, and one more run of the
    /// driver leaves exactly one key that signs.
    #[test]
    fn the_rules_hold_in_any_order(policy in policies(), steps in steps()) {
        let mut world = World::new(policy);
        world.settle();
        for step in &steps {
            world.step(step);
        }
        world.settle();
    }

    /// Nothing happens before the time that a settled plan names: sleeping until then is enough.
    #[test]
    fn the_next_look_is_never_too_late(policy in policies(), steps in steps(), fraction in 0.0f64..1.0) {
        let mut world = World::new(policy);
        for step in &steps {
            world.step(step);
        }
        let wake_at = world.settle().unwrap();
        let wait = wake_at.since(world.now).as_secs();
        prop_assert!(wait > 0);
        world.now = world.now.saturating_add(Duration::from_secs(((wait - 1) as f64 * fraction) as u64));
        prop_assert_eq!(world.plan().effects, []);
    }

    /// A driver that sleeps as told keeps a key for ever, and doesn't collect old ones.
    #[test]
    fn keys_rotate_for_ever(policy in policies(), agents in 0u8..3, deaf in any::<bool>()) {
        let mut world = World::new(policy);
        world.settle();
        (0..agents).for_each(|agent| world.step(&Step::Connect(agent)));
        let mut forced = false;
        let end = START.saturating_add(policy.lifetime * 6);
        while world.now < end {
            let wake_at = world.settle().unwrap();
            world.sign();
            forced |= matches!(world.plan().effects.as_slice(), [Effect::Activate { forced: true, .. }]);
            if deaf {
                world.now = wake_at;
            } else {
                world.now = world.now.saturating_add(Duration::from_secs(1)).min(wake_at);
                (0..agents).for_each(|agent| world.step(&Step::Acknowledge(agent)));
            }
            prop_assert!(signing(&world.slots, world.now).is_some(), "an outage at {}", world.now);
            forced |= world.plan().effects.iter().any(|effect| matches!(effect, Effect::Activate { forced: true, .. }));
        }
        prop_assert!(world.next >= 8, "only {} keys in six lives", world.next);
        let kept = (policy.signature_lifetime + policy.margin).as_secs() * 2 / policy.lifetime.as_secs() + 3;
        prop_assert!(world.slots.len() as u64 <= kept, "{} keys", world.slots.len());
        prop_assert_eq!(forced, deaf && agents > 0 && policy.floor.is_some());
    }
}

#[test]
fn a_day_of_a_jwt_key() {
    let mut world = World::new(Policy::jwt(Duration::from_secs(3600)));
    assert_eq!(world.plan().effects, [Effect::Start { demote: vec![] }]);
    let half = world.settle().unwrap();
    assert_eq!(half, START.saturating_add(Duration::from_secs(12 * 3600)));
    world.step(&Step::Connect(1));

    world.now = half;
    assert_eq!(world.plan().effects, [Effect::Prepare]);
    world.settle();
    assert_eq!(signing(&world.slots, world.now).unwrap().id, "k1");

    world.step(&Step::Acknowledge(1));
    let activate = Effect::Activate { id: "k2".into(), demote: vec!["k1".into()], forced: false };
    assert_eq!(world.plan().effects, [activate]);
    world.settle();
    assert_eq!(signing(&world.slots, world.now).unwrap().id, "k2");

    world.now = half.saturating_add(Duration::from_secs(3659));
    assert_eq!(world.plan().effects, []);
    world.now = half.saturating_add(Duration::from_secs(3660));
    assert_eq!(world.plan().effects, [Effect::Retire { id: "k1".into() }]);
}

#[test]
fn without_agents_the_floor_decides() {
    let mut world = World::new(Policy::jwt(Duration::from_secs(3600)));
    world.now = world.settle().unwrap();
    world.drive(1);
    let prepared = world.now;
    world.now = prepared.saturating_add(Duration::from_secs(3599));
    assert_eq!(world.plan().effects, []);
    world.now = prepared.saturating_add(Duration::from_secs(3600));
    assert!(matches!(world.plan().effects.as_slice(), [Effect::Activate { forced: false, .. }]));
}

#[test]
fn after_a_long_sleep_there_is_a_key_again() {
    let mut world = World::new(Policy::intermediate());
    world.settle();
    world.now = world.now.saturating_add(Duration::from_secs(40 * 3600));
    assert_eq!(world.plan().effects, [Effect::Start { demote: vec!["k1".into()] }]);
    world.settle();
    assert_eq!(signing(&world.slots, world.now).unwrap().id, "k2");
}

#[test]
fn a_stolen_root_is_replaced_and_distrusted() {
    let day = Duration::from_secs(86_400);
    let mut world = World::new(Policy::root(&Policy::intermediate()));
    world.settle();
    world.step(&Step::Connect(1));
    let policy = world.policy;
    let give = |world: &mut World, wanted: Order| {
        let known = Known { acknowledged: world.acknowledged(), renewed: world.renewed };
        let effect = order(&policy, &world.slots, known, &wanted, world.now);
        if let Ok(Some(effect)) = &effect {
            match effect {
                Effect::Activate { id, demote, .. } => {
                    demote.iter().for_each(|id| world.set(id, State::Old));
                    world.set(id, State::Active);
                }
                effect => world.apply(effect),
            }
        }
        effect
    };
    let named = |id: &str| id.to_owned();
    let taint = |force| Order::Taint { id: named("k1"), force };
    assert_eq!(give(&mut world, taint(false)), Err(OrderError::Active("k1".into())));
    assert_eq!(give(&mut world, Order::Prepare), Ok(Some(Effect::Prepare)));
    world.slots.last_mut().unwrap().held = true;
    assert_eq!(give(&mut world, Order::Prepare), Ok(None), "one is enough");
    let activate = |force| Order::Activate { id: named("k2"), force };
    assert_eq!(give(&mut world, activate(false)), Err(OrderError::NotAcknowledged("k2".into())));
    world.step(&Step::Acknowledge(1));
    assert_eq!(world.plan().effects, [], "it waits for its operator");
    assert!(give(&mut world, activate(false)).is_ok());
    assert_eq!(signing(&world.slots, world.now).unwrap().id, "k2");
    assert!(give(&mut world, taint(false)).is_ok());
    let revoke = |force| Order::Revoke { id: named("k1"), force };
    assert_eq!(give(&mut world, revoke(false)), Err(OrderError::NotRenewed("k1".into())));
    world.step(&Step::Acknowledge(1));
    assert!(give(&mut world, revoke(false)).is_ok());
    assert_eq!(give(&mut world, revoke(false)), Ok(None));
    world.now = START.saturating_add(364 * day);
    world.settle();
    assert!(world.slots.iter().any(|slot| slot.id == "k1"), "its thief can sign until it ends");
    world.now = START.saturating_add(366 * day);
    world.settle();
    assert!(world.slots.iter().all(|slot| slot.id != "k1"));
}
