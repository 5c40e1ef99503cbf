//! What is asked of a keyholder, and what it answers.

use bonafide_crypto::digest::sha256;
use bonafide_crypto::key::Signer;
use bonafide_crypto::random::Random;

use crate::cbor::{Reader, Writer};
use crate::document::{Digest, Document, FormatError, SUITE, Signed};
use crate::group::{G1_BYTES, G1Point, GT_BYTES, Index};
use crate::identity::{Identity, Keyset, MAX_KEYSET, MAX_LABEL, MAX_POLICY, Tenant};
use crate::proof::PROOF;
use crate::share::{PreparedPolicy, Share, ShareError};

/// The most bytes of what a caller shows beside its certificate.
pub const MAX_EVIDENCE: usize = 16 << 10;

/// A question: this blinded point, under this policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EvaluationRequest {
    /// Whose.
    pub tenant: Tenant,
    /// Which key.
    pub keyset: Keyset,
    /// Which version.
    pub version: u64,
    /// The policy: what is evaluated is what is hashed.
    pub policy: Vec<u8>,
    /// The label.
    pub label: Vec<u8>,
    /// The blinded encapsulation: uniformly random, whatever is being opened.
    pub point: G1Point,
    /// Whether the answer should be proven.
    pub prove: bool,
    /// Makes this question one of a kind.
    pub nonce: [u8; 16],
    /// The caller's signature over a nonce of the keyholder's, and the statement of a witness. Read by the keyholder.
    pub evidence: Option<Vec<u8>>,
}

/// An answer. It is signed with the key of the roster ([`Signed`]).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EvaluationReply {
    /// SHA-256 of the request.
    pub request: Digest,
    /// Who answers.
    pub index: Index,
    /// With the share of which epoch.
    pub epoch: u64,
    /// The answer. It is decoded after the signature was verified, so that whoever sent nonsense can be named.
    pub value: Box<[u8; GT_BYTES]>,
    /// The proof, if one was asked for.
    pub proof: Option<[u8; PROOF]>,
}

impl EvaluationRequest {
    /// The identity that is asked about.
    ///
    /// # Errors
    /// [`FormatError`] if it was not decoded, and has a policy or a label of a wrong length.
    pub fn identity(&self) -> Result<Identity, FormatError> {
        Identity::new(&self.tenant, &self.keyset, &self.policy, &self.label)
    }

    /// Answers it. Whoever calls has judged policy, caller and deny-list before.
    ///
    /// # Errors
    /// [`AnswerError`] if share or policy are of something else, or the signer fails.
    pub fn answer(
        &self,
        share: &Share,
        policy: &PreparedPolicy,
        signer: &dyn Signer,
        random: &dyn Random,
    ) -> Result<Signed<EvaluationReply>, AnswerError> {
        let name = share.name();
        let same = name.tenant == self.tenant && name.keyset == self.keyset && name.version == self.version;
        let identity = self.identity()?;
        if !same || policy.identity() != identity.digest() {
            return Err(ShareError::OtherKey.into());
        }
        let value = share.evaluate(policy, &self.point)?;
        let mut proof = None;
        if self.prove {
            proof = Some(share.prove(&identity, &self.point, &value, random)?.encode());
        }
        let mut reply = Signed::new(EvaluationReply {
            request: sha256(&self.encode()),
            index: name.index,
            epoch: name.epoch,
            value: Box::new(*value.encode()),
            proof,
        });
        reply.sign(signer)?;
        Ok(reply)
    }
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AnswerError {
    /// Lengths.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// Another key, or a number that is zero.
    #[error(transparent)]
    Share(#[from] ShareError),
    /// The answer could not be signed.
    #[error("the answer could not be signed: {0}")]
    Signer(#[from] bonafide_crypto::key::SignError),
}

impl AnswerError {
    /// The stable code of this error.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Format(error) => error.code(),
            Self::Share(error) => error.code(),
            Self::Signer(error) => error.code(),
        }
    }
}

impl Document for EvaluationRequest {
    const NAME: &'static str = "request";
    const MAX: usize = MAX_POLICY + MAX_LABEL + MAX_EVIDENCE + 512;

    fn encode(&self) -> Vec<u8> {
        let mut out = Writer::default();
        out.map(9 + usize::from(self.evidence.is_some()));
        out.number(1).text(SUITE).number(2).bytes(self.tenant.as_bytes());
        out.number(3).text(self.keyset.as_str()).number(4).number(self.version);
        out.number(5).bytes(&self.policy).number(6).bytes(&self.label);
        out.number(7).bytes(&self.point.encode()).number(8).boolean(self.prove);
        out.number(9).bytes(&self.nonce);
        if let Some(evidence) = &self.evidence {
            out.number(10).bytes(evidence);
        }
        out.finish()
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(bytes);
        let mut map = reader.map()?;
        map.required(&mut reader, 1)?;
        if reader.text(SUITE.len())? != SUITE {
            return None;
        }
        map.required(&mut reader, 2)?;
        let tenant = Tenant::from_bytes(*reader.fixed()?);
        map.required(&mut reader, 3)?;
        let keyset = Keyset::new(reader.text(MAX_KEYSET)?).ok()?;
        map.required(&mut reader, 4)?;
        let version = reader.number().filter(|version| *version > 0)?;
        map.required(&mut reader, 5)?;
        let policy = reader.bytes(MAX_POLICY).filter(|policy| !policy.is_empty())?.to_vec();
        map.required(&mut reader, 6)?;
        let label = reader.bytes(MAX_LABEL)?.to_vec();
        map.required(&mut reader, 7)?;
        let point = reader.fixed::<G1_BYTES>()?;
        map.required(&mut reader, 8)?;
        let prove = reader.boolean()?;
        map.required(&mut reader, 9)?;
        let nonce = *reader.fixed()?;
        let mut evidence = None;
        if map.optional(&mut reader, 10)? {
            evidence = Some(reader.bytes(MAX_EVIDENCE)?.to_vec());
        }
        map.end()?;
        reader.finish()?;
        let point = G1Point::decode(point).ok()?;
        Some(Self { tenant, keyset, version, policy, label, point, prove, nonce, evidence })
    }
}

impl Document for EvaluationReply {
    const NAME: &'static str = "reply";
    const MAX: usize = 128 + GT_BYTES + PROOF;

    fn encode(&self) -> Vec<u8> {
        let mut out = Writer::default();
        out.map(4 + usize::from(self.proof.is_some()));
        out.number(1).bytes(&self.request).number(2).number(u64::from(self.index.number()));
        out.number(3).number(self.epoch).number(4).bytes(self.value.as_slice());
        if let Some(proof) = &self.proof {
            out.number(5).bytes(proof);
        }
        out.finish()
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(bytes);
        let mut map = reader.map()?;
        map.required(&mut reader, 1)?;
        let request = *reader.fixed()?;
        map.required(&mut reader, 2)?;
        let index = Index::new(reader.number()?).ok()?;
        map.required(&mut reader, 3)?;
        let epoch = reader.number()?;
        map.required(&mut reader, 4)?;
        let value = Box::new(*reader.fixed()?);
        let proof = if map.optional(&mut reader, 5)? { Some(*reader.fixed()?) } else { None };
        map.end()?;
        reader.finish()?;
        Some(Self { request, index, epoch, value, proof })
    }
}
