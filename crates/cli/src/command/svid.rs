//! `svid x509|jwt|validate`: this process' own identities, over the SPIFFE Workload API.

use std::{
    fs, io,
    io::Write as _,
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    time::Duration,
};

use bonafide_wire::workload::{
    JwtsvidRequest, ValidateJwtsvidRequest, X509svid, X509svidRequest, X509svidResponse,
    spiffe_workload_api_client::SpiffeWorkloadApiClient,
};
use tonic::{Request, transport::Channel};
use zeroize::Zeroizing;

use crate::{
    Console, Failure, duration, pem,
    progress::with_spinner,
    socket::{self, AgentSocket},
    view::svid::{JwtList, JwtView, ValidJwtView, X509List, X509View},
};

/// This process' own identities.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum SvidCommand {
    /// Get X509-SVIDs; with --write also their keys, as files
    X509(X509Args),
    /// Get JWT-SVIDs
    Jwt {
        /// Who the token is for; several are allowed, one is safer
        #[arg(long, required = true)]
        audience: Vec<String>,
        /// Only for this identity [default: each that this process has]
        #[arg(long, default_value = "", hide_default_value = true)]
        spiffe_id: String,
        /// The agent.
        #[command(flatten)]
        common: CommonArgs,
    },
    /// Have the agent validate a JWT-SVID
    Validate {
        /// Who the token must be for
        #[arg(long)]
        audience: String,
        /// The token; `-` reads it from standard input
        token: String,
        /// The agent.
        #[command(flatten)]
        common: CommonArgs,
    },
}

/// `svid x509`.
#[derive(Clone, Debug, clap::Args)]
pub struct X509Args {
    /// Write svid.pem, svid_key.pem and svid_bundle.pem into this folder
    #[arg(long, value_name = "DIR")]
    write: Option<PathBuf>,
    /// Stay, and show (and write) each rotation
    #[arg(long)]
    watch: bool,
    /// Which identity to write or show [default: with --write the first, else all]
    #[arg(long)]
    spiffe_id: Option<String>,
    /// The agent.
    #[command(flatten)]
    common: CommonArgs,
}

/// What every `svid` command takes.
#[derive(Clone, Debug, clap::Args)]
pub struct CommonArgs {
    /// The agent.
    #[command(flatten)]
    socket: AgentSocket,
    /// How long to wait for the agent's answer
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = duration::parse)]
    timeout: u32,
}

type Client = SpiffeWorkloadApiClient<Channel>;

impl CommonArgs {
    async fn client(&self) -> Result<Client, Failure> {
        Ok(Client::new(socket::connect("agent", &self.socket.path).await?))
    }

    async fn within<T, E: Into<Failure>>(
        &self,
        console: &Console,
        what: &str,
        work: impl Future<Output = Result<T, E>>,
    ) -> Result<T, Failure> {
        let limited = tokio::time::timeout(Duration::from_secs(self.timeout.into()), work);
        match with_spinner(console, what, limited).await {
            Ok(result) => result.map_err(Into::into),
            Err(_) => Err(Failure::TimedOut { what: what.to_owned(), limit: self.timeout.into() }),
        }
    }
}

/// Runs the command.
///
/// # Errors
/// What the agent refuses, sockets that do not answer, files that cannot be written.
pub async fn run(command: SvidCommand, console: &Console) -> Result<(), Failure> {
    match command {
        SvidCommand::X509(arguments) => x509(&arguments, console).await,
        SvidCommand::Jwt { audience, spiffe_id, common } => {
            let mut client = common.client().await?;
            let call = client.fetch_jwtsvid(workload_request(JwtsvidRequest { audience, spiffe_id }));
            let svids = common.within(console, "asking for a JWT-SVID", call).await?.into_inner().svids;
            console.show(&JwtList(svids.into_iter().map(JwtView::from).collect()))
        }
        SvidCommand::Validate { audience, token, common } => {
            let svid = if token == "-" { read_token()? } else { token };
            let mut client = common.client().await?;
            let call = client.validate_jwtsvid(workload_request(ValidateJwtsvidRequest { audience, svid }));
            let valid = common.within(console, "asking the agent", call).await?.into_inner();
            console.show(&ValidJwtView::from(valid))
        }
    }
}

async fn x509(arguments: &X509Args, console: &Console) -> Result<(), Failure> {
    let mut client = arguments.common.client().await?;
    let first = async {
        let mut stream = client.fetch_x509svid(workload_request(X509svidRequest {})).await?.into_inner();
        let first = stream.message().await?;
        Ok::<_, tonic::Status>((stream, first))
    };
    let (mut stream, mut next) = arguments.common.within(console, "asking for an X509-SVID", first).await?;
    let mut seen = false;
    while let Some(response) = next {
        seen = true;
        deliver(arguments, console, response)?;
        if !arguments.watch {
            return Ok(());
        }
        next = stream.message().await?;
    }
    if seen {
        return Err(Failure::of(
            "agent.stream-ended",
            "the agent ended the stream",
            "see whether the agent still runs",
        ));
    }
    Err(Failure::of(
        "agent.no-answer",
        "the agent ended the stream without an SVID",
        "see `bonafide explain`",
    ))
}

