//! What the process does that holds the secrets: a batch of requests in, a batch of results out, each for itself.
//!
//! Secrets come wrapped and go wrapped. What wraps them is given for each batch ([`Wrapping`]), with a context that is made here
//! of key and version and of nothing that a caller has said. Open secrets are used by *handles*, which are never used twice.
//!
//! What leaves in the clear: plaintexts and data keys that were asked for, and keys that were declared exportable at their
//! birth, because the declaration lies inside the wrapped secret.

mod message;
mod table;

use std::fmt;
use std::sync::Arc;

use bonafide_crypto::erased::Erased;
use bonafide_crypto::key::{KeyAlgorithm, PublicKey};
use bonafide_crypto::keywrap;
use bonafide_crypto::random::Random;
use zeroize::Zeroizing;

pub use self::message::{
    Answer, MAX_ANSWER, MAX_ITEMS, MAX_REQUEST, Outcome, Request, decode_outcomes, decode_requests,
    encode_requests,
};
pub use self::table::MAX_OPEN;
use self::table::{Open, Table};
use crate::algorithm::KeyType;
use crate::ciphertext::{EnvelopeParts, Header, KeyId, Kind};
use crate::context::ContextDigest;
use crate::envelope::{DATA_KEY, DataKey};
use crate::error::Refusal;
use crate::material::{Encoded, External, Flags, MAX_SECRET, Material, Message};

/// Wraps secrets for a context, and unwraps them: the keyring.
pub trait Wrapping {
    /// Encrypts a secret, bound to a context; `None` if it can't.
    fn wrap(&self, context: &str, secret: &[u8]) -> Option<Vec<u8>>;

    /// Decrypts it; `None` if it was wrapped for another context, or was changed.
    fn unwrap(&self, context: &str, wrapped: &[u8]) -> Option<Erased>;

    /// Draws a key pair in the device, called by its context there: its public half, and what uses the private one.
    ///
    /// # Errors
    /// [`Refusal::NoDevice`], [`Refusal::Device`].
    fn draw(
        &self,
        context: &str,
        algorithm: KeyAlgorithm,
    ) -> Result<(PublicKey, Arc<dyn External>), Refusal> {
        let _ = (context, algorithm);
        Err(Refusal::NoDevice)
    }

    /// What uses the private half of a key pair that was drawn in the device. The device is not asked yet.
    ///
    /// # Errors
    /// [`Refusal::NoDevice`], [`Refusal::Device`].
    fn find(&self, context: &str, public: &PublicKey) -> Result<Arc<dyn External>, Refusal> {
        let _ = (context, public);
        Err(Refusal::NoDevice)
    }

    /// Takes a key pair out of the device for ever. That it is not there is fine.
    ///
    /// # Errors
    /// [`Refusal::NoDevice`], [`Refusal::Device`].
    fn destroy(&self, context: &str, public: &PublicKey) -> Result<(), Refusal> {
        let _ = (context, public);
        Err(Refusal::NoDevice)
    }
}

/// Open secrets, and what is done with them. Can be used by several threads.
pub struct Engine {
    table: Table,
    random: Arc<dyn Random>,
}

impl Engine {
    /// An engine without open secrets.
    #[must_use]
    pub fn new(random: Arc<dyn Random>) -> Self {
        Self { table: Table::default(), random }
    }

    /// Does a batch that [`encode_requests`] wrote, and returns what [`decode_outcomes`] reads. A batch that can't be read is
    /// refused whole: nothing of it is done.
    #[must_use]
    pub fn answer(&self, wrapping: &dyn Wrapping, batch: &[u8]) -> Erased {
        let Some(requests) = message::decode_requests(batch) else {
            return message::encode_outcomes(&[Err(Refusal::Request)]);
        };
        let mut room = MAX_ANSWER;
        let outcomes: Vec<Outcome> = requests
            .iter()
            .map(|request| {
                // Before it is done: what is done and can't be told would be lost.
                room = room.checked_sub(request.answer_bound()).ok_or(Refusal::Answer)?;
                self.one(wrapping, request)
            })
            .collect();
        message::encode_outcomes(&outcomes)
    }

