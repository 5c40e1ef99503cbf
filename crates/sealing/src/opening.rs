//! Opening: a client's questions and the keyholders' answers, as a state machine without I/O.
//!
//! ```text
//! SealedObject ──verify──▶ AuthenticObject ──Opening::begin──▶ questions ──accept──▶ … ──▶ OpenedKey ──secret──▶ plaintext
//! ```
//!
//! Nobody is asked before the owner's signature was verified. Answers of one epoch are combined as soon as there are enough;
//! whether they are right is told by the commitment in the stanza. If they are not, every answer has to be proven: whoever can't
//! prove the very answer that he gave first is named and skipped, and only proven answers are combined. When those do not fit
//! either, nobody lied, and the stanza is bad.

mod blame;
mod object;

use std::collections::BTreeMap;

use bonafide_crypto::digest::sha256;
use bonafide_crypto::mlkem;
use bonafide_crypto::random::Random;
use zeroize::Zeroizing;

pub use self::blame::{Lie, LieKind};
pub use self::object::{Acceptance, AuthenticObject, OpenError, OpenedKey};
use crate::blind::{Blinding, BlindingPolicy, Mask};
use crate::document::{Digest, Document, Signed};
use crate::epoch::TrustedEpoch;
use crate::exchange::{EvaluationReply, EvaluationRequest};
use crate::group::{Gt, Index, lagrange_at_zero};
use crate::identity::Identity;
use crate::kem::{Hybrid, StanzaKey};
use crate::object::Stanza;
use crate::params::TrustedParams;
use crate::proof::{Proof, Statement};

/// The secret of a post-quantum half, as the site's key has opened it.
pub type SiteSecret = Zeroizing<[u8; mlkem::SECRET]>;

/// What a client has pinned about the keyholders of a version.
#[derive(Clone, Copy, Debug)]
pub struct Keyholders<'a> {
    /// Parameters of the version.
    pub params: &'a TrustedParams,
    /// Epochs that answers may be of: the newest, and during a change also the one before.
    pub epochs: &'a [TrustedEpoch],
}

/// A keyholder, as the one with this index in the roster of this epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Holder {
    /// The epoch of its share.
    pub epoch: u64,
    /// Its index.
    pub index: Index,
}

/// One attempt to open one stanza.
#[derive(Debug)]
pub struct Opening<'a> {
    keyholders: Keyholders<'a>,
    object: &'a AuthenticObject,
    stanza: &'a Stanza,
    identity: Identity,
    site_secret: Option<SiteSecret>,
    mask: Mask,
    question: Question,
    demand: Question,
    answers: BTreeMap<Holder, Answer>,
    liars: Vec<Liar>,
    suspicious: bool,
}

/// What to do next.
#[derive(Debug)]
pub enum Step {
    /// More answers are needed, of anyone who has not given one.
    Wait,
    /// Ask these for proofs: they have answered, and somebody lied.
    Prove(Vec<Holder>),
    /// This keyholder lied. He is skipped; the evidence is for the log. Somebody else must be asked.
    Named(Box<Lie>),
    /// Done.
    Opened(OpenedKey),
}

#[derive(Debug)]
struct Question {
    request: EvaluationRequest,
    digest: Digest,
}

/// Known by its key, which it keeps when its index changes.
#[derive(Debug)]
struct Liar {
    holder: Holder,
    key: Digest,
}

#[derive(Debug)]
struct Answer {
    reply: Signed<EvaluationReply>,
    value: Gt,
    proven: bool,
}

