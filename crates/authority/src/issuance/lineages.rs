//! Which certificate of each living instance is the newest: finds two successors of one certificate.
//!
//! An instance renews with a fresh key, signed by the last key and the new one. Whoever copied the last key can do
//! that too. But then there are two successors, with two keys, and the second one is refused, whichever it is. A
//! lost reply is not a fork: the same key may ask again.
//!
//! In memory, filled from the ledger at start. What other servers have issued is not in here: an instance that comes from
//! one of them is taken over first (`super::moves`), and what has moved away is marked.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bonafide_identity::time::UnixTime;
use bonafide_identity::{InstanceId, SpiffeId};

use super::agents::AgentSvids;

/// A power of two: instance IDs are random, so their first byte spreads them evenly.
const SHARDS: usize = 16;
/// How many changes of a shard lie between two sweeps of it, at least.
const SWEEP_EVERY: usize = 1024;

/// The newest certificate of every living instance.
#[derive(Debug, Default)]
pub(crate) struct Lineages {
    shards: [Mutex<Shard>; SHARDS],
    /// What agents themselves may show.
    pub(crate) agents: AgentSvids,
}

/// What is remembered of one instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Lineage {
    pub(crate) generation: u64,
    /// Of the newest certificate: tells two attempts at the same successor apart.
    pub(crate) serial: [u8; 16],
    /// SHA-256 of the newest certificate's TBSCertificate: it is that very certificate, or none of ours.
    pub(crate) tbs_sha256: [u8; 32],
    /// Subject key ID of the newest certificate.
    pub(crate) key_id: [u8; 20],
    pub(crate) registration: Arc<str>,
    pub(crate) agent: Arc<SpiffeId>,
    /// Until then some certificate of the instance is valid: not the newest one's end, if an older one lives longer.
    pub(crate) not_after: UnixTime,
    /// Its process is gone, so nobody may renew it.
    pub(crate) ended: bool,
    /// Another server renews it now.
    pub(crate) moved: bool,
}

/// What this server says when another one wants to renew an instance from now on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// It issues nothing more for it.
    LetGo,
    /// It has had a successor of that certificate itself, or its process is gone.
    Keep { generation: u64, key_id: [u8; 20], ended: bool },
}

/// Why an instance gets no further certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Discord {
    /// Its process is gone.
    Ended,
    /// Two successors of one certificate.
    Forked {
        /// Generation of the newest certificate.
        newest: u64,
    },
    /// Another server renews it now.
    Moved,
}

#[derive(Debug, Default)]
struct Shard {
    /// Boxed, because a table that grows moves what it holds.
    instances: HashMap<InstanceId, Box<Lineage>>,
    changes: usize,
    /// How many were alive after the last sweep.
    alive: usize,
}

impl Lineages {
    /// Of this server.
    pub(crate) fn of(server: &str) -> Self {
        Self { shards: Default::default(), agents: AgentSvids::of(server) }
    }

    /// Notes a certificate, unless it would be the second successor of its predecessor. Returns what was the newest
    /// before, for [`Self::undo`]. `taken`: this server has just taken the instance over.
    pub(crate) fn note(
        &self,
        instance: InstanceId,
        mut next: Lineage,
        taken: bool,
        now: UnixTime,
    ) -> Result<Option<Lineage>, Discord> {
        let mut shard = self.shard(instance);
        if let Some(newest) = shard.instances.get(&instance)
            && newest.not_after > now
        {
            let repeated = next.generation == newest.generation && next.key_id == newest.key_id;
            if newest.ended {
                return Err(Discord::Ended);
            }
            if next.generation <= newest.generation && !repeated {
                return Err(Discord::Forked { newest: newest.generation });
            }
            if newest.moved && !taken {
                return Err(Discord::Moved);
            }
            // Forgotten with the newest certificate, an older and longer one could have another successor.
            next.not_after = next.not_after.max(newest.not_after);
        }
        shard.sweep(now);
        Ok(shard.instances.insert(instance, Box::new(next)).map(|before| *before))
    }

    /// Takes back what [`Self::note`] did, because nothing was released.
    pub(crate) fn undo(&self, instance: InstanceId, noted: &Lineage, before: Option<Lineage>) {
        let mut shard = self.shard(instance);
        let is_newest = shard.instances.get(&instance).is_some_and(|newest| {
            !newest.ended && newest.serial == noted.serial && newest.generation == noted.generation
        });
        if is_newest {
            // What was let go of meanwhile stays so.
            let moved = shard.instances.get(&instance).is_some_and(|newest| newest.moved);
            match before.map(|before| Lineage { moved: before.moved || moved, ..before }) {
                Some(before) => shard.instances.insert(instance, Box::new(before)),
                None => shard.instances.remove(&instance),
            };
        }
    }

    /// The newest certificate of an instance that is alive.
    pub(crate) fn newest(&self, instance: InstanceId, now: UnixTime) -> Option<Lineage> {
        let shard = self.shard(instance);
        let newest =
            shard.instances.get(&instance).filter(|newest| newest.not_after > now && !newest.ended)?;
        Some((**newest).clone())
    }

