//! The one thread that writes.

use bonafide_crypto::digest::SetDigest;
use rusqlite::{Connection, ToSql, params};
use tokio::sync::watch;

use super::{
    database::error,
    rows::{self, integer},
};
use crate::{
    Batch, Head, Incarnation, Place, Revision, StoreError,
    authentication::{HeadRow, Keys},
    sql,
};

#[derive(Debug)]
pub(super) struct Writer {
    connection: Connection,
    keys: Keys,
    /// What this process last committed. The database must agree.
    head: HeadRow,
    digest: SetDigest,
    committed: watch::Sender<Revision>,
    /// Why nothing can be written any more.
    failed: Option<String>,
}

impl Writer {
    pub(super) const fn new(
        connection: Connection,
        keys: Keys,
        head: HeadRow,
        digest: SetDigest,
        committed: watch::Sender<Revision>,
    ) -> Self {
        Self { connection, keys, head, digest, committed, failed: None }
    }

    /// Makes the disk look full.
    #[cfg(test)]
    pub(super) fn set_page_limit(&self, pages: u32) {
        self.connection
            .pragma_update_and_check(None, "max_page_count", pages, |row| row.get::<_, i64>(0))
            .unwrap();
    }

    pub(super) fn commit(&mut self, expect: Revision, batch: &Batch) -> Result<Revision, StoreError> {
        self.transact(|writer| writer.append(expect, batch))?;
        self.committed.send_replace(self.head.revision);
        Ok(self.head.revision)
    }

    pub(super) fn compact(&mut self, floor: Revision) -> Result<Head, StoreError> {
        if floor > self.head.revision {
            return Err(StoreError::Invalid { what: "the floor is at most the last revision" });
        }
        if floor > self.head.floor {
            self.transact(|writer| writer.forget(floor))?;
        }
        Ok(self.head.head())
    }

    /// Moves all objects into another incarnation, and begins its log.
    pub(super) fn renew(&mut self, incarnation: Incarnation) -> Result<(), StoreError> {
        self.transact(|writer| {
            let mut digest = SetDigest::default();
            let mut objects = Vec::new();
            rows::each_object(&writer.connection, &writer.keys, &writer.head, |object| {
                let mac = writer.keys.object(&incarnation, object.key, object.revision, object.value);
                digest.insert(&writer.keys.element(&mac));
                objects.push((object.key.to_owned(), mac));
                Ok(())
            })?;
            let run = |statement, values: &[&dyn ToSql]| {
                writer
                    .connection
                    .prepare_cached(statement)
                    .and_then(|mut statement| statement.execute(values))
                    .map_err(error)
            };
            for (key, mac) in &objects {
                run(sql::AUTHENTICATE_OBJECT, &[mac, key])?;
            }
            run(sql::DELETE_CHANGES, &[&integer(writer.head.revision.0)?])?;
            run(sql::RENEW, &[incarnation.as_bytes()])?;
            let head = writer.head.renewed(incarnation, &writer.keys, &digest);
            Ok((head, digest))
        })
    }

    /// Runs `change` in a transaction. What it returns becomes the head and the digest once they are durable.
    fn transact(
        &mut self,
        change: impl FnOnce(&Self) -> Result<(HeadRow, SetDigest), StoreError>,
    ) -> Result<(), StoreError> {
        if let Some(cause) = &self.failed {
            return Err(StoreError::Failed(cause.clone()));
        }
        // Immediate: takes the write lock now, so that nothing that is read below can be stale.
        self.execute("BEGIN IMMEDIATE")?;
        let result = change(self).and_then(|(head, digest)| {
            self.authenticate(&head)?;
            Ok((head, digest))
        });
        match result {
            Ok((head, digest)) => match self.execute("COMMIT") {
                Ok(()) => {
                    self.head = head;
                    self.digest = digest;
                    Ok(())
                }
                Err(StoreError::Full) => {
                    self.roll_back();
                    Err(StoreError::Full)
                }
                // After a failed fsync nobody knows what is on the disk, and asking again can't tell.
                Err(cause) => {
                    self.failed = Some(cause.to_string());
                    self.roll_back();
                    Err(StoreError::Failed(cause.to_string()))
                }
            },
            Err(cause) => {
                self.roll_back();
                Err(cause)
            }
        }
    }

