//! The secret of one version, and all that is done with it.

mod cipher;
mod external;
mod public;

use std::fmt;
use std::sync::Arc;

use bonafide_crypto::erased::Erased;
use bonafide_crypto::hmac::{HmacHash, HmacKey};
use bonafide_crypto::kdf::hkdf_sha256;
use bonafide_crypto::key::{PrivateKey, PublicKey, SignError, Signer as _};
use bonafide_crypto::mldsa::MlDsaPrivateKey;
use bonafide_crypto::mlkem::{self, MlKemPrivateKey};
use bonafide_crypto::oaep::{OaepHash, OaepPrivateKey, OaepPublicKey};
use bonafide_crypto::random::Random;
use bonafide_crypto::xaes::XaesKey;

use self::cipher::Sealer;
pub use self::external::External;
use self::external::Outside;
pub use self::public::{Message, PublicHalf};
use crate::algorithm::{KeyType, Scheme};
use crate::codec::Input;
use crate::error::Refusal;

/// The longest plaintext of a cipher.
pub const MAX_PLAINTEXT: usize = 1024 * 1024;
/// The longest message that is signed or authenticated.
pub const MAX_MESSAGE: usize = 1024 * 1024;
/// The longest secret that is imported, and the longest encoded material. An RSA key of 4096 bits takes 2.4 KiB.
pub const MAX_SECRET: usize = 8 * 1024;
/// The longest body of a wrapped data key: that of ML-KEM-768.
pub const WRAPPED_MAX: usize = 1280;
/// The shortest key of an HMAC that is imported (NIST SP 800-107r1 section 5.3.4).
const MIN_HMAC: usize = 14;
/// The longest.
const MAX_HMAC: usize = 512;

/// The first byte of encoded material.
const FORMAT: u8 = 1;
/// Derives the key of a message from the secret that ML-KEM has given.
const KEM_LABEL: &[u8] = b"bonafide kms ml-kem-768 v1";

/// What a key was declared to be at its birth. It lies in the wrapped material, so that nobody changes it afterwards.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Flags {
    /// It may be given out.
    pub exportable: bool,
    /// The same plaintext in the same context gives the same ciphertext.
    pub convergent: bool,
    /// The private half is in a device, and never leaves it. What is wrapped is the public half, which names it.
    pub external: bool,
}

/// A secret in use. It can't be printed or copied, and is erased when dropped.
pub struct Material {
    key_type: KeyType,
    flags: Flags,
    secret: Secret,
    /// What is given out. Kept only if it may be.
    exported: Option<Erased>,
}

/// Encoded material: to be wrapped, and never to be stored as it is.
pub struct Encoded(Erased);

enum Secret {
    Cipher(Sealer),
    Mac(Box<HmacKey>),
    Classic(Box<PrivateKey>, Option<Box<(OaepPrivateKey, OaepPublicKey)>>),
    MlDsa(Box<MlDsaPrivateKey>),
    MlKem(Box<MlKemPrivateKey>),
    External(Box<Outside>),
}

impl Flags {
    pub(crate) const fn byte(self) -> u8 {
        self.exportable as u8 | (self.convergent as u8) << 1 | (self.external as u8) << 2
    }

    pub(crate) const fn from_byte(byte: u8) -> Option<Self> {
        if byte > 7 {
            return None;
        }
        Some(Self { exportable: byte & 1 != 0, convergent: byte & 2 != 0, external: byte & 4 != 0 })
    }
}

