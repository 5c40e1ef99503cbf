//! Time of one registration's write, fold and publication, with few and with many registrations present: the two must
//! not differ by much. The store is in memory, so that no disk is measured.
//! `cargo bench -p bonafide-authority --bench registry [registrations]`
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    dead_code,
    missing_docs,
    reason = "a benchmark, not a library"
)]

#[path = "../tests/it/support.rs"]
mod support;

use std::time::Instant;

use support::{LOCAL, Server, entry, put, scope};

const WRITES: u32 = 200;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let many: usize = std::env::args().filter_map(|argument| argument.parse().ok()).next().unwrap_or(100_000);
    let server = Server::new().await;
    server.put_site("edge", scope(&["spiffe://example.org/**"])).await;
    let few = per_write(&server, "few").await;
    for start in (0..many).step_by(256) {
        let puts = (start..many.min(start + 256)).map(|n| write(&server, format!("r{n}"), n));
        futures_util::future::join_all(puts).await;
    }
    let full = per_write(&server, "many").await;
    println!("write with few registrations: {few:.1} us; with {many}: {full:.1} us; ratio {:.2}", full / few);
}

async fn per_write(server: &Server, prefix: &str) -> f64 {
    let start = Instant::now();
    for n in 0..WRITES {
        write(server, format!("{prefix}-{n}"), n as usize).await;
    }
    start.elapsed().as_secs_f64() * 1e6 / f64::from(WRITES)
}

async fn write(server: &Server, id: String, n: usize) {
    let own = [("unix.uid", &*(n % 5000).to_string()), ("unix.path", &*format!("/usr/bin/{n}"))];
    let registration = entry("edge", &id, &format!("spiffe://example.org/w/{n}"), &own);
    server.admin.put_registration(&LOCAL, put(registration)).await.unwrap();
}
