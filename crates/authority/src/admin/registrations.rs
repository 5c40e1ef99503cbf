//! Registrations: within the scope of their site, whoever puts them.

use std::sync::Arc;

use bonafide_attest::registration::Registration;
use bonafide_wire::admin::{
    DeleteRequest, ListRegistrationsRequest, ListRegistrationsResponse, PutRegistrationRequest,
    PutRegistrationResponse, WriteResponse,
};
use tonic::Code;

use super::{Admin, Caller, idempotency, kept_labels};
use crate::{
    convert::wire,
    idempotency::hex,
    records::{self, Object, RecordChange},
    refusal::Refusal,
    scope, site,
    state::SiteState,
};

const DEFAULT_PAGE: usize = 500;
const MAX_PAGE: usize = 1000;
/// Longest SPIFFE ID or template that a list is filtered by.
const MAX_FILTER: usize = 2048;

impl Admin {
    /// Puts a registration, in place of the one of the same ID.
    ///
    /// # Errors
    /// A malformed one, one outside the scope of its site, a site that is not the caller's, an ID that another site
    /// has.
    pub async fn put_registration(
        &self,
        caller: &Caller,
        request: PutRegistrationRequest,
    ) -> Result<PutRegistrationResponse, Refusal> {
        let PutRegistrationRequest { registration, idempotency_key, create_only } = request;
        let wanted = registration
            .ok_or_else(|| Refusal::invalid("registration.missing", "the request has no registration"))?;
        let own = PutRegistrationRequest {
            registration: Some(wanted.clone()),
            idempotency_key: String::new(),
            create_only,
        };
        let idempotency = idempotency(caller, "PutRegistration", &idempotency_key, &own)?;
        let now = self.clock.now();
        let fresh_id = hex(&self.random.array::<8>());
        let (state, _) = self.reader(caller)?;
        let registration = wire::to_registration(&wanted, state.trust_domain(), &fresh_id, now)?;
        drop(state);
        let returned = registration.clone();
        let answer = self
            .write(caller, idempotency, move |state, rights| {
                rights.of_site(&registration.site)?;
                let site = state.site(&registration.site).and_then(SiteState::site);
                let site = site.ok_or_else(|| unknown_site(&registration.site))?;
                scope::check_registration(site, &registration)?;
                let before = state.registration(&registration.id);
                if let Some(before) = &before
                    && (create_only || before.site != registration.site)
                {
                    return Err(taken(&registration.id));
                }
                let created_at = before.as_ref().map_or(registration.created_at, |before| before.created_at);
                let management_labels = kept_labels(
                    &registration.management_labels,
                    before.as_ref().map(|before| &before.management_labels),
                );
                let after = Registration { created_at, management_labels, ..registration.clone() };
                Ok((vec![RecordChange::Put(Object::Registration(Arc::new(after)))], registration.id.clone()))
            })
            .await?;
        let created_at =
            self.registry.state().registration(&answer.name).map(|registration| registration.created_at);
        let registration = Registration {
            id: answer.name,
            revision: answer.revision,
            created_at: created_at.unwrap_or(now),
            ..returned
        };
        Ok(PutRegistrationResponse {
            registration: Some(wire::from_registration(&registration)),
            revision: answer.revision,
        })
    }

    /// Deletes a registration. What was issued for it lives until it expires.
    ///
    /// # Errors
    /// An unknown one, or one of a site that is not the caller's: in the same words.
    pub async fn delete_registration(
        &self,
        caller: &Caller,
        request: DeleteRequest,
    ) -> Result<WriteResponse, Refusal> {
        let DeleteRequest { name, idempotency_key } = request;
        let own = DeleteRequest { name: name.clone(), idempotency_key: String::new() };
        let idempotency = idempotency(caller, "DeleteRegistration", &idempotency_key, &own)?;
        wire::check_registration_id(&name)?;
        let answer = self
            .write(caller, idempotency, move |state, rights| {
                state.registration(&name).filter(|registration| rights.sees(&registration.site)).ok_or_else(
                    || {
                        Refusal::not_found(
                            "registration.unknown",
                            format!("there is no registration `{name}`"),
                        )
                        .hint("`bonafide entry list` shows those that you may see")
                    },
                )?;
                Ok((vec![RecordChange::Remove(records::registration_key(&name))], name.clone()))
            })
            .await?;
        Ok(WriteResponse { revision: answer.revision })
    }

    /// One page of the registrations that the caller may see, in the order of their IDs.
    ///
    /// # Errors
    /// A malformed filter, a site that is not the caller's.
    pub fn list_registrations(
        &self,
        caller: &Caller,
        request: &ListRegistrationsRequest,
    ) -> Result<ListRegistrationsResponse, Refusal> {
        let (state, rights) = self.reader(caller)?;
        if request.spiffe_id.len() > MAX_FILTER {
            return Err(Refusal::invalid("registration.filter", "the SPIFFE ID is longer than 2048 bytes"));
        }
        if !request.page_token.is_empty() {
            wire::check_registration_id(&request.page_token).map_err(|_| {
                Refusal::invalid("registration.page-token", "the page token is not one of this list")
            })?;
        }
        let size = match request.page_size as usize {
            0 => DEFAULT_PAGE,
            size => size.min(MAX_PAGE),
        };
        let after = request.page_token.as_str();
        let wanted = |registration: &Arc<Registration>| {
            request.spiffe_id.is_empty() || registration.spiffe_id_text() == request.spiffe_id
        };
        let mut page: Vec<Arc<Registration>> = if request.site.is_empty() {
            let visible =
                state.registrations_after(after).filter(|registration| rights.sees(&registration.site));
            visible.filter(wanted).take(size + 1).collect()
        } else {
            site::check_name(&request.site)?;
            rights.of_site(&request.site)?;
            let ids =
                state.site(&request.site).into_iter().flat_map(|site| site.registration_ids_after(after));
            ids.filter_map(|id| state.registration(id)).filter(wanted).take(size + 1).collect()
        };
        let more = page.len() > size;
        page.truncate(size);
        let next_page_token = match page.last() {
            Some(last) if more => last.id.clone(),
            _ => String::new(),
        };
        let registrations = page.iter().map(|registration| wire::from_registration(registration)).collect();
        Ok(ListRegistrationsResponse { registrations, next_page_token })
    }
}

pub(super) fn unknown_site(name: &str) -> Refusal {
    Refusal::not_found("site.unknown", format!("there is no site `{name}`")).hint("create the site first")
}

/// Says no more when the ID is another site's.
pub(super) fn taken(id: &str) -> Refusal {
    Refusal::new(Code::AlreadyExists, "registration.exists", format!("the registration ID `{id}` is taken"))
        .hint("choose another ID, or none")
}
