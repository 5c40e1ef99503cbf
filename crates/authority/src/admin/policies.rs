//! Policies: listed and deleted one by one; what writes them is [`Admin::apply`].

use std::collections::HashMap;
use std::sync::Arc;

use bonafide_wire::admin::{DeleteRequest, ListPoliciesRequest, ListPoliciesResponse, WriteResponse};
use tonic::Code;

use super::{Admin, Caller, Rights, idempotency, paging::Page};
use crate::{
    policy::PolicyRecord,
    records::{self, RecordChange},
    refusal::Refusal,
};

/// Most policies of a trust domain. Each may have thousands of rules. Agents keep as many.
const MAX_POLICIES: usize = 5000;
/// Of these, only who may do everything writes the last ones.
const RESERVE: usize = 1000;
/// Policies that name a site, by its admins.
const MAX_OF_SITE: usize = 500;
/// Bytes of all that an agent may get: documents that name its site, or none. Agents keep four times as many.
const MAX_BYTES: usize = 16 << 20;
/// So many more for who may do everything.
const RESERVE_BYTES: usize = 16 << 20;

impl Rights {
    /// Whether the caller may see and write a policy. An admin of sites may those that bind no other site; guardrails are
    /// the platform's.
    ///
    /// # Errors
    /// `admin.other-site` and `admin.local-only`, as for everything else.
    pub(crate) fn of_policy(&self, policy: &PolicyRecord) -> Result<(), Refusal> {
        if policy.is_guardrail() || policy.sites.is_empty() {
            return self.everything();
        }
        policy.sites.iter().try_for_each(|site| self.of_site(site))
    }
}

impl Admin {
    /// Deletes a policy. Agents that are connected forget it at once.
    ///
    /// # Errors
    /// An unknown one, or one that is not the caller's: in the same words.
    pub async fn delete_policy(
        &self,
        caller: &Caller,
        request: DeleteRequest,
    ) -> Result<WriteResponse, Refusal> {
        let DeleteRequest { name, idempotency_key } = request;
        let own = DeleteRequest { name: name.clone(), idempotency_key: String::new() };
        let idempotency = idempotency(caller, "DeletePolicy", &idempotency_key, &own)?;
        let answer = self
            .write(caller, idempotency, move |state, rights| {
                let policy = state.policy(&name).filter(|policy| rights.of_policy(policy).is_ok());
                let policy = policy.ok_or_else(|| {
                    let short: String = name.chars().take(80).collect();
                    Refusal::not_found("policy.unknown", format!("there is no policy `{short}`"))
                        .hint("`bonafide policy list` shows those that you may see")
                })?;
                Ok((vec![RecordChange::Remove(records::policy_key(&policy.name))], name.clone()))
            })
            .await?;
        Ok(WriteResponse { revision: answer.revision })
    }

    /// The policies that the caller may see, in the order of their names.
    ///
    /// # Errors
    /// A caller without rights, a page token that is not one of this list.
    pub fn list_policies(
        &self,
        caller: &Caller,
        request: &ListPoliciesRequest,
    ) -> Result<ListPoliciesResponse, Refusal> {
        let (state, rights) = self.reader(caller)?;
        let page = Page::new(request.page_size, &request.page_token)?;
        let visible = state.policies_after(page.after()).filter(|policy| rights.of_policy(policy).is_ok());
        let (policies, next_page_token) = page.take(visible, |policy| policy.name.to_string())?;
        let policies = policies.into_iter().map(|policy| policy.to_wire()).collect();
        Ok(ListPoliciesResponse { policies, next_page_token })
    }
}

/// How many policies there are, and how large, all and by the sites that they name.
#[derive(Debug, Default)]
pub(super) struct Shares<'a> {
    count: usize,
    /// Bytes of those that every agent may get.
    global: usize,
    /// Number and bytes of those that name a site.
    sites: HashMap<&'a str, (usize, usize)>,
}

impl<'a> Shares<'a> {
    pub(super) fn of(policies: impl Iterator<Item = &'a Arc<PolicyRecord>>) -> Self {
        let mut shares = Self::default();
        for policy in policies {
            shares.count += 1;
            if policy.sites.is_empty() {
                shares.global += policy.document.len();
            }
            for site in &policy.sites {
                let (count, bytes) = shares.sites.entry(site).or_default();
                *count += 1;
                *bytes += policy.document.len();
            }
        }
        shares
    }

