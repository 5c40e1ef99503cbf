//! An authority without cryptography, for the tests of the state machines.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::LazyLock,
};

use bonafide_attest::{SelectorSet, registration::digest_item};
use bonafide_crypto::{csr, digest::SetDigest, key::PublicKey, random::SystemRandom};
use bonafide_identity::{
    InstanceId,
    bundle::{TaintedKey, TrustBundle},
    time::UnixTime,
};
use bonafide_testkit::TestDomain;
use bonafide_wire::{
    node::{
        AuthorityMessage, JwtIssued, Refused, Reported, Update, X509Issued, agent_message,
        authority_message::Kind,
    },
    types::{self, Problem},
};
use bytes::Bytes;

use crate::credential::{CredentialError, LeafFacts, ReadLeaf};

/// Seconds that an SVID is good for; it is renewed at half of them.
pub(crate) const LIFE: i64 = 1000;

/// A leaf is `id|instance|end|spki`, in text but for the key.
#[derive(Debug)]
pub(crate) struct FakeLeaf;

impl ReadLeaf for FakeLeaf {
    fn read(&self, der: &[u8]) -> Result<LeafFacts, CredentialError> {
        let mut parts = der.splitn(4, |byte| *byte == b'|');
        let mut next = || parts.next().ok_or(CredentialError::Malformed);
        let (id, instance, end, spki) = (next()?, next()?, next()?, next()?);
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        Ok(LeafFacts {
            spiffe_id: text(id).parse().unwrap(),
            instance: text(instance).parse().ok(),
            public_key: PublicKey::from_spki_der(spki).unwrap(),
            not_before: UnixTime::from_secs(text(end).parse::<i64>().unwrap() - 3600),
            not_after: UnixTime::from_secs(text(end).parse().unwrap()),
        })
    }

    /// Whatever stands behind the leaf.
    fn issuers(&self, chain: &[Bytes]) -> Vec<Vec<u8>> {
        chain.iter().skip(1).map(|issuer| issuer.to_vec()).collect()
    }
}

pub(crate) fn fake_leaf(id: &str, instance: Option<InstanceId>, end: UnixTime, spki: &[u8]) -> Bytes {
    let instance = instance.map(|id| id.to_string()).unwrap_or_default();
    let mut leaf = format!("{id}|{instance}|{}|", end.as_secs()).into_bytes();
    leaf.extend_from_slice(spki);
    leaf.into()
}

/// A trust bundle of `example.org`, always the same.
pub(crate) fn bundle() -> Bytes {
    static BUNDLE: LazyLock<Bytes> = LazyLock::new(|| {
        let domain = TestDomain::new("example.org", UnixTime::from_secs(1_800_000_000));
        domain.bundle().to_json().into()
    });
    BUNDLE.clone()
}

pub(crate) fn selectors(pairs: &[(&str, &str)]) -> SelectorSet {
    SelectorSet::from_pairs(pairs.iter().copied()).unwrap()
}

pub(crate) fn entry(id: &str, spiffe_id: &str, selectors: &[(&str, &str)]) -> types::Registration {
    let selector =
        |(key, value): &(&str, &str)| types::Selector { key: (*key).into(), value: (*value).into() };
    types::Registration {
        id: id.into(),
        kind: types::registration::Kind::Entry.into(),
        site: "lab".into(),
        spiffe_id: spiffe_id.into(),
        selectors: selectors.iter().map(selector).collect(),
        ..types::Registration::default()
    }
}

/// Newest certificate of an instance.
#[derive(Clone, Debug)]
pub(crate) struct Newest {
    pub(crate) generation: u64,
    spki: Bytes,
    previous: Bytes,
    pub(crate) not_after: UnixTime,
}

#[derive(Debug)]
pub(crate) struct FakeAuthority {
    incarnation: u8,
    revision: u64,
    pub(crate) registrations: BTreeMap<String, types::Registration>,
    changed: BTreeMap<String, u64>,
    told: Option<u64>,
    pub(crate) newest: HashMap<InstanceId, Newest>,
    pub(crate) launched: BTreeSet<InstanceId>,
    pub(crate) ended: BTreeSet<InstanceId>,
    pub(crate) alarms: Vec<String>,
    /// Refuse every SVID with this code; try again after so many seconds.
    pub(crate) refuse: Option<(String, u32)>,
    pub(crate) bundle: Bytes,
    pub(crate) jwts: u32,
    /// Key ID of what signs.
    pub(crate) issuer: Bytes,
    /// What the agent has told of renewals.
    pub(crate) remaining: Vec<u32>,
}

impl FakeAuthority {
    pub(crate) fn new() -> Self {
        Self {
            incarnation: 1,
            revision: 1,
            registrations: BTreeMap::new(),
            changed: BTreeMap::new(),
            told: None,
            newest: HashMap::new(),
            launched: BTreeSet::new(),
            ended: BTreeSet::new(),
            alarms: Vec::new(),
            refuse: None,
            bundle: bundle(),
            jwts: 0,
            issuer: Bytes::from_static(b"issuer 1"),
            remaining: Vec::new(),
        }
    }

