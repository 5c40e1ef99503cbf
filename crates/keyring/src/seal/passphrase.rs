//! A seal whose secret is a passphrase.

use std::fmt;

use argon2::{Algorithm, Argon2, Params, Version};
use bonafide_crypto::{aead::AeadKey, random::Random};
use bonafide_secmem::SecretBytes;
use zeroize::Zeroizing;

use super::{Seal, root};
use crate::{KeyringError, codec::Input};

const KIND: &str = "passphrase";
const CONTEXT: &[u8] = b"bonafide seal v1 passphrase";
const SALT: usize = 16;
const HEADER: usize = 12 + SALT;

/// What one guess at a passphrase costs (Argon2id, RFC 9106).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct PassphraseCost {
    /// Memory in KiB: 8 MiB to 1 GiB.
    pub memory: u32,
    /// Passes over the memory: 1 to 16.
    pub passes: u32,
    /// Lanes: 1 to 8.
    pub lanes: u32,
}

impl PassphraseCost {
    /// What the bounds allow. They hold for what is read from a file too: no file makes a server take 4 TiB, and
    /// none makes a passphrase cheap to guess.
    const fn is_allowed(self) -> bool {
        self.memory >= 8 * 1024
            && self.memory <= 1024 * 1024
            && self.passes >= 1
            && self.passes <= 16
            && self.lanes >= 1
            && self.lanes <= 8
    }
}

impl Default for PassphraseCost {
    /// The second recommendation of RFC 9106 section 4: 64 MiB, three passes, four lanes.
    fn default() -> Self {
        Self { memory: 64 * 1024, passes: 3, lanes: 4 }
    }
}

/// A seal whose secret is a passphrase. Costs are stored beside what is sealed, so that they can grow.
pub struct PassphraseSeal {
    passphrase: SecretBytes,
    cost: PassphraseCost,
}

impl PassphraseSeal {
    /// With the default cost for what is sealed from now on.
    #[must_use]
    pub fn new(passphrase: SecretBytes) -> Self {
        Self { passphrase, cost: PassphraseCost::default() }
    }

    /// With another cost for what is sealed from now on, such as on a small device.
    #[must_use]
    pub fn with_cost(self, cost: PassphraseCost) -> Self {
        Self { cost, ..self }
    }

    fn key(&self, cost: PassphraseCost, salt: &[u8]) -> Option<AeadKey> {
        if !cost.is_allowed() {
            return None;
        }
        let parameters = Params::new(cost.memory, cost.passes, cost.lanes, Some(32)).ok()?;
        let mut key = Zeroizing::new([0; 32]);
        Argon2::new(Algorithm::Argon2id, Version::V0x13, parameters)
            .hash_password_into(self.passphrase.expose(), salt, key.as_mut())
            .ok()?;
        Some(AeadKey::from_bytes(&key))
    }
}

impl Seal for PassphraseSeal {
    fn kind(&self) -> &'static str {
        KIND
    }

    fn seal(&self, root: &SecretBytes, random: &dyn Random) -> Result<Vec<u8>, KeyringError> {
        let salt: [u8; SALT] = random.array();
        let mut sealed = Vec::with_capacity(128);
        for number in [self.cost.memory, self.cost.passes, self.cost.lanes] {
            sealed.extend_from_slice(&number.to_be_bytes());
        }
        sealed.extend_from_slice(&salt);
        let key = self.key(self.cost, &salt).ok_or(KeyringError::Memory)?;
        let aad = [CONTEXT, sealed.as_slice()].concat();
        sealed.extend(key.seal(&aad, root.expose(), random));
        Ok(sealed)
    }

    fn unseal(&self, sealed: &[u8]) -> Result<SecretBytes, KeyringError> {
        let (header, body) = sealed.split_at_checked(HEADER).ok_or(KeyringError::WrongSeal(KIND))?;
        let mut input = Input(header);
        let opened = (|| {
            let cost =
                PassphraseCost { memory: input.number()?, passes: input.number()?, lanes: input.number()? };
            self.key(cost, input.0)?.open(&[CONTEXT, header].concat(), body).ok()
        })();
        root(&opened.ok_or(KeyringError::WrongSeal(KIND))?, KIND)
    }
}

impl fmt::Debug for PassphraseSeal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PassphraseSeal").field("cost", &self.cost).finish_non_exhaustive()
    }
}
