//! Whoever can write the database changes it in every way there is; opening must refuse, and say where.

use rusqlite::{params_from_iter, types::Value};

use super::*;
use crate::Place;

/// A database with removals, overwritten objects, several versions of values, and a compacted part.
struct Fixture {
    backend: Sqlite,
    /// Objects that only compacted changes wrote.
    old: Vec<&'static str>,
}

const COLUMNS: [(&str, &[&str]); 3] = [
    ("head", &["id", "incarnation", "revision", "floor", "anchor", "tip", "objects", "set_tag", "mac"]),
    ("change", &["revision", "key", "value", "mac"]),
    ("object", &["key", "revision", "value", "mac"]),
];

impl Fixture {
    async fn new() -> Self {
        let backend = Sqlite::new();
        let store = backend.open().await;
        let batch =
            Batch::default().put("old/1", "one").put("old/2", "two").put("a", "first").put("b", "first");
        let revision = store.commit(Revision(0), batch).await.unwrap();
        let revision = store.commit(revision, Batch::default().put("c", "gone").remove("c")).await.unwrap();
        store.compact(revision).await.unwrap();
        let batch =
            Batch::default().put("a", "second").put("d", "gone").remove("d").put("e", "").put("a", "3");
        store.commit(revision, batch).await.unwrap();
        Self { backend, old: vec!["b", "old/1", "old/2"] }
    }

    /// Runs `attack` on the database, and returns what opening it says. Puts everything back afterwards.
    fn opened_after(&self, attack: impl FnOnce(&Connection)) -> Result<(), StoreError> {
        let path = self.backend.path();
        let copy = tempfile::tempdir().unwrap();
        let target = copy.path().join("store.sqlite");
        std::fs::copy(&path, &target).unwrap();
        let connection = Connection::open(&target).unwrap();
        connection.pragma_update(None, "ignore_check_constraints", true).unwrap();
        attack(&connection);
        connection.close().unwrap();
        SqliteStore::open(&target, key(), &SystemRandom).map(drop)
    }

    fn place_after(&self, attack: impl FnOnce(&Connection)) -> (Place, &'static str) {
        match self.opened_after(attack) {
            Err(StoreError::Broken { place, what }) => (place, what),
            other => panic!("not refused as broken: {other:?}"),
        }
    }

    fn rows(&self, table: &str, columns: &[&str]) -> Vec<Vec<Value>> {
        let connection = Connection::open(self.backend.path()).unwrap();
        let statement = format!("SELECT {} FROM {table} ORDER BY 1", columns.join(", "));
        let mut statement = connection.prepare(&statement).unwrap();
        let rows = statement.query_map([], |row| (0..columns.len()).map(|column| row.get(column)).collect());
        rows.unwrap().map(Result::unwrap).collect()
    }
}

fn integer(value: &Value) -> i64 {
    let Value::Integer(number) = value else { panic!("{value:?}") };
    *number
}

fn string(value: &Value) -> String {
    let Value::Text(text) = value else { panic!("{value:?}") };
    text.clone()
}

/// Each way to change one byte of a value, and some others: nothing, one byte more, one less, another type.
fn variants(value: &Value) -> Vec<Value> {
    let mut variants = vec![Value::Null, Value::Text("x".to_owned()), Value::Blob(vec![])];
    match value {
        Value::Integer(number) => {
            variants.extend((0..64).map(|bit| Value::Integer(number ^ (1 << bit))));
        }
        Value::Blob(bytes) => {
            for at in 0..bytes.len() {
                for flip in [1, 0x80, 0xff] {
                    let mut bytes = bytes.clone();
                    bytes[at] ^= flip;
                    variants.push(Value::Blob(bytes));
                }
            }
            variants.push(Value::Blob([bytes.as_slice(), b"\0"].concat()));
            variants.push(Value::Blob(bytes.get(1..).unwrap_or_default().to_vec()));
        }
        Value::Text(text) => {
            for at in 0..text.len() {
                let mut bytes = text.clone().into_bytes();
                bytes[at] ^= 1;
                variants.push(Value::Text(String::from_utf8(bytes).unwrap()));
            }
            variants.push(Value::Text(format!("{text}\0")));
        }
        Value::Null => variants.push(Value::Blob(vec![0])),
        Value::Real(_) => unreachable!(),
    }
    variants.retain(|variant| variant != value);
    variants
}

