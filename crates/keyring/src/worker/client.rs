//! The server's side.

use std::ffi::OsString;
use std::fmt;
use std::io::{self, IoSlice, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, TryLockError, mpsc};
use std::time::Duration;

use bonafide_crypto::erased::Erased;
use bonafide_crypto::key::{PublicKey, SignError, SignatureAlgorithm, Signer};
use bonafide_crypto::mac::MacKey;
use bonafide_secmem::Confinement;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::retry_on_intr;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::frame::{Frames, MAX_FRAME};
use super::message::{
    Answer, ChangePart, DevicePart, MAX_BATCH, MAX_MESSAGE, MAX_PARTS, ProblemPart, Request, SealPart,
};
use super::{MAX_LANES, PROTOCOL};
use crate::{
    DeviceConfig, KeySpec, KeyringError, LiveKeys, NewKey, Opened, SealChange, SealSource, SealState, Seals,
};

/// For a worker that was told to end. One that hangs, or was stopped, is ended by force then.
const GRACE: Duration = Duration::from_secs(2);
/// For an answer: a key of 4096 bits may take seconds to draw, a passphrase to stretch.
const PATIENCE: Duration = Duration::from_secs(60);

/// How to start a worker.
#[derive(Clone, Debug)]
pub struct WorkerProgram {
    /// The program: usually `/proc/self/exe`, which is the same as this one even after an upgrade on disk.
    pub program: PathBuf,
    /// What makes the program call [`serve_worker`](crate::serve_worker).
    pub arguments: Vec<OsString>,
    /// Lanes, 1 to 64: as many as threads that sign at a time. More of them cost a thread each, and nothing else.
    pub lanes: usize,
    /// What a device's module needs in its environment; nothing else is in it, and nothing secret belongs there.
    pub environment: Vec<(OsString, OsString)>,
    /// What a device's module needs of the system.
    pub confinement: Confinement,
}

impl WorkerProgram {
    /// This same program once more, without anything that a device may need, and with a lane for each core.
    #[must_use]
    pub fn this(arguments: impl IntoIterator<Item = impl Into<OsString>>) -> Self {
        Self {
            program: "/proc/self/exe".into(),
            arguments: arguments.into_iter().map(Into::into).collect(),
            lanes: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            environment: Vec::new(),
            confinement: Confinement::default(),
        }
    }
}

/// Live keys in a process of their own. Dropping the last of it and of its signers ends the process.
pub struct Worker(Arc<Shared>);

struct Shared {
    lanes: Vec<Mutex<Lane>>,
    /// Whoever finds none free waits for the next one.
    turn: AtomicUsize,
    lifeline: UnixStream,
    process: u32,
    /// The same, not to be confused with another that gets its number.
    pinned: OwnedFd,
    /// It is to end.
    closing: Arc<AtomicBool>,
    /// Why it ended, or has to.
    gone: Arc<OnceLock<String>>,
    watcher: Option<std::thread::JoinHandle<()>>,
}

/// How a worker came to its keyring.
#[derive(Debug)]
pub struct Unsealed {
    /// The names of the protections that this system did not grant it: to be reported.
    pub missing: Vec<String>,
    /// Which seal has opened it, and why those before it have not.
    pub opened: Opened,
    /// Why the device that is configured can't be used: what is in it can't, either.
    pub device: Option<KeyringError>,
}

struct Lane {
    socket: UnixStream,
    frames: Frames,
}

/// A key that is open in the worker.
struct RemoteKey {
    shared: Arc<Shared>,
    handle: u32,
    public: PublicKey,
}

