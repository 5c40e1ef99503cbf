//! `decisions`: what was decided on this node, and why.

use bonafide_identity::SpiffeId;
use bonafide_wire::agent::{ListDecisionsRequest, agent_client::AgentClient};

use crate::{
    Console, Failure,
    socket::{self, AgentSocket},
    view::decision::DecisionList,
};

/// `decisions`.
#[derive(Clone, Debug, clap::Args)]
pub struct DecisionsArgs {
    /// Only those of this policy
    #[arg(long)]
    policy: Option<String>,
    /// Only those of this rule
    #[arg(long)]
    rule: Option<String>,
    /// Only those about this caller
    #[arg(long, value_name = "SPIFFE_ID")]
    caller: Option<SpiffeId>,
    /// Only those that were denied
    #[arg(long)]
    denied: bool,
    /// Only those that a policy in shadow mode would have decided otherwise
    #[arg(long)]
    would: bool,
    /// At most so many
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1000))]
    limit: u32,
    /// The agent.
    #[command(flatten)]
    socket: AgentSocket,
}

/// Shows the latest decisions: of the whole node for root, of one's own programs for anybody else.
///
/// # Errors
/// Sockets that do not answer.
pub async fn run(arguments: DecisionsArgs, console: &Console) -> Result<(), Failure> {
    let mut client = AgentClient::new(socket::connect("agent", &arguments.socket.path).await?);
    let request = ListDecisionsRequest {
        policy: arguments.policy.unwrap_or_default(),
        rule: arguments.rule.unwrap_or_default(),
        caller: arguments.caller.map(|id| id.to_string()).unwrap_or_default(),
        denied_only: arguments.denied,
        would_only: arguments.would,
        limit: arguments.limit,
    };
    let answer = client.list_decisions(request).await?.into_inner();
    let events = answer.events.iter().filter_map(|event| serde_json::from_str(event).ok()).collect();
    console.show(&DecisionList::new(events, answer.dropped))
}
