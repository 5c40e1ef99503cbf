//! Private keys in use.

use std::fmt::{self, Debug, Write as _};
use std::sync::Arc;

use bonafide_crypto::erased::Erased;
use bonafide_crypto::key::{KeyAlgorithm, PrivateKey, PublicKey, Signer};
use bonafide_crypto::{mac::MacKey, random::Random};

use crate::handler::MAX_HANDLED;
use crate::{DeviceAccess, Handler, Keyring, KeyringError, Wrapping};

/// Precedes the public half of a key that is in a device. PKCS#8 begins with another byte.
const IN_DEVICE: &[u8] = b"bonafide key in a device v1\n";

/// Holds live private keys: draws them, opens wrapped ones, and signs with them. Every call may block.
pub trait LiveKeys: Debug + Send + Sync {
    /// Draws a key and wraps it for the context `prefix` + its key ID in hexadecimal digits.
    ///
    /// # Errors
    /// When no key can be drawn, and when the keys are out of reach.
    fn generate(&self, spec: KeySpec, prefix: &str) -> Result<NewKey, KeyringError>;

    /// Wraps a key that was made elsewhere, in PKCS#8 without encryption, for a context.
    ///
    /// # Errors
    /// When it is no key, and when the keys are out of reach.
    fn import(&self, context: &str, pkcs8: &[u8]) -> Result<NewKey, KeyringError>;

    /// Opens a wrapped key. It signs until it is dropped.
    ///
    /// # Errors
    /// As [`Keyring::unwrap`]; when it is no key, and when the keys are out of reach.
    fn open(&self, context: &str, wrapped: &[u8]) -> Result<Arc<dyn Signer>, KeyringError>;

    /// As [`Keyring::mac_key`].
    ///
    /// # Errors
    /// When the keys are out of reach.
    fn mac_key(&self, purpose: &str) -> Result<MacKey, KeyringError>;

    /// Asks the [`Handler`] that lives beside the keys, one or more requests at a time. There may be fewer answers than requests,
    /// but one at least: the rest was not looked at, and is to be asked again.
    ///
    /// # Errors
    /// [`KeyringError::NoHandler`] if there is none; when the keys are out of reach.
    fn handle(&self, requests: &[&[u8]]) -> Result<Vec<Erased>, KeyringError>;
}

/// What key to draw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeySpec {
    /// Its kind.
    pub algorithm: KeyAlgorithm,
    /// Whether it is drawn in the device, and stays there.
    pub in_device: bool,
}

/// A key that was just drawn.
#[derive(Debug)]
pub struct NewKey {
    /// Signs with it.
    pub signer: Arc<dyn Signer>,
    /// What to store.
    pub wrapped: Vec<u8>,
}

/// Live keys in this process: in the worker, and in tests.
pub struct LocalKeys {
    keyring: Keyring,
    device: DeviceAccess,
    random: Arc<dyn Random>,
    handler: Option<Arc<dyn Handler>>,
}

impl LocalKeys {
    /// Keys under an open keyring.
    #[must_use]
    pub fn new(keyring: Keyring, random: Arc<dyn Random>) -> Self {
        Self { keyring, device: DeviceAccess::None, random, handler: None }
    }

    /// With a device for the keys that shall be in one.
    #[must_use]
    pub fn with_device(self, device: DeviceAccess) -> Self {
        Self { device, ..self }
    }

    /// With what else is to be done where the keys are.
    #[must_use]
    pub fn with_handler(self, handler: Arc<dyn Handler>) -> Self {
        Self { handler: Some(handler), ..self }
    }

    pub(crate) fn keyring(&self) -> &Keyring {
        &self.keyring
    }

    pub(crate) fn handle_one(&self, request: &[u8]) -> Result<Erased, KeyringError> {
        let handler = &**self.handler.as_ref().ok_or(KeyringError::NoHandler)?;
        let answer =
            handler.answer(&Wrapping::new(&self.keyring, &self.device, &*self.random, handler), request);
        if answer.len() > MAX_HANDLED {
            return Err(KeyringError::WorkerProtocol("an answer that is too large"));
        }
        Ok(answer)
    }
}

impl LiveKeys for LocalKeys {
    fn generate(&self, spec: KeySpec, prefix: &str) -> Result<NewKey, KeyringError> {
        if spec.in_device {
            let device = self.device.get()?;
            let signer = device.generate(spec.algorithm, &*self.random)?;
            let context = context(prefix, signer.public_key());
            // What is wrapped is no secret, but nobody else may say which key of the device signs.
            let reference = [IN_DEVICE, signer.public_key().spki_der()].concat();
            return Ok(NewKey { wrapped: self.keyring.wrap(&context, &reference, &*self.random), signer });
        }
        let key = PrivateKey::generate(spec.algorithm)?;
        let context = context(prefix, key.public_key());
        let wrapped = self.keyring.wrap(&context, &key.to_pkcs8_der(), &*self.random);
        Ok(NewKey { signer: Arc::new(key), wrapped })
    }

    fn import(&self, context: &str, pkcs8: &[u8]) -> Result<NewKey, KeyringError> {
        let key = PrivateKey::from_pkcs8_der(pkcs8)?;
        // Written anew: what was read may hold more than a key.
        let wrapped = self.keyring.wrap(context, &key.to_pkcs8_der(), &*self.random);
        Ok(NewKey { signer: Arc::new(key), wrapped })
    }

    fn open(&self, context: &str, wrapped: &[u8]) -> Result<Arc<dyn Signer>, KeyringError> {
        let pkcs8 = self.keyring.unwrap(context, wrapped)?;
        if let Some(spki) = pkcs8.strip_prefix(IN_DEVICE) {
            return self.device.get()?.find(PublicKey::from_spki_der(spki)?);
        }
        Ok(Arc::new(PrivateKey::from_pkcs8_der(&pkcs8)?))
    }

    fn mac_key(&self, purpose: &str) -> Result<MacKey, KeyringError> {
        Ok(self.keyring.mac_key(purpose))
    }

    fn handle(&self, requests: &[&[u8]]) -> Result<Vec<Erased>, KeyringError> {
        requests.iter().map(|request| self.handle_one(request)).collect()
    }
}

impl Debug for LocalKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalKeys").field("keyring", &self.keyring).finish_non_exhaustive()
    }
}

/// The context of a key: it opens under no other name.
fn context(prefix: &str, key: &PublicKey) -> String {
    let mut context = prefix.to_owned();
    for byte in key.key_id() {
        // Writing to a string does not fail.
        let _ = write!(context, "{byte:02x}");
    }
    context
}
