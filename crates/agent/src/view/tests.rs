use super::*;
use crate::testing::{bundle, entry, selectors};

fn update(revision: u64) -> Update {
    Update { incarnation: Bytes::from_static(&[1; 16]), revision, ..Update::default() }
}

fn web(revision: u64) -> types::Registration {
    types::Registration { revision, ..entry("web", "spiffe://example.org/web", &[("unix.uid", "1")]) }
}

fn view() -> View {
    let mut view = View::new("example.org".parse().unwrap());
    let bundle = bundle();
    let first = Update { snapshot_start: true, upserts: vec![web(3)], bundle, ..update(5) };
    let (acknowledge, changes) = view.update(first).unwrap().unwrap();
    assert_eq!(acknowledge.revision, 5);
    assert_eq!(changes, Changes { registrations: vec!["web".into()], bundle: true, ..Changes::default() });
    view
}

#[test]
fn a_snapshot_takes_effect_as_a_whole() {
    let mut view = view();
    let one = types::Registration { id: "one".into(), ..web(6) };
    let begin = Update { snapshot_start: true, more: true, upserts: vec![one], ..update(0) };
    assert_eq!(view.update(begin).unwrap(), None);
    assert!(view.get("web").is_some() && view.get("one").is_none());
    let (acknowledge, mut changes) = view.update(update(9)).unwrap().unwrap();
    assert_eq!(acknowledge.revision, 9);
    changes.registrations.sort();
    assert_eq!(changes.registrations, vec!["one".into(), RegistrationId::from("web")]);
    assert!(view.get("web").is_none() && view.get("one").is_some());
}

#[test]
fn a_bundle_of_no_use_never_replaces_a_good_one() {
    let mut view = view();
    for document in [&b"{}"[..], b"nonsense", br#"{"keys":[]}"#] {
        let update = Update { bundle: Bytes::copy_from_slice(document), ..update(6) };
        let (_, changes) = view.update(update).unwrap().unwrap();
        assert!(!changes.bundle);
        assert_eq!(view.bundle(), &bundle());
    }
}

#[test]
fn half_a_change_is_forgotten_with_its_stream() {
    let mut view = view();
    let begin = Update { more: true, removals: vec!["web".into()], ..update(0) };
    assert_eq!(view.update(begin).unwrap(), None);
    assert_eq!(view.hello().revision, 5);
    let (_, changes) = view.update(update(6)).unwrap().unwrap();
    assert_eq!(changes, Changes::default());
    assert!(view.get("web").is_some());
}

#[test]
fn another_incarnation_needs_a_snapshot() {
    let mut view = view();
    let other = Update { incarnation: Bytes::from_static(&[2; 16]), ..update(6) };
    assert_eq!(view.update(other), Err(Violation::OtherIncarnation));
    assert_eq!(view.update(update(4)), Err(Violation::Backwards));
    assert_eq!(view.update(update(0)), Err(Violation::Nameless));
}

#[test]
fn a_bookmark_is_answered_with_the_digest_that_is_there() {
    let mut view = view();
    let digest = Bytes::copy_from_slice(&view.digest.bytes());
    let good = Bookmark { revision: 8, set_digest: digest.clone(), ..Bookmark::default() };
    let revocations_digest = Bytes::copy_from_slice(&view.revocations().digest());
    let policies_digest = Bytes::copy_from_slice(&view.policies().digest());
    let expected =
        Acknowledge { revision: 8, set_digest: digest.clone(), revocations_digest, policies_digest };
    assert_eq!(view.bookmark(&good).unwrap(), expected);
    let other = Bookmark { revision: 9, set_digest: Bytes::from_static(&[0; 32]), ..Bookmark::default() };
    assert_eq!(view.bookmark(&other).unwrap().set_digest, digest);
    // Not at a revision of which it has not seen the state.
    assert_eq!(view.hello().revision, 8);
}

#[test]
fn what_is_not_understood_counts_but_matches_nothing() {
    let mut view = view();
    let before = view.digest.bytes();
    let strange = types::Registration { id: "new".into(), kind: 99, ..web(7) };
    view.update(Update { upserts: vec![strange], ..update(7) }).unwrap().unwrap();
    assert_ne!(view.digest.bytes(), before);
    assert!(view.get("new").is_none());
    assert_eq!(view.len(), 2);
    view.update(Update { removals: vec!["new".into()], ..update(8) }).unwrap().unwrap();
    assert_eq!(view.digest.bytes(), before);
}

#[test]
fn foreign_parents_and_expired_registrations_match_nothing() {
    let mut view = View::new("example.org".parse().unwrap());
    let agent: SpiffeId = "spiffe://example.org/bonafide/agent/lab/1".parse().unwrap();
    let mine = types::Registration { id: "mine".into(), parent: agent.to_string(), ..web(2) };
    let parent = "spiffe://example.org/bonafide/agent/lab/2".into();
    let other = types::Registration { id: "other".into(), parent, ..web(3) };
    let expired = types::Registration { id: "expired".into(), expires_at: 100, ..web(4) };
    view.update(Update { snapshot_start: true, upserts: vec![mine, other, expired], ..update(5) }).unwrap();
    let found = view.matches(&selectors(&[("unix.uid", "1")]), Some(&agent), UnixTime::from_secs(100));
    assert_eq!(found.len(), 1);
    assert_eq!(&*found[0].0, "mine");
}

