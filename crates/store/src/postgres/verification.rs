//! What opening checks: everything. And what a snapshot does: every object, and their set.

use std::{collections::HashMap, future::Future, pin::pin};

use futures_util::StreamExt;
use tokio_postgres::{Client, Row, Statement, types::ToSql};

use super::{
    rows, schema,
    session::{Session, error},
};
use crate::{
    Snapshot, StoreError,
    authentication::{HeadRow, Keys},
    follower::{Follower, Position},
    walk::{Audit, ChangeWalk, ObjectRow, ObjectWalk, missing, verify_first_change},
};

/// Everything that is read in it is of one moment.
const BEGIN: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";

/// Verifies the schema, the head, the chain of changes, each object, each object against the log, and the set of
/// objects against the head.
pub(super) async fn verify(session: &Session, keys: &Keys) -> Result<(HeadRow, Follower), StoreError> {
    schema::verify(&session.client).await?;
    at_one_moment(&session.client, async {
        let head = head(session, keys).await?;
        let first = session.client.query(&session.statements.changes, &[&i64::MIN, &1_i64]).await;
        if let Some(row) = first.map_err(|cause| error(&cause))?.first() {
            verify_first_change(&head, row.try_get(0).map_err(|cause| error(&cause))?)?;
        }
        let mut audit = Audit::new(&head);
        let mut walk = ChangeWalk::new(keys, &head, (head.floor, head.anchor));
        let after = rows::integer(head.floor.0)?;
        each(&session.client, &session.statements.changes, &[&after, &i64::MAX], |row| {
            let expected = walk.expected();
            walk.arrive(rows::revision(&row, expected)?)?;
            let change = rows::change(&row, expected)?;
            walk.step(&change)?;
            audit.change(keys, &head, &change);
            Ok(())
        })
        .await?;
        walk.finish(usize::MAX)?;

        let mut macs = HashMap::new();
        let walk = each_object(session, keys, &head, |object| {
            macs.insert(object.key.to_owned(), object.mac);
            audit.object(&head, (object.key, object.revision, &object.mac))
        })
        .await?;
        if let Some(revision) = audit.left() {
            let after = rows::integer(revision.0.saturating_sub(1))?;
            let row = session.client.query_one(&session.statements.changes, &[&after, &1_i64]).await;
            let row = row.map_err(|cause| error(&cause))?;
            return Err(missing(rows::change(&row, revision)?.key));
        }
        let digest = walk.finish()?;
        let follower = Follower::new(Position::of(&head), macs, digest);
        Ok((head, follower))
    })
    .await
}

/// Every object.
pub(super) async fn snapshot(session: &Session, keys: &Keys) -> Result<(HeadRow, Snapshot), StoreError> {
    at_one_moment(&session.client, async {
        let head = head(session, keys).await?;
        let mut objects = Vec::new();
        let walk = each_object(session, keys, &head, |object| {
            objects.push(object.to_owned());
            Ok(())
        })
        .await?;
        walk.finish()?;
        let snapshot = Snapshot { head: head.head(), objects };
        Ok((head, snapshot))
    })
    .await
}

/// The head, verified.
pub(super) async fn head(session: &Session, keys: &Keys) -> Result<HeadRow, StoreError> {
    let answer = session.client.query(&session.statements.head, &[]).await.map_err(|cause| error(&cause))?;
    let (head, mac) = rows::head(&answer)?;
    keys.verify_head(&head, &mac)?;
    Ok(head)
}

/// Goes through all objects, as [`ObjectWalk`] does, which it returns: their set is yet to be verified.
pub(super) async fn each_object<'a>(
    session: &Session,
    keys: &'a Keys,
    head: &'a HeadRow,
    mut visit: impl FnMut(&ObjectRow<'_>) -> Result<(), StoreError>,
) -> Result<ObjectWalk<'a>, StoreError> {
    let mut walk = ObjectWalk::new(keys, head);
    each(&session.client, &session.statements.objects, &[], |row| {
        let object = rows::object(&row)?;
        walk.step(&object)?;
        visit(&object)
    })
    .await?;
    Ok(walk)
}

async fn at_one_moment<T>(
    client: &Client,
    work: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    client.batch_execute(BEGIN).await.map_err(|cause| error(&cause))?;
    let result = work.await;
    client.batch_execute("ROLLBACK").await.map_err(|cause| error(&cause))?;
    result
}

/// Streams: the table may be large.
async fn each(
    client: &Client,
    statement: &Statement,
    parameters: &[&(dyn ToSql + Sync)],
    mut visit: impl FnMut(Row) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    let rows =
        client.query_raw(statement, parameters.iter().copied()).await.map_err(|cause| error(&cause))?;
    let mut rows = pin!(rows);
    let mut result = Ok(());
    while let Some(row) = rows.next().await {
        result = row.map_err(|cause| error(&cause)).and_then(&mut visit);
        if result.is_err() {
            break;
        }
    }
    result
}