impl Worker {
    /// Starts the process. `on_end` is told when it ends although nobody told it to: then no key signs any more, and
    /// the server should end too.
    ///
    /// # Errors
    /// [`KeyringError::WorkerStart`] if there can be no such process.
    pub fn start(
        program: &WorkerProgram,
        on_end: impl FnOnce(KeyringError) + Send + 'static,
    ) -> Result<Self, KeyringError> {
        let lanes = program.lanes.clamp(1, MAX_LANES);
        let (lifeline, theirs) = UnixStream::pair().map_err(KeyringError::WorkerStart)?;
        let (closing, gone) = (Arc::new(AtomicBool::new(false)), Arc::new(OnceLock::new()));
        let (started, start) = mpsc::channel();
        let mut command = Command::new(&program.program);
        command.args(&program.arguments).env_clear().envs(program.environment.iter().cloned());
        command.stdin(OwnedFd::from(theirs)).stdout(Stdio::null());
        let (told, why) = (Arc::clone(&closing), Arc::clone(&gone));
        // A thread that lives as long as the worker: a death signal comes when the thread that forked ends.
        let watch = move || {
            // From its first moment on, the worker ends with its parent, and not when both are told to. If that can't be, it
            // says so itself.
            let _ = bonafide_secmem::defer_signals();
            let mut child = match command.spawn() {
                Ok(child) => child,
                Err(error) => {
                    let _ = started.send(Err(error));
                    return;
                }
            };
            // Its end of the lifeline lies in the command.
            drop(command);
            // Nobody has waited for it yet, so the number is its own.
            let pinned = pidfd_open(Pid::from_child(&child), PidfdFlags::empty());
            let _ = started.send(pinned.map(|pinned| (child.id(), pinned)).map_err(Into::into));
            let ended = child.wait();
            if told.load(Ordering::SeqCst) {
                return;
            }
            let status = ended.map_or_else(|error| error.to_string(), |status| status.to_string());
            let why = why.get_or_init(|| format!("it ended with {status}"));
            on_end(KeyringError::WorkerGone(why.clone()));
        };
        let watcher = std::thread::Builder::new().name("key-worker".to_owned()).spawn(watch);
        let watcher = watcher.map_err(KeyringError::WorkerStart)?;
        let started = start.recv().map_err(|_| KeyringError::WorkerStart(io::ErrorKind::Other.into()))?;
        let (process, pinned) = started.map_err(KeyringError::WorkerStart)?;
        let mut shared = Shared {
            lanes: Vec::with_capacity(lanes),
            turn: AtomicUsize::new(0),
            lifeline,
            process,
            pinned,
            closing,
            gone,
            watcher: Some(watcher),
        };
        shared.greet(lanes, program.confinement).map_err(KeyringError::WorkerStart)?;
        Ok(Self(Arc::new(shared)))
    }

    /// Lets the worker open the device, if there is one, and the keyring at `keyring`, with the first of `seals` that does it.
    ///
    /// # Errors
    /// As [`Keyring::unseal`](crate::Keyring::unseal).
    pub fn unseal(
        &self,
        keyring: &Path,
        seals: &[SealSource],
        device: Option<&DeviceConfig>,
    ) -> Result<Unsealed, KeyringError> {
        self.keyring(false, keyring, seals, device)
    }

    /// Lets the worker make the seal and the keyring, which is open then.
    ///
    /// # Errors
    /// As [`SealSource::create`] and [`Keyring::create`](crate::Keyring::create).
    pub fn create(
        &self,
        keyring: &Path,
        seal: &SealSource,
        device: Option<&DeviceConfig>,
    ) -> Result<Unsealed, KeyringError> {
        self.keyring(true, keyring, std::slice::from_ref(seal), device)
    }

    /// Lets the worker look at the seals of a keyring, and change them. It must be one that has no keyring open, and is of no other
    /// use: who has one open can write no file.
    ///
    /// # Errors
    /// As [`inspect_seals`](crate::inspect_seals) and [`change_seals`](crate::change_seals).
    pub fn seals(
        &self,
        keyring: &Path,
        shown: &[SealSource],
        change: Option<&SealChange>,
        device: Option<&DeviceConfig>,
    ) -> Result<Seals, KeyringError> {
        let change = match change {
            None => ChangePart::Nothing,
            Some(SealChange::Add { name, source }) => {
                ChangePart::Add { name: name.as_str(), seal: seal_part(source) }
            }
            Some(SealChange::Remove(names)) => {
                ChangePart::Remove(names.iter().map(crate::SealName::as_str).collect())
            }
            Some(SealChange::Renew) => ChangePart::Renew,
        };
        let (seals, device) = (shown.iter().map(seal_part).collect(), device.map(device_part));
        self.0.call(&Request::Seals { keyring, seals, change, device }, |answer| match answer {
            Answer::Seals { seals, problems: found } => {
                let state = |(name, kind, by): (&str, &str, Option<u8>)| {
                    Some(SealState {
                        name: name.parse().ok()?,
                        kind: kind.to_owned(),
                        opened_by: by.map(usize::from),
                    })
                };
                Some(Seals {
                    seals: seals.into_iter().map(state).collect::<Option<_>>()?,
                    problems: problems(found),
                })
            }
            _ => None,
        })
    }

