//! Middleware for tower, and so for tonic and axum.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use tower_service::Service;

use super::{Guard, On};
use crate::Caller;

/// Wraps services in [`Guarded`].
#[derive(Clone, Debug)]
pub struct Layer {
    guard: Guard,
}

/// A service whose requests are decided about first: the method is what the caller wants to do, to the path and host.
///
/// The caller is the [`Caller`] among the request's extensions, where [`crate::grpc::Incoming`] puts it. A request without
/// one is denied.
#[derive(Clone, Debug)]
pub struct Guarded<S> {
    inner: S,
    guard: Guard,
}

impl Layer {
    pub(super) fn new(guard: Guard) -> Self {
        Self { guard }
    }
}

impl<S> tower::Layer<S> for Layer {
    type Service = Guarded<S>;

    fn layer(&self, inner: S) -> Guarded<S> {
        Guarded { inner, guard: self.guard.clone() }
    }
}

impl<S, In, Out> Service<Request<In>> for Guarded<S>
where
    S: Service<Request<In>, Response = Response<Out>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
    Out: Default + Send + 'static,
{
    type Response = Response<Out>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Out>, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<In>) -> Self::Future {
        if is_allowed(&self.guard, &request) {
            return Box::pin(self.inner.call(request));
        }
        let refusal = refusal(request.headers());
        Box::pin(async move { Ok(refusal) })
    }
}

fn is_allowed<In>(guard: &Guard, request: &Request<In>) -> bool {
    let Some(caller) = request.extensions().get::<Caller>() else {
        tracing::warn!("a request was denied: the connection proves no identity");
        return false;
    };
    let Some(host) = host(request) else {
        tracing::warn!(caller = %caller.id(), "a request was denied: it names no host, or two");
        return false;
    };
    let on = On { path: Some(request.uri().path()), host: Some(host), ..On::nothing() };
    match guard.authorize(caller, request.method().as_str(), on) {
        Ok(_) => true,
        Err(denied) => {
            tracing::info!(code = denied.code(), "{denied}");
            false
        }
    }
}

/// The host that the request is for. None, if nobody can tell: whoever routes it may read it in another way.
fn host<In>(request: &Request<In>) -> Option<&str> {
    let mut named = request.headers().get_all(header::HOST).iter();
    let by_header = match (named.next(), named.next()) {
        (None, _) => None,
        (Some(host), None) => Some(host.to_str().ok()?),
        (Some(_), Some(_)) => return None,
    };
    let by_uri = request.uri().authority().map(http::uri::Authority::as_str);
    match (by_uri, by_header) {
        (Some(uri), Some(header)) if !uri.eq_ignore_ascii_case(header) => None,
        (Some(host), _) | (None, Some(host)) => Some(host),
        (None, None) => None,
    }
}

/// As the protocol of the request says it, and without a word of the rules.
fn refusal<Out: Default>(headers: &HeaderMap) -> Response<Out> {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let mut response = Response::new(Out::default());
    if kind.starts_with("application/grpc") {
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert("grpc-status", HeaderValue::from_static("7"));
        headers.insert("grpc-message", HeaderValue::from_static("policy.denied"));
    } else {
        *response.status_mut() = StatusCode::FORBIDDEN;
    }
    response
}
