//! The server's own SVID: it presents it to agents, with the root behind it, so that a node that knows nothing but the
//! root's hash can verify it.

use std::sync::Arc;
use std::time::Duration;

use bonafide_ca::lint::lint;
use bonafide_ca::template::{self, NodeLeaf};
use bonafide_crypto::digest::sha256;
use bonafide_crypto::key::{KeyAlgorithm, PrivateKey};
use bonafide_crypto::random::Random;
use bonafide_identity::attributes::Attributes;
use bonafide_identity::time::{Clock, UnixTime};
use bonafide_identity::{Certificate, DnsName, TrustDomain, X509Svid, reserved};
use bonafide_net::drain::Shutdown;
use bonafide_tls::IdentitySlot;
use bytes::Bytes;

use crate::config::Lifetimes;
use crate::entry::{self, entry::Kind};
use crate::issuance::{Dates, dates};
use crate::journal::Journal;
use crate::keys::{KeySet, Keys, KeysError};
use crate::refusal::Refusal;

/// Between two attempts that failed.
const RETRY: Duration = Duration::from_secs(5);
/// Looks at the clock at least this often.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// Issues and renews the server's SVID.
#[derive(Debug)]
pub(crate) struct ServerIdentity {
    pub(crate) keys: Arc<Keys>,
    pub(crate) journal: Arc<Journal>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) random: Arc<dyn Random>,
    pub(crate) slot: Arc<IdentitySlot>,
    pub(crate) trust_domain: TrustDomain,
    pub(crate) server: String,
    pub(crate) lifetimes: Lifetimes,
    pub(crate) dns_names: Vec<DnsName>,
}

impl ServerIdentity {
    /// Issues an SVID with a fresh key and presents it; says when to do it again.
    pub(crate) async fn renew(&self) -> Result<UnixTime, KeysError> {
        let keys = self.keys.current();
        let key = PrivateKey::generate(KeyAlgorithm::EcP256)?;
        let id = reserved::authority_id(&self.trust_domain, &self.server)
            .map_err(|error| Refusal::invalid(error.code(), error.to_string()))?;
        let now = self.clock.now();
        let backdate = self.lifetimes.backdate.as_duration();
        let lifetime = self.lifetimes.server.as_duration();
        let Dates { validity, serial, renew_after } = dates(&keys, &*self.random, backdate, lifetime, now)?;
        let attributes = Attributes::default()
            .encode()
            .map_err(|error| Refusal::invalid(error.code(), error.to_string()).hint(error.hint()))?;
        let leaf = NodeLeaf {
            id: id.clone(),
            public_key: key.public_key().clone(),
            dns_names: self.dns_names.clone(),
            attributes,
            validity,
            serial,
        };
        let issuer = keys.issuer().certificate();
        let tbs = template::authority(leaf, issuer)
            .map_err(|error| Refusal::invalid(error.code(), error.to_string()).hint(error.hint()))?;
        let linted = lint(&tbs, issuer).map_err(bonafide_ca::IssueError::from)?;
        let entry = entry::ServerSvid {
            serial: Bytes::copy_from_slice(serial.as_bytes()),
            tbs_sha256: Bytes::copy_from_slice(&sha256(linted.der())),
            spiffe_id: id.to_string(),
            not_after: validity.not_after().as_secs(),
            key_id: Bytes::copy_from_slice(&key.public_key().key_id()),
            issuer_key_id: Bytes::copy_from_slice(keys.issuer_key_id()),
        };
        self.journal.append(now, vec![Kind::ServerSvid(entry)]).await?;
        self.slot.set(&svid(&keys, keys.sign(linted)?, key)?);
        Ok(renew_after)
    }

    pub(crate) async fn run(self, mut renew_after: UnixTime, shutdown: Shutdown) {
        let mut changes = self.keys.changes();
        let mut issuer = self.keys.current().issuer_key_id().to_vec();
        loop {
            let pause = renew_after.since(self.clock.now()).clamp(Duration::from_millis(200), LOOK_EVERY);
            tokio::select! {
                biased;
                () = shutdown.triggered() => return,
                () = tokio::time::sleep(pause) => {}
                Ok(()) = changes.changed() => {}
            }
            let current = self.keys.current().issuer_key_id().to_vec();
            if current == issuer && self.clock.now() < renew_after {
                continue;
            }
            match self.renew().await {
                Ok(next) => (renew_after, issuer) = (next, current),
                Err(error) => {
                    tracing::error!(code = error.code(), "the server's own SVID can't be renewed: {error}");
                    renew_after = self.clock.now().saturating_add(RETRY);
                    issuer = current;
                }
            }
        }
    }
}

fn svid(keys: &KeySet, chain: Vec<Bytes>, key: PrivateKey) -> Result<X509Svid, KeysError> {
    let mut certificates = Vec::with_capacity(chain.len() + 1);
    for der in chain {
        certificates.push(Certificate::from_der(&der).map_err(bonafide_ca::IssueError::from)?);
    }
    // A chain to an upstream root has it already.
    if !certificates.contains(keys.root()) {
        certificates.push(keys.root().clone());
    }
    let svid = X509Svid::new(certificates, key, None)
        .map_err(|error| Refusal::new(tonic::Code::Internal, error.code(), error.to_string()))?;
    Ok(svid)
}
