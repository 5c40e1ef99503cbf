//! `ext-authz` and `authzen`: what a decision costs the agent, beside a call of the same kind that asks for nothing.

use std::path::Path;

use anyhow::{Context, Result, bail};
use bonafide_wire::{
    admin::{ApplyRequest, Resource, WaitRequest, resource},
    agent::{AuthorizeRequest, agent_client::AgentClient},
    external_auth::{
        AttributeContext, CheckRequest, attribute_context, authorization_client::AuthorizationClient,
    },
    types::{Policy, Selector},
};
use nix::unistd::getuid;
use serde_json::json;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::UnixStream,
};

use crate::{
    Options,
    agent::{AgentProcess, Workload},
    authority::{AuthorityProcess, TRUST_DOMAIN, socket},
    clock::CpuClock,
    figure::Figure,
    pairs::Pairs,
};

/// Rules that guard this process.
const RULES: usize = 1000;
const PER_TURN: u32 = 1500;
const ROUNDS: usize = 7;

/// An agent with policies, and this process as the program that they guard.
struct Guarded {
    _authority: AuthorityProcess,
    agent: AgentProcess,
    _memory: tempfile::TempDir,
    _directory: tempfile::TempDir,
}

impl Guarded {
    async fn start(options: &Options) -> Result<Self> {
        let directory = options.directory()?;
        let mut authority = AuthorityProcess::start(&directory.path().join("authority")).await?;
        let own = vec![Selector { key: "unix.uid".to_owned(), value: getuid().to_string() }];
        authority.put_entry("guarded", "/lab/guarded", own).await?;
        let mut admin = authority.admin();
        let policy = Policy { source: policy(), ..Policy::default() };
        let resources = vec![Resource { resource: Some(resource::Resource::Policy(policy)) }];
        let answer = admin.apply(ApplyRequest { resources, ..Default::default() }).await?.into_inner();
        if !answer.committed {
            bail!("the policy was refused: {:?}", answer.results);
        }
        // Where agents keep their keys: in memory.
        let memory = Path::new("/dev/shm");
        let memory = if memory.is_dir() { tempfile::tempdir_in(memory)? } else { tempfile::tempdir()? };
        let agent = AgentProcess::start(memory.path(), &authority.join_word().await?)?;
        Workload::open(agent.socket()).await?;
        admin.wait(WaitRequest { revision: answer.revision, timeout: 20 }).await?;
        Ok(Self { _authority: authority, agent, _memory: memory, _directory: directory })
    }
}

/// Of many callers; one of them is asked about.
fn policy() -> String {
    let rules: String = (0..RULES)
        .map(|rule| {
            format!(
                "- name: rule-{rule}\n  allow: {{who: {{id: spiffe://{TRUST_DOMAIN}/lab/caller-{rule}}}, can: [GET], on: {{path: /v{rule}/**}}}}\n"
            )
        })
        .collect();
    format!("kind: Policy\nname: lab\nrules:\n{rules}")
}

fn caller() -> String {
    format!("spiffe://{TRUST_DOMAIN}/lab/caller-7")
}

/// As Envoy asks.
pub(crate) async fn ext_authz_figure(options: &Options) -> Result<Figure> {
    let guarded = Guarded::start(options).await?;
    let path = guarded.agent.socket().to_str().context("the path is not UTF-8")?;
    let channel = socket(path).await?;
    let clock = CpuClock::of(guarded.agent.id())?;
    let request = CheckRequest {
        attributes: Some(AttributeContext {
            source: Some(attribute_context::Peer { principal: caller(), ..Default::default() }),
            request: Some(attribute_context::Request {
                http: Some(attribute_context::HttpRequest {
                    method: "GET".to_owned(),
                    path: "/v7/orders/42?full=1".to_owned(),
                    host: "orders.example.org".to_owned(),
                    ..Default::default()
                }),
            }),
            ..Default::default()
        }),
    };
    let mut empty = AgentClient::new(channel.clone());
    let mut client = AuthorizationClient::new(channel);
    let mut rounds = Vec::with_capacity(ROUNDS);
    for _ in 0..ROUNDS {
        let mut cost = [0.0; 4];
        for (turn, cost) in cost.iter_mut().enumerate() {
            let start = clock.now()?;
            for _ in 0..PER_TURN {
                if matches!(turn, 1 | 2) {
                    let answer = client.check(request.clone()).await?.into_inner();
                    if answer.status.is_none_or(|status| status.code != 0) {
                        bail!("the request was denied");
                    }
                } else {
                    empty.authorize(AuthorizeRequest::default()).await?;
                }
            }
            *cost = micros(start, clock.now()?);
        }
        rounds.push(cost);
    }
    Ok(figure(
        "ext-authz",
        Pairs::of(&rounds),
        "Envoy's question; floor: a call of the agent that asks nothing",
    ))
}

/// As AuthZEN's clients ask.
pub(crate) async fn authzen_figure(options: &Options) -> Result<Figure> {
    let guarded = Guarded::start(options).await?;
    let clock = CpuClock::of(guarded.agent.id())?;
    let mut line = BufReader::new(UnixStream::connect(guarded.agent.socket()).await?);
    let body = json!({
        "subject": { "type": "workload", "id": caller() },
        "action": { "name": "GET" },
        "resource": { "type": "path", "id": "/v7/orders/42" },
    });
    let body = body.to_string();
    let question = format!(
        "POST /access/v1/evaluation HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let nothing = "GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n";
    let mut rounds = Vec::with_capacity(ROUNDS);
    for _ in 0..ROUNDS {
        let mut cost = [0.0; 4];
        for (turn, cost) in cost.iter_mut().enumerate() {
            let start = clock.now()?;
            for _ in 0..PER_TURN {
                if matches!(turn, 1 | 2) {
                    let answer = exchange(&mut line, &question).await?;
                    if !answer.contains(r#""decision":true"#) {
                        bail!("the request was denied: {answer}");
                    }
                } else {
                    exchange(&mut line, nothing).await?;
                }
            }
            *cost = micros(start, clock.now()?);
        }
        rounds.push(cost);
    }
    Ok(figure("authzen", Pairs::of(&rounds), "an evaluation as JSON; floor: `GET /health`"))
}

/// One request, and the body of its answer.
async fn exchange(line: &mut BufReader<UnixStream>, request: &str) -> Result<String> {
    line.write_all(request.as_bytes()).await?;
    line.flush().await?;
    let mut length = 0;
    loop {
        let mut header = String::new();
        line.read_line(&mut header).await?;
        let header = header.trim_end();
        if header.is_empty() {
            break;
        }
        if let Some(value) = header.strip_prefix("content-length: ") {
            length = value.parse()?;
        }
    }
    let mut body = vec![0; length];
    line.read_exact(&mut body).await?;
    Ok(String::from_utf8(body)?)
}

fn micros(from: std::time::Duration, to: std::time::Duration) -> f64 {
    to.saturating_sub(from).as_secs_f64() * 1e6 / f64::from(PER_TURN)
}

fn figure(name: &'static str, pairs: Pairs, what: &str) -> Figure {
    Figure {
        name,
        value: pairs.ours,
        unit: "µs",
        floor: Some(pairs.floor),
        ratio: Some(pairs.ratio),
        peer_ratio: None,
        target: None,
        what: format!("{what}; agent's CPU, {RULES} rules, one at a time"),
    }
}
