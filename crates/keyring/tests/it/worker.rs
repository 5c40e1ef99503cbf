//! The worker as a process: this test program again, which is the reason for a test that is none.

use std::io::{IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use bonafide_crypto::key::{KeyAlgorithm, SignError, SignatureAlgorithm};
use bonafide_keyring::{KeySpec, LiveKeys, LocalKeys, SealSource, Worker, WorkerProgram, serve_worker_with};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use rustix::process::{Pid, Signal, kill_process};

use super::handler::Drawer;
use super::*;

const P384: KeySpec = KeySpec { algorithm: KeyAlgorithm::EcP384, in_device: false };
const SOON: Duration = Duration::from_secs(60);

#[test]
#[ignore = "what the other tests start"]
fn worker_process() {
    serve_worker_with(Arc::new(SystemRandom), Arc::new(Drawer)).unwrap();
}

pub(crate) fn program() -> WorkerProgram {
    WorkerProgram {
        lanes: 2,
        ..WorkerProgram::this(["--exact", "worker::worker_process", "--ignored", "--nocapture"])
    }
}

pub(crate) struct Running {
    pub(crate) worker: Worker,
    pub(crate) ended: mpsc::Receiver<KeyringError>,
    pub(crate) directory: Directory,
    missing: Vec<String>,
}

pub(crate) fn start() -> Running {
    let directory = Directory::new();
    key_file_keyring(&directory);
    let (tell, ended) = mpsc::channel();
    let worker = Worker::start(&program(), move |error| tell.send(error).unwrap_or_default()).unwrap();
    let source = SealSource::KeyFile(directory.at("seal.key"));
    let missing = worker.unseal(&directory.at("keyring"), &[source], None).unwrap().missing;
    Running { worker, ended, directory, missing }
}

pub(crate) fn local(directory: &Directory) -> LocalKeys {
    let seal = KeyFileSeal::open(directory.at("seal.key")).unwrap();
    LocalKeys::new(Keyring::open(directory.at("keyring"), &seal).unwrap(), Arc::new(SystemRandom))
}

fn is_there(process: u32) -> bool {
    Path::new(&format!("/proc/{process}")).exists()
}

#[test]
fn keys_are_the_same_here_and_there() {
    let Running { worker, directory, ended, .. } = start();
    let local = local(&directory);
    for algorithm in [KeyAlgorithm::EcP256, KeyAlgorithm::Ed25519, KeyAlgorithm::Rsa2048] {
        let key = worker.generate(KeySpec { algorithm, in_device: false }, "key/").unwrap();
        let public = key.signer.public_key().clone();
        let id: String = public.key_id().iter().map(|byte| format!("{byte:02x}")).collect();
        let context = format!("key/{id}");
        assert_eq!(local.open(&context, &key.wrapped).unwrap().public_key(), &public);
        let again = worker.open(&context, &key.wrapped).unwrap();
        assert!(worker.open("key/other", &key.wrapped).is_err());
        // More than fits into one request.
        let texts: Vec<Vec<u8>> =
            (0..150_u8).map(|number| vec![number; 1 + 40 * usize::from(number)]).collect();
        let messages: Vec<&[u8]> = texts.iter().map(Vec::as_slice).collect();
        let signatures = again.sign_each(again.signature_algorithm(), &messages);
        assert_eq!(signatures.len(), messages.len());
        for (message, signature) in messages.iter().zip(signatures) {
            public.verify(again.signature_algorithm(), message, &signature.unwrap()).unwrap();
        }
    }
    let (here, there) = (local.mac_key("store").unwrap(), worker.mac_key("store").unwrap());
    there.verify(&[b"row"], &here.tag(&[b"row"])).unwrap();

    let (process, signer) = (worker.process(), worker.generate(P384, "").unwrap().signer);
    drop(worker);
    assert!(signer.sign(b"a signer keeps it").is_ok());
    drop(signer);
    assert!(!is_there(process), "the last of it ends the process");
    assert!(ended.try_recv().is_err(), "which is no failure");
}

#[test]
fn what_does_not_fit_is_refused_and_the_rest_goes_on() {
    let Running { worker, directory, .. } = start();
    let key = worker.generate(P384, "key/").unwrap().signer;
    assert_eq!(key.sign_with(SignatureAlgorithm::Ed25519, b"x"), Err(SignError::Unfit));
    let long = vec![0; 65 * 1024];
    let mixed = key.sign_each(key.signature_algorithm(), &[b"a", &long, b"b"]);
    assert!(matches!(mixed.as_slice(), [Ok(_), Err(SignError::Failed(_)), Ok(_)]), "{mixed:?}");
    // It opens one keyring, once.
    let source = SealSource::KeyFile(directory.at("seal.key"));
    let error = worker.unseal(&directory.at("keyring"), &[source], None).unwrap_err();
    assert_eq!(error.code(), "keyring.worker-protocol");
    assert!(key.sign(b"still").is_ok());
}

#[test]
fn a_wrong_seal_is_named_across_the_socket() {
    let directory = Directory::new();
    let keyring = Keyring::create(directory.at("keyring"), &passphrase("right"), &SystemRandom).unwrap();
    let wrapped = LocalKeys::new(keyring, Arc::new(SystemRandom)).generate(P384, "key/").unwrap();
    let worker = Worker::start(&program(), drop).unwrap();
    assert_eq!(worker.mac_key("store").unwrap_err().code(), "keyring.worker-protocol", "it is sealed");
    let unseal = |words: &[u8]| {
        worker.unseal(&directory.at("keyring"), &[SealSource::Passphrase(secret(words))], None)
    };
    let error = unseal(b"wrong").unwrap_err();
    assert_eq!(error.code(), "keyring.wrong-seal");
    assert!(error.hint().contains("passphrase"));
    let missing = directory.at("nothing");
    let error = worker.unseal(&missing, &[SealSource::Passphrase(secret(b"right"))], None).unwrap_err();
    assert_eq!(error.code(), "keyring.io");
    unseal(b"right").unwrap();
    let id: String = wrapped.signer.public_key().key_id().iter().map(|byte| format!("{byte:02x}")).collect();
    assert!(worker.open(&format!("key/{id}"), &wrapped.wrapped).is_ok());
}

#[test]
fn a_worker_that_is_killed_is_noticed_and_signs_no_more() {
    let Running { worker, ended, .. } = start();
    let key = worker.generate(P384, "key/").unwrap().signer;
    let process = Pid::from_raw(worker.process().cast_signed()).unwrap();
    kill_process(process, Signal::KILL).unwrap();
    assert_eq!(ended.recv_timeout(SOON).unwrap().code(), "keyring.worker-gone");
    let Err(SignError::Failed(why)) = key.sign(b"x") else { panic!("it signs") };
    assert!(why.contains("keyring.worker-gone"), "{why}");
    assert_eq!(worker.generate(P384, "key/").unwrap_err().code(), "keyring.worker-gone");
}

#[test]
fn protections_hold_in_the_process() {
    let Running { worker, missing, directory, .. } = start();
    let process = worker.process();
    let of = |file: &str| fs::read(format!("/proc/{process}/{file}"));
    let key = fs::read(directory.at("seal.key")).unwrap();
    let key = key.get(key.len() - 32..).unwrap();
    assert!(!of("cmdline").unwrap().windows(32).any(|window| window == key));
    if rustix::process::geteuid().is_root() {
        assert!(of("environ").unwrap().is_empty());
        assert_eq!(missing, Vec::<String>::new(), "nothing is withheld from root here");
        let limits = String::from_utf8(of("limits").unwrap()).unwrap();
        assert!(limits.lines().any(|line| line.starts_with("Max core file size        0 ")), "{limits}");
        let status = String::from_utf8(of("status").unwrap()).unwrap();
        for expected in ["NoNewPrivs:\t1", "Seccomp:\t2"] {
            assert!(status.contains(expected), "{status}");
        }
        // Three standard ones and two lanes; the directory itself is gone.
        let descriptors = fs::read_dir(format!("/proc/{process}/fd"))
            .unwrap()
            .map(|entry| fs::read_link(entry.unwrap().path()).unwrap().to_string_lossy().into_owned());
        let descriptors: Vec<String> = descriptors.collect();
        assert!(descriptors.len() <= 5, "{descriptors:?}");
        assert_eq!(descriptors.iter().filter(|to| to.starts_with("socket:")).count(), 3, "{descriptors:?}");
        // Its lanes' network has nothing but a loopback that is down.
        let lane = fs::read_dir(format!("/proc/{process}/task")).unwrap().map(|task| task.unwrap().path());
        let routes = lane.last().map(|task| fs::read_to_string(task.join("net/dev")).unwrap()).unwrap();
        assert_eq!(routes.lines().count(), 3, "{routes}");
    }
}

/// The same user, without privileges, as an attacker in another process of his has.
#[test]
fn another_process_of_its_user_reads_no_memory() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let nobody = 65_534;
    let mut bare = Bare::spawn(|command| command.uid(nobody).gid(nobody));
    bare.greet(2, 1);
    // An answer shows that it is confined.
    assert_eq!(bare.ask(0, &[6, 0, 0, 0, 1]), [6]);
    for file in ["mem", "environ", "maps"] {
        let mut read = Command::new("head");
        read.arg("-c1").arg(format!("/proc/{}/{file}", bare.child.id())).uid(nobody).gid(nobody);
        let output = read.output().unwrap();
        assert!(!output.status.success() && output.stdout.is_empty(), "{file}");
        assert!(String::from_utf8_lossy(&output.stderr).contains("ermission denied"), "{output:?}");
    }
}

