//! The invariants: some after every step, all of them once the faults have ended and time has passed.

use std::collections::{BTreeMap, BTreeSet};

use bonafide_attest::SelectorSet;
use bonafide_crypto::digest::sha256;
use bonafide_identity::{Certificate, time::UnixTime};
use bytes::Bytes;

use crate::{
    oracle::Activation,
    world::{SITES, START, World, Write, facts},
};

/// Users of processes.
pub(crate) const USERS: u32 = 3;
/// After so long without a fault, nothing that is due may still wait.
const CALM: i64 = 400;

impl World {
    /// What holds after every step.
    pub(crate) fn check(&mut self) {
        let activations = match self.oracle.follow(&self.disk, 60) {
            Ok(activations) => activations,
            Err(why) => return self.violated(why),
        };
        let written = self.oracle.take_written();
        written.into_iter().for_each(|what| self.say(what));
        for activation in activations {
            self.check_activation(&activation);
        }
        let answers: Vec<String> = self.answers.lock().unwrap().drain(..).collect();
        answers.into_iter().for_each(|answer| self.say(answer));
        self.check_written();
        self.check_ledgers();
        let quarantined = SITES.iter().any(|site| self.oracle.state.is_quarantined(site));
        if quarantined || self.places.iter().any(|place| place.full) {
            self.calm_since = self.now;
        }
        let moved = self.nodes.iter().any(|node| node.touched);
        for number in 0..self.nodes.len() {
            if std::mem::take(&mut self.nodes[number].touched) && self.nodes[number].down_until.is_none() {
                self.check_set(number);
                self.check_grants(number);
                self.check_served(number);
            }
            self.check_renewals(number);
        }
        if moved {
            self.check_verifiers();
        }
    }

