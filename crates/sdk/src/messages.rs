//! From messages of the Workload API to verified types. Each message is the full state (SPIFFE Workload API §5.2.1).

use bonafide_crypto::key::PrivateKey;
use bonafide_identity::{
    BundleMap, Certificate, SpiffeId, TrustBundle, TrustDomain, X509Svid, x509::MAX_CHAIN_LENGTH,
};
use bonafide_wire::workload::{JwtBundlesResponse, X509svid, X509svidResponse};

use crate::Error;

/// Generous bounds of one message.
const MAX_SVIDS: usize = 128;
const MAX_AUTHORITIES: usize = 128;
const MAX_BUNDLES: usize = 4096;

/// The full state of a workload.
#[derive(Debug, Default)]
pub(crate) struct X509State {
    /// The default identity first. At least one, unless all were withdrawn.
    pub(crate) svids: Vec<X509Svid>,
    pub(crate) bundles: BundleMap,
}

pub(crate) fn x509_state(response: &X509svidResponse) -> Result<X509State, Error> {
    if response.svids.is_empty() || response.svids.len() > MAX_SVIDS {
        return Err(Error::Answer(format!("it holds {} SVIDs", response.svids.len())));
    }
    if response.federated_bundles.len() > MAX_BUNDLES {
        return Err(Error::Answer("it holds too many bundles".to_owned()));
    }
    let mut bundles = BundleMap::new();
    for (name, der) in &response.federated_bundles {
        // One foreign bundle that is broken must not cost us our own identity.
        match trust_domain(name).and_then(|trust_domain| x509_bundle(trust_domain, der)) {
            Ok(bundle) => drop(bundles.insert(bundle)),
            Err(error) => {
                tracing::warn!(trust_domain = name, code = error.code(), %error, "ignored a bundle")
            }
        }
    }
    let mut svids = Vec::with_capacity(response.svids.len());
    for message in &response.svids {
        let svid = x509_svid(message)?;
        bundles.insert(x509_bundle(svid.id().trust_domain().clone(), &message.bundle)?);
        svids.push(svid);
    }
    Ok(X509State { svids, bundles })
}

fn x509_svid(message: &X509svid) -> Result<X509Svid, Error> {
    let chain = Certificate::many_from_der(&message.x509_svid, MAX_CHAIN_LENGTH).map_err(answer)?;
    let key = PrivateKey::from_pkcs8_der(&message.x509_svid_key).map_err(answer)?;
    let svid = X509Svid::new(chain, key, Some(message.hint.clone())).map_err(answer)?;
    if svid.id().as_str() != message.spiffe_id {
        return Err(Error::Answer(format!(
            "`{}` comes with a certificate of `{}`",
            message.spiffe_id,
            svid.id()
        )));
    }
    Ok(svid)
}

fn x509_bundle(trust_domain: TrustDomain, der: &[u8]) -> Result<TrustBundle, Error> {
    let (authorities, skipped) = Certificate::authorities_from_der(der, MAX_AUTHORITIES).map_err(answer)?;
    for error in skipped {
        tracing::error!(%trust_domain, code = error.code(), %error, "left out an authority of a bundle");
    }
    Ok(authorities.into_iter().fold(TrustBundle::new(trust_domain), TrustBundle::with_x509_authority))
}

pub(crate) fn jwt_bundles(response: &JwtBundlesResponse) -> Result<BundleMap, Error> {
    if response.bundles.len() > MAX_BUNDLES {
        return Err(Error::Answer("it holds too many bundles".to_owned()));
    }
    let mut bundles = BundleMap::new();
    for (name, json) in &response.bundles {
        let parsed = trust_domain(name)
            .and_then(|trust_domain| TrustBundle::parse_jwt_set(&trust_domain, json).map_err(Error::from));
        match parsed {
            Ok(bundle) => {
                for error in bundle.skipped() {
                    tracing::error!(trust_domain = name, code = error.code(), %error, "left out a key of a bundle");
                }
                drop(bundles.insert(bundle));
            }
            Err(error) => {
                tracing::warn!(trust_domain = name, code = error.code(), %error, "ignored a bundle")
            }
        }
    }
    Ok(bundles)
}

/// Maps of the Workload API are keyed by the SPIFFE ID of the trust domain: `spiffe://td`.
fn trust_domain(id: &str) -> Result<TrustDomain, Error> {
    let id: SpiffeId = id.parse().map_err(answer)?;
    if !id.path().is_empty() {
        return Err(Error::Answer(format!("`{id}` is not the ID of a trust domain")));
    }
    Ok(id.trust_domain().clone())
}

fn answer(error: impl std::error::Error) -> Error {
    Error::Answer(error.to_string())
}
