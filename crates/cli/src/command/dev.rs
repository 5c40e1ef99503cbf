//! `dev`: authority and agent in one process, ready to use.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    pin::{Pin, pin},
    time::{Duration, Instant},
};

use bonafide_agent::AgentConfig;
use bonafide_authority::AuthorityConfig;
use bonafide_crypto::random::{Random, SystemRandom};
use bonafide_identity::{DnsName, TrustDomain};
use bonafide_wire::{
    admin::{PutRegistrationRequest, PutSiteRequest, WaitRequest},
    agent::{StatusRequest, agent_client::AgentClient},
    types::{Registration, Scope, Selector, Site, registration::Kind},
};
use nix::unistd::{User, geteuid};
use serde::Serialize;

use super::token;
use crate::{
    Console, Failure,
    admin::{self, idempotency_key},
    console::View,
    page::Page,
    progress::with_spinner,
    roles, socket,
    text::hex,
};

/// The only site of a development authority.
const SITE: &str = "local";
/// The rule that gives the developer an identity.
const RULE: &str = "me";
/// Every step is a matter of milliseconds; this is for a machine that does something else.
const PATIENCE: Duration = Duration::from_secs(20);

/// `dev`.
#[derive(Clone, Debug, clap::Args)]
pub struct DevArgs {
    /// Keep the state in this folder [default: a temporary one, removed at the end]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// The trust domain
    #[arg(long, default_value = "dev.local")]
    trust_domain: TrustDomain,
    /// Name of the authority for clients of Vault's API, which look for one in its certificate; several times
    #[arg(long = "dns-name", value_name = "NAME")]
    dns_names: Vec<DnsName>,
    /// Serve on a kernel before Linux 6.5, with a weaker check of who calls; SVIDs will say so
    #[arg(long)]
    allow_start_time_peers: bool,
}

/// What to do next.
#[derive(Debug, Serialize)]
struct Ready {
    trust_domain: String,
    spiffe_endpoint_socket: String,
    admin_socket: String,
    /// The template of the rule that gives the developer an identity.
    rule: String,
}

impl View for Ready {
    fn draw(&self, page: &mut Page) {
        page.line("# In another terminal:");
        page.line(&format!("export SPIFFE_ENDPOINT_SOCKET={}", self.spiffe_endpoint_socket));
        page.line(&format!("export BONAFIDE_ADMIN_SOCKET={}", self.admin_socket));
        page.line(
            "bonafide svid x509                     # your identity, rotating for as long as this runs",
        );
        page.line("bonafide explain                       # why you have it");
        let create =
            format!("bonafide entry create spiffe://{}/web -s unix.path:/usr/bin/curl", self.trust_domain);
        page.line(&format!("{create}   # an identity for a program"));
    }

    fn names(&self) -> Vec<String> {
        vec![self.spiffe_endpoint_socket.clone(), self.admin_socket.clone()]
    }
}

/// Runs until it is told to end.
///
/// # Errors
/// What keeps authority or agent from starting, and why they ended, unless they were told to.
pub async fn run(arguments: DevArgs, console: &Console) -> Result<(), Failure> {
    roles::init_logs("warn,bonafide_agent=error")?;
    let started = Instant::now();
    let mut told = pin!(roles::told_to_end()?);
    let state = State::open(arguments.data.as_deref())?;
    let authority = tokio::select! {
        biased;
        () = &mut told => return Ok(()),
        authority = start_authority(&arguments, &state, console) => authority?,
    };
    let result = with_authority(&arguments, &state, console, started, told).await;
    let stopped = roles::stop_authority(authority).await;
    result.and(stopped)
}

async fn with_authority(
    arguments: &DevArgs,
    state: &State,
    console: &Console,
    started: Instant,
    mut told: Pin<&mut impl Future<Output = ()>>,
) -> Result<(), Failure> {
    let admin_socket = state.path("authority").join("admin.sock");
    let mut client = admin::connect(&admin_socket).await?;
    let rule = prepare(&mut client, &arguments.trust_domain).await?;
    let join = token::create(&mut client, SITE.into(), 60).await?.join;
    let agent_socket = state.path("agent.sock");
    let config = AgentConfig {
        socket: agent_socket.clone(),
        data_dir: state.path("agent"),
        join_line: Some(join.parse().map_err(|cause: bonafide_attest::join::JoinError| {
            Failure::of(cause.code(), cause, cause.hint())
        })?),
        allow_start_time_peers: arguments.allow_start_time_peers,
        ..AgentConfig::default()
    };
    let mut agent = roles::start_agent(config, console).await?;
    let ready = async {
        tokio::select! {
            ready = agent_is_ready(&agent_socket, &mut client, rule.revision) => ready,
            ended = agent.ended() => ended.map_err(|cause| roles::agent_failure(&cause)),
        }
    };
    let ready = tokio::select! {
        ready = with_spinner(console, "starting", ready) => Some(ready),
        () = &mut told => None,
    };
    let Some(ready) = ready else { return roles::stop_agent(agent).await };
    ready?;
    console.note(format!(
        "Authority and agent of {} are ready after {:.1} s; ctrl-c ends them.",
        arguments.trust_domain,
        started.elapsed().as_secs_f32()
    ));
    console.note(format!(
        "Site `{SITE}` may obtain all of {}; rule `{RULE}` makes you {}.",
        arguments.trust_domain, rule.template
    ));
    console.show(&Ready {
        trust_domain: arguments.trust_domain.to_string(),
        spiffe_endpoint_socket: format!("unix://{}", agent_socket.display()),
        admin_socket: admin_socket.display().to_string(),
        rule: rule.template,
    })?;
    tokio::select! {
        ended = agent.ended() => ended.map_err(|cause| roles::agent_failure(&cause)),
        () = &mut told => roles::stop_agent(agent).await,
    }
}

