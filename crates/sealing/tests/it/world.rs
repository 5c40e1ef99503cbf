//! An owner, keyholders and a client, as tests need them.

use std::sync::{Arc, Mutex};

use bonafide_crypto::digest::sha256;
use bonafide_crypto::key::{PrivateKey, Signer};
use bonafide_crypto::random::Random;
use bonafide_sealing::document::{Document, Signed, VerifyingKey};
use bonafide_sealing::epoch::{EpochRecord, TrustedEpoch};
use bonafide_sealing::exchange::EvaluationReply;
use bonafide_sealing::exchange::EvaluationRequest;
use bonafide_sealing::group::{G1Point, G2Point, Index, Polynomial, Scalar};
use bonafide_sealing::identity::{Keyset, Tenant};
use bonafide_sealing::object::{PublicData, SealedObject};
use bonafide_sealing::opening::{
    Acceptance, AuthenticObject, Keyholders, OpenError, OpenedKey, Opening, SiteSecret, Step,
};
use bonafide_sealing::owner::{Delegation, Owner, Root};
use bonafide_sealing::params::{SealParams, SiteKey, TrustedParams};
use bonafide_sealing::roster::{Member, Roster, TrustedRoster};
use bonafide_sealing::seal::{Quantum, Recipient, Sealing, seal};
use bonafide_sealing::share::Share;

pub(crate) const NOW: u64 = 1_800_000_000;
pub(crate) const POLICY: &[u8] = b"version: 1\nwho: spiffe://example.org/payments\n";
pub(crate) const LABEL: &[u8] = b"payments/database";

/// Bytes that are the same in every run.
#[derive(Debug)]
pub(crate) struct Seeded(Mutex<([u8; 32], u64)>);

impl Seeded {
    pub(crate) fn new(seed: &str) -> Self {
        Self(Mutex::new((sha256(seed.as_bytes()), 0)))
    }
}

impl Random for Seeded {
    fn fill(&self, out: &mut [u8]) {
        let mut state = self.0.lock().unwrap();
        for chunk in out.chunks_mut(32) {
            let block = sha256(&[state.0.as_slice(), &state.1.to_be_bytes()].concat());
            chunk.copy_from_slice(&block[..chunk.len()]);
            state.1 += 1;
        }
    }
}

/// An Ed25519 key that is the same in every run.
pub(crate) fn key(name: &str) -> Arc<PrivateKey> {
    let prefix = b"\x30\x2e\x02\x01\x00\x30\x05\x06\x03\x2b\x65\x70\x04\x22\x04\x20";
    let pkcs8 = [prefix.as_slice(), &sha256(name.as_bytes())].concat();
    Arc::new(PrivateKey::from_pkcs8_der(&pkcs8).unwrap())
}

pub(crate) fn public(key: &dyn Signer) -> VerifyingKey {
    VerifyingKey::new(key.public_key().clone()).unwrap()
}

pub(crate) fn signed<T: Document>(body: T, signers: &[&dyn Signer]) -> Signed<T> {
    let mut signed = Signed::new(body);
    signers.iter().for_each(|signer| signed.sign(*signer).unwrap());
    // What travels are bytes.
    Signed::decode(&signed.encode()).unwrap()
}

pub(crate) fn index(number: u64) -> Index {
    Index::new(number).unwrap()
}

pub(crate) fn tenant() -> Tenant {
    Tenant::from_bytes(*b"a random tenant!")
}

pub(crate) fn keyset() -> Keyset {
    Keyset::new("main").unwrap()
}

/// The keys of the owner: two of three at the root, and one for each purpose.
#[derive(Clone)]
pub(crate) struct Keys {
    pub(crate) root: [Arc<PrivateKey>; 3],
    pub(crate) deny: Arc<PrivateKey>,
    pub(crate) params: Arc<PrivateKey>,
    pub(crate) rewrap: Arc<PrivateKey>,
    pub(crate) roster: Arc<PrivateKey>,
    pub(crate) seal: Arc<PrivateKey>,
}

impl Keys {
    pub(crate) fn new() -> Self {
        Self {
            root: ["root 1", "root 2", "root 3"].map(key),
            deny: key("deny"),
            params: key("params"),
            rewrap: key("rewrap"),
            roster: key("roster"),
            seal: key("seal"),
        }
    }

