//! JWT-SVIDs: minted by the authority, remembered until half of their life is over.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bonafide_identity::{InstanceId, JwtSvid, SpiffeId, jwt, time::UnixTime};

use super::{Api, Caller};
use crate::{core::IdentityState, refusal::Refusal};

/// An authority that hangs must not hang its workloads.
const ANSWER_TIME: Duration = Duration::from_secs(1);
const MAX_AUDIENCES: usize = 16;
const MAX_AUDIENCE: usize = 255;

/// Tokens by everything that is in them.
#[derive(Debug)]
pub(super) struct Cache {
    limit: usize,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    entries: HashMap<Key, Entry>,
    /// The keys of each user, oldest first.
    order: BTreeMap<u32, VecDeque<Key>>,
}

#[derive(Clone, Debug, Eq, Hash, PartialEq)]
struct Key {
    registration: String,
    revision: u64,
    spiffe_id: SpiffeId,
    instance: Option<InstanceId>,
    launch: crate::core::LaunchKey,
    audience: Vec<String>,
}

#[derive(Clone)]
struct Entry {
    token: String,
    fresh_until: UnixTime,
    expires_at: UnixTime,
    /// Of the key that has signed it.
    key_id: Option<String>,
}

impl std::fmt::Debug for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Entry").field("expires_at", &self.expires_at).finish_non_exhaustive()
    }
}

/// Checks an audience. Order and repetition don't matter.
pub(super) fn audience(asked: &[String]) -> Result<Vec<String>, Refusal> {
    if asked.is_empty() {
        return Err(Refusal::invalid("request.audience", "`audience` is missing"));
    }
    let fits = |each: &String| !each.is_empty() && each.len() <= MAX_AUDIENCE;
    if asked.len() > MAX_AUDIENCES || !asked.iter().all(fits) {
        let message = format!("`audience` has up to {MAX_AUDIENCES} values of 1 to {MAX_AUDIENCE} bytes");
        return Err(Refusal::invalid("request.audience", message));
    }
    Ok(asked.iter().cloned().collect::<BTreeSet<_>>().into_iter().collect())
}

impl Cache {
    pub(super) fn new(limit: usize) -> Self {
        Self { limit: limit.max(1), inner: Mutex::default() }
    }

    fn get(&self, key: &Key, now: UnixTime) -> Option<Entry> {
        self.lock().entries.get(key).filter(|entry| entry.expires_at > now).cloned()
    }

    /// Remembers a token of user `uid`. Who has more than half of the room, or most when it is full, makes room.
    fn put(&self, uid: u32, key: Key, entry: Entry) {
        let mut inner = self.lock();
        let Inner { entries, order } = &mut *inner;
        if entries.insert(key.clone(), entry).is_some() {
            return;
        }
        let own = order.entry(uid).or_default();
        own.push_back(key);
        let payer = if own.len() > self.limit.div_ceil(2) {
            Some(uid)
        } else if entries.len() > self.limit {
            order.iter().max_by_key(|(_, keys)| keys.len()).map(|(uid, _)| *uid)
        } else {
            None
        };
        let Some(payer) = payer else { return };
        let Some(keys) = order.get_mut(&payer) else { return };
        if let Some(oldest) = keys.pop_front() {
            entries.remove(&oldest);
        }
        if keys.is_empty() {
            order.remove(&payer);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Api {
    /// A token for one identity of the caller. One that is half through is served as long as the authority
    /// has no newer one.
    pub(super) async fn jwt(
        &self,
        caller: &Caller,
        identity: &IdentityState,
        audience: &[String],
    ) -> Result<String, Refusal> {
        let Some(spiffe_id) = identity.spiffe_id.clone() else { return Err(Refusal::other_identity()) };
        if let Some(problem) = identity.problem.as_ref().filter(|_| identity.is_withheld) {
            return Err(Refusal::of_authority(problem, false));
        }
        let instance = identity.held.as_ref().map(|held| held.instance);
        let key = Key {
            registration: identity.registration.id.clone(),
            revision: identity.registration.revision,
            spiffe_id,
            instance,
            launch: caller.key,
            audience: audience.to_vec(),
        };
        let now = self.engine().now();
        let revoked = Arc::clone(&self.engine().published().borrow());
        // What a stolen key has signed is not given out again, nor what was revoked.
        let remembered = self.0.jwts.get(&key, now).filter(|entry| {
            let tainted = entry
                .key_id
                .as_deref()
                .is_some_and(|key_id| self.engine().read(|core| core.is_tainted_jwt(key_id)));
            // A token that does not say when it was issued is as old as can be.
            let issued_at = JwtSvid::from_trusted_source(&entry.token, None).ok();
            let issued_at = issued_at.and_then(|svid| svid.issued_at());
            let stands = revoked.revocations.as_ref().is_none_or(|revocations| {
                revocations.of_token(&key.spiffe_id, key.instance, issued_at).is_none()
            });
            !tainted && stands
        });
        if let Some(entry) = remembered.as_ref().filter(|entry| entry.fresh_until > now) {
            return Ok(entry.token.clone());
        }
        let registration = identity.registration.id.as_str().into();
        let answer = self.engine().want_jwt(|core, ticket, now| {
            core.want_jwt(ticket, &registration, &identity.selectors, audience, instance, now);
        });
        let answer = match tokio::time::timeout(ANSWER_TIME, answer).await {
            Ok(Ok(answer)) => answer,
            _ => Err(Refusal::authority_unavailable()),
        };
        match (answer, remembered) {
            (Ok((token, expires_at)), _) => {
                let now = self.engine().now();
                let fresh_until = now.saturating_add(expires_at.since(now) / 2);
                self.0.jwts.put(
                    caller.attested.uid,
                    key,
                    Entry { key_id: jwt::key_id(&token), token: token.clone(), fresh_until, expires_at },
                );
                Ok(token)
            }
            // No answer is not a no.
            (Err(refusal), Some(entry)) if refusal.status_code() == tonic::Code::Unavailable => {
                Ok(entry.token)
            }
            (Err(refusal), _) => Err(refusal),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{core::LaunchKey, process::Image};

    fn key(audience: usize) -> Key {
        let image = Image { start_time: 1, exe_device: 1, exe_inode: 1, layout: [0; 5] };
        Key {
            registration: "web".into(),
            revision: 1,
            spiffe_id: "spiffe://example.org/web".parse().unwrap(),
            instance: None,
            launch: LaunchKey { pid: 1, image },
            audience: vec![audience.to_string()],
        }
    }

    #[test]
    fn one_user_gets_half_of_the_memory() {
        let cache = Cache::new(10);
        let now = UnixTime::from_secs(0);
        let end = UnixTime::from_secs(9);
        let put = |uid, audience| {
            let entry = Entry { token: String::new(), fresh_until: end, expires_at: end, key_id: None };
            cache.put(uid, key(audience), entry);
        };
        let kept =
            |range: std::ops::Range<usize>| range.filter(|n| cache.get(&key(*n), now).is_some()).count();
        (1000..1003).for_each(|n| put(2, n));
        (0..100).for_each(|n| put(1, n));
        assert_eq!((kept(0..100), kept(95..100), kept(1000..1003)), (5, 5, 3));
        // A third one takes from whoever has most, itself at last.
        (2000..2004).for_each(|n| put(3, n));
        assert_eq!((kept(0..100), kept(1000..1003), kept(2000..2004)), (4, 3, 3));
        assert_eq!(cache.lock().entries.len(), 10);
    }
}
