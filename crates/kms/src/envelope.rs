//! Encryption with a data key, where the plaintext is: what an agent and an SDK do without asking anybody.
//!
//! The ciphertext carries the wrapped data key, so whoever may decrypt finds all he needs in it. The data key is bound to key,
//! version and context when it is wrapped, and what is encrypted under it once more.

use std::fmt;

use bonafide_crypto::cipher::TAG;
use bonafide_crypto::kept::KeptKey;
use bonafide_crypto::random::Random;
use bonafide_crypto::xaes::NONCE_256;
use zeroize::Zeroizing;

use crate::algorithm::KeyType;
use crate::ciphertext::{AAD, EnvelopeParts, HEADER, Header, KeyId, Kind, WrappedDigest};
use crate::context::ContextDigest;
use crate::error::Refusal;
use crate::material::{MAX_PLAINTEXT, WRAPPED_MAX};

/// Bytes of a data key for envelopes.
pub const DATA_KEY: usize = 32;

/// A data key in use, for one key, version and context. It lies in protected memory, can't be printed or copied, and is erased
/// when dropped.
pub struct DataKey {
    key: KeptKey,
    header: Header,
    /// Header, and the wrapped data key behind its length: the same in each ciphertext.
    prefix: Box<[u8]>,
    aad: [u8; AAD],
    digest: WrappedDigest,
}

impl DataKey {
    /// A data key with its wrapped form. Nothing here can tell whether they belong together: who lent it says so.
    ///
    /// # Errors
    /// [`Refusal::Wrapped`] if the wrapped form is empty, or longer than any is; [`Refusal::Library`] without memory for it.
    pub fn new(
        key_type: KeyType,
        key: KeyId,
        version: u32,
        context: &ContextDigest,
        data_key: &[u8; DATA_KEY],
        wrapped: &[u8],
    ) -> Result<Self, Refusal> {
        let header = Header { kind: Kind::Envelope, key_type, key, version };
        let length =
            u16::try_from(wrapped.len()).ok().filter(|_| wrapped.len() <= WRAPPED_MAX && !wrapped.is_empty());
        let length = length.ok_or(Refusal::Wrapped)?.to_be_bytes();
        Ok(Self {
            key: KeptKey::new(data_key).map_err(|_| Refusal::Library)?,
            header,
            prefix: [header.encode().as_slice(), &length, wrapped].concat().into(),
            aad: header.aad(context),
            digest: WrappedDigest::of(wrapped),
        })
    }

    /// Stands for its wrapped form.
    #[must_use]
    pub fn digest(&self) -> WrappedDigest {
        self.digest
    }

    /// What its ciphertexts begin with.
    #[must_use]
    pub fn header(&self) -> Header {
        self.header
    }

    /// Encrypts: a whole ciphertext, whose place is taken once.
    ///
    /// # Errors
    /// [`Refusal::TooLong`] above 1 MiB.
    pub fn seal(&self, plaintext: &[u8], random: &dyn Random) -> Result<Vec<u8>, Refusal> {
        if plaintext.len() > MAX_PLAINTEXT {
            return Err(Refusal::TooLong);
        }
        let mut out = Vec::with_capacity(self.prefix.len() + NONCE_256 + plaintext.len() + TAG);
        out.extend_from_slice(&self.prefix);
        let mut nonce = [0; NONCE_256];
        random.fill(&mut nonce);
        out.extend_from_slice(&nonce);
        let start = out.len();
        out.resize(start + plaintext.len() + TAG, 0);
        let sealed = out.get_mut(start..).ok_or(Refusal::Library)?;
        self.key.xaes_256().seal_into(&nonce, &self.aad, plaintext, sealed).map_err(|_| Refusal::Library)?;
        Ok(out)
    }

    /// Decrypts what lies beside the wrapped form of this very data key.
    ///
    /// # Errors
    /// [`Refusal::Ciphertext`] if it was encrypted under another one or in another context, or was changed.
    pub fn open(&self, parts: EnvelopeParts<'_>) -> Result<Zeroizing<Vec<u8>>, Refusal> {
        if self.prefix.get(HEADER + 2..) != Some(parts.wrapped) {
            return Err(Refusal::Ciphertext);
        }
        let (nonce, sealed) = parts.sealed.split_at_checked(NONCE_256).ok_or(Refusal::Ciphertext)?;
        let length = sealed.len().checked_sub(TAG).filter(|length| *length <= MAX_PLAINTEXT);
        let mut out = Zeroizing::new(vec![0; length.ok_or(Refusal::Ciphertext)?]);
        self.key.xaes_256().open_into(nonce, &self.aad, sealed, &mut out).map_err(|_| Refusal::Ciphertext)?;
        Ok(out)
    }
}

impl fmt::Debug for DataKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DataKey").field("digest", &self.digest).finish_non_exhaustive()
    }
}
