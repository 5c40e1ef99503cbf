//! Changes of what signs. Whoever may order them could also read the keys: only the local socket may.

use std::time::Duration;

use bonafide_ca::rotation::Order;
use bonafide_wire::admin::{
    ChangeAuthorityRequest, ChangeAuthorityResponse, ListAuthoritiesRequest, ListAuthoritiesResponse,
    PrepareAuthorityRequest, SigningAuthority, signing_authority::Kind,
};

use bonafide_crypto::key::{PublicKey, PublicKeyAlgorithm};

use super::{Admin, Caller, Rights};
use crate::keys::{Family, Ordered, Rotation, state_of};
use crate::records::{SigningKey, signing_key};
use crate::refusal::Refusal;
use crate::state::State;

/// Longest wait for agents.
const MAX_WAIT: Duration = Duration::from_secs(300);
/// Longest ID of an authority.
const MAX_ID: usize = 256;
/// Agents that an answer names.
const MAX_BEHIND: usize = 100;

impl Admin {
    /// Roots, intermediates and JWT keys, without anything private.
    ///
    /// # Errors
    /// A caller without rights.
    pub fn list_authorities(
        &self,
        caller: &Caller,
        _: &ListAuthoritiesRequest,
    ) -> Result<ListAuthoritiesResponse, Refusal> {
        let (state, _) = self.reader(caller)?;
        let keys = state.signing_keys();
        let authorities = keys.filter_map(|key| describe(key, self.rotation.as_ref(), &state)).collect();
        Ok(ListAuthoritiesResponse { authorities })
    }

    /// A new key that is published, and waits to be activated.
    ///
    /// # Errors
    /// A caller who is not local, or more keys than a bundle may have.
    pub async fn prepare_authority(
        &self,
        caller: &Caller,
        request: PrepareAuthorityRequest,
    ) -> Result<ChangeAuthorityResponse, Refusal> {
        let (rotation, actor) = self.operator(caller)?;
        let family = match request.kind() {
            Kind::Root => Family::Root,
            Kind::Intermediate => Family::Intermediate,
            Kind::Jwt => Family::Jwt,
            Kind::Unspecified => {
                return Err(Refusal::invalid("ca.kind", "the kind of the key is missing")
                    .hint("name root, intermediate or jwt"));
            }
        };
        self.answer(rotation.prepare(&actor, family).await?)
    }

    /// A prepared key signs from now on; once agents know it.
    ///
    /// # Errors
    /// A caller who is not local; see [`bonafide_ca::rotation::OrderError`].
    pub async fn activate_authority(
        &self,
        caller: &Caller,
        request: ChangeAuthorityRequest,
    ) -> Result<ChangeAuthorityResponse, Refusal> {
        self.change(caller, request, |id, force| Order::Activate { id, force }).await
    }

    /// A key never signs again, and what it signed is renewed now.
    ///
    /// # Errors
    /// As [`Self::activate_authority`].
    pub async fn taint_authority(
        &self,
        caller: &Caller,
        request: ChangeAuthorityRequest,
    ) -> Result<ChangeAuthorityResponse, Refusal> {
        self.change(caller, request, |id, force| Order::Taint { id, force }).await
    }

    /// A key is believed by nobody any more; once what it signed was renewed.
    ///
    /// # Errors
    /// As [`Self::activate_authority`].
    pub async fn revoke_authority(
        &self,
        caller: &Caller,
        request: ChangeAuthorityRequest,
    ) -> Result<ChangeAuthorityResponse, Refusal> {
        self.change(caller, request, |id, force| Order::Revoke { id, force }).await
    }

    async fn change(
        &self,
        caller: &Caller,
        request: ChangeAuthorityRequest,
        order: impl FnOnce(String, bool) -> Order,
    ) -> Result<ChangeAuthorityResponse, Refusal> {
        let (rotation, actor) = self.operator(caller)?;
        let ChangeAuthorityRequest { id, force, wait } = request;
        if id.is_empty() || id.len() > MAX_ID {
            return Err(Refusal::invalid("ca.id", "the ID of an authority has 1 to 256 characters")
                .hint("name it as `bonafide ca show` shows it"));
        }
        let wait = Duration::from_secs(wait.into());
        if wait > MAX_WAIT {
            return Err(Refusal::invalid("wait.timeout", "a wait lasts five minutes at most")
                .hint("ask again afterwards"));
        }
        self.answer(rotation.order(&actor, order(id, force), wait).await?)
    }

    fn operator(&self, caller: &Caller) -> Result<(&Rotation, String), Refusal> {
        let (state, rights) = self.reader(caller)?;
        drop(state);
        let (Rights::All, Caller::Local { uid }) = (rights, caller) else {
            return Err(Refusal::denied(
                "admin.local-only",
                "what signs can only be changed on the server itself",
            )
            .hint("run the command on the server, as root or as a member of its admin group"));
        };
        let rotation = self.rotation.as_ref().ok_or_else(|| {
            Refusal::unavailable("admin.no-keys", "this server has no keys of its own")
                .hint("ask a server of the trust domain")
        })?;
        Ok((rotation, format!("local uid {uid}")))
    }

    fn answer(&self, ordered: Ordered) -> Result<ChangeAuthorityResponse, Refusal> {
        let state = self.registry.state();
        Ok(ChangeAuthorityResponse {
            authority: describe(&ordered.authority, self.rotation.as_ref(), &state),
            revision: ordered.revision,
            behind: ordered.behind.iter().take(MAX_BEHIND).map(ToString::to_string).collect(),
        })
    }
}

/// `None` for the ledger's own key, which vouches for no identity.
fn describe(key: &SigningKey, rotation: Option<&Rotation>, state: &State) -> Option<SigningAuthority> {
    let kind = match key.r#use() {
        signing_key::Use::Root => Kind::Root,
        signing_key::Use::Intermediate => Kind::Intermediate,
        signing_key::Use::Jwt => Kind::Jwt,
        signing_key::Use::Ledger | signing_key::Use::Unspecified => return None,
    };
    let algorithm = PublicKey::from_spki_der(&key.public_key).map(|key| algorithm_name(key.algorithm()));
    let (agents, missing) = rotation.map_or((0, 0), |rotation| rotation.progress(state, key));
    let count = |agents: usize| u32::try_from(agents).unwrap_or(u32::MAX);
    Some(SigningAuthority {
        kind: kind.into(),
        id: key.id.clone(),
        state: state_of(key).to_owned(),
        not_before: key.not_before,
        not_after: key.not_after,
        algorithm: algorithm.unwrap_or_default(),
        certificate: key.certificate.clone(),
        server: key.server.clone(),
        held: key.held,
        published_revision: key.published_revision,
        agents: count(agents),
        agents_missing: count(missing),
    })
}

fn algorithm_name(algorithm: PublicKeyAlgorithm) -> String {
    match algorithm {
        PublicKeyAlgorithm::EcP256 => "ec-p256".to_owned(),
        PublicKeyAlgorithm::EcP384 => "ec-p384".to_owned(),
        PublicKeyAlgorithm::EcP521 => "ec-p521".to_owned(),
        PublicKeyAlgorithm::Ed25519 => "ed25519".to_owned(),
        PublicKeyAlgorithm::Rsa { bits } => format!("rsa-{bits}"),
    }
}
