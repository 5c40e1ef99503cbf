//! Servers, agents and the network between them, in virtual time.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    sync::{Arc, Mutex},
    time::Duration,
};

use bonafide_agent::simulation::SimulatedAgent;
use bonafide_attest::SelectorSet;
use bonafide_authority::{
    admin::Admin,
    config::{Lifetimes, Ttl},
    records::{Agent, Object, RecordChange},
    simulation::{Pages, Parts, Server, Stream},
};
use bonafide_crypto::{
    csr,
    digest::sha256,
    key::{KeyAlgorithm, PrivateKey},
    random::Random,
};
use bonafide_identity::{
    Certificate, InstanceId, SpiffeId, TrustDomain, VerifiedX509Svid, reserved, time::UnixTime,
};
use bonafide_keyring::{KeyFileSeal, Keyring, LiveKeys, LocalKeys};
use bonafide_testkit::TestClock;
use bonafide_wire::node::{agent_message::Kind as Said, authority_message::Kind as Told};
use bytes::Bytes;

use crate::{
    chance::Chance,
    oracle::Oracle,
    store::{Disk, Line},
};

pub(crate) const DOMAIN: &str = "example.org";
pub(crate) const START: i64 = 1_800_000_000;
pub(crate) const SITES: [&str; 2] = ["lab", "edge"];
/// An agent notices after so long that nobody answers any more (HTTP/2 pings), or has not begun to.
pub(crate) const NOTICE: i64 = 15;

/// What is broken on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sabotage {
    /// The network takes a registration out of an update.
    Update,
    /// The network takes the bundle out of updates.
    Bundle,
    /// The network swallows renewals, and cuts nothing.
    Renewal,
    /// The network acknowledges what the agent has not got.
    Acknowledgement,
    /// The store says that it wrote what it did not write.
    Store,
    /// Somebody writes a second root into the store.
    Root,
    /// An agent is set back to an older copy of its disk, and goes on.
    Clone,
    /// What was granted is forgotten.
    Grant,
}

/// A write that a server has answered.
#[derive(Debug)]
pub(crate) struct Write {
    pub(crate) incarnation: u8,
    pub(crate) revision: u64,
    pub(crate) key: String,
    /// It was to be there afterwards.
    pub(crate) put: bool,
}

/// One server.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) name: String,
    pub(crate) clock: Arc<TestClock>,
    pub(crate) offset: i64,
    pub(crate) pages: Pages,
    /// Its ledger has no room, so it issues nothing.
    pub(crate) full: bool,
    /// Entries of its ledger that were looked at.
    pub(crate) read: usize,
    pub(crate) line: Arc<Line>,
    pub(crate) running: Option<Server>,
    pub(crate) restart_at: i64,
    pub(crate) streams: Vec<Ear>,
}

/// A server's end of a stream.
#[derive(Debug)]
pub(crate) struct Ear {
    pub(crate) number: u64,
    pub(crate) agent: usize,
    pub(crate) stream: Stream,
    pub(crate) bookmark_at: i64,
    /// When it notices that the other end is gone.
    pub(crate) ends_at: Option<i64>,
    pub(crate) expires_at: UnixTime,
}

/// One agent.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) id: SpiffeId,
    pub(crate) site: &'static str,
    pub(crate) agent: SimulatedAgent,
    pub(crate) offset: i64,
    pub(crate) wire: Option<Wire>,
    pub(crate) retry_at: i64,
    /// It has crashed, until then.
    pub(crate) down_until: Option<i64>,
    pub(crate) processes: BTreeMap<i32, (u64, u32)>,
    pub(crate) synced_since: Option<i64>,
    pub(crate) touched: bool,
    pub(crate) banned: bool,
    /// An operator has asked for its ban: nobody waits for it any more.
    pub(crate) outlawed: bool,
    pub(crate) older: Option<SimulatedAgent>,
    /// The machine is suspended, until then.
    pub(crate) sleeps_until: i64,
    /// Its clock is right again from then on.
    pub(crate) clock_until: i64,
    /// Why nobody accepts its own SVID any more.
    pub(crate) distrusted: bool,
    /// How far it had come, since it last started.
    pub(crate) reached: (Vec<u8>, u64),
}