    fn keyring(
        &self,
        create: bool,
        keyring: &Path,
        seals: &[SealSource],
        device: Option<&DeviceConfig>,
    ) -> Result<Unsealed, KeyringError> {
        let (seals, device) = (seals.iter().map(seal_part).collect(), device.map(device_part));
        self.0.call(&Request::Unseal { create, keyring, seals, device }, |answer| match answer {
            Answer::Unsealed { missing, by: (by, name), problems: found, device } => Some(Unsealed {
                missing: missing.into_iter().map(str::to_owned).collect(),
                opened: Opened { seal: name.parse().ok()?, by: usize::from(by), problems: problems(found) },
                device: problems(device).pop().map(|(_, error)| error),
            }),
            _ => None,
        })
    }

    /// The process: to measure what it costs.
    #[must_use]
    pub fn process(&self) -> u32 {
        self.0.process
    }

    fn key(&self, request: &Request<'_>) -> Result<NewKey, KeyringError> {
        let (handle, public, wrapped) = self.0.call(request, |answer| match answer {
            Answer::Key { handle, spki, wrapped } => {
                Some((handle, PublicKey::from_spki_der(spki), wrapped.to_vec()))
            }
            _ => None,
        })?;
        let signer = Arc::new(RemoteKey { shared: Arc::clone(&self.0), handle, public: public? });
        Ok(NewKey { signer, wrapped })
    }
}

impl LiveKeys for Worker {
    fn generate(&self, spec: KeySpec, prefix: &str) -> Result<NewKey, KeyringError> {
        self.key(&Request::Generate { spec, prefix })
    }

    fn import(&self, context: &str, pkcs8: &[u8]) -> Result<NewKey, KeyringError> {
        self.key(&Request::Import { context, pkcs8 })
    }

    fn open(&self, context: &str, wrapped: &[u8]) -> Result<Arc<dyn Signer>, KeyringError> {
        Ok(self.key(&Request::Open { context, wrapped })?.signer)
    }

    fn mac_key(&self, purpose: &str) -> Result<MacKey, KeyringError> {
        self.0.call(&Request::MacKey { purpose }, |answer| match answer {
            Answer::MacKey(key) => Some(MacKey::from_bytes(key)),
            _ => None,
        })
    }

    fn handle(&self, requests: &[&[u8]]) -> Result<Vec<Erased>, KeyringError> {
        let now = requests.split_at_checked(MAX_PARTS).map_or(requests, |(now, _)| now);
        self.0.call(&Request::Handle(now.to_vec()), |answer| match answer {
            Answer::Handled(answers) if answers.len() <= now.len() => {
                Some(answers.into_iter().map(|answer| Erased::new(answer.to_vec())).collect())
            }
            _ => None,
        })
    }
}

impl fmt::Debug for Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker").field("process", &self.0.process).finish_non_exhaustive()
    }
}

