//! A process that commits is killed; what it had acknowledged must be there.

use std::{
    io::{BufRead, BufReader, Write},
    process::{Command, Stdio},
};

use super::*;

const PATH: &str = "BONAFIDE_STORE_CRASH_PATH";
const KILLS: u32 = 30;

/// Not a test by itself: the process that [`what_was_acknowledged_survives_a_kill`] kills.
#[test]
#[ignore = "runs for ever; the test below starts it"]
fn child() {
    let Some(path) = std::env::var_os(PATH) else { return };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(async {
        let store = SqliteStore::open(path, key(), &SystemRandom).unwrap();
        let mut revision = store.head().await.unwrap().revision;
        println!("ready {revision}");
        loop {
            let next = revision.0 + 1;
            let mut batch = Batch::default().put(format!("k{}", next % 50), next.to_string());
            for part in 0..next % 4 {
                batch = batch.remove(format!("k{}", (next + part) % 50));
            }
            revision = store.commit(revision, batch).await.unwrap();
            if revision.0 % 64 < 4 {
                store.compact(Revision(revision.0.saturating_sub(100))).await.unwrap();
            }
            println!("acknowledged {revision}");
            std::io::stdout().flush().unwrap();
        }
    });
}

#[tokio::test]
async fn what_was_acknowledged_survives_a_kill() {
    let backend = Sqlite::new();
    let mut last = 0;
    for round in 0..KILLS {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "sqlite::tests::crash::child", "--ignored", "--nocapture"])
            .env(PATH, backend.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut seen = 0;
        for line in lines {
            // The harness may have begun the line.
            let line = line.unwrap_or_default();
            if let Some(revision) = line.split("acknowledged ").nth(1) {
                last = revision.parse().unwrap();
                seen += 1;
                // At another point of the work in each round.
                if seen == 3 + round % 7 {
                    child.kill().unwrap();
                }
            }
        }
        child.wait().unwrap();
        assert!(seen > 0, "the child of round {round} did nothing");
        // Opening verifies every row.
        let store = backend.open().await;
        let head = store.head().await.unwrap();
        assert!(head.revision.0 >= last, "acknowledged {last}, but found {}", head.revision);
        last = head.revision.0;
    }
    assert!(last > u64::from(KILLS));
}
