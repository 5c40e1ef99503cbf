//! The tables: made once, and looked at before they are believed.

use tokio_postgres::{Client, error::SqlState};

use super::{rows::integer, session::error};
use crate::{
    Place, StoreError,
    authentication::{HeadRow, Keys},
    sql,
};

/// Makes the tables of an empty store, all of it or nothing. Whether it did: somebody else may have been faster.
pub(super) async fn create(client: &mut Client, head: &HeadRow, keys: &Keys) -> Result<bool, StoreError> {
    let transaction = client.transaction().await.map_err(|cause| error(&cause))?;
    for statement in sql::POSTGRES_SCHEMA {
        match transaction.batch_execute(statement).await {
            Ok(()) => {}
            // Two that make it at once meet in the catalogue.
            Err(cause)
                if cause.code() == Some(&SqlState::DUPLICATE_TABLE)
                    || cause.code() == Some(&SqlState::DUPLICATE_OBJECT)
                    || cause.code() == Some(&SqlState::UNIQUE_VIOLATION) =>
            {
                return Ok(false);
            }
            Err(cause) => return Err(error(&cause)),
        }
    }
    transaction
        .execute(
            sql::INSERT_HEAD,
            &[
                &head.incarnation.as_bytes().as_slice(),
                &integer(head.revision.0)?,
                &integer(head.floor.0)?,
                &head.anchor.as_slice(),
                &head.tip.as_slice(),
                &integer(head.objects)?,
                &head.set_tag.as_slice(),
                &keys.head(head).as_slice(),
            ],
        )
        .await
        .map_err(|cause| error(&cause))?;
    transaction.commit().await.map_err(|cause| error(&cause))?;
    Ok(true)
}

/// Whether any of our tables is there.
pub(super) async fn exists(client: &Client) -> Result<bool, StoreError> {
    Ok(!client.query(sql::POSTGRES_SCHEMA_OBJECTS, &[]).await.map_err(|cause| error(&cause))?.is_empty())
}

/// Exactly our tables: an added trigger, rule, policy or default could lie about rows or run code, an index could hide
/// some.
pub(super) async fn verify(client: &Client) -> Result<(), StoreError> {
    let broken = |name: &str, what| {
        StoreError::broken(Place::Database(format!("schema, `{}`", name.escape_debug())), what)
    };
    let rows = client.query(sql::POSTGRES_SCHEMA_OBJECTS, &[]).await.map_err(|cause| error(&cause))?;
    let mut expected = sql::POSTGRES_SCHEMA_EXPECTED.iter();
    for row in rows {
        let name: String = row.try_get(0).map_err(|_| broken("?", "it has the wrong type"))?;
        let definition: String = row.try_get(1).map_err(|_| broken("?", "it has the wrong type"))?;
        let Some((wanted, text)) = expected.next() else { return Err(broken(&name, "it was added")) };
        if name != *wanted {
            let known = sql::POSTGRES_SCHEMA_EXPECTED.iter().any(|(wanted, _)| *wanted == name);
            return Err(if known { broken(wanted, "it is missing") } else { broken(&name, "it was added") });
        }
        if definition != *text {
            return Err(broken(&name, "it was changed"));
        }
    }
    match expected.next() {
        Some((name, _)) => Err(broken(name, "it is missing")),
        None => Ok(()),
    }
}