impl<'a> Opening<'a> {
    /// Begins to open a stanza of an object. The blind must be for its identity under these parameters; `site_secret` is what the
    /// site's key has opened of the post-quantum half, if the stanza has one.
    ///
    /// # Errors
    /// [`OpenError`] if there is no such stanza, the parameters or the blind are of another key, or the post-quantum half or its
    /// secret is missing.
    pub fn begin(
        object: &'a AuthenticObject,
        stanza: usize,
        keyholders: Keyholders<'a>,
        blinding: Blinding,
        site_secret: Option<SiteSecret>,
        evidence: Option<Vec<u8>>,
        random: &dyn Random,
    ) -> Result<Self, OpenError> {
        let stanza = object.object().stanzas.get(stanza).ok_or(OpenError::NoStanza)?;
        let params = keyholders.params.params();
        let same = params.tenant == object.object().tenant
            && params.keyset == stanza.keyset
            && params.version == stanza.version
            && keyholders.epochs.iter().all(|epoch| epoch.record().params == *keyholders.params.digest());
        if !same || stanza.post_quantum.is_some() != site_secret.is_some() {
            return Err(if same { OpenError::SiteSecret } else { OpenError::OtherKey });
        }
        let identity = stanza.identity(&params.tenant)?;
        let (point, mask) =
            blinding.apply(keyholders.params, &identity, &stanza.point).map_err(|_| OpenError::OtherKey)?;
        let request = EvaluationRequest {
            tenant: params.tenant,
            keyset: params.keyset.clone(),
            version: params.version,
            policy: stanza.policy.clone(),
            label: stanza.label.clone(),
            point,
            prove: false,
            nonce: random.array(),
            evidence,
        };
        let demand = EvaluationRequest { prove: true, nonce: random.array(), ..request.clone() };
        Ok(Self {
            keyholders,
            object,
            stanza,
            identity,
            site_secret,
            mask,
            question: Question::new(request),
            demand: Question::new(demand),
            answers: BTreeMap::new(),
            liars: Vec::new(),
            suspicious: false,
        })
    }

    /// The policy that blinds for a stanza are made with.
    ///
    /// # Errors
    /// [`OpenError::NoStanza`]; [`OpenError::OtherKey`] if the identity has no point.
    pub fn blinding_policy(
        object: &AuthenticObject,
        stanza: usize,
        params: &TrustedParams,
    ) -> Result<BlindingPolicy, OpenError> {
        let stanza = object.object().stanzas.get(stanza).ok_or(OpenError::NoStanza)?;
        let identity = stanza.identity(&object.object().tenant)?;
        BlindingPolicy::new(params, &identity).map_err(|_| OpenError::OtherKey)
    }

    /// The question for everybody.
    #[must_use]
    pub fn request(&self) -> &EvaluationRequest {
        &self.question.request
    }

    /// The question for those who must prove what they have answered, and for everybody who is asked after that.
    #[must_use]
    pub fn proof_request(&self) -> &EvaluationRequest {
        &self.demand.request
    }

    /// Who has been found lying.
    #[must_use]
    pub fn liars(&self) -> Vec<Holder> {
        self.liars.iter().map(|liar| liar.holder).collect()
    }

    /// Takes an answer.
    ///
    /// # Errors
    /// [`OpenError`]: that the answer is nobody's, was not asked for, or of an epoch that is not known here, is no reason to stop
    /// asking others; [`OpenError::Stanza`] and [`OpenError::FileKey`] are, for nobody can open this stanza.
    pub fn accept(&mut self, reply: Signed<EvaluationReply>) -> Result<Step, OpenError> {
        let holder = Holder { epoch: reply.body.epoch, index: reply.body.index };
        let epoch = self.epoch(holder.epoch)?;
        let member = epoch.roster().roster().member(holder.index).ok_or(OpenError::Stranger)?;
        if reply.count([&member.key]) != 1 {
            return Err(OpenError::Stranger);
        }
        let key = *member.key.fingerprint();
        let proves = reply.body.request == self.demand.digest;
        let lied = self.liars.iter().any(|liar| liar.key == key);
        if lied || !(proves || reply.body.request == self.question.digest) {
            return Err(OpenError::NotAsked);
        }
        let share = *epoch.record().share(holder.index).ok_or(OpenError::Stranger)?;
        let liar = Liar { holder, key };
        let Ok(value) = Gt::decode(&reply.body.value) else {
            return Ok(self.name(liar, LieKind::NotInGroup, reply));
        };
        let before = self.answers.get(&holder);
        if before.is_some_and(|before| before.value != value) {
            return Ok(self.name(liar, LieKind::Changed, reply));
        }
        if proves {
            let point = &self.demand.request.point;
            let statement = Statement { identity: &self.identity, share: &share, point, value: &value };
            let proof = reply.body.proof.as_ref().and_then(|proof| Proof::decode(proof).ok());
            if !proof.is_some_and(|proof| proof.proves(&statement)) {
                return Ok(self.name(liar, LieKind::NotProven, reply));
            }
        } else if before.is_some() {
            return Err(OpenError::NotAsked);
        }
        self.answers.insert(holder, Answer { reply, value, proven: proves });
        self.step()
    }

