//! Five share's processes in one, with disks that can be cut off at any step, and a network that loses nothing.

use std::collections::{BTreeMap, VecDeque};

use bonafide_crypto::digest::sha256;
use bonafide_crypto::key::Signer as _;
use bonafide_crypto::random::SystemRandom;
use bonafide_identity::{SystemClock, UnixTime, X509Svid};
use bonafide_keyring::{KeyFileSeal, Keyring, LiveKeys as _, LocalKeys};
use bonafide_sealing::document::{Document as _, Signed, VerifyingKey};
use bonafide_sealing::epoch::{EpochRecord, TrustedEpoch};
use bonafide_sealing::exchange::{EvaluationReply, EvaluationRequest};
use bonafide_sealing::group::{G1Point, Index};
use bonafide_sealing::params::{SealParams, TrustedParams};
use bonafide_sealing::roster::{Roster, TrustedRoster};
use bonafide_testkit::TestDomain;
use bonafide_wire::keyholder::{self as wire, propose_request};

use super::*;
use crate::generated::worker as asks;
use crate::generated::worker::step::Step;
use crate::judge::caller_message;
use crate::owner::{TestOwner, policy};

struct Node {
    folder: tempfile::TempDir,
    live: LocalKeys,
    disk: BTreeMap<String, Vec<u8>>,
    view: asks::View,
    /// How many files it writes or erases until it is killed.
    budget: usize,
}

fn live(folder: &std::path::Path) -> LocalKeys {
    let seal = KeyFileSeal::open(folder.join("seal.key")).unwrap();
    let keyring = Keyring::open(folder.join("keyring"), &seal).unwrap();
    let handler = share_handler(Arc::new(SystemClock), Arc::new(SystemRandom));
    LocalKeys::new(keyring, Arc::new(SystemRandom)).with_handler(handler)
}

impl Node {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let seal = KeyFileSeal::create(folder.path().join("seal.key"), &SystemRandom).unwrap();
        Keyring::create(folder.path().join("keyring"), &seal, &SystemRandom).unwrap();
        let live = live(folder.path());
        let mut node =
            Self { folder, live, disk: BTreeMap::new(), view: asks::View::default(), budget: usize::MAX };
        node.change(Ask::Create(asks::Create {})).unwrap();
        node
    }

    /// Killed, and started again with what was on its disk.
    fn restart(&mut self) -> Vec<asks::Deliver> {
        self.live = live(self.folder.path());
        self.budget = usize::MAX;
        let state = self.disk["state"].clone().into();
        let seals = self.disk.iter().filter(|(name, _)| name.starts_with("seal-"));
        let seals = seals.map(|(name, content)| (name.clone(), content.clone().into())).collect();
        self.change(Ask::Open(asks::Open { state, seals })).unwrap()
    }

    fn ask(&self, ask: Ask) -> Reply {
        let request = Request { ask: Some(ask) }.encode_to_vec();
        let answer = self.live.handle(&[&request]).unwrap().pop().unwrap();
        Reply::decode(answer.as_slice()).unwrap()
    }

    fn change(&mut self, ask: Ask) -> Result<Vec<asks::Deliver>, Refusal> {
        let (mut ask, mut out) = (ask, Vec::new());
        loop {
            let reply = self.ask(ask);
            if let Some(refusal) = reply.refusal {
                return Err(refusal.into());
            }
            self.view = reply.view.unwrap();
            for step in reply.steps {
                match step.step.unwrap() {
                    Step::Broadcast(message) => out.push(message),
                    Step::Notice(_) => {}
                    Step::Put(_) | Step::Erase(_) if self.budget == 0 => return Ok(out),
                    Step::Put(put) => {
                        self.budget -= 1;
                        self.disk.insert(put.name, put.content.to_vec());
                    }
                    Step::Erase(name) => {
                        self.budget -= 1;
                        self.disk.remove(&name);
                    }
                }
            }
            if reply.confirm == 0 {
                return Ok(out);
            }
            ask = Ask::Durable(asks::Durable { number: reply.confirm });
        }
    }

    fn install(&mut self, documents: &wire::Documents) -> Result<Vec<asks::Deliver>, Refusal> {
        self.change(Ask::Install(asks::Install {
            documents: documents.encode_to_vec().into(),
            is_local: true,
        }))
    }

    fn status(&self) -> wire::KeyholderStatus {
        wire::KeyholderStatus::decode(self.view.status.clone()).unwrap()
    }

    fn documents(&self) -> wire::Documents {
        wire::Documents::decode(self.view.documents.clone()).unwrap()
    }

    fn epoch(&self) -> u64 {
        self.status().versions.first().map_or(0, |version| version.epoch)
    }

    fn seals(&self) -> Vec<&str> {
        self.disk.keys().filter_map(|name| name.strip_prefix("seal-")).collect()
    }
}