/// Whatever a server has open, and did not mean to hand on.
#[test]
fn nothing_that_it_inherits_stays_open() {
    let directory = Directory::new();
    fs::write(directory.at("secret"), "of the server").unwrap();
    let open = fs::File::open(directory.at("secret")).unwrap();
    rustix::io::fcntl_setfd(&open, rustix::io::FdFlags::empty()).unwrap();
    let mut bare = Bare::spawn(|command| command);
    bare.greet(2, 1);
    assert_eq!(bare.ask(0, &[6, 0, 0, 0, 1]), [6]);
    let Ok(descriptors) = fs::read_dir(format!("/proc/{}/fd", bare.child.id())) else { return };
    for descriptor in descriptors {
        // One that is closed meanwhile is not open.
        let to = fs::read_link(descriptor.unwrap().path()).unwrap_or_default();
        assert_ne!(to, directory.at("secret"));
    }
}

#[test]
fn a_worker_that_crashes_leaves_no_core() {
    use std::os::unix::process::ExitStatusExt as _;
    let mut bare = Bare::spawn(|command| command);
    bare.greet(2, 1);
    assert_eq!(bare.ask(0, &[6, 0, 0, 0, 1]), [6]);
    kill_process(Pid::from_child(&bare.child), Signal::ABORT).unwrap();
    let ended = bare.child.wait().unwrap();
    assert_eq!((ended.signal(), ended.core_dumped()), (Some(Signal::ABORT.as_raw()), false));
}