/// An agent's end of a stream, and what is on its way.
#[derive(Debug)]
pub(crate) struct Wire {
    pub(crate) number: u64,
    pub(crate) server: usize,
    pub(crate) opened_at: i64,
    /// Who the server has seen in the handshake.
    pub(crate) svid: VerifiedX509Svid,
    pub(crate) up: VecDeque<(i64, Said)>,
    pub(crate) down: VecDeque<(i64, Told)>,
    /// When the agent notices that the other end is gone.
    pub(crate) ends_at: Option<i64>,
    /// Nothing arrives any more, in either direction.
    pub(crate) dead: bool,
}

/// Everything.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) chance: Arc<Chance>,
    pub(crate) now: i64,
    pub(crate) disk: Arc<Disk>,
    pub(crate) places: Vec<Place>,
    pub(crate) nodes: Vec<Node>,
    pub(crate) oracle: Oracle,
    pub(crate) trace: Vec<String>,
    /// Writes that were answered.
    pub(crate) written: Arc<Mutex<Vec<Write>>>,
    /// What operators were answered, in words.
    pub(crate) answers: Arc<Mutex<Vec<String>>>,
    /// Of each generation of each instance: its key, as the ledgers say.
    pub(crate) logged: BTreeMap<(InstanceId, u64), BTreeSet<Bytes>>,
    /// The key of each generation of each instance that an agent had.
    pub(crate) seen: BTreeMap<(InstanceId, u64), (Bytes, Bytes)>,
    /// What agents have, parsed once.
    pub(crate) leaves: HashMap<Bytes, Certificate>,
    /// An operator has insisted: what is under a key may be believed by nobody, before its time.
    pub(crate) insisted: bool,
    pub(crate) calm_since: i64,
    pub(crate) sabotage: Option<Sabotage>,
    /// Replies to renewals that are cut, in percent.
    pub(crate) cut_replies: u64,
    pub(crate) cuts: u64,
    pub(crate) violation: Option<String>,
    pub(crate) trust_domain: TrustDomain,
    lifetimes: Lifetimes,
    pub(crate) next_stream: u64,
    pub(crate) next_start: u64,
}

/// One for all histories: it holds no state.
fn keys() -> Arc<dyn LiveKeys> {
    static KEYS: std::sync::OnceLock<Arc<dyn LiveKeys>> = std::sync::OnceLock::new();
    let make = || {
        let directory = tempfile::tempdir().unwrap();
        let chance = Chance::new(1);
        let seal = KeyFileSeal::create(directory.path().join("seal"), &*chance).unwrap();
        let keyring = Keyring::create(directory.path().join("keyring"), &seal, &*chance).unwrap();
        Arc::new(LocalKeys::new(keyring, chance)) as _
    };
    Arc::clone(KEYS.get_or_init(make))
}

pub(crate) fn facts(uid: u32) -> SelectorSet {
    let (number, user) = (uid.to_string(), format!("user-{uid}"));
    SelectorSet::from_pairs([("unix.uid", number.as_str()), ("unix.user", user.as_str())]).unwrap()
}

