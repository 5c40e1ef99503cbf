//! Two workloads with one key: what one encrypts the other decrypts.

use base64ct::{Base64, Encoding as _};
use bonafide_identity::SpiffeId;
use bonafide_kms::ciphertext::Ciphertext;
use bonafide_sdk::{
    Authorizer, Context, Error, Keys,
    tls::{self, TlsListener},
};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWriteExt as _, BufReader, Lines, Take},
    time::timeout,
};

use super::{PACE, Teller, failure, tell};
use crate::{
    Failure,
    demo::event::{Event, Used},
};

/// The key of the demo.
pub(in crate::demo) const KEY: &str = "orders/pii";
/// A writer that sends more is none of the demo's.
const MAX_BYTES: u64 = 16 << 20;
/// It is told this often how many there were.
const TALLY_EVERY: u64 = 10;

/// What both sides say that they are doing. Whoever says otherwise decrypts nothing.
fn context() -> Result<Context, Failure> {
    Context::new([("table", "orders")]).map_err(|error| failure(&error))
}

/// Encrypts, and sends what comes out.
pub(super) async fn write(teller: &mut Teller<'_>, server: SpiffeId, address: &str) -> Result<(), Failure> {
    let keys = Keys::connect().await.map_err(|error| failure(&error))?;
    let context = context()?;
    let (mut stream, _) = tls::connect(address, teller.source, Authorizer::id(server))
        .await
        .map_err(|error| failure(&error))?;
    let mut told = Told::new("encrypts");
    let mut ticks = tokio::time::interval(PACE);
    for number in 1_u64.. {
        ticks.tick().await;
        let made = keys.encrypt(KEY, &context, format!("order {number}").as_bytes()).await;
        let used = made.as_ref().map(|ciphertext| version(ciphertext));
        told.tell(teller, used)?;
        let Ok(ciphertext) = made else { continue };
        let line = Base64::encode_string(&ciphertext) + "\n";
        let sent = async {
            stream.write_all(line.as_bytes()).await?;
            stream.flush().await
        };
        sent.await.map_err(|cause| Failure::of("demo.conversation", cause, "see what the reader says"))?;
    }
    Ok(())
}

/// Decrypts what comes, and each time also the first that has ever come.
pub(super) async fn read(teller: &mut Teller<'_>, client: SpiffeId) -> Result<(), Failure> {
    let keys = Keys::connect().await.map_err(|error| failure(&error))?;
    let context = context()?;
    let listener = TlsListener::bind("127.0.0.1:0", teller.source, Authorizer::id(client)).await;
    let mut listener = listener.map_err(|error| failure(&error))?;
    tell(teller.console, &Event::Listening { address: listener.local_addr().to_string() })?;
    let (stream, _) = listener.accept().await.map_err(|error| failure(&error))?;
    let stream = BufReader::new(stream.take(MAX_BYTES));
    let (mut newest, mut oldest) = (Told::new("decrypts"), Told::new("decrypts the first"));
    let mut lines = stream.lines();
    let mut line = next(&mut lines).await?;
    let first = line.clone();
    // Said otherwise than the writer has said it: what it is bound to is not what is claimed.
    let other = Context::new([("table", "customers")]).map_err(|error| failure(&error))?;
    let opened = keys.decrypt(KEY, &other, &first).await.map(|_| version(&first));
    Told::new("decrypts for another table").tell(teller, opened.as_ref().copied())?;
    loop {
        for (told, ciphertext) in [(&mut newest, &line), (&mut oldest, &first)] {
            let opened = keys.decrypt(KEY, &context, ciphertext).await;
            told.tell(teller, opened.as_ref().map(|_| version(ciphertext)))?;
        }
        // When there is nothing new, the last one is opened again.
        if let Ok(new) = timeout(PACE * 5, next(&mut lines)).await {
            line = new?;
        }
    }
}

/// What the writer sends next. Cancel safe.
async fn next<R: AsyncRead + Unpin>(lines: &mut Lines<BufReader<Take<R>>>) -> Result<Vec<u8>, Failure> {
    let ended = || Failure::of("demo.conversation", "the writer has ended", "see what it says");
    let line = lines.next_line().await.ok().flatten().ok_or_else(ended)?;
    Base64::decode_vec(&line)
        .map_err(|cause| Failure::of("demo.conversation", cause, "see what the writer sends"))
}

fn version(ciphertext: &[u8]) -> u32 {
    Ciphertext::decode(ciphertext).map_or(0, |ciphertext| ciphertext.header.version)
}

/// What was told last of one thing. What is as before is told as a number, now and then.
struct Told {
    last: Used,
}

impl Told {
    fn new(what: &str) -> Self {
        Self { last: Used { what: what.to_owned(), ..Used::default() } }
    }

    fn tell(&mut self, teller: &Teller<'_>, outcome: Result<u32, &Error>) -> Result<(), Failure> {
        let mut now = self.last.clone();
        (now.version, now.code, now.message) = match outcome {
            Ok(version) => (version, String::new(), String::new()),
            Err(error) => (0, error.code().to_owned(), error.to_string()),
        };
        let is_new = now != self.last;
        now.times += 1;
        self.last = now;
        if is_new || self.last.times.is_multiple_of(TALLY_EVERY) {
            tell(teller.console, &Event::Used(self.last.clone()))?;
        }
        Ok(())
    }
}
