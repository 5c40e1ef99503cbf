//! Sealing, offline: parameters, a policy and a secret go in, and nobody is asked.

use bonafide_crypto::key::Signer;
use bonafide_crypto::random::Random;
use zeroize::Zeroizing;

use crate::document::{Digest, FormatError, VerifyingKey, sign};
use crate::group::{G1Point, GroupError, pair_multiple};
use crate::identity::Identity;
use crate::kem::{FileKey, Hybrid, StanzaKey};
use crate::object::{
    MAX_IDENTITIES, MAX_NAME, MAX_PURPOSE, MAX_STANZAS, PostQuantum, PublicData, SealedObject, Stanza,
    payload_aad,
};
use crate::opening::{AuthenticObject, OpenedKey};
use crate::params::{SiteKey, TrustedParams};
use crate::payload::{MAX_SECRET, encrypt};
use crate::trust::TrustError;

/// A secret that lives longer than this, in seconds, gets a post-quantum half if nothing else is said: 90 days.
pub const LONG_LIVED: u64 = 90 * 86_400;

/// Whom a secret is sealed to.
#[derive(Clone, Copy, Debug)]
pub struct Recipient<'a> {
    /// Parameters of the keyset.
    pub params: &'a TrustedParams,
    /// The exact bytes of the policy. They are not judged here: whoever calls has read them as a keyholder will.
    pub policy: &'a [u8],
    /// What it can be revoked by, beside the policy. May be empty.
    pub label: &'a [u8],
    /// The site whose post-quantum key is used. Needed when the parameters have several.
    pub site: Option<&'a str>,
}

/// Whether stanzas get a post-quantum half.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Quantum {
    /// If the secret lives longer than [`LONG_LIVED`], or without end.
    #[default]
    Auto,
    /// In any case.
    Always,
    /// Never: whoever keeps the object until there is a quantum computer reads it.
    Never,
}

/// What a secret is sealed with.
#[derive(Clone, Copy, Debug)]
pub struct Sealing<'a> {
    /// Any of them opens it.
    pub recipients: &'a [Recipient<'a>],
    /// What everybody may know.
    pub public: &'a PublicData,
    /// Higher than that of the last secret of this name.
    pub serial: u64,
    /// Whether it must outlive the curve.
    pub quantum: Quantum,
    /// The owner's key for sealing. Without one, whoever can write where the secret lies can put another there.
    pub signer: Option<&'a dyn Signer>,
}

