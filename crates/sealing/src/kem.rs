//! From a shared element of the target group to the keys of a stanza.

use bonafide_crypto::aead::Unsealable;
use bonafide_crypto::cipher::{Cipher, CipherKey, NONCE};
use bonafide_crypto::digest::sha256;
use bonafide_crypto::kdf::hkdf_sha256_parts;
use bonafide_crypto::mlkem;
use bonafide_crypto::random::Random;
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

use crate::document::{Digest, framed};
use crate::group::{Gt, Scalar};
use crate::identity::Identity;

/// Bytes of a wrapped file key.
pub const WRAPPED: usize = 48;

const SALT: &[u8] = b"BBF-V01-CS02 kem";

/// The key that a payload is encrypted with, and that each stanza wraps. New for every payload.
pub(crate) struct FileKey(Zeroizing<[u8; 32]>);

/// The post-quantum half: the secret, and what it was transported with.
pub(crate) struct Hybrid<'a> {
    pub(crate) secret: &'a [u8; mlkem::SECRET],
    pub(crate) public_key: &'a [u8; mlkem::PUBLIC],
    pub(crate) ciphertext: &'a [u8; mlkem::CIPHERTEXT],
}

/// What wraps a file key.
pub(crate) struct StanzaKey {
    key: Zeroizing<[u8; 32]>,
    /// Commits to the shared element: there is one key that belongs to it.
    pub(crate) commitment: Digest,
}

impl FileKey {
    /// A key for this secret. Even with a generator that repeats itself (a cloned machine), another secret, name or policy has
    /// another key.
    pub(crate) fn hedged(secret: &[u8], identities: &[Digest], public: &[u8], random: &dyn Random) -> Self {
        let seed = Zeroizing::new(random.array::<32>());
        let context = framed(&[identities.as_flattened(), public]);
        Self(hkdf_sha256_parts(secret, seed.as_slice(), &[b"FK", &context]))
    }

    /// What an object says about its key. AES-GCM alone does not commit to one.
    pub(crate) fn commitment(&self) -> Digest {
        *hkdf_sha256_parts(self.0.as_slice(), &[], &[b"fk-commit"])
    }

    pub(crate) fn payload_key(&self) -> Zeroizing<[u8; 32]> {
        hkdf_sha256_parts(self.0.as_slice(), &[], &[b"payload"])
    }

    /// The secret number of a stanza, fresh for each. The file key stands for the secret in it, as of which it was derived.
    pub(crate) fn ephemeral(&self, identity: &Identity, random: &dyn Random) -> Scalar {
        let seed = Zeroizing::new(random.array::<32>());
        let ikm = self.0.as_slice();
        Scalar::reduce(&hkdf_sha256_parts(ikm, seed.as_slice(), &[b"BBF r", identity.bytes()]))
    }

    pub(crate) fn is_committed(&self, commitment: &Digest) -> bool {
        self.commitment().ct_eq(commitment).into()
    }
}

impl StanzaKey {
    pub(crate) fn new(shared: &Gt, hybrid: Option<&Hybrid<'_>>, identity: &Identity) -> Self {
        let encoded = shared.encode();
        let (secret, context) = match hybrid {
            None => (Zeroizing::new(encoded.to_vec()), Vec::new()),
            Some(hybrid) => {
                let secret = Zeroizing::new(framed(&[hybrid.secret, encoded.as_slice()]));
                (secret, sha256(&[hybrid.public_key.as_slice(), hybrid.ciphertext].concat()).to_vec())
            }
        };
        let expand = |what: &[u8]| hkdf_sha256_parts(&secret, SALT, &[what, identity.digest(), &context]);
        Self { key: expand(b"key"), commitment: *expand(b"commit") }
    }

    pub(crate) fn is_committed(&self, commitment: &Digest) -> bool {
        self.commitment.ct_eq(commitment).into()
    }

    /// The key is used once, because its shared element is: so is the nonce.
    pub(crate) fn wrap(
        &self,
        file_key: &FileKey,
        oid: &[u8; 32],
        file_commitment: &Digest,
    ) -> Result<[u8; WRAPPED], Unsealable> {
        let cipher = CipherKey::new(Cipher::Aes256Gcm, self.key.as_slice()).ok_or(Unsealable)?;
        let mut wrapped = [0; WRAPPED];
        let aad = self.aad(oid, file_commitment);
        cipher.seal_into(&[0; NONCE], &aad, file_key.0.as_slice(), &mut wrapped)?;
        Ok(wrapped)
    }

    pub(crate) fn unwrap(
        &self,
        wrapped: &[u8; WRAPPED],
        oid: &[u8; 32],
        file_commitment: &Digest,
    ) -> Result<FileKey, Unsealable> {
        let cipher = CipherKey::new(Cipher::Aes256Gcm, self.key.as_slice()).ok_or(Unsealable)?;
        let mut key = Zeroizing::new([0; 32]);
        cipher.open_into(&[0; NONCE], &self.aad(oid, file_commitment), wrapped, key.as_mut())?;
        Ok(FileKey(key))
    }

    fn aad(&self, oid: &[u8; 32], file_commitment: &Digest) -> Vec<u8> {
        framed(&[oid, file_commitment, &self.commitment])
    }
}

impl std::fmt::Debug for FileKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("FileKey([secret])")
    }
}
