//! TLS to a server that has a name and no SPIFFE ID, such as a database: verified as any client of the web verifies it,
//! under roots that an operator names. We present nothing.

use std::{io, sync::Arc, time::Duration};

use bonafide_identity::time::Clock;
use rustls::{RootCertStore, client::Resumption, time_provider::TimeProvider, version::TLS13};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;

use crate::{
    TlsError,
    config::{HANDSHAKE_TIME, PROVIDER},
};

/// How to open TLS connections to servers that have names. Cheap to clone.
#[derive(Clone, Debug)]
pub struct NamedServers(Arc<rustls::ClientConfig>);

#[derive(Debug)]
struct Now(Arc<dyn Clock>);

impl TimeProvider for Now {
    fn current_time(&self) -> Option<UnixTime> {
        let seconds = u64::try_from(self.0.now().as_secs()).ok()?;
        Some(UnixTime::since_unix_epoch(Duration::from_secs(seconds)))
    }
}

impl NamedServers {
    /// Servers whose certificates are under one of `roots`, in PEM.
    ///
    /// # Errors
    /// [`TlsError::Roots`] if that is no PEM of certificates, or of none.
    pub fn new(roots: &[u8], clock: Arc<dyn Clock>) -> Result<Self, TlsError> {
        let unfit = |why: &dyn std::fmt::Display| TlsError::Roots(why.to_string());
        let mut store = RootCertStore::empty();
        for root in CertificateDer::pem_slice_iter(roots) {
            let root = root.map_err(|error| unfit(&error))?;
            store.add(root).map_err(|error| unfit(&error))?;
        }
        if store.is_empty() {
            return Err(unfit(&"there is no certificate in it"));
        }
        let builder = rustls::ClientConfig::builder_with_details(Arc::clone(&PROVIDER), Arc::new(Now(clock)));
        let builder = builder.with_protocol_versions(&[&TLS13]);
        let builder = builder.map_err(|error| TlsError::Handshake(error.to_string()))?;
        let mut config = builder.with_root_certificates(store).with_no_client_auth();
        config.resumption = Resumption::disabled();
        Ok(Self(Arc::new(config)))
    }

    /// Shakes hands with a server that must be `name`: a DNS name or an IP address.
    ///
    /// # Errors
    /// Those of the connection; [`io::ErrorKind::InvalidData`] if the server is not who it should be.
    pub async fn connect<IO>(
        &self,
        name: &str,
        io: IO,
    ) -> io::Result<impl AsyncRead + AsyncWrite + Send + Unpin + use<IO>>
    where
        IO: AsyncRead + AsyncWrite + Send + Unpin,
    {
        let name = ServerName::try_from(name.to_owned()).map_err(io::Error::other)?;
        let connected = TlsConnector::from(Arc::clone(&self.0)).connect(name, io);
        tokio::time::timeout(HANDSHAKE_TIME, connected)
            .await
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }
}
