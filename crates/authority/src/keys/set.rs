//! The keys in force at one moment.

use std::sync::Arc;

use bonafide_ca::lint::LintedTbs;
use bonafide_ca::rotation::{self, Slot};
use bonafide_ca::{CertificateAuthority, IssueError};
use bonafide_crypto::key::Signer;
use bonafide_identity::jwt::{self, JwtClaims};
use bonafide_identity::time::UnixTime;
use bonafide_identity::{BundleMap, Certificate};
use bytes::Bytes;

use super::{KeysError, Vault};
use crate::journal::hex;
use crate::records::{SigningKey, signing_key};
use crate::refusal::Refusal;
use crate::state::State;

/// What signs, and what it is judged by.
#[derive(Debug)]
pub(crate) struct KeySet {
    issuer: CertificateAuthority,
    /// DER of the intermediate and of what stands above it, without the root: sent behind each leaf.
    above: Vec<Bytes>,
    issuer_key_id: Vec<u8>,
    /// The records of issuer and root, by their IDs.
    signing: [String; 2],
    root: Certificate,
    jwt: Option<JwtKey>,
    bundles: Arc<BundleMap>,
}

/// The key that signs JWT-SVIDs.
#[derive(Clone, Debug)]
pub(crate) struct JwtKey {
    id: String,
    key: Arc<dyn Signer>,
}

impl KeySet {
    pub(super) fn open(state: &State, vault: &Vault, server: &str, now: UnixTime) -> Result<Self, KeysError> {
        vault.retain(state);
        let record = in_force(state, signing_key::Use::Intermediate, server, now)
            .ok_or(KeysError::Missing("intermediate"))?;
        let intermediate =
            Certificate::from_der(&record.certificate).map_err(bonafide_ca::IssueError::from)?;
        // Its own root, which need not be the active one: that may be a newer one.
        let (root, above) = of_use(state, signing_key::Use::Root, "")
            .filter(|root| root.state() != signing_key::State::Revoked)
            .filter_map(|root| Some((Certificate::from_der(&root.certificate).ok()?, &root.above)))
            .find(|(root, _)| root.subject_key_id() == intermediate.authority_key_id())
            .ok_or(KeysError::Missing("root"))?;
        let mut chain = vec![intermediate.clone()];
        if !root.is_self_issued() {
            chain.push(root.clone());
            for der in above {
                chain.push(Certificate::from_der(der).map_err(bonafide_ca::IssueError::from)?);
            }
        }
        let issuer = CertificateAuthority::new(chain, vault.open(record)?)?;
        let jwt = match in_force(state, signing_key::Use::Jwt, "", now) {
            Some(record) => Some(JwtKey { id: record.id.clone(), key: vault.open(record)? }),
            None => None,
        };
        let mut bundles = BundleMap::new();
        bundles.insert(Arc::clone(state.bundle()));
        let signing = [&intermediate, &root].map(|key| hex(key.subject_key_id().unwrap_or_default()));
        Ok(Self {
            signing,
            above: issuer.chain_der().into_iter().map(Bytes::copy_from_slice).collect(),
            issuer_key_id: intermediate.subject_key_id().unwrap_or_default().to_vec(),
            issuer,
            root,
            jwt,
            bundles: Arc::new(bundles),
        })
    }