    /// A key signs only after every live agent knows it.
    fn check_activation(&mut self, activation: &Activation) {
        let Activation { key, published, was_late } = activation;
        self.say(format!("a key of use {:?} begins to sign, published at {published}", key.r#use()));
        for number in 0..self.nodes.len() {
            let (_, revision) = self.nodes[number].agent.position();
            if !was_late && self.is_live(number) && revision < *published {
                self.violated(format!(
                    "a key of use {:?} signs, and agent {number} at {revision} does not know what {published} published",
                    key.r#use()
                ));
            }
        }
    }

    /// Nothing that was acknowledged is lost, unless the store was restored since.
    fn check_written(&mut self) {
        let written: Vec<_> = self.written.lock().unwrap().drain(..).collect();
        if written.is_empty() {
            return;
        }
        let changes = self.disk.changes_after(0);
        for Write { incarnation, revision, key, put } in written {
            let found = self.disk.change(revision).is_some_and(|change| change.key == key);
            // A removal of what is not there changes nothing, and is answered with the head.
            let absent = changes.iter().rev().find(|change| change.key == key);
            let nothing = !put && absent.is_none_or(|change| change.value.is_none());
            if incarnation == self.disk.incarnation() && !found && !nothing {
                self.violated(format!("the write of `{key}` at {revision} was acknowledged and is lost"));
            }
        }
    }

    /// An agent has what the authority's state says at the agent's revision.
    fn check_set(&mut self, number: usize) {
        let node = &self.nodes[number];
        let (incarnation, revision) = node.agent.position();
        if let Some(expected) = self.oracle.digest(&node.id, &incarnation, revision)
            && revision > 0
            && expected != node.agent.digest()
        {
            self.violated(format!("agent {number} has another set than its node may host at {revision}"));
        }
        let node = &self.nodes[number];
        if let Some(expected) = self.oracle.revocations_digest(&incarnation, revision)
            && revision > 0
            && expected != node.agent.revocations().digest()
        {
            self.violated(format!("agent {number} does not know what is revoked at {revision}"));
        }
        let node = &mut self.nodes[number];
        let reached = (incarnation.to_vec(), revision);
        let before = std::mem::replace(&mut node.reached, reached);
        if before.0 == incarnation && before.1 > revision && revision > 0 {
            self.violated(format!("agent {number} went back from {} to {revision}", before.1));
        }
    }

    /// One key for each generation of each instance.
    fn check_ledgers(&mut self) {
        for place in &mut self.places {
            let (issued, read) = place.pages.issued_after(place.read);
            place.read = read;
            for logged in issued {
                let keys = self.logged.entry((logged.instance, logged.generation)).or_default();
                keys.insert(logged.key_id);
            }
        }
    }

    /// What processes get was logged before, is theirs alone, and is not revoked as far as their agent knows.
    fn check_served(&mut self, number: usize) {
        let mut wrong = Vec::new();
        let node = &self.nodes[number];
        if node.banned && !node.agent.kept().is_empty() {
            wrong.push(format!("agent {number} was banned and keeps SVIDs"));
        }
        let mut owners = BTreeMap::new();
        for process in self.running(number) {
            for held in node.agent.held(process) {
                let Some(svid) = held.svid else { continue };
                if let Some(other) = owners.insert(svid.instance, process) {
                    wrong.push(format!("{other:?} and {process:?} of agent {number} share an instance"));
                }
                let leaf = self.leaves.entry(svid.chain[0].clone()).or_insert_with(|| parse(&svid.chain[0]));
                if let Some(subject) = node.agent.revocations().of_certificate(leaf) {
                    wrong.push(format!(
                        "agent {number} serves {}, whose {subject} is revoked",
                        held.registration
                    ));
                }
            }
        }
        for kept in node.agent.kept() {
            let known = self.seen.get(&(kept.instance, kept.generation));
            if known.is_some_and(|(_, leaf)| *leaf == kept.chain[0]) {
                continue;
            }
            let leaf = self.leaves.entry(kept.chain[0].clone()).or_insert_with(|| parse(&kept.chain[0]));
            let key_id = Bytes::copy_from_slice(&leaf.public_key().key_id());
            if known.is_some_and(|(key, _)| *key != key_id) {
                wrong.push(format!("an instance of agent {number} has two keys of one generation"));
            }
            let logged = self.logged.get(&(kept.instance, kept.generation));
            if !logged.is_some_and(|keys| keys.contains(&key_id)) {
                wrong.push(format!(
                    "agent {number} has an SVID of {} that no ledger knows",
                    kept.registration
                ));
            }
            self.seen.insert((kept.instance, kept.generation), (key_id, kept.chain[0].clone()));
        }
        wrong.into_iter().for_each(|what| self.violated(what));
    }

    /// No SVID lives at an agent for something that was never granted.
    fn check_grants(&mut self, number: usize) {
        let node = &self.nodes[number];
        let facts: Vec<SelectorSet> = (1..=USERS).map(facts).collect();
        let mut ungranted = Vec::new();
        for kept in node.agent.kept() {
            let leaf = self.leaves.entry(kept.chain[0].clone()).or_insert_with(|| parse(&kept.chain[0]));
            let id = leaf.spiffe_id().unwrap();
            if !self.oracle.was_granted(&node.id, &kept.registration, id, &facts) {
                ungranted.push(format!("agent {number} has `{id}`, which nobody ever granted"));
            }
        }
        ungranted.into_iter().for_each(|what| self.violated(what));
    }

    /// Renewals go on as long as there is an authority, and nothing in its way.
    fn check_renewals(&mut self, number: usize) {
        let now = self.now;
        let node = &self.nodes[number];
        let live = node.synced_since.is_some_and(|since| now - since > CALM) && self.is_live(number);
        if !live || now - self.calm_since <= CALM {
            return;
        }
        let clock = self.clock_of(number).as_secs();
        let mut stuck = Vec::new();
        for process in self.running(number) {
            for held in self.nodes[number].agent.held(process) {
                match held.svid {
                    Some(svid) if clock - svid.renew_after.as_secs() > CALM => {
                        stuck.push(format!(
                            "agent {number} does not renew {}: {}",
                            held.registration, held.problem
                        ));
                    }
                    _ => {}
                }
            }
        }
        stuck.into_iter().for_each(|what| self.violated(what));
    }

    /// Every live agent accepts what every other one holds.
    fn check_verifiers(&mut self) {
        let live: Vec<usize> = (0..self.nodes.len()).filter(|number| self.is_live(*number)).collect();
        if self.insisted {
            return;
        }
        let mut kept: Vec<_> = self.nodes.iter().flat_map(|node| node.agent.kept()).collect();
        // The pool is looked through before it is given out.
        kept.retain(|kept| kept.pid.is_some() || !self.oracle.is_under_revoked(&kept.chain));
        // Who is away may have been waited for in vain: whether it was is judged when it comes back.
        let away = (0..self.nodes.len()).filter(|number| !self.is_live(*number));
        for node in away.map(|number| &self.nodes[number]) {
            let own: BTreeSet<_> = node.agent.kept().into_iter().map(|kept| kept.instance).collect();
            kept.retain(|kept| !own.contains(&kept.instance) || !self.oracle.is_under_revoked(&kept.chain));
        }
        let mut refused = Vec::new();
        for number in live {
            let clock = self.clock_of(number);
            let bundle = self.nodes[number].agent.bundle().clone();
            let hash = sha256(&bundle);
            for kept in &kept {
                let svid = (kept.instance, kept.generation, kept.chain.as_slice());
                if let Err(why) = self.oracle.verify(svid, (&bundle, hash), clock) {
                    refused.push(format!("agent {number} refuses an SVID of {}: {why}", kept.registration));
                }
            }
        }
        refused.into_iter().for_each(|what| self.violated(what));
    }

    /// What holds once everything has had its time.
    pub(crate) fn check_at_rest(&mut self) {
        self.insisted = false;
        self.check_verifiers();
        let mut wrong = Vec::new();
        let head = self.oracle.state.revision();
        for place in &self.places {
            let Some(server) = &place.running else {
                wrong.push(format!("{} does not run", place.name));
                continue;
            };
            let state = server.registry().state();
            if state.revision() != head {
                wrong.push(format!("{} is at {}, the log at {head}", place.name, state.revision()));
            }
            for agent in self.oracle.state.agents() {
                if state.digest_of(agent).bytes() != self.oracle.state.digest_of(agent).bytes() {
                    wrong.push(format!("{} has folded another set for {}", place.name, agent.id));
                }
            }
        }
        for number in 0..self.nodes.len() {
            let node = &self.nodes[number];
            let clock = self.clock_of(number);
            if !self.is_live(number) {
                wrong.push(format!("agent {number} has no stream"));
                continue;
            }
            if node.agent.node_expiry().is_none_or(|end| end <= clock) {
                wrong.push(format!("the SVID of agent {number} itself has expired"));
            }
            let expected = self.oracle.state.agent(&node.id).map(|agent| self.oracle.state.digest_of(agent));
            if expected.map(|digest| digest.bytes()) != Some(node.agent.digest()) {
                wrong.push(format!("agent {number} has not got what its node may host"));
            }
            let parse = |json: &[u8]| {
                bonafide_identity::bundle::TrustBundle::parse(&self.trust_domain, json).unwrap().to_json()
            };
            if parse(node.agent.bundle()) != parse(&self.oracle.state.bundle().to_json()) {
                wrong.push(format!("agent {number} has another bundle"));
            }
            for (pid, (start, uid)) in &node.processes {
                let held = node.agent.held((*pid, *start));
                let good = |end: UnixTime, renew_after: UnixTime| {
                    end > clock && clock.as_secs() - renew_after.as_secs() < CALM
                };
                let have: BTreeSet<String> = held
                    .iter()
                    .filter(|held| {
                        held.svid.as_ref().is_some_and(|svid| good(svid.not_after, svid.renew_after))
                    })
                    .map(|held| held.registration.clone())
                    .collect();
                let mut expected = self.oracle.expected(&node.id, &facts(*uid), clock);
                for held in held.iter().filter(|held| held.withheld) {
                    expected.remove(&held.registration);
                }
                if have != expected {
                    let problems: Vec<_> = held.iter().map(|held| held.problem.as_str()).collect();
                    wrong.push(format!(
                        "process {pid} of agent {number} has {have:?} of {expected:?} ({problems:?})"
                    ));
                }
            }
        }
        wrong.into_iter().for_each(|what| self.violated(format!("at rest: {what}")));
        self.say(format!("at rest after {} s", self.now - START));
    }
}

fn parse(der: &[u8]) -> Certificate {
    Certificate::from_der(der).unwrap()
}