fn revoke(instance: u8) -> types::Revocation {
    use bonafide_identity::{InstanceId, Revocation, revocation::Subject};
    let subject = Subject::Instance(InstanceId::from_bytes([instance; 16]));
    from_revocation(&Revocation { subject, issued_before: None, expires_at: UnixTime::from_secs(1) })
}

#[test]
fn revocations_take_effect_as_a_whole_and_come_back_after_a_restart() {
    let mut view = view();
    let part = Update { more: true, revoked: vec![revoke(1)], ..update(0) };
    assert_eq!(view.update(part).unwrap(), None);
    assert!(view.revocations().is_empty());
    let last = Update { revoked: vec![revoke(2)], ..update(6) };
    let (acknowledge, changes) = view.update(last.clone()).unwrap().unwrap();
    assert!(changes.revocations);
    assert_eq!(acknowledge.revocations_digest, view.revocations().digest().as_slice());
    assert_eq!(view.revocations().len(), 2);

    // A delta from before is no delta any more.
    view.update(Update { unrevoked: vec![revoke(2)], ..update(7) }).unwrap().unwrap();
    assert_eq!(view.update(last), Err(Violation::Backwards));
    assert_eq!(view.revocations().len(), 1);

    let mut restored = View::new("example.org".parse().unwrap());
    restored.update(view.to_snapshot()).unwrap().unwrap();
    assert_eq!(restored.revocations(), view.revocations());
    assert_eq!(restored.hello(), view.hello());
}

#[test]
fn a_giant_set_is_refused_before_it_is_kept() {
    let mut view = view();
    let many = |count| Update { more: true, revoked: vec![revoke(1); count], ..update(0) };
    assert_eq!(view.update(many(MAX_REVOCATIONS)).unwrap(), None);
    assert_eq!(view.update(many(1)), Err(Violation::TooManyRevocations));
    assert!(view.revocations().is_empty());
}

fn policy(name: &str, document: Vec<u8>) -> types::Policy {
    types::Policy { name: name.into(), revision: 6, document: document.into(), ..types::Policy::default() }
}

#[test]
fn too_many_policies_deny_everything_and_hold_up_nothing_else() {
    let mut view = view();
    let good = b"{kind: Policy, name: good, rules: [{name: a, allow: {who: anyone}}]}".to_vec();
    let first = Update { policies: vec![policy("good", good.clone())], ..update(6) };
    view.update(first).unwrap().unwrap();
    assert_eq!(view.policies().not_understood(), None);

    let many: Vec<_> = (0..5000).map(|n| policy(&format!("p{n}"), good.clone())).collect();
    let flood = Update { policies: many.clone(), revoked: vec![revoke(1)], ..update(7) };
    let (acknowledge, changes) = view.update(flood).unwrap().unwrap();
    assert!(changes.revocations && changes.policies);
    assert_eq!((acknowledge.revision, view.revocations().len()), (7, 1));
    assert!(view.policies().not_understood().is_some());
    assert!(view.policies().wires().all(|wire| wire.document.is_empty()));
    // The authority finds what it has told, and goes on.
    let mut digest = SetDigest::default();
    for (name, document) in many.iter().map(|one| (&*one.name, &one.document)).chain([("good", &good.into())])
    {
        let item = [&*digest_item(name, 6), &bonafide_crypto::digest::sha256(document)].concat();
        digest.insert(&item);
    }
    assert_eq!(acknowledge.policies_digest, digest.bytes().as_slice());

    // Once they are few again, it has everything told again.
    let removed = many.iter().skip(1).map(|one| one.name.clone()).collect();
    let (acknowledge, _) = view.update(Update { policies_removed: removed, ..update(8) }).unwrap().unwrap();
    assert_eq!(acknowledge.policies_digest, [0xff; 32].as_slice());
    assert!(view.policies().not_understood().is_some());
    let again = b"{kind: Policy, name: p0, rules: [{name: a, allow: {who: anyone}}]}".to_vec();
    let repair = Update { policies_start: true, policies: vec![policy("p0", again)], ..update(9) };
    let (acknowledge, _) = view.update(repair).unwrap().unwrap();
    assert_ne!(acknowledge.policies_digest, [0xff; 32].as_slice());
    assert_eq!(view.policies().not_understood(), None);
}

#[test]
fn policies_that_are_too_large_together_are_not_kept() {
    let mut view = view();
    let large = |n: u32| Update {
        more: true,
        policies: vec![policy(&format!("p{n}"), vec![b' '; 1 << 20])],
        ..update(0)
    };
    for n in 0..80 {
        assert_eq!(view.update(large(n)).unwrap(), None);
    }
    view.update(update(7)).unwrap().unwrap();
    assert!(view.policies().wires().all(|wire| wire.document.is_empty()));
    assert!(view.policies().not_understood().is_some());
}