impl Shared {
    fn greet(&mut self, lanes: usize, confinement: Confinement) -> io::Result<()> {
        let mut theirs = Vec::with_capacity(lanes);
        for _ in 0..lanes {
            let (socket, other) = UnixStream::pair()?;
            socket.set_read_timeout(Some(PATIENCE))?;
            socket.set_write_timeout(Some(PATIENCE))?;
            self.lanes.push(Mutex::new(Lane { socket, frames: Frames::default() }));
            theirs.push(other);
        }
        let Confinement { network, foreign_code } = confinement;
        let [a, b, c, d] = std::process::id().to_be_bytes();
        let flags = u8::from(network) | u8::from(foreign_code) << 1;
        (&self.lifeline).write_all(&[PROTOCOL, flags, a, b, c, d])?;
        let borrowed: Vec<_> = theirs.iter().map(|lane| lane.as_fd()).collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_LANES))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !control.push(SendAncillaryMessage::ScmRights(&borrowed)) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let count = [u8::try_from(lanes).unwrap_or(u8::MAX)];
        sendmsg(&self.lifeline, &[IoSlice::new(&count)], &mut control, SendFlags::NOSIGNAL)?;
        Ok(())
    }

    /// One request and its answer, on a lane that is free, or on the next one. Blocks.
    fn call<T>(
        &self,
        request: &Request<'_>,
        read: impl FnOnce(Answer<'_>) -> Option<T>,
    ) -> Result<T, KeyringError> {
        let mut lane = self.lane();
        let Lane { socket, frames } = &mut *lane;
        let answer = (|| {
            if let Some(why) = self.gone.get() {
                return Err(KeyringError::WorkerGone(why.clone()));
            }
            frames.send(&*socket, |out| request.encode(out)).map_err(|error| self.lost(&error))?;
            let answer = frames.receive(&*socket).map_err(|error| self.lost(&error))?;
            let answer = answer.ok_or_else(|| self.lost(&io::ErrorKind::UnexpectedEof.into()))?;
            match Answer::decode(answer) {
                Some(Answer::Refused { code, message }) => {
                    Err(KeyringError::of_worker(code, message.to_owned()))
                }
                Some(answer) => {
                    read(answer).ok_or(KeyringError::WorkerProtocol("an answer to another question"))
                }
                None => Err(KeyringError::WorkerProtocol("an answer that can't be read")),
            }
        })();
        if request.is_secret() {
            frames.wipe();
        }
        frames.shrink();
        answer
    }

    /// The first that is free, so that the same few threads and buffers stay warm.
    fn lane(&self) -> MutexGuard<'_, Lane> {
        for lane in &self.lanes {
            match lane.try_lock() {
                Ok(lane) => return lane,
                Err(TryLockError::Poisoned(lane)) => return lane.into_inner(),
                Err(TryLockError::WouldBlock) => {}
            }
        }
        let turn = self.turn.fetch_add(1, Ordering::Relaxed) % self.lanes.len().max(1);
        #[expect(clippy::expect_used, reason = "`start` makes one lane at least")]
        let lane = self.lanes.get(turn).expect("a lane");
        lane.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A lane that failed has lost its step. Nothing of this worker can be trusted to answer what was asked, so it ends.
    fn lost(&self, error: &io::Error) -> KeyringError {
        let why = match error.kind() {
            io::ErrorKind::InvalidInput => {
                return KeyringError::WorkerProtocol("a request that is too large");
            }
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => "it did not answer in time".to_owned(),
            io::ErrorKind::UnexpectedEof | io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => {
                "it has ended".to_owned()
            }
            _ => error.to_string(),
        };
        let why = self.gone.get_or_init(|| why).clone();
        // Also if it can't hear any more: whoever waits for its end is to be told.
        self.kill();
        KeyringError::WorkerGone(why)
    }

    fn kill(&self) {
        // It fails when the process has ended, and then all is well.
        let _ = pidfd_send_signal(&self.pinned, Signal::KILL);
    }

    /// Tells it to end, and sees that it does.
    fn end(&self) {
        let _ = self.lifeline.shutdown(std::net::Shutdown::Both);
        let mut ended = [PollFd::new(&self.pinned, PollFlags::IN)];
        let grace = Timespec { tv_sec: GRACE.as_secs().cast_signed(), tv_nsec: 0 };
        if !matches!(retry_on_intr(|| poll(&mut ended, Some(&grace))), Ok(1..)) {
            self.kill();
        }
    }

    fn sign(
        &self,
        handle: u32,
        algorithm: SignatureAlgorithm,
        messages: &[&[u8]],
    ) -> Result<Vec<Result<Vec<u8>, SignError>>, KeyringError> {
        let request = Request::Sign { handle, algorithm, messages: messages.to_vec() };
        self.call(&request, |answer| match answer {
            Answer::Signatures(signatures) if signatures.len() == messages.len() => {
                Some(signatures.into_iter().map(|signature| signature.map(<[u8]>::to_vec)).collect())
            }
            _ => None,
        })
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.closing.store(true, Ordering::SeqCst);
        self.end();
        // The watcher itself may hold the last of it, in what it tells.
        if let Some(watcher) = self.watcher.take()
            && watcher.thread().id() != std::thread::current().id()
        {
            let _ended = watcher.join();
        }
    }
}

