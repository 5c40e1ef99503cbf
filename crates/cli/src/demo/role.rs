//! The actors of the demo, seen from inside: ordinary workloads that know nothing but the socket of their agent.

pub(in crate::demo) mod keys;

use std::{collections::BTreeMap, io, time::Duration};

use bonafide_identity::{Certificate, SpiffeId};
use bonafide_sdk::{
    Authorizer, Caller, Error, Guard, On, Options, Updates, X509Source, X509Svid,
    tls::{self, TlsListener},
};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader},
    time::timeout,
};

use super::event::{Conversation, Event, Identity};
use crate::{Console, Failure, text::hex};

/// How long an actor waits for its identity: one that nobody registered gives up after it.
const PATIENCE: Duration = Duration::from_secs(3);
/// An answer that takes longer has failed.
const ANSWER: Duration = Duration::from_secs(5);
/// Pace of the conversation.
const PACE: Duration = Duration::from_millis(20);
/// One request in so many goes over a new connection.
const NEW_CONNECTION_EVERY: u32 = 5;
const MAX_LINE: u64 = 4_096;

/// Who to be.
#[derive(Clone, Debug)]
pub enum Part {
    /// Answers one client.
    Server {
        /// The only caller that it talks to.
        client: SpiffeId,
    },
    /// Talks to one server, all the time.
    Client {
        /// The only server that it talks to.
        server: SpiffeId,
        /// `address:port`.
        address: String,
    },
    /// Answers one client as policies let it.
    GuardedServer {
        /// The only caller that it talks to.
        client: SpiffeId,
    },
    /// Asks one server for things, all the time.
    AskingClient {
        /// The only server that it talks to.
        server: SpiffeId,
        /// `address:port`.
        address: String,
    },
    /// Encrypts all the time, for one reader.
    KeyWriter {
        /// The only server that it talks to.
        server: SpiffeId,
        /// `address:port`.
        address: String,
    },
    /// Decrypts what one writer sends.
    KeyReader {
        /// The only caller that it talks to.
        client: SpiffeId,
    },
    /// Gets an identity, and waits.
    Launch,
}

/// Plays a part until standard input closes.
///
/// # Errors
/// What the SDK cannot do. A refused identity is told as an event.
pub async fn play(part: Part, console: &Console) -> Result<(), Failure> {
    let dismissed = dismissed();
    tokio::pin!(dismissed);
    tokio::select! {
        result = perform(part, console) => result?,
        () = &mut dismissed => return Ok(()),
    }
    dismissed.await;
    Ok(())
}

async fn perform(part: Part, console: &Console) -> Result<(), Failure> {
    let mut options = Options::default();
    options.patience = PATIENCE;
    let source = match X509Source::connect_with(options).await {
        Ok(source) => source,
        Err(Error::Refused { code, message, .. }) => return tell(console, &Event::Refused { code, message }),
        Err(error) => return Err(failure(&error)),
    };
    let updates = source.updates();
    let mut teller = Teller { console, source: &source, updates, last_serial: String::new() };
    teller.tell_identity()?;
    match part {
        Part::Server { client } => serve(&mut teller, client).await,
        Part::Client { server, address } => converse(&mut teller, server, &address).await,
        Part::GuardedServer { client } => guard(&mut teller, client).await,
        Part::AskingClient { server, address } => ask(&mut teller, server, &address).await,
        Part::KeyWriter { server, address } => keys::write(&mut teller, server, &address).await,
        Part::KeyReader { client } => keys::read(&mut teller, client).await,
        Part::Launch => Ok(()),
    }
}

