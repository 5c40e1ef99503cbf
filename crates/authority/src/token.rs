//! Join tokens: 32 random bytes, shown once, stored as a hash, spent once.

use std::time::Duration;

use bonafide_attest::join::Token;
use bonafide_crypto::random::Random;
use bonafide_identity::time::UnixTime;
use tonic::Code;

use crate::{records::JoinToken, refusal::Refusal, state::State};

/// When a caller names no lifetime.
pub const DEFAULT_TTL: Duration = Duration::from_secs(600);
/// A token that lies about for longer gets into the wrong hands.
pub const MAX_TTL: Duration = Duration::from_secs(7 * 24 * 3600);
/// Unspent tokens of one site.
const MAX_OF_SITE: usize = 10_000;

/// The change that makes a token in `site`.
///
/// # Errors
/// An unknown site, or too many tokens in it.
pub(crate) fn create(
    state: &State,
    id: &str,
    site: &str,
    token: &Token,
    ttl: Duration,
    now: UnixTime,
) -> Result<JoinToken, Refusal> {
    let site = state.site(site).ok_or_else(|| {
        Refusal::not_found("site.unknown", format!("there is no site `{site}`")).hint("create the site first")
    })?;
    if site.token_count() >= MAX_OF_SITE {
        return Err(Refusal::new(
            Code::ResourceExhausted,
            "token.too-many",
            "the site has 10000 unspent join tokens",
        )
        .hint("delete tokens that nobody will use"));
    }
    Ok(JoinToken {
        id: id.to_owned(),
        site: site.site().map(|site| site.name.to_string()).unwrap_or_default(),
        sha256: token.sha256(),
        expires_at: now.saturating_add(ttl),
        created_at: now,
    })
}

/// Names a token in lists.
pub(crate) fn fresh_id(random: &dyn Random) -> String {
    use std::fmt::Write;
    random.array::<8>().iter().fold(String::with_capacity(16), |mut id, byte| {
        let _ = write!(id, "{byte:02x}");
        id
    })
}
