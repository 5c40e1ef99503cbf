//! The transit part of Vault's HTTP API, on the port of the agents, for scripts and libraries that speak it.
//!
//! The caller is whoever its X509-SVID says, as everywhere: a request needs no token. Those who log in (`auth/cert`) get one
//! that is good for nothing without the same identity. Who can't show a certificate logs in with a JWT-SVID (`auth/jwt`). What may be done with a key, policies say; keys are administered with
//! the admin rights that an SVID carries.
//!
//! | differs | why |
//! |---|---|
//! | a key is not made by the first encryption | who may use a key does not thereby say what keys there are |
//! | `context` and `associated_data` are bound to every ciphertext, also of keys that are not `derived` | a context that can be left out protects nothing |
//! | keys have one use: `hmac` needs a key of that type | one secret, one algorithm |
//! | `DELETE` schedules the destruction, after a week in which `soft-delete-restore` takes it back | what is destroyed does not come back |
//! | MD5, SHA-1, raw exports of wrapped keys, backups and restores are missing | |

mod answer;
mod fields;
mod identity;
mod keys;
mod token;
mod transit;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::routing::any;
use bonafide_crypto::mac::MacKey;
use bonafide_crypto::random::Random;
use bonafide_identity::TrustDomain;
use bonafide_identity::time::Clock;
use http::{Method, StatusCode};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use self::answer::{Answer, Reply};
use self::fields::Fields;
use self::token::{Token, Tokens};
use crate::admin::Admin;
use crate::kms::callers::{Caller, Callers};
use crate::kms::grpc::Grpc;
use crate::kms::service::Service;
use crate::refusal::Refusal;

/// What a token's MAC is for.
pub(crate) const PURPOSE: &str = "vault tokens v1";
/// The longest body: a call's bytes in base64, and names around them.
const MAX_BODY: usize = 8 << 20;
/// Bodies that are read at the same time, by all callers.
const MAX_READING: usize = 8;
/// The longest body of a login: a token, and names around it.
const MAX_LOGIN: usize = 32 << 10;
/// Logins of nobody yet that are read at the same time, and how long each may take.
const MAX_LOGINS: usize = 8;
const LOGIN_TIME: Duration = Duration::from_secs(5);

/// What answers.
#[derive(Clone)]
pub(crate) struct Vault(Arc<Parts>);

struct Parts {
    admin: Admin,
    service: Service,
    callers: Arc<Callers>,
    tokens: Tokens,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
    /// For `sys/health`.
    server: String,
    trust_domain: TrustDomain,
    /// Bodies that are read at the same time.
    reading: Semaphore,
    /// The same of those who have not said yet who they are.
    logins: Semaphore,
}

/// One request, read.
struct Call<'a> {
    vault: &'a Vault,
    parts: &'a http::request::Parts,
    /// Who calls, if that had to be known before the body was read.
    known: Option<(Caller, Option<Token>)>,
    fields: Fields,
}

impl Vault {
    pub(crate) fn new(
        admin: Admin,
        applications: Grpc,
        key: MacKey,
        clock: Arc<dyn Clock>,
        random: Arc<dyn Random>,
        server: String,
        trust_domain: TrustDomain,
    ) -> Self {
        let Grpc { service, callers } = applications;
        Self(Arc::new(Parts {
            admin,
            service,
            callers,
            tokens: Tokens::new(key),
            clock,
            random,
            server,
            trust_domain,
            reading: Semaphore::new(MAX_READING),
            logins: Semaphore::new(MAX_LOGINS),
        }))
    }

    /// Everything below `/v1/`.
    pub(crate) fn routes(self) -> Router {
        // `LIST` is no method that a router knows.
        Router::new().route("/v1/{*path}", any(serve)).with_state(self)
    }
}

