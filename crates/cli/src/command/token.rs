//! `token create|list|delete`: join tokens.

use bonafide_wire::admin::{
    CreateJoinTokenRequest, CreateJoinTokenResponse, DeleteRequest, JoinToken, ListJoinTokensRequest,
};

use super::site;
use crate::{
    Console, Failure,
    admin::{self, Client, idempotency_key},
    duration,
    socket::AdminSocket,
    view::token::{NewTokenView, TokenList},
};

/// Join tokens: each lets one node join, once.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum TokenCommand {
    /// Create a token; it is shown once and stored only as a hash
    Create {
        /// The site that the node will belong to [default: the only one]
        #[arg(long)]
        site: Option<String>,
        /// How long it can be used
        #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = duration::parse)]
        ttl: u32,
        /// The authority.
        #[command(flatten)]
        socket: AdminSocket,
    },
    /// List the tokens that wait to be used
    #[command(alias = "ls")]
    List {
        /// Only those of this site
        #[arg(long)]
        site: Option<String>,
        /// The authority.
        #[command(flatten)]
        socket: AdminSocket,
    },
    /// Delete tokens
    #[command(alias = "rm")]
    Delete {
        /// Their IDs
        #[arg(required = true)]
        ids: Vec<String>,
        /// The authority.
        #[command(flatten)]
        socket: AdminSocket,
    },
}

/// Runs the command.
///
/// # Errors
/// What the authority refuses, and sockets that do not answer.
pub async fn run(command: TokenCommand, console: &Console) -> Result<(), Failure> {
    match command {
        TokenCommand::Create { site, ttl, socket } => {
            let mut client = admin::connect(&socket.path).await?;
            let site = site::named_or_only(&mut client, site).await?;
            console.show(&NewTokenView::from(create(&mut client, site, ttl).await?))
        }
        TokenCommand::List { site, socket } => {
            let mut client = admin::connect(&socket.path).await?;
            let tokens = all(&mut client, site.unwrap_or_default()).await?;
            console.show(&TokenList(tokens.into_iter().map(Into::into).collect()))
        }
        TokenCommand::Delete { ids, socket } => {
            let mut client = admin::connect(&socket.path).await?;
            for id in ids {
                let request = DeleteRequest { name: id.clone(), idempotency_key: idempotency_key() };
                client.delete_join_token(request).await?;
                console.note(format!("deleted token `{id}`"));
            }
            Ok(())
        }
    }
}

/// Every token that the caller may see, page by page.
async fn all(client: &mut Client, site: String) -> Result<Vec<JoinToken>, Failure> {
    let mut found = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = ListJoinTokensRequest { site: site.clone(), page_size: admin::PAGE, page_token };
        let page = client.list_join_tokens(request).await?.into_inner();
        found.extend(page.tokens);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return Ok(found);
        }
    }
}

/// A new token for `site`, good for `ttl` seconds.
///
/// # Errors
/// What the authority refuses.
pub async fn create(client: &mut Client, site: String, ttl: u32) -> Result<CreateJoinTokenResponse, Failure> {
    let request = CreateJoinTokenRequest { site, ttl, idempotency_key: idempotency_key() };
    Ok(client.create_join_token(request).await?.into_inner())
}
