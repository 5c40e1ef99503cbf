//! Tokens, for clients that can't go without one. Who has logged in with a certificate must show the same identity beside it,
//! so that a token that was stolen is worth nothing; what it carries is who logged in, and until when. Who has logged in with a
//! JWT-SVID has nothing else to show: that token lives five minutes at most.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use base64ct::{Base64UrlUnpadded, Encoding as _};
use bonafide_crypto::digest::sha256;
use bonafide_crypto::mac::MacKey;
use bonafide_identity::time::UnixTime;
use bonafide_identity::{InstanceId, SpiffeId};

use crate::kms::callers::Caller;
use crate::refusal::Refusal;

const PREFIX: &str = "bonafide.";
/// Of tokens that their holder shows without a certificate.
const BEARER_PREFIX: &str = "bonafide.jwt.";
/// Seconds that a token lives, unless the SVID of whoever logs in ends before.
pub(super) const LIFETIME: i64 = 3600;
/// Revoked tokens that are remembered until they end.
const MAX_REVOKED: usize = 65_536;
const LENGTH: usize = 8 + 16 + 32;
/// Seconds that a token without a certificate beside it lives at most: whoever has it has what it is good for.
pub(super) const BEARER_LIFETIME: i64 = 300;
/// The longest SPIFFE ID, and what stands around it.
const MAX_BEARER: usize = 8 + 8 + 16 + 16 + 2048 + 32;

/// Makes and checks tokens.
pub(super) struct Tokens {
    key: MacKey,
    revoked: Mutex<HashMap<[u8; 16], UnixTime>>,
}

/// Whose a token is: a launch, and not its certificate, which is renewed while the token lives.
#[derive(Debug)]
pub(super) struct Holder([u8; 32]);

/// Who has logged in without a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Bearer {
    pub(super) id: SpiffeId,
    pub(super) instance: InstanceId,
    /// When its JWT-SVID was issued: what was issued before a moment may be revoked.
    pub(super) issued_at: UnixTime,
}

/// A token that was checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Token {
    number: [u8; 16],
    pub(super) expires_at: UnixTime,
}

impl Tokens {
    pub(super) fn new(key: MacKey) -> Self {
        Self { key, revoked: Mutex::default() }
    }

    /// A token for whoever logs in, whose SVID ends at `not_after`. `number` is random.
    pub(super) fn make(
        &self,
        holder: &Holder,
        not_after: UnixTime,
        number: [u8; 16],
        now: UnixTime,
    ) -> (String, Token) {
        let end = now.as_secs().saturating_add(LIFETIME).min(not_after.as_secs());
        let tag = self.key.tag(&[&holder.0, &number, &end.to_be_bytes()]);
        let bytes = [end.to_be_bytes().as_slice(), &number, &tag].concat();
        let token = Token { number, expires_at: UnixTime::from_secs(end) };
        (format!("{PREFIX}{}", Base64UrlUnpadded::encode_string(&bytes)), token)
    }

    /// Whether a token is this caller's.
    ///
    /// # Errors
    /// A token that is not, has ended or was revoked.
    pub(super) fn check(&self, text: &str, holder: &Holder, now: UnixTime) -> Result<Token, Refusal> {
        let read = || {
            let mut bytes = [0; LENGTH];
            let text = text.strip_prefix(PREFIX)?;
            let read = Base64UrlUnpadded::decode(text, &mut bytes).ok()?;
            let (end, rest) = read.split_first_chunk::<8>()?;
            let (number, tag) = rest.split_first_chunk::<16>()?;
            let end = i64::from_be_bytes(*end);
            self.key.verify(&[&holder.0, number, &end.to_be_bytes()], tag).ok()?;
            let token = Token { number: *number, expires_at: UnixTime::from_secs(end) };
            (now < token.expires_at && !self.is_revoked(number)).then_some(token)
        };
        read().ok_or_else(|| {
            Refusal::denied(
                "vault.token",
                "permission denied: the token is not one of this caller, or has ended",
            )
            .hint("log in again, or send no token: the certificate says who calls")
        })
    }

    /// A token for whoever has shown a JWT-SVID that ends at `not_after`. `number` is random.
    pub(super) fn make_bearer(
        &self,
        bearer: &Bearer,
        not_after: UnixTime,
        number: [u8; 16],
        now: UnixTime,
    ) -> (String, Token) {
        let end = now.as_secs().saturating_add(BEARER_LIFETIME).min(not_after.as_secs());
        let mut bytes = [end.to_be_bytes(), bearer.issued_at.as_secs().to_be_bytes()].concat();
        bytes.extend_from_slice(bearer.instance.as_bytes());
        bytes.extend_from_slice(&number);
        bytes.extend_from_slice(bearer.id.to_string().as_bytes());
        // Its first part tells it from a token of the other kind, whose tag is of a holder's digest first.
        let tag = self.key.tag(&[BEARER_PREFIX.as_bytes(), &bytes]);
        bytes.extend_from_slice(&tag);
        let token = Token { number, expires_at: UnixTime::from_secs(end) };
        (format!("{BEARER_PREFIX}{}", Base64UrlUnpadded::encode_string(&bytes)), token)
    }

