use std::{
    sync::{Arc, LazyLock, OnceLock},
    time::Duration,
};

use bonafide_identity::{TrustDomain, time::Clock};
use rustls::{
    client::Resumption,
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::ServerName,
    server::NoServerSessionStorage,
    version::TLS13,
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::{
    Authorizer, ClientStream, IdentitySlot, ServerStream, TlsError, Trust,
    slot::Resolver,
    verifier::{Judge, PeerVerifier, Verdict},
};

/// How long a handshake may take, unless told otherwise.
pub(crate) const HANDSHAKE_TIME: Duration = Duration::from_secs(10);

/// Whom a server lets in.
#[derive(Clone, Debug)]
pub enum Clients {
    /// Only clients with an SVID that the authorizer accepts.
    Required(Authorizer),
    /// Also clients without a certificate. One that presents an SVID must be acceptable.
    Optional(Authorizer),
}

/// How to accept TLS connections. Cheap to clone.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    side: Side,
    resolver: Arc<Resolver>,
    optional: bool,
}

/// How to open TLS connections. Cheap to clone.
#[derive(Clone, Debug)]
pub struct ClientConfig {
    side: Side,
    base: Arc<rustls::ClientConfig>,
    /// `None`: this client has no identity, and knows that.
    identity: Option<Arc<IdentitySlot>>,
}

/// What both sides have in common.
#[derive(Clone, Debug)]
struct Side {
    judge: Judge,
    clock: Arc<dyn Clock>,
    handshake_time: Duration,
    protocols: Vec<Vec<u8>>,
}

impl Side {
    fn new(judge: Judge, clock: Arc<dyn Clock>) -> Self {
        Self { judge, clock, handshake_time: HANDSHAKE_TIME, protocols: Vec::new() }
    }

    /// A verifier for one connection, and where its verdict will be.
    fn verifier(&self, optional: bool) -> (Arc<PeerVerifier>, Verdict) {
        let verdict: Verdict = Arc::new(OnceLock::new());
        let verifier = PeerVerifier {
            judge: self.judge.clone(),
            clock: Arc::clone(&self.clock),
            algorithms: PROVIDER.signature_verification_algorithms,
            optional,
            verdict: Arc::clone(&verdict),
        };
        (Arc::new(verifier), verdict)
    }
}

/// aws-lc-rs, with the order of key exchanges that we want, whatever features of rustls others turn on.
pub(crate) static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
    use aws_lc_rs::kx_group::{SECP256R1, SECP384R1, X25519, X25519MLKEM768};
    Arc::new(CryptoProvider {
        kx_groups: vec![X25519MLKEM768, X25519, SECP256R1, SECP384R1],
        ..aws_lc_rs::default_provider()
    })
});

/// A server that presents what `identity` holds and judges clients by `trust`.
///
/// # Errors
/// [`TlsError::Handshake`] if the cryptographic provider lacks TLS 1.3: not with the one that is built in.
pub fn server_config(
    identity: &Arc<IdentitySlot>,
    trust: &Trust,
    clients: Clients,
    clock: Arc<dyn Clock>,
) -> Result<Arc<ServerConfig>, TlsError> {
    let (authorizer, optional) = match clients {
        Clients::Required(authorizer) => (authorizer, false),
        Clients::Optional(authorizer) => (authorizer, true),
    };
    let judge = Judge::Trust { trust: Arc::clone(trust), authorizer };
    let resolver = Arc::new(Resolver(Arc::clone(identity)));
    let config = ServerConfig { side: Side::new(judge, clock), resolver, optional };
    config.for_connection()?;
    Ok(Arc::new(config))
}

/// A client that judges servers by `trust`, and presents what `identity` holds, or nothing.
///
/// # Errors
/// As [`server_config`].
pub fn client_config(
    identity: Option<&Arc<IdentitySlot>>,
    trust: &Trust,
    servers: Authorizer,
    clock: Arc<dyn Clock>,
) -> Result<Arc<ClientConfig>, TlsError> {
    client(Judge::Trust { trust: Arc::clone(trust), authorizer: servers }, identity.map(Arc::clone), clock)
}

/// A client without identity that knows of its authority only the SHA-256 of a root certificate's DER. The server must
/// send that root along, and be a server of the authority of `trust_domain`.
///
/// # Errors
/// As [`server_config`].
pub fn pinned_client_config(
    trust_domain: TrustDomain,
    root_pin: [u8; 32],
    clock: Arc<dyn Clock>,
) -> Result<Arc<ClientConfig>, TlsError> {
    client(Judge::Pin { trust_domain, root: root_pin }, None, clock)
}