impl World {
    pub(crate) async fn new(seed: u64, servers: usize, agents: usize) -> Self {
        let chance = Chance::new(seed);
        let disk = Disk::new();
        let trust_domain: TrustDomain = DOMAIN.parse().unwrap();
        let seconds = |seconds| Ttl::from_secs(seconds).unwrap();
        let lifetimes = Lifetimes {
            root: seconds(7200),
            intermediate: seconds(2400),
            jwt_key: seconds(3600),
            agent: seconds(1200),
            server: seconds(1200),
            x509: seconds(1200),
            jwt: seconds(300),
            backdate: seconds(120),
        };
        let mut world = Self {
            oracle: Oracle::new(trust_domain.clone(), &disk),
            chance,
            now: START,
            places: Vec::new(),
            nodes: Vec::new(),
            trace: Vec::new(),
            written: Arc::default(),
            answers: Arc::default(),
            logged: BTreeMap::new(),
            seen: BTreeMap::new(),
            leaves: HashMap::new(),
            insisted: false,
            calm_since: START,
            sabotage: None,
            cut_replies: 0,
            cuts: 0,
            violation: None,
            trust_domain,
            lifetimes,
            next_stream: 0,
            next_start: 0,
            disk,
        };
        for number in 0..servers {
            let clock = TestClock::new();
            clock.set(UnixTime::from_secs(START));
            world.places.push(Place {
                name: format!("server-{number}"),
                clock,
                offset: 0,
                pages: Pages::default(),
                full: false,
                read: 0,
                line: world.disk.line(),
                running: None,
                restart_at: START,
                streams: Vec::new(),
            });
        }
        world.start_servers().await;
        for site in SITES {
            let wire = bonafide_wire::types::Site {
                name: site.to_owned(),
                scope: Some(bonafide_wire::types::Scope {
                    spiffe_ids: vec![format!("spiffe://{DOMAIN}/app/**")],
                    max_x509_ttl: 1200,
                    max_jwt_ttl: 300,
                    ..Default::default()
                }),
                default_x509_ttl: 1200,
                default_jwt_ttl: 300,
                ..Default::default()
            };
            let now = UnixTime::from_secs(START);
            let object = bonafide_authority::simulation::site(&wire, &world.trust_domain, now).unwrap();
            world.write_now(RecordChange::Put(object)).await;
        }
        for number in 0..agents {
            let node = world.join(SITES[number % 2]).await.unwrap();
            world.nodes.push(node);
        }
        world
    }

    pub(crate) fn say(&mut self, event: impl Into<String>) {
        self.trace.push(format!("{:>5} {}", self.now - START, event.into()));
    }

    pub(crate) fn violated(&mut self, what: String) {
        if self.violation.is_none() {
            self.say(format!("VIOLATION {what}"));
            self.violation = Some(what);
        }
    }

    /// Tells two runs of one seed apart.
    pub(crate) fn fingerprint(&self) -> [u8; 32] {
        sha256(self.trace.join("\n").as_bytes())
    }

