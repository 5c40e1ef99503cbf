//! `kms-grpc-…` and `kms-http-…`: what the authority spends on the use of a key, its two processes together;
//! `kms-agent-…`: what an agent spends; and what OpenBao spends on the same requests, where `PEER_BAO` names its program.

use std::{
    env, fs,
    hint::black_box,
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use base64ct::{Base64, Encoding as _};
use bonafide_crypto::{
    cipher::{Cipher, CipherKey, TAG},
    hmac::{HmacHash, HmacKey},
    key::{KeyAlgorithm, PrivateKey, Signer as _},
};
use bonafide_sdk::{Authorizer, Endpoint as AgentEndpoint, Options as SourceOptions, X509Source, tls};
use bonafide_wire::{
    admin::{ApplyRequest, CreateKeyRequest, KeySettings, Resource, WaitRequest, resource},
    kms::{EncryptItem, EncryptRequest, keys_client::KeysClient},
    types::{Policy, Selector},
};
use hyper_util::rt::TokioIo;
use nix::unistd::getuid;
use serde_json::json;
use tokio::{
    io::{
        AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _,
        BufReader as Buffered,
    },
    net::TcpStream,
    task::JoinSet,
};
use tonic::{
    Request,
    metadata::MetadataValue,
    transport::{Channel, Endpoint},
};

use crate::{
    Options,
    agent::{AgentProcess, Workload},
    authority::{AuthorityProcess, TRUST_DOMAIN, socket},
    clock::CpuClock,
    figure::Figure,
    pairs::median,
};

const ROUNDS: usize = 5;
/// Connections that ask at the same time.
const CLIENTS: usize = 32;
/// Requests of each in a round.
const EACH: usize = 100;
const SIZE: usize = 1024;
const BATCH: usize = 100;

trait Line: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Line for T {}
type Connection = Buffered<Box<dyn Line>>;

/// An authority with keys, and this process as a workload that may use them.
pub(crate) struct Remote {
    authority: AuthorityProcess,
    agent: AgentProcess,
    source: X509Source,
    address: String,
    peer: Option<Peer>,
    _memory: tempfile::TempDir,
    _directory: tempfile::TempDir,
}

/// OpenBao with a file as its audit device. Ended when dropped.
struct Peer {
    process: Child,
    address: String,
    _directory: tempfile::TempDir,
}

impl Drop for Peer {
    fn drop(&mut self) {
        // It has nothing that is worth keeping.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// One figure.
struct Case {
    path: &'static str,
    body: String,
    /// Operations of one request.
    operations: usize,
    what: &'static str,
    /// Of one operation, in µs.
    floor: f64,
    /// What `peer_ratio` should be at least.
    least: Option<f64>,
}

impl Remote {
    pub(crate) async fn start(options: &Options) -> Result<Self> {
        let directory = options.directory()?;
        let folder = directory.path().join("authority");
        let mut authority = AuthorityProcess::start(&folder).await?;
        let own = vec![Selector { key: "unix.uid".to_owned(), value: getuid().to_string() }];
        authority.put_entry("app", "/lab/app", own).await?;
        let mut admin = authority.admin();
        let source = format!(
            "kind: Policy\nname: keys\nrules:\n- name: app\n  allow: {{who: {{id: spiffe://{TRUST_DOMAIN}/lab/app}}, can: [encrypt, decrypt, mac, sign]}}\n"
        );
        let policy = Policy { source, ..Policy::default() };
        let resources = vec![Resource { resource: Some(resource::Resource::Policy(policy)) }];
        let answer = admin.apply(ApplyRequest { resources, ..Default::default() }).await?.into_inner();
        ensure!(answer.committed, "the policy was refused: {:?}", answer.results);
        for (name, kind, local) in [
            ("data", "aes256-gcm", None),
            ("near", "aes256-gcm", Some("agent".to_owned())),
            ("macs", "hmac-sha256", None),
            ("prints", "ecdsa-p256", None),
        ] {
            let (name, r#type) = (name.to_owned(), kind.to_owned());
            let settings = Some(KeySettings { local, ..Default::default() });
            admin.create_key(CreateKeyRequest { name, r#type, settings, ..Default::default() }).await?;
        }
        let memory = Path::new("/dev/shm");
        let memory = if memory.is_dir() { tempfile::tempdir_in(memory)? } else { tempfile::tempdir()? };
        let agent = AgentProcess::start(memory.path(), &authority.join_word().await?)?;
        Workload::open(agent.socket()).await?;
        admin.wait(WaitRequest { revision: answer.revision, timeout: 20 }).await?;
        let mut wanted = SourceOptions::default();
        wanted.endpoint = Some(AgentEndpoint::unix(agent.socket()));
        let source = X509Source::connect_with(wanted).await?;
        let address = fs::read_to_string(folder.join("listen"))?.trim().to_owned();
        let peer = match env::var_os("PEER_BAO") {
            Some(program) => Some(Peer::start(Path::new(&program)).await?),
            None => None,
        };
        Ok(Self { authority, agent, source, address, peer, _memory: memory, _directory: directory })
    }

    /// A figure of HTTP.
    pub(crate) async fn http_figure(&self, name: &'static str) -> Result<Figure> {
        let case = Case::of(name)?;
        let process = self.authority.process()?;
        let mut ours = self.lines(CLIENTS).await?;
        let mut theirs = match &self.peer {
            Some(peer) => Some((peer.lines(CLIENTS).await?, CpuClock::of(peer.process.id())?)),
            None => None,
        };
        let requests = CLIENTS * EACH / case.operations.min(10);
        let (mut costs, mut peers) = (Vec::new(), Vec::new());
        for round in 0..=ROUNDS {
            let start = process.cpu()?;
            ours = all(ours, &case.request("x-none", ""), requests).await?;
            let own = micros(process.cpu()? - start) / (requests * case.operations) as f64;
            let mut peer = None;
            if let Some((lines, clock)) = theirs.take() {
                let start = clock.now()?;
                let lines = all(lines, &case.request("x-vault-token", "root"), requests).await?;
                peer = Some(micros(clock.now()? - start) / (requests * case.operations) as f64);
                theirs = Some((lines, clock));
            }
            // The first round warms up.
            if round > 0 {
                costs.push(own);
                peers.extend(peer.map(|peer| peer / own));
            }
        }
        let peer_ratio = (!peers.is_empty()).then(|| median(peers));
        let wanted = case.least.map(|least| format!("; peer should be at least {least}")).unwrap_or_default();
        Ok(Figure {
            name,
            value: median(costs),
            unit: "µs",
            floor: Some(case.floor),
            ratio: None,
            peer_ratio,
            target: None,
            what: format!("{}, {CLIENTS} at a time, audit on{wanted}", case.what),
        })
    }

    /// `kms-grpc-encrypt-1k`.
    pub(crate) async fn grpc_figure(&self) -> Result<Figure> {
        let process = self.authority.process()?;
        let mut clients = Vec::new();
        for _ in 0..CLIENTS {
            clients.push(KeysClient::new(self.channel().await?));
        }
        let cost = encrypting(&clients, "data", || Ok(process.cpu()?)).await?;
        let what = format!("1 KiB encrypted by the authority for a workload, {CLIENTS} at a time, audit on");
        grpc("kms-grpc-encrypt-1k", cost, what)
    }

    /// `kms-agent-encrypt-1k`: of a key that stays out of the workload's own process.
    pub(crate) async fn agent_figure(&self) -> Result<Figure> {
        let agent = CpuClock::of(self.agent.id())?;
        let mut clients = Vec::new();
        let path = self.agent.socket().to_str().context("the path is not UTF-8")?;
        for _ in 0..CLIENTS {
            clients.push(KeysClient::new(socket(path).await?));
        }
        let cost = encrypting(&clients, "near", || agent.now()).await?;
        let what = format!("1 KiB encrypted by the agent with a leased data key, {CLIENTS} at a time");
        grpc("kms-agent-encrypt-1k", cost, what)
    }

    async fn connect(&self) -> Result<impl Line + use<>> {
        let members = Authorizer::member_of(TRUST_DOMAIN.parse()?);
        Ok(tls::connect(self.address.as_str(), &self.source, members).await?.0)
    }

    async fn channel(&self) -> Result<Channel> {
        let line = TokioIo::new(self.connect().await?);
        let line = Arc::new(std::sync::Mutex::new(Some(line)));
        let connector = tower::service_fn(move |_| {
            let line = line.lock().ok().and_then(|mut line| line.take());
            async move { line.ok_or_else(|| std::io::Error::other("the connection was used before")) }
        });
        let endpoint = Endpoint::from_static("http://authority");
        Ok(endpoint.connect_with_connector(connector).await?)
    }

    async fn lines(&self, count: usize) -> Result<Vec<Connection>> {
        let mut lines: Vec<Connection> = Vec::new();
        for _ in 0..count {
            lines.push(Buffered::new(Box::new(self.connect().await?)));
        }
        Ok(lines)
    }
}

impl Peer {
    async fn start(program: &Path) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let address =
            format!("127.0.0.1:{}", std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port());
        let log = directory.path().join("audit.log");
        let settings =
            format!("audit \"file\" \"file\" {{ options {{ file_path = \"{}\" }} }}\n", log.display());
        let config = directory.path().join("config.hcl");
        fs::write(&config, settings)?;
        let mut command = Command::new(program);
        command.args(["server", "-dev", "-dev-no-store-token", "-dev-root-token-id=root"]);
        command.arg(format!("-dev-listen-address={address}")).arg("-config").arg(&config);
        let mut process = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
        let mut said = BufReader::new(process.stdout.take().context("it has an output")?).lines();
        let started = said.by_ref().any(|line| line.is_ok_and(|line| line.contains("Root Token")));
        std::thread::spawn(move || said.for_each(drop));
        let peer = Self { process, address, _directory: directory };
        ensure!(started, "OpenBao did not start");
        let mut line = peer.lines(1).await?.pop().context("one line")?;
        for (path, body) in [
            ("sys/mounts/transit", json!({ "type": "transit" })),
            ("transit/keys/data", json!({})),
            ("transit/keys/macs", json!({ "type": "hmac", "key_size": 32 })),
            ("transit/keys/prints", json!({ "type": "ecdsa-p256" })),
        ] {
            exchange(&mut line, &post(path, &body.to_string(), "x-vault-token", "root")).await?;
        }
        ensure!(fs::metadata(&log).is_ok_and(|log| log.len() > 0), "OpenBao writes no audit log");
        Ok(peer)
    }

    async fn lines(&self, count: usize) -> Result<Vec<Connection>> {
        let mut lines: Vec<Connection> = Vec::new();
        for _ in 0..count {
            let line = TcpStream::connect(&self.address).await?;
            line.set_nodelay(true)?;
            lines.push(Buffered::new(Box::new(line)));
        }
        Ok(lines)
    }
}

impl Case {
    fn of(name: &'static str) -> Result<Self> {
        let text = Base64::encode_string(&[5; SIZE]);
        let short = Base64::encode_string(&[5; 32]);
        let case = |path, body: serde_json::Value, operations, what, floor, least| Self {
            path,
            body: body.to_string(),
            operations,
            what,
            floor,
            least,
        };
        Ok(match name {
            "kms-http-encrypt-1k" => {
                let body = json!({ "plaintext": text });
                case(
                    "transit/encrypt/data",
                    body,
                    1,
                    "1 KiB over Vault's API and mutual TLS",
                    encrypt_floor()?,
                    Some(8.0),
                )
            }
            "kms-http-encrypt-batch100" => {
                let body = json!({ "batch_input": vec![json!({ "plaintext": text }); BATCH] });
                let what = "one of 100 items of 1 KiB over Vault's API";
                case("transit/encrypt/data", body, BATCH, what, encrypt_floor()?, Some(20.0))
            }
            "kms-http-hmac" => {
                let key = HmacKey::new(HmacHash::Sha256, &[7; 32]);
                let floor = floor(|| _ = black_box(key.tag(&[&[5; 32]])))?;
                case(
                    "transit/hmac/macs",
                    json!({ "input": short }),
                    1,
                    "HMAC-SHA-256 over Vault's API",
                    floor,
                    Some(8.0),
                )
            }
            "kms-http-sign-p256" => {
                let key = PrivateKey::generate(KeyAlgorithm::EcP256)?;
                let floor = floor(|| _ = black_box(key.sign(&[5; 32])))?;
                let what = "ECDSA P-256 over Vault's API";
                case("transit/sign/prints", json!({ "input": short }), 1, what, floor, Some(8.0))
            }
            _ => bail!("there is no figure `{name}`"),
        })
    }

    fn request(&self, header: &str, value: &str) -> String {
        post(self.path, &self.body, header, value)
    }
}

fn post(path: &str, body: &str, header: &str, value: &str) -> String {
    format!(
        "POST /v1/{path} HTTP/1.1\r\nhost: localhost\r\n{header}: {value}\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// All lines ask, until `count` requests are answered.
async fn all(lines: Vec<Connection>, request: &str, count: usize) -> Result<Vec<Connection>> {
    let each = count.div_ceil(lines.len());
    let mut asking = JoinSet::new();
    for mut line in lines {
        let request = request.to_owned();
        asking.spawn(async move {
            for _ in 0..each {
                exchange(&mut line, &request).await?;
            }
            Ok::<_, anyhow::Error>(line)
        });
    }
    let mut lines = Vec::new();
    while let Some(asked) = asking.join_next().await {
        lines.push(asked??);
    }
    Ok(lines)
}

/// One request whose answer is good.
async fn exchange(line: &mut Connection, request: &str) -> Result<()> {
    line.write_all(request.as_bytes()).await?;
    line.flush().await?;
    let (mut length, mut chunked, mut status) = (0, false, String::new());
    line.read_line(&mut status).await?;
    loop {
        let mut header = String::new();
        line.read_line(&mut header).await?;
        let header = header.trim_end().to_ascii_lowercase();
        if header.is_empty() {
            break;
        }
        if let Some(value) = header.strip_prefix("content-length: ") {
            length = value.parse()?;
        }
        chunked |= header == "transfer-encoding: chunked";
    }
    let mut body = Vec::new();
    loop {
        if chunked {
            let mut size = String::new();
            line.read_line(&mut size).await?;
            length = usize::from_str_radix(size.trim_end(), 16)?;
        }
        let start = body.len();
        // Behind each chunk there is the end of a line.
        body.resize(start + length + if chunked { 2 } else { 0 }, 0);
        line.read_exact(body.get_mut(start..).unwrap_or_default()).await?;
        if !chunked || length == 0 {
            break;
        }
    }
    ensure!(
        status.contains(" 200 ") || status.contains(" 204 "),
        "{status}{}",
        String::from_utf8_lossy(&body)
    );
    Ok(())
}

/// What one encryption costs the process whose clock this is, in µs.
async fn encrypting(
    clients: &[KeysClient<Channel>],
    key: &str,
    clock: impl Fn() -> Result<Duration>,
) -> Result<f64> {
    let request = EncryptRequest {
        key: key.to_owned(),
        items: vec![EncryptItem { plaintext: vec![5; SIZE].into(), ..Default::default() }],
        ..Default::default()
    };
    let mut costs = Vec::new();
    for round in 0..=ROUNDS {
        let start = clock()?;
        let mut asking = JoinSet::new();
        for client in clients {
            let (mut client, request) = (client.clone(), request.clone());
            asking.spawn(async move {
                for _ in 0..EACH {
                    let mut request = Request::new(request.clone());
                    // What an agent asks for, and an authority passes over.
                    request.metadata_mut().insert("workload.spiffe.io", MetadataValue::from_static("true"));
                    let answer = client.encrypt(request).await?.into_inner();
                    let good = answer.results.first().is_some_and(|result| result.problem.is_none());
                    ensure!(good, "it was refused: {answer:?}");
                }
                Ok(())
            });
        }
        while let Some(asked) = asking.join_next().await {
            asked??;
        }
        // The first round warms up.
        if round > 0 {
            costs.push(micros(clock()? - start) / (clients.len() * EACH) as f64);
        }
    }
    Ok(median(costs))
}

fn grpc(name: &'static str, cost: f64, what: String) -> Result<Figure> {
    let floor = Some(encrypt_floor()?);
    Ok(Figure { name, value: cost, unit: "µs", floor, ratio: None, peer_ratio: None, target: None, what })
}

fn encrypt_floor() -> Result<f64> {
    let key = CipherKey::new(Cipher::Aes256Gcm, &[7; 32]).context("a key")?;
    let mut out = vec![0; SIZE + TAG];
    let mut number = 0_u64;
    floor(move || {
        number += 1;
        let mut nonce = [0; 12];
        nonce[..8].copy_from_slice(&number.to_be_bytes());
        let _ = key.seal_into(&nonce, &[], &[5; SIZE], &mut out);
    })
}

/// What the cryptography alone costs, in µs.
fn floor(mut work: impl FnMut()) -> Result<f64> {
    const TIMES: u32 = 5_000;
    let mut rounds = Vec::new();
    for _ in 0..7 {
        let start = CpuClock::thread().now()?;
        (0..TIMES).for_each(|_| work());
        rounds.push(micros(CpuClock::thread().now()? - start) / f64::from(TIMES));
    }
    Ok(median(rounds))
}

fn micros(spent: Duration) -> f64 {
    spent.as_secs_f64() * 1e6
}