#[tokio::test]
async fn every_byte_of_every_column_of_every_row() {
    let fixture = Fixture::new().await;
    let mut tried = 0;
    for (table, columns) in COLUMNS {
        for row in fixture.rows(table, columns) {
            for (column, value) in columns.iter().zip(&row) {
                for variant in variants(value) {
                    let statement = format!("UPDATE {table} SET {column} = ?1 WHERE {} IS ?2", columns[0]);
                    let mut refused = false;
                    let attacked = fixture.opened_after(|connection| {
                        // The types and constraints of the table are not ours to test; what they let pass is.
                        refused = connection.execute(&statement, [&variant, &row[0]]).is_err();
                    });
                    if refused {
                        assert!(attacked.is_ok());
                        continue;
                    }
                    tried += 1;
                    let context = || format!("{table}.{column} of {:?}: {value:?} -> {variant:?}", row[0]);
                    let Err(StoreError::Broken { place, .. }) = &attacked else {
                        panic!("{}: {attacked:?}", context());
                    };
                    let fits = match (table, place) {
                        ("head", Place::Head) => true,
                        // A row that became another one is missing where it was, or too much where it is.
                        ("change", Place::Change(revision)) => {
                            let was = u64::try_from(integer(&row[0])).unwrap();
                            revision.0 == was
                                || *column == "revision" && revision.0 as i64 == integer(&variant)
                        }
                        ("change", Place::Database(what)) => {
                            *column == "revision" && what.contains("`change`") && integer(&variant) < 0
                        }
                        ("object", Place::Object(key)) => {
                            *key == string(&row[0]) || *column == "key" && *key == string(&variant)
                        }
                        _ => false,
                    };
                    assert!(fits, "{}: said {place}", context());
                }
            }
        }
    }
    assert!(tried > 1500, "only {tried} changes were possible");
}

#[tokio::test]
async fn values_and_macs_that_are_swapped_between_rows() {
    let fixture = Fixture::new().await;
    for (table, columns) in [COLUMNS[1], COLUMNS[2]] {
        let rows = fixture.rows(table, columns);
        for a in &rows {
            for b in &rows {
                if a[0] == b[0] {
                    continue;
                }
                // Each column alone, and all of them but the row's name.
                let mut sets: Vec<Vec<usize>> = (1..columns.len()).map(|column| vec![column]).collect();
                sets.push((1..columns.len()).collect());
                for set in sets {
                    if set.iter().all(|column| a[*column] == b[*column]) {
                        continue;
                    }
                    let (place, _) = fixture.place_after(|connection| {
                        for (to, from) in [(a, b), (b, a)] {
                            let assignments: Vec<_> =
                                set.iter().map(|column| format!("{} = ?", columns[*column])).collect();
                            let statement = format!(
                                "UPDATE {table} SET {} WHERE {} = ?",
                                assignments.join(", "),
                                columns[0]
                            );
                            let values = set.iter().map(|column| &from[*column]).chain([&to[0]]);
                            connection.execute(&statement, params_from_iter(values)).unwrap();
                        }
                    });
                    let found = match place {
                        Place::Change(revision) => Value::Integer(revision.0 as i64),
                        Place::Object(key) => Value::Text(key),
                        other => panic!("said {other}"),
                    };
                    assert!(found == a[0] || found == b[0], "{table}: {found:?}");
                }
            }
        }
    }
}

#[tokio::test]
async fn rows_that_are_deleted() {
    let fixture = Fixture::new().await;
    assert_eq!(fixture.place_after(|c| drop(c.execute("DELETE FROM head", []))).0, Place::Head);
    for row in fixture.rows("change", &["revision"]) {
        let (place, _) = fixture.place_after(|connection| {
            connection.execute("DELETE FROM change WHERE revision = ?1", [&row[0]]).unwrap();
        });
        assert_eq!(place, Place::Change(Revision(integer(&row[0]) as u64)));
    }
    for row in fixture.rows("object", &["key"]) {
        let key = string(&row[0]);
        let (place, what) = fixture.place_after(|connection| {
            connection.execute("DELETE FROM object WHERE key = ?1", [&row[0]]).unwrap();
        });
        // Of what the log does not hold any more, only the number and the digest are known.
        let expected = if fixture.old.contains(&key.as_str()) {
            (Place::CompactedObjects(Revision(6)), "a row is missing")
        } else {
            (Place::Object(key), "the row is missing")
        };
        assert_eq!((place, what), expected);
    }
    // The whole log with its tip, or the end of it.
    for first in 7..=11_i64 {
        let (place, _) = fixture.place_after(|connection| {
            connection.execute("DELETE FROM change WHERE revision >= ?1", [first]).unwrap();
        });
        assert_eq!(place, Place::Change(Revision(first as u64)));
    }
}

/// Restores `table` from the database as it was before some commits.
fn restore(connection: &Connection, backup: &std::path::Path, statements: &[&str]) {
    connection.execute("ATTACH ?1 AS backup", [backup.to_str().unwrap()]).unwrap();
    for statement in statements {
        connection.execute(statement, []).unwrap();
    }
    connection.execute("DETACH backup", []).unwrap();
}

