//! What lives in the process that holds the share: documents that are believed, shares, ceremonies. No I/O: what is to be kept is
//! handed to the server, which says when it is durable.
//!
//! The server is believed in nothing that matters: what it hands in is signed by others, or wrapped by the keyring. It can refuse
//! to work, and it can bring an old state back; it can't make another owner, roster or share.

mod ceremonies;
mod saved;

use std::collections::BTreeMap;
use std::sync::Arc;

use bonafide_crypto::key::{KeyAlgorithm, PrivateKey};
use bonafide_crypto::random::Random;
use bonafide_identity::time::Clock;
use bonafide_keyring::Wrapping;
use bonafide_sealing::ceremony::{Ceremony, Decision, Plan};
use bonafide_sealing::document::{Digest, Document as _, Signed, VerifyingKey};
use bonafide_sealing::epoch::{EpochRecord, TrustedEpoch};
use bonafide_sealing::group::Index;
use bonafide_sealing::params::{SealParams, TrustedParams};
use bonafide_wire::keyholder as wire;
use prost::Message as _;

use crate::audit::hexadecimal;
use crate::error::Refusal;
use crate::generated::worker::{self, Step, step};
use crate::judge::{Bench, Key};
use crate::trust::Trust;

/// The file of everything but seal keys.
pub(crate) const STATE: &str = "state";
/// The most versions of a key, and the most shares that wait for a certificate.
const MAX_VERSIONS: usize = 32;
const MAX_PENDING: usize = 16;
/// Notices that are shown.
const MAX_NOTICES: usize = 32;

/// A keyholder, as its share's process knows it.
pub(crate) struct Holder {
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
    signer: Arc<PrivateKey>,
    /// The same, wrapped.
    key: Vec<u8>,
    trust: Trust,
    holdings: BTreeMap<u64, Holding>,
    pending: Vec<PendingShare>,
    ceremony: Option<(Ceremony, Signed<Plan>)>,
    /// What is done once the steps of this number are durable.
    waiting: (u64, Vec<After>),
    notices: Vec<String>,
}

/// One version of the key.
struct Holding {
    params: SealParams,
    /// As the owner has signed it.
    signed: Option<Signed<SealParams>>,
    certificate: Option<Signed<EpochRecord>>,
    share: Option<(Arc<Key>, Vec<u8>)>,
    floor: u64,
}

/// A share of an epoch that has no certificate yet.
struct PendingShare {
    plan: Signed<Plan>,
    index: Index,
    record: EpochRecord,
    params: SealParams,
    key: Arc<Key>,
    sealed: Vec<u8>,
    decision: Decision,
}

/// What waits for the disk.
#[derive(Debug, PartialEq, Eq)]
enum After {
    /// The new share is there: say so.
    Stored(Digest),
    /// The new state is there: destroy these seal keys.
    Erase(Vec<String>),
}

/// What the server is told to do.
#[derive(Default)]
pub(crate) struct Work {
    pub(crate) steps: Vec<Step>,
    after: Vec<After>,
}

impl Holder {
    /// A new one, with a key of its own, and the state to be kept.
    pub(crate) fn create(
        wrapping: &Wrapping<'_>,
        clock: Arc<dyn Clock>,
        random: Arc<dyn Random>,
    ) -> Result<(Self, Work), Refusal> {
        let key = PrivateKey::generate(KeyAlgorithm::Ed25519)
            .map_err(|error| Refusal::new(error.code(), error, error.hint()))?;
        let wrapped = wrapping.wrap(saved::KEY, &key.to_pkcs8_der())?;
        let this = Self::empty(clock, random, key, wrapped);
        let mut work = Work::default();
        this.save(wrapping, &mut work)?;
        Ok((this, work))
    }

    fn empty(clock: Arc<dyn Clock>, random: Arc<dyn Random>, signer: PrivateKey, key: Vec<u8>) -> Self {
        Self {
            clock,
            random,
            signer: Arc::new(signer),
            key,
            trust: Trust::default(),
            holdings: BTreeMap::new(),
            pending: Vec::new(),
            ceremony: None,
            waiting: (0, Vec::new()),
            notices: Vec::new(),
        }
    }