/// Answers lines of action and path, and tells of each decision that is new.
async fn guard(teller: &mut Teller<'_>, client: SpiffeId) -> Result<(), Failure> {
    let guard = Guard::connect().await.map_err(|error| failure(&error))?;
    let listener = TlsListener::bind("127.0.0.1:0", teller.source, Authorizer::id(client)).await;
    let mut listener = listener.map_err(|error| failure(&error))?;
    tell(teller.console, &Event::Listening { address: listener.local_addr().to_string() })?;
    loop {
        let (stream, caller) = listener.accept().await.map_err(|error| failure(&error))?;
        let mut stream = BufReader::new(stream);
        let mut told = BTreeMap::new();
        let mut line = String::new();
        while (&mut stream).take(MAX_LINE).read_line(&mut line).await.is_ok_and(|read| read > 0) {
            let asked = std::mem::take(&mut line).trim_end().to_owned();
            let Some((action, path)) = asked.split_once(' ') else { break };
            let (allowed, why, would) = match guard.authorize(&caller, action, On::path(path)) {
                Ok(allowed) => {
                    (true, format!("allowed by {}", allowed.by), allowed.would.unwrap_or_default())
                }
                Err(denied) => {
                    let reason = denied.reason();
                    let near = match denied.code() {
                        "policy.no-rule" => guard.near_misses(&caller, action, On::path(path)),
                        _ => Vec::new(),
                    };
                    let why = match near.as_slice() {
                        [] => reason.to_owned(),
                        near => format!("{reason} ({})", near.join("; ")),
                    };
                    (false, why, String::new())
                }
            };
            let answer: &[u8] = if allowed { b"yes\n" } else { b"no\n" };
            let decided = Event::Decided { asked: asked.clone(), allowed, why, would };
            if told.get(&asked) != Some(&decided) {
                tell(teller.console, &decided)?;
                told.insert(asked, decided);
            }
            if stream.write_all(answer).await.is_err() || stream.flush().await.is_err() {
                break;
            }
        }
    }
}

async fn ask(teller: &mut Teller<'_>, server: SpiffeId, address: &str) -> Result<(), Failure> {
    let (stream, _) = tls::connect(address, teller.source, Authorizer::id(server))
        .await
        .map_err(|error| failure(&error))?;
    let mut stream = BufReader::new(stream);
    let mut ticks = tokio::time::interval(PACE);
    loop {
        for asked in ["GET /orders/7\n", "POST /orders/7\n"] {
            ticks.tick().await;
            let mut answer = String::new();
            let asked = async {
                stream.write_all(asked.as_bytes()).await?;
                stream.flush().await?;
                (&mut stream).take(MAX_LINE).read_line(&mut answer).await
            };
            asked
                .await
                .map_err(|cause| Failure::of("demo.conversation", cause, "see what the server says"))?;
        }
    }
}

async fn dismissed() {
    // However it ends, it ends.
    let _ = tokio::task::spawn_blocking(|| io::copy(&mut io::stdin(), &mut io::sink())).await;
}

/// Tells the identity whenever it changes.
struct Teller<'a> {
    console: &'a Console,
    source: &'a X509Source,
    updates: Updates,
    last_serial: String,
}

impl Teller<'_> {
    fn tell_identity(&mut self) -> Result<(), Failure> {
        let svid = self.source.svid().map_err(|error| failure(&error))?;
        let identity = identity(&svid);
        // An update may be of the bundle alone.
        if identity.serial == self.last_serial {
            return Ok(());
        }
        self.last_serial.clone_from(&identity.serial);
        tell(self.console, &Event::Identity(identity))
    }
}

async fn serve(teller: &mut Teller<'_>, client: SpiffeId) -> Result<(), Failure> {
    let listener = TlsListener::bind("127.0.0.1:0", teller.source, Authorizer::id(client)).await;
    let mut listener = listener.map_err(|error| failure(&error))?;
    tell(teller.console, &Event::Listening { address: listener.local_addr().to_string() })?;
    let mut last_seen = String::new();
    loop {
        tokio::select! {
            _ = teller.updates.changed() => teller.tell_identity()?,
            accepted = listener.accept() => {
                let (stream, caller) = accepted.map_err(|error| failure(&error))?;
                tell_peer(teller.console, &caller, &mut last_seen)?;
                let me = teller.source.id().map_err(|error| failure(&error))?;
                tokio::spawn(async move {
                    // The client tells of requests that failed.
                    let _ = answer(stream, &me).await;
                });
            }
        }
    }
}

/// Answers each line with the line and one's own name.
async fn answer(stream: impl AsyncRead + AsyncWrite, me: &SpiffeId) -> io::Result<()> {
    let (read, mut write) = tokio::io::split(stream);
    let mut read = BufReader::new(read);
    let mut line = String::new();
    loop {
        line.clear();
        if (&mut read).take(MAX_LINE).read_line(&mut line).await? == 0 {
            return Ok(());
        }
        write.write_all(format!("{} from {me}\n", line.trim_end()).as_bytes()).await?;
        write.flush().await?;
    }
}

