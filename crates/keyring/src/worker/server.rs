//! The worker's side.

use std::collections::HashMap;
use std::io::{self, IoSliceMut, Read as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Barrier, Mutex, OnceLock, PoisonError, RwLock};

use bonafide_crypto::erased::Erased;
use bonafide_crypto::key::Signer;
use bonafide_crypto::random::Random;
use bonafide_secmem::{Confinement, Missing, SecretBytes};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, Shutdown, recvmsg, shutdown};

use super::frame::{Frames, MAX_FRAME};
use super::message::{Answer, ChangePart, DevicePart, MAX_PART, ProblemPart, Request, SealPart};
use super::{MAX_LANES, PROTOCOL};
use crate::{
    DeviceAccess, DeviceConfig, Handler, Keyring, KeyringError, LiveKeys as _, LocalKeys, Opened, SealChange,
    SealName, SealSource, Seals, Unsealed, change_seals, inspect_seals,
};

/// Keys that are open at a time. A trust domain has a handful, and a few more while they rotate.
const MAX_OPEN: usize = 1024;

/// What all lanes share.
struct Service {
    confinement: Confinement,
    missing: Mutex<Vec<Missing>>,
    keys: OnceLock<LocalKeys>,
    unsealing: Mutex<()>,
    open: RwLock<Open>,
    random: Arc<dyn Random>,
    handler: Option<Arc<dyn Handler>>,
}

#[derive(Default)]
struct Open {
    keys: HashMap<u32, Arc<dyn Signer>>,
    last: u32,
}

/// What an answer is made of.
enum Reply {
    Forgotten,
    Handled(Vec<Erased>),
    Key { handle: u32, signer: Arc<dyn Signer>, wrapped: Vec<u8> },
    MacKey(zeroize::Zeroizing<[u8; 32]>),
    Signatures(Vec<Result<Vec<u8>, bonafide_crypto::key::SignError>>),
    Seals(Seals),
    Unsealed(Unsealed),
}

/// Holds keys for the parent process until that closes standard input. To be called first thing in `main`, while there
/// is no other thread.
///
/// # Errors
/// When standard input is not what a parent of ours gives, and when another process traces this one.
pub fn serve_worker(random: Arc<dyn Random>) -> Result<(), KeyringError> {
    serve(random, None)
}

/// The same, and `handler` answers what the parent asks it.
///
/// # Errors
/// As [`serve_worker`].
pub fn serve_worker_with(random: Arc<dyn Random>, handler: Arc<dyn Handler>) -> Result<(), KeyringError> {
    serve(random, Some(handler))
}

fn serve(random: Arc<dyn Random>, handler: Option<Arc<dyn Handler>>) -> Result<(), KeyringError> {
    let stdin = io::stdin();
    let lifeline = stdin.as_fd();
    let refused = |_| KeyringError::WorkerProtocol("standard input is not the socket of a server");
    let mut hello = [0; 6];
    let mut from = UnixStream::from(lifeline.try_clone_to_owned().map_err(KeyringError::WorkerStart)?);
    from.read_exact(&mut hello).map_err(refused)?;
    drop(from);
    let [PROTOCOL, flags, parent @ ..] = hello else {
        return Err(KeyringError::WorkerProtocol("the server is of another version"));
    };
    let confinement = Confinement { network: flags & 1 != 0, foreign_code: flags & 2 != 0 };
    let missing = confinement.enter();
    // From here on the death of the parent ends this process; it may have died before.
    if rustix::process::getppid().map(|id| id.as_raw_nonzero().get().cast_unsigned())
        != Some(u32::from_be_bytes(parent))
    {
        return Err(KeyringError::WorkerProtocol("the server that started it is gone"));
    }
    let service = Arc::new(Service {
        confinement,
        missing: Mutex::new(missing),
        keys: OnceLock::new(),
        unsealing: Mutex::default(),
        open: RwLock::default(),
        random,
        handler,
    });
    let lanes = receive_lanes(lifeline)?;
    // Once the keyring is open there are no new threads: so nobody is served before all are there.
    let all_there = Arc::new(Barrier::new(lanes.len() + 1));
    for (number, lane) in lanes.into_iter().enumerate() {
        let (service, all_there) = (Arc::clone(&service), Arc::clone(&all_there));
        let thread = std::thread::Builder::new().name(format!("lane-{number}"));
        let serve = move || {
            all_there.wait();
            if service.serve(UnixStream::from(lane)).is_err() {
                // Nobody speaks like this but an attacker: the main thread shall end.
                let _ = shutdown(io::stdin().as_fd(), Shutdown::Both);
            }
        };
        thread.spawn(serve).map_err(KeyringError::WorkerStart)?;
    }
    all_there.wait();
    // Nothing more is to come: a byte is as much a reason to end as the end.
    let _ = rustix::io::retry_on_intr(|| rustix::io::read(lifeline, &mut [0_u8; 1]));
    Ok(())
}

