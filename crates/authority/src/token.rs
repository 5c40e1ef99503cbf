//! Join tokens: 32 random bytes, shown once, stored as a hash, spent once.

use std::{sync::Arc, time::Duration};

use bonafide_attest::{SelectorSet, join::Token};
use bonafide_crypto::random::Random;
use bonafide_identity::{InstanceId, SpiffeId, reserved, time::UnixTime};
use tonic::Code;

use crate::{
    records::{self, Agent, JoinToken, Object, RecordChange},
    refusal::Refusal,
    registry::Registry,
    state::{SiteState, State},
};

/// When a caller names no lifetime.
pub const DEFAULT_TTL: Duration = Duration::from_secs(600);
/// A token that lies about for longer gets into the wrong hands.
pub const MAX_TTL: Duration = Duration::from_secs(7 * 24 * 3600);
/// Unspent tokens of one site.
const MAX_OF_SITE: usize = 10_000;

/// What is known of a node besides its token.
#[derive(Clone, Debug)]
pub struct NewAgent {
    /// Names the agent; drawn by the authority.
    pub uuid: InstanceId,
    /// What the node says of its software, bounded by the caller.
    pub version: String,
    /// What was proved of the node.
    pub selectors: SelectorSet,
}

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

/// Spends a token: one commit removes it and creates the agent's record, so of any number of nodes that present the
/// same token, to any number of servers, one is admitted.
///
/// # Errors
/// `token.invalid` for one that never was, was spent, or has expired: which of them is nobody's business.
pub async fn spend(
    registry: &Registry,
    token: &Token,
    new: NewAgent,
    now: UnixTime,
) -> Result<Arc<Agent>, Refusal> {
    let sha256 = token.sha256();
    let (_, agent) = registry
        .write_with(move |state| {
            let record =
                state.token_by_hash(&sha256).filter(|record| record.expires_at > now).ok_or_else(invalid)?;
            state.site(&record.site).and_then(SiteState::site).ok_or_else(invalid)?;
            let agent = Arc::new(Agent {
                id: agent_id(state, &record.site, new.uuid)?,
                site: record.site.clone(),
                attestor: "join_token".to_owned(),
                selectors: new.selectors.clone(),
                attested_at: now,
                ban: None,
                version: new.version.clone(),
            });
            if state.agent(&agent.id).is_some() {
                return Err(Refusal::new(Code::AlreadyExists, "agent.exists", "the new agent's ID is taken")
                    .hint("try again"));
            }
            let changes = vec![
                RecordChange::Remove(records::token_key(&record.id)),
                RecordChange::Put(Object::Agent(agent.clone())),
            ];
            Ok((changes, agent))
        })
        .await?;
    Ok(agent)
}

fn agent_id(state: &State, site: &str, uuid: InstanceId) -> Result<SpiffeId, Refusal> {
    reserved::agent_id(state.trust_domain(), site, &uuid.to_string())
        .map_err(|error| Refusal::invalid(error.code(), error.to_string()).hint(error.hint()))
}

fn invalid() -> Refusal {
    Refusal::denied("token.invalid", "the join token is unknown, spent or expired")
        .hint("create another one with `bonafide token create`")
}

/// Names a token in lists.
pub(crate) fn fresh_id(random: &dyn Random) -> String {
    use std::fmt::Write;
    random.array::<8>().iter().fold(String::with_capacity(16), |mut id, byte| {
        let _ = write!(id, "{byte:02x}");
        id
    })
}