    pub(crate) fn root(&self) -> Root {
        let keys = self.root.iter().map(|key| public(key.as_ref())).collect();
        let next = ["next root 1", "next root 2"].map(|name| public(key(name).as_ref()));
        Root { tenant: tenant(), serial: 1, threshold: 2, keys, next: Root::commitment(2, &next) }
    }

    pub(crate) fn delegation(&self, serial: u64) -> Delegation {
        let keys = [&self.deny, &self.params, &self.rewrap, &self.roster, &self.seal];
        let keys = keys.map(|key| vec![public(key.as_ref())]);
        Delegation { tenant: tenant(), root: self.root().digest(), serial, keys }
    }

    pub(crate) fn owner(&self) -> Owner {
        let delegation = signed(self.delegation(1), &[self.root[0].as_ref(), self.root[2].as_ref()]);
        Owner::new(self.root(), &delegation).unwrap()
    }
}

pub(crate) fn member_key(number: u64) -> Arc<PrivateKey> {
    key(&format!("member {number}"))
}

pub(crate) fn operator_key(number: u64) -> Arc<PrivateKey> {
    key(&format!("operator {number}"))
}

/// A roster whose members have these numbers in their keys.
pub(crate) fn roster_of(threshold: u8, numbers: &[u64]) -> Roster {
    let members = numbers.iter().map(|number| Member {
        name: format!("holder {number}"),
        id: format!("spiffe://example.org/keyholder/{number}"),
        key: public(member_key(*number).as_ref()),
        operator: public(operator_key(*number).as_ref()),
    });
    Roster {
        tenant: tenant(),
        keyset: keyset(),
        serial: 1,
        previous: [0; 32],
        threshold,
        lower_threshold: false,
        delay: 3600,
        members: members.collect(),
        anchors: vec![b"an anchor".to_vec()],
        sites: Vec::new(),
    }
}

pub(crate) struct World {
    pub(crate) keys: Keys,
    pub(crate) owner: Owner,
    pub(crate) random: Arc<Seeded>,
    pub(crate) polynomial: Polynomial,
    pub(crate) params: TrustedParams,
    pub(crate) roster: TrustedRoster,
    pub(crate) epoch: TrustedEpoch,
    pub(crate) shares: Vec<Share>,
}

impl World {
    /// With a dealer, who knows everything: for tests alone.
    pub(crate) fn dealt(threshold: u8, count: u64, site_keys: Vec<SiteKey>) -> Self {
        Self::version(1, threshold, count, site_keys)
    }

    pub(crate) fn version(version: u64, threshold: u8, count: u64, site_keys: Vec<SiteKey>) -> Self {
        let (keys, random) = (Keys::new(), Arc::new(Seeded::new(&format!("world {version}"))));
        let owner = keys.owner();
        let polynomial = Polynomial::random(Scalar::random(random.as_ref()), threshold, random.as_ref());
        let commitments = polynomial.commitments(0).unwrap();
        let params = SealParams {
            tenant: tenant(),
            keyset: keyset(),
            version,
            key: commitments[0],
            key2: G2Point::generator().times(&polynomial.at_zero()).unwrap(),
            not_before: NOW - 1000,
            not_after: NOW + 1_000_000_000,
            previous: [0; 32],
            site_keys,
        };
        let params = TrustedParams::verify(&owner, &signed(params, &[keys.params.as_ref()])).unwrap();
        let numbers: Vec<u64> = (1..=count).collect();
        let roster = signed(roster_of(threshold, &numbers), &[keys.roster.as_ref()]);
        let roster = TrustedRoster::first(&owner, &roster).unwrap();
        let record = EpochRecord {
            params: *params.digest(),
            roster: *roster.digest(),
            epoch: 1,
            transcript: [7; 32],
            previous: [0; 32],
            shares: EpochRecord::shares_of(&commitments, count as u8).unwrap(),
            commitments,
        };
        let epoch = certified(&params, &roster, record, &numbers);
        let share = |number: &u64| {
            let secret = polynomial.at(index(*number));
            Share::new(params.params(), epoch.record(), index(*number), secret).unwrap()
        };
        let shares = numbers.iter().map(share).collect();
        Self { keys, owner, random, polynomial, params, roster, epoch, shares }
    }

