//! What goes to one agent: answers of the signing threads, and updates of the stream's own task.
//!
//! Answers overtake updates, for a workload waits for them. Both lanes are bounded; an agent that doesn't read is
//! disconnected, it never costs memory.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use bonafide_wire::node::authority_message::Kind;
use bonafide_wire::node::{AuthorityMessage, Refused};
use bonafide_wire::types::Problem;
use futures_util::Stream;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::Status;

/// Parts of snapshots that may wait; each is up to 256 KiB.
const MAX_UPDATES: usize = 4;

/// The sending ends.
#[derive(Debug)]
pub(crate) struct Sender {
    /// Dropping it ends the stream once it is drained.
    pub(crate) updates: mpsc::Sender<Update>,
    pub(crate) answers: Answers,
}

/// Boxed, because the lane has room for 32 from its beginning, of which most agents never use one.
pub(crate) type Update = Box<Result<AuthorityMessage, Status>>;

/// Where answers go; cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Answers {
    waiting: Waiting,
    in_flight: Arc<AtomicUsize>,
    limit: usize,
    /// Cancelled when the agent doesn't read.
    too_slow: CancellationToken,
}

/// The right to answer one request. One slot of the stream's bound on requests in flight.
#[derive(Debug)]
pub(crate) struct Ticket {
    answers: Answers,
    pub(crate) request: u64,
}

/// The receiving end, which tonic reads.
#[derive(Debug)]
pub(crate) struct Outbound(Waiting);

/// What waits to be read. As long as the agent does not read, nobody polls it; so the other end must be able to drop it.
type Waiting = Arc<Mutex<Reader>>;

#[derive(Debug)]
struct Reader {
    lanes: Option<Lanes>,
    /// Who waits for more.
    waker: Option<Waker>,
}

#[derive(Debug)]
struct Lanes {
    answers: VecDeque<AuthorityMessage>,
    updates: mpsc::Receiver<Update>,
}

/// Both ends of a stream that has at most `limit` requests in flight.
pub(crate) fn channel(limit: usize) -> (Sender, Outbound) {
    let (update_lane, updates) = mpsc::channel(MAX_UPDATES);
    let too_slow = CancellationToken::new();
    let waiting = Arc::new(Mutex::new(Reader {
        lanes: Some(Lanes { answers: VecDeque::new(), updates }),
        waker: None,
    }));
    let sender = Sender {
        updates: update_lane,
        answers: Answers { waiting: Arc::clone(&waiting), in_flight: Arc::default(), limit, too_slow },
    };
    (sender, Outbound(waiting))
}

