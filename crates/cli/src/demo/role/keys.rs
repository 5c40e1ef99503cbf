//! Two workloads with one key: what one encrypts the other decrypts.

use base64ct::{Base64, Encoding as _};
use bonafide_identity::SpiffeId;
use bonafide_kms::ciphertext::Ciphertext;
use bonafide_sdk::{
    Authorizer, Context, Error, Keys,
    tls::{self, TlsListener},
};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};

use super::{MAX_LINE, PACE, Teller, failure, tell};
use crate::{
    Failure,
    demo::event::{Event, Used},
};

/// The key of the demo.
pub(in crate::demo) const KEY: &str = "orders/pii";
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
    let mut stream = BufReader::new(stream);
    let (mut newest, mut oldest) = (Told::new("decrypts"), Told::new("decrypts the first"));
    let mut first: Option<Vec<u8>> = None;
    loop {
        let mut line = String::new();
        let read = (&mut stream).take(MAX_LINE).read_line(&mut line).await;
        if read.is_ok_and(|read| read == 0) {
            return Ok(());
        }
        let ciphertext = Base64::decode_vec(line.trim_end())
            .map_err(|cause| Failure::of("demo.conversation", cause, "see what the writer sends"))?;
        if first.is_none() {
            // Said otherwise than the writer has said it: what it is bound to is not what is claimed.
            let other = Context::new([("table", "customers")]).map_err(|error| failure(&error))?;
            let opened = keys.decrypt(KEY, &other, &ciphertext).await.map(|_| version(&ciphertext));
            Told::new("decrypts for another table").tell(teller, opened.as_ref().copied())?;
        }
        let first = first.get_or_insert_with(|| ciphertext.clone());
        for (told, ciphertext) in [(&mut newest, &ciphertext), (&mut oldest, &*first)] {
            let opened = keys.decrypt(KEY, &context, ciphertext).await;
            let used = opened.as_ref().map(|_| version(ciphertext));
            told.tell(teller, used)?;
        }
    }
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
