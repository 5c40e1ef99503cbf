//! `status`: whether authority and agent are well.

use std::path::PathBuf;

use bonafide_wire::{admin as admin_wire, agent as agent_wire, agent::agent_client::AgentClient};

use crate::{
    Console, Failure, admin,
    socket::{self, ADMIN_SOCKET, AgentSocket},
    view::status::{Answer, StatusView},
};

/// `status`.
#[derive(Clone, Debug, clap::Args)]
pub struct StatusArgs {
    /// Ask only the authority
    #[arg(long, conflicts_with = "agent")]
    authority: bool,
    /// Ask only the agent
    #[arg(long)]
    agent: bool,
    /// The authority's admin socket
    #[arg(long, env = "BONAFIDE_ADMIN_SOCKET", default_value = ADMIN_SOCKET, value_name = "PATH",
        value_parser = socket::parse)]
    admin_socket: PathBuf,
    /// The agent.
    #[command(flatten)]
    socket: AgentSocket,
}

/// Runs the command. A part that has no socket on this machine is left out, as long as the other one has.
///
/// # Errors
/// [`Failure::Negative`] when a part is not well; the socket's failure when there is neither.
pub async fn run(arguments: StatusArgs, console: &Console) -> Result<(), Failure> {
    let authority = if arguments.agent { None } else { Some(authority(&arguments.admin_socket).await) };
    let agent = if arguments.authority { None } else { Some(agent(&arguments.socket.path).await) };
    let (authority, agent) = match (authority, agent) {
        (Some(Err(Failure::SocketMissing { .. })), Some(agent @ Ok(_))) => (None, Some(agent)),
        (authority @ Some(Ok(_)), Some(Err(Failure::SocketMissing { .. }))) => (authority, None),
        (Some(Err(missing @ Failure::SocketMissing { .. })), Some(Err(Failure::SocketMissing { .. }))) => {
            return Err(missing);
        }
        (Some(Err(failure)), None) => return Err(failure),
        (None, Some(Err(failure))) => return Err(failure),
        both => both,
    };
    let view = StatusView { authority: authority.map(Answer::new), agent: agent.map(Answer::new) };
    console.show(&view)?;
    if view.is_well() { Ok(()) } else { Err(Failure::Negative) }
}

async fn authority(path: &std::path::Path) -> Result<admin_wire::AuthorityStatus, Failure> {
    Ok(admin::connect(path).await?.status(admin_wire::StatusRequest {}).await?.into_inner())
}

async fn agent(path: &std::path::Path) -> Result<agent_wire::AgentStatus, Failure> {
    let mut client = AgentClient::new(socket::connect("agent", path).await?);
    Ok(client.status(agent_wire::StatusRequest {}).await?.into_inner())
}