fn receive_lanes(lifeline: impl AsFd) -> Result<Vec<OwnedFd>, KeyringError> {
    let refused = || KeyringError::WorkerProtocol("the server gave no lanes");
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_LANES))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut count = [0];
    let received = rustix::io::retry_on_intr(|| {
        recvmsg(lifeline.as_fd(), &mut [IoSliceMut::new(&mut count)], &mut control, RecvFlags::CMSG_CLOEXEC)
    });
    received.map_err(|_| refused())?;
    let mut lanes = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(descriptors) = message {
            lanes.extend(descriptors);
        }
    }
    if lanes.is_empty() || count != [u8::try_from(lanes.len()).unwrap_or(0)] {
        return Err(refused());
    }
    Ok(lanes)
}

impl Service {
    /// Answers on one lane until it ends.
    fn serve(&self, lane: UnixStream) -> io::Result<()> {
        let (mut requests, mut answers) = (Frames::default(), Frames::default());
        while let Some(bytes) = requests.receive(&lane)? {
            let request = Request::decode(bytes).ok_or(io::ErrorKind::InvalidData)?;
            let secret = request.is_secret();
            let reply = self.answer(request);
            answers.send(&lane, |out| encode(&reply, out))?;
            if secret {
                requests.wipe();
                answers.wipe();
            }
            requests.shrink();
            answers.shrink();
        }
        Ok(())
    }

