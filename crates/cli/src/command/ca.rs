//! `ca show`: what signs, in which state, until when.

use bonafide_wire::admin::ListAuthoritiesRequest;

use crate::{Console, Failure, admin, socket::AdminSocket, view::authority::SigningAuthorityList};

/// What signs.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum CaCommand {
    /// Show roots, intermediates and JWT keys with their states and expiries
    #[command(alias = "list", alias = "ls")]
    Show {
        /// The authority.
        #[command(flatten)]
        socket: AdminSocket,
    },
}

/// Runs the command.
///
/// # Errors
/// What the authority refuses, and sockets that do not answer.
pub async fn run(command: CaCommand, console: &Console) -> Result<(), Failure> {
    let CaCommand::Show { socket } = command;
    let mut client = admin::connect(&socket.path).await?;
    let authorities = client.list_authorities(ListAuthoritiesRequest {}).await?.into_inner().authorities;
    console.show(&SigningAuthorityList(authorities.into_iter().map(Into::into).collect()))
}
