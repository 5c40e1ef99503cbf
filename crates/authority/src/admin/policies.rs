//! Policies: listed and deleted one by one; what writes them is [`Admin::apply`].

use bonafide_wire::admin::{DeleteRequest, ListPoliciesRequest, ListPoliciesResponse, WriteResponse};
use tonic::Code;

use super::{Admin, Caller, Rights, idempotency, paging::Page};
use crate::{
    policy::PolicyRecord,
    records::{self, RecordChange},
    refusal::Refusal,
};

/// Most policies of a trust domain. Each may have thousands of rules.
const MAX_POLICIES: usize = 5000;

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

/// Whether there may be so many policies.
///
/// # Errors
/// `policy.too-many`.
pub(super) fn check_count(count: usize) -> Result<(), Refusal> {
    if count > MAX_POLICIES {
        return Err(Refusal::new(
            Code::ResourceExhausted,
            "policy.too-many",
            format!("there can't be more than {MAX_POLICIES} policies"),
        )
        .hint("put rules that belong together into one policy"));
    }
    Ok(())
}