    /// Does one request.
    ///
    /// # Errors
    /// [`Refusal`] says why not.
    pub fn one(&self, wrapping: &dyn Wrapping, request: &Request<'_>) -> Outcome {
        match *request {
            Request::Generate { key, version, key_type, flags } if flags.external => {
                self.born_outside(wrapping, key, version, key_type, flags)
            }
            Request::Generate { key, version, key_type, flags } => {
                let (material, encoded) = Material::generate(key_type, flags, &*self.random)?;
                self.born(wrapping, key, version, material, &encoded)
            }
            Request::Import { key, version, key_type, flags, secret } => {
                let (material, encoded) = Material::import(key_type, flags, secret)?;
                self.born(wrapping, key, version, material, &encoded)
            }
            Request::ImportSealed { key, version, key_type, flags, under, hash, sealed } => {
                let secret = self.unseal(under, hash, sealed)?;
                let (material, encoded) = Material::import(key_type, flags, &secret)?;
                self.born(wrapping, key, version, material, &encoded)
            }
            Request::Open { key, version, wrapped } => {
                let path = path(key, version);
                let encoded = wrapping.unwrap(&path, wrapped).ok_or(Refusal::Wrapped)?;
                let material = Material::decode(&encoded, |public| wrapping.find(&path, public))?;
                self.keep(key, version, material, Vec::new())
            }
            Request::Destroy { key, version, wrapped } => {
                let path = path(key, version);
                let encoded = wrapping.unwrap(&path, wrapped).ok_or(Refusal::Wrapped)?;
                let mut named = None;
                let find = |public: &PublicKey| {
                    named = Some(public.clone());
                    Err(Refusal::NoDevice)
                };
                Material::decode(&encoded, find)?;
                wrapping.destroy(&path, &named.ok_or(Refusal::Unfit)?).map(|()| Answer::Done)
            }
            Request::WrapAgain { key, version, wrapped } => {
                let path = path(key, version);
                let encoded = wrapping.unwrap(&path, wrapped).ok_or(Refusal::Wrapped)?;
                wrapping.wrap(&path, &encoded).map(Answer::bytes).ok_or(Refusal::Wrapped)
            }
            Request::Forget { handle } => {
                self.table.forget(handle);
                Ok(Answer::Done)
            }
            Request::Encrypt { handle, context, plaintext } => {
                let open = self.table.get(handle)?;
                self.encrypt(&open, Kind::Direct, &context, plaintext).map(Answer::bytes)
            }
            Request::Decrypt { handle, context, kind, body } => {
                let open = self.table.get(handle)?;
                decrypt(&open, kind, &context, body).map(Answer::Bytes)
            }
            Request::OpenForeign { handle, hash, label, ciphertext } => {
                self.table.get(handle)?.material.open_foreign(hash, label, ciphertext).map(Answer::Bytes)
            }
            Request::Rewrap { handle, to, context, kind, body } => {
                let plaintext = decrypt(&*self.table.get(handle)?, kind, &context, body)?;
                let to = self.table.get(to)?;
                match kind {
                    Kind::Envelope => self.envelope(&to, &context, &plaintext),
                    _ => self.encrypt(&to, kind, &context, &plaintext),
                }
                .map(Answer::bytes)
            }
            Request::Mac { handle, message } => {
                self.table.get(handle)?.material.mac(message).map(Answer::bytes)
            }
            Request::VerifyMac { handle, message, tag } => {
                self.table.get(handle)?.material.verify_mac(message, tag).map(|()| Answer::Done)
            }
            Request::Sign { handle, scheme, prehashed, message } => {
                let message = if prehashed { Message::Digest(message) } else { Message::Whole(message) };
                self.table.get(handle)?.material.sign(scheme, message).map(Answer::bytes)
            }
            Request::Verify { handle, scheme, prehashed, message, signature } => {
                let message = if prehashed { Message::Digest(message) } else { Message::Whole(message) };
                self.table.get(handle)?.material.verify(scheme, message, signature).map(|()| Answer::Done)
            }
            Request::DataKey { handle, context, length, plaintext } => {
                let open = self.table.get(handle)?;
                let mut drawn = Erased::new(vec![0; usize::from(length)]);
                self.random.fill(&mut drawn);
                let wrapped = self.encrypt(&open, Kind::DataKey, &context, &drawn)?;
                Ok(Answer::DataKey { plaintext: plaintext.then_some(drawn), wrapped })
            }
            Request::Export { handle } => {
                let open = self.table.get(handle)?;
                Ok(Answer::Bytes(Erased::new(open.material.export()?.to_vec())))
            }
        }
    }

    /// How many secrets are open.
    #[must_use]
    pub fn open(&self) -> usize {
        self.table.len()
    }

    fn born(
        &self,
        wrapping: &dyn Wrapping,
        key: KeyId,
        version: u32,
        material: Material,
        encoded: &Encoded,
    ) -> Outcome {
        let wrapped = wrapping.wrap(&path(key, version), encoded.expose()).ok_or(Refusal::Wrapped)?;
        self.keep(key, version, material, wrapped)
    }

