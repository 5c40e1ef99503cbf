use std::{
    collections::HashMap,
    io::{self, IoSlice},
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::UnixStream,
};
use tonic::transport::server::Connected;

use super::{AuthorityFilter, Caller, Limits};

const READ_AT_ONCE: usize = 8 * 1024;

/// One accepted connection: bytes through the [`AuthorityFilter`], the [`Caller`], and a place in the [`Limits`] that
/// becomes free when it is dropped.
#[derive(Debug)]
pub struct Connection {
    stream: UnixStream,
    caller: Caller,
    filter: AuthorityFilter,
    /// Read and filtered, but not yet taken.
    ready: Vec<u8>,
    taken: usize,
    ended: bool,
    _slot: Slot,
}

impl Connection {
    pub(super) fn new(stream: UnixStream, caller: Caller, slot: Slot) -> Self {
        Self {
            stream,
            caller,
            filter: AuthorityFilter::new(),
            ready: Vec::new(),
            taken: 0,
            ended: false,
            _slot: slot,
        }
    }

    /// Who is at the other end.
    pub fn caller(&self) -> &Caller {
        &self.caller
    }
}

impl Connected for Connection {
    type ConnectInfo = Caller;

    fn connect_info(&self) -> Caller {
        self.caller.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            let waiting = this.ready.get(this.taken..).unwrap_or_default();
            if !waiting.is_empty() {
                let (now, _) = waiting.split_at(waiting.len().min(out.remaining()));
                out.put_slice(now);
                this.taken += now.len();
                if this.taken == this.ready.len() {
                    this.ready.clear();
                    this.taken = 0;
                }
                return Poll::Ready(Ok(()));
            }
            if this.ended || out.remaining() == 0 {
                return Poll::Ready(Ok(()));
            }
            if this.filter.is_transparent() {
                return Pin::new(&mut this.stream).poll_read(cx, out);
            }
            let mut space = [0; READ_AT_ONCE];
            let mut input = ReadBuf::new(&mut space);
            ready!(Pin::new(&mut this.stream).poll_read(cx, &mut input))?;
            if input.filled().is_empty() {
                this.ended = true;
                this.filter.finish(&mut this.ready);
            } else {
                this.filter.feed(input.filled(), &mut this.ready);
            }
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

/// Counts open connections, in total and by user.
#[derive(Clone, Debug)]
pub(super) struct Slots {
    limits: Limits,
    open: Arc<Mutex<Open>>,
}

#[derive(Debug, Default)]
struct Open {
    total: usize,
    by_uid: HashMap<u32, usize>,
}

/// One connection's place in the count.
#[derive(Debug)]
pub(super) struct Slot {
    uid: u32,
    open: Arc<Mutex<Open>>,
}

impl Slots {
    pub(super) fn new(limits: Limits) -> Self {
        Self { limits, open: Arc::default() }
    }

    pub(super) fn take(&self, uid: u32) -> Option<Slot> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let mine = open.by_uid.get(&uid).copied().unwrap_or(0);
        if open.total >= self.limits.connections || mine >= self.limits.connections_per_uid {
            return None;
        }
        open.total += 1;
        open.by_uid.insert(uid, mine + 1);
        Some(Slot { uid, open: Arc::clone(&self.open) })
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.total = open.total.saturating_sub(1);
        if let Some(mine) = open.by_uid.get_mut(&self.uid) {
            *mine = mine.saturating_sub(1);
            if *mine == 0 {
                open.by_uid.remove(&self.uid);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_can_take_no_more_than_his_share_and_gives_it_back() {
        let slots = Slots::new(Limits { connections: 3, connections_per_uid: 2 });
        let first = slots.take(1000).unwrap();
        let _second = slots.take(1000).unwrap();
        assert!(slots.take(1000).is_none());
        let _other = slots.take(1001).unwrap();
        assert!(slots.take(1002).is_none(), "the total is used up");
        drop(first);
        assert!(slots.take(1002).is_some());
        assert!(slots.take(1000).is_some());
    }
}