/// Who has the server has signatures, and the keys that authenticate its store; nothing that he asks for yields another
/// key.
#[test]
fn no_answer_holds_a_private_key() {
    let Running { worker, directory, .. } = start();
    let local = local(&directory);
    let key = worker.generate(P384, "key/").unwrap();
    let id: String = key.signer.public_key().key_id().iter().map(|byte| format!("{byte:02x}")).collect();
    let pkcs8 = Keyring::open(directory.at("keyring"), &KeyFileSeal::open(directory.at("seal.key")).unwrap())
        .unwrap()
        .unwrap(&format!("key/{id}"), &key.wrapped)
        .unwrap();
    let holds = |answer: &[u8]| pkcs8.windows(16).any(|secret| answer.windows(16).any(|part| part == secret));
    assert!(holds(&pkcs8), "the test sees it");
    assert!(!holds(&key.wrapped));
    // Wrapped a second time, it is as closed as before, and opens under its own name alone.
    let again = worker.import("key/mine", &pkcs8).unwrap();
    assert!(!holds(&again.wrapped));
    assert_eq!(worker.open("key/other", &again.wrapped).unwrap_err().code(), "keyring.unwrap");
    assert_eq!(local.open("key/mine", &again.wrapped).unwrap().public_key(), key.signer.public_key());
    for purpose in ["", "store", "key", "wrapping key, version 1", &format!("key/{id}")] {
        assert!(worker.mac_key(purpose).is_ok(), "a MAC key is derived, and is never a key that wraps");
    }
    assert_eq!(worker.import("key/none", b"no key").unwrap_err().code(), "crypto.key-malformed");
}

/// A server that speaks the protocol by hand.
struct Bare {
    child: Child,
    lifeline: Option<UnixStream>,
    lanes: Vec<UnixStream>,
}

