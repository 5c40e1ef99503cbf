//! Streams that say the whole state first, and again whenever it has changed.

use std::{future::Future, time::Duration};

use tokio::{sync::mpsc, time::Instant};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::{Caller, PATIENCE, StreamSlot};
use crate::refusal::Refusal;

/// What to send at this moment.
pub(super) enum State<T, V> {
    /// All there is. Not sent again while `V` stays the same.
    Complete(V, T),
    /// More is on its way: sent if nothing more comes in time. Nothing yet: refused if nothing comes.
    Partial(Option<(V, T)>),
}

/// A source of states.
pub(super) trait Feed: Send + 'static {
    type Item: Send + 'static;
    type Version: PartialEq + Send + 'static;

    fn state(&mut self) -> Result<State<Self::Item, Self::Version>, Refusal>;
    /// Returns when [`Feed::state`] may have changed. Must not miss what happens between two calls.
    fn changed(&mut self) -> impl Future<Output = ()> + Send;
}

/// Serves a feed until the client goes away, the process changes, or the feed refuses.
pub(super) fn serve<F: Feed>(
    mut feed: F,
    caller: Caller,
    slot: StreamSlot,
    shutdown: bonafide_net::drain::Shutdown,
) -> ReceiverStream<Result<F::Item, Status>> {
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        let _slot = slot;
        let ended = tokio::select! {
            ended = pump(&mut feed, &caller, &sender) => ended,
            () = shutdown.triggered() => Some(Refusal::stopping()),
            () = sender.closed() => None,
        };
        if let Some(refusal) = ended {
            let _ = sender.send(Err(refusal.into())).await;
        }
    });
    ReceiverStream::new(receiver)
}

async fn pump<F: Feed>(
    feed: &mut F,
    caller: &Caller,
    sender: &mpsc::Sender<Result<F::Item, Status>>,
) -> Option<Refusal> {
    let mut sent: Option<F::Version> = None;
    let mut patience: Option<Instant> = None;
    loop {
        // Room first: what is sent must be what holds when it is sent.
        let Ok(permit) = sender.reserve().await else { return None };
        if let Err(refusal) = caller.peer.check_unchanged().await {
            return Some(refusal);
        }
        let (next, wait) = match feed.state() {
            Err(refusal) => return Some(refusal),
            Ok(State::Complete(version, item)) => {
                patience = None;
                (Some((version, item)), None)
            }
            Ok(State::Partial(item)) => {
                let until = *patience.get_or_insert_with(|| Instant::now() + PATIENCE);
                match (until <= Instant::now(), item) {
                    (true, None) => return Some(Refusal::authority_unavailable()),
                    (true, item) => (item, None),
                    (false, _) => (None, Some(until)),
                }
            }
        };
        match next {
            Some((version, item)) if sent.as_ref() != Some(&version) => {
                sent = Some(version);
                permit.send(Ok(item));
            }
            _ => drop(permit),
        }
        let wait = wait.unwrap_or_else(|| Instant::now() + Duration::from_secs(86_400));
        tokio::select! {
            () = feed.changed() => {}
            () = tokio::time::sleep_until(wait) => {}
        }
    }
}