async fn serve(State(vault): State<Vault>, request: Request<Body>) -> Reply {
    let id = uuid::Uuid::from_bytes(vault.0.random.array()).hyphenated().to_string();
    match answer(&vault, request).await {
        Ok(answer) => Reply { id, answer },
        Err(refusal) => Reply { id, answer: Answer::Refused(refusal) },
    }
}

async fn answer(vault: &Vault, request: Request<Body>) -> Result<Answer, Refusal> {
    let (parts, body) = request.into_parts();
    let list = parts.method.as_str() == "LIST"
        || parts.uri.query().is_some_and(|query| query.split('&').any(|pair| pair == "list=true"));
    let writes = matches!(parts.method, Method::POST | Method::PUT);
    if !(writes || list || matches!(parts.method, Method::GET | Method::HEAD | Method::DELETE)) {
        return Ok(Answer::Status(StatusCode::METHOD_NOT_ALLOWED));
    }
    let path: Vec<&str> =
        parts.uri.path().trim_start_matches("/v1/").trim_end_matches('/').split('/').collect();
    let mut known = None;
    let fields = match *path.as_slice() {
        _ if !writes => Fields::default(),
        ["auth", "jwt", "login"] => timeout(LOGIN_TIME, read(body, MAX_LOGIN, &vault.0.logins))
            .await
            .map_err(|_| Refusal::unavailable("vault.slow", "the body did not come"))??,
        ["auth", "cert", "login"] => {
            vault.0.callers.of(&parts.extensions, None)?;
            read(body, MAX_LOGIN, &vault.0.reading).await?
        }
        _ => {
            // Nothing is read for whoever may not ask, and not for many at once: what a body becomes takes more room than it.
            known = Some(identity::caller(vault, &parts)?);
            read(body, MAX_BODY, &vault.0.reading).await?
        }
    };
    let call = Call { vault, parts: &parts, known, fields };
    let delete = parts.method == Method::DELETE;
    match *path.as_slice() {
        ["sys", ref rest @ ..] => identity::system(&call, rest),
        ["auth", "cert", "login"] if writes => identity::login(&call),
        ["auth", "jwt", "login"] if writes => identity::login_by_jwt(&call),
        ["auth", "token", "lookup-self"] => identity::lookup(&call),
        ["auth", "token", "revoke-self"] if writes => identity::revoke(&call),
        ["transit", "keys"] if list => keys::list(&call),
        ["transit", "keys", name] if writes => keys::create(&call, name).await,
        ["transit", "keys", name] if delete => keys::destroy(&call, name).await,
        ["transit", "keys", name] => keys::read(&call, name),
        ["transit", "keys", name, "config"] if writes => keys::configure(&call, name).await,
        ["transit", "keys", name, "rotate"] if writes => keys::rotate(&call, name).await,
        ["transit", "keys", name, "trim"] if writes => keys::trim(&call, name).await,
        ["transit", "keys", name, "soft-delete"] if writes || delete => keys::destroy(&call, name).await,
        ["transit", "keys", name, "soft-delete-restore"] if writes => keys::restore(&call, name).await,
        ["transit", "export", "public-key", name] => transit::public_keys(&call, name, None).await,
        ["transit", "export", "public-key", name, version] => {
            transit::public_keys(&call, name, Some(version)).await
        }
        ["transit", operation, ref rest @ ..] if writes => transit::operate(call, operation, rest).await,
        _ => Err(Refusal::not_found("vault.path", "unsupported path").hint(
            "the transit engine is served, below `transit/`, and logins with `auth/cert` and `auth/jwt`",
        )),
    }
}

/// A body of so many bytes at most.
async fn read(body: Body, most: usize, places: &Semaphore) -> Result<Fields, Refusal> {
    let _place = places.acquire().await;
    let body = to_bytes(body, most).await.map_err(|_| {
        Refusal::invalid("vault.body", format!("the body is longer than {} KiB, or was cut off", most >> 10))
            .hint("send smaller batches")
    })?;
    Fields::read(&body)
}