impl Material {
    /// Draws a secret.
    ///
    /// # Errors
    /// [`Refusal::Unfit`] if a key of this kind can't have these flags; [`Refusal::Library`] if none can be drawn.
    pub fn generate(
        key_type: KeyType,
        flags: Flags,
        random: &dyn Random,
    ) -> Result<(Self, Encoded), Refusal> {
        let drawn = |length: usize| {
            let mut bytes = Erased::new(vec![0; length]);
            random.fill(&mut bytes);
            bytes
        };
        let bytes = match key_type {
            KeyType::Aes128Gcm => drawn(16),
            KeyType::Aes256Gcm | KeyType::ChaCha20Poly1305 => drawn(32),
            KeyType::HmacSha256 => drawn(HmacHash::Sha256.length()),
            KeyType::HmacSha384 => drawn(HmacHash::Sha384.length()),
            KeyType::HmacSha512 => drawn(HmacHash::Sha512.length()),
            KeyType::MlDsa65 => drawn(bonafide_crypto::mldsa::SEED),
            KeyType::MlKem768 => {
                let key = MlKemPrivateKey::generate().map_err(|_| Refusal::Library)?;
                Erased::new(key.bytes().to_vec())
            }
            KeyType::EcdsaP256
            | KeyType::EcdsaP384
            | KeyType::EcdsaP521
            | KeyType::Ed25519
            | KeyType::Rsa2048
            | KeyType::Rsa3072
            | KeyType::Rsa4096 => {
                let algorithm = key_type.classic().ok_or(Refusal::Unfit)?;
                PrivateKey::generate(algorithm).map_err(|_| Refusal::Library)?.to_pkcs8_der().into()
            }
        };
        Self::import(key_type, flags, &bytes).map_err(|refusal| match refusal {
            Refusal::Import => Refusal::Library,
            other => other,
        })
    }

    /// Takes a secret that was made elsewhere: the raw bytes of a symmetric key; PKCS#8 without encryption of a key on a
    /// curve or of RSA; the seed or the expanded form of ML-DSA-65; the decapsulation key of ML-KEM-768.
    ///
    /// # Errors
    /// [`Refusal::Import`] if it is no key of this kind; [`Refusal::Unfit`] if such a key can't have these flags.
    pub fn import(key_type: KeyType, flags: Flags, secret: &[u8]) -> Result<(Self, Encoded), Refusal> {
        if flags.external {
            return Err(Refusal::External);
        }
        if secret.len() > MAX_SECRET {
            return Err(Refusal::Import);
        }
        let (parsed, bytes) = parse(key_type, flags, secret)?;
        let mut encoded = Erased::new(Vec::with_capacity(3 + bytes.len()));
        encoded.extend_from_slice(&[FORMAT, key_type.tag(), flags.byte()]);
        encoded.extend_from_slice(&bytes);
        let exported = flags.exportable.then_some(bytes);
        Ok((Self { key_type, flags, secret: parsed, exported }, Encoded(encoded)))
    }

    /// A key whose private half is somewhere else: made there just now, or found there again.
    ///
    /// # Errors
    /// [`Refusal::Unfit`] if such a key can't have these flags, or its kind can't be elsewhere; [`Refusal::Import`] if the public
    /// half is not of this kind.
    pub fn external(
        key_type: KeyType,
        flags: Flags,
        public: PublicKey,
        private: Result<Arc<dyn External>, Refusal>,
    ) -> Result<(Self, Encoded), Refusal> {
        if !flags.external || flags.exportable || flags.convergent || !key_type.can_be_external() {
            return Err(Refusal::Unfit);
        }
        let mut encoded = Erased::new(vec![FORMAT, key_type.tag(), flags.byte()]);
        encoded.extend_from_slice(public.spki_der());
        let secret = Secret::External(Box::new(Outside::new(key_type, public, private)?));
        Ok((Self { key_type, flags, secret, exported: None }, Encoded(encoded)))
    }

    /// Reads what [`Self::generate`], [`Self::import`] or [`Self::external`] has encoded. `find` reaches the private half of the
    /// last one.
    ///
    /// # Errors
    /// [`Refusal::Wrapped`] if it is none.
    pub fn decode(
        encoded: &[u8],
        find: impl FnOnce(&PublicKey) -> Result<Arc<dyn External>, Refusal>,
    ) -> Result<Self, Refusal> {
        let mut input = Input(encoded);
        let mut head = || match (input.byte()?, KeyType::from_tag(input.byte()?)?, input.byte()?) {
            (FORMAT, key_type, flags) => Some((key_type, Flags::from_byte(flags)?)),
            _ => None,
        };
        let (key_type, flags) = head().ok_or(Refusal::Wrapped)?;
        if input.0.len() > MAX_SECRET {
            return Err(Refusal::Wrapped);
        }
        if flags.external {
            let public = PublicKey::from_spki_der(input.0).map_err(|_| Refusal::Wrapped)?;
            let private = find(&public);
            let read = Self::external(key_type, flags, public, private);
            return read.map(|(material, _)| material).map_err(|_| Refusal::Wrapped);
        }
        let (secret, bytes) = parse(key_type, flags, input.0).map_err(|_| Refusal::Wrapped)?;
        Ok(Self { key_type, flags, secret, exported: flags.exportable.then_some(bytes) })
    }

