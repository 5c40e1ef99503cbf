//! Random histories of three servers, an agent that moves between them, and a thief who has copied what it has.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

const SERVERS: [&str; 3] = ["a", "b", "c"];
const INSTANCE: InstanceId = InstanceId::from_bytes([3; 16]);
const NOW: UnixTime = UnixTime::from_secs(1000);
const INCARNATION: &[u8] = &[1; 16];

/// What happens. Servers, certificates and claims are numbers modulo how many there are.
#[derive(Clone, Copy, Debug)]
enum Event {
    /// The agent renews at a server; the reply may be lost.
    Renew {
        server: usize,
        lost: bool,
    },
    /// A thief renews with a certificate that was issued to anybody.
    Steal {
        server: usize,
        certificate: usize,
    },
    /// A server's state catches up with the log.
    Fold(usize),
    /// A server answers the newest record that its state has.
    Answer(usize),
    /// A claim goes on, if it was answered.
    Settle(usize),
    /// A claim goes on, answered or not.
    Insist(usize),
    /// A claim goes on, if it was answered or can't be.
    Wait(usize),
    Kill(usize),
    Restart(usize),
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Certificate {
    generation: u64,
    key: u8,
    issuer: usize,
}

#[derive(Debug, Default)]
struct Server {
    alive: bool,
    lineages: Lineages,
    /// What it has issued; outlives it.
    ledger: Vec<(u64, u8)>,
    /// Records that its state has.
    folded: usize,
}

/// A request that waits for a record.
#[derive(Clone, Debug)]
struct Pending {
    server: usize,
    claim: Claim,
    key: u8,
    lost: bool,
    by_thief: bool,
}

#[derive(Debug)]
struct World {
    servers: [Server; 3],
    log: Vec<LineageOwner>,
    certificates: Vec<Certificate>,
    pending: Vec<Pending>,
    /// The newest certificate that the agent has got.
    own: Certificate,
    /// Some server was too slow.
    hurried: bool,
    /// The agent was refused although it has done nothing wrong.
    wronged: bool,
}

fn key_id(generation: u64, key: u8) -> [u8; 20] {
    let mut id = [key; 20];
    id[..8].copy_from_slice(&generation.to_be_bytes());
    id
}

fn lineage(generation: u64, key: u8) -> Lineage {
    Lineage {
        generation,
        serial: [key; 16],
        tbs_sha256: [key; 32],
        key_id: key_id(generation, key),
        registration: "web".into(),
        agent: Arc::new("spiffe://example.org/bonafide/agent/x".parse().unwrap()),
        not_after: UnixTime::from_secs(100_000),
        ended: false,
        moved: false,
    }
}

impl World {
    fn new() -> Self {
        let first = Certificate { generation: 0, key: 0, issuer: 0 };
        let mut world = Self {
            servers: Default::default(),
            log: Vec::new(),
            certificates: vec![first],
            pending: Vec::new(),
            own: first,
            hurried: false,
            wronged: false,
        };
        world.servers.iter_mut().for_each(|server| server.alive = true);
        world.servers[0].ledger.push((0, 0));
        world.servers[0].lineages.note(INSTANCE, lineage(0, 0), false, NOW).unwrap();
        world
    }

    fn judge(&self, server: usize) -> Judge<'static> {
        Judge {
            server: SERVERS[server],
            incarnation: INCARNATION,
            issued: self.servers[server].lineages.issued(INSTANCE, NOW),
            forgotten_at: UnixTime::from_secs(200_000),
        }
    }

    /// As a signing thread does. Whether it was refused.
    fn request(&mut self, server: usize, previous: Certificate, key: u8, lost: bool, by_thief: bool) -> bool {
        if !self.servers[server].alive {
            return false;
        }
        let claim = Claim {
            instance: INSTANCE,
            generation: previous.generation + 1,
            key_id: key_id(previous.generation + 1, key),
            previous_key_id: key_id(previous.generation, previous.key),
            issuer: Some(SERVERS[previous.issuer].into()),
        };
        let record = self.servers[server].folded.checked_sub(1).map(|last| self.log[last].clone());
        let issued = self.servers[server].lineages.issued(INSTANCE, NOW);
        let remembered = previous.issuer == server
            && issued == Some((previous.generation, key_id(previous.generation, previous.key)));
        let pending = Pending { server, claim, key, lost, by_thief };
        let decides = remembered && leaves(record.as_ref(), SERVERS[server], INCARNATION, &pending.claim)
            || match self.judge(server).judge(record.as_ref(), &pending.claim) {
                Ok(step) => step == Step::Own,
                Err(_) => return true,
            };
        if !decides {
            return self.take_over(pending);
        }
        match self.issue(&pending, false) {
            Ok(()) => false,
            Err(Discord::Moved) => self.take_over(pending),
            Err(_) => true,
        }
    }

