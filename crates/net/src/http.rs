//! gRPC and HTTP/1.1 on one connection, told apart by its first bytes, with limits on everything that a peer can make us
//! hold or wait for.

mod deadline;

use std::{convert::Infallible, error::Error, future::Future, io, time::Duration};

use http::{Extensions, Request, Response};
use hyper::body::{Body, Incoming};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    runtime::Handle,
};
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

use crate::drain::Shutdown;
use deadline::FirstBytes;

/// What a connection may cost.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct HttpLimits {
    /// For the first bytes of a connection, and for the head of an HTTP/1.1 request.
    pub header_time: Duration,
    /// Bytes of all header fields of a request, decoded.
    pub header_bytes: u32,
    /// Header fields of an HTTP/1.1 request.
    pub header_fields: usize,
    /// Requests at a time on one HTTP/2 connection.
    pub streams: u32,
    /// Bytes of one HTTP/2 connection that wait for whoever reads them.
    pub window: u32,
    /// How often an HTTP/2 peer is asked whether it is alive, and how long it may take to answer.
    pub ping: (Duration, Duration),
    /// A connection is asked to end (GOAWAY) when it gets this old. Connections differ by up to a tenth less, so that
    /// those of one rollout don't all come back at once.
    pub age: Option<Duration>,
    /// How long requests may go on after shutdown, or after `age`.
    pub grace: Duration,
}

impl HttpLimits {
    /// For processes on this machine: no maximum age.
    pub fn local() -> Self {
        Self {
            header_time: Duration::from_secs(10),
            header_bytes: 16 * 1024,
            header_fields: 64,
            streams: 128,
            window: 1024 * 1024,
            ping: (Duration::from_secs(60), Duration::from_secs(20)),
            age: None,
            grace: Duration::from_secs(5),
        }
    }

    /// For peers on the network.
    pub fn remote() -> Self {
        Self {
            // An agent that is there is heard more often than that.
            ping: (Duration::from_secs(400), Duration::from_secs(20)),
            age: Some(Duration::from_secs(3600)),
            ..Self::local()
        }
    }

    /// For peers on the network that have shown no certificate: room and time for one exchange, not for a stay. What they
    /// make us hold is held a thousand times.
    pub fn strangers() -> Self {
        Self {
            header_bytes: 8 * 1024,
            streams: 2,
            window: 32 * 1024,
            age: Some(Duration::from_secs(60)),
            ..Self::remote()
        }
    }
}

/// What can be served: an `axum::Router`, or any tower service of its shape.
pub trait HttpService: Clone + Send + Sync + 'static {
    /// Answers one request.
    fn answer(
        self,
        request: Request<Incoming>,
    ) -> impl Future<Output = Result<Response<Self::Body>, Infallible>> + Send + 'static;

    /// The body of its responses.
    type Body: Body<Data: Send, Error: Into<Box<dyn Error + Send + Sync>>> + Send + 'static;
}

impl<S, B> HttpService for S
where
    S: tower_service::Service<Request<Incoming>, Response = Response<B>, Error = Infallible>,
    S: Clone + Send + Sync + 'static,
    S::Future: Send + 'static,
    B: Body<Data: Send, Error: Into<Box<dyn Error + Send + Sync>>> + Send + 'static,
{
    fn answer(
        self,
        request: Request<Incoming>,
    ) -> impl Future<Output = Result<Response<B>, Infallible>> + Send + 'static {
        self.oneshot(request)
    }

    type Body = B;
}

/// Serves connections in tasks of their own, and waits for them at the end.
#[derive(Debug)]
pub(crate) struct Server {
    shutdown: Shutdown,
    tasks: TaskTracker,
    spread: std::sync::atomic::AtomicU64,
}

impl Server {
    pub(crate) fn new(shutdown: Shutdown) -> Self {
        Self { shutdown, tasks: TaskTracker::new(), spread: Default::default() }
    }

    /// Serves one connection with the runtime `on`; `introduce` puts what is known of the peer into the extensions of each
    /// request.
    pub(crate) fn spawn<IO, S, F>(&self, io: IO, service: S, limits: HttpLimits, on: &Handle, introduce: F)
    where
        IO: AsyncRead + AsyncWrite + Send + Unpin + 'static,
        S: HttpService,
        F: Fn(&mut Extensions) + Send + 'static,
    {
        let shutdown = self.shutdown.clone();
        let age = limits.age.map(|age| age.mul_f64(1.0 - self.next_spread() / 10.0));
        // Its timers are there, too.
        let _there = on.enter();
        let io = TokioIo::new(FirstBytes::new(io, limits.header_time));
        let answer = hyper::service::service_fn(move |mut request: Request<Incoming>| {
            introduce(request.extensions_mut());
            service.clone().answer(request)
        });
        // In one place of its own: a task would have room for each place that it was moved from.
        let connection = Box::pin(builder(&limits).serve_connection(io, answer).into_owned());
        self.tasks.spawn_on(
            async move {
                let mut connection = connection;
                let too_old = async {
                    match age {
                        Some(age) => tokio::time::sleep(age).await,
                        None => std::future::pending().await,
                    }
                };
                let ended = tokio::select! {
                    ended = connection.as_mut() => Some(ended),
                    () = shutdown.triggered() => None,
                    () = too_old => None,
                };
                let ended = match ended {
                    Some(ended) => ended.map_err(|error| error.to_string()),
                    None => {
                        connection.as_mut().graceful_shutdown();
                        match tokio::time::timeout(limits.grace, connection).await {
                            Ok(ended) => ended.map_err(|error| error.to_string()),
                            Err(_) => Err(io::Error::from(io::ErrorKind::TimedOut).to_string()),
                        }
                    }
                };
                if let Err(error) = ended {
                    tracing::debug!(error, "a connection ended early");
                }
            },
            on,
        );
    }

    /// Waits until every connection has ended; each has [`HttpLimits::grace`] after the shutdown.
    pub(crate) async fn drain(self) {
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// The golden-ratio sequence: neighbours are far apart and any run fills [0, 1) evenly, without a random source.
    fn next_spread(&self) -> f64 {
        let step = self.spread.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        (step as f64 * 0.618_033_988_749_895).fract()
    }
}

fn builder(limits: &HttpLimits) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_time)
        .max_headers(limits.header_fields)
        .max_buf_size(usize::try_from(limits.header_bytes).unwrap_or(usize::MAX).max(64 * 1024));
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.streams)
        .max_frame_size(16 * 1024)
        .initial_stream_window_size(limits.window)
        .initial_connection_window_size(limits.window)
        .max_header_list_size(limits.header_bytes)
        .max_pending_accept_reset_streams(20)
        .max_local_error_reset_streams(100)
        .max_send_buf_size(1024 * 1024)
        .keep_alive_interval(limits.ping.0)
        .keep_alive_timeout(limits.ping.1);
    builder
}
