//! The chapter of permission: a policy that a person can read aloud, an edit that takes effect, a rule in shadow.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use bonafide_wire::{
    admin::{ApplyRequest, Resource, resource},
    types::Policy,
};

use super::{
    Cast, SOON,
    actor::Actor,
    event::Event,
    identity,
    narrator::Narrator,
    spiffe_id,
    stage::{Stage, observation_failed},
};
use crate::{Failure, admin, admin::idempotency_key};

/// An edit takes effect within this time.
const EDIT: Duration = Duration::from_secs(1);
const READ: &str = "GET /orders/7";
const WRITE: &str = "POST /orders/7";

/// What the server decided.
#[derive(Clone)]
struct Decided {
    allowed: bool,
    why: String,
    would: String,
}

/// Two programs, one of which guards what it has.
pub(super) async fn permission_is_asked_for(
    stage: &mut Stage,
    narrator: &mut Narrator<'_>,
    cast: &Cast,
) -> Result<(), Failure> {
    narrator.scene("May this caller do this to that? A server asks its policies, in its own process")?;
    let client_id = spiffe_id(&cast.client);
    let server_id = spiffe_id(&cast.server);
    let mut server = stage.start_actor(&cast.server, &["demo-guarded-server", "--client", &client_id])?;
    server.expect("its identity", SOON, identity).await?;
    let address = server
        .expect("its address", SOON, |event| match event {
            Event::Listening { address } => Some(address),
            _ => None,
        })
        .await?;
    let mut client = stage
        .start_actor(&cast.client, &["demo-asking-client", "--server", &server_id, "--address", &address])?;
    client.expect("its identity", SOON, identity).await?;
    let mut server = Watched { server, latest: BTreeMap::new() };
    let nothing = server.until(READ, |decided| !decided.allowed).await?;
    narrator.saw(format!("without a policy: {READ} is denied, because {}", nothing.why))?;

    let readers = policy(&client_id, "");
    narrator.quote_text(&readers)?;
    apply(stage, &readers).await?;
    let read = server.until(READ, |decided| decided.allowed).await?;
    narrator.saw(format!("{READ}: {}", read.why))?;
    let write = server.until(WRITE, |decided| !decided.allowed && decided.why.contains("readers")).await?;
    narrator.saw(format!("{WRITE} is denied, because {}", write.why))?;

    narrator.scene("An edit takes effect on the running server")?;
    let writers = format!(
        "- name: writers\n  allow: {{who: {{id: {client_id}}}, can: [POST], on: {{path: /orders/*}}}}\n"
    );
    narrator.quote_text(&writers)?;
    let edited = Instant::now();
    apply(stage, &policy(&client_id, &writers)).await?;
    let write = server.until(WRITE, |decided| decided.allowed).await?;
    let took = edited.elapsed();
    narrator.check(took < EDIT, format!("{WRITE}: {}, {} ms after the edit", write.why, took.as_millis()))?;

    narrator.scene("A rule is tried in shadow, before it bites")?;
    let shadow = format!(
        "kind: Guardrail\nname: freeze\nmode: shadow\nrules:\n- name: no-writes\n  deny: {{who: {{id: {client_id}}}, can: [POST]}}\n"
    );
    narrator.quote_text(&shadow)?;
    apply(stage, &shadow).await?;
    let write = server.until(WRITE, |decided| !decided.would.is_empty()).await?;
    narrator
        .check(write.allowed, format!("{WRITE} still passes; in force, the rule would {}", write.would))?;
    apply(stage, &shadow.replace("mode: shadow\n", "")).await?;
    let write = server.until(WRITE, |decided| !decided.allowed).await?;
    narrator.saw(format!("in force: {WRITE} is denied, because {}", write.why))?;
    server.server.dismiss().await;
    client.dismiss().await;
    Ok(())
}

fn policy(client: &str, more: &str) -> String {
    format!(
        "kind: Policy\nname: orders\nrules:\n- name: readers\n  allow: {{who: {{id: {client}}}, can: [GET], on: {{path: /orders/*}}}}\n{more}"
    )
}

pub(super) async fn apply(stage: &Stage, source: &str) -> Result<(), Failure> {
    let policy = Policy { source: source.to_owned(), ..Policy::default() };
    let request = ApplyRequest {
        resources: vec![Resource { resource: Some(resource::Resource::Policy(policy)) }],
        idempotency_key: idempotency_key(),
        ..ApplyRequest::default()
    };
    let answer = admin::connect(&stage.admin_socket()).await?.apply(request).await?.into_inner();
    match answer.results.into_iter().find_map(|result| result.problem) {
        Some(problem) => Err(observation_failed(problem.message)),
        None => Ok(()),
    }
}

/// The server, and what it has decided last about each thing.
struct Watched {
    server: Actor,
    latest: BTreeMap<String, Decided>,
}

impl Watched {
    /// Waits until the server decides like this. A change of policy may be told for several things, in any order.
    async fn until(&mut self, wanted: &str, is_it: impl Fn(&Decided) -> bool) -> Result<Decided, Failure> {
        if let Some(decided) = self.latest.get(wanted).filter(|decided| is_it(decided)) {
            return Ok(decided.clone());
        }
        let latest = &mut self.latest;
        let what = format!("its decision about {wanted}");
        let found = self.server.expect(&what, SOON, |event| {
            let Event::Decided { asked, allowed, why, would } = event else { return None };
            let decided = Decided { allowed, why, would };
            let found = (asked == wanted && is_it(&decided)).then(|| decided.clone());
            latest.insert(asked, decided);
            found
        });
        found.await
    }
}
