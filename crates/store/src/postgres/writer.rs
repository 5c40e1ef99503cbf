//! What writes: commits, compaction, and new incarnations.

use std::time::Duration;

use bonafide_crypto::digest::SetDigest;
use tokio::time::Instant;
use tokio_postgres::types::ToSql;

use super::{
    Shared, read,
    rows::{self, integer},
    session::{ANSWER_TIME, ATTEMPTS, NOTIFY, Pipeline, Session, error, in_time, open, silent},
    verification,
};
use crate::{
    Batch, Head, Incarnation, Revision, StoreError,
    authentication::HeadRow,
    follower::{Plan, Position},
    walk::ChangeWalk,
};

const BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE";
/// Changes that are read at once to catch up.
const PAGE: usize = 1000;
/// How long the database is asked what became of a commit.
const RESOLVE_TIME: Duration = Duration::from_secs(30);
/// Between two questions.
const RESOLVE_PAUSE: Duration = Duration::from_millis(250);

type Parameter<'a> = &'a (dyn ToSql + Sync);
/// Revision, value and MAC of an object.
type ObjectValues<'a> = (i64, Option<&'a [u8]>, &'a [u8]);

/// What became of a commit.
enum Outcome {
    Committed,
    Refused(StoreError),
    /// The connection was lost before the database was told to commit.
    Lost(StoreError),
    /// It was told to, but no answer came.
    Unknown(StoreError),
}

impl Shared {
    pub(super) async fn commit(&self, expect: Revision, batch: &Batch) -> Result<Revision, StoreError> {
        // One commit of this server at a time; they would wait for each other in the database.
        let mut guard = self.writer.session().await?;
        self.catch_up(expect).await?;
        let plan = {
            let follower = self.follower();
            let known = follower.position();
            if known.revision != expect {
                return Err(StoreError::Conflict { head: known.revision });
            }
            follower.plan(&self.keys, batch)
        };
        let mut last = StoreError::Closed;
        for _ in 0..ATTEMPTS {
            if guard.is_none() {
                drop(guard);
                guard = self.writer.session().await?;
            }
            match self.append(open(&guard)?, expect, batch, &plan).await {
                Outcome::Committed => return Ok(self.committed(expect, plan)),
                Outcome::Refused(cause) => {
                    if !matches!(cause, StoreError::Conflict { .. }) {
                        *guard = None;
                    }
                    return Err(cause);
                }
                Outcome::Lost(cause) => last = cause,
                Outcome::Unknown(cause) => {
                    *guard = None;
                    drop(guard);
                    tracing::warn!(
                        "a commit got no answer, so the store is asked what became of it: {cause}"
                    );
                    if self.resolve(expect, &plan).await? {
                        return Ok(self.committed(expect, plan));
                    }
                    guard = self.writer.session().await?;
                    last = cause;
                    continue;
                }
            }
            *guard = None;
        }
        Err(last)
    }

    /// Follows the log up to `expect`, if it goes so far.
    async fn catch_up(&self, expect: Revision) -> Result<(), StoreError> {
        loop {
            let known = self.follower().position();
            if known.revision >= expect {
                return Ok(());
            }
            match self.changes(known.revision, PAGE).await {
                Ok(changes) if changes.is_empty() => return Ok(()),
                Ok(_) => {}
                Err(StoreError::Compacted { .. }) => {
                    let (head, follower) = read!(self, session => verification::verify(session, &self.keys))?;
                    known.admits(&head)?;
                    *self.follower() = follower;
                }
                Err(cause) => return Err(cause),
            }
        }
    }

    fn committed(&self, expect: Revision, plan: Plan) -> Revision {
        let revision = plan.last.revision;
        let mut follower = self.follower();
        // Otherwise a reader of this server has seen it already.
        if follower.position().revision == expect {
            follower.apply(plan);
        }
        drop(follower);
        self.wake.send_modify(|count| *count = count.wrapping_add(1));
        revision
    }