/// Why nothing was sealed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SealError {
    /// Nobody to seal to, too many, one twice, or of several tenants.
    #[error("a secret is sealed to 1 to `{MAX_STANZAS}` different recipients of one tenant")]
    Recipients,
    /// The parameters are not valid now.
    #[error(transparent)]
    Params(#[from] TrustError),
    /// Policy, label, name or purpose.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// The secret is too long.
    #[error("a secret has at most `{MAX_SECRET}` bytes")]
    TooLong,
    /// Its end is not in the future.
    #[error("the secret would have expired already")]
    Expired,
    /// A post-quantum half is wanted, and the parameters have no key for it, or several.
    #[error("the parameters have no post-quantum key for this site")]
    NoSiteKey,
    /// A stanza for an identity that the owner has not signed, or one for a version that there is already.
    #[error("a secret is rewrapped for an identity that it has, and another version")]
    Rewrap,
    /// The signer failed.
    #[error("the secret could not be signed: {0}")]
    Signer(#[from] bonafide_crypto::key::SignError),
    /// The mathematics had no answer, which happens to nobody.
    #[error("the cryptographic library refused")]
    Library,
}

/// Seals a secret.
///
/// # Errors
/// [`SealError`] names what is missing. `now` is in seconds since 1970.
pub fn seal(
    sealing: &Sealing<'_>,
    secret: &[u8],
    now: u64,
    random: &dyn Random,
) -> Result<SealedObject, SealError> {
    if secret.len() > MAX_SECRET {
        return Err(SealError::TooLong);
    }
    check_public(sealing.public, now)?;
    let tenant = sealing.recipients.first().ok_or(SealError::Recipients)?.params.params().tenant;
    let mut targets = Vec::new();
    for recipient in sealing.recipients {
        let params = recipient.params.params();
        if params.tenant != tenant {
            return Err(SealError::Recipients);
        }
        recipient.params.check_time(now)?;
        targets.push(Identity::new(&tenant, &params.keyset, recipient.policy, recipient.label)?);
    }
    let mut identities: Vec<Digest> = targets.iter().map(|identity| *identity.digest()).collect();
    identities.sort_unstable();
    let fits = targets.len() <= MAX_STANZAS.min(MAX_IDENTITIES) && identities.is_sorted_by(|a, b| a < b);
    if !fits {
        return Err(SealError::Recipients);
    }

    let post_quantum = match sealing.quantum {
        Quantum::Always => true,
        Quantum::Never => false,
        Quantum::Auto => sealing.public.not_after.is_none_or(|end| end.saturating_sub(now) > LONG_LIVED),
    };
    let encoded = crate::document::Document::encode(sealing.public);
    let file_key = FileKey::hedged(secret, &identities, &encoded, random);
    let file_commitment = file_key.commitment();
    let oid = random.array();
    let mut stanzas = Vec::new();
    for (recipient, identity) in sealing.recipients.iter().zip(&targets) {
        let site_key = if post_quantum { Some(site_key(recipient)?) } else { None };
        let mut stanza = wrap(recipient, site_key, identity, &file_key, &oid, &file_commitment, random)?;
        if let Some(signer) = sealing.signer {
            stanza.signature = Some(sign(signer, &stanza.message(&oid))?);
        }
        stanzas.push(stanza);
    }
    let signer = match sealing.signer {
        Some(signer) => VerifyingKey::new(signer.public_key().clone())?.fingerprint().to_vec(),
        None => Vec::new(),
    };
    let aad = payload_aad(&oid, &signer, sealing.public, &file_commitment);
    let payload = encrypt(&file_key, &aad, secret).map_err(|_| SealError::Library)?;
    let mut object = SealedObject {
        oid,
        tenant,
        serial: sealing.serial,
        post_quantum,
        public: sealing.public.clone(),
        identities,
        stanzas,
        file_commitment,
        payload,
        signature: None,
    };
    if let Some(signer) = sealing.signer {
        object.signature = Some(sign(signer, &object.message())?);
    }
    Ok(object)
}

/// Adds a stanza for another version of a keyset, for an identity that the object has already; the stanzas of that identity and
/// keyset are replaced. The payload, and the owner's signature, stay. Whoever could read the secret before still can: rewrapping
/// does not revoke.
///
/// # Errors
/// [`SealError::Rewrap`] if the identity is not one that the owner has signed; others as of [`seal`].
pub fn rewrap(
    object: &AuthenticObject,
    opened: &OpenedKey,
    recipient: &Recipient<'_>,
    signer: Option<&dyn Signer>,
    now: u64,
    random: &dyn Random,
) -> Result<SealedObject, SealError> {
    let mut object = object.object().clone();
    let params = recipient.params.params();
    recipient.params.check_time(now)?;
    let identity = Identity::new(&object.tenant, &params.keyset, recipient.policy, recipient.label)?;
    let listed = object.identities.binary_search(identity.digest()).is_ok();
    if !listed || params.tenant != object.tenant || opened.oid() != &object.oid {
        return Err(SealError::Rewrap);
    }
    let site_key = if object.post_quantum { Some(site_key(recipient)?) } else { None };
    let (oid, commitment) = (object.oid, object.file_commitment);
    let mut stanza = wrap(recipient, site_key, &identity, opened.file_key(), &oid, &commitment, random)?;
    if let Some(signer) = signer {
        stanza.signature = Some(sign(signer, &stanza.message(&oid))?);
    } else if object.signature.is_some() {
        // Nobody would open it.
        return Err(SealError::Rewrap);
    }
    let old = |other: &Stanza| other.identity(&object.tenant).is_ok_and(|other| other == identity);
    object.stanzas.retain(|other| !old(other));
    object.stanzas.push(stanza);
    Ok(object)
}

/// U = r·G, the shared element e(r·Y, Q), and the file key under what is derived of it. Every stanza has an r of its own.
fn wrap(
    recipient: &Recipient<'_>,
    site_key: Option<&SiteKey>,
    identity: &Identity,
    file_key: &FileKey,
    oid: &[u8; 32],
    file_commitment: &Digest,
    random: &dyn Random,
) -> Result<Stanza, SealError> {
    let params = recipient.params.params();
    let r = file_key.ephemeral(identity, random);
    let point = G1Point::generator().times(&r).ok_or(SealError::Library)?;
    let prepared = identity.point()?.prepare();
    let shared = pair_multiple(&params.key, &r, &prepared).ok_or(SealError::Library)?;
    let mut post_quantum = None;
    let mut half = None;
    if let Some(site_key) = site_key {
        let (ciphertext, secret) = site_key.key().encapsulate().map_err(|_| SealError::Library)?;
        let ciphertext: Box<[u8; _]> = ciphertext.try_into().map_err(|_| SealError::Library)?;
        post_quantum = Some(PostQuantum { site_key: site_key.id, ciphertext });
        half = Some((site_key, secret));
    }
    let hybrid = half.as_ref().zip(post_quantum.as_ref()).map(|((site_key, secret), transport)| Hybrid {
        secret: secret_of(secret),
        public_key: site_key.bytes(),
        ciphertext: &transport.ciphertext,
    });
    let key = StanzaKey::new(&shared, hybrid.as_ref(), identity);
    let wrapped = key.wrap(file_key, oid, file_commitment).map_err(|_| SealError::Library)?;
    Ok(Stanza {
        keyset: params.keyset.clone(),
        version: params.version,
        policy: recipient.policy.to_vec(),
        label: recipient.label.to_vec(),
        point,
        commitment: key.commitment,
        wrapped,
        post_quantum,
        signature: None,
    })
}

fn secret_of(secret: &Zeroizing<[u8; 32]>) -> &[u8; 32] {
    secret
}

fn site_key<'a>(recipient: &Recipient<'a>) -> Result<&'a SiteKey, SealError> {
    let keys = &recipient.params.params().site_keys;
    match (recipient.site, keys.as_slice()) {
        (Some(site), keys) => keys.iter().rev().find(|key| key.site == site),
        (None, [only]) => Some(only),
        (None, _) => None,
    }
    .ok_or(SealError::NoSiteKey)
}

