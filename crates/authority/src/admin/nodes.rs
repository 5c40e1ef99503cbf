//! Join tokens, and the agents that they admit.

use std::{sync::Arc, time::Duration};

use bonafide_attest::join::{JoinLine, Token};
use bonafide_crypto::digest::sha256;
use bonafide_identity::time::UnixTime;
use bonafide_wire::admin::{
    self, BanAgentRequest, CreateJoinTokenRequest, CreateJoinTokenResponse, DeleteRequest, ListAgentsRequest,
    ListAgentsResponse, ListJoinTokensRequest, ListJoinTokensResponse, WriteResponse,
};
use tonic::Code;

use super::{
    Admin, Caller, Rights, idempotency,
    paging::{self, Page},
    revocations::{MAX_REASON, of_banned},
};
use crate::{
    convert::wire,
    records::{self, Agent, Object, RecordChange, signing_key},
    refusal::Refusal,
    site,
    state::State,
    token,
};

const MAX_TOKEN_ID: usize = 64;

impl Admin {
    /// Makes a join token. It is in this answer, and nowhere else.
    ///
    /// # Errors
    /// An unknown site, one that is not the caller's, a lifetime beyond a week, a server without a root yet; a
    /// repeated idempotency key, because the token can't be shown again.
    pub async fn create_join_token(
        &self,
        caller: &Caller,
        request: CreateJoinTokenRequest,
    ) -> Result<CreateJoinTokenResponse, Refusal> {
        let CreateJoinTokenRequest { site, ttl, idempotency_key } = request;
        let own = CreateJoinTokenRequest { site: site.clone(), ttl, idempotency_key: String::new() };
        let idempotency = idempotency(caller, "CreateJoinToken", &idempotency_key, &own)?;
        site::check_name(&site)?;
        let ttl = if ttl == 0 { token::DEFAULT_TTL } else { Duration::from_secs(ttl.into()) };
        if ttl > token::MAX_TTL {
            return Err(Refusal::invalid("token.ttl", "a join token lives for a week at most")
                .hint("create tokens when they are needed"));
        }
        let now = self.clock.now();
        let (state, rights) = self.reader(caller)?;
        rights.of_site(&site)?;
        let root_pin = root_pin(&state)?;
        let trust_domain = state.trust_domain().clone();
        drop(state);
        let token = Token::generate(&*self.random);
        let id = token::fresh_id(&*self.random);
        let expires_at = now.saturating_add(ttl);
        let secret = token.clone();
        let answer = self
            .write(caller, idempotency, move |state, rights| {
                rights.of_site(&site)?;
                let record = token::create(state, &id, &site, &secret, ttl, now)?;
                Ok((vec![RecordChange::Put(Object::JoinToken(Arc::new(record)))], id.clone()))
            })
            .await?;
        if answer.replayed {
            return Err(Refusal::new(
                Code::AlreadyExists,
                "token.shown-once",
                format!("the token `{}` was made for this request, and can't be shown again", answer.name),
            )
            .hint("delete that token, and create another one with a fresh idempotency key"));
        }
        let line = JoinLine { address: self.info.address.clone(), trust_domain, root_pin, token };
        Ok(CreateJoinTokenResponse {
            id: answer.name,
            token: line.token.to_text().to_string(),
            expires_at: expires_at.as_secs(),
            join: line.to_word().to_string(),
        })
    }

    /// Unspent tokens of a site, or of all that the caller may see. Never the tokens themselves.
    ///
    /// # Errors
    /// A site that is not the caller's, a page token that is not one of this list, or more tokens than one answer holds
    /// for a caller that asks for no pages.
    pub fn list_join_tokens(
        &self,
        caller: &Caller,
        request: &ListJoinTokensRequest,
    ) -> Result<ListJoinTokensResponse, Refusal> {
        let (state, rights) = self.reader(caller)?;
        check_site_filter(&rights, &request.site)?;
        let now = self.clock.now();
        let page = Page::new(request.page_size, &request.page_token)?;
        let waiting = state
            .tokens_after(page.after())
            .filter(|token| token.expires_at > now && selected(&rights, &request.site, &token.site));
        let (tokens, next_page_token) = page.take(waiting, |token| token.id.clone())?;
        let tokens = tokens
            .into_iter()
            .map(|token| admin::JoinToken {
                id: token.id.clone(),
                site: token.site.clone(),
                expires_at: token.expires_at.as_secs(),
                created_at: token.created_at.as_secs(),
            })
            .collect();
        Ok(ListJoinTokensResponse { tokens, next_page_token })
    }

