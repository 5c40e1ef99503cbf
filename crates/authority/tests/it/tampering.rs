//! Whoever can write the database changes one row; the authority must not start on it, and must say where.

use std::path::Path;

use bonafide_authority::{Authority, AuthorityConfig, StartError};
use bonafide_crypto::random::SystemRandom;
use bonafide_testkit::TestClock;
use bonafide_wire::admin::{BanAgentRequest, DeleteRequest};
use rusqlite::{Connection, params_from_iter, types::Value};

use crate::agents::Agent;
use crate::world::{World, entry};

/// Columns that are not the row's name; the name comes first.
const TABLES: [(&str, &[&str]); 3] = [
    ("change", &["revision", "key", "value", "mac"]),
    ("head", &["id", "incarnation", "revision", "floor", "anchor", "tip", "objects", "set_tag", "mac"]),
    ("object", &["key", "revision", "value", "mac"]),
];

/// An authority that has stopped, its database as it was left, and an older one.
struct Stopped {
    config: AuthorityConfig,
    clock: std::sync::Arc<TestClock>,
    database: Vec<u8>,
    older: Vec<u8>,
    _world: World,
}

impl Stopped {
    async fn new() -> Self {
        // Attacks on the rows of PostgreSQL are in `servers`, and in the store's own tests.
        let mut world = World::on(None).await;
        world.put_site("lab", &["spiffe://example.org/app/**"]).await;
        for name in ["web", "shop", "mail", "gone"] {
            world.put(entry(name, &format!("/app/{name}"))).await;
        }
        let _unspent = world.join_line("lab").await;
        let (directory, config, clock) = world.stop().await;
        let older = std::fs::read(path(&config)).unwrap();
        let mut world = World::start(directory, config, clock).await.unwrap();
        let agent = Agent::join(&mut world, "lab").await;
        agent.connect().await.issue("web").await.unwrap();
        world.put(entry("shop", "/app/shop/new")).await;
        let gone = DeleteRequest { name: "gone".into(), ..Default::default() };
        world.admin.delete_registration(gone).await.unwrap();
        let ban = BanAgentRequest { id: agent.id.to_string(), reason: "stolen".into(), ..Default::default() };
        world.admin.ban_agent(ban).await.unwrap();
        let (_, config, clock) = world.stop().await;
        let database = std::fs::read(path(&config)).unwrap();
        Self { config, clock, database, older, _world: world }
    }

