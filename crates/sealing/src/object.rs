//! A sealed secret as it travels, and what its owner has signed of it.

use crate::cbor::{Reader, Writer};
use crate::document::{Digest, Document, SUITE, Signature, framed};
use crate::group::{G1_BYTES, G1Point};
use crate::identity::{Identity, Keyset, MAX_KEYSET, MAX_LABEL, MAX_POLICY, Tenant};
use crate::kem::WRAPPED;
use crate::payload::MAX_PAYLOAD;
use bonafide_crypto::digest::sha256;
use bonafide_crypto::mlkem::CIPHERTEXT;

/// The most stanzas of one object.
pub const MAX_STANZAS: usize = 16;
/// The most identities that one object may be sealed to.
pub const MAX_IDENTITIES: usize = 32;
/// The most bytes of a name.
pub const MAX_NAME: usize = 256;
/// The most bytes that say what a secret is for.
pub const MAX_PURPOSE: usize = 1024;

/// A secret that is sealed to one or several identities, any of which opens it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealedObject {
    /// Which object: random, new for every payload.
    pub oid: [u8; 32],
    /// Whose.
    pub tenant: Tenant,
    /// Rises with each secret of the same name, so that nobody is shown an old one.
    pub serial: u64,
    /// Every stanza must have a post-quantum half.
    pub post_quantum: bool,
    /// What everybody may know of it.
    pub public: PublicData,
    /// Digests of the identities that it may be sealed to, ascending. The owner signs them; a stanza for another is refused.
    pub identities: Vec<Digest>,
    /// Ways to the file key.
    pub stanzas: Vec<Stanza>,
    /// Commits to the file key.
    pub file_commitment: Digest,
    /// The encrypted secret.
    pub payload: Vec<u8>,
    /// The owner's signature.
    pub signature: Option<Signature>,
}

/// What everybody may know of a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicData {
    /// What it is asked for by.
    pub name: String,
    /// What it is for, in words.
    pub purpose: String,
    /// When it ceases to open: seconds since 1970.
    pub not_after: Option<u64>,
}

/// The file key, wrapped for one identity under one version of a keyset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stanza {
    /// Which key.
    pub keyset: Keyset,
    /// Which version: says whom to ask, and is bound to nothing.
    pub version: u64,
    /// The policy, as the exact bytes that keyholders hash and evaluate.
    pub policy: Vec<u8>,
    /// What it can be revoked by, beside its policy.
    pub label: Vec<u8>,
    /// The encapsulation: U.
    pub point: G1Point,
    /// Commits to the shared element.
    pub commitment: Digest,
    /// The wrapped file key.
    pub wrapped: [u8; WRAPPED],
    /// The post-quantum half.
    pub post_quantum: Option<PostQuantum>,
    /// Signature of the owner or of a rewrapper: without it, somebody could mark a secret with a U of his own, and learn from a
    /// keyholder in league with him when it is opened.
    pub signature: Option<Signature>,
}

/// An encapsulated secret of ML-KEM-768.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PostQuantum {
    /// Which key of the parameters.
    pub site_key: u64,
    /// The ciphertext.
    pub ciphertext: Box<[u8; CIPHERTEXT]>,
}

impl SealedObject {
    /// What the owner signs: all that never changes. Stanzas may be replaced for another version; whom they are for may not.
    #[must_use]
    pub fn message(&self) -> Vec<u8> {
        let count = u32::try_from(self.identities.len()).unwrap_or(u32::MAX).to_be_bytes();
        let immutable = framed(&[
            SUITE.as_bytes(),
            &self.oid,
            &self.serial.to_be_bytes(),
            &[u8::from(self.post_quantum)],
            &self.public.encode(),
            &self.file_commitment,
            &sha256(&self.payload),
        ]);
        [b"bbf-sig-v2".as_slice(), &immutable, &count, self.identities.as_flattened()].concat()
    }