    /// What kind of key it is.
    #[must_use]
    pub fn key_type(&self) -> KeyType {
        self.key_type
    }

    /// What it was declared to be.
    #[must_use]
    pub fn flags(&self) -> Flags {
        self.flags
    }

    /// The secret itself, in the form in which it can be imported.
    ///
    /// # Errors
    /// [`Refusal::NotExportable`] if it was not declared exportable; [`Refusal::External`] if it is not here at all.
    pub fn export(&self) -> Result<&[u8], Refusal> {
        if self.flags.external {
            return Err(Refusal::External);
        }
        self.exported.as_ref().map(|bytes| bytes.as_slice()).ok_or(Refusal::NotExportable)
    }

    /// The public half as SubjectPublicKeyInfo, if there is one.
    #[must_use]
    pub fn public_spki(&self) -> Option<Vec<u8>> {
        match &self.secret {
            Secret::Cipher(_) | Secret::Mac(_) => None,
            Secret::Classic(key, _) => Some(key.public_key().spki_der().to_vec()),
            Secret::MlDsa(key) => Some(key.public_key().spki_der()),
            Secret::MlKem(key) => Some(key.public_key().spki_der()),
            Secret::External(key) => Some(key.public.spki_der().to_vec()),
        }
    }

    /// Bytes of the body of a plaintext of `length` bytes; 0 for what does not encrypt.
    #[must_use]
    pub fn body_length(&self, length: usize) -> usize {
        match &self.secret {
            Secret::Cipher(sealer) => sealer.overhead() + length,
            Secret::Classic(_, Some(oaep)) => oaep.1.ciphertext_length(),
            Secret::MlKem(_) => mlkem::CIPHERTEXT + Sealer::OVERHEAD_256 + length,
            Secret::External(key) => key.oaep.as_ref().map_or(0, OaepPublicKey::ciphertext_length),
            Secret::Classic(_, None) | Secret::Mac(_) | Secret::MlDsa(_) => 0,
        }
    }

    /// Encrypts `plaintext`, bound to `aad`, and appends the body to `out`.
    ///
    /// # Errors
    /// [`Refusal::Unfit`], [`Refusal::TooLong`].
    pub fn encrypt_into(
        &self,
        aad: &[u8],
        plaintext: &[u8],
        random: &dyn Random,
        out: &mut Vec<u8>,
    ) -> Result<(), Refusal> {
        if !self.key_type.encrypts() {
            return Err(Refusal::Unfit);
        }
        if plaintext.len() > self.key_type.max_plaintext() {
            return Err(Refusal::TooLong);
        }
        out.reserve_exact(self.body_length(plaintext.len()));
        match &self.secret {
            Secret::Cipher(sealer) => sealer.seal(aad, plaintext, random, out),
            Secret::Classic(_, Some(oaep)) => encrypt_oaep(&oaep.1, aad, plaintext, out),
            Secret::External(key) => {
                encrypt_oaep(key.oaep.as_ref().ok_or(Refusal::Unfit)?, aad, plaintext, out)
            }
            Secret::MlKem(key) => {
                let (ciphertext, secret) = key.public_key().encapsulate().map_err(|_| Refusal::Library)?;
                out.extend_from_slice(&ciphertext);
                kem_sealer(&secret).seal(aad, plaintext, random, out)
            }
            Secret::Classic(_, None) | Secret::Mac(_) | Secret::MlDsa(_) => Err(Refusal::Unfit),
        }
    }