    fn answer(&self, request: Request<'_>) -> Result<Reply, KeyringError> {
        match request {
            Request::Unseal { create, keyring, seals, device } => {
                let _one = self.unsealing.lock().unwrap_or_else(PoisonError::into_inner);
                let (seals, device) = self.shown(&seals, device)?;
                let (keyring, opened) = if create {
                    // Who makes a keyring wants all that he has configured.
                    if let Some(problem) = device.problem() {
                        return Err(problem);
                    }
                    let seal = seals.first().ok_or(KeyringError::WorkerProtocol("there is no seal"))?;
                    let seal = seal.create(&device, &*self.random)?;
                    let opened = Opened { seal: seal.kind().parse()?, by: 0, problems: Vec::new() };
                    (Keyring::create(keyring, &*seal, &*self.random)?, opened)
                } else {
                    Keyring::unseal(keyring, &seals, &device)?
                };
                let problem = device.problem();
                let keys = LocalKeys::new(keyring, Arc::clone(&self.random)).with_device(device);
                let keys = match &self.handler {
                    Some(handler) => keys.with_handler(Arc::clone(handler)),
                    None => keys,
                };
                let _ = self.keys.set(keys);
                let mut missing = self.missing.lock().unwrap_or_else(PoisonError::into_inner);
                missing.extend(self.confinement.settle());
                let missing = missing.iter().map(|missing| missing.name().to_owned()).collect();
                Ok(Reply::Unsealed(Unsealed { missing, opened, device: problem }))
            }
            Request::Seals { keyring, seals, change, device } => {
                let _one = self.unsealing.lock().unwrap_or_else(PoisonError::into_inner);
                let (shown, device) = self.shown(&seals, device)?;
                let change = match change {
                    ChangePart::Nothing => return inspect_seals(keyring, &shown, &device).map(Reply::Seals),
                    ChangePart::Add { name, seal } => {
                        SealChange::Add { name: name.parse()?, source: source(&seal)? }
                    }
                    ChangePart::Remove(names) => {
                        let names =
                            names.iter().map(|name| name.parse()).collect::<Result<Vec<SealName>, _>>()?;
                        SealChange::Remove(names)
                    }
                    ChangePart::Renew => SealChange::Renew,
                };
                change_seals(keyring, &shown, &change, &device, &*self.random).map(Reply::Seals)
            }
            Request::Generate { spec, prefix } => {
                let key = self.keys()?.generate(spec, prefix)?;
                let handle = self.keep(&key.signer)?;
                Ok(Reply::Key { handle, signer: key.signer, wrapped: key.wrapped })
            }
            Request::Import { context, pkcs8 } => {
                let key = self.keys()?.import(context, pkcs8)?;
                let handle = self.keep(&key.signer)?;
                Ok(Reply::Key { handle, signer: key.signer, wrapped: key.wrapped })
            }
            Request::Open { context, wrapped } => {
                let signer = self.keys()?.open(context, wrapped)?;
                Ok(Reply::Key { handle: self.keep(&signer)?, signer, wrapped: Vec::new() })
            }
            Request::Sign { handle, algorithm, messages } => {
                let open = self.open.read().unwrap_or_else(PoisonError::into_inner);
                let signer = open.keys.get(&handle).cloned();
                drop(open);
                let signer = signer.ok_or(KeyringError::WorkerProtocol("there is no key of this handle"))?;
                Ok(Reply::Signatures(signer.sign_each(algorithm, &messages)))
            }
            Request::MacKey { purpose } => Ok(Reply::MacKey(self.keys()?.keyring().mac_key_bytes(purpose))),
            Request::Forget { handle } => {
                self.open.write().unwrap_or_else(PoisonError::into_inner).keys.remove(&handle);
                Ok(Reply::Forgotten)
            }
            Request::Handle(requests) => {
                let keys = self.keys()?;
                let (mut answers, mut room) = (Vec::with_capacity(requests.len()), MAX_FRAME - 1024);
                for request in requests {
                    // What is done and can't be told would be lost.
                    if room < MAX_PART + 4 {
                        break;
                    }
                    let answer = keys.handle_one(request)?;
                    room = room.saturating_sub(answer.len() + 4);
                    answers.push(answer);
                }
                Ok(Reply::Handled(answers))
            }
        }
    }