    /// Takes documents, whoever brings them: each is believed for its signatures alone.
    pub(crate) fn install(
        &mut self,
        wrapping: &Wrapping<'_>,
        documents: &wire::Documents,
        is_local: bool,
    ) -> Result<Work, Refusal> {
        let mut work = Work::default();
        let now = self.now();
        let mut changed = self.trust.install(documents, is_local, now)?;
        changed |= self.trust.ripen(now);
        for version in documents.versions.iter().take(MAX_VERSIONS) {
            changed |= self.install_params(version)?;
            if !version.certificate.is_empty() {
                let certificate = Signed::<EpochRecord>::decode(&version.certificate)?;
                self.relay(wrapping, version.version, &certificate, &mut work)?;
            }
        }
        if changed {
            self.save(wrapping, &mut work)?;
        }
        Ok(work)
    }

    /// The owner's signature under parameters that this keyholder has made with others, or the parameters of a key that it will
    /// get a share of.
    fn install_params(&mut self, version: &wire::KeyVersion) -> Result<bool, Refusal> {
        let Some(owner) = self.trust.owner().filter(|_| !version.params.is_empty()) else { return Ok(false) };
        let signed = Signed::<SealParams>::decode(&version.params)?;
        let number = signed.body.version;
        match self.holdings.get_mut(&number) {
            Some(holding) if holding.signed.is_none() => {
                if holding.params != signed.body {
                    return Err(bonafide_sealing::trust::TrustError::Mismatch(SealParams::NAME).into());
                }
                TrustedParams::verify(owner, &signed)?;
                holding.signed = Some(signed);
                Ok(true)
            }
            Some(_) => Ok(false),
            None => {
                let keyset = self.trust.roster().map(|roster| &roster.roster().keyset);
                // What a ceremony is still making is not known before its certificate.
                let in_making = self.pending.iter().any(|pending| pending.params.version == number);
                if in_making || keyset != Some(&signed.body.keyset) || self.holdings.len() >= MAX_VERSIONS {
                    return Ok(false);
                }
                TrustedParams::verify(owner, &signed)?;
                let params = signed.body.clone();
                let holding =
                    Holding { params, signed: Some(signed), certificate: None, share: None, floor: 0 };
                self.holdings.insert(number, holding);
                Ok(true)
            }
        }
    }

    /// Lets what waits for its time count.
    pub(crate) fn ripen(&mut self, wrapping: &Wrapping<'_>) -> Result<Work, Refusal> {
        let mut work = Work::default();
        if self.trust.ripen(self.now()) {
            self.save(wrapping, &mut work)?;
        }
        Ok(work)
    }

    /// The parameters of a version, and its epoch, as far as the owner and all keyholders have signed.
    fn trusted(&self, holding: &Holding) -> Option<(TrustedParams, TrustedEpoch)> {
        let (signed, certificate) = (holding.signed.as_ref()?, holding.certificate.as_ref()?);
        let params = self.trust.owners().find_map(|owner| TrustedParams::verify(owner, signed).ok())?;
        let roster = self.trust.roster_of(&certificate.body.roster)?;
        let epoch = TrustedEpoch::verify(&params, roster, certificate).ok()?;
        Some((params, epoch))
    }

    /// What questions are judged with.
    pub(crate) fn bench(&self) -> Result<Option<Arc<Bench>>, Refusal> {
        if self.trust.roster().is_none() {
            return Ok(None);
        }
        let served = self.holdings.values().filter_map(|holding| {
            let (key, _) = holding.share.as_ref()?;
            holding.signed.as_ref().and(Some(Arc::clone(key)))
        });
        Ok(Some(Arc::new(Bench {
            bundles: self.trust.bundles()?,
            deny: self.trust.deny().cloned(),
            signer: Arc::clone(&self.signer),
            keys: served.collect(),
        })))
    }

