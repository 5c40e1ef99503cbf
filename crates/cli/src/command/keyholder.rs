//! `keyholder init|run|status|install|generate|refresh|reshare`: one keyholder of sealed secrets.

use std::{
    fs,
    io::Write as _,
    net::SocketAddr,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use bonafide_keyholder::KeyholderConfig;
use bonafide_wire::keyholder::{
    Documents, Generate, GetDocumentsRequest, GetStatusRequest, InstallRequest, KeyVersion, ProposeRequest,
    Refresh, Reshare, keyholder_admin_client::KeyholderAdminClient, propose_request::Kind,
};
use tonic::transport::Channel;

use crate::{Console, Failure, duration, roles, socket, view::keyholder::KeyholderView};

/// Where the settings are unless told otherwise.
const CONFIG: &str = "/etc/bonafide/keyholder.toml";
const DATA: &str = "/var/lib/bonafide/keyholder";
const TEMPLATE: &str = include_str!("keyholder.toml");
/// No document is longer.
const MAX_DOCUMENT: u64 = 1 << 20;

/// One keyholder: holds one share of a sealing key.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum KeyholderCommand {
    /// Make the data directory of a new keyholder, and its settings; `status` tells its key, for the roster
    Init(InitArgs),
    /// Run the keyholder until it is told to end
    Run(ConfigArgs),
    /// Whether it serves, and what it knows
    Status(ConfigArgs),
    /// Give it documents that the owner has signed: the first ones say whose keyholder it is, for ever
    Install(InstallArgs),
    /// Make a new key with all keyholders of the roster; the owner signs its parameters then
    Generate(GenerateArgs),
    /// Make new shares of the same key, for the same keyholders; the old ones are destroyed
    Refresh(VersionArgs),
    /// Make new shares of the same key, for the keyholders of the newest roster
    Reshare(ReshareArgs),
}

/// Which keyholder.
#[derive(Clone, Debug, clap::Args)]
pub struct ConfigArgs {
    /// Settings
    #[arg(long, value_name = "FILE", default_value = CONFIG)]
    config: PathBuf,
}

/// `keyholder init`.
#[derive(Clone, Debug, clap::Args)]
pub struct InitArgs {
    /// The file to write; must not exist
    #[arg(long, value_name = "FILE", default_value = CONFIG)]
    config: PathBuf,
    /// Holds keyring, share, ledger and the operator's socket
    #[arg(long, value_name = "DIR", default_value = DATA)]
    data: PathBuf,
    /// Where callers and other keyholders connect
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "0.0.0.0:8444")]
    listen: SocketAddr,
    /// The directory of this server's X509-SVID, as `svid x509 --write DIR --watch` keeps it
    #[arg(long, value_name = "DIR")]
    svid: PathBuf,
    /// Another keyholder; several times
    #[arg(long = "peer", value_name = "SPIFFE-ID=HOST:PORT")]
    peers: Vec<String>,
    /// Seal the root key with the passphrase in this file [default: with a key file in the data directory]
    #[arg(long, value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
}

/// `keyholder install`.
#[derive(Clone, Debug, clap::Args)]
pub struct InstallArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// The owner's root: at first
    #[arg(long, value_name = "FILE")]
    root: Option<PathBuf>,
    /// What the root has delegated
    #[arg(long, value_name = "FILE")]
    delegation: Option<PathBuf>,
    /// A roster; several times, the oldest first
    #[arg(long = "roster", value_name = "FILE")]
    rosters: Vec<PathBuf>,
    /// What is revoked. Without a valid one nothing is answered
    #[arg(long, value_name = "FILE")]
    deny_list: Option<PathBuf>,
    /// Parameters that the owner has signed
    #[arg(long, value_name = "FILE")]
    params: Option<PathBuf>,
    /// The version of these parameters
    #[arg(long = "key-version", id = "key-version", value_name = "NUMBER", default_value_t = 1)]
    version: u64,
}

/// `keyholder generate`.
#[derive(Clone, Debug, clap::Args)]
pub struct GenerateArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Which version of the key
    #[arg(long = "key-version", id = "key-version", value_name = "NUMBER", default_value_t = 1)]
    version: u64,
    /// For how long secrets may be sealed with it
    #[arg(long, value_name = "DURATION", default_value = "365d", value_parser = duration::parse)]
    valid: u32,
}

/// Which version of the key.
#[derive(Clone, Debug, clap::Args)]
pub struct VersionArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Which version of the key
    #[arg(long = "key-version", id = "key-version", value_name = "NUMBER", default_value_t = 1)]
    version: u64,
}

/// `keyholder reshare`.
#[derive(Clone, Debug, clap::Args)]
pub struct ReshareArgs {
    #[command(flatten)]
    version: VersionArgs,
    /// Index of a keyholder of the roster before that deals; several times [default: all]
    #[arg(long = "dealer", value_name = "INDEX")]
    dealers: Vec<u32>,
}

