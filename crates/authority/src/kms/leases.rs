//! The leases that this server has given. No I/O: what happens in, what to write and to tell out.
//!
//! A lease lets an agent answer one instance by itself: one key, one version, one context, one use. It is remembered until it
//! ends, with all that the decision rested on, so that it can be decided again whenever something changes. What was used comes
//! back when it is renewed or returned; of a lease that ends in silence, everything that it allowed counts as used.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use bonafide_identity::time::UnixTime;
use bonafide_identity::{InstanceId, SpiffeId};
use bonafide_policy::AssertedProps;
use bytes::Bytes;

use super::callers::Caller;
use crate::refusal::Refusal;

/// Leases of all agents, of one agent, and of one instance.
pub(crate) const MAX: usize = 262_144;
pub(crate) const MAX_OF_AGENT: usize = 16_384;
pub(crate) const MAX_OF_INSTANCE: usize = 1024;

/// Names a lease.
pub(crate) type LeaseId = [u8; 16];

/// What a lease is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Use {
    Encrypt,
    Decrypt,
    Verify,
}

/// What may be done under a lease, from its beginning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ceilings {
    pub(crate) messages: u64,
    pub(crate) bytes: u64,
}

/// What was done under it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Used {
    pub(crate) messages: u64,
    pub(crate) bytes: u64,
}

/// A lease, and all that it rests on.
#[derive(Clone, Debug)]
pub(crate) struct Granted {
    pub(crate) agent: SpiffeId,
    pub(crate) caller: Caller,
    pub(crate) usage: Use,
    /// The key's own ID.
    pub(crate) key: [u8; 16],
    pub(crate) version: u32,
    pub(crate) context: Arc<AssertedProps>,
    pub(crate) context_sha256: Bytes,
    pub(crate) ceilings: Ceilings,
    pub(crate) used: Used,
    /// Of the data key: an encrypt lease is never renewed beyond that.
    pub(crate) given_at: UnixTime,
    pub(crate) expires_at: UnixTime,
}

/// A lease that is no more.
#[derive(Clone, Debug)]
pub(crate) struct Over {
    pub(crate) id: LeaseId,
    pub(crate) granted: Granted,
    /// Why, if it was taken back.
    pub(crate) refusal: Option<Refusal>,
}

/// All leases of this server.
#[derive(Debug, Default)]
pub(crate) struct Leases {
    leases: HashMap<LeaseId, Granted>,
    ends: BTreeSet<(UnixTime, LeaseId)>,
    of_agent: HashMap<SpiffeId, HashSet<LeaseId>>,
    of_instance: HashMap<InstanceId, usize>,
}

impl Use {
    /// The operation that a policy must allow.
    pub(crate) fn operation(self) -> &'static str {
        match self {
            Self::Encrypt => "encrypt",
            Self::Decrypt => "decrypt",
            Self::Verify => "verify",
        }
    }
}

impl Leases {
    /// Whether one more may be given.
    ///
    /// # Errors
    /// `kms.leases-full`, with whose they are.
    pub(crate) fn room(&self, agent: &SpiffeId, instance: Option<InstanceId>) -> Result<(), Refusal> {
        let full = |whose: &str, most: usize| {
            let message = format!("{whose} holds {most} leases, and gets no more");
            Err(Refusal::new(tonic::Code::ResourceExhausted, "kms.leases-full", message)
                .hint("ask the authority for single operations, or use fewer contexts"))
        };
        if self.leases.len() >= MAX {
            return full("this server has given its last lease: all agents together", MAX);
        }
        if self.of_agent.get(agent).is_some_and(|held| held.len() >= MAX_OF_AGENT) {
            return full("the agent", MAX_OF_AGENT);
        }
        let of_instance = instance.and_then(|instance| self.of_instance.get(&instance));
        if of_instance.is_some_and(|held| *held >= MAX_OF_INSTANCE) {
            return full("the instance", MAX_OF_INSTANCE);
        }
        Ok(())
    }

