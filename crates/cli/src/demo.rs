//! `demo`: the story so far, with real processes. It is also a test: every observation must hold.

mod actor;
mod event;
mod keys;
mod narrator;
mod permission;
pub mod role;
mod stage;

use std::{
    collections::BTreeSet,
    future::Future,
    path::Path,
    time::{Duration, Instant},
};

use bonafide_wire::{
    admin::{PutRegistrationRequest, PutSiteRequest, StatusRequest, WaitRequest},
    agent::{AgentStatus, StatusRequest as AgentStatusRequest, agent_client::AgentClient},
    types::{Registration, Scope, Selector, Site, registration::Kind},
};

use self::{
    actor::Actor,
    event::{Conversation, Event, Identity},
    narrator::Narrator,
    stage::{Role, Stage, argument, observation_failed},
};
use crate::{
    Console, Failure, admin,
    admin::idempotency_key,
    command::{explain, token},
    roles::told_to_end,
    socket,
    text::count,
    view::explanation::ExplanationView,
};

/// Set for the processes of the demo.
pub(crate) const END_WITH_PARENT: &str = "BONAFIDE_END_WITH_PARENT";
const TRUST_DOMAIN: &str = "demo.bonafide";
const SITE: &str = "stage";
/// Short, so that nobody waits long for rotations: the shortest that an authority grants.
const ROTATING_TTL: u32 = 10;
/// What should be there within this time is there within a fraction of it.
const SOON: Duration = Duration::from_secs(15);
/// Each side must rotate this often under the conversation.
const ROTATIONS: usize = 3;

/// `demo`.
#[derive(Clone, Debug, clap::Args)]
pub struct DemoArgs {}

/// Plays the story.
///
/// # Errors
/// The first observation that does not hold.
pub async fn run(_arguments: DemoArgs, console: &Console) -> Result<(), Failure> {
    let mut narrator = Narrator::new(console);
    let mut stage = Stage::set_up()?;
    let result = tokio::select! {
        result = play(&mut stage, &mut narrator, console) => result,
        failure = interrupted() => Err(failure),
    };
    narrator.end(&result)?;
    if result.is_err() {
        console.note(stage.last_words());
    }
    stage.clear().await?;
    result
}

async fn interrupted() -> Failure {
    match told_to_end() {
        Ok(told) => {
            told.await;
            Failure::of("demo.interrupted", "the demo was interrupted", "start it again")
        }
        Err(failure) => failure,
    }
}

/// The demo's processes end when the demo does, however it ends.
///
/// # Errors
/// When the system refuses.
pub(crate) fn end_with_parent() -> Result<(), Failure> {
    if std::env::var_os(END_WITH_PARENT).is_none() {
        return Ok(());
    }
    nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)
        .map_err(|cause| Failure::of("demo.not-started", cause, "see whether a sandbox forbids `prctl`"))
}

/// Who plays.
struct Cast {
    server: Role,
    client: Role,
    job: Role,
    stranger: Role,
}

async fn play(stage: &mut Stage, narrator: &mut Narrator<'_>, console: &Console) -> Result<(), Failure> {
    let cast = Cast {
        server: stage.role("server", "daemon", 64_001),
        client: stage.role("client", "nobody", 64_002),
        job: stage.role("job", "bin", 64_003),
        stranger: stage.role("stranger", "sys", 64_004),
    };
    authority_starts(stage, narrator).await?;
    agent_joins(stage, narrator).await?;
    entries_are_created(stage, narrator, &cast).await?;
    let (mut server, mut client) = identities_are_given(stage, narrator, &cast).await?;
    identities_rotate(stage, narrator, &mut server, &mut client).await?;
    server.dismiss().await;
    client.dismiss().await;
    permission::permission_is_asked_for(stage, narrator, &cast).await?;
    launches_differ(stage, narrator, &cast, "Two launches of one entry").await?;
    stranger_is_refused(stage, narrator, console, &cast).await?;
    let mut pair = keys::one_key_is_on_two_nodes(stage, narrator, &cast).await?;
    let stopped = authority_stops(stage, narrator).await?;
    keys::they_go_on(narrator, &mut pair).await?;
    launches_differ(stage, narrator, &cast, "Two more launches, while there is no authority").await?;
    keys::they_end(narrator, pair, stopped).await
}

