//! The chapter of keys: what is encrypted on one node is decrypted on another, through a rotation, a withdrawal and a cut.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use bonafide_authority::key_entry::{KeyEntry, key_entry::Kind};
use bonafide_wire::admin::{
    ChangeKeyRequest, CreateKeyRequest, KeySettings, RotateKey, change_key_request::Change,
};
use prost::Message as _;

use super::{
    Cast, SOON,
    actor::Actor,
    event::{Event, Used},
    eventually, identity,
    narrator::Narrator,
    permission::apply,
    role::keys::KEY,
    spiffe_id,
    stage::{Stage, observation_failed},
};
use crate::{
    Failure, admin,
    admin::idempotency_key,
    text::count,
    tiles,
    view::ledger::{EntryList, EntryView},
};

/// A withdrawal is felt within this time, on every node that is connected.
const WITHDRAWAL: Duration = Duration::from_secs(2);
/// How long leased keys are used without a word of any authority, in seconds: the shortest that a key can have.
const MAX_STALE: u32 = 30;
/// What a machine with work to do may take to notice.
const SLACK: Duration = Duration::from_secs(3);
/// So many uses of the key are awaited without an authority.
const USES: u64 = 50;
/// What the ledger is searched back for.
const RECENT: u64 = 256;

/// Two workloads on two nodes, one of which decrypts what the other encrypts.
pub(super) struct Pair {
    writer: Actor,
    reader: Actor,
}

/// Until the withdrawal, and back.
pub(super) async fn one_key_is_on_two_nodes(
    stage: &mut Stage,
    narrator: &mut Narrator<'_>,
    cast: &Cast,
) -> Result<Pair, Failure> {
    narrator.scene("A second node joins, and both have a key that no workload sees")?;
    let agent = super::join(stage, "second-agent", &stage.second_agent_socket()).await?;
    narrator.saw(format!("the second node is {}", agent.agent_id))?;
    let mut admin = admin::connect(&stage.admin_socket()).await?;
    let settings = KeySettings { max_stale: Some(MAX_STALE), ..KeySettings::default() };
    let request = CreateKeyRequest {
        name: KEY.to_owned(),
        r#type: "aes256-gcm".to_owned(),
        settings: Some(settings),
        idempotency_key: idempotency_key(),
        ..CreateKeyRequest::default()
    };
    admin.create_key(request).await?;
    let policy = format!(
        "kind: Policy\nname: keys\nrules:\n- name: orders\n  allow: {{who: {{id: {}}}, can: [encrypt, decrypt], on: {{key: orders/*}}, when: {{aad: {{table: orders}}}}}}\n",
        spiffe_id(&cast.job)
    );
    narrator.quote_text(&policy)?;
    apply(stage, &policy).await?;

    let job = spiffe_id(&cast.job);
    let socket = stage.second_agent_socket();
    let mut reader = stage.start_actor_at(&socket, &cast.job, &["demo-key-reader", "--client", &job])?;
    reader.expect("its identity", SOON, identity).await?;
    let address = reader
        .expect("its address", SOON, |event| match event {
            Event::Listening { address } => Some(address),
            _ => None,
        })
        .await?;
    let writer =
        stage.start_actor(&cast.job, &["demo-key-writer", "--server", &job, "--address", &address])?;
    let mut pair = Pair { writer, reader };
    let other = pair.reader_does("decrypts for another table", |used| used.times > 0).await?;
    let first = pair.reader_does("decrypts", |used| used.version == 1).await?;
    narrator.saw(format!(
        "what one node encrypts with version {} of `{KEY}` the other decrypts, each in the workload's own process",
        first.version
    ))?;
    narrator.check(
        other.version == 0,
        format!("the same ciphertext for `table: customers` is refused: {}", other.message),
    )?;

    narrator.scene("The key rotates while they use it")?;
    let began = Instant::now();
    rotate(stage).await?;
    let written = pair.writer_does("encrypts", |used| used.version != 1).await?;
    let took = began.elapsed();
    narrator.check(
        written.version == 2 && written.code.is_empty(),
        format!("{} ms later new ciphertexts are of version 2", took.as_millis()),
    )?;
    let read = pair.reader_does("decrypts", |used| used.version != 1).await?;
    narrator.check(read.version == 2, "the other node decrypts them, and missed none")?;
    let oldest = pair.reader_does("decrypts the first", |used| used.times > read.times).await?;
    narrator.check(oldest.version == 1, "what was encrypted before the rotation opens as before")?;

    narrator.scene("What was allowed is withdrawn")?;
    let freeze = format!(
        "kind: Guardrail\nname: incident\nrules:\n- name: nobody-reads\n  deny: {{who: anyone, can: [decrypt], on: {{key: {KEY}}}}}\n"
    );
    narrator.quote_text(&freeze)?;
    let began = Instant::now();
    apply(stage, &freeze).await?;
    let refused = pair.reader_does("decrypts", |used| used.version == 0).await?;
    let took = began.elapsed();
    narrator.check(
        took < WITHDRAWAL,
        format!(
            "the other node is refused {} ms later: [{}] {}",
            took.as_millis(),
            refused.code,
            refused.message
        ),
    )?;
    let ledger = stage.path("authority").join("key-ledger");
    let why = eventually(stage, "the ledger of keys says why", SOON, async || refusal(&ledger)).await?;
    narrator.saw("a caller is told no more than that; the ledger of keys says why:")?;
    narrator.quote(&EntryList(vec![why]))?;
    let began = Instant::now();
    apply(stage, &freeze.replacen("rules:", "mode: shadow\nrules:", 1)).await?;
    pair.reader_does("decrypts", |used| used.version == 2).await?;
    narrator
        .saw(format!("{} ms after the rule is in shadow, it decrypts again", began.elapsed().as_millis()))?;
    Ok(pair)
}

