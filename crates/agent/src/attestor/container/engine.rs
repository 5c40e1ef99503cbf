//! Docker's API, as far as it is needed: two questions about one container (Docker Engine API 1.24 and later; Podman
//! answers them too).

use std::{collections::BTreeMap, path::PathBuf};

use http_body_util::{BodyExt, Empty, Limited};
use hyper::{Request, StatusCode, body::Bytes, client::conn::http1};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

/// Largest answer that is read.
const MAX_ANSWER: usize = 1024 * 1024;
/// Room for the head of an answer.
const MAX_HEAD: usize = 64 * 1024;
/// References by digest that are told of one image.
const MAX_DIGESTS: usize = 16;

/// A runtime's socket.
#[derive(Clone, Debug)]
pub(super) struct Engine {
    socket: PathBuf,
}

/// What the runtime says of a container.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Facts {
    /// `sha256:` and 64 hexadecimal digits.
    pub(super) image_id: String,
    /// `name@sha256:…`
    pub(super) image_digests: Vec<String>,
    pub(super) name: String,
    pub(super) labels: BTreeMap<String, String>,
    /// Why there are no digests.
    pub(super) missing: Option<EngineError>,
}

/// Why a runtime says nothing.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum EngineError {
    #[error("the runtime can't be asked at `{}`: {why}", .socket.display())]
    Unreachable { socket: PathBuf, why: String },
    #[error("`{}` is served by the user {uid}, who is neither root nor the agent's", .socket.display())]
    Owner { socket: PathBuf, uid: u32 },
    #[error("the runtime took too long to answer")]
    Slow,
    #[error("the runtime knows no such container or image")]
    Unknown,
    #[error("the runtime's answer makes no sense: {0}")]
    Malformed(&'static str),
    #[error("the runtime answered with status {0}")]
    Status(u16),
}

impl EngineError {
    /// Stable code.
    pub(super) fn code(&self) -> &'static str {
        match self {
            Self::Unreachable { .. } => "container.runtime-unreachable",
            Self::Owner { .. } => "container.runtime-owner",
            Self::Slow => "container.runtime-slow",
            Self::Unknown => "container.unknown",
            Self::Malformed(_) | Self::Status(_) => "container.runtime-answer",
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ContainerAnswer {
    id: String,
    /// The image's ID; tags stand in `Config.Image`.
    image: String,
    name: String,
    state: StateAnswer,
    config: ConfigAnswer,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct StateAnswer {
    running: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ConfigAnswer {
    #[serde(default)]
    labels: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ImageAnswer {
    id: String,
    #[serde(default)]
    repo_digests: Option<Vec<String>>,
}

impl Engine {
    pub(super) fn new(socket: PathBuf) -> Self {
        Self { socket }
    }

    /// Asks for a container by its whole ID. Bounded in size; the caller bounds the time.
    pub(super) async fn facts(&self, id: &str) -> Result<Facts, EngineError> {
        let container: ContainerAnswer = self.ask(&format!("/containers/{id}/json")).await?;
        // A runtime finds containers by name and by a part of the ID too.
        if container.id != id {
            return Err(EngineError::Malformed("it is about another container"));
        }
        if !container.state.running {
            return Err(EngineError::Malformed("the container is not running, and a process is in it"));
        }
        let image_id = image_id(&container.image)?;
        let (image_digests, missing) = match self.digests(&image_id).await {
            Ok(digests) => (digests, None),
            Err(error) => (Vec::new(), Some(error)),
        };
        let name = container.name.trim_start_matches('/').to_owned();
        let labels = container.config.labels.unwrap_or_default();
        Ok(Facts { image_id, image_digests, name, labels, missing })
    }

    /// Under which names registries know the image, now.
    async fn digests(&self, image: &str) -> Result<Vec<String>, EngineError> {
        let answer: ImageAnswer = self.ask(&format!("/images/{image}/json")).await?;
        if image_id(&answer.id)? != image {
            return Err(EngineError::Malformed("it is about another image"));
        }
        let digests = answer.repo_digests.unwrap_or_default();
        if digests.len() > MAX_DIGESTS {
            return Err(EngineError::Malformed("the image has more than 16 references"));
        }
        let by_digest = |reference: &String| {
            reference.rsplit_once('@').is_some_and(|(_, digest)| image_id(digest).is_ok())
        };
        if digests.iter().all(by_digest) {
            Ok(digests)
        } else {
            Err(EngineError::Malformed("a reference without digest"))
        }
    }

    async fn ask<T: DeserializeOwned>(&self, path: &str) -> Result<T, EngineError> {
        let unreachable = |why: &dyn std::fmt::Display| EngineError::Unreachable {
            socket: self.socket.clone(),
            why: why.to_string(),
        };
        let stream = UnixStream::connect(&self.socket).await.map_err(|error| unreachable(&error))?;
        let uid = stream.peer_cred().map_err(|error| unreachable(&error))?.uid();
        if uid != 0 && uid != rustix::process::geteuid().as_raw() {
            return Err(EngineError::Owner { socket: self.socket.clone(), uid });
        }
        let (mut sender, connection) = http1::Builder::new()
            .max_buf_size(MAX_HEAD)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|error| unreachable(&error))?;
        let request = Request::get(path)
            .header(hyper::header::HOST, "localhost")
            .body(Empty::<Bytes>::new())
            .map_err(|error| unreachable(&error))?;
        let exchange = async {
            let answer = sender.send_request(request).await.map_err(|error| unreachable(&error))?;
            match answer.status() {
                StatusCode::OK => {}
                StatusCode::NOT_FOUND => return Err(EngineError::Unknown),
                other => return Err(EngineError::Status(other.as_u16())),
            }
            let body = Limited::new(answer.into_body(), MAX_ANSWER).collect().await;
            body.map(http_body_util::Collected::to_bytes)
                .map_err(|_| EngineError::Malformed("it is larger than 1 MiB, or cut off"))
        };
        // Both in this task: when nobody waits any more, nothing goes on.
        tokio::pin!(connection);
        let mut exchange = std::pin::pin!(exchange);
        let body = tokio::select! {
            body = &mut exchange => body?,
            _ = &mut connection => exchange.await?,
        };
        serde_json::from_slice(&body)
            .map_err(|_| EngineError::Malformed("it is not the JSON that was expected"))
    }
}

/// Docker writes `sha256:` before it, Podman may leave it out.
fn image_id(text: &str) -> Result<String, EngineError> {
    let digits = text.strip_prefix("sha256:").unwrap_or(text);
    let hexadecimal = digits.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    if digits.len() != 64 || !hexadecimal {
        return Err(EngineError::Malformed("an image's ID is not a SHA-256"));
    }
    Ok(format!("sha256:{digits}"))
}