async fn converse(teller: &mut Teller<'_>, server: SpiffeId, address: &str) -> Result<(), Failure> {
    let only = || Authorizer::id(server.clone());
    let (stream, caller) =
        tls::connect(address, teller.source, only()).await.map_err(|error| failure(&error))?;
    let mut last_seen = String::new();
    tell_peer(teller.console, &caller, &mut last_seen)?;
    let mut one = Talk::new(stream);
    let mut counters = Conversation::default();
    let mut ticks = tokio::time::interval(PACE);
    let mut number = 0_u32;
    loop {
        tokio::select! {
            _ = teller.updates.changed() => teller.tell_identity()?,
            _ = ticks.tick() => {
                number = number.wrapping_add(1);
                if !number.is_multiple_of(NEW_CONNECTION_EVERY) {
                    let asked = one.ask(number, &server).await;
                    count(&mut counters, asked, |counters| &mut counters.on_one_connection);
                    continue;
                }
                let asked = match tls::connect(address, teller.source, only()).await {
                    Ok((stream, caller)) => {
                        tell_peer(teller.console, &caller, &mut last_seen)?;
                        Talk::new(stream).ask(number, &server).await
                    }
                    Err(error) => Err(format!("[{}] {error}", error.code())),
                };
                count(&mut counters, asked, |counters| &mut counters.on_new_connections);
                tell(teller.console, &Event::Conversation(counters.clone()))?;
            }
        }
    }
}

fn count(
    counters: &mut Conversation,
    asked: Result<(), String>,
    answered: impl FnOnce(&mut Conversation) -> &mut u64,
) {
    match asked {
        Ok(()) => *answered(counters) += 1,
        Err(why) => {
            counters.failures += 1;
            counters.last_failure = why;
        }
    }
}

/// One connection to the server.
struct Talk<S> {
    stream: BufReader<S>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Talk<S> {
    fn new(stream: S) -> Self {
        Self { stream: BufReader::new(stream) }
    }

    /// Asks, and checks that the answer is to this question and by this server.
    async fn ask(&mut self, number: u32, server: &SpiffeId) -> Result<(), String> {
        let asked = timeout(ANSWER, async {
            self.stream.write_all(format!("hello {number}\n").as_bytes()).await?;
            self.stream.flush().await?;
            let mut line = String::new();
            (&mut self.stream).take(MAX_LINE).read_line(&mut line).await?;
            Ok::<_, io::Error>(line)
        });
        match asked.await {
            Err(_) => Err(format!("no answer within {} s", ANSWER.as_secs())),
            Ok(Err(cause)) => Err(cause.to_string()),
            Ok(Ok(line)) if line == format!("hello {number} from {server}\n") => Ok(()),
            Ok(Ok(line)) if line.is_empty() => Err("the connection was closed".into()),
            Ok(Ok(line)) => Err(format!("an odd answer: {}", line.trim_end())),
        }
    }
}

fn tell_peer(console: &Console, caller: &Caller, last_seen: &mut String) -> Result<(), Failure> {
    let serial = hex(caller.svid().leaf().serial());
    if serial == *last_seen {
        return Ok(());
    }
    last_seen.clone_from(&serial);
    tell(console, &Event::Peer { spiffe_id: caller.id().to_string(), serial })
}

fn identity(svid: &X509Svid) -> Identity {
    let attributes = svid.attributes();
    let leaf: &Certificate = svid.leaf();
    Identity {
        spiffe_id: svid.id().to_string(),
        instance: attributes
            .and_then(|attributes| attributes.instance)
            .map_or_else(String::new, |id| id.to_string()),
        generation: attributes.map_or(0, |attributes| attributes.generation),
        serial: hex(leaf.serial()),
        key: hex(&leaf.public_key().key_id()),
    }
}

fn tell(console: &Console, event: &Event) -> Result<(), Failure> {
    let mut line = serde_json::to_string(event)
        .map_err(|cause| Failure::of("output.not-rendered", cause, "this is a defect: please report it"))?;
    line.push('\n');
    console.write(line.as_bytes())
}

fn failure(error: &Error) -> Failure {
    Failure::of(error.code(), error, error.hint())
}