fn check_public(public: &PublicData, now: u64) -> Result<(), SealError> {
    if public.name.is_empty() {
        return Err(FormatError::Malformed("name").into());
    }
    if public.name.len() > MAX_NAME || public.purpose.len() > MAX_PURPOSE {
        return Err(FormatError::TooLong("name or purpose").into());
    }
    if public.not_after.is_some_and(|end| end <= now) { Err(SealError::Expired) } else { Ok(()) }
}

impl From<GroupError> for SealError {
    fn from(_: GroupError) -> Self {
        Self::Library
    }
}

impl SealError {
    /// The stable code of this error.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Recipients => "sealing.recipients-refused",
            Self::Params(error) => error.code(),
            Self::Format(error) => error.code(),
            Self::TooLong => "sealing.secret-too-long",
            Self::Expired => "sealing.secret-expired",
            Self::NoSiteKey => "sealing.site-key-missing",
            Self::Rewrap => "sealing.rewrap-refused",
            Self::Signer(error) => error.code(),
            Self::Library => "sealing.library-refused",
        }
    }

    /// What a person can do about it.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Recipients => "name each policy and label once, with parameters of one tenant",
            Self::Params(error) => error.hint(),
            Self::Format(_) => "shorten it; a policy has at most 8 KiB, a label 256 bytes",
            Self::TooLong => "seal a key, and encrypt the bulk with that",
            Self::Expired => "give an end that lies in the future",
            Self::NoSiteKey => {
                "name a site of the parameters, have its key added to them, or say that no quantum computer will matter"
            }
            Self::Rewrap => {
                "a new policy or label needs a new seal by the owner; rewrap signs with a delegated key"
            }
            Self::Signer(_) => "check the key that signs: Ed25519, or ECDSA on P-256 or P-384",
            Self::Library => "try again; if it persists, the machine or its memory is at fault",
        }
    }
}
