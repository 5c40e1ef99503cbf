//! The real authority, in a process of its own.

use std::{
    fs,
    io::{BufRead, BufReader, Write as _},
    path::Path,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use bonafide_attest::join::JoinLine;
use bonafide_authority::{Authority, AuthorityConfig};
use bonafide_crypto::random::SystemRandom;
use bonafide_identity::time::SystemClock;
use bonafide_keyring::WorkerProgram;
use bonafide_simulation::Process;
use bonafide_wire::{
    admin::{
        CreateJoinTokenRequest, DeleteRequest, PutRegistrationRequest, PutSiteRequest,
        admin_client::AdminClient,
    },
    types::{Registration, Scope, Selector, Site, registration},
};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};

pub(crate) const TRUST_DOMAIN: &str = "lab.example";
pub(crate) const SITE: &str = "lab";
pub(crate) const REGISTRATION: &str = "shop-cart";

/// What makes this program the process of an authority's keys.
pub(crate) const KEY_WORKER: &str = "key-worker";
/// Where the authority of a directory listens, once it has listened: agents come back to the same place.
const LISTEN: &str = "listen";

/// An authority that is killed when dropped.
#[derive(Debug)]
pub(crate) struct AuthorityProcess {
    process: Child,
    admin: AdminClient<Channel>,
    took: Duration,
}

impl AuthorityProcess {
    /// Starts this program once more, as an authority with its data in `directory`, with one site.
    pub(crate) async fn start(directory: &Path) -> Result<Self> {
        let mut authority = Self::serve(directory).await?;
        authority.put_site().await?;
        Ok(authority)
    }

    /// The same with what lies in `directory`, and no more.
    pub(crate) async fn serve(directory: &Path) -> Result<Self> {
        let began = Instant::now();
        let mut process = Command::new(std::env::current_exe()?)
            .arg("--serve-authority")
            .arg(directory)
            .stdout(Stdio::piped())
            .stdin(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        let output = process.stdout.take().context("the authority has an output")?;
        let (read, line) = tokio::task::spawn_blocking(move || {
            let read = BufReader::new(output).read_line(&mut line);
            (read, line)
        })
        .await?;
        read?;
        let took = began.elapsed();
        if line.trim().is_empty() {
            bail!("the authority did not start");
        }
        let admin = AdminClient::new(socket(line.trim()).await?);
        Ok(Self { process, admin, took })
    }

    /// A line for a new node.
    pub(crate) async fn join(&mut self) -> Result<JoinLine> {
        Ok(self.join_word().await?.parse()?)
    }

    /// The same as an operator hands it on.
    pub(crate) async fn join_word(&mut self) -> Result<String> {
        let request = CreateJoinTokenRequest { site: SITE.to_owned(), ..Default::default() };
        Ok(self.admin.create_join_token(request).await?.into_inner().join)
    }

    /// For other users of the admin API.
    pub(crate) fn admin(&self) -> AdminClient<Channel> {
        self.admin.clone()
    }

    /// What it uses, with the process of its keys.
    pub(crate) fn process(&self) -> Result<Process> {
        Ok(Process::of(self.process.id())?)
    }

    /// From its start until it served.
    pub(crate) const fn took(&self) -> Duration {
        self.took
    }

    /// Removes an entry.
    pub(crate) async fn remove_entry(&mut self, id: &str) -> Result<()> {
        let request = DeleteRequest { name: id.to_owned(), ..Default::default() };
        self.admin.delete_registration(request).await?;
        Ok(())
    }

    /// Adds an entry, or changes it.
    pub(crate) async fn put_entry(&mut self, id: &str, path: &str, selectors: Vec<Selector>) -> Result<u64> {
        let registration = Registration {
            id: id.to_owned(),
            kind: registration::Kind::Entry.into(),
            site: SITE.to_owned(),
            spiffe_id: format!("spiffe://{TRUST_DOMAIN}{path}"),
            selectors,
            ..Default::default()
        };
        let request = PutRegistrationRequest { registration: Some(registration), ..Default::default() };
        Ok(self.admin.put_registration(request).await?.into_inner().revision)
    }

    async fn put_site(&mut self) -> Result<()> {
        let scope = Scope {
            spiffe_ids: vec![format!("spiffe://{TRUST_DOMAIN}/lab/**")],
            signatures_per_second: 1_000_000,
            attestations_per_second: 1000,
            ..Default::default()
        };
        let site = Site { name: SITE.to_owned(), scope: Some(scope), ..Default::default() };
        self.admin.put_site(PutSiteRequest { site: Some(site), ..Default::default() }).await?;
        Ok(())
    }
}

impl Drop for AuthorityProcess {
    fn drop(&mut self) {
        // It has nothing that is worth keeping.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// What the other process does: serves until its input ends.
pub(crate) async fn serve(directory: &Path) -> Result<()> {
    let place = directory.join(LISTEN);
    let mut config = config(directory)?;
    if let Ok(known) = fs::read_to_string(&place) {
        config.listen = known.parse()?;
    }
    if !directory.join("keyring").exists() {
        Authority::init(&config, Arc::new(SystemClock), &SystemRandom).await?;
    }
    let running = Authority::start(config, Arc::new(SystemClock), Arc::new(SystemRandom)).await?;
    fs::write(place, running.node_address().to_string())?;
    writeln!(std::io::stdout(), "{}", running.admin_socket().display())?;
    tokio::task::spawn_blocking(|| std::io::copy(&mut std::io::stdin(), &mut std::io::sink())).await??;
    running.shutdown().await?;
    Ok(())
}

/// Of every authority of the lab.
pub(crate) fn config(directory: &Path) -> Result<AuthorityConfig> {
    let mut config = AuthorityConfig::new(TRUST_DOMAIN.parse()?, directory);
    config.listen = ([127, 0, 0, 1], 0).into();
    // As the program that is measured has it.
    config.key_worker = Some(WorkerProgram::this([KEY_WORKER]));
    Ok(config)
}

pub(crate) async fn socket(path: &str) -> Result<Channel> {
    let path = path.to_owned();
    let connector = tower::service_fn(move |_| {
        let path = path.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }
    });
    Ok(Endpoint::from_static("http://localhost").connect_with_connector(connector).await?)
}

/// What is attested of the workload that the entries of the lab are for.
pub(crate) fn selectors() -> Vec<Selector> {
    [("unix.uid", "1000"), ("unix.gid", "1000"), ("unix.user", "shop"), ("unix.path", "/usr/bin/cart")]
        .map(|(key, value)| Selector { key: key.to_owned(), value: value.to_owned() })
        .to_vec()
}