struct Ring {
    nodes: Vec<Node>,
    owner: TestOwner,
    domain: TestDomain,
    queue: VecDeque<(usize, asks::Deliver)>,
}

fn now() -> UnixTime {
    SystemClock.now()
}

impl Ring {
    fn new(threshold: u8, count: usize) -> Self {
        let (mut nodes, owner) = ((0..count).map(|_| Node::new()).collect::<Vec<_>>(), TestOwner::new(count));
        let domain = TestDomain::new("example.org", now());
        let keys: Vec<Vec<u8>> = nodes.iter().map(|node| node.status().key.to_vec()).collect();
        let roster = owner.roster(threshold, &keys, vec![domain.root().der().to_vec()]);
        let documents = owner.documents(roster, now().as_secs() as u64);
        nodes.iter_mut().for_each(|node| drop(node.install(&documents).unwrap()));
        Self { nodes, owner, domain, queue: VecDeque::new() }
    }

    fn send(&mut self, from: usize, messages: Vec<asks::Deliver>) {
        for message in messages {
            self.queue.extend((0..self.nodes.len()).filter(|to| *to != from).map(|to| (to, message.clone())));
        }
    }

    fn propose(&mut self, kind: propose_request::Kind) {
        let proposal = wire::ProposeRequest { kind: Some(kind) }.encode_to_vec().into();
        let messages = self.nodes[0].change(Ask::Propose(asks::Propose { proposal })).unwrap();
        self.send(0, messages);
    }

    fn run(&mut self) {
        while let Some((to, message)) = self.queue.pop_front() {
            if self.nodes[to].budget == 0 {
                continue;
            }
            if let Ok(messages) = self.nodes[to].change(Ask::Deliver(message)) {
                self.send(to, messages);
            }
        }
    }

    /// Everybody asks everybody what there is, as they do from time to time.
    fn exchange(&mut self) {
        let all: Vec<wire::Documents> = self.nodes.iter().map(Node::documents).collect();
        for to in 0..self.nodes.len() {
            for documents in &all {
                let documents = documents.encode_to_vec().into();
                let messages =
                    self.nodes[to].change(Ask::Install(asks::Install { documents, is_local: false }));
                self.send(to, messages.unwrap());
            }
        }
        self.run();
    }

    fn generate(&mut self) {
        let (not_before, not_after) = (now().as_secs() as u64 - 10, now().as_secs() as u64 + 1000);
        self.propose(propose_request::Kind::Generate(wire::Generate { version: 1, not_before, not_after }));
        self.run();
        let unsigned = self.nodes[0].documents().versions[0].unsigned_params.clone();
        let signed = self.owner.sign_params(&unsigned);
        self.nodes.iter_mut().for_each(|node| drop(node.install(&signed).unwrap()));
    }

    fn refresh(&mut self) {
        self.propose(propose_request::Kind::Refresh(wire::Refresh { version: 1 }));
        self.run();
    }

    fn trusted(&self, node: usize) -> (TrustedParams, TrustedRoster, TrustedEpoch) {
        let documents = self.nodes[node].documents();
        let owner = self.owner.owner();
        let params = Signed::<SealParams>::decode(&documents.versions[0].params).unwrap();
        let params = TrustedParams::verify(&owner, &params).unwrap();
        let roster = Signed::<Roster>::decode(&documents.rosters[0]).unwrap();
        let roster = TrustedRoster::first(&owner, &roster).unwrap();
        let record = Signed::<EpochRecord>::decode(&documents.versions[0].certificate).unwrap();
        let epoch = TrustedEpoch::verify(&params, &roster, &record).unwrap();
        (params, roster, epoch)
    }