    fn step(&mut self) -> Result<Step, OpenError> {
        let epochs: Vec<u64> = self.keyholders.epochs.iter().map(|epoch| epoch.record().epoch).collect();
        for number in epochs {
            let threshold = self.epoch(number)?.record().threshold();
            let usable = |holder: &Holder, answer: &Answer| {
                holder.epoch == number && (answer.proven || !self.suspicious)
            };
            let chosen: Vec<(Index, &Gt)> = self
                .answers
                .iter()
                .filter(|(holder, answer)| usable(holder, answer))
                .map(|(holder, answer)| (holder.index, &answer.value))
                .take(threshold)
                .collect();
            if chosen.len() < threshold {
                continue;
            }
            if let Some(key) = self.unwrap(&chosen)? {
                return Ok(Step::Opened(key));
            }
            if self.suspicious {
                return Err(OpenError::Stanza);
            }
            self.suspicious = true;
        }
        if !self.suspicious {
            return Ok(Step::Wait);
        }
        let unproven = self.answers.iter().filter(|(_, answer)| !answer.proven);
        let unproven: Vec<Holder> = unproven.map(|(holder, _)| *holder).collect();
        Ok(if unproven.is_empty() { Step::Wait } else { Step::Prove(unproven) })
    }

    /// `None` if the commitment does not fit these answers.
    fn unwrap(&self, chosen: &[(Index, &Gt)]) -> Result<Option<OpenedKey>, OpenError> {
        let indices: Vec<Index> = chosen.iter().map(|(index, _)| *index).collect();
        let coefficients = lagrange_at_zero(&indices).map_err(|_| OpenError::Stranger)?;
        let shared = self.mask.combine(chosen.iter().map(|(_, value)| *value).zip(coefficients));
        let hybrid = self.hybrid()?;
        let key = StanzaKey::new(&shared, hybrid.as_ref(), &self.identity);
        if !key.is_committed(&self.stanza.commitment) {
            return Ok(None);
        }
        let object = self.object.object();
        let file_key = key
            .unwrap(&self.stanza.wrapped, &object.oid, &object.file_commitment)
            .map_err(|_| OpenError::FileKey)?;
        OpenedKey::new(file_key, object).map(Some)
    }

    fn hybrid(&self) -> Result<Option<Hybrid<'_>>, OpenError> {
        let (Some(transport), Some(secret)) = (&self.stanza.post_quantum, &self.site_secret) else {
            return Ok(None);
        };
        let keys = &self.keyholders.params.params().site_keys;
        let key = keys.iter().find(|key| key.id == transport.site_key).ok_or(OpenError::SiteSecret)?;
        Ok(Some(Hybrid { secret, public_key: key.bytes(), ciphertext: &transport.ciphertext }))
    }

    fn name(&mut self, liar: Liar, kind: LieKind, reply: Signed<EvaluationReply>) -> Step {
        let holder = liar.holder;
        self.liars.push(liar);
        let first = self.answers.remove(&holder).map(|answer| answer.reply);
        let request = if reply.body.request == self.demand.digest { &self.demand } else { &self.question };
        let (question, request) = (self.question.request.clone(), request.request.clone());
        Step::Named(Box::new(Lie { holder, kind, question, request, first, reply }))
    }

    fn epoch(&self, number: u64) -> Result<&'a TrustedEpoch, OpenError> {
        let mut epochs = self.keyholders.epochs.iter();
        epochs.find(|epoch| epoch.record().epoch == number).ok_or(OpenError::UnknownEpoch(number))
    }
}

impl Question {
    fn new(request: EvaluationRequest) -> Self {
        let digest = sha256(&request.encode());
        Self { request, digest }
    }
}