    pub(crate) fn put(&mut self, registration: types::Registration) {
        self.revision += 1;
        let id = registration.id.clone();
        self.changed.insert(id.clone(), self.revision);
        self.registrations.insert(id, types::Registration { revision: self.revision, ..registration });
    }

    /// The key that signs is stolen, and another one has taken its place.
    pub(crate) fn stolen(&mut self, renew_within: u32) {
        let key_id = self.issuer.to_vec().into();
        self.issuer = Bytes::from_static(b"issuer 2");
        let bundle = TrustBundle::parse(&"example.org".parse().unwrap(), &self.bundle).unwrap();
        self.bundle =
            bundle.with_tainted(TaintedKey { key_id, is_jwt: false, renew_within }).to_json().into();
        self.revision += 1;
    }

    pub(crate) fn remove(&mut self, id: &str) {
        if self.registrations.remove(id).is_some() {
            self.revision += 1;
            self.changed.insert(id.to_owned(), self.revision);
        }
    }

    pub(crate) fn new_incarnation(&mut self) {
        self.incarnation += 1;
    }

    pub(crate) fn disconnected(&mut self) {
        self.told = None;
    }

    /// Launched and not ended.
    pub(crate) fn running(&self) -> BTreeSet<InstanceId> {
        self.launched.difference(&self.ended).copied().collect()
    }

    /// What the agent has not been told yet on this stream.
    pub(crate) fn news(&mut self) -> Vec<AuthorityMessage> {
        let Some(told) = self.told.filter(|told| *told < self.revision) else { return Vec::new() };
        self.told = Some(self.revision);
        let changed = self.changed.iter().filter(|(_, at)| **at > told).map(|(id, _)| id);
        let (upserts, removals): (Vec<_>, Vec<_>) =
            changed.partition(|id| self.registrations.contains_key(*id));
        let upserts = upserts.into_iter().map(|id| self.registrations[id].clone()).collect();
        self.parts(upserts, removals.into_iter().cloned().collect(), false)
    }

    pub(crate) fn answer(&mut self, kind: agent_message::Kind, now: UnixTime) -> Vec<AuthorityMessage> {
        use agent_message::Kind as Asked;
        let refused = |request: u64, (code, retry_after): &(String, u32)| {
            let problem = Some(Problem { code: code.clone(), message: "no".into(), hint: String::new() });
            vec![message(Kind::Refused(Refused { request, problem, retry_after: *retry_after }))]
        };
        match kind {
            Asked::Hello(hello) => {
                self.told = Some(self.revision);
                let current = hello.incarnation.as_ref() == [self.incarnation; 16]
                    && hello.revision <= self.revision
                    && hello.set_digest.as_ref() == self.digest();
                if current {
                    return self.parts(Vec::new(), Vec::new(), false);
                }
                self.parts(self.registrations.values().cloned().collect(), Vec::new(), true)
            }
            Asked::Acknowledge(acknowledge) => {
                if Some(acknowledge.revision) == self.told
                    && self.told == Some(self.revision)
                    && acknowledge.set_digest.as_ref() != self.digest()
                {
                    self.alarms.push("the agent's registrations have diverged".into());
                }
                Vec::new()
            }
            Asked::IssueX509(asked) => {
                if let Some(refuse) = &self.refuse {
                    return refused(asked.request, refuse);
                }
                let Some(registration) = self.registrations.get(&asked.registration) else {
                    return refused(asked.request, &("registration.unknown".into(), 0));
                };
                let csr = csr::parse_and_verify(&asked.csr).unwrap();
                let instance = InstanceId::random(&SystemRandom);
                let Some(id) = render(registration, &asked.selectors) else {
                    return refused(asked.request, &("template.missing".into(), 0));
                };
                vec![self.issue(asked.request, &id, instance, 1, csr.public_key.spki_der(), &[], now)]
            }
            Asked::RenewX509(asked) => {
                if let Some(refuse) = &self.refuse {
                    return refused(asked.request, refuse);
                }
                let instance = InstanceId::from_bytes(asked.instance.as_ref().try_into().unwrap());
                let newest = self.newest[&instance].clone();
                let repeated = asked.generation == newest.generation && asked.public_key == newest.spki;
                if self.ended.contains(&instance) {
                    self.alarms.push("an ended instance is renewed".into());
                }
                if !repeated && asked.generation != newest.generation + 1 {
                    self.alarms
                        .push(format!("two successors: {} after {}", asked.generation, newest.generation));
                }
                let previous = if repeated { newest.previous } else { newest.spki };
                self.check_lineage(&asked, instance, &previous);
                let registration = self.registrations.get(&asked.registration);
                let Some(registration) = registration else {
                    return refused(asked.request, &("registration.unknown".into(), 0));
                };
                let Some(id) = render(registration, &asked.selectors) else {
                    return refused(asked.request, &("template.missing".into(), 0));
                };
                let (generation, key) = (asked.generation, &asked.public_key);
                vec![self.issue(asked.request, &id, instance, generation, key, &previous, now)]
            }
            Asked::IssueJwt(asked) => {
                if let Some(refuse) = &self.refuse {
                    return refused(asked.request, refuse);
                }
                self.jwts += 1;
                let token = format!("token-{}-{}", self.jwts, asked.audience.join("+"));
                let expires_at = now.as_secs() + 300;
                vec![message(Kind::JwtIssued(JwtIssued { request: asked.request, token, expires_at }))]
            }
            Asked::RenewAgent(asked) => refused(asked.request, &("test.unsupported".into(), 60)),
            Asked::Cosigned(_) => Vec::new(),
            Asked::Renewals(renewals) => {
                self.remaining.push(renewals.remaining);
                Vec::new()
            }
            Asked::Report(report) => {
                let id = |bytes: &Bytes| InstanceId::from_bytes(bytes.as_ref().try_into().unwrap());
                self.launched.extend(report.launches.iter().map(|launch| id(&launch.instance)));
                self.ended.extend(report.ends.iter().map(|end| id(&end.instance)));
                vec![message(Kind::Reported(Reported { request: report.request }))]
            }
        }
    }