async fn authority_starts(stage: &mut Stage, narrator: &mut Narrator<'_>) -> Result<(), Failure> {
    narrator.scene("An authority starts, on a store of its own")?;
    let started = Instant::now();
    let data = argument(&stage.path("authority"));
    let config = argument(&stage.path("authority.toml"));
    let place =
        ["--trust-domain", TRUST_DOMAIN, "--config", &config, "--data", &data, "--listen", "127.0.0.1:0"];
    stage.run_once("authority", &[["authority", "init"].as_slice(), &place].concat()).await?;
    stage.start_service("authority", &["authority", "run", "--config", &config])?;
    let path = stage.admin_socket();
    let status = eventually(stage, "the authority answers", SOON, async || {
        Ok(admin::connect(&path).await?.status(StatusRequest {}).await?.into_inner())
    })
    .await?;
    narrator.check(
        status.trust_domain == TRUST_DOMAIN,
        format!(
            "it speaks for trust domain {} after {:.1} s",
            status.trust_domain,
            started.elapsed().as_secs_f32()
        ),
    )?;
    narrator.saw(format!("its keys rest under a {} seal; agents connect to {}", status.seal, status.address))
}

async fn agent_joins(stage: &mut Stage, narrator: &mut Narrator<'_>) -> Result<(), Failure> {
    narrator.scene("An agent joins, with one word that works once")?;
    let mut admin = admin::connect(&stage.admin_socket()).await?;
    let site = Site {
        name: SITE.into(),
        scope: Some(Scope {
            spiffe_ids: vec![format!("spiffe://{TRUST_DOMAIN}/play/*")],
            max_x509_ttl: 3_600,
            max_jwt_ttl: 300,
            ..Scope::default()
        }),
        default_x509_ttl: 3_600,
        default_jwt_ttl: 300,
        ..Site::default()
    };
    let request = PutSiteRequest { site: Some(site), idempotency_key: idempotency_key(), create_only: true };
    admin.put_site(request).await?;
    let status = join(stage, "agent", &stage.agent_socket()).await?;
    narrator.check(status.site == SITE, format!("it is {}, of site `{}`", status.agent_id, status.site))?;
    narrator.saw(format!("all that this site can ever obtain is spiffe://{TRUST_DOMAIN}/play/*"))
}

/// An agent joins, and is connected.
async fn join(stage: &mut Stage, name: &'static str, path: &Path) -> Result<AgentStatus, Failure> {
    let mut admin = admin::connect(&stage.admin_socket()).await?;
    let word = token::create(&mut admin, SITE.into(), 60).await?.join;
    let word = argument(&stage.keep_secret(&format!("{name}.join"), &word)?);
    let data = argument(&stage.path(name));
    let socket = argument(path);
    stage
        .start_service(name, &["agent", "run", "--join-file", &word, "--data", &data, "--socket", &socket])?;
    eventually(stage, "the agent is connected", SOON, async || {
        let status = agent_status(path).await?;
        if status.connected { Ok(status) } else { Err(not_yet("the agent is not connected")) }
    })
    .await
}

async fn entries_are_created(
    stage: &mut Stage,
    narrator: &mut Narrator<'_>,
    cast: &Cast,
) -> Result<(), Failure> {
    narrator.scene("Three entries say who gets which identity, by what the kernel attests")?;
    let mut admin = admin::connect(&stage.admin_socket()).await?;
    let mut revision = 0;
    for (role, ttl) in [(&cast.server, ROTATING_TTL), (&cast.client, ROTATING_TTL), (&cast.job, 3_600)] {
        let (key, value) = role.selector.clone();
        let registration = Registration {
            id: role.name.into(),
            kind: Kind::Entry.into(),
            site: SITE.into(),
            spiffe_id: spiffe_id(role),
            selectors: vec![Selector { key, value }],
            x509_ttl: ttl,
            ..Registration::default()
        };
        let request = PutRegistrationRequest {
            registration: Some(registration),
            idempotency_key: idempotency_key(),
            create_only: true,
        };
        revision = admin.put_registration(request).await?.into_inner().revision;
        narrator.saw(format!("{}:{} gets {}", role.selector.0, role.selector.1, spiffe_id(role)))?;
    }
    let behind = admin.wait(WaitRequest { revision, timeout: 10 }).await?.into_inner().behind;
    narrator.check(behind.is_empty(), format!("the agent has acknowledged revision {revision}"))
}