    /// Whose a token is that was given for a JWT-SVID. `None`: it is of the other kind.
    ///
    /// # Errors
    /// One that has ended, was revoked or was never given.
    pub(super) fn check_bearer(&self, text: &str, now: UnixTime) -> Option<Result<(Bearer, Token), Refusal>> {
        let text = text.strip_prefix(BEARER_PREFIX)?;
        let read = || {
            let mut buffer = [0; MAX_BEARER];
            let read = Base64UrlUnpadded::decode(text, &mut buffer).ok()?;
            let (signed, tag) = read.split_last_chunk::<32>()?;
            self.key.verify(&[BEARER_PREFIX.as_bytes(), signed], tag).ok()?;
            let (end, rest) = signed.split_first_chunk::<8>()?;
            let (issued_at, rest) = rest.split_first_chunk::<8>()?;
            let (instance, rest) = rest.split_first_chunk::<16>()?;
            let (number, id) = rest.split_first_chunk::<16>()?;
            let token = Token { number: *number, expires_at: UnixTime::from_secs(i64::from_be_bytes(*end)) };
            let bearer = Bearer {
                id: std::str::from_utf8(id).ok()?.parse().ok()?,
                instance: InstanceId::from_bytes(*instance),
                issued_at: UnixTime::from_secs(i64::from_be_bytes(*issued_at)),
            };
            (now < token.expires_at && !self.is_revoked(number)).then_some((bearer, token))
        };
        Some(read().ok_or_else(|| {
            Refusal::denied(
                "vault.token",
                "permission denied: the token is none of this server's, or has ended",
            )
            .hint("log in again")
        }))
    }

    fn is_revoked(&self, number: &[u8; 16]) -> bool {
        self.revoked.lock().unwrap_or_else(PoisonError::into_inner).contains_key(number)
    }

    /// Ends a token, at this server: at others it ends by itself.
    pub(super) fn revoke(&self, token: Token, now: UnixTime) {
        let mut revoked = self.revoked.lock().unwrap_or_else(PoisonError::into_inner);
        if revoked.len() >= MAX_REVOKED {
            revoked.retain(|_, end| now < *end);
        }
        // Who fills it has ended his own tokens only.
        if revoked.len() < MAX_REVOKED {
            revoked.insert(token.number, token.expires_at);
        }
    }
}

impl Holder {
    pub(super) fn of(caller: &Caller) -> Self {
        let instance = caller.instance().map(|instance| *instance.as_bytes()).unwrap_or_default();
        Self(sha256(&[instance.as_slice(), caller.id().to_string().as_bytes()].concat()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_good_for_its_holder_until_it_ends() {
        let tokens = Tokens::new(MacKey::from_bytes(&[7; 32]));
        let (own, other) = (Holder([1; 32]), Holder([2; 32]));
        let at = UnixTime::from_secs;
        let (text, token) = tokens.make(&own, at(10_000), [9; 16], at(1000));
        assert_eq!(token.expires_at, at(1000 + LIFETIME));
        assert_eq!(tokens.check(&text, &own, at(1000 + LIFETIME - 1)), Ok(token));
        assert!(tokens.check(&text, &own, at(1000 + LIFETIME)).is_err());
        assert!(tokens.check(&text, &other, at(1001)).is_err());
        assert!(Tokens::new(MacKey::from_bytes(&[8; 32])).check(&text, &own, at(1001)).is_err());
        // Not longer than the SVID.
        assert_eq!(tokens.make(&own, at(1500), [8; 16], at(1000)).1.expires_at, at(1500));
        for at_byte in 0..text.len() {
            let mut changed = text.clone().into_bytes();
            changed[at_byte] = if changed[at_byte] == b'A' { b'B' } else { b'A' };
            assert!(tokens.check(&String::from_utf8(changed).unwrap(), &own, at(1001)).is_err());
            let cut: String = text.chars().take(at_byte).collect();
            assert!(tokens.check(&cut, &own, at(1001)).is_err());
        }
        tokens.revoke(token, at(1001));
        assert!(tokens.check(&text, &own, at(1002)).is_err());
    }

    #[test]
    fn a_token_for_a_jwt_carries_its_holder_and_lives_five_minutes() {
        let tokens = Tokens::new(MacKey::from_bytes(&[7; 32]));
        let at = UnixTime::from_secs;
        let bearer = Bearer {
            id: "spiffe://example.org/app".parse().unwrap(),
            instance: InstanceId::from_bytes([3; 16]),
            issued_at: at(990),
        };
        let (text, token) = tokens.make_bearer(&bearer, at(10_000), [9; 16], at(1000));
        assert_eq!(token.expires_at, at(1000 + BEARER_LIFETIME));
        let check = |text: &str, now| tokens.check_bearer(text, at(now)).unwrap();
        assert_eq!(check(&text, 1000 + BEARER_LIFETIME - 1).unwrap(), (bearer.clone(), token));
        assert!(check(&text, 1000 + BEARER_LIFETIME).is_err());
        assert_eq!(tokens.make_bearer(&bearer, at(1100), [8; 16], at(1000)).1.expires_at, at(1100));
        for at_byte in BEARER_PREFIX.len()..text.len() {
            let mut changed = text.clone().into_bytes();
            changed[at_byte] = if changed[at_byte] == b'A' { b'B' } else { b'A' };
            assert!(check(&String::from_utf8(changed).unwrap(), 1001).is_err());
            assert!(check(text.get(..at_byte).unwrap(), 1001).is_err());
        }
        // One kind is not taken for the other.
        let (other, _) = tokens.make(&Holder([1; 32]), at(10_000), [9; 16], at(1000));
        assert!(tokens.check_bearer(&other, at(1001)).is_none());
        assert!(tokens.check(&text, &Holder([1; 32]), at(1001)).is_err());
        tokens.revoke(token, at(1001));
        assert!(check(&text, 1002).is_err());
    }
}