impl Bare {
    fn spawn(adjust: impl FnOnce(&mut Command) -> &mut Command) -> Self {
        let (lifeline, theirs) = UnixStream::pair().unwrap();
        // Another user may not get to where this program lies.
        let mut command = Command::new("/proc/self/exe");
        command.args(program().arguments).env_clear().stdin(OwnedFd::from(theirs));
        let child = adjust(command.stdout(Stdio::null()).stderr(Stdio::null())).spawn().unwrap();
        Self { child, lifeline: Some(lifeline), lanes: Vec::new() }
    }

    fn greet(&mut self, protocol: u8, lanes: u8) {
        let mut lifeline = self.lifeline.as_ref().unwrap();
        let [a, b, c, d] = std::process::id().to_be_bytes();
        lifeline.write_all(&[protocol, 0, a, b, c, d]).unwrap();
        let mut theirs = Vec::new();
        for _ in 0..lanes {
            let (lane, other) = UnixStream::pair().unwrap();
            lane.set_read_timeout(Some(SOON)).unwrap();
            self.lanes.push(lane);
            theirs.push(other);
        }
        let borrowed: Vec<_> = theirs.iter().map(|lane| lane.as_fd()).collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        control.push(SendAncillaryMessage::ScmRights(&borrowed));
        // A worker that has gone already is one that refused.
        let _ = sendmsg(lifeline, &[IoSlice::new(&[lanes])], &mut control, SendFlags::NOSIGNAL);
    }

    fn ask(&mut self, lane: usize, content: &[u8]) -> Vec<u8> {
        let mut lane = &self.lanes[lane];
        let length = u32::try_from(content.len()).unwrap().to_be_bytes();
        lane.write_all(&[&length, content].concat()).unwrap();
        let mut length = [0; 4];
        if lane.read_exact(&mut length).is_err() {
            return Vec::new();
        }
        let mut answer = vec![0; u32::from_be_bytes(length) as usize];
        lane.read_exact(&mut answer).unwrap();
        answer
    }

    fn ends(&mut self) -> bool {
        self.child.wait().unwrap().success()
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn the_end_of_the_lifeline_is_the_end_of_the_worker() {
    let mut bare = Bare::spawn(|command| command);
    bare.greet(2, 2);
    assert_eq!(bare.ask(1, &[6, 0, 0, 0, 1]), [6]);
    bare.lifeline = None;
    assert!(bare.ends());
}

#[test]
fn what_is_not_of_the_protocol_ends_the_worker() {
    let attacks: [&[u8]; 6] = [
        b"GET / HTTP/1.1\r\n\r\n",
        // Lengths: too large, none.
        &[0xff, 0xff, 0xff, 0xff],
        &[0, 0, 0, 0],
        // An unknown request, a cut one, and two at once.
        &[0, 0, 0, 1, 99],
        &[0, 0, 0, 1, 3],
        &[0, 0, 0, 5, 6, 0, 0, 0, 1, 0, 0, 0, 5, 6, 0, 0, 0, 1],
    ];
    for attack in attacks {
        let mut bare = Bare::spawn(|command| command);
        bare.greet(2, 2);
        (&bare.lanes[0]).write_all(attack).unwrap();
        bare.ends();
    }
    // One byte more on the lifeline, too.
    let mut bare = Bare::spawn(|command| command);
    bare.greet(2, 1);
    bare.lifeline.as_ref().unwrap().write_all(&[1]).unwrap();
    bare.ends();
}

#[test]
fn a_handle_that_nobody_gave_signs_nothing() {
    let mut bare = Bare::spawn(|command| command);
    bare.greet(2, 1);
    let answer = bare.ask(0, &[4, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1, b'x']);
    assert_eq!(answer.first(), Some(&0));
    assert!(String::from_utf8_lossy(&answer).contains("keyring.worker-protocol"));
}

#[test]
fn only_a_server_of_the_same_version_is_served() {
    let mut bare = Bare::spawn(|command| command);
    bare.greet(1, 1);
    assert!(!bare.ends());
    // A person, or a script, at standard input.
    let mut command = Command::new("/proc/self/exe");
    command.args(program().arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    assert!(!command.status().unwrap().success());
    let mut bare = Bare::spawn(|command| command);
    bare.greet(2, 0);
    assert!(!bare.ends());
}
