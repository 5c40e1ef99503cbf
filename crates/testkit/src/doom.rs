use std::{
    fmt,
    hash::{DefaultHasher, Hash, Hasher},
    sync::atomic::{AtomicU32, Ordering},
};

use tokio::runtime::Runtime;

const NEVER: u32 = u32::MAX;

/// Whether suites run on two servers over one PostgreSQL: `BONAFIDE_TEST_SERVERS=2`.
pub fn two_servers() -> bool {
    std::env::var("BONAFIDE_TEST_SERVERS").is_ok_and(|servers| servers == "2")
}

/// When the first of two servers is killed: before a step of its test that is drawn by lot, the same for the same
/// `BONAFIDE_TEST_SEED` and the same name of the test.
#[derive(Debug)]
pub struct Doom(AtomicU32);

impl Doom {
    /// That of the test of this thread, before one of its first `steps`.
    pub fn of_this_test(steps: u32) -> Self {
        let test = std::thread::current().name().unwrap_or_default().to_owned();
        let seed = std::env::var("BONAFIDE_TEST_SEED").unwrap_or_default();
        let mut lot = DefaultHasher::new();
        (&seed, &test).hash(&mut lot);
        let step = u32::try_from(lot.finish() % u64::from(steps)).unwrap_or_default();
        eprintln!("{test}: the first server is killed before step {step} (BONAFIDE_TEST_SEED={seed})");
        Self(AtomicU32::new(step))
    }

    /// A step begins: whether the time has come. It comes once.
    pub fn strikes(&self) -> bool {
        let next = |left: u32| match left {
            NEVER => None,
            0 => Some(NEVER),
            left => Some(left - 1),
        };
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next) == Ok(0)
    }
}

/// A place where a server runs that is going to be killed: when this is dropped, nothing of it runs any more, and it has
/// said nothing to anybody.
pub struct Scaffold(Option<Runtime>);

impl Scaffold {
    /// A new one.
    ///
    /// # Panics
    /// When there are no more threads to be had.
    #[expect(clippy::new_without_default, reason = "it starts threads")]
    pub fn new() -> Self {
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        Self(Some(runtime.worker_threads(1).enable_all().build().expect("a runtime")))
    }

    /// Runs what starts the server.
    ///
    /// # Panics
    /// When that panics.
    pub async fn start<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> T {
        let runtime = self.0.as_ref().expect("it is there until it is dropped");
        runtime.spawn(work).await.expect("it does not panic")
    }
}

impl fmt::Debug for Scaffold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scaffold").finish_non_exhaustive()
    }
}

impl Drop for Scaffold {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}