    /// Generation and key of the newest certificate that this server has issued, if some certificate of the instance is
    /// valid.
    pub(crate) fn issued(&self, instance: InstanceId, now: UnixTime) -> Option<(u64, [u8; 20])> {
        let shard = self.shard(instance);
        let newest = shard.instances.get(&instance).filter(|newest| newest.not_after > now)?;
        Some((newest.generation, newest.key_id))
    }

    /// What to say to another server that wants to renew the instance, with this certificate as the next one. If that is
    /// [`Answer::LetGo`], this server issues nothing for it from then on.
    pub(crate) fn answer(
        &self,
        instance: InstanceId,
        generation: u64,
        key_id: &[u8],
        now: UnixTime,
    ) -> Answer {
        let mut shard = self.shard(instance);
        let newest = shard.instances.get_mut(&instance).filter(|newest| newest.not_after > now);
        let Some(newest) = newest else { return Answer::LetGo };
        let repeated = newest.generation == generation && newest.key_id == key_id;
        if newest.ended || newest.generation >= generation && !repeated {
            let Lineage { generation, key_id, ended, .. } = **newest;
            newest.moved = false;
            return Answer::Keep { generation, key_id, ended };
        }
        newest.moved = true;
        Answer::LetGo
    }

    /// Another server renews the instance from now on.
    pub(crate) fn moved(&self, instance: InstanceId) {
        if let Some(newest) = self.shard(instance).instances.get_mut(&instance) {
            newest.moved = true;
        }
    }

    /// The agent of an instance of which some certificate is valid, whether or not its process has ended.
    pub(crate) fn agent_of(&self, instance: InstanceId, now: UnixTime) -> Option<Arc<SpiffeId>> {
        let shard = self.shard(instance);
        let newest = shard.instances.get(&instance).filter(|newest| newest.not_after > now)?;
        Some(Arc::clone(&newest.agent))
    }

    /// The process has ended; only the agent that it ran under may say so.
    pub(crate) fn end(&self, instance: InstanceId, agent: &SpiffeId) {
        if let Some(newest) = self.shard(instance).instances.get_mut(&instance)
            && *newest.agent == *agent
        {
            newest.ended = true;
        }
    }

    /// Whether the process of an instance is known to have ended.
    pub(crate) fn has_ended(&self, instance: InstanceId, now: UnixTime) -> bool {
        let shard = self.shard(instance);
        shard.instances.get(&instance).is_some_and(|newest| newest.not_after > now && newest.ended)
    }

    /// How many instances are remembered: those that are alive, and some that no longer are.
    pub(crate) fn count(&self) -> usize {
        let shards = self.shards.iter();
        shards.map(|shard| shard.lock().unwrap_or_else(PoisonError::into_inner).instances.len()).sum()
    }