/// Both go on without an authority.
pub(super) async fn they_go_on(narrator: &mut Narrator<'_>, pair: &mut Pair) -> Result<(), Failure> {
    let before = pair.reader_does("decrypts", |used| used.version == 2).await?.times;
    let after = pair.reader_does("decrypts", |used| used.version != 2 || used.times >= before + USES).await?;
    let oldest = pair.reader_does("decrypts the first", |_| true).await?;
    narrator.check(
        after.version == 2 && oldest.version == 1,
        format!(
            "the two nodes encrypt and decrypt with the keys that they have leased: {} since, and the first one too",
            count(after.times - before, "message", "messages")
        ),
    )
}

/// Both end when what they know is too old. `since`: when the authority was gone.
pub(super) async fn they_end(
    narrator: &mut Narrator<'_>,
    mut pair: Pair,
    since: Instant,
) -> Result<(), Failure> {
    narrator.scene("Nobody uses a key for longer than he can hear that he may not")?;
    let bound = Duration::from_secs(MAX_STALE.into()) + SLACK;
    let left = bound.saturating_sub(since.elapsed());
    let refused = |used: &Used| used.version == 0;
    let reader = until(&mut pair.reader, "decrypts", left, refused).await?;
    let took = since.elapsed();
    narrator.check(
        took <= bound,
        format!(
            "after {:.1} s without an authority (the key allows {MAX_STALE} s) the reader is refused: [{}] {}",
            took.as_secs_f32(), reader.code, reader.message
        ),
    )?;
    let left = bound.saturating_sub(since.elapsed());
    let writer = until(&mut pair.writer, "encrypts", left, refused).await?;
    narrator.saw(format!("and so is the writer: [{}]", writer.code))?;
    pair.reader.dismiss().await;
    pair.writer.dismiss().await;
    Ok(())
}

impl Pair {
    async fn reader_does(&mut self, what: &str, is_it: impl Fn(&Used) -> bool) -> Result<Used, Failure> {
        until(&mut self.reader, what, SOON, is_it).await
    }

    async fn writer_does(&mut self, what: &str, is_it: impl Fn(&Used) -> bool) -> Result<Used, Failure> {
        until(&mut self.writer, what, SOON, is_it).await
    }
}

async fn until(
    actor: &mut Actor,
    what: &str,
    within: Duration,
    is_it: impl Fn(&Used) -> bool,
) -> Result<Used, Failure> {
    let pick = |event| match event {
        Event::Used(used) if used.what == what && is_it(&used) => Some(used),
        _ => None,
    };
    actor.expect(what, within, pick).await
}

async fn rotate(stage: &Stage) -> Result<(), Failure> {
    let request = ChangeKeyRequest {
        name: KEY.to_owned(),
        change: Some(Change::Rotate(RotateKey::default())),
        idempotency_key: idempotency_key(),
    };
    admin::connect(&stage.admin_socket()).await?.change_key(request).await?;
    Ok(())
}

/// The last refusal because of the guardrail, as `bonafide log show` has it.
fn refusal(ledger: &Path) -> Result<EntryView, Failure> {
    let size = tiles::published_size(ledger)?;
    let entries = tiles::entries(ledger, size, size.saturating_sub(RECENT), RECENT)?;
    let mut refusals = entries.into_iter().rev().filter_map(|(index, bytes)| {
        let entry = KeyEntry::decode(bytes.as_slice()).ok()?;
        matches!(&entry.kind, Some(Kind::Refusal(refusal)) if refusal.by.starts_with("incident/"))
            .then(|| EntryView::of_keys(index, entry))
    });
    refusals.next().ok_or_else(|| observation_failed("no such refusal yet"))
}
