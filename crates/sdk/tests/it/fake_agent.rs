//! A Workload API on a Unix socket, whose answers the test decides.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use bonafide_net::{
    drain::Shutdown,
    unix::{self, Listener},
};
use bonafide_sdk::{BundleMap, Clock, Endpoint, Error, JwtSource, Options, Pick, X509Source, X509Svid};
use bonafide_testkit::{TestClock, TestDomain};
use bonafide_wire::{
    IntoStatus,
    types::Problem,
    workload::{
        JwtBundlesRequest, JwtBundlesResponse, Jwtsvid, JwtsvidRequest, JwtsvidResponse,
        ValidateJwtsvidRequest, ValidateJwtsvidResponse, X509BundlesRequest, X509BundlesResponse, X509svid,
        X509svidRequest, X509svidResponse,
        spiffe_workload_api_server::{SpiffeWorkloadApi, SpiffeWorkloadApiServer},
    },
};
use futures_util::{Stream, StreamExt};
use tokio::{sync::watch, task::JoinHandle};
use tokio_stream::wrappers::WatchStream;
use tonic::{Code, Request, Response, Status, service::Routes};

type Answer = Result<X509svidResponse, Problem>;

/// What is common to all lives of the agent.
pub(crate) struct FakeAgent {
    pub(crate) clock: Arc<TestClock>,
    pub(crate) domain: Arc<TestDomain>,
    answers: watch::Sender<Answer>,
    jwt_requests: Arc<AtomicU32>,
    path: PathBuf,
    running: Option<(Shutdown, JoinHandle<std::io::Result<()>>)>,
    _dir: tempfile::TempDir,
}

impl FakeAgent {
    /// Grants `/web`.
    pub(crate) fn start() -> Self {
        let clock = TestClock::new();
        let domain = Arc::new(TestDomain::new("example.org", clock.now()));
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.sock");
        let mut agent = Self {
            answers: watch::Sender::new(Err(Problem::default())),
            jwt_requests: Arc::default(),
            clock,
            domain,
            path,
            running: None,
            _dir: dir,
        };
        agent.grant("/web");
        agent.resume();
        agent
    }

    pub(crate) fn grant(&self, path: &str) -> X509Svid {
        let svid = self.domain.svid(path, self.clock.now());
        self.answer(self.response(&[(&svid, "")]));
        svid
    }

    pub(crate) fn response(&self, svids: &[(&X509Svid, &str)]) -> X509svidResponse {
        let svids = svids.iter().map(|(svid, hint)| X509svid {
            spiffe_id: svid.id().to_string(),
            x509_svid: svid.chain().iter().flat_map(|each| each.der().to_vec()).collect::<Vec<u8>>().into(),
            x509_svid_key: svid.key().to_pkcs8_der().to_vec().into(),
            bundle: self.domain.root().der().to_vec().into(),
            hint: (*hint).to_owned(),
        });
        X509svidResponse { svids: svids.collect(), crl: Vec::new(), federated_bundles: BTreeMap::new() }
    }

    pub(crate) fn answer(&self, response: X509svidResponse) {
        let _ = self.answers.send_replace(Ok(response));
    }

    pub(crate) fn refuse(&self, problem: Problem) {
        let _ = self.answers.send_replace(Err(problem));
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn jwt_requests(&self) -> u32 {
        self.jwt_requests.load(Ordering::SeqCst)
    }

    pub(crate) async fn stop(&mut self) {
        let (shutdown, task) = self.running.take().unwrap();
        shutdown.trigger();
        task.await.unwrap().unwrap();
    }

    pub(crate) fn resume(&mut self) {
        let service = Service {
            answers: self.answers.subscribe(),
            domain: Arc::clone(&self.domain),
            clock: Arc::clone(&self.clock),
            jwt_requests: Arc::clone(&self.jwt_requests),
        };
        let shutdown = Shutdown::new();
        let stop = shutdown.clone();
        let router = Routes::new(SpiffeWorkloadApiServer::new(Ending { service, shutdown: stop.clone() }))
            .into_axum_router();
        let listener = Listener::bind(&self.path, 0o666, None).unwrap();
        let task = tokio::spawn(async move { unix::serve(listener, router, &stop).await });
        self.running = Some((shutdown, task));
    }

    pub(crate) fn options(&self) -> Options {
        let mut options = Options::default();
        options.endpoint = Some(Endpoint::unix(&self.path));
        options.clock = Arc::clone(&self.clock) as _;
        options
    }

    pub(crate) async fn x509(&self) -> X509Source {
        X509Source::connect_with(self.options()).await.unwrap()
    }

    pub(crate) async fn x509_picked(&self, pick: Pick) -> Result<X509Source, Error> {
        let mut options = self.options();
        options.pick = pick;
        X509Source::connect_with(options).await
    }

    pub(crate) async fn jwt(&self) -> JwtSource {
        JwtSource::connect_with(self.options()).await.unwrap()
    }
}

#[derive(Clone)]
struct Service {
    answers: watch::Receiver<Answer>,
    domain: Arc<TestDomain>,
    clock: Arc<TestClock>,
    jwt_requests: Arc<AtomicU32>,
}

/// Ends its streams on shutdown, as an agent does.
struct Ending {
    service: Service,
    shutdown: Shutdown,
}

impl Ending {
    fn stream<T: Send + 'static>(
        &self,
        items: impl Stream<Item = Result<T, Status>> + Send + 'static,
    ) -> Response<Items<T>> {
        Response::new(Box::pin(items.take_until(self.shutdown.triggered())))
    }
}

