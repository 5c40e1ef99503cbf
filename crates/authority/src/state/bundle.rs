//! The trust bundle that the published signing keys make.

use std::sync::Arc;

use bonafide_crypto::key::PublicKey;
use bonafide_identity::{Certificate, TrustDomain, bundle::TrustBundle};

use crate::records::{SigningKey, signing_key::Use};

/// Every root and JWT key, whatever its state: a prepared one is published before its use, and an old one until
/// nothing that it signed is alive. Intermediates travel in chains, never in the bundle.
#[must_use]
pub fn bundle_of<'a>(
    trust_domain: &TrustDomain,
    keys: impl IntoIterator<Item = &'a Arc<SigningKey>>,
    sequence: u64,
) -> TrustBundle {
    let mut bundle = TrustBundle::new(trust_domain.clone()).with_sequence(sequence);
    for key in keys {
        match key.r#use() {
            Use::Root => match Certificate::from_der(&key.certificate) {
                Ok(certificate) => bundle = bundle.with_x509_authority(certificate),
                Err(error) => tracing::error!(key = key.id, "a root in the store can't be read: {error}"),
            },
            Use::Jwt => match PublicKey::from_spki_der(&key.public_key) {
                Ok(public) => bundle = bundle.with_jwt_authority(&key.id, public),
                Err(error) => tracing::error!(key = key.id, "a JWT key in the store can't be read: {error}"),
            },
            _ => (),
        }
    }
    bundle
}
