//! The revision log in memory, with the faults of disks and networks.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bonafide_store::{
    Batch, BoxFuture, Change, Head, Incarnation, Object, Revision, Snapshot, Store, StoreError,
};
use tokio::sync::Notify;

/// What all servers share.
#[derive(Debug)]
pub(crate) struct Disk {
    log: Mutex<Log>,
    /// Wakes in the order in which they began to wait; a `watch` would draw lots.
    written: Notify,
}

#[derive(Debug)]
struct Log {
    incarnation: u8,
    changes: Vec<Change>,
    floor: u64,
}

/// What happens to the next commit of a server.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fault {
    /// It fails, and nothing was written.
    Clean,
    /// As `Clean`, because there is no room.
    Full,
    /// It takes so long.
    Slow(Duration),
    /// The connection breaks in it; whether it was written.
    Unknown(bool),
    /// It is said to be written, and is not. No store may do that: it is there to be found.
    Lie,
}

/// A server's way to the disk, until the server crashes.
#[derive(Debug)]
pub(crate) struct Line {
    disk: Arc<Disk>,
    faults: Mutex<VecDeque<Fault>>,
    cut: AtomicBool,
}

impl Disk {
    pub(crate) fn new() -> Arc<Self> {
        let log = Log { incarnation: 1, changes: Vec::new(), floor: 0 };
        Arc::new(Self { log: Mutex::new(log), written: Notify::new() })
    }

    pub(crate) fn line(self: &Arc<Self>) -> Arc<Line> {
        Arc::new(Line { disk: Arc::clone(self), faults: Mutex::default(), cut: AtomicBool::new(false) })
    }

    pub(crate) fn incarnation(&self) -> u8 {
        self.log.lock().unwrap().incarnation
    }

    fn head(&self) -> u64 {
        self.log.lock().unwrap().changes.len() as u64
    }

    pub(crate) fn changes_after(&self, revision: u64) -> Vec<Change> {
        self.log.lock().unwrap().changes[usize::try_from(revision).unwrap()..].to_vec()
    }

    pub(crate) fn change(&self, revision: u64) -> Option<Change> {
        self.log.lock().unwrap().changes.get(usize::try_from(revision.checked_sub(1)?).unwrap()).cloned()
    }

    /// Forgets changes that are old; the objects stay.
    pub(crate) fn compact(&self) {
        let mut log = self.log.lock().unwrap();
        log.floor = log.changes.len() as u64;
    }

    /// A new life: restored from a copy that lacks the last changes, but none of a key, which would end the trust domain.
    pub(crate) fn restore(&self, lost: usize) {
        let mut log = self.log.lock().unwrap();
        log.incarnation += 1;
        for _ in 0..lost {
            match log.changes.last() {
                Some(change) if change.key.starts_with("registration/") => drop(log.changes.pop()),
                _ => break,
            }
        }
        log.floor = log.floor.min(log.changes.len() as u64);
        self.written.notify_waiters();
    }

    pub(crate) fn append(&self, changes: Vec<(String, Option<Vec<u8>>)>) -> Revision {
        let mut log = self.log.lock().unwrap();
        for (key, value) in changes {
            let revision = Revision(log.changes.len() as u64 + 1);
            log.changes.push(Change { revision, key, value });
        }
        let revision = log.changes.len() as u64;
        drop(log);
        self.written.notify_waiters();
        Revision(revision)
    }
}

impl Log {
    fn head(&self) -> Head {
        Head {
            incarnation: Incarnation::from_bytes([self.incarnation; 16]),
            revision: Revision(self.changes.len() as u64),
            floor: Revision(self.floor),
        }
    }
}

impl Line {
    pub(crate) fn fail(&self, fault: Fault) {
        self.faults.lock().unwrap().push_back(fault);
    }

    pub(crate) fn heal(&self) {
        self.faults.lock().unwrap().clear();
    }

    /// The server is gone: nothing of it reaches the disk any more, and nobody hears an answer.
    pub(crate) fn cut(&self) {
        self.cut.store(true, Ordering::SeqCst);
    }

    async fn alive(&self) {
        if self.cut.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
    }

    fn write(&self, expect: Revision, batch: Batch, lie: bool) -> Result<Revision, StoreError> {
        let head = self.disk.log.lock().unwrap().head().revision;
        if head != expect {
            return Err(StoreError::Conflict { head });
        }
        if lie {
            return Ok(Revision(head.0 + batch.changes.len() as u64));
        }
        Ok(self.disk.append(batch.changes))
    }
}

impl Store for Line {
    fn head(&self) -> BoxFuture<'_, Result<Head, StoreError>> {
        Box::pin(async {
            self.alive().await;
            Ok(self.disk.log.lock().unwrap().head())
        })
    }

    fn commit(&self, expect: Revision, batch: Batch) -> BoxFuture<'_, Result<Revision, StoreError>> {
        Box::pin(async move {
            batch.check()?;
            let fault = self.faults.lock().unwrap().pop_front();
            if let Some(Fault::Slow(time)) = fault {
                tokio::time::sleep(time).await;
            }
            self.alive().await;
            let lost = || "the connection was lost".to_owned();
            match fault {
                Some(Fault::Clean) => Err(StoreError::Io(lost())),
                Some(Fault::Full) => Err(StoreError::Full),
                Some(Fault::Unknown(written)) => {
                    if written {
                        self.write(expect, batch, false)?;
                    }
                    Err(StoreError::Unknown(lost()))
                }
                Some(Fault::Lie) => self.write(expect, batch, true),
                Some(Fault::Slow(_)) | None => self.write(expect, batch, false),
            }
        })
    }

    fn changes(&self, since: Revision, max: usize) -> BoxFuture<'_, Result<Vec<Change>, StoreError>> {
        Box::pin(async move {
            self.alive().await;
            let log = self.disk.log.lock().unwrap();
            if since.0 < log.floor {
                return Err(StoreError::Compacted { floor: Revision(log.floor) });
            }
            let since = usize::try_from(since.0).unwrap();
            Ok(log.changes.iter().skip(since).take(max).cloned().collect())
        })
    }

    fn snapshot(&self) -> BoxFuture<'_, Result<Snapshot, StoreError>> {
        Box::pin(async {
            self.alive().await;
            let log = self.disk.log.lock().unwrap();
            let mut objects = BTreeMap::new();
            for change in &log.changes {
                match &change.value {
                    Some(value) => {
                        let (key, value) = (change.key.clone(), value.clone());
                        objects.insert(key.clone(), Object { key, revision: change.revision, value });
                    }
                    None => drop(objects.remove(&change.key)),
                }
            }
            Ok(Snapshot { head: log.head(), objects: objects.into_values().collect() })
        })
    }

    fn wait(&self, after: Revision, timeout: Duration) -> BoxFuture<'_, Result<Revision, StoreError>> {
        Box::pin(async move {
            self.alive().await;
            let written = async {
                loop {
                    let written = self.disk.written.notified();
                    if self.disk.head() > after.0 {
                        return;
                    }
                    written.await;
                }
            };
            // Late or not, the answer is the same.
            let _late = tokio::time::timeout(timeout, written).await.is_err();
            self.alive().await;
            Ok(Revision(self.disk.head()))
        })
    }
}
