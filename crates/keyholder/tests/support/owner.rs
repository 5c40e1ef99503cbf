//! An owner, and what it signs.
#![allow(missing_docs, dead_code, unreachable_pub, clippy::unwrap_used, reason = "for tests")]

use std::sync::Arc;

use bonafide_crypto::key::{KeyAlgorithm, PrivateKey, Signer};
use bonafide_crypto::random::SystemRandom;
use bonafide_policy::SecretPolicy;
use bonafide_sealing::deny::DenyList;
use bonafide_sealing::document::{Document, Signed, VerifyingKey};
use bonafide_sealing::identity::{Keyset, Tenant};
use bonafide_sealing::object::PublicData;
use bonafide_sealing::owner::{Delegation, Owner, Root};
use bonafide_sealing::params::{SealParams, TrustedParams};
use bonafide_sealing::roster::{Member, Roster};
use bonafide_sealing::seal::{Quantum, Recipient, Sealing, seal};
use bonafide_wire::keyholder::{Documents, KeyVersion};

pub struct TestOwner {
    pub root_key: PrivateKey,
    pub deny: PrivateKey,
    pub params: PrivateKey,
    pub roster: PrivateKey,
    pub seal: PrivateKey,
    pub operators: Vec<PrivateKey>,
    pub root: Root,
    pub delegation: Signed<Delegation>,
}

pub fn key() -> PrivateKey {
    PrivateKey::generate(KeyAlgorithm::Ed25519).unwrap()
}

pub fn public(key: &dyn Signer) -> VerifyingKey {
    VerifyingKey::new(key.public_key().clone()).unwrap()
}

pub fn signed<T: Document>(body: T, signers: &[&PrivateKey]) -> Signed<T> {
    let mut signed = Signed::new(body);
    signers.iter().for_each(|signer| signed.sign(*signer).unwrap());
    signed
}

impl TestOwner {
    pub fn new(operators: usize) -> Self {
        let (root_key, deny, params, roster, seal) = (key(), key(), key(), key(), key());
        let tenant = Tenant::random(&SystemRandom);
        let next = Root::commitment(1, &[public(&key())]);
        let root = Root { tenant, serial: 1, threshold: 1, keys: vec![public(&root_key)], next };
        let keys = [&deny, &params, &key(), &roster, &seal].map(|key| vec![public(key)]);
        let delegation = Delegation { tenant, root: root.digest(), serial: 1, keys };
        let delegation = signed(delegation, &[&root_key]);
        let operators = (0..operators).map(|_| key()).collect();
        Self { root_key, deny, params, roster, seal, operators, root, delegation }
    }

    pub fn owner(&self) -> Owner {
        Owner::new(self.root.clone(), &self.delegation).unwrap()
    }

    pub fn keyset(&self) -> Keyset {
        Keyset::new("main").unwrap()
    }

    /// The first roster, of these keys, whose servers are `spiffe://example.org/keyholder/1` and so on.
    pub fn roster(&self, threshold: u8, keys: &[Vec<u8>], anchors: Vec<Vec<u8>>) -> Roster {
        let members = keys.iter().zip(&self.operators).zip(1..).map(|((key, operator), number)| Member {
            name: format!("holder {number}"),
            id: format!("spiffe://example.org/keyholder/{number}"),
            key: VerifyingKey::from_spki_der(key).unwrap(),
            operator: public(operator),
        });
        Roster {
            tenant: self.root.tenant,
            keyset: self.keyset(),
            serial: 1,
            previous: [0; 32],
            threshold,
            lower_threshold: false,
            delay: 0,
            members: members.collect(),
            anchors,
            sites: Vec::new(),
        }
    }

    /// Everything that keyholders begin with.
    pub fn documents(&self, roster: Roster, now: u64) -> Documents {
        Documents {
            root: self.root.encode().into(),
            delegation: self.delegation.encode().into(),
            rosters: vec![signed(roster, &[&self.roster]).encode().into()],
            deny_list: self.deny_list(1, now + 86_400, |_| {}).encode().into(),
            versions: Vec::new(),
        }
    }

    pub fn deny_list(
        &self,
        serial: u64,
        expires: u64,
        change: impl FnOnce(&mut DenyList),
    ) -> Signed<DenyList> {
        let mut list = DenyList {
            tenant: self.root.tenant,
            keyset: self.keyset(),
            serial,
            expires,
            min_version: 1,
            policies: Default::default(),
            labels: Default::default(),
            identities: Default::default(),
        };
        change(&mut list);
        signed(list, &[&self.deny])
    }

    /// The owner's signature under what the keyholders have made.
    pub fn sign_params(&self, unsigned: &[u8]) -> Documents {
        let params = SealParams::decode(unsigned).unwrap();
        let version = params.version;
        let params = signed(params, &[&self.params]).encode().into();
        let version = KeyVersion { version, params, ..KeyVersion::default() };
        Documents { versions: vec![version], ..Documents::default() }
    }

    /// A sealed secret, for callers with this label.
    pub fn seal(&self, params: &TrustedParams, policy: &[u8], secret: &[u8], now: u64) -> Vec<u8> {
        let public = PublicData { name: "db".to_owned(), purpose: "test".to_owned(), not_after: None };
        let recipient = Recipient { params, policy, label: b"payments/db", site: None };
        let sealing = Sealing {
            recipients: &[recipient],
            public: &public,
            serial: 1,
            quantum: Quantum::Never,
            signer: Some(&self.seal),
        };
        seal(&sealing, secret, now, &SystemRandom).unwrap().encode()
    }
}

/// A policy that allows callers with this label `env`.
pub fn policy(env: &str) -> Vec<u8> {
    let text = format!(
        "kind: SecretPolicy\nname: db\nevidence: authority\nrules:\n- name: web\n  \
         allow: {{who: {{id: spiffe://example.org/web, labels: {{env: {env}}}}}}}\n"
    );
    let documents = bonafide_policy::read(&text).unwrap();
    SecretPolicy::of(&documents[0]).unwrap().as_bytes().to_vec()
}

pub type Shared = Arc<TestOwner>;