    fn shard(&self, instance: InstanceId) -> MutexGuard<'_, Shard> {
        let index = usize::from(instance.as_bytes().first().copied().unwrap_or_default()) % SHARDS;
        let shard = self.shards.get(index).unwrap_or(&self.shards[0]);
        shard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shard {
    /// Forgets what has expired. Paid for by the changes since the last time, so never more than twice their work.
    fn sweep(&mut self, now: UnixTime) {
        self.changes += 1;
        if self.changes >= SWEEP_EVERY.max(self.alive) {
            self.changes = 0;
            self.instances.retain(|_, newest| newest.not_after > now);
            self.alive = self.instances.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lineage(generation: u64, key: u8, not_after: i64) -> Lineage {
        Lineage {
            generation,
            serial: [key; 16],
            tbs_sha256: [key; 32],
            key_id: [key; 20],
            registration: "web".into(),
            agent: Arc::new("spiffe://example.org/bonafide/agent/x".parse().unwrap()),
            not_after: UnixTime::from_secs(not_after),
            ended: false,
            moved: false,
        }
    }

    const INSTANCE: InstanceId = InstanceId::from_bytes([3; 16]);
    const NOW: UnixTime = UnixTime::from_secs(100);

    #[test]
    fn a_second_successor_is_a_fork_and_a_lost_reply_is_not() {
        let lineages = Lineages::default();
        lineages.note(INSTANCE, lineage(0, 1, 200), false, NOW).unwrap();
        lineages.note(INSTANCE, lineage(1, 2, 200), false, NOW).unwrap();
        lineages.note(INSTANCE, lineage(1, 2, 201), false, NOW).unwrap();
        assert_eq!(
            lineages.note(INSTANCE, lineage(1, 3, 200), false, NOW),
            Err(Discord::Forked { newest: 1 })
        );
        lineages.note(INSTANCE, lineage(2, 4, 200), false, NOW).unwrap();
        assert!(
            lineages.note(INSTANCE, lineage(1, 2, 200), false, NOW).is_err(),
            "an old generation is over"
        );
    }

    #[test]
    fn what_was_not_released_is_forgotten() {
        let lineages = Lineages::default();
        lineages.note(INSTANCE, lineage(0, 1, 200), false, NOW).unwrap();
        let failed = lineage(1, 2, 200);
        let before = lineages.note(INSTANCE, failed.clone(), false, NOW).unwrap();
        lineages.undo(INSTANCE, &failed, before);
        lineages.note(INSTANCE, lineage(1, 3, 200), false, NOW).unwrap();
    }

    #[test]
    fn a_short_successor_does_not_make_its_predecessor_forgotten() {
        let lineages = Lineages::default();
        lineages.note(INSTANCE, lineage(0, 1, 1000), false, NOW).unwrap();
        lineages.note(INSTANCE, lineage(1, 2, 110), false, NOW).unwrap();
        let later = UnixTime::from_secs(500);
        for shard in &lineages.shards {
            let mut shard = shard.lock().unwrap();
            shard.changes = SWEEP_EVERY;
            shard.sweep(later);
        }
        let second = lineages.note(INSTANCE, lineage(1, 3, 600), false, later);
        assert_eq!(second, Err(Discord::Forked { newest: 1 }), "the first certificate is still valid");

        lineages.end(INSTANCE, &lineage(1, 2, 110).agent);
        assert_eq!(lineages.note(INSTANCE, lineage(2, 4, 600), false, later), Err(Discord::Ended));
    }

    #[test]
    fn a_failed_attempt_does_not_take_back_the_other_one_that_succeeded() {
        let lineages = Lineages::default();
        lineages.note(INSTANCE, lineage(0, 1, 200), false, NOW).unwrap();
        let first = Lineage { serial: [7; 16], ..lineage(1, 2, 200) };
        let before = lineages.note(INSTANCE, first.clone(), false, NOW).unwrap();
        let second = Lineage { serial: [8; 16], ..lineage(1, 2, 200) };
        lineages.note(INSTANCE, second, false, NOW).unwrap();
        lineages.undo(INSTANCE, &first, before);
        assert_eq!(
            lineages.note(INSTANCE, lineage(1, 3, 200), false, NOW),
            Err(Discord::Forked { newest: 1 })
        );
    }

    #[test]
    fn an_ended_instance_is_not_renewed() {
        let lineages = Lineages::default();
        let first = lineage(0, 1, 200);
        lineages.note(INSTANCE, first.clone(), false, NOW).unwrap();
        lineages.end(INSTANCE, &"spiffe://example.org/bonafide/agent/other".parse().unwrap());
        lineages.note(INSTANCE, lineage(1, 2, 200), false, NOW).unwrap();
        lineages.end(INSTANCE, &first.agent);
        assert_eq!(lineages.note(INSTANCE, lineage(2, 3, 200), false, NOW), Err(Discord::Ended));
        assert_eq!(lineages.newest(INSTANCE, NOW), None);
    }

    #[test]
    fn memory_is_bounded_by_what_lives() {
        let lineages = Lineages::default();
        for number in 0..200_000_u32 {
            let mut bytes = [0; 16];
            bytes[..4].copy_from_slice(&number.to_le_bytes());
            let at = i64::from(number);
            let next = lineage(0, 1, at + 1000);
            lineages.note(InstanceId::from_bytes(bytes), next, false, UnixTime::from_secs(at)).unwrap();
        }
        let kept: usize = lineages.shards.iter().map(|shard| shard.lock().unwrap().instances.len()).sum();
        assert!(kept < 50_000, "{kept}");
    }

    #[test]
    fn what_has_moved_is_not_renewed_until_it_is_taken_back() {
        let lineages = Lineages::default();
        lineages.note(INSTANCE, lineage(0, 1, 200), false, NOW).unwrap();
        assert_eq!(lineages.answer(INSTANCE, 1, &[2; 20], NOW), Answer::LetGo);
        assert_eq!(lineages.note(INSTANCE, lineage(1, 2, 200), false, NOW), Err(Discord::Moved));
        // Elsewhere it has had generation 1.
        lineages.note(INSTANCE, lineage(2, 3, 200), true, NOW).unwrap();
        lineages.note(INSTANCE, lineage(3, 4, 200), false, NOW).unwrap();
    }

    #[test]
    fn a_server_that_was_asked_first_keeps_what_it_has_issued() {
        let lineages = Lineages::default();
        lineages.note(INSTANCE, lineage(0, 1, 200), false, NOW).unwrap();
        lineages.note(INSTANCE, lineage(1, 2, 200), false, NOW).unwrap();
        let keeps = Answer::Keep { generation: 1, key_id: [2; 20], ended: false };
        assert_eq!(lineages.answer(INSTANCE, 1, &[3; 20], NOW), keeps);
        lineages.note(INSTANCE, lineage(2, 4, 200), false, NOW).unwrap();
        // A lost reply, asked again elsewhere.
        assert_eq!(lineages.answer(INSTANCE, 2, &[4; 20], NOW), Answer::LetGo);
        lineages.end(INSTANCE, &lineage(0, 0, 0).agent);
        assert!(matches!(lineages.answer(INSTANCE, 3, &[6; 20], NOW), Answer::Keep { ended: true, .. }));
    }
}
