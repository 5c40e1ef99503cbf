//! Documents: one encoding each, with a bound on its length, and signatures over exactly these bytes.

use std::fmt::Debug;

use bonafide_crypto::digest::sha256;
use bonafide_crypto::key::{PublicKey, PublicKeyAlgorithm, SignError, SignatureAlgorithm, Signer};

use crate::cbor::{Reader, Writer};

/// The suite that everything here belongs to.
pub const SUITE: &str = "BBF-V01-CS02";

/// The most signatures of one document.
pub const MAX_SIGNATURES: usize = 64;
/// The most bytes of one signature. ECDSA on P-384 in DER takes 104.
pub const MAX_SIGNATURE: usize = 128;
/// The most bytes of a public key that signs.
pub const MAX_KEY: usize = 128;

/// A hash that stands for a document, a key or a policy: SHA-256.
pub type Digest = [u8; 32];

/// Something with one encoding in deterministic CBOR.
pub trait Document: Sized {
    /// What it is, in the text that is signed and in errors.
    const NAME: &'static str;
    /// The most bytes that are looked at.
    const MAX: usize;

    /// Its encoding.
    fn encode(&self) -> Vec<u8>;

    /// Reads it, after the length was checked.
    #[doc(hidden)]
    fn read(bytes: &[u8]) -> Option<Self>;

    /// Reads exactly what [`Self::encode`] writes.
    ///
    /// # Errors
    /// [`FormatError`] for anything else.
    fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        if bytes.len() > Self::MAX {
            return Err(FormatError::TooLong(Self::NAME));
        }
        // The reader refuses all other forms; that there is one form is so important that it is looked at once more.
        Self::read(bytes)
            .filter(|document| document.encode() == bytes)
            .ok_or(FormatError::Malformed(Self::NAME))
    }

    /// What stands for it in other documents.
    fn digest(&self) -> Digest {
        sha256(&self.encode())
    }
}

/// A document with signatures that nobody has looked at yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signed<T> {
    /// The document.
    pub body: T,
    /// Signatures, by the fingerprints of their keys, ascending.
    pub signatures: Vec<Signature>,
}

/// A signature, and whose it claims to be.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Signature {
    /// Fingerprint of the key.
    pub key: Digest,
    /// The signature: Ed25519 as in RFC 8032, ECDSA in DER.
    pub value: Vec<u8>,
}

/// A public key that signs documents: Ed25519, or ECDSA on P-256 or P-384, because devices have those.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifyingKey {
    key: PublicKey,
    fingerprint: Digest,
}

/// Bytes that are not what they should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FormatError {
    /// Not the one encoding of a valid document.
    #[error("not a valid {0}")]
    Malformed(&'static str),
    /// More bytes than are looked at.
    #[error("more bytes than a {0} may have")]
    TooLong(&'static str),
}

impl VerifyingKey {
    /// A key that may sign.
    ///
    /// # Errors
    /// [`FormatError`] for one of another kind.
    pub fn new(key: PublicKey) -> Result<Self, FormatError> {
        match key.algorithm() {
            PublicKeyAlgorithm::Ed25519 | PublicKeyAlgorithm::EcP256 | PublicKeyAlgorithm::EcP384 => {
                let fingerprint = sha256(key.spki_der());
                Ok(Self { key, fingerprint })
            }
            PublicKeyAlgorithm::EcP521 | PublicKeyAlgorithm::Rsa { .. } => {
                Err(FormatError::Malformed("signing key"))
            }
        }
    }

    /// A key from its SubjectPublicKeyInfo.
    ///
    /// # Errors
    /// [`FormatError`] for one of another kind.
    pub fn from_spki_der(spki: &[u8]) -> Result<Self, FormatError> {
        if spki.len() > MAX_KEY {
            return Err(FormatError::TooLong("signing key"));
        }
        Self::new(PublicKey::from_spki_der(spki).map_err(|_| FormatError::Malformed("signing key"))?)
    }

    /// The key as SubjectPublicKeyInfo.
    #[must_use]
    pub fn spki_der(&self) -> &[u8] {
        self.key.spki_der()
    }

    /// SHA-256 of its SubjectPublicKeyInfo.
    #[must_use]
    pub fn fingerprint(&self) -> &Digest {
        &self.fingerprint
    }

    /// Whether this is its signature of a message.
    #[must_use]
    pub fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        let algorithm = SignatureAlgorithm::default_for(self.key.algorithm());
        signature.len() <= MAX_SIGNATURE && self.key.verify(algorithm, message, signature).is_ok()
    }

    pub(crate) fn read(reader: &mut Reader<'_>) -> Option<Self> {
        Self::from_spki_der(reader.bytes(MAX_KEY)?).ok()
    }
}