    /// What everybody may know.
    pub(crate) fn view(&self) -> worker::View {
        let roster = self.trust.roster().map(|roster| roster.roster());
        let mut documents = self.trust.documents();
        documents.versions = self.holdings.values().map(Holding::document).collect();
        let deny = self.trust.deny().map(|deny| deny.list());
        let refusal = self.not_serving();
        let status = wire::KeyholderStatus {
            key: self.signer.public_key().spki_der().to_vec().into(),
            tenant: roster.map(|roster| roster.tenant.to_string()).unwrap_or_default(),
            keyset: roster.map(|roster| roster.keyset.to_string()).unwrap_or_default(),
            roster_serial: roster.map_or(0, |roster| roster.serial),
            index: self.index().map_or(0, |index| u32::from(index.number())),
            threshold: roster.map_or(0, |roster| u32::from(roster.threshold)),
            members: roster.map_or(0, |roster| u32::from(roster.count())),
            deny_serial: deny.map_or(0, |deny| deny.serial),
            deny_expires: deny.map_or(0, |deny| deny.expires),
            versions: self.holdings.values().map(Holding::status).collect(),
            ceremony: self.session().map(|session| hexadecimal(&session)).unwrap_or_default(),
            serving: refusal.is_none(),
            why: refusal.unwrap_or_default().to_owned(),
            notices: self.notices.clone(),
            missing: Vec::new(),
        };
        let rosters = self.trust.rosters();
        let mut peers: Vec<String> =
            rosters.flat_map(|roster| &roster.members).map(|member| member.id.clone()).collect();
        peers.sort();
        peers.dedup();
        worker::View {
            documents: documents.encode_to_vec().into(),
            status: status.encode_to_vec().into(),
            peers,
            anchors: roster
                .map(|r| r.anchors.iter().map(|der| der.clone().into()).collect())
                .unwrap_or_default(),
            session: self.session().map(|session| session.to_vec().into()).unwrap_or_default(),
        }
    }

    fn not_serving(&self) -> Option<&'static str> {
        if self.trust.roster().is_none() {
            return Some("no roster was installed");
        }
        match self.trust.deny() {
            None => return Some("no deny-list was installed"),
            Some(deny) if deny.list().expires <= self.now() => return Some("the deny-list has expired"),
            Some(_) => {}
        }
        let mut holdings = self.holdings.values();
        if !holdings.clone().any(|holding| holding.share.is_some()) {
            let member = self.index().is_some();
            return Some(if member {
                "it holds no share"
            } else {
                "the newest roster does not name its key"
            });
        }
        let ready = holdings.any(|holding| holding.share.is_some() && holding.signed.is_some());
        (!ready).then_some("the owner has not signed the parameters")
    }

    /// What this keyholder is in the newest roster.
    fn index(&self) -> Option<Index> {
        let key = VerifyingKey::new(self.signer.public_key().clone()).ok()?;
        self.trust.roster()?.roster().index_of(key.fingerprint())
    }

    fn session(&self) -> Option<Digest> {
        self.ceremony.as_ref().map(|(ceremony, _)| *ceremony.session())
    }

    fn now(&self) -> u64 {
        u64::try_from(self.clock.now().as_secs()).unwrap_or(0)
    }

    fn notice(&mut self, work: &mut Work, notice: String) {
        if self.notices.len() >= MAX_NOTICES {
            self.notices.remove(0);
        }
        self.notices.push(notice.clone());
        work.push(step::Step::Notice(notice));
    }

    /// Numbers what has to be durable before it goes on.
    pub(crate) fn confirm(&mut self, work: Work) -> (Vec<Step>, u64) {
        if work.after.is_empty() {
            return (work.steps, 0);
        }
        self.waiting.0 += 1;
        self.waiting.1.extend(work.after);
        (work.steps, self.waiting.0)
    }
}

impl Holding {
    fn document(&self) -> wire::KeyVersion {
        wire::KeyVersion {
            version: self.params.version,
            params: self.signed.as_ref().map(|signed| signed.encode().into()).unwrap_or_default(),
            certificate: self.certificate.as_ref().map(|signed| signed.encode().into()).unwrap_or_default(),
            unsigned_params: match self.signed {
                Some(_) => Vec::new().into(),
                None => self.params.encode().into(),
            },
        }
    }

    fn status(&self) -> wire::VersionStatus {
        wire::VersionStatus {
            version: self.params.version,
            epoch: self.certificate.as_ref().map_or(0, |certificate| certificate.body.epoch),
            is_signed: self.signed.is_some(),
            has_share: self.share.is_some(),
        }
    }

    fn epoch(&self) -> u64 {
        self.certificate.as_ref().map_or(0, |certificate| certificate.body.epoch)
    }
}

impl Work {
    fn push(&mut self, step: step::Step) {
        self.steps.push(Step { step: Some(step) });
    }

    fn put(&mut self, name: String, content: Vec<u8>) {
        self.push(step::Step::Put(worker::Put { name, content: content.into() }));
    }
}

impl std::fmt::Debug for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Holder").field("versions", &self.holdings.len()).finish_non_exhaustive()
    }
}