#[tokio::test]
async fn older_rows_that_are_restored() {
    let backend = Sqlite::new();
    let store = backend.open().await;
    let batch = Batch::default().put("a", "1").put("b", "1").put("c", "1").put("kept", "1");
    store.commit(Revision(0), batch).await.unwrap();
    drop(store);
    let backup = tempfile::tempdir().unwrap();
    let backup = backup.path().join("old.sqlite");
    std::fs::copy(backend.path(), &backup).unwrap();

    let store = backend.open().await;
    store.commit(Revision(4), Batch::default().put("a", "2").remove("b")).await.unwrap();
    drop(store);
    let fixture = Fixture { backend, old: vec![] };
    let attack = |statements: &[&str]| fixture.place_after(|c| restore(c, &backup, statements));
    let object = |key: &str| Place::Object(key.to_owned());

    // With their own, true MACs.
    let put = "INSERT OR REPLACE INTO object SELECT * FROM backup.object";
    let (place, what) = attack(&[&format!("{put} WHERE key = 'a'")]);
    assert_eq!((place, what), (object("a"), "a later change replaced this version"));
    let (place, what) = attack(&[&format!("{put} WHERE key = 'b'")]);
    assert_eq!((place, what), (object("b"), "a later change removed the object"));
    let older_head = ["DELETE FROM head", "INSERT INTO head SELECT * FROM backup.head"];
    let (place, what) = attack(&older_head);
    assert_eq!((place, what), (Place::Change(Revision(5)), "the row is newer than the head"));
    // An older head, and the log cut to it.
    let cut = [older_head.as_slice(), &["DELETE FROM change WHERE revision > 4"]].concat();
    let (place, what) = attack(&cut);
    assert_eq!((place, what), (object("a"), "the row is newer than the head"));
    // And that row too: what is missing then is what was removed.
    let put_a = format!("{put} WHERE key = 'a'");
    let (place, what) = attack(&[cut.as_slice(), &[&put_a]].concat());
    assert_eq!((place, what), (object("b"), "the row is missing"));
    // All of it is the older database, which is what checkpoints of the ledger are for.
    let put_b = format!("{put} WHERE key = 'b'");
    let whole = [cut.as_slice(), &[&put_a, &put_b]].concat();
    fixture.opened_after(|connection| restore(connection, &backup, &whole)).unwrap();

    // The same after compaction: the log no longer says which version is the last.
    let store = fixture.backend.open().await;
    store.compact(Revision(6)).await.unwrap();
    drop(store);
    let compacted = Place::CompactedObjects(Revision(6));
    let (place, what) = attack(&[&put_a]);
    assert_eq!((place, what), (compacted.clone(), "a row was exchanged for an older one"));
    let (place, what) = attack(&[&put_b]);
    assert_eq!((place, what), (compacted.clone(), "a row was added"));
    let (place, what) = attack(&["DELETE FROM object WHERE key = 'c'", &put_b]);
    assert_eq!((place, what), (compacted, "a row was exchanged for an older one"));
    // A change from before the floor.
    let (place, what) = attack(&["INSERT INTO change SELECT * FROM backup.change WHERE revision = 2"]);
    assert_eq!((place, what), (Place::Change(Revision(2)), "the row is below the floor"));
}

#[tokio::test]
async fn the_end_of_the_log_exchanged_for_that_of_a_fork() {
    let backend = Sqlite::new();
    let store = backend.open().await;
    store.commit(Revision(0), Batch::default().put("a", "1")).await.unwrap();
    drop(store);
    let directory = tempfile::tempdir().unwrap();
    let fork = directory.path().join("fork.sqlite");
    std::fs::copy(backend.path(), &fork).unwrap();
    for (path, value) in [(fork.clone(), "fork"), (backend.path(), "true")] {
        let store = SqliteStore::open(path, key(), &SystemRandom).unwrap();
        store.commit(Revision(1), Batch::default().put("a", value)).await.unwrap();
    }
    let fixture = Fixture { backend, old: vec![] };
    let change = "INSERT OR REPLACE INTO change SELECT * FROM backup.change WHERE revision = 2";
    let object = "INSERT OR REPLACE INTO object SELECT * FROM backup.object";
    let (place, _) = fixture.place_after(|c| restore(c, &fork, &[change, object]));
    assert_eq!(place, Place::Change(Revision(2)));
    let (place, _) = fixture.place_after(|c| restore(c, &fork, &[object]));
    assert_eq!(place, Place::Object("a".to_owned()));
}