impl Signer for RemoteKey {
    fn public_key(&self) -> &PublicKey {
        &self.public
    }

    fn signature_algorithm(&self) -> SignatureAlgorithm {
        SignatureAlgorithm::default_for(self.public.algorithm())
    }

    fn sign_with(&self, algorithm: SignatureAlgorithm, message: &[u8]) -> Result<Vec<u8>, SignError> {
        let mut signatures = self.sign_each(algorithm, &[message]);
        signatures.pop().unwrap_or_else(|| Err(SignError::Failed("no signature came".to_owned())))
    }

    fn sign_each(
        &self,
        algorithm: SignatureAlgorithm,
        messages: &[&[u8]],
    ) -> Vec<Result<Vec<u8>, SignError>> {
        let mut signatures = Vec::with_capacity(messages.len());
        let mut rest = messages;
        while !rest.is_empty() {
            let (now, later) = rest.split_at_checked(fitting(rest)).unwrap_or((rest, &[]));
            rest = later;
            if now.iter().any(|message| message.len() > MAX_MESSAGE) {
                signatures.push(Err(SignError::Failed("the message is too long to be signed".to_owned())));
                continue;
            }
            match self.shared.sign(self.handle, algorithm, now) {
                Ok(made) => signatures.extend(made),
                Err(error) => {
                    let failed = SignError::Failed(format!("{error} ({})", error.code()));
                    signatures.extend(now.iter().map(|_| Err(failed.clone())));
                }
            }
        }
        signatures
    }
}

fn seal_part(seal: &SealSource) -> SealPart<'_> {
    match seal {
        SealSource::KeyFile(path) => SealPart::KeyFile(path),
        SealSource::Passphrase(passphrase) => SealPart::Passphrase(passphrase.expose()),
        SealSource::Device => SealPart::Device,
        SealSource::Missing { kind, why } => SealPart::Missing { kind, why },
    }
}

fn device_part(device: &DeviceConfig) -> DevicePart<'_> {
    DevicePart { module: &device.module, token: &device.token, pin: device.pin.expose() }
}

fn problems(parts: Vec<ProblemPart<'_>>) -> Vec<(usize, KeyringError)> {
    let problem = |(place, code, message): ProblemPart<'_>| {
        (usize::from(place), KeyringError::of_worker(code, message.to_owned()))
    };
    parts.into_iter().map(problem).collect()
}

/// How many messages go into one frame: at least one, and one that is too long goes alone.
fn fitting(messages: &[&[u8]]) -> usize {
    let mut room = MAX_FRAME / 2;
    let fit = messages.iter().take(MAX_BATCH).take_while(|message| {
        let left = room.checked_sub(message.len()).filter(|_| message.len() <= MAX_MESSAGE);
        room = left.unwrap_or(0);
        left.is_some()
    });
    fit.count().max(1)
}

impl Drop for RemoteKey {
    fn drop(&mut self) {
        if !self.shared.closing.load(Ordering::SeqCst) && self.shared.gone.get().is_none() {
            let _ = self.shared.call(&Request::Forget { handle: self.handle }, |_| Some(()));
        }
    }
}

impl fmt::Debug for RemoteKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RemoteKey").field("public", &self.public).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Hears nothing, and says nothing.
    fn deaf(on_end: impl FnOnce(KeyringError) + Send + 'static) -> Worker {
        let program =
            WorkerProgram { program: "/bin/sleep".into(), lanes: 1, ..WorkerProgram::this(["100000"]) };
        Worker::start(&program, on_end).unwrap()
    }

    #[test]
    fn a_worker_that_hangs_is_ended_and_its_end_is_told() {
        let (tell, ended) = mpsc::channel();
        let worker = deaf(move |error| tell.send(error).unwrap());
        let lost = worker.0.lost(&io::ErrorKind::TimedOut.into());
        assert_eq!(lost.code(), "keyring.worker-gone");
        assert!(ended.recv().unwrap().to_string().contains("did not answer in time"));
    }

    #[test]
    fn a_worker_that_was_stopped_does_not_keep_its_server_from_ending() {
        let worker = deaf(|_| panic!("it was told to end"));
        pidfd_send_signal(&worker.0.pinned, Signal::STOP).unwrap();
        drop(worker);
    }
}
