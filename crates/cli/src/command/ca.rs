//! `ca show|prepare|activate|taint|revoke|drill`: what signs, and how it is changed.

mod drill;

use std::time::Duration;

use bonafide_wire::admin::{
    ChangeAuthorityRequest, ChangeAuthorityResponse, ListAuthoritiesRequest, PrepareAuthorityRequest,
    signing_authority::Kind,
};
use clap::ValueEnum;

use crate::{
    Console, Failure,
    admin::{self, Client, WaitArgs},
    progress::with_spinner,
    socket::AdminSocket,
    view::authority::{ChangedAuthorityView, SigningAuthorityList},
};

pub use drill::DrillArgs;

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
    /// Prepare a key: it is published, and used only once it is activated
    Prepare {
        /// What it is to sign
        #[arg(value_enum)]
        kind: KeyKind,
        /// Whether to wait for agents.
        #[command(flatten)]
        wait: WaitArgs,
        /// The authority.
        #[command(flatten)]
        socket: AdminSocket,
    },
    /// Activate a prepared key: it signs from now on, if every agent knows it
    Activate(ChangeArgs),
    /// Taint a key: it never signs again, and everything that it signed is renewed now
    Taint(ChangeArgs),
    /// Revoke a key: nobody believes it any more, once everything that it signed was renewed
    Revoke(ChangeArgs),
    /// Do what has to be done when a key was stolen: replace it, renew everything, and distrust it everywhere
    Drill(DrillArgs),
}

/// What a key signs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum KeyKind {
    /// A root: it signs intermediates
    Root,
    /// The intermediate of this server: it signs X509-SVIDs
    Intermediate,
    /// A JWT key: it signs JWT-SVIDs
    Jwt,
}

/// A change of one key.
#[derive(Clone, Debug, clap::Args)]
pub struct ChangeArgs {
    /// Its ID, as `ca show` lists it
    id: String,
    /// Do it although agents are not ready: those that are behind refuse the new key, and what was not renewed is refused
    #[arg(long)]
    force: bool,
    /// Whether to wait for agents.
    #[command(flatten)]
    wait: WaitArgs,
    /// The authority.
    #[command(flatten)]
    socket: AdminSocket,
}

/// What to do with a key.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Change {
    Activate,
    Taint,
    Revoke,
}

/// Runs the command.
///
/// # Errors
/// What the authority refuses, and sockets that do not answer.
pub async fn run(command: CaCommand, console: &Console) -> Result<(), Failure> {
    match command {
        CaCommand::Show { socket } => {
            let mut client = admin::connect(&socket.path).await?;
            let list = client.list_authorities(ListAuthoritiesRequest {}).await?.into_inner().authorities;
            console.show(&SigningAuthorityList(list.into_iter().map(Into::into).collect()))
        }
        CaCommand::Prepare { kind, wait, socket } => {
            let mut client = admin::connect(&socket.path).await?;
            let request = PrepareAuthorityRequest { kind: kind.to_wire().into() };
            let changed = client.prepare_authority(request).await?.into_inner();
            let revision = changed.revision;
            console.show(&ChangedAuthorityView::from(changed))?;
            wait.finish(console, &mut client, revision).await
        }
        CaCommand::Activate(args) => args.run(Change::Activate, console).await,
        CaCommand::Taint(args) => args.run(Change::Taint, console).await,
        CaCommand::Revoke(args) => args.run(Change::Revoke, console).await,
        CaCommand::Drill(args) => drill::run(args, console).await,
    }
}

impl ChangeArgs {
    async fn run(self, change: Change, console: &Console) -> Result<(), Failure> {
        let mut client = admin::connect(&self.socket.path).await?;
        let wait = self.wait.seconds();
        let work = change.carry_out(&mut client, &self.id, self.force, wait);
        let changed = with_spinner(console, "waiting for the agents", work).await?;
        let revision = changed.revision;
        console.show(&ChangedAuthorityView::from(changed))?;
        self.wait.finish(console, &mut client, revision).await
    }
}

impl Change {
    /// Waits for agents for so many seconds, where the change needs them.
    pub(crate) async fn carry_out(
        self,
        client: &mut Client,
        id: &str,
        force: bool,
        wait: u32,
    ) -> Result<ChangeAuthorityResponse, Failure> {
        let request = ChangeAuthorityRequest { id: id.to_owned(), force, wait };
        let answer = async {
            match self {
                Self::Activate => client.activate_authority(request).await,
                Self::Taint => client.taint_authority(request).await,
                Self::Revoke => client.revoke_authority(request).await,
            }
        };
        // The authority keeps the time; ours is for one that does not answer at all.
        let limit = u64::from(wait).saturating_add(15);
        let answer = tokio::time::timeout(Duration::from_secs(limit), answer).await;
        let what = || Failure::TimedOut { what: "changing the key".into(), limit };
        Ok(answer.map_err(|_| what())??.into_inner())
    }
}

impl KeyKind {
    pub(crate) fn to_wire(self) -> Kind {
        match self {
            Self::Root => Kind::Root,
            Self::Intermediate => Kind::Intermediate,
            Self::Jwt => Kind::Jwt,
        }
    }
}