    /// As [`Self::born`], in the device.
    fn born_outside(
        &self,
        wrapping: &dyn Wrapping,
        key: KeyId,
        version: u32,
        key_type: KeyType,
        flags: Flags,
    ) -> Outcome {
        if flags.exportable || flags.convergent || !key_type.can_be_external() {
            return Err(Refusal::Unfit);
        }
        let algorithm = key_type.classic().ok_or(Refusal::Unfit)?;
        let path = path(key, version);
        let (public, private) = wrapping.draw(&path, algorithm)?;
        let born = Material::external(key_type, flags, public.clone(), Ok(private))
            .and_then(|(material, encoded)| self.born(wrapping, key, version, material, &encoded));
        if born.is_err() {
            // Nobody would ever find it again.
            let _ = wrapping.destroy(&path, &public);
        }
        born
    }

    fn keep(&self, key: KeyId, version: u32, material: Material, wrapped: Vec<u8>) -> Outcome {
        let (key_type, flags) = (material.key_type(), material.flags());
        let public = material.public_spki().unwrap_or_default();
        let handle = self.table.keep(Open { key, version, material })?;
        Ok(Answer::Opened { handle, key_type, flags, public, wrapped })
    }

    fn encrypt(
        &self,
        open: &Open,
        kind: Kind,
        context: &ContextDigest,
        plaintext: &[u8],
    ) -> Result<Vec<u8>, Refusal> {
        let mut body = Vec::new();
        let aad = open.header(kind).aad(context);
        open.material.encrypt_into(&aad, plaintext, &*self.random, &mut body)?;
        Ok(body)
    }

    /// The body of an envelope, with a data key of its own.
    fn envelope(&self, open: &Open, context: &ContextDigest, plaintext: &[u8]) -> Result<Vec<u8>, Refusal> {
        let mut drawn = Zeroizing::new([0; DATA_KEY]);
        self.random.fill(&mut *drawn);
        let wrapped = self.encrypt(open, Kind::DataKey, context, &*drawn)?;
        let Header { key_type, key, version, .. } = open.header(Kind::Envelope);
        let whole = DataKey::new(key_type, key, version, context, &drawn, &wrapped)?
            .seal(plaintext, &*self.random)?;
        whole.get(crate::ciphertext::HEADER..).map(<[u8]>::to_vec).ok_or(Refusal::Library)
    }

    /// RSA-OAEP of an AES key, and a secret wrapped under that (RFC 5649).
    fn unseal(
        &self,
        under: u32,
        hash: bonafide_crypto::oaep::OaepHash,
        sealed: &[u8],
    ) -> Result<Erased, Refusal> {
        let open = self.table.get(under)?;
        let length = open.material.body_length(0);
        let (key, wrapped) = sealed.split_at_checked(length).filter(|_| length > 0).ok_or(Refusal::Import)?;
        let key = open.material.open_foreign(hash, b"", key).map_err(|refusal| match refusal {
            Refusal::Ciphertext => Refusal::Import,
            other => other,
        })?;
        let key = key.as_slice().try_into().map_err(|_| Refusal::Import)?;
        keywrap::unwrap(key, wrapped, MAX_SECRET).map(Erased::from).map_err(|_| Refusal::Import)
    }
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine").field("open", &self.open()).finish_non_exhaustive()
    }
}

/// The context that the secret of a version is wrapped for.
#[must_use]
pub fn path(key: KeyId, version: u32) -> String {
    format!("kms/{key}/{version}")
}

fn decrypt(open: &Open, kind: Kind, context: &ContextDigest, body: &[u8]) -> Result<Erased, Refusal> {
    match kind {
        Kind::Direct | Kind::DataKey => open.material.decrypt(&open.header(kind).aad(context), body),
        Kind::Envelope => {
            let parts = EnvelopeParts::decode(body).ok_or(Refusal::Ciphertext)?;
            let data_key = open.material.decrypt(&open.header(Kind::DataKey).aad(context), parts.wrapped)?;
            let data_key = data_key.as_slice().try_into().map_err(|_| Refusal::Ciphertext)?;
            let Header { key_type, key, version, .. } = open.header(kind);
            DataKey::new(key_type, key, version, context, data_key, parts.wrapped)?
                .open(parts)
                .map(Erased::from)
        }
        Kind::Signature | Kind::Mac => Err(Refusal::Unfit),
    }
}