impl<T: Document> Signed<T> {
    /// A document without signatures.
    #[must_use]
    pub fn new(body: T) -> Self {
        Self { body, signatures: Vec::new() }
    }

    /// What is signed: the name of the kind of document, and its bytes. No two kinds have a message in common.
    #[must_use]
    pub fn message(&self) -> Vec<u8> {
        message::<T>(&self.body)
    }

    /// Adds a signature, or replaces that of the same key.
    ///
    /// # Errors
    /// [`SignError`] if the signer fails, or its key is of a kind that does not sign documents.
    pub fn sign(&mut self, signer: &dyn Signer) -> Result<(), SignError> {
        let signature = sign(signer, &self.message())?;
        self.add(signature);
        Ok(())
    }

    /// Adds a signature that was made elsewhere, or replaces that of the same key.
    pub fn add(&mut self, signature: Signature) {
        self.signatures.retain(|other| other.key != signature.key);
        self.signatures.push(signature);
        self.signatures.sort();
    }

    /// How many of these keys have signed. None counts twice.
    #[must_use]
    pub fn count<'a>(&self, keys: impl IntoIterator<Item = &'a VerifyingKey>) -> usize {
        let message = self.message();
        let mut counted: Vec<&Digest> = Vec::new();
        for key in keys {
            if !counted.contains(&key.fingerprint()) && self.is_signed(key, &message) {
                counted.push(key.fingerprint());
            }
        }
        counted.len()
    }

    fn is_signed(&self, key: &VerifyingKey, message: &[u8]) -> bool {
        let of_key = self.signatures.iter().find(|signature| signature.key == key.fingerprint);
        of_key.is_some_and(|signature| key.verifies(message, &signature.value))
    }
}

impl<T: Document> Document for Signed<T> {
    const NAME: &'static str = T::NAME;
    const MAX: usize = T::MAX + 64 + MAX_SIGNATURES * (MAX_SIGNATURE + 48);

    fn encode(&self) -> Vec<u8> {
        let mut out = Writer::default();
        out.map(3).number(1).text(T::NAME).number(2).bytes(&self.body.encode());
        out.number(3).array(self.signatures.len());
        for signature in &self.signatures {
            out.array(2).bytes(&signature.key).bytes(&signature.value);
        }
        out.finish()
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(bytes);
        let mut map = reader.map()?;
        map.required(&mut reader, 1)?;
        if reader.text(64)? != T::NAME {
            return None;
        }
        map.required(&mut reader, 2)?;
        let body = T::decode(reader.bytes(T::MAX)?).ok()?;
        map.required(&mut reader, 3)?;
        let signatures = reader.list(MAX_SIGNATURES, Signature::read)?;
        map.end()?;
        reader.finish()?;
        let ordered = signatures.is_sorted_by(|a, b| a.key < b.key);
        ordered.then_some(Self { body, signatures })
    }
}

impl Signature {
    pub(crate) fn read(reader: &mut Reader<'_>) -> Option<Self> {
        if reader.array(2)? != 2 {
            return None;
        }
        Some(Self { key: *reader.fixed()?, value: reader.bytes(MAX_SIGNATURE)?.to_vec() })
    }
}

/// Signs a message that says by itself what it is.
pub(crate) fn sign(signer: &dyn Signer, message: &[u8]) -> Result<Signature, SignError> {
    let key = VerifyingKey::new(signer.public_key().clone()).map_err(|_| SignError::Unfit)?;
    let algorithm = SignatureAlgorithm::default_for(signer.public_key().algorithm());
    Ok(Signature { key: key.fingerprint, value: signer.sign_with(algorithm, message)? })
}

/// `u32be(length) | bytes`, one after the other: what is concatenated has one reading.
pub(crate) fn framed(parts: &[&[u8]]) -> Vec<u8> {
    let mut out = Vec::with_capacity(parts.iter().map(|part| part.len() + 4).sum());
    for part in parts {
        // INVARIANT: everything that is framed was bounded far below 4 GiB.
        out.extend_from_slice(&u32::try_from(part.len()).unwrap_or(u32::MAX).to_be_bytes());
        out.extend_from_slice(part);
    }
    out
}

fn message<T: Document>(body: &T) -> Vec<u8> {
    [b"bbf-".as_slice(), T::NAME.as_bytes(), b"-v1", &framed(&[SUITE.as_bytes(), &body.encode()])].concat()
}

impl FormatError {
    /// The stable code of this error.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::Malformed(_) => "sealing.malformed",
            Self::TooLong(_) => "sealing.too-long",
        }
    }

    /// What a person can do about it.
    #[must_use]
    pub const fn hint(self) -> &'static str {
        "give it whole and unchanged, as it was written; it may have been damaged, or come from another version"
    }
}