/// Runs the command.
///
/// # Errors
/// What the keyholder refuses, settings that cannot hold, and files that can't be read or written.
pub async fn run(command: KeyholderCommand, console: &Console) -> Result<(), Failure> {
    match command {
        KeyholderCommand::Init(arguments) => init(arguments, console).await,
        KeyholderCommand::Run(arguments) => {
            let settings = read(&arguments.config)?;
            roles::init_logs("info")?;
            roles::serve_keyholder(settings, console).await
        }
        KeyholderCommand::Status(arguments) => {
            let mut client = connect(&arguments).await?;
            let status = client.get_status(GetStatusRequest {}).await?.into_inner();
            let documents = client.get_documents(GetDocumentsRequest {}).await?.into_inner();
            console.show(&KeyholderView::new(status, &documents))
        }
        KeyholderCommand::Install(arguments) => install(arguments, console).await,
        KeyholderCommand::Generate(arguments) => {
            let not_before = u64::try_from(console.clock().now().as_secs()).unwrap_or(0);
            let not_after = not_before.saturating_add(arguments.valid.into());
            let kind = Kind::Generate(Generate { version: arguments.version, not_before, not_after });
            propose(&arguments.config, kind, console).await
        }
        KeyholderCommand::Refresh(VersionArgs { config, version }) => {
            propose(&config, Kind::Refresh(Refresh { version }), console).await
        }
        KeyholderCommand::Reshare(ReshareArgs { version: VersionArgs { config, version }, dealers }) => {
            propose(&config, Kind::Reshare(Reshare { version, dealers }), console).await
        }
    }
}

async fn init(arguments: InitArgs, console: &Console) -> Result<(), Failure> {
    let absolute = |path: &Path| std::path::absolute(path).map_err(|source| Failure::read(path, source));
    let (data, svid) = (absolute(&arguments.data)?, absolute(&arguments.svid)?);
    let mut peers = String::new();
    for peer in &arguments.peers {
        let (id, address) = peer.rsplit_once('=').ok_or_else(|| {
            Failure::usage(format!("`{peer}` is no peer"), "write it as `spiffe://…=HOST:PORT`")
        })?;
        peers.push_str(&format!("{} = {}\n", quoted(id), quoted(address)));
    }
    let seal = match &arguments.passphrase_file {
        None => "[seal]\nkind = \"key-file\"".to_owned(),
        Some(file) => {
            let file = absolute(file)?.display().to_string();
            format!("[seal]\nkind = \"passphrase\"\nfile = {}", quoted(&file))
        }
    };
    let text = TEMPLATE
        .replace("@DATA_DIR@", &quoted(&data.display().to_string()))
        .replace("@LISTEN@", &quoted(&arguments.listen.to_string()))
        .replace("@CERTIFICATE@", &quoted(&svid.join("svid.pem").display().to_string()))
        .replace("@KEY@", &quoted(&svid.join("svid_key.pem").display().to_string()))
        .replace("@SEAL@", &seal)
        .replace("@PEERS@", peers.trim_end());
    let settings = parse(&arguments.config, &text)?;
    if let Some(folder) = arguments.config.parent() {
        fs::create_dir_all(folder).map_err(|source| Failure::write(folder, source))?;
    }
    let file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&arguments.config);
    file.and_then(|mut file| file.write_all(text.as_bytes()))
        .map_err(|source| Failure::write(&arguments.config, source))?;
    roles::create_keyholder(settings, console).await.inspect_err(|_| {
        let _ = fs::remove_file(&arguments.config);
    })?;
    console.note(format!("wrote {} and {}", arguments.config.display(), data.display()));
    console.note(format!("next: bonafide keyholder run --config {}", arguments.config.display()));
    Ok(())
}

async fn install(arguments: InstallArgs, console: &Console) -> Result<(), Failure> {
    let optional = |path: &Option<PathBuf>| path.as_deref().map_or(Ok(Vec::new()), document);
    let mut documents = Documents {
        root: optional(&arguments.root)?.into(),
        delegation: optional(&arguments.delegation)?.into(),
        deny_list: optional(&arguments.deny_list)?.into(),
        ..Documents::default()
    };
    for roster in &arguments.rosters {
        documents.rosters.push(document(roster)?.into());
    }
    if let Some(params) = &arguments.params {
        let params = document(params)?.into();
        documents.versions.push(KeyVersion { version: arguments.version, params, ..KeyVersion::default() });
    }
    let mut client = connect(&arguments.config).await?;
    let request = InstallRequest { documents: Some(documents) };
    let status = client.install(request).await?.into_inner();
    let documents = client.get_documents(GetDocumentsRequest {}).await?.into_inner();
    console.show(&KeyholderView::new(status, &documents))
}

async fn propose(config: &ConfigArgs, kind: Kind, console: &Console) -> Result<(), Failure> {
    let mut client = connect(config).await?;
    let answer = client.propose(ProposeRequest { kind: Some(kind) }).await?.into_inner();
    console.note(format!("the ceremony {} has begun", answer.session));
    console.note("see `bonafide keyholder status` for how it goes");
    Ok(())
}

async fn connect(arguments: &ConfigArgs) -> Result<KeyholderAdminClient<Channel>, Failure> {
    let socket = read(&arguments.config)?.admin_socket();
    let channel = socket::connect("keyholder", &socket).await?;
    Ok(KeyholderAdminClient::new(channel).max_decoding_message_size(8 << 20))
}

fn document(path: &Path) -> Result<Vec<u8>, Failure> {
    let length = fs::metadata(path).map_err(|source| Failure::read(path, source))?.len();
    if length > MAX_DOCUMENT {
        return Err(Failure::usage(format!("`{}` is too large", path.display()), "give one document a file"));
    }
    fs::read(path).map_err(|source| Failure::read(path, source))
}

fn read(path: &Path) -> Result<KeyholderConfig, Failure> {
    let text = fs::read_to_string(path).map_err(|source| Failure::read(path, source))?;
    parse(path, &text)
}

fn parse(path: &Path, text: &str) -> Result<KeyholderConfig, Failure> {
    KeyholderConfig::parse(text)
        .map_err(|cause| Failure::of(cause.code(), format!("{}: {cause}", path.display()), cause.hint()))
}

/// A TOML string.
fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}
