//! Sites. Only on the local socket, because a scope bounds its own admins.

use std::sync::Arc;

use bonafide_wire::admin::{
    DeleteRequest, ListSitesRequest, ListSitesResponse, PutSiteRequest, PutSiteResponse, WriteResponse,
};
use tonic::Code;

use super::{Admin, Caller, idempotency};
use crate::{
    convert::wire,
    records::{self, Object, RecordChange},
    refusal::Refusal,
    site::{self, Site},
    state::SiteState,
};

/// Most sites of a trust domain: one answer lists them all.
const MAX_SITES: usize = 1000;

impl Admin {
    /// Creates a site, or changes its scope and defaults. Registrations that a narrower scope leaves outside stay, and
    /// earn nothing from then on.
    ///
    /// # Errors
    /// A malformed scope, a caller who is not on the local socket.
    pub async fn put_site(
        &self,
        caller: &Caller,
        request: PutSiteRequest,
    ) -> Result<PutSiteResponse, Refusal> {
        let PutSiteRequest { site, idempotency_key, create_only } = request;
        let wanted = site.ok_or_else(|| Refusal::invalid("site.missing", "the request has no site"))?;
        let own = PutSiteRequest { site: Some(wanted.clone()), idempotency_key: String::new(), create_only };
        let idempotency = idempotency(caller, "PutSite", &idempotency_key, &own)?;
        let now = self.clock.now();
        let (state, rights) = self.reader(caller)?;
        rights.everything()?;
        let site = wire::to_site(&wanted, state.trust_domain(), now)?;
        drop(state);
        let returned = site.clone();
        let answer = self
            .write(caller, idempotency, move |state, rights| {
                rights.everything()?;
                let before = state.site(&site.name).and_then(SiteState::site);
                if before.is_some() && create_only {
                    return Err(Refusal::new(
                        Code::AlreadyExists,
                        "site.exists",
                        format!("there is a site `{}` already", site.name),
                    )
                    .hint("choose another name, or change the site that exists"));
                }
                if before.is_none() && state.sites().count() >= MAX_SITES {
                    return Err(Refusal::new(
                        Code::ResourceExhausted,
                        "site.too-many",
                        "there are 1000 sites already",
                    )
                    .hint("delete sites that are no longer used"));
                }
                let created_at = before.map_or(site.created_at, |before| before.created_at);
                let after = Site { created_at, ..site.clone() };
                Ok((vec![RecordChange::Put(Object::Site(Arc::new(after)))], site.name.to_string()))
            })
            .await?;
        let created_at =
            self.registry.state().site(&answer.name).and_then(SiteState::site).map(|site| site.created_at);
        let site = Site { revision: answer.revision, created_at: created_at.unwrap_or(now), ..returned };
        Ok(PutSiteResponse { site: Some(wire::from_site(&site)), revision: answer.revision })
    }

    /// Deletes a site that has no registrations and no agents but banned ones; those and the site's join tokens go
    /// with it.
    ///
    /// # Errors
    /// An unknown or used site, a caller who is not on the local socket.
    pub async fn delete_site(
        &self,
        caller: &Caller,
        request: DeleteRequest,
    ) -> Result<WriteResponse, Refusal> {
        let DeleteRequest { name, idempotency_key } = request;
        let own = DeleteRequest { name: name.clone(), idempotency_key: String::new() };
        let idempotency = idempotency(caller, "DeleteSite", &idempotency_key, &own)?;
        site::check_name(&name)?;
        let answer = self
            .write(caller, idempotency, move |state, rights| {
                rights.everything()?;
                let site = state.site(&name).ok_or_else(|| {
                    Refusal::not_found("site.unknown", format!("there is no site `{name}`"))
                })?;
                let registrations = site.registration_count();
                let agents: Vec<_> = site.agents().filter_map(|id| state.agent(id)).collect();
                let admitted = agents.iter().filter(|agent| agent.ban.is_none()).count();
                if registrations > 0 || admitted > 0 {
                    return Err(Refusal::precondition(
                        "site.not-empty",
                        format!("the site `{name}` has {registrations} registrations and {admitted} agents"),
                    )
                    .hint("delete its registrations and ban its agents first"));
                }
                let mut changes: Vec<_> =
                    agents.iter().map(|agent| RecordChange::Remove(records::agent_key(&agent.id))).collect();
                let tokens = state.tokens().filter(|token| token.site == name);
                changes.extend(tokens.map(|token| RecordChange::Remove(records::token_key(&token.id))));
                changes.push(RecordChange::Remove(records::site_key(&name)));
                Ok((changes, name.clone()))
            })
            .await?;
        Ok(WriteResponse { revision: answer.revision })
    }

    /// The sites that the caller may see.
    ///
    /// # Errors
    /// A caller without rights.
    pub fn list_sites(&self, caller: &Caller, _: &ListSitesRequest) -> Result<ListSitesResponse, Refusal> {
        let (state, rights) = self.reader(caller)?;
        let visible = state.sites().filter_map(SiteState::site).filter(|site| rights.sees(&site.name));
        Ok(ListSitesResponse { sites: visible.map(|site| wire::from_site(site)).collect() })
    }
}