async fn start_authority(
    arguments: &DevArgs,
    state: &State,
    console: &Console,
) -> Result<roles::RunningAuthority, Failure> {
    let mut config = AuthorityConfig::new(arguments.trust_domain.clone(), state.path("authority"));
    config.listen = ([127, 0, 0, 1], 0).into();
    config.dns_names.clone_from(&arguments.dns_names);
    if !config.data_dir.exists() {
        roles::create_authority(&config, console).await?;
    }
    roles::start_authority(config, console).await
}

/// What `prepare` made sure of.
struct Rule {
    template: String,
    revision: u64,
}

/// A site for the whole trust domain, and a rule for the user that runs this. Both are made anew if they are there.
async fn prepare(client: &mut admin::Client, trust_domain: &TrustDomain) -> Result<Rule, Failure> {
    let site = Site {
        name: SITE.into(),
        scope: Some(Scope {
            spiffe_ids: vec![format!("spiffe://{trust_domain}/**")],
            max_x509_ttl: 86_400,
            max_jwt_ttl: 300,
            ..Scope::default()
        }),
        default_x509_ttl: 3_600,
        default_jwt_ttl: 300,
        ..Site::default()
    };
    let request = PutSiteRequest { site: Some(site), idempotency_key: idempotency_key(), create_only: false };
    client.put_site(request).await?;
    let uid = geteuid();
    // A user without a name, as in many containers, is known by number.
    let name = if User::from_uid(uid).ok().flatten().is_some() { "{unix.user}" } else { "{unix.uid}" };
    let template = format!("spiffe://{trust_domain}/user/{name}");
    let rule = Registration {
        id: RULE.into(),
        kind: Kind::Rule.into(),
        site: SITE.into(),
        spiffe_id: template.clone(),
        selectors: vec![Selector { key: "unix.uid".into(), value: uid.to_string() }],
        ..Registration::default()
    };
    let request = PutRegistrationRequest {
        registration: Some(rule),
        idempotency_key: idempotency_key(),
        create_only: false,
    };
    let revision = client.put_registration(request).await?.into_inner().revision;
    Ok(Rule { template, revision })
}

/// The agent is connected, and knows the rule.
async fn agent_is_ready(path: &Path, client: &mut admin::Client, revision: u64) -> Result<(), Failure> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let status = AgentClient::new(socket::connect("agent", path).await?).status(StatusRequest {}).await?;
        let status = status.into_inner();
        if status.connected {
            break;
        }
        if Instant::now() >= deadline {
            return Err(status.problem.map_or_else(
                || Failure::TimedOut { what: "the agent's joining".into(), limit: PATIENCE.as_secs() },
                Failure::Refused,
            ));
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let request = WaitRequest { revision, timeout: 20 };
    let behind = client.wait(request).await?.into_inner().behind;
    if behind.is_empty() { Ok(()) } else { Err(Failure::Behind { agents: behind, revision }) }
}

/// The folder with the state; a temporary one is removed at the end.
#[derive(Debug)]
struct State {
    folder: PathBuf,
    temporary: bool,
}

impl State {
    fn open(given: Option<&Path>) -> Result<Self, Failure> {
        let state = match given {
            Some(folder) => {
                let folder = std::path::absolute(folder).map_err(|source| Failure::read(folder, source))?;
                fs::create_dir_all(&folder).map_err(|source| Failure::write(&folder, source))?;
                Self { folder, temporary: false }
            }
            None => {
                let random: &dyn Random = &SystemRandom;
                let folder = std::env::temp_dir().join(format!("bonafide-dev-{}", hex(&random.array::<6>())));
                // Fails if somebody else made the folder first.
                fs::create_dir(&folder).map_err(|source| Failure::write(&folder, source))?;
                let state = Self { folder, temporary: true };
                // Programs of other users may be given identities too. Authority and agent close their own folders.
                fs::set_permissions(&state.folder, fs::Permissions::from_mode(0o755))
                    .map_err(|source| Failure::write(&state.folder, source))?;
                state
            }
        };
        Ok(state)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }
}

impl Drop for State {
    fn drop(&mut self) {
        if self.temporary {
            // What is left, the system's cleaner of temporary files takes.
            let _ = fs::remove_dir_all(&self.folder);
        }
    }
}