    /// Whether it was refused.
    fn take_over(&mut self, pending: Pending) -> bool {
        // The write catches up.
        self.servers[pending.server].folded = self.log.len();
        match self.judge(pending.server).judge(self.log.last(), &pending.claim) {
            Err(_) => true,
            Ok(Step::Own) => self.issue(&pending, true).is_err(),
            Ok(Step::Take(record)) => {
                self.write(pending.server, record);
                self.issue(&pending, true).is_err()
            }
            Ok(Step::Condemn(record)) => {
                self.write(pending.server, record);
                true
            }
            Ok(Step::Ask(record)) => {
                self.write(pending.server, record);
                self.pending.push(pending);
                false
            }
            Ok(Step::Wait) => {
                self.pending.push(pending);
                false
            }
        }
    }

    fn write(&mut self, server: usize, record: LineageOwner) {
        self.log.push(record);
        self.servers[server].folded = self.log.len();
    }

    fn issue(&mut self, pending: &Pending, taken: bool) -> Result<(), Discord> {
        let server = &mut self.servers[pending.server];
        let (generation, key) = (pending.claim.generation, pending.key);
        server.lineages.note(INSTANCE, lineage(generation, key), taken, NOW)?;
        server.ledger.push((generation, key));
        let certificate = Certificate { generation, key, issuer: pending.server };
        self.certificates.push(certificate);
        if !pending.by_thief && !pending.lost && generation > self.own.generation {
            self.own = certificate;
        }
        Ok(())
    }

    fn settle(&mut self, index: usize, insists: bool) {
        if self.pending.is_empty() {
            return;
        }
        let index = index % self.pending.len();
        let (server, claim) = (self.pending[index].server, self.pending[index].claim.clone());
        let open = self.log.last().filter(|record| is_open(record, SERVERS[server], &claim)).cloned();
        if let Some(record) = open {
            if !insists {
                return;
            }
            self.write(server, insisted(&record));
        }
        let pending = self.pending.remove(index);
        self.servers[server].folded = self.log.len();
        let settled = settled(self.log.last(), SERVERS[server], &claim);
        let refused = match settled {
            Ok(true) => self.issue(&pending, true).is_err_and(|discord| discord != Discord::Moved),
            Ok(false) => false,
            Err(_) => true,
        };
        // It may have renewed elsewhere meanwhile, and does not wait for this any more.
        self.wronged |= refused && !pending.by_thief && claim.generation > self.own.generation;
    }

    fn answer_newest(&mut self, number: usize) {
        let server = &self.servers[number];
        let Some(to) = server.folded.checked_sub(1).map(|last| self.log[last].clone()) else { return };
        if !server.alive {
            return;
        }
        let said = answer(&server.lineages, (SERVERS[number], INCARNATION), (INSTANCE, &to), NOW);
        if let Some((record, _)) = said
            && self.log.last() == Some(&to)
        {
            self.write(number, record);
        }
    }

    fn kill(&mut self, number: usize) {
        let ledger = std::mem::take(&mut self.servers[number].ledger);
        self.servers[number] = Server { ledger, ..Server::default() };
        self.pending.retain(|pending| pending.server != number);
    }