    /// Decrypts a body that was bound to the same `aad`.
    ///
    /// # Errors
    /// [`Refusal::Ciphertext`] if anything differs; [`Refusal::Unfit`].
    pub fn decrypt(&self, aad: &[u8], body: &[u8]) -> Result<Erased, Refusal> {
        match &self.secret {
            Secret::Cipher(sealer) => sealer.open(aad, body),
            Secret::Classic(_, Some(oaep)) => {
                oaep.0.decrypt(OaepHash::Sha256, aad, body).map(Erased::from).map_err(|_| Refusal::Ciphertext)
            }
            Secret::External(key) if key.oaep.is_some() => {
                key.private()?.decrypt(OaepHash::Sha256, aad, body)
            }
            Secret::MlKem(key) => {
                let (ciphertext, sealed) =
                    body.split_at_checked(mlkem::CIPHERTEXT).ok_or(Refusal::Ciphertext)?;
                let secret = key.decapsulate(ciphertext).map_err(|_| Refusal::Ciphertext)?;
                kem_sealer(&secret).open(aad, sealed)
            }
            Secret::Classic(_, None) | Secret::External(_) | Secret::Mac(_) | Secret::MlDsa(_) => {
                Err(Refusal::Unfit)
            }
        }
    }

    /// Opens what somebody has made with the public half alone, without our format: RSA-OAEP with a hash and a label of his
    /// choice, or an encapsulation of ML-KEM-768, which gives the shared secret. For ML-KEM hash and label mean nothing,
    /// and the label must be empty.
    ///
    /// # Errors
    /// [`Refusal::Ciphertext`] if it does not open; [`Refusal::Unfit`] for keys without such a use.
    pub fn open_foreign(&self, hash: OaepHash, label: &[u8], ciphertext: &[u8]) -> Result<Erased, Refusal> {
        match &self.secret {
            Secret::Classic(_, Some(oaep)) => {
                oaep.0.decrypt(hash, label, ciphertext).map(Erased::from).map_err(|_| Refusal::Ciphertext)
            }
            Secret::External(key) if key.oaep.is_some() => key.private()?.decrypt(hash, label, ciphertext),
            Secret::MlKem(key) if label.is_empty() => {
                let secret = key.decapsulate(ciphertext).map_err(|_| Refusal::Ciphertext)?;
                Ok(Erased::new(secret.to_vec()))
            }
            _ => Err(Refusal::Unfit),
        }
    }

    /// The MAC of a message: plain HMAC, which others compute too.
    ///
    /// # Errors
    /// [`Refusal::Unfit`], [`Refusal::TooLong`].
    pub fn mac(&self, message: &[u8]) -> Result<Vec<u8>, Refusal> {
        let Secret::Mac(key) = &self.secret else { return Err(Refusal::Unfit) };
        if message.len() > MAX_MESSAGE {
            return Err(Refusal::TooLong);
        }
        Ok(key.tag(&[message]).as_ref().to_vec())
    }

    /// Checks a MAC.
    ///
    /// # Errors
    /// [`Refusal::Mac`] if it does not match; [`Refusal::Unfit`], [`Refusal::TooLong`].
    pub fn verify_mac(&self, message: &[u8], tag: &[u8]) -> Result<(), Refusal> {
        let Secret::Mac(key) = &self.secret else { return Err(Refusal::Unfit) };
        if message.len() > MAX_MESSAGE {
            return Err(Refusal::TooLong);
        }
        key.verify(&[message], tag).map_err(|_| Refusal::Mac)
    }

    /// Signs a message, or a digest of one, made with the hash of the scheme.
    ///
    /// # Errors
    /// [`Refusal::Unfit`] if the key does not sign so; [`Refusal::TooLong`].
    pub fn sign(&self, scheme: Scheme, message: Message<'_>) -> Result<Vec<u8>, Refusal> {
        if !scheme.fits(self.key_type) {
            return Err(Refusal::Unfit);
        }
        message.check()?;
        if let (Secret::External(key), Scheme::Classic(algorithm)) = (&self.secret, scheme) {
            return key.private()?.sign(algorithm, message);
        }
        match (&self.secret, scheme, message) {
            (Secret::Classic(key, _), Scheme::Classic(algorithm), Message::Whole(message)) => {
                key.sign_with(algorithm, message)
            }
            (Secret::Classic(key, _), Scheme::Classic(algorithm), Message::Digest(digest)) => {
                key.sign_digest(algorithm, digest)
            }
            (Secret::MlDsa(key), Scheme::MlDsa65, Message::Whole(message)) => key.sign(message),
            _ => return Err(Refusal::Unfit),
        }
        .map_err(|error| if error == SignError::Unfit { Refusal::Unfit } else { Refusal::Library })
    }

