//! The command line.

use bonafide_identity::SpiffeId;
use clap::{Parser, Subcommand};
use clap_complete::Shell;

use crate::{
    command::{
        agent::{AgentsCommand, RunArgs},
        apply::{ApplyArgs, DiffArgs, ExportArgs},
        authority::AuthorityCommand,
        bundle::BundleCommand,
        ca::CaCommand,
        decisions::DecisionsArgs,
        dev::DevArgs,
        entry::EntryCommand,
        explain::ExplainArgs,
        inspect::InspectArgs,
        join::JoinArgs,
        key::KeyCommand,
        keyholder::KeyholderCommand,
        log::LogCommand,
        policy::PolicyCommand,
        revoke::RevokeCommand,
        secret::SecretCommand,
        simulate::SimulateArgs,
        site::SiteCommand,
        status::StatusArgs,
        svid::SvidCommand,
        token::TokenCommand,
    },
    console::Format,
    demo::DemoArgs,
};

/// Unforgeable identities for workloads, from no secret at all.
#[derive(Debug, Parser)]
#[command(name = "bonafide", version, propagate_version = true, arg_required_else_help = true)]
pub struct Cli {
    #[command(flatten)]
    pub(crate) globals: Globals,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What every command takes.
#[derive(Clone, Debug, clap::Args)]
pub struct Globals {
    /// How data is written
    #[arg(long, short, global = true, value_enum, default_value_t = Format::Table, value_name = "FORMAT")]
    pub(crate) output: Format,
    /// No messages; of data only the names
    #[arg(long, short, global = true)]
    pub(crate) quiet: bool,
}

/// The agent alone, with the commands that a node needs.
#[derive(Debug, Parser)]
#[command(name = "bonafide-agent", version, propagate_version = true, arg_required_else_help = true)]
pub struct AgentCli {
    #[command(flatten)]
    pub(crate) globals: Globals,
    #[command(subcommand)]
    pub(crate) command: NodeCommand,
}

/// What a node needs.
#[derive(Debug, Subcommand)]
pub enum NodeCommand {
    /// Run the agent of this node until it is told to end
    Run(Box<RunArgs>),
    /// Show whether the agent is well
    Status(StatusArgs),
    /// Tell why a process gets an identity, or why not
    Explain(ExplainArgs),
    /// Get this process' own identities, over the SPIFFE Workload API
    #[command(subcommand)]
    Svid(SvidCommand),
    /// Look into a certificate, chain, key, token, bundle or join line
    Inspect(InspectArgs),
    /// Print a completion script for a shell
    Completion {
        /// Which shell
        shell: Shell,
    },
}

/// Every command.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run authority and agent in one process, ready to use; prints what to do next
    Dev(DevArgs),
    /// Play the story so far with real processes; fails if anything is not as it should be
    Demo(DemoArgs),
    /// Show whether authority and agent are well
    Status(StatusArgs),
    /// Tell why a process gets an identity, or why not
    Explain(ExplainArgs),
    /// Get this process' own identities, over the SPIFFE Workload API
    #[command(subcommand)]
    Svid(SvidCommand),
    /// Look into a certificate, chain, key, token, bundle or join line
    Inspect(InspectArgs),
    /// Create, list, show and delete entries and rules: who gets which identity
    #[command(subcommand)]
    Entry(EntryCommand),
    /// List, show, put and delete sites: what each place can ever obtain
    #[command(subcommand)]
    Site(SiteCommand),
    /// Make sites, entries, rules, policies and keys as files say: all of it in one commit, or nothing
    ///
    /// A resource becomes what its file says, whoever wrote it before. What somebody else changes while this runs is
    /// reported, and then nothing is written. Exit codes: 0 done, or nothing to do; 1 refused or failed; 2 a command
    /// line that makes no sense.
    Apply(Box<ApplyArgs>),
    /// Show what `apply` would change. Exit codes: 0 nothing, 1 something, 2 it can't be told
    Diff(DiffArgs),
    /// Print sites, entries, rules, policies and keys as files that `apply` takes
    Export(ExportArgs),
    /// Show what was decided on this node, by which rule, and what rules in shadow would have changed
    Decisions(DecisionsArgs),
    /// Check, compare, test and explain policies, from files alone
    #[command(subcommand)]
    Policy(Box<PolicyCommand>),
    /// Make, change, destroy and grant keys that workloads use and never see
    #[command(subcommand)]
    Key(Box<KeyCommand>),
    /// Seal secrets offline, and look into what is public of them
    #[command(subcommand)]
    Secret(Box<SecretCommand>),
    /// Print the one line to paste on a new node
    Join(JoinArgs),
    /// Create, list and delete join tokens
    #[command(subcommand)]
    Token(TokenCommand),
    /// Make and run an authority
    #[command(subcommand)]
    Authority(AuthorityCommand),
    /// Make and run a keyholder of sealed secrets, and its ceremonies with the others
    #[command(subcommand)]
    Keyholder(KeyholderCommand),
    /// Run the agent of this node; list and ban agents
    #[command(subcommand)]
    Agent(AgentsCommand),
    /// Revoke an instance, an ID, an agent or a site at once; list and undo that
    #[command(subcommand)]
    Revoke(RevokeCommand),
    /// Show and change what signs: roots, intermediates, JWT keys; replace what was stolen
    #[command(subcommand)]
    Ca(CaCommand),
    /// Show and verify the issuance ledger
    #[command(subcommand)]
    Log(LogCommand),
    /// Print the trust bundle
    #[command(subcommand)]
    Bundle(BundleCommand),
    /// Measure an authority under very many virtual agents
    Simulate(SimulateArgs),
    /// An actor of the demo
    #[command(hide = true)]
    DemoServer {
        /// Its only caller
        #[arg(long)]
        client: SpiffeId,
    },
    /// An actor of the demo
    #[command(hide = true)]
    DemoClient {
        /// Its only server
        #[arg(long)]
        server: SpiffeId,
        /// `address:port`
        #[arg(long)]
        address: String,
    },
    /// An actor of the demo
    #[command(hide = true)]
    DemoGuardedServer {
        /// Its only caller
        #[arg(long)]
        client: SpiffeId,
    },
    /// An actor of the demo
    #[command(hide = true)]
    DemoAskingClient {
        /// Its only server
        #[arg(long)]
        server: SpiffeId,
        /// `address:port`
        #[arg(long)]
        address: String,
    },
    /// An actor of the demo
    #[command(hide = true)]
    DemoKeyWriter {
        /// Its only server
        #[arg(long)]
        server: SpiffeId,
        /// `address:port`
        #[arg(long)]
        address: String,
    },
    /// An actor of the demo
    #[command(hide = true)]
    DemoKeyReader {
        /// Its only caller
        #[arg(long)]
        client: SpiffeId,
    },
    /// An actor of the demo
    #[command(hide = true)]
    DemoLaunch,
    /// Print a completion script for a shell
    Completion {
        /// Which shell
        shell: Shell,
    },
}
