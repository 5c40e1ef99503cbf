//! Tokens, for clients that can't go without one. The holder must show the same identity beside it, so that a token that
//! was stolen is worth nothing; what it carries is who logged in, and until when.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use base64ct::{Base64UrlUnpadded, Encoding as _};
use bonafide_crypto::digest::sha256;
use bonafide_crypto::mac::MacKey;
use bonafide_identity::time::UnixTime;

use crate::kms::callers::Caller;
use crate::refusal::Refusal;

const PREFIX: &str = "bonafide.";
/// Seconds that a token lives, unless the SVID of whoever logs in ends before.
pub(super) const LIFETIME: i64 = 3600;
/// Revoked tokens that are remembered until they end.
const MAX_REVOKED: usize = 65_536;
const LENGTH: usize = 8 + 16 + 32;

/// Makes and checks tokens.
pub(super) struct Tokens {
    key: MacKey,
    revoked: Mutex<HashMap<[u8; 16], UnixTime>>,
}

/// Whose a token is: a launch, and not its certificate, which is renewed while the token lives.
#[derive(Debug)]
pub(super) struct Holder([u8; 32]);

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
            let revoked = self.revoked.lock().unwrap_or_else(PoisonError::into_inner).contains_key(number);
            (now < token.expires_at && !revoked).then_some(token)
        };
        read().ok_or_else(|| {
            Refusal::denied(
                "vault.token",
                "permission denied: the token is not one of this caller, or has ended",
            )
            .hint("log in again, or send no token: the certificate says who calls")
        })
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
}