    /// What the authority says when it is started on what `attack` left.
    async fn started_after(&self, attack: impl FnOnce(&Connection)) -> Result<(), StartError> {
        let path = path(&self.config);
        for suffix in ["-wal", "-shm"] {
            let _absent = std::fs::remove_file(self.config.data_dir.join(format!("store.sqlite{suffix}")));
        }
        std::fs::write(&path, &self.database).unwrap();
        let connection = Connection::open(&path).unwrap();
        attack(&connection);
        connection.close().unwrap();
        let random = std::sync::Arc::new(SystemRandom);
        match Authority::start(self.config.clone(), self.clock.clone(), random).await {
            Ok(running) => {
                running.shutdown().await.unwrap();
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// As [`Self::started_after`], for an attack that must be refused as a change of one of `places`.
    async fn refused_after(&self, what: &str, places: &[String], attack: impl FnOnce(&Connection)) {
        let error = self.started_after(attack).await.expect_err(what);
        assert_eq!(error.code(), "store.broken", "{what}: {error}");
        assert!(!error.hint().is_empty());
        let text = error.to_string();
        assert!(places.iter().any(|place| text.contains(place)), "{what}: {text}, not {places:?}");
    }

    fn rows(&self, table: &str, columns: &[&str]) -> Vec<Vec<Value>> {
        let directory = tempfile::tempdir().unwrap();
        rows(&self.database, directory.path(), table, columns)
    }
}

fn path(config: &AuthorityConfig) -> std::path::PathBuf {
    config.data_dir.join("store.sqlite")
}

fn rows(database: &[u8], directory: &Path, table: &str, columns: &[&str]) -> Vec<Vec<Value>> {
    let path = directory.join("copy");
    std::fs::write(&path, database).unwrap();
    let connection = Connection::open(&path).unwrap();
    let sql = format!("SELECT {} FROM {table} ORDER BY {}", columns.join(", "), columns[0]);
    let mut statement = connection.prepare(&sql).unwrap();
    statement
        .query_map([], |row| (0..columns.len()).map(|column| row.get(column)).collect())
        .unwrap()
        .collect::<Result<_, _>>()
        .unwrap()
}

/// How an error names a row.
fn place(table: &str, name: &Value) -> String {
    match (table, name) {
        ("head", _) => "table `head`".to_owned(),
        ("change", Value::Integer(revision)) => format!("table `change`, revision {revision}"),
        ("object", Value::Text(key)) => format!("table `object`, key `{key}`"),
        _ => panic!("{table} {name:?}"),
    }
}

/// One byte changed, at the beginning, in the middle and at the end.
fn changed(value: &Value) -> Vec<Value> {
    let flipped = |bytes: &[u8], at: usize| {
        let mut bytes = bytes.to_vec();
        bytes[at] ^= 1;
        bytes
    };
    match value {
        Value::Integer(number) => [1, 1 << 8, 1 << 40].map(|bit| Value::Integer(number ^ bit)).into(),
        Value::Text(text) => [0, text.len() / 2, text.len() - 1]
            .map(|at| Value::Text(String::from_utf8(flipped(text.as_bytes(), at)).unwrap()))
            .into(),
        Value::Blob(blob) if blob.is_empty() => vec![Value::Blob(vec![0])],
        Value::Blob(blob) => {
            [0, blob.len() / 2, blob.len() - 1].map(|at| Value::Blob(flipped(blob, at))).into()
        }
        Value::Null => vec![Value::Blob(vec![]), Value::Blob(vec![0])],
        Value::Real(_) => panic!("there are none"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_byte_in_any_row_and_column_is_refused_by_place() {
    let stopped = Stopped::new().await;
    stopped.started_after(|_| ()).await.expect("nothing was changed");
    // What that start has changed: the ledger would refuse a store from before it.
    let stopped = Stopped { database: std::fs::read(path(&stopped.config)).unwrap(), ..stopped };
    let mut attacks = 0;
    for (table, columns) in TABLES {
        for row in stopped.rows(table, columns) {
            for (column, value) in columns.iter().zip(&row) {
                for other in changed(value) {
                    let mut places = vec![place(table, &row[0])];
                    if *column == columns[0] {
                        places.push(place(table, &other));
                    }
                    let what = format!("{table} {:?} {column} = {other:?}", row[0]);
                    let sql =
                        format!("UPDATE OR REPLACE {table} SET {column} = ?1 WHERE {} = ?2", columns[0]);
                    stopped
                        .refused_after(&what, &places, |connection| {
                            assert_eq!(connection.execute(&sql, [&other, &row[0]]).unwrap(), 1);
                        })
                        .await;
                    attacks += 1;
                }
            }
        }
    }
    assert!(attacks > 300, "{attacks}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_are_swapped_removed_or_added_are_refused_by_place() {
    let stopped = Stopped::new().await;
    for (table, columns) in TABLES {
        let rows = stopped.rows(table, columns);
        for row in &rows {
            let sql = format!("DELETE FROM {table} WHERE {} = ?1", columns[0]);
            let what = format!("{table} without {:?}", row[0]);
            stopped
                .refused_after(&what, &[place(table, &row[0])], |connection| {
                    assert_eq!(connection.execute(&sql, [&row[0]]).unwrap(), 1);
                })
                .await;
        }
        for pair in rows.windows(2) {
            let (first, second) = (&pair[0], &pair[1]);
            // Each column alone, and all that is not the name.
            for swapped in
                (1..columns.len()).map(|column| column..column + 1).chain(std::iter::once(1..columns.len()))
            {
                if first[swapped.clone()] == second[swapped.clone()] {
                    continue;
                }
                let set: Vec<_> =
                    columns[swapped.clone()].iter().map(|column| format!("{column} = ?")).collect();
                let sql = format!("UPDATE {table} SET {} WHERE {} = ?", set.join(", "), columns[0]);
                let what = format!("{table} {:?} and {:?}, {swapped:?} swapped", first[0], second[0]);
                let places = [place(table, &first[0]), place(table, &second[0])];
                stopped
                    .refused_after(&what, &places, |connection| {
                        // A constraint may stand in the way of half of it; the other half is an attack too.
                        for (name, values) in [(first, second), (second, first)] {
                            let values = values[swapped.clone()].iter().chain([&name[0]]);
                            let _refused = connection.execute(&sql, params_from_iter(values));
                        }
                    })
                    .await;
            }
        }
        // A copy of the last row under another name.
        let mut copy = rows.last().unwrap().clone();
        copy[0] = match &copy[0] {
            Value::Integer(number) => Value::Integer(number + 1),
            _ => Value::Text("site/added".into()),
        };
        let sql = format!("INSERT INTO {table} VALUES ({})", vec!["?"; columns.len()].join(", "));
        stopped
            .refused_after(&format!("{table} with a copy"), &[place(table, &copy[0])], |connection| {
                connection.execute(&sql, params_from_iter(&copy)).unwrap();
            })
            .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn older_rows_that_are_put_back_are_refused_by_place() {
    let stopped = Stopped::new().await;
    let directory = tempfile::tempdir().unwrap();
    let mut replayed = 0;
    for (table, columns) in TABLES {
        let now = stopped.rows(table, columns);
        let sql = format!("INSERT OR REPLACE INTO {table} VALUES ({})", vec!["?"; columns.len()].join(", "));
        // The same row as it was: a registration before it was narrowed, a spent token, one that was removed.
        for row in rows(&stopped.older, directory.path(), table, columns) {
            if now.contains(&row) {
                continue;
            }
            // Where the head is older, the first change that it does not know is as wrong as it.
            let after = if table == "head" { "table `change`".to_owned() } else { place(table, &row[0]) };
            stopped
                .refused_after(&format!("{table} {row:?}"), &[place(table, &row[0]), after], |connection| {
                    connection.execute(&sql, params_from_iter(&row)).unwrap();
                })
                .await;
            replayed += 1;
        }
    }
    assert!(replayed >= 4, "{replayed}");
    let older = directory.path().join("older");
    std::fs::write(&older, &stopped.older).unwrap();
    let older = older.to_str().unwrap().to_owned();
    let restore = |connection: &Connection, tables: &[&str]| {
        connection.execute("ATTACH ?1 AS older", [&older]).unwrap();
        for table in tables {
            let sql = format!("DELETE FROM {table}; INSERT INTO {table} SELECT * FROM older.{table};");
            connection.execute_batch(&sql).unwrap();
        }
        connection.execute("DETACH older", []).unwrap();
    };
    // Whole tables, and two of the three: whatever is older than the rest is named.
    for tables in [
        &["change"][..],
        &["object"],
        &["head"],
        &["change", "object"],
        &["change", "head"],
        &["head", "object"],
    ] {
        stopped
            .refused_after(&format!("{tables:?}"), &["table `".to_owned()], |connection| {
                restore(connection, tables);
            })
            .await;
    }
    // All of it is true, and old: the ledger knows.
    let all = stopped.started_after(|connection| restore(connection, &["change", "head", "object"])).await;
    let error = all.unwrap_err();
    assert_eq!(error.code(), "store.rolled-back");
    assert!(error.to_string().contains("revision"), "{error}");
}
