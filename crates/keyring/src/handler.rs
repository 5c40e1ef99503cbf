//! What else is done where the live keys are, by code that this crate does not know: a function of bytes, with the keyring at
//! hand.

use std::fmt::Debug;

use bonafide_crypto::erased::Erased;
use bonafide_crypto::key::{KeyAlgorithm, PublicKey};
use bonafide_crypto::random::Random;

use crate::{DeviceAccess, ExternalKey, Keyring, KeyringError};

/// The longest request to a handler, and the longest answer of one.
pub const MAX_HANDLED: usize = 2 * 1024 * 1024 + 4096;

/// Answers requests in the process that holds the keyring. Several threads call it at a time.
pub trait Handler: Debug + Send + Sync {
    /// What the names of all begin with that it wraps: it can't open anything else of the keyring's.
    fn prefix(&self) -> &'static str;

    /// Answers one request, with at most [`MAX_HANDLED`] bytes. Requests come from the server, which may be an attacker's:
    /// nothing may leave that must not.
    fn answer(&self, wrapping: &Wrapping<'_>, request: &[u8]) -> Erased;
}

/// The keyring, and the device, as far as a handler may use them.
#[derive(Debug)]
pub struct Wrapping<'a> {
    keyring: &'a Keyring,
    device: &'a DeviceAccess,
    random: &'a dyn Random,
    prefix: &'static str,
}

impl<'a> Wrapping<'a> {
    pub(crate) fn new(
        keyring: &'a Keyring,
        device: &'a DeviceAccess,
        random: &'a dyn Random,
        handler: &dyn Handler,
    ) -> Self {
        Self { keyring, device, random, prefix: handler.prefix() }
    }

    /// As [`Keyring::wrap`].
    ///
    /// # Errors
    /// [`KeyringError::Unwrap`] for a context that does not begin with [`Handler::prefix`].
    pub fn wrap(&self, context: &str, secret: &[u8]) -> Result<Vec<u8>, KeyringError> {
        self.check(context)?;
        Ok(self.keyring.wrap(context, secret, self.random))
    }

    /// As [`Keyring::unwrap`].
    ///
    /// # Errors
    /// As there; [`KeyringError::Unwrap`] for a context that does not begin with [`Handler::prefix`], too.
    pub fn unwrap(&self, context: &str, wrapped: &[u8]) -> Result<Erased, KeyringError> {
        self.check(context)?;
        self.keyring.unwrap(context, wrapped).map(Erased::from)
    }

    /// Draws a key pair in the device, called by `context` there.
    ///
    /// # Errors
    /// As [`Self::wrap`]; [`KeyringError::NoDevice`], and those of the device.
    pub fn draw(&self, context: &str, algorithm: KeyAlgorithm) -> Result<ExternalKey, KeyringError> {
        self.check(context)?;
        self.device.get()?.draw_external(context, algorithm, self.random)
    }

    /// A key pair that was drawn in the device, under this name. The device is not asked yet.
    ///
    /// # Errors
    /// As [`Self::wrap`]; [`KeyringError::NoDevice`], and why a device that is configured can't be used.
    pub fn external(&self, context: &str, public: PublicKey) -> Result<ExternalKey, KeyringError> {
        self.check(context)?;
        Ok(self.device.get()?.external(context, public))
    }

    fn check(&self, context: &str) -> Result<(), KeyringError> {
        if self.prefix.is_empty() || !context.starts_with(self.prefix) {
            return Err(KeyringError::Unwrap { context: context.to_owned() });
        }
        Ok(())
    }
}
