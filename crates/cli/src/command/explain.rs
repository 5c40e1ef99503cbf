//! `explain`: why a process gets an identity, or why not.

use std::path::{Path, PathBuf};

use bonafide_wire::{
    admin as admin_wire,
    agent::{ExplainRequest, Explanation, WhoAmIRequest, agent_client::AgentClient},
};

use crate::{
    Console, Failure, admin,
    socket::{self, AgentSocket},
    view::explanation::ExplanationView,
};

/// `explain`.
#[derive(Clone, Debug, clap::Args)]
pub struct ExplainArgs {
    /// The process [default: this one]
    pid: Option<i32>,
    /// Ask the authority too
    #[arg(long, env = "BONAFIDE_ADMIN_SOCKET", value_name = "PATH", value_parser = socket::parse)]
    admin_socket: Option<PathBuf>,
    /// The agent.
    #[command(flatten)]
    socket: AgentSocket,
}

/// Runs the command.
///
/// # Errors
/// [`Failure::Negative`] when the process has no identity; what the agent refuses to tell; sockets that do not
/// answer.
pub async fn run(arguments: ExplainArgs, console: &Console) -> Result<(), Failure> {
    let path = &arguments.socket.path;
    let explanation = ask_agent(path, arguments.pid).await?;
    let authority = match &arguments.admin_socket {
        Some(admin_socket) if !explanation.agent_id.is_empty() => {
            Some(ask_authority(admin_socket, &explanation).await)
        }
        _ => None,
    };
    let view = ExplanationView::new(&path.display().to_string(), explanation, authority, console.now());
    console.show(&view)?;
    if view.has_identity() { Ok(()) } else { Err(Failure::Negative) }
}

/// What the agent says about a process, or about this one.
///
/// # Errors
/// What the agent refuses to tell, and a socket that does not answer.
pub async fn ask_agent(path: &Path, pid: Option<i32>) -> Result<Explanation, Failure> {
    let mut client = AgentClient::new(socket::connect("agent", path).await?);
    let answer = match pid {
        Some(pid) => client.explain(ExplainRequest { pid }).await?,
        None => client.who_am_i(WhoAmIRequest {}).await?,
    };
    Ok(answer.into_inner())
}

/// What the authority says about the process that the agent has explained.
///
/// # Errors
/// What the authority refuses to tell, and a socket that does not answer.
pub async fn ask_authority(
    path: &Path,
    explanation: &Explanation,
) -> Result<admin_wire::ExplainResponse, Failure> {
    let request = admin_wire::ExplainRequest {
        agent: explanation.agent_id.clone(),
        selectors: explanation.selectors.clone(),
    };
    Ok(admin::connect(path).await?.explain(request).await?.into_inner())
}
