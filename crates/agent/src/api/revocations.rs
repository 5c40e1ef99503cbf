//! Revocations for whoever verifies on this node: the whole set, then each change.

use std::sync::Arc;

use bonafide_identity::{Revocations, TrustDomain};
use bonafide_net::drain::Shutdown;
use bonafide_wire::{
    REVOCATIONS_PART, agent::RevocationsUpdate, from_revocation, from_subject, types::Revocation,
};
use bytes::Bytes;
use prost::Message as _;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::{Api, StreamSlot};
use crate::{core::LaunchKey, engine::Published, peer::Peer, refusal::Refusal};

pub(super) type Stream = ReceiverStream<Result<RevocationsUpdate, Status>>;

impl Api {
    /// Serves the set until the caller goes away, or becomes another.
    pub(super) async fn watch_revocations(&self, peer: Peer) -> Result<Stream, Refusal> {
        let key = LaunchKey { pid: peer.process()?.pid(), image: peer.image().await? };
        let slot = self.open_stream(key)?;
        let published = self.engine().published();
        let trust_domain = self.engine().trust_domain().clone();
        let (sender, receiver) = mpsc::channel(1);
        let shutdown = self.engine().shutdown().clone();
        tokio::spawn(serve(peer, slot, published, trust_domain, sender, shutdown));
        Ok(ReceiverStream::new(receiver))
    }

    /// The set of this moment; the empty one before there is another.
    pub(super) fn revocations(&self) -> Arc<Revocations> {
        let published = Arc::clone(&self.engine().published().borrow());
        let empty = || Arc::new(Revocations::new(self.engine().trust_domain().clone()));
        published.revocations.clone().unwrap_or_else(empty)
    }
}

async fn serve(
    peer: Peer,
    slot: StreamSlot,
    mut published: watch::Receiver<Arc<Published>>,
    trust_domain: TrustDomain,
    sender: mpsc::Sender<Result<RevocationsUpdate, Status>>,
    shutdown: Shutdown,
) {
    let _slot = slot;
    let mut told: Option<Arc<Revocations>> = None;
    loop {
        let now = published.borrow_and_update().revocations.clone();
        if let Some(now) = now.filter(|now| told.as_ref().is_none_or(|told| !Arc::ptr_eq(told, now))) {
            for part in parts(told.as_deref(), &now, &trust_domain) {
                if let Err(refusal) = peer.check_unchanged().await {
                    let _ = sender.send(Err(refusal.into())).await;
                    return;
                }
                if sender.send(Ok(part)).await.is_err() {
                    return;
                }
            }
            told = Some(now);
        }
        tokio::select! {
            changed = published.changed() => if changed.is_err() { return },
            () = shutdown.triggered() => {
                let _ = sender.send(Err(Refusal::stopping().into())).await;
                return;
            }
            () = sender.closed() => return,
        }
    }
}

/// What leads from one set to the other, in messages of bounded size.
fn parts(
    before: Option<&Revocations>,
    now: &Revocations,
    trust_domain: &TrustDomain,
) -> Vec<RevocationsUpdate> {
    let empty = Revocations::new(trust_domain.clone());
    let known = before.unwrap_or(&empty);
    let gone = known.iter().filter(|each| now.get(&each.subject).is_none());
    let gone = gone.map(|each| (false, from_subject(&each.subject)));
    let new = now.iter().filter(|each| known.get(&each.subject).as_ref() != Some(each));
    let new = new.map(|each| (true, from_revocation(&each)));
    let part = || RevocationsUpdate {
        trust_domain: trust_domain.to_string(),
        more: true,
        ..RevocationsUpdate::default()
    };
    let mut parts = vec![RevocationsUpdate { start: before.is_none(), ..part() }];
    let mut size = 0;
    for (revoked, each) in gone.chain(new) {
        size += each.encoded_len() + 8;
        if size > REVOCATIONS_PART {
            size = each.encoded_len() + 8;
            parts.push(part());
        }
        let list = |part: &mut RevocationsUpdate, each: Revocation| {
            if revoked { part.revoked.push(each) } else { part.unrevoked.push(each) }
        };
        if let Some(last) = parts.last_mut() {
            list(last, each);
        }
    }
    if let Some(last) = parts.last_mut() {
        last.more = false;
        last.digest = Bytes::copy_from_slice(&now.digest());
    }
    parts
}