    fn question(&self, env: &str) -> EvaluationRequest {
        let (params, ..) = self.trusted(0);
        let params = params.params();
        EvaluationRequest {
            tenant: params.tenant,
            keyset: params.keyset.clone(),
            version: 1,
            policy: policy(env),
            label: b"l".to_vec(),
            point: G1Point::generator(),
            prove: true,
            nonce: [7; 16],
            evidence: None,
        }
    }

    fn evaluate(&self, node: usize, question: &EvaluationRequest, svid: &X509Svid) -> asks::Evaluate {
        let leaf = svid.leaf().der();
        let nonce = self.nodes[node].ask(Ask::Challenge(asks::Challenge { leaf: leaf.to_vec().into() })).body;
        let (_, roster, _) = self.trusted(0);
        let question = question.encode();
        let index = Index::new(node as u64 + 1).unwrap();
        let bytes: [u8; 16] = nonce.as_ref().try_into().unwrap();
        let message = caller_message(roster.digest(), index, &sha256(&question), leaf, &bytes);
        let algorithm = svid.key().signature_algorithm();
        asks::Evaluate {
            question: question.into(),
            nonce,
            signature: svid.key().sign_with(algorithm, &message).unwrap().into(),
            chain: svid.chain().iter().map(|each| each.der().to_vec().into()).collect(),
        }
    }

    /// An answer, and that it is proven under the epoch that the node says.
    fn answers(&self, node: usize) -> bool {
        let svid = self.domain.svid("/web", now());
        let question = self.question("test");
        let reply = self.nodes[node].ask(Ask::Evaluate(self.evaluate(node, &question, &svid)));
        assert!(!reply.audit.is_empty());
        if reply.refusal.is_some() {
            return false;
        }
        let reply = Signed::<EvaluationReply>::decode(&reply.body).unwrap();
        let (_, _, epoch) = self.trusted(node);
        assert_eq!(reply.body.epoch, epoch.record().epoch);
        let identity = question.identity().unwrap();
        let value = bonafide_sealing::group::Gt::decode(&reply.body.value).unwrap();
        let share = epoch.record().share(reply.body.index).unwrap();
        let statement = bonafide_sealing::proof::Statement {
            identity: &identity,
            share,
            point: &question.point,
            value: &value,
        };
        let proof = bonafide_sealing::proof::Proof::decode(reply.body.proof.as_ref().unwrap()).unwrap();
        proof.proves(&statement)
    }
}

#[test]
fn a_key_is_made_refreshed_and_the_old_share_is_gone() {
    let mut ring = Ring::new(2, 3);
    assert_eq!(ring.nodes[1].status().why, "it holds no share");
    ring.generate();
    for node in 0..3 {
        assert!(ring.nodes[node].status().serving, "{}", ring.nodes[node].status().why);
        assert_eq!(ring.nodes[node].seals(), ["1-1"]);
        assert!(ring.answers(node));
    }
    let old: Vec<_> = ring.nodes.iter().map(|node| node.disk.clone()).collect();
    ring.refresh();
    for (node, old) in old.iter().enumerate() {
        assert_eq!((ring.nodes[node].epoch(), ring.nodes[node].seals()), (2, vec!["1-2"]));
        assert!(ring.answers(node));
        // A copy of yesterday's state does not open without the seal key of its epoch.
        let state = old["state"].clone().into();
        let seals = [("seal-1-2".to_owned(), ring.nodes[node].disk["seal-1-2"].clone().into())].into();
        let thief = live(ring.nodes[node].folder.path());
        let request = Request { ask: Some(Ask::Open(asks::Open { state, seals })) }.encode_to_vec();
        let reply = Reply::decode(thief.handle(&[&request]).unwrap()[0].as_slice()).unwrap();
        assert_eq!(reply.refusal.unwrap().code, "keyholder.seal-missing");
    }
}

/// Whatever one keyholder has done when it is killed: after its restart all are in one epoch, and answer.
#[test]
fn a_keyholder_that_is_killed_at_any_step_has_the_old_state_or_the_new_one() {
    for cut in 0..8 {
        let mut ring = Ring::new(2, 3);
        ring.generate();
        ring.nodes[1].budget = cut;
        ring.refresh();
        let messages = ring.nodes[1].restart();
        assert!((1..=2).contains(&ring.nodes[1].epoch()));
        assert!(ring.answers(1), "killed after {cut} files");
        ring.send(1, messages);
        ring.run();
        ring.exchange();
        let epochs: Vec<u64> = ring.nodes.iter().map(Node::epoch).collect();
        assert!(epochs.iter().all(|epoch| *epoch == epochs[0]), "killed after {cut} files: {epochs:?}");
        assert!((0..3).all(|node| ring.answers(node)));
        // And it goes on: a session that came to nothing is given up.
        for node in 0..3 {
            let session = ring.nodes[node].view.session.clone();
            let _ = ring.nodes[node].change(Ask::TimeOut(asks::TimeOut { session })).unwrap();
        }
        ring.refresh();
        assert!((0..3).all(|node| ring.nodes[node].epoch() > epochs[0] && ring.answers(node)), "after {cut}");
        assert!((0..3).all(|node| ring.nodes[node].seals().len() == 1), "after {cut}");
    }
}

