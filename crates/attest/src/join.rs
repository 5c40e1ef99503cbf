//! The one word that a new node is given: where its authority is, how to recognise it, and a token that works once.

use std::{fmt, str::FromStr};

use base64ct::{Base64UrlUnpadded, Encoding};
use bonafide_crypto::{digest::sha256, random::Random};
use bonafide_identity::TrustDomain;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

/// Names the format; a reader of another version says so instead of guessing.
const PREFIX: &str = "bfj1.";
/// Longest word that is looked at.
const MAX_WORD: usize = 1024;
/// Longest `host:port`.
const MAX_ADDRESS: usize = 261;
/// Finds a word that was cut off or mistyped.
const CHECKSUM: usize = 4;

/// 32 random bytes that admit one node, once. Never printed by `Debug`, wiped on drop.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct Token([u8; 32]);

impl Token {
    /// A fresh one.
    #[must_use]
    pub fn generate(random: &dyn Random) -> Self {
        Self(random.array())
    }

    /// `None` unless there are exactly 32 bytes.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// The secret itself: evidence of the `join_token` attestor.
    #[must_use]
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }

    /// What the authority stores in place of the token.
    #[must_use]
    pub fn sha256(&self) -> [u8; 32] {
        sha256(&self.0)
    }

    /// For people: base64url, 43 letters.
    #[must_use]
    pub fn to_text(&self) -> Zeroizing<String> {
        Zeroizing::new(Base64UrlUnpadded::encode_string(&self.0))
    }
}

impl FromStr for Token {
    type Err = JoinError;

    fn from_str(text: &str) -> Result<Self, JoinError> {
        let mut bytes = Zeroizing::new([0; 32]);
        match Base64UrlUnpadded::decode(text, &mut *bytes) {
            Ok(decoded) if decoded.len() == 32 => Ok(Self(*bytes)),
            _ => Err(JoinError::Damaged),
        }
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[token]")
    }
}

/// All that a new node needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinLine {
    /// `host:port` of the authority.
    pub address: String,
    /// Of the authority.
    pub trust_domain: TrustDomain,
    /// SHA-256 of the DER of the root that the authority's chain must end in.
    pub root_pin: [u8; 32],
    /// Admits one node.
    pub token: Token,
}

impl JoinLine {
    /// The word. As secret as its token.
    #[must_use]
    pub fn to_word(&self) -> Zeroizing<String> {
        let trust_domain = self.trust_domain.to_string();
        let mut bytes =
            Zeroizing::new(Vec::with_capacity(65 + trust_domain.len() + self.address.len() + CHECKSUM));
        bytes.extend_from_slice(&self.root_pin);
        bytes.extend_from_slice(self.token.expose());
        // INVARIANT: a trust domain has at most 255 bytes (SPIFFE-ID §2.1).
        bytes.push(u8::try_from(trust_domain.len()).unwrap_or(u8::MAX));
        bytes.extend_from_slice(trust_domain.as_bytes());
        bytes.extend_from_slice(self.address.as_bytes());
        let checksum = sha256(&bytes);
        bytes.extend(checksum.iter().take(CHECKSUM));
        Zeroizing::new(format!("{PREFIX}{}", Base64UrlUnpadded::encode_string(&bytes)))
    }
}

impl FromStr for JoinLine {
    type Err = JoinError;

    fn from_str(word: &str) -> Result<Self, JoinError> {
        let word = word.trim();
        if word.len() > MAX_WORD {
            return Err(JoinError::Damaged);
        }
        let body = word.strip_prefix(PREFIX).ok_or(JoinError::NotAJoinLine)?;
        let bytes = Zeroizing::new(Base64UrlUnpadded::decode_vec(body).map_err(|_| JoinError::Damaged)?);
        let (content, checksum) = bytes
            .len()
            .checked_sub(CHECKSUM)
            .and_then(|at| bytes.split_at_checked(at))
            .ok_or(JoinError::Damaged)?;
        if !sha256(content).starts_with(checksum) {
            return Err(JoinError::Damaged);
        }
        let (root_pin, rest) = content.split_first_chunk::<32>().ok_or(JoinError::Damaged)?;
        let (token, rest) = rest.split_first_chunk::<32>().ok_or(JoinError::Damaged)?;
        let (length, rest) = rest.split_first().ok_or(JoinError::Damaged)?;
        let (trust_domain, address) =
            rest.split_at_checked(usize::from(*length)).ok_or(JoinError::Damaged)?;
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).map_err(|_| JoinError::Damaged);
        let address = text(address)?;
        check_address(&address)?;
        Ok(Self {
            address,
            trust_domain: text(trust_domain)?.parse().map_err(|_| JoinError::Damaged)?,
            root_pin: *root_pin,
            token: Token(*token),
        })
    }
}

/// Why a word is not a join line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JoinError {
    /// Does not begin with `bfj1.`.
    #[error("a join line begins with `bfj1.`")]
    NotAJoinLine,
    /// Cut off, mistyped, or of another maker.
    #[error("the join line or token is damaged")]
    Damaged,
    /// Not `host:port`.
    #[error("the address is not `host:port`")]
    Address,
}

impl JoinError {
    /// Stable code of the refusal.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::NotAJoinLine => "join.not-a-join-line",
            Self::Damaged => "join.damaged",
            Self::Address => "join.address",
        }
    }

    /// What to do.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        "copy the whole word that `bonafide token create` printed, or create another token"
    }
}

/// Whether an address can stand in a join line: `host:port`, printable, at most 261 bytes.
///
/// # Errors
/// [`JoinError::Address`].
pub fn check_address(address: &str) -> Result<(), JoinError> {
    let (host, port) = address.rsplit_once(':').ok_or(JoinError::Address)?;
    let printable = address.bytes().all(|byte| byte.is_ascii_graphic());
    if host.is_empty() || address.len() > MAX_ADDRESS || !printable || !matches!(port.parse::<u16>(), Ok(1..))
    {
        return Err(JoinError::Address);
    }
    Ok(())
}