    /// Remembers one that is given. Its ID must be a fresh one.
    pub(crate) fn give(&mut self, id: LeaseId, granted: Granted) {
        self.ends.insert((granted.expires_at, id));
        self.of_agent.entry(granted.agent.clone()).or_default().insert(id);
        if let Some(instance) = granted.caller.instance() {
            *self.of_instance.entry(instance).or_default() += 1;
        }
        self.leases.insert(id, granted);
    }

    /// One that `agent` holds, and that has not ended.
    pub(crate) fn held(&self, id: &LeaseId, agent: &SpiffeId, now: UnixTime) -> Option<&Granted> {
        self.leases.get(id).filter(|granted| granted.agent == *agent && now < granted.expires_at)
    }

    /// Notes what was used, and moves the end. What an agent has once said it does not take back.
    pub(crate) fn renew(&mut self, id: &LeaseId, used: Used, expires_at: UnixTime) -> Option<&Granted> {
        let granted = self.leases.get_mut(id)?;
        self.ends.remove(&(granted.expires_at, *id));
        granted.used.grow(used);
        granted.expires_at = expires_at;
        self.ends.insert((expires_at, *id));
        Some(granted)
    }

    /// Ends one, with what was used of it.
    pub(crate) fn take_back(&mut self, id: &LeaseId, used: Used) -> Option<Granted> {
        let mut granted = self.remove(id)?;
        granted.used.grow(used);
        Some(granted)
    }

    /// Those that have ended in silence.
    pub(crate) fn expired(&mut self, now: UnixTime) -> Vec<Over> {
        let ended: Vec<LeaseId> =
            self.ends.iter().take_while(|(at, _)| *at <= now).map(|(_, id)| *id).collect();
        let over = ended.iter().filter_map(|id| self.remove(id).map(|granted| (*id, granted)));
        over.map(|(id, granted)| Over { id, granted, refusal: None }).collect()
    }

    /// Ends those that `judge` refuses, of those that `concerned` lets through.
    pub(crate) fn judge(
        &mut self,
        concerned: impl Fn(&Granted) -> bool,
        judge: impl Fn(&Granted) -> Result<(), Refusal>,
    ) -> Vec<Over> {
        let concerned = self.leases.iter().filter(|(_, granted)| concerned(granted));
        let refused: Vec<_> = concerned
            .filter_map(|(id, granted)| judge(granted).err().map(|refusal| (*id, refusal)))
            .collect();
        let over = refused.into_iter().filter_map(|(id, refusal)| {
            Some(Over { id, granted: self.remove(&id)?, refusal: Some(refusal) })
        });
        over.collect()
    }

    /// Whether an agent holds any.
    pub(crate) fn holds(&self, agent: &SpiffeId) -> bool {
        self.of_agent.contains_key(agent)
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.leases.len()
    }

    fn remove(&mut self, id: &LeaseId) -> Option<Granted> {
        let granted = self.leases.remove(id)?;
        self.ends.remove(&(granted.expires_at, *id));
        forget(&mut self.of_agent, &granted.agent, id);
        if let Some(instance) = granted.caller.instance()
            && let Some(held) = self.of_instance.get_mut(&instance)
        {
            *held -= 1;
            if *held == 0 {
                self.of_instance.remove(&instance);
            }
        }
        Some(granted)
    }
}

impl Used {
    fn grow(&mut self, other: Self) {
        self.messages = self.messages.max(other.messages);
        self.bytes = self.bytes.max(other.bytes);
    }
}

fn forget<K: std::hash::Hash + Eq>(of: &mut HashMap<K, HashSet<LeaseId>>, key: &K, id: &LeaseId) {
    if let Some(held) = of.get_mut(key) {
        held.remove(id);
        if held.is_empty() {
            of.remove(key);
        }
    }
}
