//! `ca drill`: what is done when the key of an authority was stolen. It is no rehearsal: the key is gone afterwards.
//!
//! A root or JWT key: another one is prepared, and activated once agents know it; the stolen one is tainted, so that
//! everything is renewed; then it is revoked. An intermediate is replaced at once, because no bundle holds it, and put on
//! the list of distrusted keys, which our own verifiers look at. Others know roots only: for them its root is replaced
//! as well.
//!
//! Each step says what is so already, so that a drill that was interrupted is simply run again.

use std::time::{Duration, Instant};

use bonafide_wire::admin::{
    ChangeAuthorityResponse, ListAuthoritiesRequest, PrepareAuthorityRequest, SigningAuthority,
    StatusRequest, WaitRequest,
};

use super::{Change, KeyKind};
use crate::{
    Console, Failure,
    admin::{self, Client},
    duration,
    progress::with_spinner,
    socket::AdminSocket,
    view::authority::{DrillStep, DrillView},
};

/// `ca drill`.
#[derive(Clone, Debug, clap::Args)]
pub struct DrillArgs {
    /// What was stolen
    #[arg(long, value_enum)]
    stolen: KeyKind,
    /// Its ID, as `ca show` lists it [default: the one that signs now]
    #[arg(long)]
    id: Option<String>,
    /// How long each step waits for agents. Then it goes on without those that are missing
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = duration::parse)]
    timeout: u32,
    /// Stop rather than go on without agents that are missing
    #[arg(long)]
    no_force: bool,
    /// Of a stolen intermediate: keep its root, which verifiers of others go on to believe
    #[arg(long)]
    keep_root: bool,
    /// The authority.
    #[command(flatten)]
    socket: AdminSocket,
}

/// A drill under way.
struct Drill {
    client: Client,
    wait: u32,
    force: bool,
    began: Instant,
    steps: Vec<DrillStep>,
}

pub(super) async fn run(args: DrillArgs, console: &Console) -> Result<(), Failure> {
    let client = admin::connect(&args.socket.path).await?;
    let force = !args.no_force;
    let mut drill = Drill { client, wait: args.timeout, force, began: Instant::now(), steps: Vec::new() };
    let done = with_spinner(console, "replacing the stolen key", drill.play(&args)).await;
    // What has been done is worth knowing, whatever has not.
    let view = DrillView::new(args.stolen.name(), drill.steps, drill.began.elapsed());
    if done.is_ok() || !view.is_empty() {
        console.show(&view)?;
    }
    done
}

impl Drill {
    async fn play(&mut self, args: &DrillArgs) -> Result<(), Failure> {
        let stolen = self.stolen(args.stolen, args.id.as_deref()).await?;
        if args.stolen == KeyKind::Intermediate {
            self.change(Change::Taint, "tainted and replaced", &stolen.id).await?;
            self.change(Change::Revoke, "renewed and distrusted", &stolen.id).await?;
            self.known().await?;
            if args.keep_root {
                return Ok(());
            }
            let root = issuer(&stolen)?;
            return self.replace(KeyKind::Root, &root).await;
        }
        self.replace(args.stolen, &stolen.id).await
    }

    /// A published key is replaced by another one, and revoked.
    async fn replace(&mut self, kind: KeyKind, stolen: &str) -> Result<(), Failure> {
        if self.signing(kind, None).await?.is_some_and(|signing| signing.id == stolen) {
            let began = Instant::now();
            let request = PrepareAuthorityRequest { kind: kind.to_wire().into() };
            let prepared = self.client.prepare_authority(request).await?.into_inner();
            let id = prepared.authority.as_ref().map(|authority| authority.id.clone()).unwrap_or_default();
            self.note("prepared", began, prepared);
            self.change(Change::Activate, "acknowledged and activated", &id).await?;
        }
        self.change(Change::Taint, "tainted", stolen).await?;
        self.change(Change::Revoke, "renewed and distrusted", stolen).await?;
        self.known().await
    }

    async fn change(&mut self, change: Change, what: &'static str, id: &str) -> Result<(), Failure> {
        let began = Instant::now();
        let done = change.carry_out(&mut self.client, id, self.force, self.wait).await?;
        self.note(what, began, done);
        Ok(())
    }

    /// Until agents have heard of the last step.
    async fn known(&mut self) -> Result<(), Failure> {
        let began = Instant::now();
        let Some(last) = self.steps.last() else { return Ok(()) };
        let (revision, authority, agents) = (last.revision, last.authority.clone(), last.agents);
        let request = WaitRequest { revision, timeout: self.wait };
        let limit = Duration::from_secs(u64::from(self.wait).saturating_add(5));
        let answer = tokio::time::timeout(limit, self.client.wait(request)).await;
        let what = || Failure::TimedOut { what: "waiting for the agents".into(), limit: self.wait.into() };
        let behind = answer.map_err(|_| what())??.into_inner().behind;
        let took = began.elapsed();
        self.steps.push(DrillStep { what: "known to agents", authority, revision, agents, behind, took });
        Ok(())
    }

    fn note(&mut self, what: &'static str, began: Instant, done: ChangeAuthorityResponse) {
        let authority = done.authority.unwrap_or_default();
        self.steps.push(DrillStep {
            what,
            authority: authority.id,
            revision: done.revision,
            agents: authority.agents,
            behind: done.behind,
            took: began.elapsed(),
        });
    }

    async fn stolen(&mut self, kind: KeyKind, id: Option<&str>) -> Result<SigningAuthority, Failure> {
        let Some(id) = id else {
            let server = self.client.status(StatusRequest {}).await?.into_inner().server;
            let server = (kind == KeyKind::Intermediate).then_some(server);
            return self.signing(kind, server.as_deref()).await?.ok_or_else(|| {
                Failure::of(
                    "ca.unknown",
                    "no such key signs now",
                    "name it with --id; `bonafide ca show` lists them",
                )
            });
        };
        let found = self.list().await?.into_iter().find(|authority| authority.id == id);
        found.filter(|authority| authority.kind() == kind.to_wire()).ok_or_else(|| {
            Failure::of("ca.unknown", format!("there is no such key `{id}`"), "`bonafide ca show` lists them")
        })
    }

    async fn signing(
        &mut self,
        kind: KeyKind,
        server: Option<&str>,
    ) -> Result<Option<SigningAuthority>, Failure> {
        let list = self.list().await?;
        Ok(list.into_iter().find(|authority| {
            authority.kind() == kind.to_wire()
                && authority.state == "active"
                && server.is_none_or(|server| authority.server == server)
        }))
    }

    async fn list(&mut self) -> Result<Vec<SigningAuthority>, Failure> {
        Ok(self.client.list_authorities(ListAuthoritiesRequest {}).await?.into_inner().authorities)
    }
}

/// The ID of the root above an intermediate.
fn issuer(intermediate: &SigningAuthority) -> Result<String, Failure> {
    let certificate = bonafide_identity::Certificate::from_der(&intermediate.certificate);
    let certificate = certificate.map_err(|error| Failure::of(error.code(), error, error.hint()))?;
    Ok(certificate.authority_key_id().map(crate::text::hex).unwrap_or_default())
}

impl KeyKind {
    fn name(self) -> &'static str {
        match self {
            Self::Root => "root",
            Self::Intermediate => "intermediate",
            Self::Jwt => "jwt",
        }
    }
}
