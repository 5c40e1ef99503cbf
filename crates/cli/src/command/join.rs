//! `join`: the one line to paste on a new node.

use super::{site, token};
use crate::{Console, Failure, admin, duration, socket::AdminSocket, view::token::JoinView};

/// `join`.
#[derive(Clone, Debug, clap::Args)]
pub struct JoinArgs {
    /// The site that the node will belong to [default: the only one]
    site: Option<String>,
    /// How long the line can be used
    #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = duration::parse)]
    ttl: u32,
    /// The authority.
    #[command(flatten)]
    socket: AdminSocket,
}

/// Runs the command.
///
/// # Errors
/// What the authority refuses, and sockets that do not answer.
pub async fn run(arguments: JoinArgs, console: &Console) -> Result<(), Failure> {
    let mut client = admin::connect(&arguments.socket.path).await?;
    let site = site::named_or_only(&mut client, arguments.site).await?;
    let view = JoinView::new(&site, token::create(&mut client, site.clone(), arguments.ttl).await?);
    let until =
        view.expires_at().map_or_else(String::new, |time| format!(", {}", time.relative_to(console.now())));
    console.note(format!(
        "Paste this on the new node of site `{site}`. It works once, and holds a secret{until}:"
    ));
    console.show(&view)
}
