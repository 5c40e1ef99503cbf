//! The SPIFFE Workload API.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use bonafide_identity::{InstanceId, jwt};
use bonafide_wire::workload::{
    JwtBundlesRequest, JwtBundlesResponse, Jwtsvid, JwtsvidRequest, JwtsvidResponse, ValidateJwtsvidRequest,
    ValidateJwtsvidResponse, X509BundlesRequest, X509BundlesResponse, X509svid, X509svidRequest,
    X509svidResponse, spiffe_workload_api_server::SpiffeWorkloadApi,
};
use bytes::Bytes;
use tokio::sync::watch;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::{
    Api, Caller, check_security_header,
    feed::{self, Feed, State},
    peer_of, wanted_id,
};
use crate::{
    core::{IdentityState, LaunchState},
    engine::Published,
    refusal::Refusal,
};

/// Longest hint (SPIFFE Workload API §5.2).
const MAX_HINT: usize = 1024;
/// Longest token that is validated.
const MAX_TOKEN: usize = 16 * 1024;

/// The service.
#[derive(Clone, Debug)]
pub(crate) struct WorkloadService(pub(crate) Api);

type Stream<T> = ReceiverStream<Result<T, Status>>;

#[tonic::async_trait]
impl SpiffeWorkloadApi for WorkloadService {
    type FetchX509SVIDStream = Stream<X509svidResponse>;
    type FetchX509BundlesStream = Stream<X509BundlesResponse>;
    type FetchJWTBundlesStream = Stream<JwtBundlesResponse>;

    async fn fetch_x509svid(
        &self,
        request: Request<X509svidRequest>,
    ) -> Result<Response<Self::FetchX509SVIDStream>, Status> {
        let api = &self.0;
        let caller = self.admit(&request).await?;
        let slot = api.open_stream(caller.key)?;
        let launch = api.engine().launch(caller.key);
        let published = api.engine().published();
        api.attach(&caller).await?;
        let feed = X509Feed { api: api.clone(), caller: caller.clone(), launch, published };
        Ok(Response::new(feed::serve(feed, caller, slot, api.engine().shutdown().clone())))
    }

    async fn fetch_x509_bundles(
        &self,
        request: Request<X509BundlesRequest>,
    ) -> Result<Response<Self::FetchX509BundlesStream>, Status> {
        let key = self.0.engine().trust_domain().id().to_string();
        let serve = move |published: &Published| X509BundlesResponse {
            crl: Vec::new(),
            bundles: HashMap::from([(key.clone(), published.x509.clone())]).into_iter().collect(),
        };
        self.bundles(request, serve).await
    }

    async fn fetch_jwtsvid(
        &self,
        request: Request<JwtsvidRequest>,
    ) -> Result<Response<JwtsvidResponse>, Status> {
        let caller = self.admit(&request).await?;
        let request = request.into_inner();
        let audience = super::jwts::audience(&request.audience)?;
        let wanted = wanted_id(&request.spiffe_id)?;
        self.0.attach(&caller).await?;
        let identities = self.0.engine().read(|core| core.identities(&caller.key));
        let mut hints = Hints::default();
        let identities: Vec<(IdentityState, String)> = identities
            .into_iter()
            .filter(|identity| identity.spiffe_id.is_some())
            .map(|identity| {
                let hint = hints.unique(&identity.registration.hint);
                (identity, hint)
            })
            .filter(|(identity, _)| wanted.is_none() || identity.spiffe_id == wanted)
            .collect();
        if identities.is_empty() {
            return Err(Refusal::other_identity().into());
        }
        let tokens = identities.iter().map(|(identity, _)| self.0.jwt(&caller, identity, &audience));
        let tokens = futures_util::future::join_all(tokens).await;
        caller.peer.check_unchanged().await?;
        let (mut svids, mut refusal) = (Vec::new(), None);
        for (token, (identity, hint)) in tokens.into_iter().zip(identities) {
            match token {
                Ok(svid) => {
                    let spiffe_id = identity.spiffe_id.map(|id| id.to_string()).unwrap_or_default();
                    svids.push(Jwtsvid { spiffe_id, svid, hint });
                }
                Err(error) => refusal = refusal.or(Some(error)),
            }
        }
        match refusal {
            Some(refusal) if svids.is_empty() => Err(refusal.into()),
            _ => Ok(Response::new(JwtsvidResponse { svids })),
        }
    }

    async fn fetch_jwt_bundles(
        &self,
        request: Request<JwtBundlesRequest>,
    ) -> Result<Response<Self::FetchJWTBundlesStream>, Status> {
        let key = self.0.engine().trust_domain().id().to_string();
        let serve = move |published: &Published| JwtBundlesResponse {
            bundles: HashMap::from([(key.clone(), published.jwt.clone())]).into_iter().collect(),
        };
        self.bundles(request, serve).await
    }

    async fn validate_jwtsvid(
        &self,
        request: Request<ValidateJwtsvidRequest>,
    ) -> Result<Response<ValidateJwtsvidResponse>, Status> {
        let caller = self.admit(&request).await?;
        self.0.may_verify(&caller)?;
        let request = request.into_inner();
        if request.audience.is_empty() {
            return Err(Refusal::invalid("request.audience", "`audience` is missing").into());
        }
        if request.svid.is_empty() || request.svid.len() > MAX_TOKEN {
            return Err(Refusal::invalid("request.svid", "`svid` is missing or too long").into());
        }
        let published = Arc::clone(&self.0.engine().published().borrow());
        let svid = jwt::verify(&request.svid, &published.bundles, &request.audience, self.0.engine().now())
            .map_err(|error| Refusal::invalid(error.code(), error.to_string()))?;
        Ok(Response::new(ValidateJwtsvidResponse {
            spiffe_id: svid.id().to_string(),
            claims: Some(to_struct(svid.claims())),
        }))
    }
}