fn deliver(arguments: &X509Args, console: &Console, response: X509svidResponse) -> Result<(), Failure> {
    let mut svids = response.svids;
    if let Some(wanted) = &arguments.spiffe_id {
        svids.retain(|svid| svid.spiffe_id == *wanted);
        if svids.is_empty() {
            return Err(Failure::of(
                "svid.not-mine",
                format!("this process has no identity `{wanted}`"),
                "`bonafide svid x509` shows those it has",
            ));
        }
    }
    if let Some(folder) = &arguments.write {
        svids.truncate(1);
        for svid in &svids {
            for path in write_files(folder, svid)? {
                console.note(format!("wrote {}", path.display()));
            }
        }
    }
    let views = svids.iter().map(X509View::new).collect::<Result<Vec<_>, _>>()?;
    console.show(&X509List(views))
}

/// The security header of SPIFFE Workload Endpoint section 3: no browser can be made to send it.
fn workload_request<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("workload.spiffe.io", tonic::metadata::MetadataValue::from_static("true"));
    request
}

fn read_token() -> Result<String, Failure> {
    let text = io::read_to_string(io::stdin());
    let text = text.map_err(|source| Failure::read(Path::new("standard input"), source))?;
    Ok(text.trim().to_owned())
}

/// Writes chain, key and bundle, each complete or not at all; the key first, so that a reader that waits for a new
/// `svid.pem` finds its key.
fn write_files(folder: &Path, svid: &X509svid) -> Result<Vec<PathBuf>, Failure> {
    let certificates = |der: &[u8]| match pem::split_der(der) {
        Ok(parts) => Ok(pem::encode_certificates(parts).into_bytes()),
        Err(cause) => Err(Failure::of("svid.malformed", cause, "the agent sent no certificates: update it")),
    };
    let files = [
        ("svid_key.pem", Zeroizing::new(pem::encode("PRIVATE KEY", &svid.x509_svid_key).into_bytes()), 0o600),
        ("svid_bundle.pem", Zeroizing::new(certificates(&svid.bundle)?), 0o644),
        ("svid.pem", Zeroizing::new(certificates(&svid.x509_svid)?), 0o644),
    ];
    fs::create_dir_all(folder).map_err(|source| Failure::write(folder, source))?;
    let mut written = Vec::new();
    for (name, content, mode) in files {
        let path = folder.join(name);
        replace_file(&path, &content, mode).map_err(|source| Failure::write(&path, source))?;
        written.push(path);
    }
    Ok(written)
}

/// Writes beside the file and renames over it: a reader sees the old content or the new.
fn replace_file(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.new", std::process::id()));
    let beside = path.with_file_name(name);
    // A leftover of a process with our PID may be of another mode, or not a file at all.
    match fs::remove_file(&beside) {
        Err(cause) if cause.kind() != io::ErrorKind::NotFound => return Err(cause),
        _ => {}
    }
    let result =
        fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&beside).and_then(|mut file| {
            // `mode` above is subject to the umask.
            file.set_permissions(fs::Permissions::from_mode(mode))?;
            file.write_all(content)?;
            file.sync_all()
        });
    result.and_then(|()| fs::rename(&beside, path)).inspect_err(|_| {
        let _ = fs::remove_file(&beside);
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn svid(key: &[u8]) -> X509svid {
        X509svid {
            spiffe_id: "spiffe://td/a".into(),
            x509_svid: vec![0x30, 1, 1, 0x30, 1, 2].into(),
            x509_svid_key: key.to_vec().into(),
            bundle: vec![0x30, 1, 3].into(),
            hint: String::new(),
        }
    }

    #[test]
    fn files_are_replaced_whole_and_the_key_stays_private() {
        let folder = tempfile::tempdir().unwrap();
        write_files(folder.path(), &svid(b"first")).unwrap();
        let paths = write_files(folder.path(), &svid(b"second")).unwrap();
        let read = |name: &str| fs::read_to_string(folder.path().join(name)).unwrap();
        assert_eq!(read("svid.pem").matches("BEGIN CERTIFICATE").count(), 2);
        assert_eq!(read("svid_bundle.pem").matches("BEGIN CERTIFICATE").count(), 1);
        assert_eq!(pem::decode(&read("svid_key.pem")).unwrap()[0].der, b"second");
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(paths.iter().map(|path| mode(path)).collect::<Vec<_>>(), [0o600, 0o644, 0o644]);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 3, "nothing is left beside them");
    }

    #[test]
    fn a_malformed_chain_writes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let broken = X509svid { x509_svid: vec![1, 2, 3].into(), ..svid(b"key") };
        assert_eq!(write_files(folder.path(), &broken).unwrap_err().code(), "svid.malformed");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
