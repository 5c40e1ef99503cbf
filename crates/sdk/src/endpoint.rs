use std::{
    fmt,
    net::SocketAddr,
    path::{Path, PathBuf},
    str::FromStr,
};

use hyper_util::rt::TokioIo;
use tokio::net::{TcpStream, UnixStream};
use tonic::{
    Request, Status,
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Channel, Uri},
};
use tower::service_fn;

use bonafide_wire::workload::spiffe_workload_api_client::SpiffeWorkloadApiClient;

use crate::Error;

/// The variable that names the socket (SPIFFE Workload Endpoint §4).
pub const ENDPOINT_VARIABLE: &str = "SPIFFE_ENDPOINT_SOCKET";

/// Where Bonafide's agent listens when nobody says otherwise.
pub const DEFAULT_ENDPOINT: &str = "unix:///run/bonafide/agent.sock";

/// Larger than any answer of a sane agent: bundles of many trust domains.
const MAX_MESSAGE: usize = 16 * 1024 * 1024;

/// Where the Workload API is: `unix:///absolute/path`, or `tcp://address:port` with a literal IP address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint(Address);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Address {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl Endpoint {
    /// What [`ENDPOINT_VARIABLE`] says, or [`DEFAULT_ENDPOINT`].
    ///
    /// # Errors
    /// If the variable is set, but not to an endpoint.
    pub fn from_environment() -> Result<Self, Error> {
        match std::env::var(ENDPOINT_VARIABLE) {
            Ok(value) => value.parse(),
            Err(std::env::VarError::NotPresent) => DEFAULT_ENDPOINT.parse(),
            Err(std::env::VarError::NotUnicode(_)) => Err(Error::endpoint("?", "it is not UTF-8")),
        }
    }

    /// A Unix socket by its path.
    pub fn unix(path: impl AsRef<Path>) -> Self {
        Self(Address::Unix(path.as_ref().to_owned()))
    }

    /// A client of the Workload API. It connects when it is first used, and again when the connection is lost.
    pub(crate) fn client(&self) -> WorkloadClient {
        SpiffeWorkloadApiClient::with_interceptor(self.channel(), SecurityHeader)
            .max_decoding_message_size(MAX_MESSAGE)
    }

    /// A client of the agent's own calls, at the same place.
    pub(crate) fn agent_client(&self) -> AgentClient {
        bonafide_wire::agent::agent_client::AgentClient::with_interceptor(self.channel(), SecurityHeader)
            .max_decoding_message_size(MAX_MESSAGE)
    }

    /// A client of the agent's keys, at the same place.
    #[cfg(feature = "kms")]
    pub(crate) fn keys_client(&self, most: usize) -> crate::keys::Client {
        bonafide_wire::kms::keys_client::KeysClient::with_interceptor(self.channel(), SecurityHeader)
            .max_decoding_message_size(most)
    }

    /// A client of what the agent tells of leases, at the same place.
    #[cfg(feature = "kms")]
    pub(crate) fn leases_client(&self) -> LeasesClient {
        bonafide_wire::kms::leases_client::LeasesClient::with_interceptor(self.channel(), SecurityHeader)
    }

    fn channel(&self) -> Channel {
        let endpoint = tonic::transport::Endpoint::from(Uri::from_static("http://localhost"));
        match self.0.clone() {
            Address::Unix(path) => endpoint.connect_with_connector_lazy(service_fn(move |_: Uri| {
                let path = path.clone();
                async move { UnixStream::connect(path).await.map(TokioIo::new) }
            })),
            Address::Tcp(address) => {
                endpoint.connect_with_connector_lazy(service_fn(move |_: Uri| async move {
                    TcpStream::connect(address).await.map(TokioIo::new)
                }))
            }
        }
    }
}

pub(crate) type AgentClient =
    bonafide_wire::agent::agent_client::AgentClient<InterceptedService<Channel, SecurityHeader>>;
#[cfg(feature = "kms")]
pub(crate) type LeasesClient =
    bonafide_wire::kms::leases_client::LeasesClient<InterceptedService<Channel, SecurityHeader>>;
pub(crate) type WorkloadClient = SpiffeWorkloadApiClient<InterceptedService<Channel, SecurityHeader>>;

/// Every request says `workload.spiffe.io: true` (SPIFFE Workload Endpoint §6.1), which keeps requests out that somebody
/// else was tricked into making.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SecurityHeader;

impl Interceptor for SecurityHeader {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request
            .metadata_mut()
            .insert("workload.spiffe.io", tonic::metadata::MetadataValue::from_static("true"));
        Ok(request)
    }
}

impl FromStr for Endpoint {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let wrong = |why| Error::endpoint(text, why);
        if let Some(rest) = text.strip_prefix("unix:") {
            let path = rest.strip_prefix("//").unwrap_or(rest);
            if !path.starts_with('/') || path.starts_with("//") {
                return Err(wrong("a socket's path must be absolute, and there is no host: `unix:///path`"));
            }
            if path.contains(['?', '#', '%']) {
                return Err(wrong("a socket's path has no query, fragment or escape"));
            }
            return Ok(Self(Address::Unix(path.into())));
        }
        if let Some(rest) = text.strip_prefix("tcp://") {
            let address =
                rest.parse().map_err(|_| wrong("it must be an IP address and a port, and nothing else"))?;
            return Ok(Self(Address::Tcp(address)));
        }
        Err(wrong("it must begin with `unix:///` or `tcp://`"))
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Address::Tcp(address) => write!(out, "tcp://{address}"),
            Address::Unix(path) => write!(out, "unix://{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn understands_what_the_standard_allows() {
        for (text, shown) in [
            ("unix:///run/spire/agent.sock", "unix:///run/spire/agent.sock"),
            ("unix:/run/agent.sock", "unix:///run/agent.sock"),
            ("tcp://127.0.0.1:8000", "tcp://127.0.0.1:8000"),
            ("tcp://[::1]:8000", "tcp://[::1]:8000"),
        ] {
            assert_eq!(text.parse::<Endpoint>().unwrap().to_string(), shown);
        }
    }

    #[test]
    fn refuses_everything_else() {
        for text in [
            "",
            "/run/agent.sock",
            "unix:",
            "unix://",
            "unix:relative",
            "unix://host/path",
            "unix:////path",
            "unix:///path?query",
            "unix:///path#fragment",
            "unix:///pa%74h",
            "tcp://localhost:80",
            "tcp://127.0.0.1",
            "tcp://127.0.0.1:80/path",
            "tcp:127.0.0.1:80",
            "http://127.0.0.1:80",
        ] {
            let error = text.parse::<Endpoint>().unwrap_err();
            assert_eq!(error.code(), "sdk.endpoint", "{text}");
        }
    }
}