    /// Two round trips: the lock of the head, then everything else with the commit.
    async fn append(&self, session: &Session, expect: Revision, batch: &Batch, plan: &Plan) -> Outcome {
        let (known, count) = (self.follower().position(), batch.changes.len() as u64);
        let head = match in_time(self.lock_head(session, expect, count)).await {
            Ok(Locked::Head(head)) => head,
            Ok(Locked::Moved(head)) => {
                return Outcome::Refused(match known.admits(&head) {
                    Ok(()) => StoreError::Conflict { head: head.revision },
                    Err(cause) => cause,
                });
            }
            Err(cause @ StoreError::Io(_)) => return Outcome::Lost(cause),
            Err(cause) => return Outcome::Refused(cause),
        };
        if known.revision == expect && Position::of(&head) != known {
            let cause = known.admits(&head).err().unwrap_or_else(|| known.another_change());
            return Outcome::Refused(cause);
        }
        let head = plan.head(&self.keys, &head);
        let Ok(written) = tokio::time::timeout(ANSWER_TIME, self.write(session, batch, plan, &head)).await
        else {
            return Outcome::Unknown(silent(ANSWER_TIME));
        };
        match written {
            Ok(()) => Outcome::Committed,
            // The database has said no, so all of it is undone.
            Err(cause) if cause.as_db_error().is_some_and(|said| !is_end(said)) => {
                Outcome::Refused(error(&cause))
            }
            Err(cause) => Outcome::Unknown(error(&cause)),
        }
    }