    fn append(&self, expect: Revision, batch: &Batch) -> Result<(HeadRow, SetDigest), StoreError> {
        let count = batch.changes.len() as u64;
        let advanced = self
            .connection
            .prepare_cached(sql::ADVANCE)
            .and_then(|mut statement| statement.execute(params![integer(count).ok(), integer(expect.0).ok()]))
            .map_err(error)?;
        if advanced == 0 {
            return Err(StoreError::Conflict { head: rows::head(&self.connection, &self.keys)?.revision });
        }
        if expect != self.head.revision {
            return Err(StoreError::broken(Place::Head, "another process moved it"));
        }
        let mut head = self.head.clone();
        let mut digest = self.digest.clone();
        for (key, value) in &batch.changes {
            head.revision = head.revision.next();
            head.tip = self.keys.change(&head.incarnation, head.revision, &head.tip, key, value.as_deref());
            let revision = integer(head.revision.0)?;
            self.connection
                .prepare_cached(sql::INSERT_CHANGE)
                .and_then(|mut statement| statement.execute(params![revision, key, value, head.tip]))
                .map_err(error)?;
            if let Some(old) = rows::object_mac(&self.connection, &self.keys, &head, key)? {
                digest.remove(&self.keys.element(&old));
                head.objects = head.objects.saturating_sub(1);
                if value.is_none() {
                    self.connection
                        .prepare_cached(sql::DELETE_OBJECT)
                        .and_then(|mut statement| statement.execute([key]))
                        .map_err(error)?;
                }
            }
            if let Some(value) = value {
                let mac = self.keys.object(&head.incarnation, key, head.revision, value);
                digest.insert(&self.keys.element(&mac));
                head.objects = head.objects.saturating_add(1);
                self.connection
                    .prepare_cached(sql::PUT_OBJECT)
                    .and_then(|mut statement| statement.execute(params![key, revision, value, mac]))
                    .map_err(error)?;
            }
        }
        head.set_tag = self.keys.set(&digest);
        Ok((head, digest))
    }

    /// The chain is verified as far as it is forgotten: the new anchor must not be an attacker's.
    fn forget(&self, floor: Revision) -> Result<(HeadRow, SetDigest), StoreError> {
        let count = usize::try_from(floor.0.saturating_sub(self.head.floor.0)).unwrap_or(usize::MAX);
        let start = (self.head.floor, self.head.anchor);
        let (_, anchor) = rows::each_change(&self.connection, &self.keys, &self.head, start, count, |_| ())?;
        self.connection
            .prepare_cached(sql::DELETE_CHANGES)
            .and_then(|mut statement| statement.execute([integer(floor.0).ok()]))
            .map_err(error)?;
        Ok((HeadRow { floor, anchor, ..self.head.clone() }, self.digest.clone()))
    }

    fn authenticate(&self, head: &HeadRow) -> Result<(), StoreError> {
        self.connection
            .prepare_cached(sql::AUTHENTICATE_HEAD)
            .and_then(|mut statement| {
                statement.execute(params![
                    integer(head.floor.0).ok(),
                    head.anchor,
                    head.tip,
                    integer(head.objects).ok(),
                    head.set_tag,
                    self.keys.head(head),
                ])
            })
            .map_err(error)?;
        Ok(())
    }

    fn execute(&self, statement: &str) -> Result<(), StoreError> {
        self.connection
            .prepare_cached(statement)
            .and_then(|mut statement| statement.execute([]))
            .map(|_| ())
            .map_err(error)
    }

    fn roll_back(&mut self) {
        // SQLite has rolled back by itself after some errors.
        if self.connection.is_autocommit() {
            return;
        }
        if let Err(cause) = self.execute("ROLLBACK") {
            self.failed.get_or_insert(cause.to_string());
        }
    }
}