    fn restart(&mut self, number: usize) {
        if self.servers[number].alive {
            return;
        }
        let server = &mut self.servers[number];
        server.alive = true;
        for (generation, key) in &server.ledger {
            let _discord = server.lineages.note(INSTANCE, lineage(*generation, *key), false, NOW);
        }
        server.folded = self.log.len();
        self.answer_newest(number);
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Renew { server, lost } => {
                let before = self.own;
                // Between two renewals lies half a life: longer than any claim waits, and than any server is behind.
                let is_old =
                    |pending: &Pending| !pending.by_thief && pending.claim.generation <= before.generation;
                if self.pending.iter().any(is_old) && !self.hurried {
                    self.pass();
                }
                // The same key as long as no answer has come.
                let refused = self.request(server, before, 1, lost, false);
                self.wronged |= refused;
            }
            Event::Steal { server, certificate } => {
                let stolen = self.certificates[certificate % self.certificates.len()];
                self.request(server, stolen, 2, false, true);
            }
            Event::Fold(server) => self.servers[server].folded = self.log.len(),
            Event::Answer(server) => self.answer_newest(server),
            Event::Settle(claim) => self.settle(claim, false),
            Event::Insist(claim) => {
                self.hurried = true;
                self.settle(claim, true);
            }
            Event::Wait(claim) => {
                let from = self.log.last().map(|record| record.from.clone()).unwrap_or_default();
                let is_dead = |(server, name): (&Server, &str)| *name == *from && !server.alive;
                let dead = self.servers.iter().zip(SERVERS).any(is_dead);
                self.settle(claim, dead);
            }
            Event::Kill(server) => self.kill(server),
            Event::Restart(server) => self.restart(server),
        }
    }

    /// Everybody comes back, follows the log, and answers.
    fn rest(&mut self) {
        (0..3).for_each(|server| self.restart(server));
        self.pass();
    }

    /// Who is alive follows the log, and answers; claims go on.
    fn pass(&mut self) {
        for _ in 0..self.log.len() * 3 + 9 {
            for server in 0..3 {
                self.servers[server].folded = self.log.len();
                self.answer_newest(server);
            }
            self.settle(0, false);
        }
        while !self.pending.is_empty() {
            self.settle(0, true);
        }
        for server in (0..3).cycle().take(3 * (self.log.len() + 9)) {
            self.servers[server].folded = self.log.len();
            self.answer_newest(server);
        }
    }

    /// Generations that more than one key has had a certificate of.
    fn forks(&self) -> Vec<u64> {
        let mut keys: BTreeMap<u64, BTreeSet<u8>> = BTreeMap::new();
        for certificate in &self.certificates {
            keys.entry(certificate.generation).or_default().insert(certificate.key);
        }
        keys.into_iter().filter(|(_, keys)| keys.len() > 1).map(|(generation, _)| generation).collect()
    }
}

fn event() -> impl Strategy<Value = Event> {
    let server = 0..SERVERS.len();
    prop_oneof![
        6 => (server.clone(), any::<bool>()).prop_map(|(server, lost)| Event::Renew { server, lost }),
        4 => server.clone().prop_map(Event::Fold),
        8 => server.prop_map(Event::Answer),
        6 => any::<usize>().prop_map(Event::Settle),
    ]
}

fn theft() -> impl Strategy<Value = Event> {
    (0..SERVERS.len(), any::<usize>()).prop_map(|(server, certificate)| Event::Steal { server, certificate })
}

fn fault() -> impl Strategy<Value = Event> {
    let server = 0..SERVERS.len();
    prop_oneof![
        2 => any::<usize>().prop_map(Event::Wait),
        1 => server.clone().prop_map(Event::Kill),
        2 => server.prop_map(Event::Restart),
    ]
}

/// A server that is not dead is too slow to answer, and goes on issuing.
fn hurry() -> impl Strategy<Value = Event> {
    any::<usize>().prop_map(Event::Insist)
}

fn events(event: impl Strategy<Value = Event>) -> impl Strategy<Value = Vec<Event>> {
    prop::collection::vec(event, 0..120)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn of_servers_that_answer_no_two_issue_successors_of_one_certificate(events in events(prop_oneof![5 => event(), 1 => theft()])) {
        let mut world = World::new();
        events.into_iter().for_each(|event| world.happen(event));
        prop_assert_eq!(world.forks(), Vec::<u64>::new(), "{:?}", world);
    }

    #[test]
    fn what_two_servers_have_issued_is_found_out_and_ends(events in events(prop_oneof![6 => event(), 1 => theft(), 2 => fault(), 1 => hurry()])) {
        let mut world = World::new();
        events.into_iter().for_each(|event| world.happen(event));
        world.rest();
        if !world.forks().is_empty() {
            prop_assert!(world.log.last().is_some_and(|record| record.forked), "{:?}", world);
            for certificate in world.certificates.clone() {
                for server in 0..3 {
                    prop_assert!(world.request(server, certificate, 7, false, true), "{:?} at {}: {:?}", certificate, server, world);
                }
            }
        }
    }

    #[test]
    fn an_agent_that_is_alone_is_always_renewed(events in events(prop_oneof![6 => event(), 2 => fault()])) {
        let mut world = World::new();
        events.into_iter().for_each(|event| world.happen(event));
        prop_assert!(!world.wronged, "{:?}", world);
        world.rest();
        prop_assert!(!world.log.iter().any(|record| record.forked));
        for server in 0..3 {
            let before = world.own.generation;
            prop_assert!(!world.request(server, world.own, 1, false, false), "{:?}", world);
            world.rest();
            prop_assert_eq!(world.own.generation, before + 1, "{:?}", world);
        }
    }
}