    async fn write(
        &self,
        session: &Session,
        batch: &Batch,
        plan: &Plan,
        head: &HeadRow,
    ) -> Result<(), tokio_postgres::Error> {
        let (client, statements) = (&session.client, &session.statements);
        let head = HeadValues::new(head, self.keys.head(head));
        let revisions: Vec<i64> =
            plan.changes.iter().map(|(revision, _)| integer(revision.0).unwrap_or(i64::MAX)).collect();
        let macs: Vec<&[u8]> = plan.changes.iter().map(|(_, mac)| mac.as_slice()).collect();
        let values: Vec<Option<&[u8]>> = batch.changes.iter().map(|(_, value)| value.as_deref()).collect();
        let changes: Vec<[Parameter<'_>; 4]> = batch
            .changes
            .iter()
            .zip(&values)
            .zip(revisions.iter().zip(&macs))
            .map(|(((key, _), value), (revision, mac))| {
                [
                    revision as Parameter<'_>,
                    key as Parameter<'_>,
                    value as Parameter<'_>,
                    mac as Parameter<'_>,
                ]
            })
            .collect();
        let puts: Vec<(&String, Option<ObjectValues<'_>>)> = plan
            .objects
            .iter()
            .map(|(key, put)| {
                let put = put.as_ref().map(|put| {
                    let value = values.get(put.index).copied().flatten();
                    (integer(put.revision.0).unwrap_or(i64::MAX), value, put.mac.as_slice())
                });
                (key, put)
            })
            .collect();
        let objects: Vec<Vec<Parameter<'_>>> = puts
            .iter()
            .map(|(key, put)| match put {
                Some((revision, value, mac)) => {
                    vec![
                        key as Parameter<'_>,
                        revision as Parameter<'_>,
                        value as Parameter<'_>,
                        mac as Parameter<'_>,
                    ]
                }
                None => vec![key as Parameter<'_>],
            })
            .collect();
        let head = head.parameters();
        let mut pipeline = Pipeline::default();
        for change in &changes {
            pipeline.send(client.execute(&statements.insert_change, change)).await;
        }
        for object in &objects {
            let statement =
                if object.len() == 1 { &statements.delete_object } else { &statements.put_object };
            pipeline.send(client.execute(statement, object)).await;
        }
        pipeline.send(client.execute(&statements.authenticate_head, &head)).await;
        pipeline.send(execute(session, "COMMIT")).await;
        // Nobody waits for its answer.
        let mut notice = Pipeline::default();
        notice.send(execute(session, NOTIFY)).await;
        pipeline.finish().await.map(drop)
    }

    /// Takes the lock of the head, if it is at `expect`, and moves it on by `count`. The head as it was before.
    async fn lock_head(&self, session: &Session, expect: Revision, count: u64) -> Result<Locked, StoreError> {
        let (client, statements) = (&session.client, &session.statements);
        let (by, at) = (integer(count).ok(), integer(expect.0).ok());
        let parameters: [Parameter<'_>; 2] = [&by, &at];
        let (began, advanced, head) = tokio::join!(
            client.batch_execute(BEGIN),
            client.execute(&statements.advance, &parameters),
            client.query(&statements.head, &[]),
        );
        began.map_err(|cause| error(&cause))?;
        let advanced = advanced.map_err(|cause| error(&cause))?;
        let (mut head, mac) = rows::head(&head.map_err(|cause| error(&cause))?)?;
        if advanced == 0 {
            client.batch_execute("ROLLBACK").await.map_err(|cause| error(&cause))?;
            self.keys.verify_head(&head, &mac)?;
            return Ok(Locked::Moved(head));
        }
        head.revision = expect;
        self.keys.verify_head(&head, &mac)?;
        Ok(Locked::Head(head))
    }

    /// Whether a commit whose connection was lost has happened. Asks under the lock of the head: whoever has it knows
    /// that no transaction is still on its way.
    pub(super) async fn resolve(&self, expect: Revision, plan: &Plan) -> Result<bool, StoreError> {
        let deadline = Instant::now() + RESOLVE_TIME;
        loop {
            let cause = match self.find(expect, plan).await {
                Ok(found) => return Ok(found),
                Err(cause @ (StoreError::Io(_) | StoreError::Full)) => cause,
                Err(cause) => return Err(cause),
            };
            if Instant::now() >= deadline {
                return Err(StoreError::Unknown(cause.to_string()));
            }
            tokio::time::sleep(RESOLVE_PAUSE).await;
        }
    }

    async fn find(&self, expect: Revision, plan: &Plan) -> Result<bool, StoreError> {
        let mut guard = self.writer.session().await?;
        let found = in_time(self.find_on(open(&guard)?, expect, plan)).await;
        if found.is_err() {
            *guard = None;
        }
        found
    }

    async fn find_on(&self, session: &Session, expect: Revision, plan: &Plan) -> Result<bool, StoreError> {
        let head = match self.lock_head(session, expect, 0).await? {
            Locked::Head(_) => {
                session.client.batch_execute("ROLLBACK").await.map_err(|cause| error(&cause))?;
                return Ok(false);
            }
            Locked::Moved(head) => head,
        };
        self.follower().position().admits(&head)?;
        if plan.last.revision > head.revision {
            return Ok(false);
        }
        if plan.last.revision <= head.floor {
            return Err(StoreError::Unknown("the change in question has been compacted away".to_owned()));
        }
        let last = integer(plan.last.revision.0)?;
        let answer = session.client.query(&session.statements.change_mac, &[&last]).await;
        let mac = rows::change_mac(&answer.map_err(|cause| error(&cause))?, plan.last.revision)?;
        Ok(mac == plan.last.tip)
    }

    pub(super) async fn compact(&self, floor: Revision) -> Result<Head, StoreError> {
        loop {
            let head = self.head().await?;
            if floor > head.revision {
                return Err(StoreError::Invalid { what: "the floor is at most the last revision" });
            }
            if floor <= head.floor {
                return Ok(head.head());
            }
            let mut guard = self.writer.session().await?;
            let done = self.forget(open(&guard)?, head.revision, floor).await;
            if done.is_err() {
                *guard = None;
            }
            if let Some(head) = done? {
                return Ok(head.head());
            }
            // Somebody has committed meanwhile.
        }
    }

    /// The chain is verified as far as it is forgotten: the new anchor must not be an attacker's.
    async fn forget(
        &self,
        session: &Session,
        expect: Revision,
        floor: Revision,
    ) -> Result<Option<HeadRow>, StoreError> {
        let Locked::Head(head) = self.lock_head(session, expect, 0).await? else { return Ok(None) };
        let (client, statements) = (&session.client, &session.statements);
        let mut walk = ChangeWalk::new(&self.keys, &head, (head.floor, head.anchor));
        let count = floor.0.saturating_sub(head.floor.0);
        let (after, limit) = (integer(head.floor.0)?, integer(count)?);
        let found = client.query(&statements.changes, &[&after, &limit]).await;
        for row in &found.map_err(|cause| error(&cause))? {
            let expected = walk.expected();
            walk.arrive(rows::revision(row, expected)?)?;
            walk.step(&rows::change(row, expected)?)?;
        }
        let (_, anchor) = walk.finish(usize::try_from(count).unwrap_or(usize::MAX))?;
        let after = HeadRow { floor, anchor, ..head };
        let values = HeadValues::new(&after, self.keys.head(&after));
        let upto = integer(floor.0)?;
        client.execute(&statements.delete_changes, &[&upto]).await.map_err(|cause| error(&cause))?;
        client
            .execute(&statements.authenticate_head, &values.parameters())
            .await
            .map_err(|cause| error(&cause))?;
        client.batch_execute("COMMIT").await.map_err(|cause| error(&cause))?;
        Ok(Some(after))
    }

    /// Moves all objects into another incarnation, and begins its log.
    pub(super) async fn renew(&self, incarnation: Incarnation) -> Result<(), StoreError> {
        let mut guard = self.writer.session().await?;
        let renewed = self.renew_on(open(&guard)?, incarnation).await;
        // The session ends with the store.
        *guard = None;
        renewed
    }

    async fn renew_on(&self, session: &Session, incarnation: Incarnation) -> Result<(), StoreError> {
        let known = self.follower().position();
        let Locked::Head(head) = self.lock_head(session, known.revision, 0).await? else {
            return Err(StoreError::Io("another server is writing the store".to_owned()));
        };
        known.admits(&head)?;
        let (client, statements) = (&session.client, &session.statements);
        let mut digest = SetDigest::default();
        let mut objects = Vec::new();
        verification::each_object(session, &self.keys, &head, |object| {
            let mac = self.keys.object(&incarnation, object.key, object.revision, object.value);
            digest.insert(&self.keys.element(&mac));
            objects.push((object.key.to_owned(), mac));
            Ok(())
        })
        .await?
        .finish()?;
        for part in objects.chunks(PAGE) {
            let values: Vec<(&String, &[u8])> = part.iter().map(|(key, mac)| (key, mac.as_slice())).collect();
            let parameters: Vec<[Parameter<'_>; 2]> =
                values.iter().map(|(key, mac)| [mac as Parameter<'_>, key as Parameter<'_>]).collect();
            let mut pipeline = Pipeline::default();
            for parameters in &parameters {
                pipeline.send(client.execute(&statements.authenticate_object, parameters)).await;
            }
            pipeline.finish().await.map_err(|cause| error(&cause))?;
        }
        let last = integer(head.revision.0)?;
        client.execute(&statements.delete_changes, &[&last]).await.map_err(|cause| error(&cause))?;
        let name = incarnation.as_bytes().as_slice();
        client.execute(&statements.renew, &[&name]).await.map_err(|cause| error(&cause))?;
        let after = head.renewed(incarnation, &self.keys, &digest);
        let values = HeadValues::new(&after, self.keys.head(&after));
        client
            .execute(&statements.authenticate_head, &values.parameters())
            .await
            .map_err(|cause| error(&cause))?;
        client.batch_execute("COMMIT").await.map_err(|cause| error(&cause))
    }
}

/// What the lock of the head has shown.
enum Locked {
    Head(HeadRow),
    /// It is not where it was expected, and is not locked.
    Moved(HeadRow),
}

/// The head's columns, as parameters of [`AUTHENTICATE_HEAD`](crate::sql::AUTHENTICATE_HEAD).
struct HeadValues {
    floor: i64,
    objects: i64,
    anchor: Vec<u8>,
    tip: Vec<u8>,
    set_tag: Vec<u8>,
    mac: Vec<u8>,
}

impl HeadValues {
    fn new(head: &HeadRow, mac: [u8; 32]) -> Self {
        Self {
            floor: integer(head.floor.0).unwrap_or(i64::MAX),
            objects: integer(head.objects).unwrap_or(i64::MAX),
            anchor: head.anchor.to_vec(),
            tip: head.tip.to_vec(),
            set_tag: head.set_tag.to_vec(),
            mac: mac.to_vec(),
        }
    }

    fn parameters(&self) -> [Parameter<'_>; 6] {
        [&self.floor, &self.anchor, &self.tip, &self.objects, &self.set_tag, &self.mac]
    }
}

async fn execute(session: &Session, statement: &str) -> Result<u64, tokio_postgres::Error> {
    session.client.batch_execute(statement).await.map(|()| 0)
}

/// The server, or the session, is being ended: what it was doing may have been done.
fn is_end(said: &tokio_postgres::error::DbError) -> bool {
    said.code().code().starts_with("57P") || said.code().code().starts_with("08")
}