    /// Lets every task of the runtime do what it can do now.
    pub(crate) async fn settle(&self) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }

    async fn write_now(&mut self, change: RecordChange) {
        let registry = self.places[0].running.as_ref().unwrap().registry().clone();
        registry.write(move |_| Ok(vec![change.clone()])).await.unwrap();
    }

    /// A write whose answer comes later, or never.
    pub(crate) fn write(&mut self, change: RecordChange) {
        let running: Vec<&Place> = self.places.iter().filter(|place| place.running.is_some()).collect();
        if running.is_empty() {
            return;
        }
        let place = running[self.chance.index(running.len())];
        let registry = place.running.as_ref().unwrap().registry().clone();
        let key = match &change {
            RecordChange::Put(object) => object.key(),
            RecordChange::Remove(key) => key.clone(),
        };
        let event = format!("{} is to write `{key}`", place.name);
        let put = matches!(change, RecordChange::Put(_));
        let (written, incarnation) = (Arc::clone(&self.written), self.disk.incarnation());
        tokio::spawn(async move {
            if let Ok(done) = registry.write(move |_| Ok(vec![change.clone()])).await {
                written.lock().unwrap().push(Write { incarnation, revision: done.revision, key, put });
            }
        });
        self.say(event);
    }

    /// An operator's call to some server. The answer comes later, or never.
    pub(crate) fn call<F>(&mut self, what: String, call: impl FnOnce(Admin) -> F)
    where
        F: Future<Output = Result<(), String>> + Send + 'static,
    {
        let running: Vec<&Place> = self.places.iter().filter(|place| place.running.is_some()).collect();
        if running.is_empty() {
            return;
        }
        let place = running[self.chance.index(running.len())];
        let event = format!("{} is to {what}", place.name);
        let called = call(place.running.as_ref().unwrap().admin().clone());
        let answers = Arc::clone(&self.answers);
        tokio::spawn(async move {
            let answer = called.await.err().unwrap_or_else(|| "done".to_owned());
            answers.lock().unwrap().push(format!("{what}: {answer}"));
        });
        self.say(event);
    }

    /// A new agent of a site, as a join line makes it.
    pub(crate) async fn join(&mut self, site: &'static str) -> Option<Node> {
        let uuid = InstanceId::from_bytes((&*self.chance as &dyn Random).array());
        let id = reserved::agent_id(&self.trust_domain, site, &uuid.to_string()).unwrap();
        let place = self.places.iter().position(|place| place.running.is_some())?;
        let record = Agent {
            id: id.clone(),
            site: site.to_owned(),
            attestor: "join_token".to_owned(),
            selectors: SelectorSet::new(),
            attested_at: UnixTime::from_secs(self.now),
            ban: None,
            version: String::new(),
            attestation: 0,
            proof: None,
        };
        let change = RecordChange::Put(Object::Agent(Arc::new(record)));
        let server = self.places[place].running.as_ref().unwrap();
        let registry = server.registry().clone();
        registry.write(move |_| Ok(vec![change.clone()])).await.ok()?;
        let key = Arc::new(PrivateKey::generate(KeyAlgorithm::EcP256).unwrap());
        let (chain, renew_after, bundle) = server.join(&id, csr::build(&key).unwrap())?;
        let (trust_domain, random) = (self.trust_domain.clone(), self.chance.fork());
        let agent = SimulatedAgent::new(trust_domain, random, chain, key, renew_after, bundle).unwrap();
        Some(Node {
            id,
            site,
            agent,
            offset: 0,
            wire: None,
            retry_at: self.now,
            down_until: None,
            processes: BTreeMap::new(),
            synced_since: None,
            touched: false,
            banned: false,
            outlawed: false,
            older: None,
            sleeps_until: 0,
            clock_until: i64::MAX,
            distrusted: false,
            reached: (Vec::new(), 0),
        })
    }

    pub(crate) async fn start_servers(&mut self) {
        for number in 0..self.places.len() {
            let place = &mut self.places[number];
            if place.running.is_some() || place.restart_at > self.now {
                continue;
            }
            place.line = self.disk.line();
            let parts = Parts {
                server: place.name.clone(),
                trust_domain: self.trust_domain.clone(),
                store: Arc::clone(&place.line) as _,
                keys: keys(),
                pages: place.pages.clone(),
                clock: Arc::clone(&place.clock) as _,
                random: self.chance.fork(),
                lifetimes: self.lifetimes,
            };
            match Server::start(parts).await {
                Ok(server) => self.places[number].running = Some(server),
                // Its ledger has no room, for example: a supervisor tries again.
                Err(why) => {
                    self.places[number].restart_at = self.now + 10;
                    self.say(format!("server {number} does not start: {why}"));
                    continue;
                }
            }
            self.say(format!("server {number} has started"));
        }
    }

    pub(crate) fn crash_server(&mut self, number: usize, down: i64) {
        let place = &mut self.places[number];
        place.line.cut();
        place.streams.clear();
        place.restart_at = self.now + down;
        if let Some(server) = place.running.take() {
            server.crash();
        }
        let (now, chance) = (self.now, Arc::clone(&self.chance));
        for node in &mut self.nodes {
            if let Some(wire) = node.wire.as_mut().filter(|wire| wire.server == number) {
                wire.dead = true;
                wire.ends_at = Some(now + chance.between(0, NOTICE));
            }
        }
        self.say(format!("server {number} crashes for {down} s"));
    }

    pub(crate) fn crash_agent(&mut self, number: usize, down: i64) {
        self.cut(number, Some(0), Some(NOTICE));
        let node = &mut self.nodes[number];
        node.wire = None;
        node.reached = Default::default();
        node.down_until = Some(self.now + down);
        node.synced_since = None;
        self.say(format!("agent {number} crashes for {down} s"));
    }

    /// Cuts a stream. The ends notice up to so long after.
    pub(crate) fn cut(&mut self, number: usize, agent: Option<i64>, server: Option<i64>) {
        let (now, chance) = (self.now, Arc::clone(&self.chance));
        let Some(wire) = &mut self.nodes[number].wire else { return };
        wire.dead = true;
        wire.ends_at = Some(now + chance.between(0, agent.unwrap_or(NOTICE)));
        let ends_at = Some(now + chance.between(0, server.unwrap_or(NOTICE)));
        let (server, stream) = (wire.server, wire.number);
        for ear in &mut self.places[server].streams {
            if ear.number == stream {
                ear.ends_at = ends_at;
            }
        }
        self.say(format!("the stream of agent {number} is cut"));
    }

    pub(crate) fn clock_of(&self, number: usize) -> UnixTime {
        UnixTime::from_secs(self.now + self.nodes[number].offset)
    }

    pub(crate) fn running(&self, number: usize) -> BTreeSet<(i32, u64)> {
        self.nodes[number].processes.iter().map(|(pid, (start, _))| (*pid, *start)).collect()
    }

    /// Both ends of the agent's stream are open, and it has been told where the server stands.
    pub(crate) fn is_live(&self, number: usize) -> bool {
        let node = &self.nodes[number];
        let Some(wire) = node.wire.as_ref().filter(|wire| !wire.dead) else { return false };
        let ears = &self.places[wire.server].streams;
        node.agent.is_synced() && ears.iter().any(|ear| ear.number == wire.number && ear.ends_at.is_none())
    }

    /// Nobody has anything to catch up with.
    pub(crate) fn is_quiet(&self) -> bool {
        let head = self.oracle.state.revision();
        (0..self.nodes.len())
            .all(|number| self.is_live(number) && self.nodes[number].agent.position().1 == head)
    }

    /// Lets time pass up to `until`, with all that happens in it.
    pub(crate) async fn pass(&mut self, until: i64) {
        while self.now < until && self.violation.is_none() {
            let next = self.next_event().clamp(self.now + 1, until);
            let wait = Duration::from_secs(u64::try_from(next - self.now).unwrap());
            tokio::time::sleep(wait - Duration::from_millis(1)).await;
            self.set_time(next);
            self.settle().await;
            self.happen().await;
            self.check();
        }
    }

    pub(crate) fn set_time(&mut self, now: i64) {
        self.now = now;
        for node in &mut self.nodes {
            if node.clock_until <= now {
                (node.offset, node.clock_until) = (0, i64::MAX);
            }
        }
        for place in &self.places {
            place.clock.set(UnixTime::from_secs(now + place.offset));
        }
    }

    fn next_event(&self) -> i64 {
        // Rotations and slow commits wake by themselves; they are looked after this often.
        let mut next = self.now + 5;
        for place in &self.places {
            if place.running.is_none() {
                next = next.min(place.restart_at);
            }
            for ear in &place.streams {
                next = next.min(ear.bookmark_at).min(ear.ends_at.unwrap_or(next));
            }
        }
        for node in &self.nodes {
            next = next.min(node.down_until.unwrap_or(next)).min(node.clock_until);
            if node.sleeps_until > self.now {
                next = next.min(node.sleeps_until);
                continue;
            }
            let Some(wire) = &node.wire else {
                next = next.min(node.retry_at);
                continue;
            };
            next = next.min(wire.ends_at.unwrap_or(next));
            let first = [wire.up.front().map(|(at, _)| *at), wire.down.front().map(|(at, _)| *at)];
            next = first.into_iter().flatten().fold(next, i64::min);
            if let Some(at) = node.agent.next_tick() {
                next = next.min(at.as_secs() - node.offset);
            }
        }
        next
    }
}