impl Sender {
    /// Ends the stream, and frees what the agent has not read.
    pub(crate) fn abandon(&self) {
        let mut reader = self.answers.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let (unread, waker) = (reader.lanes.take(), reader.waker.take());
        drop(reader);
        drop(unread);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl Answers {
    /// A slot for `request`, or none when too many are in flight.
    pub(crate) fn ticket(&self, request: u64) -> Option<Ticket> {
        let taken = self.in_flight.fetch_add(1, Ordering::AcqRel);
        if taken >= self.limit {
            self.in_flight.fetch_sub(1, Ordering::AcqRel);
            return None;
        }
        Some(Ticket { answers: self.clone(), request })
    }

    /// Sends without waiting, and wakes the reader once.
    fn send(&self, kinds: impl IntoIterator<Item = Kind>) {
        // Twice: as many again may lie here, answered and unread, before the agent counts as too slow.
        let room = self.limit.saturating_mul(2).max(1);
        let mut reader = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(Lanes { answers, .. }) = &mut reader.lanes else { return };
        for kind in kinds {
            if answers.len() >= room {
                self.too_slow.cancel();
                break;
            }
            answers.push_back(AuthorityMessage { kind: Some(kind) });
        }
        let waker = reader.waker.take();
        drop(reader);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Refuses a request that got no slot.
    pub(crate) fn refuse(&self, request: u64, problem: Problem, retry_after: u32) {
        self.send([refused(request, problem, retry_after)]);
    }

    /// Resolves when the agent doesn't read its answers.
    pub(crate) async fn too_slow(&self) {
        self.too_slow.cancelled().await;
    }
}

impl Ticket {
    /// Answers, and frees the slot.
    pub(crate) fn answer(self, kind: Kind) {
        self.answers.send([kind]);
    }

    /// A refusal, to be sent with other answers.
    pub(crate) fn refusal(&self, problem: Problem, retry_after: u32) -> Kind {
        refused(self.request, problem, retry_after)
    }

    /// Refuses, and frees the slot.
    pub(crate) fn refuse(self, problem: Problem, retry_after: u32) {
        self.answers.refuse(self.request, problem, retry_after);
    }
}

/// Answers several requests, and frees their slots. Each stream is woken once, so that its answers share frames, TLS
/// records and system calls.
pub(crate) fn answer(mut answers: Vec<(Ticket, Kind)>) {
    let stream = |ticket: &Ticket| Arc::as_ptr(&ticket.answers.waiting).addr();
    answers.sort_by_key(|(ticket, _)| stream(ticket));
    let mut answers = answers.into_iter().peekable();
    while let Some((first, kind)) = answers.next() {
        let (mut tickets, mut kinds) = (Vec::new(), vec![kind]);
        while let Some((ticket, kind)) = answers.next_if(|(next, _)| stream(next) == stream(&first)) {
            tickets.push(ticket);
            kinds.push(kind);
        }
        first.answers.send(kinds);
    }
}

fn refused(request: u64, problem: Problem, retry_after: u32) -> Kind {
    Kind::Refused(Refused { request, problem: Some(problem), retry_after })
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.answers.in_flight.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Stream for Outbound {
    type Item = Result<AuthorityMessage, Status>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut reader = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Reader { lanes, waker } = &mut *reader;
        let Some(Lanes { answers, updates }) = lanes else { return Poll::Ready(None) };
        if !waker.as_ref().is_some_and(|waker| waker.will_wake(context.waker())) {
            *waker = Some(context.waker().clone());
        }
        if let Some(answer) = answers.pop_front() {
            return Poll::Ready(Some(Ok(answer)));
        }
        // The stream lives as long as its own task; answers that come later have nobody to go to.
        updates.poll_recv(context).map(|update| update.map(|update| *update))
    }
}

#[cfg(test)]
mod tests {
    use bonafide_wire::node::{Bookmark, Reported};
    use tokio_stream::StreamExt;

    use super::*;

    fn reported(request: u64) -> Kind {
        Kind::Reported(Reported { request })
    }

    #[tokio::test]
    async fn answers_overtake_updates_and_the_task_ends_the_stream() {
        let (sender, mut outbound) = channel(4);
        let bookmark = Kind::Bookmark(Bookmark::default());
        sender.updates.send(Box::new(Ok(AuthorityMessage { kind: Some(bookmark.clone()) }))).await.unwrap();
        let answers = sender.answers.clone();
        answers.ticket(7).unwrap().answer(reported(7));
        drop(sender);
        assert_eq!(outbound.next().await.unwrap().unwrap().kind, Some(reported(7)));
        assert_eq!(outbound.next().await.unwrap().unwrap().kind, Some(bookmark));
        assert!(outbound.next().await.is_none(), "although `answers` is alive");
    }

    #[tokio::test]
    async fn requests_in_flight_are_bounded_and_given_back() {
        let (sender, _outbound) = channel(2);
        let first = sender.answers.ticket(1).unwrap();
        let _second = sender.answers.ticket(2).unwrap();
        assert!(sender.answers.ticket(3).is_none());
        first.answer(reported(1));
        assert!(sender.answers.ticket(3).is_some());
    }

    #[tokio::test]
    async fn what_is_never_read_can_be_dropped() {
        let (sender, mut outbound) = channel(2);
        let reader = tokio::spawn(async move { outbound.next().await.is_none() });
        tokio::task::yield_now().await;
        sender.abandon();
        assert!(reader.await.unwrap(), "whoever waits is told");

        let (sender, mut outbound) = channel(2);
        sender.answers.ticket(1).unwrap().answer(reported(1));
        sender.abandon();
        assert!(sender.updates.is_closed());
        assert!(outbound.next().await.is_none());
    }

    #[tokio::test]
    async fn answers_of_several_streams_go_each_to_its_own_in_order() {
        let ((one, mut to_one), (two, mut to_two)) = (channel(2), channel(2));
        let answers = [(&one, 1), (&two, 2), (&one, 3)];
        let answers =
            answers.map(|(sender, request)| (sender.answers.ticket(request).unwrap(), reported(request)));
        let reader = tokio::spawn(async move { (to_one.next().await, to_one.next().await) });
        tokio::task::yield_now().await;
        answer(answers.into());
        let (first, second) = reader.await.unwrap();
        assert_eq!(first.unwrap().unwrap().kind, Some(reported(1)));
        assert_eq!(second.unwrap().unwrap().kind, Some(reported(3)));
        assert_eq!(to_two.next().await.unwrap().unwrap().kind, Some(reported(2)));
        assert!(one.answers.ticket(4).is_some(), "the slots are free again");
    }

    #[tokio::test]
    async fn an_agent_that_does_not_read_is_noticed() {
        let (sender, _outbound) = channel(2);
        for request in 0..5 {
            sender.answers.ticket(request).unwrap().answer(reported(request));
        }
        sender.answers.too_slow().await;
    }
}