    fn check_lineage(
        &mut self,
        asked: &bonafide_wire::node::RenewX509,
        instance: InstanceId,
        previous: &[u8],
    ) {
        let transcript = bonafide_attest::lineage::transcript(
            &"example.org".parse().unwrap(),
            instance,
            asked.generation,
            asked.nonce.as_ref().try_into().unwrap(),
            previous,
            &asked.public_key,
        );
        let algorithm = bonafide_crypto::key::SignatureAlgorithm::EcdsaP256Sha256;
        let good = |spki: &[u8], signature: &[u8]| {
            PublicKey::from_spki_der(spki).unwrap().verify(algorithm, &transcript, signature).is_ok()
        };
        if !good(previous, &asked.previous_key_signature)
            || !good(&asked.public_key, &asked.new_key_signature)
        {
            self.alarms.push("a renewal is not signed by both keys".into());
        }
    }

    #[expect(clippy::too_many_arguments, reason = "what a certificate says")]
    fn issue(
        &mut self,
        request: u64,
        id: &str,
        instance: InstanceId,
        generation: u64,
        spki: &[u8],
        previous: &[u8],
        now: UnixTime,
    ) -> AuthorityMessage {
        let not_after = UnixTime::from_secs(now.as_secs() + LIFE);
        let newest = Newest {
            generation,
            spki: Bytes::copy_from_slice(spki),
            previous: Bytes::copy_from_slice(previous),
            not_after,
        };
        self.newest.insert(instance, newest);
        message(Kind::X509Issued(X509Issued {
            request,
            chain: vec![fake_leaf(id, Some(instance), not_after, spki), self.issuer.clone()],
            instance: Bytes::copy_from_slice(instance.as_bytes()),
            generation,
            renew_after: now.as_secs() + LIFE / 2,
        }))
    }

    fn digest(&self) -> [u8; 32] {
        let mut digest = SetDigest::default();
        for registration in self.registrations.values() {
            digest.insert(&digest_item(&registration.id, registration.revision));
        }
        digest.bytes()
    }

    /// One registration for each part, so that there are many.
    fn parts(
        &self,
        upserts: Vec<types::Registration>,
        removals: Vec<String>,
        snapshot: bool,
    ) -> Vec<AuthorityMessage> {
        let mut updates = vec![Update {
            snapshot_start: snapshot,
            bundle: self.bundle.clone(),
            removals,
            ..Update::default()
        }];
        updates
            .extend(upserts.into_iter().map(|upsert| Update { upserts: vec![upsert], ..Update::default() }));
        let last = updates.len() - 1;
        for (index, update) in updates.iter_mut().enumerate() {
            update.incarnation = Bytes::copy_from_slice(&[self.incarnation; 16]);
            update.more = index < last;
            update.revision = if index == last { self.revision } else { 0 };
        }
        updates.into_iter().map(|update| message(Kind::Update(update))).collect()
    }
}

/// None if the registration has become a rule since the agent asked for it.
fn render(registration: &types::Registration, attested: &[types::Selector]) -> Option<String> {
    if !registration.spiffe_id.contains('{') {
        return Some(registration.spiffe_id.clone());
    }
    let user = attested.iter().find(|selector| selector.key == "unix.user")?;
    Some(registration.spiffe_id.replace("{unix.user}", &user.value))
}

fn message(kind: Kind) -> AuthorityMessage {
    AuthorityMessage { kind: Some(kind) }
}