    pub(crate) fn recipient(&self) -> Recipient<'_> {
        Recipient { params: &self.params, policy: POLICY, label: LABEL, site: None }
    }

    pub(crate) fn seal(&self, secret: &[u8]) -> SealedObject {
        self.seal_to(&[self.recipient()], secret, Quantum::Never)
    }

    pub(crate) fn seal_to(
        &self,
        recipients: &[Recipient<'_>],
        secret: &[u8],
        quantum: Quantum,
    ) -> SealedObject {
        let public = public_data();
        let sealing = Sealing {
            recipients,
            public: &public,
            serial: 5,
            quantum,
            signer: Some(self.keys.seal.as_ref()),
        };
        let object = seal(&sealing, secret, NOW, self.random.as_ref()).unwrap();
        SealedObject::decode(&object.encode()).unwrap()
    }

    pub(crate) fn acceptance(&self) -> Acceptance<'_> {
        Acceptance { owner: &self.owner, name: "database", min_serial: 5, unsigned: false }
    }

    pub(crate) fn verify(&self, object: SealedObject) -> Result<AuthenticObject, OpenError> {
        AuthenticObject::verify(object, &self.acceptance(), NOW)
    }

    pub(crate) fn keyholders(&self) -> Keyholders<'_> {
        Keyholders { params: &self.params, epochs: std::slice::from_ref(&self.epoch) }
    }

    pub(crate) fn begin<'a>(
        &'a self,
        object: &'a AuthenticObject,
        stanza: usize,
        site_secret: Option<SiteSecret>,
    ) -> Opening<'a> {
        let policy = Opening::blinding_policy(object, stanza, &self.params).unwrap();
        let blinding = policy.blind(self.random.as_ref()).unwrap();
        let keyholders = self.keyholders();
        Opening::begin(object, stanza, keyholders, blinding, site_secret, None, self.random.as_ref()).unwrap()
    }

    pub(crate) fn answer(&self, number: u64, request: &EvaluationRequest) -> Signed<EvaluationReply> {
        answer(&self.shares[number as usize - 1], number, request, self.random.as_ref())
    }

    /// Opens with the answers of these keyholders.
    pub(crate) fn open(&self, object: SealedObject, numbers: &[u64]) -> Result<Vec<u8>, OpenError> {
        let object = self.verify(object)?;
        let mut opening = self.begin(&object, 0, None);
        for number in numbers {
            let reply = self.answer(*number, opening.request());
            if let Step::Opened(key) = opening.accept(reply)? {
                return Ok(object.secret(&key)?.to_vec());
            }
        }
        Err(OpenError::NotAsked)
    }

    pub(crate) fn open_key(&self, object: &AuthenticObject) -> OpenedKey {
        let mut opening = self.begin(object, 0, None);
        for number in 1.. {
            let reply = self.answer(number, opening.request());
            if let Step::Opened(key) = opening.accept(reply).unwrap() {
                return key;
            }
        }
        unreachable!()
    }
}

/// A keyholder's whole work, on bytes.
pub(crate) fn answer(
    share: &Share,
    number: u64,
    request: &EvaluationRequest,
    random: &dyn Random,
) -> Signed<EvaluationReply> {
    let request = EvaluationRequest::decode(&request.encode()).unwrap();
    let policy = share.prepare(&request.identity().unwrap()).unwrap();
    let reply = request.answer(share, &policy, member_key(number).as_ref(), random).unwrap();
    Signed::decode(&reply.encode()).unwrap()
}

pub(crate) fn certified(
    params: &TrustedParams,
    roster: &TrustedRoster,
    record: EpochRecord,
    numbers: &[u64],
) -> TrustedEpoch {
    let keys: Vec<Arc<PrivateKey>> = numbers.iter().map(|number| member_key(*number)).collect();
    let signers: Vec<&dyn Signer> = keys.iter().map(|key| key.as_ref() as &dyn Signer).collect();
    TrustedEpoch::verify(params, roster, &signed(record, &signers)).unwrap()
}

pub(crate) fn public_data() -> PublicData {
    PublicData {
        name: "database".to_owned(),
        purpose: "password of the payments database".to_owned(),
        not_after: Some(NOW + 86_400),
    }
}

/// `secret · G`
pub(crate) fn times(secret: &Scalar) -> G1Point {
    G1Point::generator().times(secret).unwrap()
}
