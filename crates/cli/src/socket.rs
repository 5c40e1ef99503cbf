//! Connections to the local sockets of authority and agent.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Mutex,
};

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};
use tower::service_fn;

use crate::Failure;

/// Where the authority keeps its data unless told otherwise.
pub const AUTHORITY_DATA: &str = "/var/lib/bonafide/authority";
/// Where the authority's admin socket is unless told otherwise.
pub const ADMIN_SOCKET: &str = "/var/lib/bonafide/authority/admin.sock";
/// Where the agent's socket is unless told otherwise.
pub const AGENT_SOCKET: &str = "/run/bonafide/agent.sock";

/// Where the authority is administered.
#[derive(Clone, Debug, clap::Args)]
pub struct AdminSocket {
    /// The authority's admin socket
    #[arg(long = "socket", alias = "admin-socket", env = "BONAFIDE_ADMIN_SOCKET", default_value = ADMIN_SOCKET,
        value_name = "PATH", value_parser = parse)]
    pub path: PathBuf,
}

/// Where the agent serves workloads.
#[derive(Clone, Debug, clap::Args)]
pub struct AgentSocket {
    /// The agent's socket
    #[arg(long = "socket", alias = "agent-socket", env = "SPIFFE_ENDPOINT_SOCKET", default_value = AGENT_SOCKET,
        value_name = "PATH", value_parser = parse)]
    pub path: PathBuf,
}

/// Reads a socket address: `unix:///path`, `unix:/path` (SPIFFE Workload Endpoint section 4), or a bare path.
///
/// # Errors
/// In words, for any other scheme and for a path that is not absolute.
pub fn parse(text: &str) -> Result<PathBuf, String> {
    let path = match text.split_once(':') {
        Some(("unix", rest)) => rest.strip_prefix("//").unwrap_or(rest),
        Some((scheme, _)) if !scheme.contains('/') => {
            return Err(format!("`{scheme}` is no kind of local socket: expected `unix:///path` or a path"));
        }
        _ => text,
    };
    if path.starts_with('/') { Ok(path.into()) } else { Err("the path of a socket must be absolute".into()) }
}

/// Connects once, so that a failure is known for what it is, and speaks gRPC over that connection.
///
/// # Errors
/// [`Failure::socket`]. `what` is `authority` or `agent`.
pub async fn connect(what: &'static str, path: &Path) -> Result<Channel, Failure> {
    let stream = UnixStream::connect(path).await.map_err(|source| Failure::socket(what, path, &source))?;
    let stream = Mutex::new(Some(stream));
    let connector = service_fn(move |_| {
        let stream = stream.lock().map_or(None, |mut slot| slot.take());
        let gone = || io::Error::new(io::ErrorKind::ConnectionAborted, "the connection is closed");
        std::future::ready(stream.map(TokioIo::new).ok_or_else(gone))
    });
    Endpoint::from_static("http://localhost")
        .connect_with_connector(connector)
        .await
        .map_err(|source| Failure::SocketSilent { what, path: path.to_owned(), reason: source.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_sockets() {
        for text in ["unix:///run/a.sock", "unix:/run/a.sock", "/run/a.sock"] {
            assert_eq!(parse(text), Ok(PathBuf::from("/run/a.sock")), "{text}");
        }
        assert_eq!(parse("/run/a:b.sock"), Ok(PathBuf::from("/run/a:b.sock")));
        for text in ["tcp://127.0.0.1:80", "unix://run/a.sock", "run/a.sock", "", "unix:"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
