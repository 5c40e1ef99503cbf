//! What lives beside the keys: in the worker, and in this process.

use std::sync::{Arc, mpsc};

use bonafide_crypto::erased::Erased;
use bonafide_keyring::{Dispatch, Handler, LiveKeys, LocalKeys, MAX_HANDLED, Wrapping};

use super::worker::Running;
use super::*;

/// Wraps, unwraps, reaches for what is not its own, or says as much as it is asked to.
#[derive(Debug)]
pub(crate) struct Drawer;

impl Handler for Drawer {
    fn prefix(&self) -> &'static str {
        "drawer/"
    }

    fn answer(&self, wrapping: &Wrapping<'_>, request: &[u8]) -> Erased {
        let told = |result: Result<Vec<u8>, KeyringError>| result.unwrap_or_else(|error| error.code().into());
        Erased::new(match request {
            [0, secret @ ..] => told(wrapping.wrap("drawer/a", secret)),
            [1, wrapped @ ..] => told(wrapping.unwrap("drawer/a", wrapped).map(|secret| secret.to_vec())),
            [2, wrapped @ ..] => told(wrapping.unwrap("key/a", wrapped).map(|secret| secret.to_vec())),
            [3, secret @ ..] => told(wrapping.wrap("key/a", secret)),
            [4, a, b, c, ..] => vec![7; u32::from_be_bytes([0, *a, *b, *c]) as usize],
            other => other.to_vec(),
        })
    }
}

fn ask(live: &dyn LiveKeys, request: &[u8]) -> Vec<u8> {
    let answers = live.handle(&[request]).unwrap();
    assert_eq!(answers.len(), 1);
    answers[0].to_vec()
}

fn check(live: &dyn LiveKeys) {
    let wrapped = ask(live, b"\0secret");
    assert!(!wrapped.windows(6).any(|window| window == b"secret"));
    assert_eq!(ask(live, &[b"\x01", wrapped.as_slice()].concat()), b"secret");
    // What others wrapped stays closed, and nothing is wrapped in their names.
    assert_eq!(ask(live, &[b"\x02", wrapped.as_slice()].concat()), b"keyring.unwrap");
    assert_eq!(ask(live, b"\x03secret"), b"keyring.unwrap");
    let requests: Vec<Vec<u8>> = (0..100_u8).map(|number| vec![9, number]).collect();
    let requests: Vec<&[u8]> = requests.iter().map(Vec::as_slice).collect();
    let answers = live.handle(&requests).unwrap();
    assert!(!answers.is_empty());
    assert!(answers.iter().zip(&requests).all(|(answer, request)| answer.as_slice() == *request));
}

#[test]
fn it_does_the_same_here_and_there() {
    let Running { worker, directory, .. } = worker::start();
    check(&worker);
    let local = worker::local(&directory).with_handler(Arc::new(Drawer));
    check(&local);
    let wrapped = ask(&worker, b"\0secret");
    assert_eq!(ask(&local, &[b"\x01", wrapped.as_slice()].concat()), b"secret");
    let none: &LocalKeys = &worker::local(&directory);
    assert_eq!(none.handle(&[b"x"]).unwrap_err().code(), "keyring.no-handler");
}

/// Long answers do not fit into one frame: the rest is asked again, and nothing is lost or done twice.
#[test]
fn every_caller_gets_its_own_answer() {
    let Running { worker, .. } = worker::start();
    let dispatch = Arc::new(Dispatch::start(Arc::new(worker), 2).unwrap());
    let (tell, told) = mpsc::channel();
    for number in 0..300_u32 {
        let length = if number % 3 == 0 { 500_000 } else { number };
        let tell = tell.clone();
        let [_, a, b, c] = length.to_be_bytes();
        dispatch.submit(Erased::new(vec![4, a, b, c]), move |answer| {
            tell.send((length, answer.unwrap())).unwrap();
        });
    }
    for _ in 0..300 {
        let (length, answer) = told.recv().unwrap();
        assert_eq!((answer.len(), answer.iter().all(|byte| *byte == 7)), (length as usize, true));
    }
    let long = Erased::new(vec![9; MAX_HANDLED + 1]);
    assert_eq!(dispatch.ask(long).unwrap_err().code(), "keyring.worker-protocol");
    assert_eq!(**dispatch.ask(Erased::new(vec![9; MAX_HANDLED])).unwrap(), vec![9; MAX_HANDLED]);
}

#[test]
fn who_waits_when_the_worker_dies_is_told() {
    let Running { worker, ended, .. } = worker::start();
    let process = rustix::process::Pid::from_raw(worker.process().cast_signed()).unwrap();
    let dispatch = Dispatch::start(Arc::new(worker), 1).unwrap();
    assert_eq!(**dispatch.ask(Erased::new(b"hello".to_vec())).unwrap(), *b"hello");
    rustix::process::kill_process(process, rustix::process::Signal::KILL).unwrap();
    assert_eq!(ended.recv().unwrap().code(), "keyring.worker-gone");
    let error = dispatch.ask(Erased::new(b"hello".to_vec())).unwrap_err();
    assert_eq!(error.code(), "keyring.worker-gone");
}
