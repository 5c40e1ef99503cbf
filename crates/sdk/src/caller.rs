use std::sync::Arc;

use bonafide_identity::{InstanceId, SpiffeId, x509::VerifiedX509Svid};
use tonic::{Request, Status};

/// Who is at the other end of a connection: what its certificate proved in the handshake.
#[derive(Clone, Debug)]
pub struct Caller {
    svid: Arc<VerifiedX509Svid>,
    /// The same for policies, once somebody has asked.
    #[cfg(feature = "policy")]
    pub(crate) subject: Arc<std::sync::OnceLock<crate::guard::Subject>>,
}

impl Caller {
    pub(crate) fn new(svid: Arc<VerifiedX509Svid>) -> Self {
        Self {
            svid,
            #[cfg(feature = "policy")]
            subject: Arc::default(),
        }
    }

    /// Who sent a request that came in by [`crate::grpc::Incoming`].
    ///
    /// # Errors
    /// `Unauthenticated` if it came in by another listener, so that `Caller::of(&request)?` is all that a handler needs.
    pub fn of<T>(request: &Request<T>) -> Result<&Self, Status> {
        request
            .extensions()
            .get::<Self>()
            .ok_or_else(|| Status::unauthenticated("the connection proves no identity"))
    }

    /// Its SPIFFE ID.
    pub fn id(&self) -> &SpiffeId {
        self.svid.id()
    }

    /// Which launch of that workload it is. `None` if its SVID was issued by another implementation.
    pub fn instance(&self) -> Option<InstanceId> {
        self.svid.attributes()?.instance
    }

    /// The labels that its authority certified. Values may be any bytes.
    pub fn labels(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.svid.attributes().into_iter().flat_map(|attributes| attributes.labels())
    }

    /// One label, if there is one by this name and it is text.
    pub fn label(&self, key: &str) -> Option<&str> {
        std::str::from_utf8(self.svid.attributes()?.label(key)?).ok()
    }

    /// The certificate that was verified.
    pub fn svid(&self) -> &VerifiedX509Svid {
        &self.svid
    }
}