    /// Takes a token back before somebody spends it.
    ///
    /// # Errors
    /// An unknown one, or one of a site that is not the caller's: in the same words.
    pub async fn delete_join_token(
        &self,
        caller: &Caller,
        request: DeleteRequest,
    ) -> Result<WriteResponse, Refusal> {
        let DeleteRequest { name, idempotency_key } = request;
        let own = DeleteRequest { name: name.clone(), idempotency_key: String::new() };
        let idempotency = idempotency(caller, "DeleteJoinToken", &idempotency_key, &own)?;
        if name.len() > MAX_TOKEN_ID {
            return Err(Refusal::invalid("token.id", "a token's ID has at most 64 characters")
                .hint("name it as `bonafide token list` shows it; this is not the token itself"));
        }
        let answer = self
            .write(caller, idempotency, move |state, rights| {
                state.token(&name).filter(|token| rights.sees(&token.site)).ok_or_else(|| {
                    Refusal::not_found("token.unknown", "there is no such join token")
                        .hint("it may have been spent, or have expired")
                })?;
                Ok((vec![RecordChange::Remove(records::token_key(&name))], name.clone()))
            })
            .await?;
        Ok(WriteResponse { revision: answer.revision })
    }

    /// Agents of a site, or of all that the caller may see.
    ///
    /// # Errors
    /// A site that is not the caller's, a page token that is not one of this list, or more agents than one answer holds
    /// for a caller that asks for no pages.
    pub fn list_agents(
        &self,
        caller: &Caller,
        request: &ListAgentsRequest,
    ) -> Result<ListAgentsResponse, Refusal> {
        let (state, rights) = self.reader(caller)?;
        check_site_filter(&rights, &request.site)?;
        let page = Page::new(request.page_size, &request.page_token)?;
        let after = match page.after() {
            "" => None,
            text => Some(wire::to_id(text, state.trust_domain()).map_err(|_| paging::foreign_token())?),
        };
        let id = |agent: &&Arc<Agent>| agent.id.to_string();
        let (agents, next_page_token) = if request.site.is_empty() {
            page.take(state.agents_after(after.as_ref()).filter(|agent| rights.sees(&agent.site)), id)?
        } else {
            let own =
                state.site(&request.site).into_iter().flat_map(|site| site.agents_after(after.as_ref()));
            page.take(own.filter_map(|id| state.agent(id)), id)?
        };
        let agents = agents.into_iter().map(|agent| self.describe(agent)).collect();
        Ok(ListAgentsResponse { agents, next_page_token })
    }

    /// From now on the agent gets nothing; its streams end, and peers refuse what was issued through it.
    ///
    /// # Errors
    /// An unknown one, or one of a site that is not the caller's: in the same words.
    pub async fn ban_agent(
        &self,
        caller: &Caller,
        request: BanAgentRequest,
    ) -> Result<WriteResponse, Refusal> {
        let BanAgentRequest { id, reason, idempotency_key } = request;
        let own = BanAgentRequest { id: id.clone(), reason: reason.clone(), idempotency_key: String::new() };
        let idempotency = idempotency(caller, "BanAgent", &idempotency_key, &own)?;
        if reason.len() > MAX_REASON || reason.chars().any(char::is_control) {
            return Err(Refusal::invalid(
                "agent.ban-reason",
                "the reason is longer than 256 bytes, or has a control character",
            ));
        }
        let (now, revoked_by) = (self.clock.now(), caller.name());
        let (state, _) = self.reader(caller)?;
        let id = wire::to_id(&id, state.trust_domain())?;
        drop(state);
        let answer = self
            .write(caller, idempotency, move |state, rights| {
                let agent = state.agent(&id).filter(|agent| rights.sees(&agent.site)).ok_or_else(|| {
                    Refusal::not_found("agent.unknown", format!("there is no agent `{id}`"))
                        .hint("`bonafide agent list` shows those that you may see")
                })?;
                let changes = of_banned(state, rights, agent, &reason, &revoked_by, now)?;
                Ok((changes, id.to_string()))
            })
            .await?;
        Ok(WriteResponse { revision: answer.revision })
    }

    fn describe(&self, agent: &Agent) -> admin::Agent {
        let presence = self.presence.agent(&agent.id).unwrap_or_default();
        let version =
            if presence.version.is_empty() { agent.version.clone() } else { presence.version.clone() };
        admin::Agent {
            id: agent.id.to_string(),
            site: agent.site.clone(),
            attestor: agent.attestor.clone(),
            connected: presence.is_connected(),
            banned: agent.ban.is_some(),
            acknowledged_revision: presence.acknowledged,
            attested_at: agent.attested_at.as_secs(),
            svid_expires_at: presence.svid_expires_at.map_or(0, UnixTime::as_secs),
            version,
            selectors: wire::from_selectors(agent.selectors.iter()),
        }
    }
}

/// SHA-256 of the root that this authority's chains end in.
fn root_pin(state: &State) -> Result<[u8; 32], Refusal> {
    state
        .signing_keys()
        .find(|key| key.r#use() == signing_key::Use::Root && key.state() == signing_key::State::Active)
        .map(|key| sha256(&key.certificate))
        .ok_or_else(|| {
            Refusal::unavailable("authority.no-root", "the authority has no active root yet")
                .hint("try again in a moment")
        })
}

fn check_site_filter(rights: &Rights, site: &str) -> Result<(), Refusal> {
    if site.is_empty() {
        return Ok(());
    }
    site::check_name(site)?;
    rights.of_site(site)
}

fn selected(rights: &Rights, filter: &str, site: &str) -> bool {
    (filter.is_empty() || filter == site) && rights.sees(site)
}
