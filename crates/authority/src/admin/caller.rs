//! Who calls the admin API, and what that caller may touch *now*.

use std::collections::BTreeSet;

use bonafide_identity::time::UnixTime;
use bonafide_net::{tls_listener::PeerSvid, unix};
use tonic::{Code, Extensions};

use crate::{certified::Certified, refusal::Refusal, state::State};

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
    Peer(Certified),
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
            Some(PeerSvid(Some(svid))) => Certified::of(svid)
                .filter(|certified| !certified.admin.is_empty())
                .map(Self::Peer)
                .ok_or_else(not_admin),
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
                let sites = still_granted(peer, state, now);
                if sites.is_empty() { Err(not_admin()) } else { Ok(Rights::Sites(sites)) }
            }
        }
    }
}

/// The sites that certificate, registration and scope all name: what the same launch would be certified today.
fn still_granted(peer: &Certified, state: &State, now: UnixTime) -> BTreeSet<String> {
    let Some(standing) = peer.standing(state, now) else { return BTreeSet::new() };
    let named = |name: &&String| standing.registration.admin.contains(name) && standing.admin.contains(*name);
    peer.admin.iter().filter(named).cloned().collect()
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