    /// Whether the same keys sign, and are judged by the same.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        let jwt = |set: &Self| set.jwt.as_ref().map(|key| key.id.clone());
        self.signing == other.signing
            && self.above == other.above
            && jwt(self) == jwt(other)
            && self.bundles == other.bundles
    }

    /// Signs leaves.
    pub(crate) fn issuer(&self) -> &CertificateAuthority {
        &self.issuer
    }

    pub(crate) fn issuer_key_id(&self) -> &[u8] {
        &self.issuer_key_id
    }

    /// Whether what signs now may still sign in this state, which may be newer than this set. Asked for each certificate.
    pub(crate) fn may_issue(&self, state: &State) -> bool {
        self.signing.iter().all(|id| state.signing_key(id).is_some_and(|record| !is_stolen(record)))
    }

    /// The root above the issuer.
    pub(crate) fn root(&self) -> &Certificate {
        &self.root
    }

    /// What our own SVIDs are judged by.
    pub(crate) fn bundles(&self) -> &Arc<BundleMap> {
        &self.bundles
    }

    /// Signs a certificate: its chain, leaf first, without the root.
    pub(crate) fn sign(&self, linted: LintedTbs) -> Result<Vec<Bytes>, Refusal> {
        self.chain(self.issuer.issue(linted))
    }

    /// Signs certificates in one go, in their order, each as [`Self::sign`].
    pub(crate) fn sign_each(&self, linted: &[LintedTbs]) -> Vec<Result<Vec<Bytes>, Refusal>> {
        self.issuer.issue_each(linted).into_iter().map(|leaf| self.chain(leaf)).collect()
    }

    fn chain(&self, leaf: Result<Vec<u8>, IssueError>) -> Result<Vec<Bytes>, Refusal> {
        let leaf = leaf.map_err(|error| {
            tracing::error!(code = error.code(), "a certificate can't be signed: {error}");
            Refusal::unavailable("issuance.signer", "the authority's signing key can't be used")
                .hint("look at the authority's log")
        })?;
        let mut chain = Vec::with_capacity(1 + self.above.len());
        chain.push(Bytes::from(leaf));
        chain.extend(self.above.iter().cloned());
        Ok(chain)
    }

    /// Signs JWT-SVIDs that were decided on with this set: in one go, in their order.
    pub(crate) fn tokens(&self, claims: &[JwtClaims]) -> Vec<Result<String, Refusal>> {
        let Some(key) = self.jwt.as_ref().filter(|_| !claims.is_empty()) else {
            return claims.iter().map(|_| Err(no_jwt_key())).collect();
        };
        let all: Vec<&JwtClaims> = claims.iter().collect();
        let refused = |error: jwt::JwtError| {
            tracing::error!(code = error.code(), "a token can't be signed: {error}");
            Refusal::invalid(error.code(), error.to_string()).hint(error.hint())
        };
        let tokens = jwt::issue_each(&all, &*key.key, &key.id);
        tokens.into_iter().map(|token| token.map_err(refused)).collect()
    }

    /// Signs JWT-SVIDs, unless its key was stolen meanwhile.
    pub(crate) fn jwt(&self, state: &State) -> Result<&JwtKey, Refusal> {
        let may_sign = |key: &&JwtKey| {
            state.signing_key(&key.id).is_some_and(|record| {
                matches!(record.state(), signing_key::State::Active | signing_key::State::Old)
            })
        };
        self.jwt.as_ref().filter(may_sign).ok_or_else(no_jwt_key)
    }
}

fn no_jwt_key() -> Refusal {
    Refusal::unavailable("issuance.jwt-key", "the authority has no active JWT key")
        .hint("it is made within a moment; look at the authority's log if not")
}

impl JwtKey {
    pub(crate) fn id(&self) -> &str {
        &self.id
    }
}

/// Keys of one use; of one server, where it has keys of its own.
pub(super) fn of_use<'a>(
    state: &'a State,
    usage: signing_key::Use,
    server: &'a str,
) -> impl Iterator<Item = &'a Arc<SigningKey>> {
    state.signing_keys().filter(move |key| key.r#use() == usage && key.server == server)
}

/// The record of the key that signs now.
pub(super) fn in_force<'a>(
    state: &'a State,
    usage: signing_key::Use,
    server: &'a str,
    now: UnixTime,
) -> Option<&'a Arc<SigningKey>> {
    let slots: Vec<Slot> = of_use(state, usage, server).filter_map(|key| slot(state, key)).collect();
    state.signing_key(&rotation::signing(&slots, now)?.id)
}

/// Whether the key stands under a root that was stolen: then it vouches for nobody, whatever its own state.
fn is_under_stolen_root(state: &State, key: &SigningKey) -> bool {
    if key.r#use() != signing_key::Use::Intermediate {
        return false;
    }
    let root = root_of(key).and_then(|root| state.signing_key(&root));
    root.is_none_or(|root| is_stolen(root))
}

/// The ID of the root that has signed an intermediate.
fn root_of(key: &SigningKey) -> Option<String> {
    let certificate = Certificate::from_der(&key.certificate).ok()?;
    certificate.authority_key_id().map(hex)
}

/// Whether the intermediate was signed by the root of this ID.
pub(super) fn is_under(intermediate: &SigningKey, root: &str) -> bool {
    root_of(intermediate).is_some_and(|id| id == root)
}

/// It vouches for nobody any more.
fn is_stolen(key: &SigningKey) -> bool {
    matches!(key.state(), signing_key::State::Tainted | signing_key::State::Revoked)
}

/// A record as the rotation sees it; none for one that is in no state.
pub(super) fn slot(state: &State, key: &SigningKey) -> Option<Slot> {
    // Its life is over, so that another one takes its place at once.
    let not_after =
        if is_under_stolen_root(state, key) { UnixTime::EPOCH } else { UnixTime::from_secs(key.not_after) };
    Some(Slot {
        id: key.id.clone(),
        state: match key.state() {
            signing_key::State::Unspecified => return None,
            signing_key::State::Prepared => rotation::State::Prepared,
            signing_key::State::Active => rotation::State::Active,
            signing_key::State::Old => rotation::State::Old,
            signing_key::State::Tainted => rotation::State::Tainted,
            signing_key::State::Revoked => rotation::State::Revoked,
        },
        state_since: UnixTime::from_secs(key.state_since),
        not_before: UnixTime::from_secs(key.not_before),
        not_after,
        published_revision: key.published_revision,
        held: key.held,
    })
}
