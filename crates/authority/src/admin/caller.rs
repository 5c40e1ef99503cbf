//! Who calls the admin API, and what that caller may touch *now*.

use std::collections::BTreeSet;

use bonafide_attest::SelectorSet;
use bonafide_identity::{
    Certificate, InstanceId, SpiffeId, reserved, time::UnixTime, x509::VerifiedX509Svid,
};
use bonafide_net::{tls_listener::PeerSvid, unix};
use bonafide_policy::CertifiedLabels;
use tonic::{Code, Extensions};

use crate::{
    issuance::AGENT_KEY,
    refusal::Refusal,
    registration::admitted_agent,
    state::{SiteState, State},
};

/// Who may administer through the local socket.
#[derive(Clone, Copy, Debug)]
pub struct LocalAdmins {
    /// The server's own user, which can read all of its files anyway.
    pub own_uid: u32,
    /// A group beside root.
    pub gid: Option<u32>,
}

/// Who calls, as kernel or TLS have proved it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "there is one for each call, and it is not kept")]
pub enum Caller {
    /// On the local socket, and allowed there: everything.
    Local {
        /// For the log.
        uid: u32,
    },
    /// By mutual TLS, with an SVID that carries admin rights.
    Peer(CertifiedAdmin),
}

/// What a verified certificate says of an admin. Never enough by itself: see [`Caller::rights`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertifiedAdmin {
    /// The certificate's SPIFFE ID.
    pub id: SpiffeId,
    /// The site whose evidence earned it.
    pub site: String,
    /// The launch that it was issued to, and from when on it is valid: it may be revoked.
    pub instance: Option<InstanceId>,
    /// See `instance`.
    pub issued_at: UnixTime,
    /// The registration that it was issued for.
    pub registration: String,
    /// The agent that asked for it.
    pub agent: SpiffeId,
    /// What the registration asked of the workload when it was issued.
    pub selectors: SelectorSet,
    /// What was certified of the workload.
    pub labels: CertifiedLabels,
    /// The sites that it says may be administered.
    pub admin: BTreeSet<String>,
    /// What it was verified by, the leaf's issuer first and the root last: one may be revoked since.
    pub authorities: Vec<Certificate>,
    /// Its end: a connection may outlive it.
    pub expires_at: UnixTime,
}

/// What a caller may see and touch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Rights {
    /// Every site, and the sites themselves.
    All,
    /// These sites' registrations, tokens and agents.
    Sites(BTreeSet<String>),
}

impl Caller {
    /// The caller of a request, from what the listeners left in its extensions.
    ///
    /// # Errors
    /// `admin.unauthenticated` for nobody, `admin.not-admin` for somebody else.
    pub fn of(extensions: &Extensions, local: LocalAdmins) -> Result<Self, Refusal> {
        if let Some(caller) = extensions.get::<unix::Caller>() {
            let admitted = caller.uid == 0
                || caller.uid == local.own_uid
                || local.gid.is_some_and(|gid| gid == caller.gid);
            if !admitted {
                return Err(Refusal::denied(
                    "admin.not-admin",
                    format!("user {} may not administer this server", caller.uid),
                )
                .hint("run the command as root, or as a member of the server's admin group"));
            }
            return Ok(Self::Local { uid: caller.uid });
        }
        match extensions.get::<PeerSvid>() {
            Some(PeerSvid(Some(svid))) => CertifiedAdmin::of(svid).map(Self::Peer).ok_or_else(not_admin),
            _ => Err(Refusal::new(Code::Unauthenticated, "admin.unauthenticated", "the caller is not known")
                .hint("use the server's local socket, or an SVID that carries admin rights")),
        }
    }

    /// Tells callers apart, for idempotency keys.
    pub(crate) fn name(&self) -> String {
        match self {
            // Whoever may use the local socket is the same admin.
            Self::Local { .. } => "local".to_owned(),
            Self::Peer(peer) => peer.id.to_string(),
        }
    }

