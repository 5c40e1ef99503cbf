//! A process that appends is killed; what it had acknowledged must be there.

use std::{
    io::{BufRead, BufReader, Write},
    process::Stdio,
};

use super::*;

const PATH: &str = "BONAFIDE_LEDGER_CRASH_PATH";
const KILLS: u64 = 40;

fn open(path: &std::path::Path) -> Ledger {
    // The same key in both processes.
    let key = PrivateKey::from_pkcs8_der(&fs::read(path.with_extension("key")).unwrap()).unwrap();
    let config = LedgerConfig { origin: "example.org/crash".to_owned() };
    Ledger::open_with(path, config, Arc::new(key), 512).unwrap()
}

/// Not a test by itself: the process that [`what_was_acknowledged_survives_a_kill`] kills.
#[test]
#[ignore = "runs for ever; the test below starts it"]
fn child() {
    let Some(path) = std::env::var_os(PATH) else { return };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(async {
        let ledger = Arc::new(open(path.as_ref()));
        let mut tasks = JoinSet::new();
        for task in 0..16_u64 {
            let ledger = Arc::clone(&ledger);
            tasks.spawn(async move {
                for round in 0.. {
                    let count = (task + round) % 40 + 1;
                    let first =
                        ledger.append_batch(vec![format!("{task}").into_bytes(); count as usize]).await;
                    let mut out = std::io::stdout().lock();
                    writeln!(out, "acknowledged {} {task}", first.unwrap() + count).unwrap();
                    out.flush().unwrap();
                }
            });
        }
        loop {
            ledger.checkpoint(&BINDINGS).await.unwrap();
            tokio::task::yield_now().await;
        }
    });
}

#[test]
fn what_was_acknowledged_survives_a_kill() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ledger");
    let key = PrivateKey::generate(KeyAlgorithm::Ed25519).unwrap();
    fs::write(path.with_extension("key"), key.to_pkcs8_der()).unwrap();
    let verifier = VerifierKey::new("example.org/crash", key.public_key().clone()).unwrap();
    let mut all = 0;
    for round in 0..KILLS {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "ledger::tests::crash::child", "--ignored", "--nocapture"])
            .env(PATH, &path)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut acknowledged = Vec::new();
        for line in BufReader::new(child.stdout.take().unwrap()).lines() {
            // The harness may have begun the line.
            let line = line.unwrap_or_default();
            let Some(rest) = line.split("acknowledged ").nth(1) else { continue };
            let Some((end, task)) = rest.split_once(' ') else { continue };
            acknowledged.push((end.parse::<u64>().unwrap(), task.to_owned()));
            // At another point of the work in each round.
            if acknowledged.len() as u64 == 5 + round * 3 {
                child.kill().unwrap();
            }
        }
        child.wait().unwrap();
        assert!(!acknowledged.is_empty(), "the child of round {round} did nothing");
        let ledger = open(&path);
        for (end, task) in acknowledged {
            assert_eq!(ledger.read(end - 1).unwrap(), task.into_bytes());
        }
        assert!(ledger.size() >= all);
        all = ledger.size();
        drop(ledger);
        let report = verify(&path, &verifier).unwrap();
        assert_eq!(report.size, all);
    }
    assert!(all > 4 * 512, "{all}: segments were rotated under way");
}
