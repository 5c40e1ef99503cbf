//! Leases together with the secrets that were lent.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::{Decision, Denial, Effect, EntryId, Grant, LeaseId, Leases, Purpose, Question, Used};
use crate::ciphertext::KeyId;
use crate::context::ContextDigest;

/// Keys of which it is remembered what is newest.
const MAX_NEWEST: usize = 4096;

/// [`Leases`] of one holder, and the secret of each. What is dropped here is erased when its last use is over.
///
/// It also keeps old versions out: once a version was granted for encryption, no lease of another version of the same key that was
/// decided earlier encrypts anything any more.
pub struct Held<S> {
    leases: Leases,
    secrets: HashMap<EntryId, Arc<S>>,
    /// Leases to encrypt with.
    encrypting: HashMap<EntryId, (KeyId, u32, LeaseId)>,
    newest: HashMap<KeyId, Newest>,
    returned: Vec<Effect>,
}

/// Which version a key encrypts with, and the log revision at which that was so.
#[derive(Clone, Copy, Debug)]
struct Newest {
    version: u32,
    revision: u64,
}

/// Whether a caller may go on, and with what.
#[derive(Debug)]
pub enum Use<S> {
    /// With this. It has been counted.
    Now(Arc<S>),
    /// An answer is on its way: ask again when something has changed.
    Wait,
    /// Not now.
    Refuse(Denial),
}

impl<S> Held<S> {
    /// Nothing is held.
    #[must_use]
    pub fn new() -> Self {
        Self {
            leases: Leases::new(),
            secrets: HashMap::new(),
            encrypting: HashMap::new(),
            newest: HashMap::new(),
            returned: Vec::new(),
        }
    }

    /// What can be told and asked directly.
    pub fn leases(&mut self) -> &mut Leases {
        &mut self.leases
    }

    /// Whether nothing is held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.secrets.is_empty()
    }

    /// As [`Leases::decide`], with the secret.
    pub fn decide(
        &mut self,
        key: &str,
        context: &ContextDigest,
        purpose: Purpose,
        bytes: u64,
        now: Duration,
    ) -> Use<S> {
        match self.leases.decide(key, context, purpose, bytes, now) {
            Decision::Use(id) => match self.secrets.get(&id) {
                Some(secret) => Use::Now(Arc::clone(secret)),
                None => Use::Wait,
            },
            Decision::Wait => Use::Wait,
            Decision::Refuse(denial) => Use::Refuse(denial),
        }
    }

    /// As [`Leases::granted`], with the secret, and the log revision at which the authority has decided. False: it was dropped.
    pub fn granted(
        &mut self,
        question: &Question,
        grant: Grant,
        revision: u64,
        secret: S,
        now: Duration,
    ) -> bool {
        let encrypts = question.want.purpose == Purpose::Encrypt;
        if encrypts && !self.learn(grant.key, grant.version, revision) {
            // Of a server that is behind, or that was overtaken on its way.
            self.leases.failed(question, now + Duration::from_secs(1));
            self.returned.push(Effect::Return(Used { lease: grant.lease, messages: 0, bytes: 0 }));
            return false;
        }
        let Some(id) = self.leases.granted(question, grant, now) else { return false };
        self.secrets.insert(id, Arc::new(secret));
        if encrypts {
            self.encrypting.insert(id, (grant.key, grant.version, grant.lease));
        }
        true
    }

    /// At this revision of the log, this version of the key encrypts. Ends leases of others to encrypt with. False: something newer
    /// is known, which says otherwise.
    pub fn learn(&mut self, key: KeyId, version: u32, revision: u64) -> bool {
        let known = self.newest.get(&key).copied();
        if known.is_some_and(|known| known.version != version && known.revision > revision) {
            return false;
        }
        if self.newest.len() >= MAX_NEWEST && known.is_none() {
            self.newest.clear();
        }
        let revision = known.map_or(revision, |known| known.revision.max(revision));
        self.newest.insert(key, Newest { version, revision });
        let others = self.encrypting.values().filter(|(of, other, _)| *of == key && *other != version);
        let others: Vec<LeaseId> = others.map(|(_, _, lease)| *lease).collect();
        others.into_iter().for_each(|lease| self.leases.ended(lease));
        self.forget();
        true
    }

    /// What is to be done since the last call, but for [`Effect::Drop`], which is done.
    pub fn effects(&mut self) -> Vec<Effect> {
        self.forget();
        std::mem::take(&mut self.returned)
    }

    /// Whether there is something to be done.
    #[must_use]
    pub fn has_effects(&self) -> bool {
        !self.returned.is_empty() || self.leases.has_effects()
    }

    fn forget(&mut self) {
        for effect in self.leases.effects() {
            match effect {
                Effect::Drop(id) => {
                    self.secrets.remove(&id);
                    self.encrypting.remove(&id);
                }
                other => self.returned.push(other),
            }
        }
    }
}

