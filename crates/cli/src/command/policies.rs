//! The policies that the authority has.

use bonafide_wire::{admin::ListPoliciesRequest, types::Policy};

use crate::{
    Failure,
    admin::{self, Client},
};

/// Every policy that the caller may see.
///
/// # Errors
/// What the authority refuses.
pub async fn all(client: &mut Client) -> Result<Vec<Policy>, Failure> {
    let mut found = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = ListPoliciesRequest { page_size: admin::PAGE, page_token };
        let page = client.list_policies(request).await?.into_inner();
        found.extend(page.policies);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return Ok(found);
        }
    }
}
