//! `authority seal list|add|remove|renew`: what the root key of a running server rests under.

use std::path::{Path, PathBuf};

use bonafide_wire::admin::{
    AddSeal, ChangeSealsRequest, ListSealsRequest, RemoveSeals, RenewSeals, SealsResponse, add_seal::Source,
    change_seals_request::Change,
};

use super::quoted;
use crate::{Console, Failure, admin, progress::with_spinner, socket::AdminSocket, view::seal::SealList};

/// What the root key of a server rests under. Any one of its seals opens it; each server has seals of its own.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum SealCommand {
    /// Show the seals of this server, and try whether each of them opens
    #[command(alias = "ls")]
    List {
        /// The authority.
        #[command(flatten)]
        socket: AdminSocket,
    },
    /// Add a seal: the server goes on, and can be started with it from now on
    Add(AddArgs),
    /// Remove seals: they open nothing any more. All others must open now, and one at least stays
    #[command(alias = "rm")]
    Remove {
        /// Their names, as `seal list` shows them
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
        /// The authority.
        #[command(flatten)]
        socket: AdminSocket,
    },
    /// Take a new root key under the same seals, all of which must open now
    Renew {
        /// The authority.
        #[command(flatten)]
        socket: AdminSocket,
    },
}

/// `authority seal add`.
#[derive(Clone, Debug, clap::Args)]
#[group(id = "source", required = true, multiple = false, args = ["key_file", "passphrase_file", "pkcs11"])]
pub struct AddArgs {
    /// What to call it: a short name such as `hsm` or `recovery`
    name: String,
    /// With the key in this file on the server, which is made unless it is there
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,
    /// With the passphrase in this file on the server
    #[arg(long, value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
    /// With a key in the server's PKCS#11 device, which is drawn unless it is there
    #[arg(long)]
    pkcs11: bool,
    /// The authority.
    #[command(flatten)]
    socket: AdminSocket,
}

/// Runs the command.
///
/// # Errors
/// What the authority refuses, and sockets that do not answer.
pub(super) async fn run(command: SealCommand, console: &Console) -> Result<(), Failure> {
    match command {
        SealCommand::List { socket } => {
            let mut client = admin::connect(&socket.path).await?;
            let listed = client.list_seals(ListSealsRequest {});
            let listed = with_spinner(console, "trying the seals", listed).await?;
            show(console, listed.into_inner())
        }
        SealCommand::Add(arguments) => add(arguments, console).await,
        SealCommand::Remove { names, socket } => {
            show(console, change(Change::Remove(RemoveSeals { names }), &socket, console).await?)?;
            console.note("take what was removed out of the settings, too; copies of the old keyring still open with it");
            Ok(())
        }
        SealCommand::Renew { socket } => {
            show(console, change(Change::Renew(RenewSeals {}), &socket, console).await?)
        }
    }
}

async fn add(arguments: AddArgs, console: &Console) -> Result<(), Failure> {
    let absolute = |path: &Path| {
        let path = std::path::absolute(path).map_err(|source| Failure::read(path, source))?;
        path.into_os_string()
            .into_string()
            .map_err(|_| Failure::usage("the path of the seal is not text", "choose another place for it"))
    };
    let AddArgs { name, key_file, passphrase_file, pkcs11: _, socket } = arguments;
    let (source, settings) = match (key_file, passphrase_file) {
        (Some(path), _) => {
            let path = absolute(&path)?;
            let settings = format!("kind = \"key-file-at\"\npath = {}", quoted(&path));
            (Source::KeyFile(path), settings)
        }
        (None, Some(path)) => {
            let path = absolute(&path)?;
            let settings = format!("kind = \"passphrase\"\nfile = {}", quoted(&path));
            (Source::PassphraseFile(path), settings)
        }
        (None, None) => (Source::Device(true), "kind = \"pkcs11\"".to_owned()),
    };
    let add = AddSeal { name, source: Some(source) };
    show(console, change(Change::Add(add), &socket, console).await?)?;
    console.note(format!(
        "put this into the settings, so that the next start tries it:\n\n[[seals]]\n{settings}\n"
    ));
    Ok(())
}

async fn change(change: Change, socket: &AdminSocket, console: &Console) -> Result<SealsResponse, Failure> {
    let mut client = admin::connect(&socket.path).await?;
    let changed = client.change_seals(ChangeSealsRequest { change: Some(change) });
    Ok(with_spinner(console, "changing the seals", changed).await?.into_inner())
}

fn show(console: &Console, seals: SealsResponse) -> Result<(), Failure> {
    for problem in &seals.problems {
        let (code, message) = problem
            .problem
            .as_ref()
            .map_or(("", ""), |problem| (problem.code.as_str(), problem.message.as_str()));
        console.note(crate::text::clean(&format!("warning[{code}]: {}: {message}", problem.source)));
    }
    console.show(&SealList::from(seals))
}