#[test]
fn a_cut_while_a_key_is_made_leaves_nothing_or_a_key() {
    for cut in 0..5 {
        let mut ring = Ring::new(2, 3);
        ring.nodes[2].budget = cut;
        let (not_before, not_after) = (now().as_secs() as u64 - 10, now().as_secs() as u64 + 1000);
        ring.propose(propose_request::Kind::Generate(wire::Generate { version: 1, not_before, not_after }));
        ring.run();
        let messages = ring.nodes[2].restart();
        ring.send(2, messages);
        ring.run();
        ring.exchange();
        let epochs: Vec<u64> = ring.nodes.iter().map(Node::epoch).collect();
        assert!(epochs.iter().all(|epoch| *epoch == epochs[0]), "killed after {cut} files: {epochs:?}");
    }
}

#[test]
fn who_may_not_have_an_answer_gets_none() {
    let mut ring = Ring::new(2, 3);
    ring.generate();
    let svid = ring.domain.svid("/web", now());
    let code = |ask: asks::Evaluate| {
        let reply = ring.nodes[0].ask(Ask::Evaluate(ask));
        assert!(!reply.audit.is_empty() && reply.refusal.is_some() == reply.body.is_empty());
        reply.refusal.map(|refusal| (refusal.code, refusal.hint)).unwrap_or_default()
    };
    let question = ring.question("test");
    let good = ring.evaluate(0, &question, &svid);
    assert_eq!(code(good.clone()).0, "");

    // Another label than the policy asks for, and another ID: the near miss is told.
    let (denied, hint) = code(ring.evaluate(0, &ring.question("prod"), &svid));
    assert_eq!(denied, "keyholder.denied");
    assert!(hint.contains("label env prod required, got test"), "{hint}");
    let other = ring.domain.svid("/other", now());
    assert_eq!(code(ring.evaluate(0, &question, &other)).0, "keyholder.denied");

    // A front end that shows another's chain, another question, another keyholder's signature, or an old nonce.
    let mut swapped = good.clone();
    swapped.chain = ring.evaluate(0, &question, &other).chain;
    assert_eq!(code(swapped).0, "keyholder.caller-nonce");
    let mut swapped = good.clone();
    swapped.question = EvaluationRequest { prove: false, ..question.clone() }.encode().into();
    assert_eq!(code(swapped).0, "keyholder.caller-signature");
    assert_eq!(code(ring.evaluate(1, &question, &svid)).0, "keyholder.caller-nonce");
    let mut swapped = good.clone();
    swapped.nonce = vec![0; 16].into();
    assert_eq!(code(swapped).0, "keyholder.caller-nonce");
    let stranger = TestDomain::new("example.org", now()).svid("/web", now());
    assert_eq!(code(ring.evaluate(0, &question, &stranger)).0, "x509.unknown-authority");

    // A policy that differs in one byte of white space, and one that is none.
    let mut bytes = policy("test");
    bytes.push(b' ');
    assert_eq!(
        code(ring.evaluate(0, &EvaluationRequest { policy: bytes, ..question.clone() }, &svid)).0,
        "keyholder.policy"
    );
    let later = EvaluationRequest { version: 2, ..question.clone() };
    assert_eq!(code(ring.evaluate(0, &later, &svid)).0, "sealing.other-key");
}