async fn identities_are_given(
    stage: &mut Stage,
    narrator: &mut Narrator<'_>,
    cast: &Cast,
) -> Result<(Actor, Actor), Failure> {
    narrator.scene("Two programs start, without any secret, and talk over mutual TLS")?;
    let client_id = spiffe_id(&cast.client);
    let server_id = spiffe_id(&cast.server);
    let mut server = stage.start_actor(&cast.server, &["demo-server", "--client", &client_id])?;
    let server_identity = server.expect("its identity", SOON, identity).await?;
    let address = server
        .expect("its address", SOON, |event| match event {
            Event::Listening { address } => Some(address),
            _ => None,
        })
        .await?;
    let mut client =
        stage.start_actor(&cast.client, &["demo-client", "--server", &server_id, "--address", &address])?;
    let client_identity = client.expect("its identity", SOON, identity).await?;
    for (identity, role) in [(&server_identity, &cast.server), (&client_identity, &cast.client)] {
        narrator.check(
            identity.spiffe_id == spiffe_id(role),
            format!("{} is {}", role.who, identity.spiffe_id),
        )?;
    }
    narrator.check(
        server_identity.key != client_identity.key && server_identity.instance != client_identity.instance,
        "their keys and instance IDs differ",
    )?;
    let seen_by_server = server.expect("who calls", SOON, peer).await?;
    let seen_by_client = client.expect("who answers", SOON, peer).await?;
    narrator.check(seen_by_server == client_id, format!("the server sees {seen_by_server}"))?;
    narrator.check(seen_by_client == server_id, format!("the client sees {seen_by_client}"))?;
    Ok((server, client))
}

/// What one side has shown while its identity rotates.
#[derive(Default)]
struct Rotation {
    generations: BTreeSet<u64>,
    keys: BTreeSet<String>,
    /// Serial numbers that the other side saw on new connections.
    seen: BTreeSet<String>,
}

impl Rotation {
    fn is_done(&self) -> bool {
        // Each rotation is one more certificate than the first, which the scene before has consumed.
        self.generations.len() >= ROTATIONS && self.keys.len() >= ROTATIONS && self.seen.len() >= ROTATIONS
    }
}

async fn identities_rotate(
    stage: &mut Stage,
    narrator: &mut Narrator<'_>,
    server: &mut Actor,
    client: &mut Actor,
) -> Result<(), Failure> {
    narrator.scene(&format!("Their SVIDs live {ROTATING_TTL} s and rotate while they talk"))?;
    let mut of_server = Rotation::default();
    let mut of_client = Rotation::default();
    let mut conversation = Conversation::default();
    let mut when_done: Option<Conversation> = None;
    let limit = Duration::from_secs(u64::from(ROTATING_TTL) * (ROTATIONS as u64 + 1));
    let deadline = tokio::time::Instant::now() + limit;
    loop {
        let (event, from_server) = tokio::select! {
            event = server.next() => (event?, true),
            event = client.next() => (event?, false),
            () = tokio::time::sleep_until(deadline) => {
                return Err(observation_failed(format!(
                    "after {} s the server has rotated {} times and the client {} times",
                    limit.as_secs(), of_server.generations.len(), of_client.generations.len(),
                )));
            }
        };
        let (own, other) =
            if from_server { (&mut of_server, &mut of_client) } else { (&mut of_client, &mut of_server) };
        match event {
            Event::Identity(identity) => {
                own.generations.insert(identity.generation);
                own.keys.insert(identity.key);
            }
            Event::Peer { serial, .. } => {
                other.seen.insert(serial);
            }
            Event::Conversation(counters) => conversation = counters,
            Event::Decided { .. } | Event::Listening { .. } | Event::Refused { .. } | Event::Used(_) => {}
        }
        if conversation.failures > 0 {
            return Err(observation_failed(format!("a request failed: {}", conversation.last_failure)));
        }
        match &when_done {
            None if of_server.is_done() && of_client.is_done() => when_done = Some(conversation.clone()),
            // Both ways of talking must go on after the last rotation.
            Some(before)
                if conversation.on_one_connection > before.on_one_connection
                    && conversation.on_new_connections > before.on_new_connections =>
            {
                break;
            }
            _ => {}
        }
    }
    stage.check_services()?;
    narrator.saw(format!(
        "the server has rotated {} times, the client {} times, each time to a new key",
        of_server.generations.len(),
        of_client.generations.len()
    ))?;
    narrator.saw(format!(
        "{} over one connection that stayed open, {} over new ones, and none failed",
        count(conversation.on_one_connection, "request", "requests"),
        count(conversation.on_new_connections, "request", "requests"),
    ))?;
    narrator.saw(format!(
        "on new connections the server saw {} certificates of the client, the client {} of the server",
        of_client.seen.len(),
        of_server.seen.len()
    ))
}

