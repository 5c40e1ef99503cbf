//! A connection, and its prepared statements.

use std::{
    fmt,
    future::{self, Future},
    pin::Pin,
    task::Poll,
    time::Duration,
};

use tokio::{
    sync::{Mutex, MutexGuard, watch},
    task::JoinHandle,
};
use tokio_postgres::{
    AsyncMessage, Client, Connection, NoTls, Socket, Statement, error::SqlState, tls::TlsStream,
};

use super::{PostgresAddress, encryption::MakeEncrypter};
use crate::{StoreError, sql};

/// What every session works under. A server that dies in the middle of a commit must not hold the lock of the head for
/// long; and where a policy would hide rows, a query is to fail.
const SETTINGS: &str = "SET lock_timeout = '10s'; \
     SET idle_in_transaction_session_timeout = '20s'; \
     SET tcp_keepalives_idle = 10; \
     SET tcp_keepalives_interval = 5; \
     SET tcp_keepalives_count = 3; \
     SET row_security = off; \
     SET jit = off";

/// How long any answer may take that does not grow with the store; the lock of the head may be waited for in it. Where
/// the network loses what the database says, but not what it hears, nothing else would ever end the wait.
pub(super) const ANSWER_TIME: Duration = Duration::from_secs(12);
/// The same for all that a new session begins with.
const OPEN_TIME: Duration = Duration::from_secs(8);

/// How often a session is opened anew where it was cut, and a commit is tried anew on another one.
pub(super) const ATTEMPTS: usize = 3;

/// Wakes readers early. Nothing depends on it.
pub(super) const NOTIFY: &str = "NOTIFY bonafide_store";
const LISTEN: &str = "LISTEN bonafide_store";

/// A session that is opened when it is needed, and again after it broke. One user at a time.
#[derive(Debug)]
pub(super) struct Link {
    address: PostgresAddress,
    /// What notifications are counted on, for a session that listens.
    wake: Option<watch::Sender<u64>>,
    session: Mutex<Option<Session>>,
}

/// An open connection.
pub(super) struct Session {
    pub(super) client: Client,
    pub(super) statements: Statements,
    driver: JoinHandle<()>,
}

/// Every statement of [`sql`] that a session runs.
pub(super) struct Statements {
    pub(super) advance: Statement,
    pub(super) authenticate_head: Statement,
    pub(super) authenticate_object: Statement,
    pub(super) change_mac: Statement,
    pub(super) changes: Statement,
    pub(super) delete_changes: Statement,
    pub(super) delete_object: Statement,
    pub(super) head: Statement,
    pub(super) insert_change: Statement,
    pub(super) objects: Statement,
    pub(super) put_object: Statement,
    pub(super) renew: Statement,
}

impl Link {
    pub(super) fn new(address: PostgresAddress, wake: Option<watch::Sender<u64>>) -> Self {
        Self { address, wake, session: Mutex::new(None) }
    }

    /// The session, once nobody else uses it. Whoever meets an error must [`cut`] it: nobody knows what its server is
    /// doing.
    pub(super) async fn session(&self) -> Result<MutexGuard<'_, Option<Session>>, StoreError> {
        let mut session = self.session.lock().await;
        if session.as_ref().is_none_or(|session| session.client.is_closed()) {
            *session = None;
            let opened = tokio::time::timeout(OPEN_TIME, self.open()).await;
            *session = Some(opened.unwrap_or_else(|_| Err(silent(OPEN_TIME)))?);
        }
        Ok(session)
    }

    /// A new session. Nothing is in doubt where one is cut before it was used, so another is opened.
    async fn open(&self) -> Result<Session, StoreError> {
        let mut opened = Session::open(&self.address, self.wake.clone()).await;
        for _ in 1..ATTEMPTS {
            let Err(StoreError::Io(_)) = opened else { break };
            opened = Session::open(&self.address, self.wake.clone()).await;
        }
        opened
    }
}

/// The session in a guard of [`Link::session`].
pub(super) fn open<'a>(guard: &'a MutexGuard<'_, Option<Session>>) -> Result<&'a Session, StoreError> {
    guard.as_ref().ok_or(StoreError::Closed)
}

impl Session {
    async fn open(address: &PostgresAddress, wake: Option<watch::Sender<u64>>) -> Result<Self, StoreError> {
        let listens = wake.is_some();
        let (client, driver) = connect(address, wake).await?;
        let statements = Statements::prepare(&client).await.map_err(|cause| error(&cause))?;
        if listens && let Err(cause) = client.batch_execute(LISTEN).await {
            tracing::warn!("the database sends no notifications, so changes are polled: {}", error(&cause));
        }
        Ok(Self { client, statements, driver })
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Session(..)")
    }
}

impl Statements {
    async fn prepare(client: &Client) -> Result<Self, tokio_postgres::Error> {
        Ok(Self {
            advance: client.prepare(sql::ADVANCE).await?,
            authenticate_head: client.prepare(sql::AUTHENTICATE_HEAD).await?,
            authenticate_object: client.prepare(sql::AUTHENTICATE_OBJECT).await?,
            change_mac: client.prepare(sql::CHANGE_MAC).await?,
            changes: client.prepare(sql::CHANGES).await?,
            delete_changes: client.prepare(sql::DELETE_CHANGES).await?,
            delete_object: client.prepare(sql::DELETE_OBJECT).await?,
            head: client.prepare(sql::HEAD).await?,
            insert_change: client.prepare(sql::INSERT_CHANGE).await?,
            objects: client.prepare(sql::OBJECTS).await?,
            put_object: client.prepare(sql::PUT_OBJECT).await?,
            renew: client.prepare(sql::RENEW).await?,
        })
    }
}

