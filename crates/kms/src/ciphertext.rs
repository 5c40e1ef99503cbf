//! The bytes of ciphertexts, signatures and MACs: each names its key, the key's kind, and the version.
//!
//! ```text
//! format (1) | kind (1) | key type (1) | key ID (16) | version (4) | body
//! ```
//!
//! The header is part of what every ciphertext is bound to, with the digest of the [context](crate::context). The body is the
//! algorithm's own: of a cipher a random part, the ciphertext and a tag; of a signature the number of its scheme and the
//! signature; of an envelope the wrapped data key behind its length of two bytes, and what is encrypted under it.
//!
//! Where the caller names the key beside the ciphertext, the text form `vault:v<version>:<base64 of the body>` is enough: the
//! header is made again from what is known.

use std::fmt;
use std::str::FromStr;

use base64ct::{Base64, Encoding as _};
use bonafide_crypto::digest::sha256;

use crate::algorithm::{KeyType, Scheme};
use crate::codec::Input;
use crate::context::ContextDigest;
use crate::material::{MAX_MESSAGE, WRAPPED_MAX};

/// The first byte of everything that this format writes.
pub const FORMAT: u8 = 0xb1;
/// Bytes before the body.
pub const HEADER: usize = 23;
/// Bytes that everything is bound to: header and digest of the context.
pub const AAD: usize = HEADER + 32;
/// The longest that is read.
pub const MAX_CIPHERTEXT: usize = MAX_MESSAGE + HEADER + 2 + WRAPPED_MAX + 64;

/// Which key: 16 random bytes, drawn at its birth. Names may change, this never does.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyId([u8; 16]);

/// What a body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// A caller's plaintext, under the key itself.
    Direct = 1,
    /// A caller's plaintext, under a data key that lies beside it.
    Envelope = 2,
    /// A data key, under the key.
    DataKey = 3,
    /// A signature.
    Signature = 4,
    /// A MAC.
    Mac = 5,
}

/// All that stands before a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Header {
    /// What the body is.
    pub kind: Kind,
    /// What kind of key.
    pub key_type: KeyType,
    /// Which key.
    pub key: KeyId,
    /// Its version, from 1 on.
    pub version: u32,
}

/// Something that was read: a header and the body behind it. Nothing says yet that it is genuine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ciphertext<'a> {
    /// What it says of itself.
    pub header: Header,
    /// The rest.
    pub body: &'a [u8],
}

/// The two parts of an envelope's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EnvelopeParts<'a> {
    /// The data key, wrapped: a body of [`Kind::DataKey`].
    pub wrapped: &'a [u8],
    /// What is encrypted under it.
    pub sealed: &'a [u8],
}

/// Stands for a wrapped data key: SHA-256 of its body.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WrappedDigest([u8; 32]);

/// The bytes are none of this format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FormatError {
    /// Not of this format, cut off, or of a kind that this release does not know.
    #[error("the bytes are no ciphertext, signature or MAC of this format")]
    Malformed,
    /// More bytes than any has.
    #[error("the ciphertext has more bytes than any")]
    TooLong,
    /// The text has another form than `vault:v<version>:<base64>`.
    #[error("the text does not have the form `vault:v<version>:<base64>`")]
    Text,
    /// Not the ID of a key.
    #[error("the ID of a key has 32 hexadecimal digits")]
    KeyId,
}

impl KeyId {
    /// An ID from its bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// Its bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 5] = [Self::Direct, Self::Envelope, Self::DataKey, Self::Signature, Self::Mac];

    fn from_tag(tag: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as u8 == tag)
    }
}

impl Header {
    /// Its bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; HEADER] {
        let mut out = [0; HEADER];
        let [format, kind, key_type, rest @ ..] = &mut out;
        (*format, *kind, *key_type) = (FORMAT, self.kind as u8, self.key_type.tag());
        if let Some((key, version)) = rest.split_first_chunk_mut::<16>() {
            *key = self.key.0;
            version.copy_from_slice(&self.version.to_be_bytes());
        }
        out
    }

    /// Bytes and digest together: what a ciphertext with this header is bound to.
    #[must_use]
    pub fn aad(&self, context: &ContextDigest) -> [u8; AAD] {
        let mut out = [0; AAD];
        if let Some((header, digest)) = out.split_first_chunk_mut::<HEADER>() {
            *header = self.encode();
            digest.copy_from_slice(context.as_bytes());
        }
        out
    }

    /// The same for another kind of body.
    #[must_use]
    pub const fn of_kind(self, kind: Kind) -> Self {
        Self { kind, ..self }
    }

    /// A whole ciphertext: this header, and the body behind it.
    #[must_use]
    pub fn with(&self, body: &[u8]) -> Vec<u8> {
        [self.encode().as_slice(), body].concat()
    }
}