    /// Whether a policy that these count may be written in place of `before`. What takes no more than `before` may be
    /// written always. Who may do `everything` has a reserve, so that admins of sites can't keep a guardrail out.
    ///
    /// # Errors
    /// `policy.too-many`, `policy.too-many-of-site`, `policy.too-much`.
    pub(super) fn check(
        &self,
        policy: &PolicyRecord,
        before: Option<&Arc<PolicyRecord>>,
        everything: bool,
    ) -> Result<(), Refusal> {
        let exhausted = |code: &'static str, message: String| {
            Err(Refusal::new(Code::ResourceExhausted, code, message)
                .hint("put rules that belong together into one policy, and delete what is not needed"))
        };
        let most = if everything { MAX_POLICIES } else { MAX_POLICIES - RESERVE };
        if before.is_none() && self.count > most {
            return exhausted("policy.too-many", format!("there can't be more than {most} policies"));
        }
        let same_sites = before.is_some_and(|before| policy.sites == before.sites);
        let most = if everything { MAX_BYTES + RESERVE_BYTES } else { MAX_BYTES };
        let larger = !same_sites || before.is_none_or(|before| before.document.len() < policy.document.len());
        for site in &policy.sites {
            let (count, bytes) = self.sites.get(site.as_str()).copied().unwrap_or_default();
            if !everything && !same_sites && count > MAX_OF_SITE {
                return exhausted(
                    "policy.too-many-of-site",
                    format!("there can't be more than {MAX_OF_SITE} policies for the site `{site}`"),
                );
            }
            if larger && self.global.saturating_add(bytes) > most {
                return exhausted(
                    "policy.too-much",
                    format!(
                        "the policies that agents of the site `{site}` get can't have more than {most} bytes"
                    ),
                );
            }
        }
        let largest = self.sites.values().map(|(_, bytes)| *bytes).max().unwrap_or_default();
        if policy.sites.is_empty() && larger && self.global.saturating_add(largest) > most {
            return exhausted(
                "policy.too-much",
                format!("the policies that agents of one site get can't have more than {most} bytes"),
            );
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use bonafide_identity::time::UnixTime;
    use bytes::Bytes;

    use super::*;

    /// A policy with a document of this size.
    fn policy(name: &str, sites: &str, size: usize) -> Arc<PolicyRecord> {
        let source = format!(
            "{{kind: Policy, name: {name}, sites: [{sites}], rules: [{{name: all, allow: {{who: anyone}}}}]}}"
        );
        let source = source.replace("sites: [], ", "");
        let record = PolicyRecord::of_source(&source, UnixTime::from_secs(1)).unwrap();
        Arc::new(PolicyRecord { document: Bytes::from(vec![b' '; size]), ..record })
    }

    fn code(
        all: &[&Arc<PolicyRecord>],
        one: &PolicyRecord,
        before: Option<&Arc<PolicyRecord>>,
        all_rights: bool,
    ) -> String {
        let checked = Shares::of(all.iter().copied()).check(one, before, all_rights);
        checked.err().map(|refusal| refusal.code().to_owned()).unwrap_or_default()
    }

    #[test]
    fn admins_of_sites_leave_room_for_the_platform() {
        let (edge, core, all) = (policy("e", "edge", 10), policy("c", "core", 10), policy("a", "", 10));
        assert_eq!(code(&vec![&edge; 500], &edge, None, false), "");
        assert_eq!(code(&vec![&edge; 501], &edge, None, false), "policy.too-many-of-site");
        assert_eq!(code(&vec![&edge; 501], &edge, None, true), "");
        assert_eq!(code(&vec![&edge; 501], &edge, Some(&edge), false), "", "it takes no more than before");
        assert_eq!(code(&vec![&edge; 501], &edge, Some(&core), false), "policy.too-many-of-site");
        assert_eq!(code(&vec![&core; 4000], &edge, None, false), "");
        assert_eq!(code(&vec![&core; 4001], &edge, None, false), "policy.too-many");
        assert_eq!(code(&vec![&core; 4001], &all, None, true), "");
        assert_eq!(code(&vec![&core; 5001], &all, None, true), "policy.too-many");
    }

    #[test]
    fn what_agents_of_a_site_get_has_a_size() {
        let half = MAX_BYTES / 2;
        let (edge, core, all) = (policy("e", "edge", half), policy("c", "core", 1), policy("a", "", half));
        assert_eq!(code(&[&edge, &all], &edge, None, false), "");
        assert_eq!(code(&[&edge, &all, &core], &core, None, false), "");
        let more = policy("m", "edge", 1);
        assert_eq!(code(&[&edge, &all, &more], &more, None, false), "policy.too-much");
        assert_eq!(code(&[&edge, &all, &more], &more, Some(&edge), false), "", "it is smaller than before");
        assert_eq!(code(&[&edge, &all, &more], &more, None, true), "");
        assert_eq!(code(&[&edge, &all, &all, &all, &more], &all, None, true), "policy.too-much");
    }
}