fn client(
    judge: Judge,
    identity: Option<Arc<IdentitySlot>>,
    clock: Arc<dyn Clock>,
) -> Result<Arc<ClientConfig>, TlsError> {
    let side = Side::new(judge, clock);
    let builder = rustls::ClientConfig::builder_with_provider(Arc::clone(&PROVIDER))
        .with_protocol_versions(&[&TLS13])
        .map_err(|error| TlsError::Handshake(error.to_string()))?
        .dangerous()
        // Replaced for each connection; this one belongs to none.
        .with_custom_certificate_verifier(side.verifier(false).0);
    let mut base = match &identity {
        Some(slot) => builder.with_client_cert_resolver(Arc::new(Resolver(Arc::clone(slot)))),
        None => builder.with_no_client_auth(),
    };
    base.resumption = Resumption::disabled();
    base.enable_sni = false;
    Ok(Arc::new(ClientConfig { side, base: Arc::new(base), identity }))
}

impl ServerConfig {
    /// Offers these application protocols (ALPN), as `b"h2"`. Without any, none is negotiated.
    #[must_use]
    pub fn with_protocols(&self, protocols: &[&[u8]]) -> Arc<Self> {
        let mut changed = self.clone();
        changed.side.protocols = protocols.iter().map(|name| name.to_vec()).collect();
        Arc::new(changed)
    }

    /// Gives handshakes this long.
    #[must_use]
    pub fn with_handshake_time(&self, time: Duration) -> Arc<Self> {
        let mut changed = self.clone();
        changed.side.handshake_time = time;
        Arc::new(changed)
    }

    /// Performs the handshake on an accepted connection.
    ///
    /// # Errors
    /// [`TlsError`]: above all [`TlsError::Peer`], with the reason why the client was refused.
    pub async fn accept<IO>(&self, io: IO) -> Result<ServerStream<IO>, TlsError>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        if self.resolver.0.current().is_none() {
            return Err(TlsError::NoIdentity);
        }
        let (config, verdict) = self.for_connection()?;
        let handshake = TlsAcceptor::from(config).accept(io);
        let done = tokio::time::timeout(self.side.handshake_time, handshake).await;
        ServerStream::new(
            done.map_err(|_| TlsError::Timeout)?.map(Into::into),
            verdict,
            self.side.judge.trust(),
        )
    }

    /// The verifier belongs to one connection, so that its verdict can't be mistaken for another's.
    fn for_connection(&self) -> Result<(Arc<rustls::ServerConfig>, Verdict), TlsError> {
        let (verifier, verdict) = self.side.verifier(self.optional);
        let mut config = rustls::ServerConfig::builder_with_provider(Arc::clone(&PROVIDER))
            .with_protocol_versions(&[&TLS13])
            .map_err(|error| TlsError::Handshake(error.to_string()))?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(Arc::clone(&self.resolver) as _);
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        config.alpn_protocols.clone_from(&self.side.protocols);
        Ok((Arc::new(config), verdict))
    }
}

impl ClientConfig {
    /// As [`ServerConfig::with_protocols`].
    #[must_use]
    pub fn with_protocols(&self, protocols: &[&[u8]]) -> Arc<Self> {
        let mut changed = self.clone();
        changed.side.protocols = protocols.iter().map(|name| name.to_vec()).collect();
        Arc::new(changed)
    }

    /// As [`ServerConfig::with_handshake_time`].
    #[must_use]
    pub fn with_handshake_time(&self, time: Duration) -> Arc<Self> {
        let mut changed = self.clone();
        changed.side.handshake_time = time;
        Arc::new(changed)
    }

    /// Performs the handshake on an open connection.
    ///
    /// # Errors
    /// [`TlsError`]: above all [`TlsError::Peer`], with the reason why we refused the server. That the server refuses us
    /// shows at the first read only; see [`TlsError::of_io`].
    pub async fn connect<IO>(&self, io: IO) -> Result<ClientStream<IO>, TlsError>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        if self.identity.as_ref().is_some_and(|slot| slot.current().is_none()) {
            return Err(TlsError::NoIdentity);
        }
        let (verifier, verdict) = self.side.verifier(false);
        let mut config = rustls::ClientConfig::clone(&self.base);
        config.dangerous().set_certificate_verifier(verifier);
        config.alpn_protocols.clone_from(&self.side.protocols);
        // Never sent (`enable_sni` is off) and never compared: the verifier looks at SPIFFE IDs.
        let name = ServerName::IpAddress(std::net::Ipv4Addr::UNSPECIFIED.into());
        let handshake = TlsConnector::from(Arc::new(config)).connect(name, io);
        let done = tokio::time::timeout(self.side.handshake_time, handshake).await;
        ClientStream::new(
            done.map_err(|_| TlsError::Timeout)?.map(Into::into),
            verdict,
            self.side.judge.trust(),
        )
    }
}
