//! Blind, ask, combine, open.

use bonafide_crypto::random::SystemRandom;
use bonafide_identity::X509Svid;
use bonafide_sealing::document::{Document as _, Signed};
use bonafide_sealing::exchange::EvaluationReply;
use bonafide_sealing::group::Gt;
use bonafide_sealing::object::SealedObject;
use bonafide_sealing::opening::{Acceptance, AuthenticObject, Keyholders, Opening, Step};
use bonafide_wire::problem_of;

use crate::owner::policy;
use crate::ring::{Pinned, Ring, files, now, seconds};

const SECRET: &[u8] = b"the password of the payments database";

/// What a keyholder says may be changed on its way back: a test's double of one that lies.
type Liar = Option<usize>;

struct Opened {
    secret: Option<Vec<u8>>,
    named: Vec<u8>,
    /// Of each that refused: code and hint.
    refused: Vec<(String, String)>,
}

/// All of a client's work: asks one after the other until it is open.
async fn open(ring: &Ring, object: &[u8], pinned: &Pinned, svid: &X509Svid, liar: Liar) -> Opened {
    let owner = ring.owner.owner();
    let acceptance = Acceptance { owner: &owner, name: "db", min_serial: 1, unsigned: false };
    let object = SealedObject::decode(object).unwrap();
    let object = AuthenticObject::verify(object, &acceptance, seconds()).unwrap();
    let blind = Opening::blinding_policy(&object, 0, &pinned.params).unwrap().blind(&SystemRandom).unwrap();
    let keyholders = Keyholders { params: &pinned.params, epochs: std::slice::from_ref(&pinned.epoch) };
    let mut opening = Opening::begin(&object, 0, keyholders, blind, None, None, &SystemRandom).unwrap();
    let mut out = Opened { secret: None, named: Vec::new(), refused: Vec::new() };
    let mut todo: Vec<usize> = (1..=ring.running.len()).rev().collect();
    let mut demanding = false;
    while let Some(number) = todo.pop() {
        let question = if demanding { opening.proof_request() } else { opening.request() }.clone();
        let answer = ring.ask(number, svid, pinned.roster.digest(), &question).await;
        let mut reply = match answer {
            Ok(reply) => reply,
            Err(status) => {
                let problem = problem_of(&status);
                out.refused.push((problem.code, problem.hint));
                continue;
            }
        };
        if liar == Some(number) {
            let value = Gt::decode(&reply.body.value).unwrap();
            let body = EvaluationReply { value: Box::new(*value.times(&value).encode()), ..reply.body };
            reply = Signed::new(body);
            reply.sign(&ring.stolen_key(number)).unwrap();
        }
        match opening.accept(reply) {
            Ok(Step::Opened(key)) => {
                out.secret = Some(object.secret(&key).unwrap().to_vec());
                return out;
            }
            Ok(Step::Prove(holders)) => {
                demanding = true;
                todo.extend(holders.iter().map(|holder| usize::from(holder.index.number())));
            }
            Ok(Step::Named(lie)) => {
                assert!(lie.convicts(&pinned.epoch));
                out.named.push(lie.holder.index.number());
            }
            Ok(Step::Wait) | Err(_) => {}
        }
    }
    out
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn five_keyholders_from_the_first_key_to_the_refresh() {
    let mut ring = Ring::start(3, 5).await;
    ring.generate().await;
    let pinned = ring.pinned(1).await;
    let svid = ring.domain.svid("/web", now());
    let object = ring.owner.seal(&pinned.params, &policy("test"), SECRET, seconds());

    let opened = open(&ring, &object, &pinned, &svid, None).await;
    assert_eq!(opened.secret.as_deref(), Some(SECRET));

    // Another label: all five refuse, and tell what is missing.
    let other = ring.owner.seal(&pinned.params, &policy("prod"), SECRET, seconds());
    let refused = open(&ring, &other, &pinned, &svid, None).await;
    assert!(refused.secret.is_none() && refused.refused.len() == 5);
    assert!(refused.refused.iter().all(|(code, hint)| {
        code == "keyholder.denied" && hint.contains("label env prod required, got test")
    }));

    // One lies, in an answer that it has signed: it is named, and the secret opens all the same.
    let opened = open(&ring, &object, &pinned, &svid, Some(2)).await;
    assert_eq!((opened.secret.as_deref(), opened.named), (Some(SECRET), vec![2]));

    // Two are gone: it still opens. Three are gone: it does not.
    ring.stop_one(1).await;
    ring.stop_one(4).await;
    assert_eq!(open(&ring, &object, &pinned, &svid, None).await.secret.as_deref(), Some(SECRET));
    ring.stop_one(5).await;
    assert!(open(&ring, &object, &pinned, &svid, None).await.secret.is_none());
    for number in [1, 4, 5] {
        ring.start_one(number).await;
    }
    ring.until("serving again", |status| status.serving).await;

    // New shares, while secrets are opened. Whoever asks pins what the keyholders have signed.
    let before: Vec<_> = (1..=5).map(|number| files(&ring.disk(number).join("data"))).collect();
    ring.propose_refresh().await;
    let mut opens = 0;
    loop {
        let newest = ring.pinned(3).await;
        let opened = open(&ring, &object, &newest, &svid, None).await.secret;
        // Between the switches of two keyholders fewer than t may be in either epoch: then the client asks again.
        opens += usize::from(opened.as_deref() == Some(SECRET));
        let status = ring.status(3).await;
        if status.versions[0].epoch == 2 && opens > 0 {
            break;
        }
    }
    ring.until("the second epoch", |status| status.versions[0].epoch == 2).await;
    let newest = ring.pinned(3).await;
    assert_eq!(newest.params.digest(), pinned.params.digest());
    assert_eq!(open(&ring, &object, &newest, &svid, None).await.secret.as_deref(), Some(SECRET));
    // A client of the old epoch takes no answer of the new one; the old shares and their seal keys are gone.
    assert!(open(&ring, &object, &pinned, &svid, None).await.secret.is_none());
    for (number, before) in (1..=5).zip(before) {
        ring.until("erased", |_| !ring.disk(number).join("data/seal-1-1").exists()).await;
        let after = files(&ring.disk(number).join("data"));
        assert!(before.contains_key("seal-1-1") && after.contains_key("seal-1-2"));
        assert!(!after.contains_key("seal-1-1"));
    }
    // Every answer and every refusal is in the ledger of who gave it.
    ring.stop_one(2).await;
    let lines = ring.ledger(2);
    let asked = lines.iter().filter(|line| line.contains("caller=spiffe://example.org/web instance="));
    assert!(asked.clone().any(|line| line.contains("decision=allow") && line.contains("rule=web")));
    assert!(asked.clone().any(|line| line.contains("decision=refuse code=keyholder.denied")));
    let secret = String::from_utf8_lossy(SECRET).into_owned();
    assert!(!lines.iter().any(|line| line.contains(&secret)));
}