    /// What the caller may do in this state. A certificate is believed only as far as its registration and its site's
    /// scope still say the same, so that both take rights away at once.
    ///
    /// # Errors
    /// `admin.not-admin` if nothing is left.
    pub(crate) fn rights(&self, state: &State, now: UnixTime) -> Result<Rights, Refusal> {
        match self {
            Self::Local { .. } => Ok(Rights::All),
            Self::Peer(peer) => {
                let sites = peer.still_granted(state, now);
                if sites.is_empty() { Err(not_admin()) } else { Ok(Rights::Sites(sites)) }
            }
        }
    }
}

impl CertifiedAdmin {
    /// `None` for a certificate without admin rights.
    fn of(svid: &VerifiedX509Svid) -> Option<Self> {
        let attributes = svid.attributes()?;
        let admin: BTreeSet<String> = attributes
            .admin()
            .filter_map(|(_, value)| std::str::from_utf8(value).ok())
            .map(ToOwned::to_owned)
            .collect();
        if admin.is_empty() {
            return None;
        }
        let agent = attributes.evidence().find(|(key, _)| *key == AGENT_KEY)?.1;
        let selectors =
            attributes.selectors().map(|(key, value)| Some((key, std::str::from_utf8(value).ok()?)));
        Some(Self {
            id: svid.id().clone(),
            site: attributes.site()?.to_owned(),
            instance: attributes.instance,
            issued_at: svid.leaf().not_before(),
            registration: attributes.registration()?.to_owned(),
            agent: SpiffeId::new(svid.id().trust_domain(), std::str::from_utf8(agent).ok()?).ok()?,
            selectors: SelectorSet::from_pairs(selectors.collect::<Option<Vec<_>>>()?).ok()?,
            labels: CertifiedLabels::of(attributes).ok()?,
            admin,
            authorities: svid.authorities().to_vec(),
            expires_at: svid.not_after(),
        })
    }

    /// The sites that certificate, registration and scope all name: what the same launch would be certified today.
    fn still_granted(&self, state: &State, now: UnixTime) -> BTreeSet<String> {
        let granted = || {
            let registration = state.registration(&self.registration)?;
            let site = state.site(&self.site).and_then(SiteState::site)?;
            let agent = admitted_agent(state, &self.agent).ok()?;
            let revoked = state.revocations().of_token(&self.id, self.instance, Some(self.issued_at));
            let stands = now < self.expires_at
                && state.vouches(&self.authorities)
                && revoked.is_none()
                && !state.is_quarantined(&self.site)
                && registration.site == self.site
                && agent.site == self.site
                && registration.parent.as_ref().is_none_or(|parent| *parent == self.agent)
                && registration.selectors.is_subset_of(&self.selectors)
                && !registration.is_expired(now)
                && registration.can_yield(&self.id)
                && self.id.trust_domain() == state.trust_domain()
                && !reserved::is_reserved(&self.id)
                && site.scope.spiffe_ids.iter().any(|pattern| pattern.matches(&self.id));
            stands.then(|| {
                let named =
                    |name: &&String| registration.admin.contains(name) && site.scope.admin.contains(*name);
                self.admin.iter().filter(named).cloned().collect()
            })
        };
        granted().unwrap_or_default()
    }
}

impl Rights {
    /// Whether everything of this site may be seen.
    pub(crate) fn sees(&self, site: &str) -> bool {
        match self {
            Self::All => true,
            Self::Sites(sites) => sites.contains(site),
        }
    }

    /// # Errors
    /// `admin.other-site`, in the same words whether the site exists or not.
    pub(crate) fn of_site(&self, site: &str) -> Result<(), Refusal> {
        if self.sees(site) {
            return Ok(());
        }
        Err(Refusal::denied("admin.other-site", format!("the caller may not administer the site `{site}`"))
            .hint("ask an operator for admin rights on it"))
    }

    /// # Errors
    /// `admin.local-only`: a scope bounds its own admins, so they can't change it.
    pub(crate) fn everything(&self) -> Result<(), Refusal> {
        match self {
            Self::All => Ok(()),
            Self::Sites(_) => {
                Err(Refusal::denied("admin.local-only", "sites are managed on the server's local socket")
                    .hint("ask an operator of the server"))
            }
        }
    }
}

fn not_admin() -> Refusal {
    Refusal::denied(
        "admin.not-admin",
        "the caller's SVID grants no admin rights, or its registration no longer does",
    )
    .hint("register the caller with admin rights on a site, within its own site's scope")
}