impl<S> Default for Held<S> {
    fn default() -> Self {
        Self::new()
    }
}

impl<S> fmt::Debug for Held<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Held").field("leases", &self.leases).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::context::Context;
    use crate::key::Local;
    use crate::lease::Terms;

    const NOW: Duration = Duration::from_secs(100);

    fn held() -> Held<&'static str> {
        let mut held = Held::new();
        held.leases().identity(Duration::from_secs(10_000));
        held.leases().connected(NOW);
        held
    }

    fn ask(held: &mut Held<&'static str>, key: &str, context: &Context) -> Option<Question> {
        assert!(matches!(held.decide(key, &context.digest(), Purpose::Encrypt, 10, NOW), Use::Wait));
        held.effects().into_iter().find_map(|effect| match effect {
            Effect::Ask(question) => Some(question),
            _ => None,
        })
    }

    fn grant(lease: u8, version: u32) -> Grant {
        let terms = Terms {
            ends: Duration::from_secs(400),
            renew_after: Duration::from_secs(300),
            messages: 100,
            bytes: 10_000,
            max_stale: Duration::from_secs(60),
        };
        let (lease, key) = (LeaseId::from_bytes([lease; 16]), KeyId::from_bytes([7; 16]));
        Grant { lease, key, version, local: Local::Process, terms }
    }

    fn secret(held: &mut Held<&'static str>, context: &Context) -> Option<&'static str> {
        match held.decide("k", &context.digest(), Purpose::Encrypt, 10, NOW) {
            Use::Now(secret) => Some(*secret),
            _ => None,
        }
    }

    #[test]
    fn a_newer_version_ends_what_encrypts_with_older_ones() {
        let mut held = held();
        let (one, two) = (Context::default(), Context::new([("a", "b")]).unwrap());
        let first = ask(&mut held, "k", &one).unwrap();
        assert!(held.granted(&first, grant(1, 1), 10, "old", NOW));
        assert_eq!(secret(&mut held, &one), Some("old"));
        let second = ask(&mut held, "k", &two).unwrap();
        assert!(held.granted(&second, grant(2, 2), 11, "new", NOW));
        assert_eq!(secret(&mut held, &two), Some("new"));
        let again = ask(&mut held, "k", &one).expect("the old one is gone");
        // The answer of a server that is behind.
        assert!(!held.granted(&again, grant(3, 1), 10, "old", NOW));
        assert_eq!(secret(&mut held, &one), None);
        let returned = held.effects();
        assert!(returned.iter().any(
            |effect| matches!(effect, Effect::Return(used) if used.lease == LeaseId::from_bytes([3; 16]))
        ));
        // Back to the first version, by an admin.
        assert!(held.learn(KeyId::from_bytes([7; 16]), 1, 12));
        assert_eq!(secret(&mut held, &two), None);
    }

    #[test]
    fn secrets_go_with_their_leases() {
        let mut held = held();
        let context = Context::default();
        let question = ask(&mut held, "k", &context).unwrap();
        held.granted(&question, grant(1, 1), 10, "secret", NOW);
        assert!(!held.is_empty());
        held.leases().ended(LeaseId::from_bytes([1; 16]));
        let effects = held.effects();
        assert!(matches!(effects.as_slice(), [Effect::Return(_)]), "{effects:?}");
        assert!(held.is_empty() && held.encrypting.is_empty());
    }
}