#[tokio::test]
async fn rows_that_are_inserted() {
    let fixture = Fixture::new().await;
    let (place, what) = fixture.place_after(|connection| {
        connection
            .execute("INSERT INTO change SELECT 12, key, value, mac FROM change WHERE revision = 11", [])
            .unwrap();
    });
    assert_eq!((place, what), (Place::Change(Revision(12)), "the row is newer than the head"));
    let (place, _) = fixture.place_after(|connection| {
        connection
            .execute("INSERT INTO object SELECT 'f', revision, value, mac FROM object WHERE key = 'b'", [])
            .unwrap();
    });
    assert_eq!(place, Place::Object("f".to_owned()));
    let (place, what) = fixture.place_after(|connection| {
        let columns = "incarnation, revision, floor, anchor, tip, objects, set_tag, mac";
        connection.execute(&format!("INSERT INTO head SELECT 2, {columns} FROM head"), []).unwrap();
    });
    assert_eq!((place, what), (Place::Head, "a row was added"));
}

#[tokio::test]
async fn things_that_are_added_to_the_schema() {
    let fixture = Fixture::new().await;
    for (statement, name) in [
        ("CREATE TRIGGER t AFTER INSERT ON change BEGIN DELETE FROM object; END", "t"),
        ("CREATE VIEW v AS SELECT * FROM object", "v"),
        ("CREATE INDEX i ON object (revision)", "i"),
        ("CREATE TABLE \"another\" (x)", "another"),
        ("DROP TABLE object", "object"),
        ("ALTER TABLE object ADD COLUMN x TEXT", "object"),
        ("ALTER TABLE change RENAME TO changes", "changes"),
    ] {
        let (place, _) = fixture.place_after(|connection| {
            connection.execute(statement, []).unwrap();
        });
        assert_eq!(place, Place::Database(format!("schema, `{name}`")), "{statement}");
    }
}

#[tokio::test]
async fn bytes_of_the_file_itself() {
    let fixture = Fixture::new().await;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.sqlite");
    let bytes = std::fs::read(fixture.backend.path()).unwrap();
    let good = fixture.backend.open().await.snapshot().await.unwrap();
    let mut refused = 0;
    for at in (0..bytes.len()).filter(|at| bytes[*at] != 0 || at % 61 == 0) {
        let mut flipped = bytes.clone();
        flipped[at] ^= 1 << (at % 8);
        std::fs::write(&path, &flipped).unwrap();
        match SqliteStore::open(&path, key(), &SystemRandom) {
            // A byte that means nothing: free space, or a counter of SQLite's.
            Ok(store) => assert_eq!(store.snapshot().await.unwrap(), good, "byte {at}"),
            Err(error) => {
                assert!(matches!(error.code(), "store.broken" | "store.io"), "byte {at}: {error}");
                refused += 1;
            }
        }
        for suffix in ["", "-wal", "-shm", ".lock"] {
            let _ = std::fs::remove_file(database::beside(&path, suffix));
        }
    }
    assert!(refused > 500, "only {refused}");
}

#[tokio::test]
async fn a_running_store_notices_too() {
    let fixture = Fixture::new().await;
    let store = fixture.backend.open().await;
    // The first one is what was verified when the store was opened.
    store.snapshot().await.unwrap();
    let connection = Connection::open(fixture.backend.path()).unwrap();
    connection.execute("UPDATE object SET value = x'00' WHERE key = 'b'", []).unwrap();
    let error = store.snapshot().await.unwrap_err();
    assert!(matches!(error, StoreError::Broken { place: Place::Object(_), .. }), "{error}");
    let error = store.commit(Revision(11), Batch::default().put("b", "new")).await.unwrap_err();
    assert!(matches!(error, StoreError::Broken { place: Place::Object(_), .. }), "{error}");
    assert_eq!(store.commit(Revision(11), Batch::default().put("z", "new")).await.unwrap(), Revision(12));

    connection.execute("UPDATE change SET key = 'x' WHERE revision = 9", []).unwrap();
    assert_eq!(store.changes(Revision(6), 2).await.unwrap().len(), 2);
    let error = store.changes(Revision(6), 9).await.unwrap_err();
    assert!(matches!(error, StoreError::Broken { place: Place::Change(Revision(9)), .. }), "{error}");
    let error = store.compact(Revision(10)).await.unwrap_err();
    assert!(matches!(error, StoreError::Broken { place: Place::Change(Revision(9)), .. }), "{error}");

    connection.execute("UPDATE head SET revision = 99", []).unwrap();
    let error = store.head().await.unwrap_err();
    assert!(matches!(error, StoreError::Broken { place: Place::Head, .. }), "{error}");
}
