//! Sites. Only on the local socket, because a scope bounds its own admins.

use std::sync::Arc;

use bonafide_wire::admin::{
    DeleteRequest, ListSitesRequest, ListSitesResponse, PutSiteRequest, PutSiteResponse, WriteResponse,
};
use tonic::Code;

use super::{Admin, Caller, idempotency, kept_labels, paging::Page};
use crate::{
    convert::wire,
    records::{self, Object, RecordChange},
    refusal::Refusal,
    site::{self, Site},
    state::{SiteState, State},
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
                if before.is_none() {
                    check_count(state.sites().count() + 1)?;
                }
                let created_at = before.map_or(site.created_at, |before| before.created_at);
                let management_labels =
                    kept_labels(&site.management_labels, before.map(|before| &before.management_labels));
                let after = Site { created_at, management_labels, ..site.clone() };
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
                check_unused(state, site, &name, site.registration_count())?;
                Ok((deletion(state, site, &name), name.clone()))
            })
            .await?;
        Ok(WriteResponse { revision: answer.revision })
    }

    /// The sites that the caller may see, in the order of their names.
    ///
    /// # Errors
    /// A caller without rights, a page token that is not one of this list.
    pub fn list_sites(
        &self,
        caller: &Caller,
        request: &ListSitesRequest,
    ) -> Result<ListSitesResponse, Refusal> {
        let (state, rights) = self.reader(caller)?;
        let page = Page::new(request.page_size, &request.page_token)?;
        let visible = state.sites_after(page.after()).filter(|site| rights.sees(&site.name));
        let (sites, next_page_token) = page.take(visible, |site| site.name.to_string())?;
        Ok(ListSitesResponse {
            sites: sites.into_iter().map(|site| wire::from_site(site)).collect(),
            next_page_token,
        })
    }
}

/// Whether there may be so many sites.
///
/// # Errors
/// `site.too-many`.
pub(super) fn check_count(count: usize) -> Result<(), Refusal> {
    if count > MAX_SITES {
        return Err(Refusal::new(
            Code::ResourceExhausted,
            "site.too-many",
            format!("there can't be more than {MAX_SITES} sites"),
        )
        .hint("delete sites that are no longer used"));
    }
    Ok(())
}

/// Whether a site with so many registrations may be deleted.
///
/// # Errors
/// `site.not-empty`.
pub(super) fn check_unused(
    state: &State,
    site: &SiteState,
    name: &str,
    registrations: usize,
) -> Result<(), Refusal> {
    let admitted = site.agents().filter_map(|id| state.agent(id)).filter(|agent| agent.ban.is_none()).count();
    if registrations > 0 || admitted > 0 {
        return Err(Refusal::precondition(
            "site.not-empty",
            format!("the site `{name}` has {registrations} registrations and {admitted} agents"),
        )
        .hint("delete its registrations and ban its agents first"));
    }
    Ok(())
}

/// The site, its banned agents and its join tokens.
pub(super) fn deletion(state: &State, site: &SiteState, name: &str) -> Vec<RecordChange> {
    let agents = site.agents().map(|id| RecordChange::Remove(records::agent_key(id)));
    let tokens = state.tokens().filter(|token| token.site == *name);
    let mut changes: Vec<_> =
        agents.chain(tokens.map(|token| RecordChange::Remove(records::token_key(&token.id)))).collect();
    changes.push(RecordChange::Remove(records::site_key(name)));
    changes
}