impl<'a> Ciphertext<'a> {
    /// Reads the header. The body is looked at by the key.
    ///
    /// # Errors
    /// [`FormatError`] if it is none.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, FormatError> {
        if bytes.len() > MAX_CIPHERTEXT {
            return Err(FormatError::TooLong);
        }
        let read = || {
            let mut input = Input(bytes);
            if input.byte()? != FORMAT {
                return None;
            }
            let (kind, key_type) = (Kind::from_tag(input.byte()?)?, KeyType::from_tag(input.byte()?)?);
            let (key, version) = (KeyId(*input.array()?), input.number()?);
            let fits = match kind {
                Kind::Direct | Kind::Envelope | Kind::DataKey => key_type.encrypts(),
                Kind::Signature => key_type.signs(),
                Kind::Mac => key_type.is_mac(),
            };
            let whole = fits && version > 0 && !input.0.is_empty();
            whole.then_some(Self { header: Header { kind, key_type, key, version }, body: input.0 })
        };
        read().ok_or(FormatError::Malformed)
    }

    /// The data key and the rest, of an [envelope](Kind::Envelope).
    #[must_use]
    pub fn envelope(&self) -> Option<EnvelopeParts<'a>> {
        if self.header.kind == Kind::Envelope { EnvelopeParts::decode(self.body) } else { None }
    }

    /// Scheme and signature, of a [signature](Kind::Signature).
    #[must_use]
    pub fn signature(&self) -> Option<(Scheme, &'a [u8])> {
        let (tag, signature) = self.body.split_first()?;
        let scheme = Scheme::from_tag(*tag).filter(|scheme| scheme.fits(self.header.key_type))?;
        (self.header.kind == Kind::Signature).then_some((scheme, signature))
    }
}

impl<'a> EnvelopeParts<'a> {
    /// Reads the body of an envelope.
    #[must_use]
    pub fn decode(body: &'a [u8]) -> Option<Self> {
        let mut input = Input(body);
        let length = usize::from(input.short()?);
        let wrapped = input.take(length).filter(|_| length > 0 && length <= WRAPPED_MAX)?;
        (!input.0.is_empty()).then_some(Self { wrapped, sealed: input.0 })
    }

    /// Stands for the data key.
    #[must_use]
    pub fn digest(&self) -> WrappedDigest {
        WrappedDigest::of(self.wrapped)
    }
}

/// A detached signature: header, scheme, signature.
#[must_use]
pub fn signature(key_type: KeyType, key: KeyId, version: u32, scheme: Scheme, signature: &[u8]) -> Vec<u8> {
    let header = Header { kind: Kind::Signature, key_type, key, version };
    [header.encode().as_slice(), &[scheme.tag()], signature].concat()
}

/// A body in text, for callers that name the key beside it: `vault:v<version>:<base64>`.
#[must_use]
pub fn to_text(version: u32, body: &[u8]) -> String {
    format!("vault:v{version}:{}", Base64::encode_string(body))
}

/// Reads what [`to_text`] wrote: version and body.
///
/// # Errors
/// [`FormatError`] for every other form, and for base64 that is not canonical.
pub fn from_text(text: &str) -> Result<(u32, Vec<u8>), FormatError> {
    if text.len() > MAX_CIPHERTEXT / 3 * 4 + 32 {
        return Err(FormatError::TooLong);
    }
    let read = || {
        let (version, body) = text.strip_prefix("vault:v")?.split_once(':')?;
        let canonical = version.bytes().all(|byte| byte.is_ascii_digit()) && !version.starts_with('0');
        let version = version.parse().ok().filter(|_| canonical)?;
        Some((version, Base64::decode_vec(body).ok().filter(|body| !body.is_empty())?))
    };
    read().ok_or(FormatError::Text)
}

impl WrappedDigest {
    /// The digest of a wrapped data key's body.
    #[must_use]
    pub fn of(wrapped: &[u8]) -> Self {
        Self(sha256(wrapped))
    }

    /// A digest that came from elsewhere.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Its bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for WrappedDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WrappedDigest(")?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
        f.write_str(")")
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyId({self})")
    }
}

impl FromStr for KeyId {
    type Err = FormatError;

    fn from_str(text: &str) -> Result<Self, FormatError> {
        let mut id = [0; 16];
        match hexadecimal(text, &mut id) {
            Some(()) => Ok(Self(id)),
            None => Err(FormatError::KeyId),
        }
    }
}

/// Lowercase hexadecimal digits, as many as fill `out`.
fn hexadecimal(text: &str, out: &mut [u8]) -> Option<()> {
    let digit = |digit: u8| match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    };
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    if pairs.len() != out.len() || !rest.is_empty() {
        return None;
    }
    for (byte, [high, low]) in out.iter_mut().zip(pairs) {
        *byte = digit(*high)? << 4 | digit(*low)?;
    }
    Some(())
}

impl FormatError {
    /// The stable code of this error.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::Malformed => "kms.ciphertext-malformed",
            Self::TooLong => "kms.ciphertext-too-long",
            Self::Text => "kms.text-malformed",
            Self::KeyId => "kms.key-id-malformed",
        }
    }

    /// What a person can do about it.
    #[must_use]
    pub const fn hint(self) -> &'static str {
        match self {
            Self::Malformed | Self::TooLong | Self::Text => "give it whole and unchanged, as it was returned",
            Self::KeyId => "`bonafide key show` prints it",
        }
    }
}

#[cfg(test)]
mod tests;