    /// What the payload is bound to.
    pub(crate) fn payload_aad(&self) -> Vec<u8> {
        let signer: &[u8] = self.signature.as_ref().map_or(&[], |signature| &signature.key);
        payload_aad(&self.oid, signer, &self.public, &self.file_commitment)
    }
}

/// The fingerprint of the signer is in it, so that nobody puts his own signature on somebody else's secret.
pub(crate) fn payload_aad(
    oid: &[u8; 32],
    signer: &[u8],
    public: &PublicData,
    commitment: &Digest,
) -> Vec<u8> {
    framed(&[SUITE.as_bytes(), oid, signer, &public.encode(), commitment])
}

impl Stanza {
    /// What is signed of a stanza: the object, and all of it.
    #[must_use]
    pub fn message(&self, oid: &[u8; 32]) -> Vec<u8> {
        [b"bbf-stanza-v1".as_slice(), &framed(&[oid, &self.core()])].concat()
    }

    /// The identity that it is for.
    ///
    /// # Errors
    /// [`FormatError`](crate::document::FormatError) if it was not decoded, and has a policy or a label of a wrong length.
    pub fn identity(&self, tenant: &Tenant) -> Result<Identity, crate::document::FormatError> {
        Identity::new(tenant, &self.keyset, &self.policy, &self.label)
    }

    /// All but the signature.
    fn core(&self) -> Vec<u8> {
        let mut out = Writer::default();
        out.map(7 + usize::from(self.post_quantum.is_some()));
        out.number(1).text(self.keyset.as_str()).number(2).number(self.version);
        out.number(3).bytes(&self.policy).number(4).bytes(&self.label);
        out.number(5).bytes(&self.point.encode()).number(6).bytes(&self.commitment);
        out.number(7).bytes(&self.wrapped);
        if let Some(hybrid) = &self.post_quantum {
            out.number(8).array(2).number(hybrid.site_key).bytes(hybrid.ciphertext.as_slice());
        }
        out.finish()
    }

    fn read_core(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(bytes);
        let mut map = reader.map()?;
        map.required(&mut reader, 1)?;
        let keyset = Keyset::new(reader.text(MAX_KEYSET)?).ok()?;
        map.required(&mut reader, 2)?;
        let version = reader.number().filter(|version| *version > 0)?;
        map.required(&mut reader, 3)?;
        let policy = reader.bytes(MAX_POLICY).filter(|policy| !policy.is_empty())?.to_vec();
        map.required(&mut reader, 4)?;
        let label = reader.bytes(MAX_LABEL)?.to_vec();
        map.required(&mut reader, 5)?;
        let point = reader.fixed::<G1_BYTES>()?;
        map.required(&mut reader, 6)?;
        let commitment = *reader.fixed()?;
        map.required(&mut reader, 7)?;
        let wrapped = *reader.fixed()?;
        let mut post_quantum = None;
        if map.optional(&mut reader, 8)? {
            if reader.array(2)? != 2 {
                return None;
            }
            let site_key = reader.number()?;
            post_quantum = Some(PostQuantum { site_key, ciphertext: Box::new(*reader.fixed()?) });
        }
        map.end()?;
        reader.finish()?;
        let point = G1Point::decode(point).ok()?;
        Some(Self {
            keyset,
            version,
            policy,
            label,
            point,
            commitment,
            wrapped,
            post_quantum,
            signature: None,
        })
    }
}

/// The most bytes of a stanza.
const MAX_STANZA: usize = MAX_POLICY + MAX_LABEL + CIPHERTEXT + 512;

impl Document for SealedObject {
    const NAME: &'static str = "sealed secret";
    const MAX: usize = MAX_PAYLOAD + MAX_STANZAS * (MAX_STANZA + 256) + MAX_IDENTITIES * 34 + 4096;

