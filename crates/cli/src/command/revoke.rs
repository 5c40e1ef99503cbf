//! `revoke instance|id|agent|site|list|undo`.

use bonafide_identity::{InstanceId, SpiffeId, revocation::Subject};
use bonafide_wire::{
    admin::{ListRevocationsRequest, RevokeRequest, UnrevokeRequest},
    from_subject,
};

use crate::{
    Console, Failure,
    admin::{self, WaitArgs, idempotency_key},
    socket::AdminSocket,
    view::revocation::RevocationList,
};

/// End at once what has not expired yet: peers refuse it, open connections close.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum RevokeCommand {
    /// One launch of a workload: it gets nothing any more, as long as its process runs
    Instance {
        /// As its certificate and `bonafide explain` show it
        instance: InstanceId,
        /// Reason and authority.
        #[command(flatten)]
        common: CommonArgs,
    },
    /// Everything issued under a SPIFFE ID before this moment; its registrations stand, unless told otherwise
    Id {
        /// The SPIFFE ID
        id: SpiffeId,
        /// Delete the entries that name it, too, so that nothing new is issued under it
        #[arg(long)]
        delete_registrations: bool,
        /// Reason and authority.
        #[command(flatten)]
        common: CommonArgs,
    },
    /// Everything issued through an agent; the agent is banned for good
    Agent {
        /// SPIFFE ID of the agent
        id: SpiffeId,
        /// Reason and authority.
        #[command(flatten)]
        common: CommonArgs,
    },
    /// Everything that a site's evidence led to, until it is released; as `site quarantine`
    Site {
        /// Its name
        name: String,
        /// Reason and authority.
        #[command(flatten)]
        common: CommonArgs,
    },
    /// List what is revoked, with reasons
    #[command(alias = "ls")]
    List {
        /// Only what belongs to this site
        #[arg(long)]
        site: Option<String>,
        /// The authority.
        #[command(flatten)]
        socket: AdminSocket,
    },
    /// Take a revocation back: what has not expired is trusted again
    Undo(UndoArgs),
}

/// What every revocation takes.
#[derive(Clone, Debug, clap::Args)]
pub struct CommonArgs {
    /// Why; kept in the record, and not told to peers
    #[arg(long, default_value = "")]
    reason: String,
    /// Whether to wait for agents.
    #[command(flatten)]
    wait: WaitArgs,
    /// The authority.
    #[command(flatten)]
    socket: AdminSocket,
}

/// `revoke undo`.
#[derive(Clone, Debug, clap::Args)]
pub struct UndoArgs {
    /// What was revoked.
    #[command(flatten)]
    subject: UndoSubject,
    /// Whether to wait for agents.
    #[command(flatten)]
    wait: WaitArgs,
    /// The authority.
    #[command(flatten)]
    socket: AdminSocket,
}

/// One of them.
#[derive(Clone, Debug, clap::Args)]
#[group(required = true, multiple = false)]
struct UndoSubject {
    /// An instance
    #[arg(long)]
    instance: Option<InstanceId>,
    /// A SPIFFE ID
    #[arg(long, value_name = "SPIFFE_ID")]
    id: Option<SpiffeId>,
    /// A site
    #[arg(long)]
    site: Option<String>,
}

impl UndoSubject {
    fn subject(self) -> Option<Subject> {
        let instance = self.instance.map(Subject::Instance);
        instance.or(self.id.map(Subject::Id)).or(self.site.map(|site| Subject::Site(site.into())))
    }
}

/// Runs the command.
///
/// # Errors
/// What the authority refuses, and sockets that do not answer.
pub async fn run(command: RevokeCommand, console: &Console) -> Result<(), Failure> {
    match command {
        RevokeCommand::Instance { instance, common } => {
            revoke(Subject::Instance(instance), false, common, console).await
        }
        RevokeCommand::Id { id, delete_registrations, common } => {
            revoke(Subject::Id(id), delete_registrations, common, console).await
        }
        RevokeCommand::Agent { id, common } => revoke(Subject::Agent(id), false, common, console).await,
        RevokeCommand::Site { name, common } => quarantine(name, common, console).await,
        RevokeCommand::List { site, socket } => {
            let mut client = admin::connect(&socket.path).await?;
            let request = ListRevocationsRequest { site: site.unwrap_or_default() };
            let revocations = client.list_revocations(request).await?.into_inner().revocations;
            console.show(&RevocationList(
                revocations.into_iter().filter_map(|each| each.try_into().ok()).collect(),
            ))
        }
        RevokeCommand::Undo(UndoArgs { subject, wait, socket }) => match subject.subject() {
            Some(subject) => undo(subject, wait, socket, console).await,
            None => Err(Failure::usage("nothing is named", "name an instance, a SPIFFE ID or a site")),
        },
    }
}

/// `site quarantine`, `revoke site`.
///
/// # Errors
/// As [`run`].
pub async fn quarantine(name: String, common: CommonArgs, console: &Console) -> Result<(), Failure> {
    revoke(Subject::Site(name.into()), false, common, console).await
}

/// `site release`.
///
/// # Errors
/// As [`run`].
pub async fn release(
    name: String,
    wait: WaitArgs,
    socket: AdminSocket,
    console: &Console,
) -> Result<(), Failure> {
    undo(Subject::Site(name.into()), wait, socket, console).await
}

async fn revoke(
    subject: Subject,
    delete_registrations: bool,
    common: CommonArgs,
    console: &Console,
) -> Result<(), Failure> {
    let CommonArgs { reason, wait, socket } = common;
    let mut client = admin::connect(&socket.path).await?;
    let request = RevokeRequest {
        subject: Some(from_subject(&subject)),
        reason,
        idempotency_key: idempotency_key(),
        delete_registrations,
    };
    let answer = client.revoke(request).await?.into_inner();
    console.note(format!("revoked {subject}"));
    for entry in &answer.deleted {
        console.note(format!("deleted entry `{entry}`"));
    }
    if !answer.registrations.is_empty() {
        console.note(format!(
            "it can be issued anew under {}; delete them, or repeat with --delete-registrations, to end that too",
            answer.registrations.join(", ")
        ));
    }
    wait.finish(console, &mut client, answer.revision).await
}

async fn undo(
    subject: Subject,
    wait: WaitArgs,
    socket: AdminSocket,
    console: &Console,
) -> Result<(), Failure> {
    let mut client = admin::connect(&socket.path).await?;
    let request =
        UnrevokeRequest { subject: Some(from_subject(&subject)), idempotency_key: idempotency_key() };
    let revision = client.unrevoke(request).await?.into_inner().revision;
    console.note(format!("no longer revoked: {subject}"));
    wait.finish(console, &mut client, revision).await
}