impl WorkloadService {
    async fn admit<T>(&self, request: &Request<T>) -> Result<Caller, Refusal> {
        check_security_header(request)?;
        let peer = peer_of(request)?;
        self.0.caller(peer).await
    }

    async fn bundles<T, R: Send + 'static>(
        &self,
        request: Request<T>,
        serve: impl Fn(&Published) -> R + Send + 'static,
    ) -> Result<Response<Stream<R>>, Status> {
        let api = &self.0;
        let caller = self.admit(&request).await?;
        // Not held over the await above, where it would not be `Send`.
        drop(request);
        let slot = api.open_stream(caller.key)?;
        let registrations = api.engine().registrations();
        let published = api.engine().published();
        let feed = BundleFeed { api: api.clone(), caller: caller.clone(), registrations, published, serve };
        Ok(Response::new(feed::serve(feed, caller, slot, api.engine().shutdown().clone())))
    }
}

/// X509-SVIDs of one launch.
struct X509Feed {
    api: Api,
    caller: Caller,
    launch: watch::Receiver<u64>,
    published: watch::Receiver<Arc<Published>>,
}

/// What tells one response from another, without a copy of its keys.
#[derive(PartialEq)]
pub(super) struct X509Version {
    bundle: u64,
    svids: Vec<(InstanceId, u64, String)>,
}

impl Feed for X509Feed {
    type Item = X509svidResponse;
    type Version = X509Version;

    fn state(&mut self) -> Result<State<Self::Item, Self::Version>, Refusal> {
        self.launch.mark_unchanged();
        let published = Arc::clone(&self.published.borrow_and_update());
        self.api.engine().read(|core| core.check_ready())?;
        let (state, synced) = self.api.engine().launch_state(&self.caller.key);
        match state {
            LaunchState::Gone => Err(Refusal::no_registration()),
            LaunchState::Refused(problem) => Err(Refusal::of_authority(&problem, false)),
            LaunchState::Ready(identities) => match response(&identities, &published) {
                Some((version, item)) => Ok(State::Complete(version, item)),
                None => Ok(State::Partial(None)),
            },
            LaunchState::Waiting(identities) => match response(&identities, &published) {
                // Nobody is there who could send the rest.
                Some((version, item)) if !synced => Ok(State::Complete(version, item)),
                None if !synced => Err(Refusal::authority_unavailable()),
                item => Ok(State::Partial(item)),
            },
        }
    }

    async fn changed(&mut self) {
        tokio::select! {
            _ = self.launch.changed() => {}
            _ = self.published.changed() => {}
        }
    }
}

fn response(identities: &[IdentityState], published: &Published) -> Option<(X509Version, X509svidResponse)> {
    let mut version = X509Version { bundle: published.version, svids: Vec::new() };
    let mut hints = Hints::default();
    let mut svids = Vec::new();
    for identity in identities {
        let Some(held) = &identity.held else { continue };
        let hint = hints.unique(&identity.registration.hint);
        version.svids.push((held.instance, held.generation, hint.clone()));
        svids.push(X509svid {
            spiffe_id: held.credential.spiffe_id().to_string(),
            x509_svid: held.credential.chain_der(),
            x509_svid_key: Bytes::copy_from_slice(&held.credential.key().to_pkcs8_der()),
            bundle: published.x509.clone(),
            hint,
        });
    }
    let response = X509svidResponse { svids, crl: Vec::new(), federated_bundles: Default::default() };
    (!response.svids.is_empty()).then_some((version, response))
}

/// Hints are unique in a response: of two equal ones, the first SVID keeps it.
#[derive(Debug, Default)]
struct Hints(HashSet<String>);

impl Hints {
    fn unique(&mut self, hint: &str) -> String {
        if hint.len() > MAX_HINT || !self.0.insert(hint.to_owned()) { String::new() } else { hint.to_owned() }
    }
}

/// Bundles, as long as the caller has an identity.
struct BundleFeed<S> {
    api: Api,
    caller: Caller,
    registrations: watch::Receiver<u64>,
    published: watch::Receiver<Arc<Published>>,
    serve: S,
}

impl<S, R> Feed for BundleFeed<S>
where
    S: Fn(&Published) -> R + Send + 'static,
    R: Send + 'static,
{
    type Item = R;
    type Version = u64;

    fn state(&mut self) -> Result<State<R, u64>, Refusal> {
        self.registrations.mark_unchanged();
        let published = Arc::clone(&self.published.borrow_and_update());
        self.api.may_verify(&self.caller)?;
        Ok(State::Complete(published.version, (self.serve)(&published)))
    }

    async fn changed(&mut self) {
        tokio::select! {
            _ = self.registrations.changed() => {}
            _ = self.published.changed() => {}
        }
    }
}

fn to_struct(map: &serde_json::Map<String, serde_json::Value>) -> prost_types::Struct {
    let fields: BTreeMap<_, _> = map.iter().map(|(key, value)| (key.clone(), to_value(value))).collect();
    prost_types::Struct { fields }
}

fn to_value(value: &serde_json::Value) -> prost_types::Value {
    use prost_types::value::Kind;
    use serde_json::Value;
    let kind = match value {
        Value::Null => Kind::NullValue(0),
        Value::Bool(value) => Kind::BoolValue(*value),
        Value::Number(value) => Kind::NumberValue(value.as_f64().unwrap_or(f64::NAN)),
        Value::String(value) => Kind::StringValue(value.clone()),
        Value::Array(values) => {
            Kind::ListValue(prost_types::ListValue { values: values.iter().map(to_value).collect() })
        }
        Value::Object(map) => Kind::StructValue(to_struct(map)),
    };
    prost_types::Value { kind: Some(kind) }
}
