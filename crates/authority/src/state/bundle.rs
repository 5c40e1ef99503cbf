//! The trust bundle that the published signing keys make.

use std::sync::Arc;

use bonafide_crypto::key::PublicKey;
use bonafide_identity::{
    Certificate, TrustDomain,
    bundle::{TaintedKey, TrustBundle},
};

use crate::records::{
    SigningKey,
    signing_key::{State as KeyState, Use},
};

/// Every root and JWT key that is not revoked: a prepared one is published before its use, and an old or tainted one
/// until nothing that it signed is alive. Intermediates travel in chains, never in the bundle; but tainted ones are named
/// beside it, as are revoked ones, for agents that were away when they were tainted.
#[must_use]
pub fn bundle_of<'a>(
    trust_domain: &TrustDomain,
    keys: impl IntoIterator<Item = &'a Arc<SigningKey>>,
    sequence: u64,
) -> TrustBundle {
    let mut bundle = TrustBundle::new(trust_domain.clone()).with_sequence(sequence);
    for key in keys {
        if matches!(key.state(), KeyState::Tainted | KeyState::Revoked)
            && let Some(tainted) = tainted(key)
        {
            bundle = bundle.with_tainted(tainted);
        }
        match key.r#use() {
            _ if key.state() == KeyState::Revoked => {}
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

/// What others know the key by.
fn tainted(key: &SigningKey) -> Option<TaintedKey> {
    let renew_within = key.renew_within;
    match key.r#use() {
        Use::Root | Use::Intermediate => {
            // Not of the key: an upstream CA has an identifier of another form.
            let certificate = Certificate::from_der(&key.certificate).ok()?;
            Some(TaintedKey { key_id: certificate.subject_key_id()?.into(), is_jwt: false, renew_within })
        }
        Use::Jwt => Some(TaintedKey { key_id: key.id.as_bytes().into(), is_jwt: true, renew_within }),
        Use::Ledger | Use::Unspecified => None,
    }
}
