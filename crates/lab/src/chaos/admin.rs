//! What an operator asks of the authority.

use std::collections::BTreeMap;

use anyhow::{Context, Result, anyhow};
use bonafide_wire::{
    admin::{
        ApplyRequest, CreateJoinTokenRequest, ListRegistrationsRequest, PutRegistrationRequest,
        PutSiteRequest, Resource, StatusRequest, admin_client::AdminClient, applied::Action,
        resource::Resource as Kind,
    },
    problem_of,
    types::{Problem, Registration, Scope, Selector, Site, registration},
};
use tonic::transport::Channel;

use super::server::TRUST_DOMAIN;

pub(crate) const SITE: &str = "chaos";

/// A client of the admin API, with the answers that cases need.
#[derive(Clone, Debug)]
pub(crate) struct Operator(pub(crate) AdminClient<Channel>);

impl Operator {
    /// The site that all entries are of. Its SVIDs live for `ttl` seconds.
    pub(crate) async fn put_site(&mut self, ttl: u32) -> Result<()> {
        let scope = Scope {
            spiffe_ids: vec![format!("spiffe://{TRUST_DOMAIN}/**")],
            signatures_per_second: 1_000_000,
            attestations_per_second: 100_000,
            ..Default::default()
        };
        let site =
            Site { name: SITE.to_owned(), scope: Some(scope), default_x509_ttl: ttl, ..Default::default() };
        self.0.put_site(PutSiteRequest { site: Some(site), ..Default::default() }).await?;
        Ok(())
    }

    /// Adds an entry, or changes it.
    pub(crate) async fn put(&mut self, registration: Registration) -> Result<u64, Problem> {
        let request = PutRegistrationRequest { registration: Some(registration), ..Default::default() };
        let put = self.0.put_registration(request).await.map_err(|status| problem_of(&status))?;
        Ok(put.into_inner().revision)
    }

    /// Writes all of them or none.
    pub(crate) async fn apply(&mut self, all: impl IntoIterator<Item = Registration>) -> Result<(), Problem> {
        let resources = all
            .into_iter()
            .map(|registration| Resource { resource: Some(Kind::Registration(registration)) })
            .collect();
        let request = ApplyRequest { resources, ..Default::default() };
        let applied = self.0.apply(request).await.map_err(|status| problem_of(&status))?.into_inner();
        if applied.committed || applied.results.iter().all(|result| result.action() == Action::Unchanged) {
            return Ok(());
        }
        Err(applied.results.into_iter().find_map(|result| result.problem).unwrap_or_default())
    }

    /// All entries, by ID.
    pub(crate) async fn registrations(&mut self) -> Result<BTreeMap<String, Registration>> {
        let mut all = BTreeMap::new();
        let mut page_token = String::new();
        loop {
            let request = ListRegistrationsRequest { page_size: 1000, page_token, ..Default::default() };
            let page = self.0.list_registrations(request).await?.into_inner();
            all.extend(page.registrations.into_iter().map(|each| (each.id.clone(), each)));
            page_token = page.next_page_token;
            if page_token.is_empty() {
                return Ok(all);
            }
        }
    }

    /// What the next node joins with.
    pub(crate) async fn join_word(&mut self) -> Result<String> {
        let request = CreateJoinTokenRequest { site: SITE.to_owned(), ..Default::default() };
        Ok(self.0.create_join_token(request).await?.into_inner().join)
    }

    pub(crate) async fn revision(&mut self) -> Result<u64> {
        Ok(self.0.status(StatusRequest {}).await?.into_inner().revision)
    }
}

/// An entry for whoever has these selectors.
pub(crate) fn entry(id: &str, selectors: &[(&str, &str)]) -> Registration {
    Registration {
        id: id.to_owned(),
        kind: registration::Kind::Entry.into(),
        site: SITE.to_owned(),
        spiffe_id: format!("spiffe://{TRUST_DOMAIN}/{id}"),
        selectors: selectors
            .iter()
            .map(|&(key, value)| Selector { key: key.to_owned(), value: value.to_owned() })
            .collect(),
        ..Default::default()
    }
}

/// As an error of a case.
pub(crate) fn refused(problem: Problem) -> anyhow::Error {
    anyhow!("{}: {}", problem.code, problem.message)
}

/// The value of an entry's hint, which counts.
pub(crate) fn count_of(all: &BTreeMap<String, Registration>, id: &str) -> Result<u64> {
    let hint = all.get(id).map_or("0", |entry| entry.hint.as_str());
    hint.parse().with_context(|| format!("`{id}` has the hint `{hint}`"))
}
