//! Tells a process how fresh its leases are, and which are over.

use bonafide_wire::kms::{LeasesUpdate, WatchLeasesRequest, leases_server::Leases};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::{super::StreamSlot, Api, check_security_header, held, peer_of};
use crate::{core::LaunchKey, keys::Watcher, peer::Peer, refusal::Refusal};

/// The service.
#[derive(Clone, Debug)]
pub(crate) struct LeasesService(pub(crate) Api);

#[tonic::async_trait]
impl Leases for LeasesService {
    type WatchStream = ReceiverStream<Result<LeasesUpdate, Status>>;

    async fn watch(
        &self,
        request: Request<WatchLeasesRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        check_security_header(&request)?;
        let peer = peer_of(&request)?;
        let subject = self.0.key_user(&peer).await?;
        let key = LaunchKey { pid: peer.process()?.pid(), image: peer.image().await? };
        let slot = self.0.open_stream(key)?;
        let watcher = self.0.engine().keys().watch(subject.instance);
        let (sender, receiver) = mpsc::channel(1);
        tokio::spawn(serve(self.0.clone(), peer, key, slot, watcher, sender));
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}

async fn serve(
    api: Api,
    peer: Peer,
    key: LaunchKey,
    slot: StreamSlot,
    mut watcher: Watcher,
    sender: mpsc::Sender<Result<LeasesUpdate, Status>>,
) {
    let _slot = slot;
    let shutdown = api.engine().shutdown().clone();
    loop {
        // Room first: how fresh it is must be true when it is sent.
        let Ok(permit) = sender.reserve().await else { return };
        let told = match peer.check_unchanged().await {
            Ok(()) => update(&api, &key, &mut watcher),
            Err(refusal) => Err(refusal),
        };
        match told {
            Ok(update) => permit.send(Ok(update)),
            Err(refusal) => return permit.send(Err(refusal.into())),
        }
        tokio::select! {
            () = watcher.changed() => {}
            () = sender.closed() => return,
            () = shutdown.triggered() => {
                let _ = sender.send(Err(Refusal::stopping().into())).await;
                return;
            }
        }
    }
}

fn update(api: &Api, key: &LaunchKey, watcher: &mut Watcher) -> Result<LeasesUpdate, Refusal> {
    let subject = api.engine().with(|core, _| core.check_ready().map(|()| held(core, key)))?;
    let subject = subject.ok_or_else(Refusal::key_identity_ended)?;
    let mut update = watcher.update().ok_or_else(Refusal::key_identity_ended)?;
    update.identity_expires_at = subject.credential.not_after().as_secs();
    Ok(update)
}