    /// Checks a signature.
    ///
    /// # Errors
    /// [`Refusal::Signature`] if it does not match; [`Refusal::Unfit`], [`Refusal::TooLong`].
    pub fn verify(&self, scheme: Scheme, message: Message<'_>, signature: &[u8]) -> Result<(), Refusal> {
        match &self.secret {
            Secret::Classic(key, _) => {
                public::verify_classic(self.key_type, key.public_key(), scheme, message, signature)
            }
            Secret::External(key) => {
                public::verify_classic(self.key_type, &key.public, scheme, message, signature)
            }
            Secret::MlDsa(key) => public::verify_ml_dsa(key.public_key(), scheme, message, signature),
            Secret::Cipher(_) | Secret::Mac(_) | Secret::MlKem(_) => Err(Refusal::Unfit),
        }
    }
}

impl Encoded {
    /// The bytes, to wrap them.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Material {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Material")
            .field("key_type", &self.key_type)
            .field("flags", &self.flags)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Encoded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

/// The secret, and its bytes in the one form in which they are kept.
fn parse(key_type: KeyType, flags: Flags, bytes: &[u8]) -> Result<(Secret, Erased), Refusal> {
    if flags.convergent && !key_type.is_cipher() {
        return Err(Refusal::Unfit);
    }
    let same = || Erased::new(bytes.to_vec());
    let mac = |hash| {
        if (MIN_HMAC..=MAX_HMAC).contains(&bytes.len()) {
            Ok((Secret::Mac(Box::new(HmacKey::new(hash, bytes))), same()))
        } else {
            Err(Refusal::Import)
        }
    };
    match key_type {
        KeyType::Aes128Gcm | KeyType::Aes256Gcm | KeyType::ChaCha20Poly1305 => {
            let sealer = Sealer::new(key_type, flags.convergent, bytes).ok_or(Refusal::Import)?;
            Ok((Secret::Cipher(sealer), same()))
        }
        KeyType::HmacSha256 => mac(HmacHash::Sha256),
        KeyType::HmacSha384 => mac(HmacHash::Sha384),
        KeyType::HmacSha512 => mac(HmacHash::Sha512),
        KeyType::MlDsa65 => {
            let key = MlDsaPrivateKey::from_bytes(bytes).map_err(|_| Refusal::Import)?;
            Ok((Secret::MlDsa(Box::new(key)), same()))
        }
        KeyType::MlKem768 => {
            let key = MlKemPrivateKey::from_bytes(bytes).map_err(|_| Refusal::Import)?;
            Ok((Secret::MlKem(Box::new(key)), same()))
        }
        KeyType::EcdsaP256
        | KeyType::EcdsaP384
        | KeyType::EcdsaP521
        | KeyType::Ed25519
        | KeyType::Rsa2048
        | KeyType::Rsa3072
        | KeyType::Rsa4096 => {
            let key = PrivateKey::from_pkcs8_der(bytes).map_err(|_| Refusal::Import)?;
            if !key_type.is_of(key.public_key()) {
                return Err(Refusal::Import);
            }
            let oaep = if key_type.encrypts() {
                let private = OaepPrivateKey::new(&key).map_err(|_| Refusal::Import)?;
                let public = OaepPublicKey::new(key.public_key()).map_err(|_| Refusal::Import)?;
                Some(Box::new((private, public)))
            } else {
                None
            };
            // Written anew: what was read may hold more than a key.
            let bytes = key.to_pkcs8_der().into();
            Ok((Secret::Classic(Box::new(key), oaep), bytes))
        }
    }
}

fn encrypt_oaep(key: &OaepPublicKey, aad: &[u8], plaintext: &[u8], out: &mut Vec<u8>) -> Result<(), Refusal> {
    let start = out.len();
    out.resize(start + key.ciphertext_length(), 0);
    let body = out.get_mut(start..).ok_or(Refusal::Library)?;
    key.encrypt_into(OaepHash::Sha256, aad, plaintext, body).map_err(|_| Refusal::Library)
}

fn kem_sealer(secret: &[u8; mlkem::SECRET]) -> Sealer {
    Sealer::of_xaes(XaesKey::xaes_256(&hkdf_sha256(secret, b"", KEM_LABEL)))
}