#[test]
fn the_deny_list_and_the_rate_count_before_the_share_does() {
    let mut ring = Ring::new(2, 3);
    ring.generate();
    let time = now().as_secs() as u64;
    let denied = ring.owner.deny_list(2, time + 100, |list| {
        list.labels.insert(sha256(b"l"));
    });
    assert!(ring.answers(0));
    let documents = wire::Documents { deny_list: denied.encode().into(), ..wire::Documents::default() };
    drop(ring.nodes[0].install(&documents).unwrap());
    assert!(!ring.answers(0) && ring.answers(1));
    // It comes to the others with what they exchange, and does not go away.
    ring.exchange();
    assert!(!ring.answers(1));
    let forgiven = ring.owner.deny_list(3, time + 100, |_| {}).encode().into();
    let documents = wire::Documents { deny_list: forgiven, ..wire::Documents::default() };
    assert_eq!(ring.nodes[0].install(&documents).unwrap_err().code(), "sealing.not-a-successor");

    let mut ring = Ring::new(2, 3);
    ring.generate();
    let svid = ring.domain.svid("/web", now());
    let ask = ring.evaluate(0, &ring.question("test"), &svid);
    let broken = asks::Evaluate { question: Vec::new().into(), ..ask };
    let codes: Vec<String> =
        (0..400).map(|_| ring.nodes[0].ask(Ask::Evaluate(broken.clone())).refusal.unwrap().code).collect();
    assert_eq!(codes.last().unwrap(), "keyholder.rate");
}

#[test]
fn another_owner_and_a_stolen_roster_key_change_nothing() {
    let mut ring = Ring::new(2, 3);
    ring.generate();
    let thief = TestOwner::new(3);
    let keys: Vec<Vec<u8>> = ring.nodes.iter().map(|node| node.status().key.to_vec()).collect();
    let documents = thief.documents(thief.roster(1, &keys, Vec::new()), now().as_secs() as u64);
    assert_eq!(ring.nodes[0].install(&documents).unwrap_err().code(), "keyholder.other-owner");

    let (_, roster, _) = ring.trusted(0);
    let mut next = roster.roster().clone();
    (next.serial, next.previous) = (2, *roster.digest());
    next.anchors = vec![TestDomain::new("example.org", now()).root().der().to_vec()];
    let alone = crate::owner::signed(next, &[&ring.owner.roster, &ring.owner.operators[0]]);
    let documents = wire::Documents { rosters: vec![alone.encode().into()], ..wire::Documents::default() };
    assert_eq!(ring.nodes[0].install(&documents).unwrap_err().code(), "sealing.signatures-missing");
}

/// Of three keyholders one leaves and two come; the key stays, and who has left has nothing any more.
#[test]
fn a_key_is_handed_on_to_other_keyholders() {
    let mut ring = Ring::new(2, 3);
    ring.generate();
    let key = ring.trusted(0).0.params().key;
    let (documents, (_, roster, _)) = (ring.nodes[0].documents(), ring.trusted(0));
    ring.nodes.extend([Node::new(), Node::new()]);
    let mut next = roster.roster().clone();
    (next.serial, next.previous, next.threshold) = (2, *roster.digest(), 3);
    next.members.remove(0);
    for (node, number) in ring.nodes.iter().skip(3).zip(4..) {
        let mut member = next.members[0].clone();
        (member.name, member.id) = (format!("{number}"), format!("spiffe://example.org/keyholder/{number}"));
        member.key = VerifyingKey::from_spki_der(&node.status().key).unwrap();
        member.operator = crate::owner::public(&crate::owner::key());
        next.members.push(member);
    }
    let operators = [&ring.owner.operators[1], &ring.owner.operators[2]];
    let signed = crate::owner::signed(next, &[&ring.owner.roster, operators[0], operators[1]]);
    let mut documents = documents;
    documents.rosters.push(signed.encode().into());
    ring.nodes.iter_mut().for_each(|node| drop(node.install(&documents).unwrap()));
    ring.propose(propose_request::Kind::Reshare(wire::Reshare { version: 1, dealers: Vec::new() }));
    ring.run();
    let epochs: Vec<_> = ring.nodes.iter().map(Node::epoch).collect();
    assert_eq!(epochs, [2; 5]);
    assert_eq!(ring.nodes[0].seals(), Vec::<&str>::new());
    assert!(!ring.nodes[0].status().serving);
    for node in &ring.nodes[1..] {
        assert_eq!(node.seals(), ["1-2"]);
        assert!(node.status().serving, "{}", node.status().why);
        let params = node.documents().versions[0].params.clone();
        assert_eq!(Signed::<SealParams>::decode(&params).unwrap().body.key, key);
    }
}
