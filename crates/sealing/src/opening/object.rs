//! What is checked of an object before anybody is asked, and after its key was opened.

use zeroize::Zeroizing;

use crate::document::FormatError;
use crate::kem::FileKey;
use crate::object::SealedObject;
use crate::owner::{Owner, Purpose};
use crate::payload::decrypt;

/// What a client demands of an object.
#[derive(Clone, Copy, Debug)]
pub struct Acceptance<'a> {
    /// Whose signature.
    pub owner: &'a Owner,
    /// The name that was asked for.
    pub name: &'a str,
    /// The highest serial of this name that was seen here. Whoever opens keeps it.
    pub min_serial: u64,
    /// Also take an object that nobody has signed: whoever can write where it lies has perhaps written it.
    pub unsigned: bool,
}

/// An object whose owner has signed it and every way to its key.
#[derive(Clone, Debug)]
pub struct AuthenticObject(SealedObject);

/// The key of one object.
#[derive(Debug)]
pub struct OpenedKey {
    oid: [u8; 32],
    key: FileKey,
}

/// Why a secret does not open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// It is over.
    #[error("the secret has expired")]
    Expired,
    /// The stanza holds another key than the object says.
    #[error("the stanza does not hold the key of this object")]
    FileKey,
    /// Lengths of a stanza that was not decoded.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// Another name, or another tenant's.
    #[error("the object is not the secret that was asked for")]
    Name,
    /// There is no such stanza.
    #[error("the object has no such stanza")]
    NoStanza,
    /// An answer to another question, or a second one.
    #[error("the answer was not asked for")]
    NotAsked,
    /// Parameters, roster or blind are of another key.
    #[error("parameters or blind are for another key or policy than the stanza")]
    OtherKey,
    /// The payload does not open with the key.
    #[error("the payload was changed")]
    Payload,
    /// An older one than one that was seen.
    #[error("a newer secret of this name was seen before")]
    Rollback,
    /// Not signed by the owner.
    #[error("the object is not signed by its owner")]
    Signature,
    /// The secret of the post-quantum half is missing, or there is no such half.
    #[error("the post-quantum half of the stanza does not fit what the site has opened")]
    SiteSecret,
    /// All answers are proven, and still do not fit.
    #[error("the stanza is damaged: every keyholder has proven its answer")]
    Stanza,
    /// A stanza for an identity that the owner has not signed, or one that nobody has signed.
    #[error("a stanza of the object is not the owner's")]
    StanzaSignature,
    /// Not signed by a member of the roster.
    #[error("the answer is not signed by a keyholder of the roster")]
    Stranger,
    /// An answer of an epoch that is not known here.
    #[error("the answer is of epoch `{0}`, of which no record is known here")]
    UnknownEpoch(u64),
}

impl AuthenticObject {
    /// Verifies the owner's signature, that of every stanza, and that each is for an identity that the owner has signed.
    ///
    /// # Errors
    /// [`OpenError`] names what is wrong. `now` is in seconds since 1970.
    pub fn verify(object: SealedObject, acceptance: &Acceptance<'_>, now: u64) -> Result<Self, OpenError> {
        let owner = acceptance.owner;
        if object.tenant != *owner.tenant() || object.public.name != acceptance.name {
            return Err(OpenError::Name);
        }
        match &object.signature {
            None if acceptance.unsigned => {}
            None => return Err(OpenError::Signature),
            Some(signature) => {
                let key = owner.key(&[Purpose::Seal], &signature.key).ok_or(OpenError::Signature)?;
                if !key.verifies(&object.message(), &signature.value) {
                    return Err(OpenError::Signature);
                }
            }
        }
        for stanza in &object.stanzas {
            let identity = stanza.identity(&object.tenant)?;
            let listed = object.identities.binary_search(identity.digest()).is_ok();
            let whole = !object.post_quantum || stanza.post_quantum.is_some();
            let signed = match &stanza.signature {
                None => object.signature.is_none(),
                Some(signature) => owner
                    .key(&[Purpose::Seal, Purpose::Rewrap], &signature.key)
                    .is_some_and(|key| key.verifies(&stanza.message(&object.oid), &signature.value)),
            };
            if !(listed && whole && signed) {
                return Err(OpenError::StanzaSignature);
            }
        }
        if object.serial < acceptance.min_serial {
            return Err(OpenError::Rollback);
        }
        if object.public.not_after.is_some_and(|end| now >= end) {
            return Err(OpenError::Expired);
        }
        Ok(Self(object))
    }

    /// The object.
    #[must_use]
    pub fn object(&self) -> &SealedObject {
        &self.0
    }

    /// The secret.
    ///
    /// # Errors
    /// [`OpenError::FileKey`] for the key of another object; [`OpenError::Payload`] if the payload was changed.
    pub fn secret(&self, opened: &OpenedKey) -> Result<Zeroizing<Vec<u8>>, OpenError> {
        if opened.oid != self.0.oid || !opened.key.is_committed(&self.0.file_commitment) {
            return Err(OpenError::FileKey);
        }
        decrypt(&opened.key, &self.0.payload_aad(), &self.0.payload).map_err(|_| OpenError::Payload)
    }
}

impl OpenedKey {
    pub(super) fn new(key: FileKey, object: &SealedObject) -> Result<Self, OpenError> {
        if !key.is_committed(&object.file_commitment) {
            return Err(OpenError::FileKey);
        }
        Ok(Self { oid: object.oid, key })
    }

    pub(crate) fn oid(&self) -> &[u8; 32] {
        &self.oid
    }

    pub(crate) fn file_key(&self) -> &FileKey {
        &self.key
    }
}

impl OpenError {
    /// The stable code of this error.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::Expired => "sealing.secret-expired",
            Self::FileKey => "sealing.file-key-mismatch",
            Self::Format(error) => error.code(),
            Self::Name => "sealing.other-secret",
            Self::NoStanza => "sealing.no-stanza",
            Self::NotAsked => "sealing.answer-not-asked",
            Self::OtherKey => "sealing.other-key",
            Self::Payload => "sealing.payload-changed",
            Self::Rollback => "sealing.rollback",
            Self::Signature => "sealing.owner-signature",
            Self::SiteSecret => "sealing.site-secret",
            Self::Stanza => "sealing.stanza-damaged",
            Self::StanzaSignature => "sealing.stanza-signature",
            Self::Stranger => "sealing.answer-unsigned",
            Self::UnknownEpoch(_) => "sealing.epoch-unknown",
        }
    }

    /// What a person can do about it.
    #[must_use]
    pub const fn hint(self) -> &'static str {
        match self {
            Self::Expired | Self::Rollback => "get the newest one from the owner",
            Self::FileKey | Self::Payload | Self::Stanza => {
                "get the object again; this one was damaged, or made so"
            }
            Self::Format(error) => error.hint(),
            Self::Name => "check the name, and whose secret it is",
            Self::NoStanza => "choose one that `bonafide secret inspect` shows",
            Self::NotAsked | Self::Stranger => "another keyholder is asked; look at the one that sent this",
            Self::OtherKey => "use the parameters of the keyset and version that the stanza names",
            Self::Signature => "do not use it: somebody else may have put it there",
            Self::SiteSecret => "open it at the site that it was sealed for",
            Self::StanzaSignature => "do not use it: somebody has added a stanza, or exchanged one",
            Self::UnknownEpoch(_) => "get the newest epoch record; the keyholders have changed their shares",
        }
    }
}