async fn launches_differ(
    stage: &mut Stage,
    narrator: &mut Narrator<'_>,
    cast: &Cast,
    title: &str,
) -> Result<(), Failure> {
    narrator.scene(title)?;
    let mut one = stage.start_actor(&cast.job, &["demo-launch"])?;
    let mut two = stage.start_actor(&cast.job, &["demo-launch"])?;
    let first = one.expect("its identity", SOON, identity).await?;
    let second = two.expect("its identity", SOON, identity).await?;
    narrator.check(
        first.spiffe_id == spiffe_id(&cast.job) && second.spiffe_id == first.spiffe_id,
        format!("both are {}", first.spiffe_id),
    )?;
    narrator.check(
        first.instance != second.instance && !first.instance.is_empty() && !second.instance.is_empty(),
        format!("instance {} is not instance {}", first.instance, second.instance),
    )?;
    narrator
        .check(first.key != second.key, format!("key {:.16}… is not key {:.16}…", first.key, second.key))?;
    one.dismiss().await;
    two.dismiss().await;
    Ok(())
}

async fn stranger_is_refused(
    stage: &mut Stage,
    narrator: &mut Narrator<'_>,
    console: &Console,
    cast: &Cast,
) -> Result<(), Failure> {
    narrator.scene("A program that nobody registered asks too")?;
    let mut stranger = stage.start_actor(&cast.stranger, &["demo-launch"])?;
    let (code, message) = stranger
        .expect("how it was refused", SOON, |event| match event {
            Event::Refused { code, message } => Some((code, message)),
            Event::Identity(identity) => Some((identity.spiffe_id, "it got an identity".into())),
            _ => None,
        })
        .await?;
    narrator.check(
        code == "workload.no-registration",
        format!("{} is refused: [{code}] {message}", cast.stranger.who),
    )?;
    let path = stage.agent_socket();
    let explanation = explain::ask_agent(&path, Some(stranger.pid())).await?;
    let authority = explain::ask_authority(&stage.admin_socket(), &explanation).await;
    let view = ExplanationView::new(&argument(&path), explanation, Some(authority), console.now());
    narrator.check(
        !view.has_identity() && view.problem_code() == Some(code.as_str()),
        format!("`bonafide explain {}` turns the code into the reason:", stranger.pid()),
    )?;
    narrator.quote(&view)?;
    stranger.dismiss().await;
    Ok(())
}

/// Returns since when it is gone.
async fn authority_stops(stage: &mut Stage, narrator: &mut Narrator<'_>) -> Result<Instant, Failure> {
    narrator.scene("The authority stops")?;
    let path = stage.agent_socket();
    let pooled = eventually(stage, "the agent's pool is full", SOON, async || {
        let status = agent_status(&path).await?;
        let full = status.pooled >= status.registrations.saturating_mul(2);
        if full { Ok(status.pooled) } else { Err(not_yet("the pool is not full")) }
    })
    .await?;
    narrator
        .saw(format!("the agent holds {} that wait for a launch", count(pooled.into(), "SVID", "SVIDs")))?;
    stage.stop_service("authority", Duration::from_secs(10)).await?;
    let gone = Instant::now();
    narrator.saw("the authority's process has ended")?;
    eventually(stage, "the agent has seen it", SOON, async || {
        let status = agent_status(&path).await?;
        if status.connected { Err(not_yet("the agent is still connected")) } else { Ok(()) }
    })
    .await?;
    narrator.saw("the agent says that it is not connected, and goes on")?;
    Ok(gone)
}

fn spiffe_id(role: &Role) -> String {
    format!("spiffe://{TRUST_DOMAIN}/play/{}", role.name)
}

fn identity(event: Event) -> Option<Identity> {
    match event {
        Event::Identity(identity) => Some(identity),
        _ => None,
    }
}

fn peer(event: Event) -> Option<String> {
    match event {
        Event::Peer { spiffe_id, .. } => Some(spiffe_id),
        _ => None,
    }
}

async fn agent_status(path: &Path) -> Result<AgentStatus, Failure> {
    let mut client = AgentClient::new(socket::connect("agent", path).await?);
    Ok(client.status(AgentStatusRequest {}).await?.into_inner())
}

fn not_yet(message: &str) -> Failure {
    observation_failed(message)
}

/// Tries until it succeeds: what is waited for is a state of another process. The last failure stands when time is
/// up, or when a service has ended.
async fn eventually<T, F: Future<Output = Result<T, Failure>>>(
    stage: &mut Stage,
    what: &str,
    within: Duration,
    attempt: impl Fn() -> F,
) -> Result<T, Failure> {
    let deadline = Instant::now() + within;
    loop {
        let failure = match attempt().await {
            Ok(value) => return Ok(value),
            Err(failure) => failure,
        };
        stage.check_services()?;
        if Instant::now() >= deadline {
            return Err(observation_failed(format!("not within {} s: {what}: {failure}", within.as_secs())));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
