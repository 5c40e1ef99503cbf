//! `agent list`, `agent ban`: agents, as the authority knows them.

use bonafide_wire::admin::{BanAgentRequest, ListAgentsRequest};

use crate::{
    Console, Failure,
    admin::{self, WaitArgs, idempotency_key},
    socket::AdminSocket,
    view::agent::AgentList,
};

/// Agents, as the authority knows them.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum AgentsCommand {
    /// List the agents that have joined
    #[command(alias = "ls")]
    List {
        /// Only those of this site
        #[arg(long)]
        site: Option<String>,
        /// The authority.
        #[command(flatten)]
        socket: AdminSocket,
    },
    /// Ban an agent for good: its identities end, and it gets no more
    Ban {
        /// SPIFFE ID of the agent
        id: String,
        /// Why; kept in the record
        #[arg(long, default_value = "")]
        reason: String,
        /// Whether to wait for agents.
        #[command(flatten)]
        wait: WaitArgs,
        /// The authority.
        #[command(flatten)]
        socket: AdminSocket,
    },
}

/// Runs the command.
///
/// # Errors
/// What the authority refuses, and sockets that do not answer.
pub async fn run(command: AgentsCommand, console: &Console) -> Result<(), Failure> {
    match command {
        AgentsCommand::List { site, socket } => {
            let mut client = admin::connect(&socket.path).await?;
            let request = ListAgentsRequest { site: site.unwrap_or_default() };
            let agents = client.list_agents(request).await?.into_inner().agents;
            console.show(&AgentList(agents.into_iter().map(Into::into).collect()))
        }
        AgentsCommand::Ban { id, reason, wait, socket } => {
            let mut client = admin::connect(&socket.path).await?;
            let request = BanAgentRequest { id: id.clone(), reason, idempotency_key: idempotency_key() };
            let revision = client.ban_agent(request).await?.into_inner().revision;
            console.note(format!("banned {id}"));
            wait.finish(console, &mut client, revision).await
        }
    }
}