/// Connects to a database that keeps what it has acknowledged.
pub(super) async fn connect(
    address: &PostgresAddress,
    wake: Option<watch::Sender<u64>>,
) -> Result<(Client, JoinHandle<()>), StoreError> {
    let failed = |cause| error(&cause);
    let (client, driver) = match address.encryption()? {
        None => {
            let (client, connection) = address.config().connect(NoTls).await.map_err(failed)?;
            (client, tokio::spawn(drive(connection, wake)))
        }
        Some(encryption) => {
            let connected = address.config().connect(MakeEncrypter(encryption)).await;
            let (client, connection) = connected.map_err(failed)?;
            (client, tokio::spawn(drive(connection, wake)))
        }
    };
    let checked = async {
        client.batch_execute(SETTINGS).await.map_err(|cause| error(&cause))?;
        check_durability(&client).await
    };
    match checked.await {
        Ok(()) => Ok((client, driver)),
        Err(cause) => {
            driver.abort();
            Err(cause)
        }
    }
}

async fn drive<T: TlsStream + Unpin>(
    mut connection: Connection<Socket, T>,
    wake: Option<watch::Sender<u64>>,
) {
    while let Some(Ok(message)) = future::poll_fn(|context| connection.poll_message(context)).await {
        if let (AsyncMessage::Notification(_), Some(wake)) = (message, &wake) {
            wake.send_modify(|count| *count = count.wrapping_add(1));
        }
    }
    // Whatever was lost, whoever waits looks for himself.
    if let Some(wake) = &wake {
        wake.send_modify(|count| *count = count.wrapping_add(1));
    }
}

/// What is acknowledged must be on the disk, as this session sees it: a role or a database may have settings of its
/// own.
async fn check_durability(client: &Client) -> Result<(), StoreError> {
    let rows = client.query(sql::POSTGRES_SETTINGS, &[]).await.map_err(|cause| error(&cause))?;
    for row in rows {
        let (name, value): (String, String) =
            (row.try_get(0).map_err(|cause| error(&cause))?, row.try_get(1).map_err(|cause| error(&cause))?);
        match (name.as_str(), value.as_str()) {
            ("fsync" | "synchronous_commit" | "full_page_writes", "off") => {
                return Err(StoreError::NotDurable { setting: name });
            }
            ("server_encoding", encoding) if encoding != "UTF8" => {
                return Err(StoreError::Io(format!("the database's encoding is `{encoding}`, not `UTF8`")));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Sends several requests at once, and collects their answers later: one round trip for all of them.
#[derive(Default)]
pub(super) struct Pipeline<'a>(Vec<Request<'a>>);

struct Request<'a> {
    future: Pin<Box<dyn Future<Output = Result<u64, tokio_postgres::Error>> + Send + 'a>>,
    answer: Option<Result<u64, tokio_postgres::Error>>,
}

impl<'a> Pipeline<'a> {
    /// Sends a request: a prepared one is sent when its future is first polled.
    pub(super) async fn send(
        &mut self,
        request: impl Future<Output = Result<u64, tokio_postgres::Error>> + Send + 'a,
    ) {
        let mut future: Pin<Box<dyn Future<Output = _> + Send + 'a>> = Box::pin(request);
        let answer = future::poll_fn(|context| match future.as_mut().poll(context) {
            Poll::Ready(answer) => Poll::Ready(Some(answer)),
            Poll::Pending => Poll::Ready(None),
        })
        .await;
        self.0.push(Request { future, answer });
    }

    /// Waits for every answer: how many rows each request changed, or the first error.
    pub(super) async fn finish(self) -> Result<Vec<u64>, tokio_postgres::Error> {
        let mut counts = Vec::with_capacity(self.0.len());
        for Request { future, answer } in self.0 {
            counts.push(match answer {
                Some(answer) => answer?,
                None => future.await?,
            });
        }
        Ok(counts)
    }
}

/// Waits no longer than [`ANSWER_TIME`]. The session must be cut after that, as after any error.
pub(super) async fn in_time<T>(work: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
    tokio::time::timeout(ANSWER_TIME, work).await.unwrap_or_else(|_| Err(silent(ANSWER_TIME)))
}

pub(super) fn silent(waited: Duration) -> StoreError {
    StoreError::Io(format!("PostgreSQL has not answered within {} s", waited.as_secs()))
}

/// What an error of PostgreSQL means to us.
pub(super) fn error(cause: &tokio_postgres::Error) -> StoreError {
    if let Some(said) = cause.as_db_error() {
        if *said.code() == SqlState::DISK_FULL {
            return StoreError::Full;
        }
        return StoreError::Io(format!("PostgreSQL says `{}` ({})", said.message(), said.code().code()));
    }
    let deeper = std::error::Error::source(cause).map(|source| format!(": {source}")).unwrap_or_default();
    StoreError::Io(format!(
        "PostgreSQL: {cause}{}",
        if cause.to_string().ends_with(&deeper) { "" } else { &deeper }
    ))
}
