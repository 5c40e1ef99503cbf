//! The policies that the authority has.

use bonafide_wire::{
    admin::{DeleteRequest, ListPoliciesRequest},
    types::Policy,
};

use crate::{
    Console, Failure,
    admin::{self, Client, WaitArgs, idempotency_key},
    socket::AdminSocket,
    view::kept_policy::PolicyList,
};

/// Shows them.
///
/// # Errors
/// What the authority refuses, and sockets that do not answer.
pub(super) async fn list(socket: &AdminSocket, console: &Console) -> Result<(), Failure> {
    let mut client = admin::connect(&socket.path).await?;
    let found = all(&mut client).await?;
    console.show(&PolicyList(found.into_iter().map(Into::into).collect()))
}

/// Deletes some.
///
/// # Errors
/// What the authority refuses, and sockets that do not answer.
pub(super) async fn delete(
    names: Vec<String>,
    wait: WaitArgs,
    socket: &AdminSocket,
    console: &Console,
) -> Result<(), Failure> {
    let mut client = admin::connect(&socket.path).await?;
    let mut revision = 0;
    for name in names {
        let request = DeleteRequest { name: name.clone(), idempotency_key: idempotency_key() };
        revision = client.delete_policy(request).await?.into_inner().revision;
        console.note(format!("deleted policy `{name}`"));
    }
    wait.finish(console, &mut client, revision).await
}

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
