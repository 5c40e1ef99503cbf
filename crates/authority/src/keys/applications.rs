//! Where the two meet that do not know each other: the keyring's worker, and the engine of applications' keys.

use std::sync::Arc;

use bonafide_crypto::erased::Erased;
use bonafide_crypto::key::{KeyAlgorithm, PublicKey, SignatureAlgorithm};
use bonafide_crypto::oaep::OaepHash;
use bonafide_crypto::random::Random;
use bonafide_keyring::{ExternalKey, Handler, KeyringError, Wrapping};
use bonafide_kms::engine::Engine;
use bonafide_kms::error::Refusal;
use bonafide_kms::material::{External, Message};

/// The engine, as something that lives beside the keys of the authority.
#[derive(Debug)]
struct Applications(Engine);

/// What a key worker is started with, so that it holds applications' keys too.
#[must_use]
pub fn application_keys(random: Arc<dyn Random>) -> Arc<dyn Handler> {
    Arc::new(Applications(Engine::new(random)))
}

impl Handler for Applications {
    fn prefix(&self) -> &'static str {
        "kms/"
    }

    fn answer(&self, wrapping: &Wrapping<'_>, request: &[u8]) -> Erased {
        self.0.answer(&Keyring(wrapping), request)
    }
}

struct Keyring<'a>(&'a Wrapping<'a>);

impl bonafide_kms::engine::Wrapping for Keyring<'_> {
    fn wrap(&self, context: &str, secret: &[u8]) -> Option<Vec<u8>> {
        self.0.wrap(context, secret).ok()
    }

    fn unwrap(&self, context: &str, wrapped: &[u8]) -> Option<Erased> {
        self.0.unwrap(context, wrapped).ok()
    }

    fn draw(
        &self,
        context: &str,
        algorithm: KeyAlgorithm,
    ) -> Result<(PublicKey, Arc<dyn External>), Refusal> {
        let key = self.0.draw(context, algorithm).map_err(refusal)?;
        Ok((key.public_key().clone(), Arc::new(InDevice(key))))
    }

    fn find(&self, context: &str, public: &PublicKey) -> Result<Arc<dyn External>, Refusal> {
        let key = self.0.external(context, public.clone()).map_err(refusal)?;
        Ok(Arc::new(InDevice(key)))
    }

    fn destroy(&self, context: &str, public: &PublicKey) -> Result<(), Refusal> {
        self.0.external(context, public.clone()).and_then(|key| key.destroy()).map_err(refusal)
    }
}

/// A private half in the keyring's device.
#[derive(Debug)]
struct InDevice(ExternalKey);

impl External for InDevice {
    fn sign(&self, algorithm: SignatureAlgorithm, message: Message<'_>) -> Result<Vec<u8>, Refusal> {
        match message {
            Message::Whole(message) => self.0.sign(algorithm, message),
            Message::Digest(digest) => self.0.sign_digest(algorithm, digest),
        }
        .map_err(refusal)
    }

    fn decrypt(&self, hash: OaepHash, label: &[u8], ciphertext: &[u8]) -> Result<Erased, Refusal> {
        self.0.decrypt(hash, label, ciphertext).map_err(refusal)?.map(Erased::from).ok_or(Refusal::Ciphertext)
    }
}

/// What a caller hears of a device. Its own words stay in the process of the keys.
#[expect(clippy::needless_pass_by_value, reason = "for `map_err`")]
fn refusal(error: KeyringError) -> Refusal {
    match error {
        KeyringError::DeviceAlgorithm(_) => Refusal::Unfit,
        KeyringError::NoDevice => Refusal::NoDevice,
        KeyringError::Unwrap { .. } => Refusal::Wrapped,
        _ => Refusal::Device,
    }
}
