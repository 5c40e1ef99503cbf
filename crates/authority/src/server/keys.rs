//! Keys of applications, as one server serves them: their own ledger, the line to the worker, and the tasks that go with them.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bonafide_crypto::key::Signer;
use bonafide_crypto::random::Random;
use bonafide_identity::time::Clock;
use bonafide_keyring::{Dispatch, LiveKeys};
use bonafide_ledger::{Ledger, LedgerConfig};
use bonafide_net::drain::Shutdown;
use tokio_util::task::TaskTracker;

use super::StartError;
use crate::config::AuthorityConfig;
use crate::issuance::lineages::Lineages;
use crate::keys::Keys;
use crate::kms::book::Book;
use crate::kms::callers::Callers;
use crate::kms::ends::Ends;
use crate::kms::grpc::Grpc;
use crate::kms::guard::Guard;
use crate::kms::hands::Hands;
use crate::kms::leases::Leases;
use crate::kms::schedule::{Patience, Schedule};
use crate::kms::service::{Parts, Service};
use crate::lease::Holder;
use crate::registry::Registry;
use crate::stream::feed::Feed;

/// What more cores than twice as many would gain, the ledger's disk would not.
const MAX_THREADS: usize = 8;

/// Threads that ask the worker for callers, each on a lane of its own: one for every two cores. One that is busy finds more
/// waiting when it comes back, and a switch between the processes is then shared by many.
pub(super) fn threads() -> usize {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    (cores / 2).clamp(1, MAX_THREADS)
}
/// The ledger's folder, in the data directory; its public key lies beside it.
const DIRECTORY: &str = "key-ledger";
/// How often a checkpoint of the ledger is published when there is something new.
const EVERY: Duration = Duration::from_secs(1);

/// What keys are served with.
pub(super) struct Needs {
    pub(super) registry: Registry,
    pub(super) live: Arc<dyn LiveKeys>,
    pub(super) keys: Arc<Keys>,
    pub(super) lineages: Arc<Lineages>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) random: Arc<dyn Random>,
}

/// Opens the ledger of keys. Its checkpoints are signed with the key of the server's other ledger, under another name.
pub(super) async fn open_ledger(
    config: &AuthorityConfig,
    signer: Arc<dyn Signer>,
) -> Result<Arc<Ledger>, StartError> {
    let directory = config.data_dir.join(DIRECTORY);
    let origin = format!("{}/bonafide/authority/{}/keys", config.trust_domain, config.server);
    let opened =
        tokio::task::spawn_blocking(move || Ledger::open(directory, LedgerConfig { origin }, signer));
    let ledger = Arc::new(opened.await.map_err(|_| StartError::Stopped)??);
    write_verifier(&config.data_dir.join(format!("{DIRECTORY}.pub")), &ledger)?;
    Ok(ledger)
}

fn write_verifier(path: &Path, ledger: &Ledger) -> Result<(), StartError> {
    std::fs::write(path, format!("{}\n", ledger.verifier_key()))
        .map_err(|cause| StartError::io(&format!("`{}`", path.display()), cause))
}

/// Makes the service, and starts what goes on by itself.
pub(super) fn start(
    config: &AuthorityConfig,
    needs: Needs,
    ledger: &Arc<Ledger>,
    feed: &Arc<Feed>,
    tasks: &TaskTracker,
    shutdown: &Shutdown,
) -> Result<Grpc, StartError> {
    let Needs { registry, live, keys, lineages, clock, random } = needs;
    let callers = Callers::new(registry.clone(), keys, lineages, Arc::clone(&clock));
    let service = Service::new(Parts {
        guard: Guard::new(u64::from_ne_bytes(random.array())),
        hands: Hands::new(Dispatch::start(live, threads())?),
        book: Arc::new(Book::new(Arc::clone(ledger) as _, u64::from_ne_bytes(random.array()))),
        ends: Arc::new(Ends::default()),
        leases: Mutex::new(Leases::default()),
        registry: registry.clone(),
        clock,
        random,
    });
    tasks.spawn(service.clone().follow(registry.subscribe(), shutdown.clone()));
    let schedule = Schedule {
        service: service.clone(),
        lease: Holder::new("kms", &config.server),
        device: Patience::default(),
    };
    tasks.spawn(schedule.run(shutdown.clone()));
    tasks.spawn(publish(Arc::clone(ledger), Arc::clone(feed), shutdown.clone()));
    Ok(Grpc { service, callers: Arc::new(callers) })
}

/// Publishes checkpoints until the server stops, and a last one then.
async fn publish(ledger: Arc<Ledger>, feed: Arc<Feed>, shutdown: Shutdown) {
    let mut published = None;
    loop {
        let goes_on = shutdown.unless_triggered(tokio::time::sleep(EVERY)).await.is_some();
        let size = ledger.size();
        if published != Some(size) {
            match ledger.checkpoint(&feed.bindings()).await {
                Ok(_) => published = Some(size),
                Err(error) => {
                    tracing::error!(code = error.code(), "no checkpoint of the ledger of keys: {error}");
                }
            }
        }
        if !goes_on {
            return;
        }
    }
}
