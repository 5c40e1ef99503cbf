//! Policies for a program that decides by itself: those that apply to it, then each change.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use bonafide_wire::{
    agent::{LabelSet, PoliciesUpdate},
    types::Policy,
};
use bytes::Bytes;
use prost::Message as _;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::{Api, StreamSlot, authorize::Guarded};
use crate::{core::LaunchKey, peer::Peer, refusal::Refusal};

pub(super) type Stream = ReceiverStream<Result<PoliciesUpdate, Status>>;

/// Bytes of one message, about.
const PART: usize = 240 * 1024;
/// How often a program is told that what it has is still current.
const HEARTBEAT: Duration = Duration::from_secs(30);

/// What a program has been told.
#[derive(Default)]
struct Told {
    begun: bool,
    /// By name; cheap to keep, because the agent has them.
    documents: BTreeMap<String, Bytes>,
}

impl Api {
    /// Serves the policies until the caller goes away, or becomes another.
    pub(super) async fn watch_policies(&self, peer: Peer) -> Result<Stream, Refusal> {
        let key = LaunchKey { pid: peer.process()?.pid(), image: peer.image().await? };
        let guarded = self.guarded(&peer).await?;
        let slot = self.open_stream(key)?;
        let (sender, receiver) = mpsc::channel(1);
        tokio::spawn(self.clone().serve_policies(peer, guarded, slot, sender));
        Ok(ReceiverStream::new(receiver))
    }

    async fn serve_policies(
        self,
        peer: Peer,
        first: Guarded,
        slot: StreamSlot,
        sender: mpsc::Sender<Result<PoliciesUpdate, Status>>,
    ) {
        let _slot = slot;
        let shutdown = self.engine().shutdown().clone();
        let mut changed = self.engine().policies();
        let mut registrations = self.engine().registrations();
        let mut heartbeat = tokio::time::interval(HEARTBEAT);
        heartbeat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut told = Told::default();
        let mut guarded = Ok(first);
        loop {
            changed.mark_unchanged();
            registrations.mark_unchanged();
            let updates = match &guarded {
                Ok(guarded) => self.updates(guarded, &mut told),
                Err(refusal) => {
                    let _ = sender.send(Err(Refusal::clone(refusal).into())).await;
                    return;
                }
            };
            for update in updates {
                if sender.send(Ok(update)).await.is_err() {
                    return;
                }
            }
            tokio::select! {
                told = changed.changed() => if told.is_err() { return },
                told = registrations.changed() => if told.is_err() { return },
                _ = heartbeat.tick() => (),
                () = shutdown.triggered() => {
                    let _ = sender.send(Err(Refusal::stopping().into())).await;
                    return;
                }
                () = sender.closed() => return,
            }
            // Its registration may have other labels by now, and it may be another program.
            guarded = match peer.check_unchanged().await {
                Ok(()) => self.guarded(&peer).await,
                Err(refusal) => Err(refusal),
            };
        }
    }

    /// What is new to the program.
    fn updates(&self, guarded: &Guarded, told: &mut Told) -> Vec<PoliciesUpdate> {
        let (policies, revision, current_at) = self.engine().read(|core| {
            let current_at = core.current_at().unwrap_or_default();
            (Arc::clone(core.view.policies()), core.view.revision(), current_at)
        });
        // Also what this agent does not understand: then the program denies everything, as the agent would.
        let wanted: Vec<&Arc<Policy>> = policies.for_labels(guarded.labels()).collect();
        let names: BTreeSet<&str> = wanted.iter().map(|policy| policy.name.as_str()).collect();
        let removed = told.documents.keys().filter(|name| !names.contains(name.as_str())).cloned().collect();
        let mut parts = vec![PoliciesUpdate { start: !told.begun, removed, ..PoliciesUpdate::default() }];
        let mut size = 0;
        for policy in &wanted {
            if told.documents.get(&policy.name) == Some(&policy.document) {
                continue;
            }
            size += policy.encoded_len() + 8;
            if size > PART {
                size = policy.encoded_len() + 8;
                parts.push(PoliciesUpdate::default());
            }
            if let Some(part) = parts.last_mut() {
                part.policies.push(Policy::clone(policy));
            }
        }
        let last = parts.len() - 1;
        for (index, part) in parts.iter_mut().enumerate() {
            part.more = index < last;
            let mut labels = guarded.labels().iter().cloned();
            part.labels = labels.next().unwrap_or_default();
            part.other_labels = labels.map(|labels| LabelSet { labels }).collect();
            part.revision = revision;
            part.current_at = current_at.as_secs();
            part.trust_domain = self.engine().trust_domain().to_string();
        }
        told.begun = true;
        told.documents = wanted.iter().map(|policy| (policy.name.clone(), policy.document.clone())).collect();
        parts
    }
}