    fn encode(&self) -> Vec<u8> {
        let mut out = Writer::default();
        out.map(10 + usize::from(self.signature.is_some()));
        out.number(1).text(SUITE).number(2).bytes(&self.oid).number(3).bytes(self.tenant.as_bytes());
        out.number(4).number(self.serial).number(5).boolean(self.post_quantum);
        out.number(6).bytes(&self.public.encode()).number(7).array(self.identities.len());
        for identity in &self.identities {
            out.bytes(identity);
        }
        out.number(8).array(self.stanzas.len());
        for stanza in &self.stanzas {
            match &stanza.signature {
                None => out.array(1).bytes(&stanza.core()),
                Some(signature) => {
                    out.array(3).bytes(&stanza.core()).bytes(&signature.key).bytes(&signature.value)
                }
            };
        }
        out.number(9).bytes(&self.file_commitment).number(10).bytes(&self.payload);
        if let Some(signature) = &self.signature {
            out.number(11).array(2).bytes(&signature.key).bytes(&signature.value);
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
        let oid = *reader.fixed()?;
        map.required(&mut reader, 3)?;
        let tenant = Tenant::from_bytes(*reader.fixed()?);
        map.required(&mut reader, 4)?;
        let serial = reader.number()?;
        map.required(&mut reader, 5)?;
        let post_quantum = reader.boolean()?;
        map.required(&mut reader, 6)?;
        let public = PublicData::decode(reader.bytes(PublicData::MAX)?).ok()?;
        map.required(&mut reader, 7)?;
        let identities = reader.list(MAX_IDENTITIES, |reader| reader.fixed().copied())?;
        map.required(&mut reader, 8)?;
        let stanzas = reader.list(MAX_STANZAS, read_stanza)?;
        map.required(&mut reader, 9)?;
        let file_commitment = *reader.fixed()?;
        map.required(&mut reader, 10)?;
        let payload = reader.bytes(MAX_PAYLOAD)?.to_vec();
        let mut signature = None;
        if map.optional(&mut reader, 11)? {
            signature = Some(Signature::read(&mut reader)?);
        }
        map.end()?;
        reader.finish()?;
        let valid = !identities.is_empty()
            && identities.is_sorted_by(|a, b| a < b)
            && !stanzas.is_empty()
            && (!post_quantum || stanzas.iter().all(|stanza| stanza.post_quantum.is_some()));
        valid.then_some(Self {
            oid,
            tenant,
            serial,
            post_quantum,
            public,
            identities,
            stanzas,
            file_commitment,
            payload,
            signature,
        })
    }
}

fn read_stanza(reader: &mut Reader<'_>) -> Option<Stanza> {
    let parts = reader.array(3)?;
    let mut stanza = Stanza::read_core(reader.bytes(MAX_STANZA)?)?;
    stanza.signature = match parts {
        1 => None,
        3 => {
            let key = *reader.fixed()?;
            Some(Signature { key, value: reader.bytes(crate::document::MAX_SIGNATURE)?.to_vec() })
        }
        _ => return None,
    };
    Some(stanza)
}

impl Document for PublicData {
    const NAME: &'static str = "public part of a secret";
    const MAX: usize = MAX_NAME + MAX_PURPOSE + 32;

    fn encode(&self) -> Vec<u8> {
        let mut out = Writer::default();
        out.map(2 + usize::from(self.not_after.is_some()));
        out.number(1).text(&self.name).number(2).text(&self.purpose);
        if let Some(end) = self.not_after {
            out.number(3).number(end);
        }
        out.finish()
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(bytes);
        let mut map = reader.map()?;
        map.required(&mut reader, 1)?;
        let name = reader.text(MAX_NAME).filter(|name| !name.is_empty())?.to_owned();
        map.required(&mut reader, 2)?;
        let purpose = reader.text(MAX_PURPOSE)?.to_owned();
        let not_after = if map.optional(&mut reader, 3)? { Some(reader.number()?) } else { None };
        map.end()?;
        reader.finish()?;
        Some(Self { name, purpose, not_after })
    }
}