    /// What the server has shown, in a process that has no keyring open.
    fn shown(
        &self,
        seals: &[SealPart<'_>],
        device: Option<DevicePart<'_>>,
    ) -> Result<(Vec<SealSource>, DeviceAccess), KeyringError> {
        if self.keys.get().is_some() {
            return Err(KeyringError::WorkerProtocol("it is unsealed already"));
        }
        refuse_tracer()?;
        let device = match device {
            Some(DevicePart { module, token, pin }) => {
                let (module, token, pin) = (module.to_owned(), token.to_owned(), protected(pin)?);
                Some(DeviceConfig { module, token, pin })
            }
            None => None,
        };
        let seals = seals.iter().map(source).collect::<Result<_, _>>()?;
        Ok((seals, DeviceAccess::open(device.as_ref())))
    }

    fn keys(&self) -> Result<&LocalKeys, KeyringError> {
        self.keys.get().ok_or(KeyringError::WorkerProtocol("it is not unsealed"))
    }

    fn keep(&self, signer: &Arc<dyn Signer>) -> Result<u32, KeyringError> {
        let mut open = self.open.write().unwrap_or_else(PoisonError::into_inner);
        if open.keys.len() >= MAX_OPEN {
            return Err(KeyringError::WorkerProtocol("too many keys are open"));
        }
        // A handle is never used twice: one that was kept by mistake must not sign with another key.
        let handle = open.last.checked_add(1).ok_or(KeyringError::WorkerProtocol("it has run too long"))?;
        open.last = handle;
        open.keys.insert(handle, Arc::clone(signer));
        Ok(handle)
    }
}

fn encode(reply: &Result<Reply, KeyringError>, out: &mut Vec<u8>) -> Option<()> {
    match reply {
        Ok(Reply::Forgotten) => Answer::Forgotten.encode(out),
        Ok(Reply::Handled(answers)) => {
            Answer::Handled(answers.iter().map(|answer| answer.as_slice()).collect()).encode(out)
        }
        Ok(Reply::Key { handle, signer, wrapped }) => {
            Answer::Key { handle: *handle, spki: signer.public_key().spki_der(), wrapped }.encode(out)
        }
        Ok(Reply::MacKey(key)) => Answer::MacKey(key).encode(out),
        Ok(Reply::Signatures(signatures)) => {
            let borrowed = signatures.iter().map(|signature| signature.as_deref().map_err(Clone::clone));
            Answer::Signatures(borrowed.collect()).encode(out)
        }
        Ok(Reply::Seals(Seals { seals, problems })) => {
            let texts = texts(problems);
            let seals = seals.iter().map(|seal| {
                let by = seal.opened_by.and_then(|by| u8::try_from(by).ok());
                (seal.name.as_str(), seal.kind.as_str(), by)
            });
            Answer::Seals { seals: seals.collect(), problems: parts(&texts) }.encode(out)
        }
        Ok(Reply::Unsealed(Unsealed { missing, opened, device })) => {
            let device: Vec<_> = device.iter().map(|error| (0, error.code(), error.to_string())).collect();
            let problems = texts(&opened.problems);
            let answer = Answer::Unsealed {
                missing: missing.iter().map(String::as_str).collect(),
                by: (u8::try_from(opened.by).ok()?, opened.seal.as_str()),
                problems: parts(&problems),
                device: parts(&device),
            };
            answer.encode(out)
        }
        Err(error) => Answer::Refused { code: error.code(), message: &error.to_string() }.encode(out),
    }
}

fn texts(problems: &[(usize, KeyringError)]) -> Vec<(u8, &'static str, String)> {
    let text = |(place, error): &(usize, KeyringError)| {
        (u8::try_from(*place).unwrap_or(u8::MAX), error.code(), error.to_string())
    };
    problems.iter().map(text).collect()
}

fn parts<'a>(texts: &'a [(u8, &'static str, String)]) -> Vec<ProblemPart<'a>> {
    texts.iter().map(|(place, code, message)| (*place, *code, message.as_str())).collect()
}

fn source(part: &SealPart<'_>) -> Result<SealSource, KeyringError> {
    Ok(match part {
        SealPart::KeyFile(path) => SealSource::KeyFile((*path).to_owned()),
        SealPart::Passphrase(bytes) => SealSource::Passphrase(protected(bytes)?),
        SealPart::Device => SealSource::Device,
        SealPart::Missing { kind, why } => {
            let known = ["key-file", "passphrase", "pkcs11"].into_iter().find(|known| known == kind);
            SealSource::Missing { kind: known.unwrap_or("seal"), why: (*why).to_owned() }
        }
    })
}

fn protected(bytes: &[u8]) -> Result<SecretBytes, KeyringError> {
    SecretBytes::new(bytes.len(), |secret| secret.copy_from_slice(bytes)).map_err(|_| KeyringError::Memory)
}

/// A tracer that was there before this process was protected still sees everything.
fn refuse_tracer() -> Result<(), KeyringError> {
    let status = std::fs::read_to_string("/proc/self/status").map_err(KeyringError::WorkerStart)?;
    let tracer = status.lines().find_map(|line| line.strip_prefix("TracerPid:")).map(str::trim);
    match tracer.and_then(|id| id.parse().ok()) {
        Some(0) | None => Ok(()),
        Some(tracer) => Err(KeyringError::WorkerTraced(tracer)),
    }
}
