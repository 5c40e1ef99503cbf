//! A token that an admin made for one node of one site, good for one attestation.

use bonafide_attest::SelectorSet;
use bonafide_attest::join::Token;
use bonafide_identity::time::UnixTime;

use super::attestor::{Asked, NodeAttestor, Step, Verdict};
use crate::records::{JoinToken, RecordChange, token_key};
use crate::refusal::Refusal;
use crate::state::State;

/// Attests by join token. Only the SHA-256 of a token is stored, and found by: how long a look-up takes tells nothing
/// about the tokens that there are.
#[derive(Clone, Copy, Debug, Default)]
pub struct JoinTokens;

impl NodeAttestor for JoinTokens {
    fn kind(&self) -> &'static str {
        "join_token"
    }

    fn max_evidence(&self) -> usize {
        32
    }

    fn claimed_site(&self, evidence: &[u8], state: &State) -> Option<String> {
        let token = Token::from_bytes(evidence)?;
        Some(state.token_by_hash(&token.sha256())?.site.clone())
    }

    fn begin(&self, asked: Asked<'_>, state: &State, now: UnixTime) -> Result<Step, Refusal> {
        let sha256 = Token::from_bytes(asked.evidence).ok_or_else(unknown)?.sha256();
        let token = find(state, &sha256, now)?;
        Ok(Step::Verdict(Verdict {
            site: token.site.clone(),
            agent: None,
            selectors: SelectorSet::default(),
            evidence: token.id.clone(),
            proof: None,
            spend: Box::new(move |state| {
                let token = find(state, &sha256, now)?;
                Ok(vec![RecordChange::Remove(token_key(&token.id))])
            }),
        }))
    }
}

fn find<'a>(state: &'a State, sha256: &[u8; 32], now: UnixTime) -> Result<&'a JoinToken, Refusal> {
    let token = state.token_by_hash(sha256).ok_or_else(unknown)?;
    if token.expires_at <= now { Err(unknown()) } else { Ok(token) }
}

/// The same words for a token that never was, was used, or has expired.
fn unknown() -> Refusal {
    Refusal::denied("token.invalid", "the join token is unknown, spent or expired")
        .hint("create another one with `bonafide token create`")
}
