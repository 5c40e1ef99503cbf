//! A TCP proxy between two processes, which delays, swallows and cuts.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::Result;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::{JoinHandle, JoinSet},
};

/// What the proxy does to everything that passes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Weather {
    /// Each piece of an answer is held back for so long.
    pub(crate) delay: Duration,
    /// What the server says gets lost; what it hears does not.
    pub(crate) swallow_answers: bool,
    /// A connection that was quiet for this long is cut in what the server says next, after some bytes of it.
    pub(crate) cut_after_quiet: Option<Duration>,
}

/// Stops when dropped.
#[derive(Debug)]
pub(crate) struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    weather: Mutex<Weather>,
    to: SocketAddr,
    cuts: AtomicUsize,
    /// How many bytes of the next answer get through before it is cut; moves on with every cut.
    next_cut: AtomicU64,
}

/// The next cut is this much further, up to [`LONGEST_CUT`]: all places of an answer get their turn.
const CUT_STEP: u64 = 97;
const LONGEST_CUT: u64 = 4096;

impl Proxy {
    /// In front of `to`.
    pub(crate) async fn start(to: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let (weather, cuts, next_cut) = Default::default();
        let shared = Arc::new(Shared { weather, to, cuts, next_cut });
        let task = tokio::spawn(serve(listener, Arc::clone(&shared)));
        Ok(Self { address, shared, task })
    }

    pub(crate) const fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on, for open connections as well.
    pub(crate) fn set(&self, weather: Weather) {
        *self.shared.weather.lock().unwrap_or_else(PoisonError::into_inner) = weather;
    }

    /// Answers that were cut.
    pub(crate) fn cuts(&self) -> usize {
        self.shared.cuts.load(Ordering::Relaxed)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        while connections.try_join_next().is_some() {}
        connections.spawn(connection(client, Arc::clone(&shared)));
    }
}

async fn connection(client: TcpStream, shared: Arc<Shared>) -> std::io::Result<()> {
    let server = TcpStream::connect(shared.to).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    tokio::select! {
        said = say(from_client, to_server) => said,
        answered = answer(from_server, to_client, &shared) => answered,
    }
}

async fn say(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin) -> std::io::Result<()> {
    tokio::io::copy(&mut from, &mut to).await.map(|_| ())
}

async fn answer(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    shared: &Shared,
) -> std::io::Result<()> {
    let mut bytes = vec![0; 16 * 1024];
    let mut last = Instant::now();
    loop {
        let count = from.read(&mut bytes).await?;
        let Some(said) = bytes.get(..count).filter(|said| !said.is_empty()) else { return Ok(()) };
        let weather = *shared.weather.lock().unwrap_or_else(PoisonError::into_inner);
        if weather.cut_after_quiet.is_some_and(|quiet| last.elapsed() >= quiet) {
            let place = shared.next_cut.fetch_add(CUT_STEP, Ordering::Relaxed) % LONGEST_CUT;
            let part = said.get(..usize::try_from(place).unwrap_or(usize::MAX)).unwrap_or(said);
            to.write_all(part).await?;
            to.flush().await?;
            shared.cuts.fetch_add(1, Ordering::Relaxed);
            return Ok(());
        }
        last = Instant::now();
        if weather.swallow_answers {
            continue;
        }
        if !weather.delay.is_zero() {
            tokio::time::sleep(weather.delay).await;
        }
        to.write_all(said).await?;
    }
}