type Items<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// SPIFFE Workload Endpoint §6.1.
fn check<T>(request: &Request<T>) -> Result<(), Status> {
    match request.metadata().get("workload.spiffe.io") {
        Some(value) if value == "true" => Ok(()),
        _ => Err(Status::invalid_argument("security header missing from request")),
    }
}

#[tonic::async_trait]
impl SpiffeWorkloadApi for Ending {
    type FetchX509SVIDStream = Items<X509svidResponse>;

    async fn fetch_x509svid(
        &self,
        request: Request<X509svidRequest>,
    ) -> Result<Response<Items<X509svidResponse>>, Status> {
        check(&request)?;
        let answers = WatchStream::new(self.service.answers.clone());
        Ok(self.stream(
            answers.map(|answer| answer.map_err(|problem| problem.into_status(Code::PermissionDenied))),
        ))
    }

    type FetchX509BundlesStream = Items<X509BundlesResponse>;

    async fn fetch_x509_bundles(
        &self,
        _: Request<X509BundlesRequest>,
    ) -> Result<Response<Items<X509BundlesResponse>>, Status> {
        Err(Status::unimplemented("not in this test"))
    }

    async fn fetch_jwtsvid(
        &self,
        request: Request<JwtsvidRequest>,
    ) -> Result<Response<JwtsvidResponse>, Status> {
        check(&request)?;
        self.service.jwt_requests.fetch_add(1, Ordering::SeqCst);
        let audience = request.into_inner().audience;
        let audience: Vec<&str> = audience.iter().map(String::as_str).collect();
        let svid = Jwtsvid {
            spiffe_id: self.service.domain.id("/web").to_string(),
            svid: self.service.domain.jwt("/web", &audience, self.service.clock.now()),
            hint: String::new(),
        };
        Ok(Response::new(JwtsvidResponse { svids: vec![svid] }))
    }

    type FetchJWTBundlesStream = Items<JwtBundlesResponse>;

    async fn fetch_jwt_bundles(
        &self,
        request: Request<JwtBundlesRequest>,
    ) -> Result<Response<Items<JwtBundlesResponse>>, Status> {
        check(&request)?;
        let bundles: BundleMap = self.service.domain.bundles();
        let bundles = bundles
            .iter()
            .map(|(trust_domain, bundle)| {
                // As SPIRE's agent writes it: without `use`.
                let mut set: serde_json::Value = serde_json::from_slice(&bundle.to_jwt_json()).unwrap();
                for key in set["keys"].as_array_mut().unwrap() {
                    key.as_object_mut().unwrap().remove("use").unwrap();
                }
                (trust_domain.id().to_string(), set.to_string().into_bytes().into())
            })
            .collect();
        let response = JwtBundlesResponse { bundles };
        let answers = WatchStream::new(self.service.answers.clone());
        Ok(self.stream(answers.map(move |answer| match answer {
            Ok(_) => Ok(response.clone()),
            Err(problem) => Err(problem.into_status(Code::PermissionDenied)),
        })))
    }

    async fn validate_jwtsvid(
        &self,
        _: Request<ValidateJwtsvidRequest>,
    ) -> Result<Response<ValidateJwtsvidResponse>, Status> {
        Err(Status::unimplemented("the SDK validates by itself"))
    }
}
