use proptest::prelude::*;

use super::*;

const AGENT: &str = "/bonafide/agent/edge/0190a1b2-c3d4-7e5f-8a6b-7c8d9e0f1a2b";

fn domain() -> TrustDomain {
    TrustDomain::parse("example.org").unwrap()
}

fn id(path: &str) -> SpiffeId {
    SpiffeId::new(&domain(), path).unwrap()
}

fn always(subject: Subject) -> Revocation {
    Revocation { subject, issued_before: None, expires_at: UnixTime::from_secs(100) }
}

fn subject() -> impl Strategy<Value = Subject> {
    prop_oneof![
        (0_u8..4).prop_map(|n| Subject::Instance(InstanceId::from_bytes([n; 16]))),
        (0_u8..4).prop_map(|n| Subject::Id(id(&format!("/w{n}")))),
        Just(Subject::Agent(id(AGENT))),
        (0_u8..4).prop_map(|n| Subject::Site(format!("s{n}").into())),
        (0_u8..4).prop_map(|n| Subject::AuthorityKey(vec![n; 20].into())),
    ]
}

fn step() -> impl Strategy<Value = Result<Revocation, Subject>> {
    let time = || (0_i64..4).prop_map(UnixTime::from_secs);
    prop_oneof![
        3 => (subject(), proptest::option::of(time()), time()).prop_map(|(subject, issued_before, expires_at)| {
            Ok(Revocation { subject, issued_before, expires_at })
        }),
        1 => subject().prop_map(Err),
    ]
}

proptest! {
    #[test]
    fn deltas_lead_where_a_snapshot_does(steps in proptest::collection::vec(step(), 0..64)) {
        let mut set = Revocations::new(domain());
        let mut model = BTreeMap::new();
        for step in steps {
            match step {
                Ok(revocation) => {
                    let before = model.insert(revocation.subject.clone(), revocation.clone());
                    prop_assert_eq!(set.insert(revocation.clone()), Ok(before != Some(revocation)));
                }
                Err(subject) => prop_assert_eq!(set.remove(&subject), model.remove(&subject).is_some()),
            }
        }
        let mut snapshot = Revocations::new(domain());
        for revocation in model.into_values().rev() {
            snapshot.insert(revocation).unwrap();
        }
        prop_assert_eq!(set.digest(), snapshot.digest());
        prop_assert_eq!(&set, &snapshot);
    }

    #[test]
    fn different_sets_have_different_digests(one in step(), other in step()) {
        let (Ok(one), Ok(other)) = (one, other) else { return Ok(()) };
        let digest = |revocation: &Revocation| {
            let mut set = Revocations::new(domain());
            set.insert(revocation.clone()).unwrap();
            set.digest()
        };
        prop_assert_eq!(digest(&one) == digest(&other), one == other);
    }
}

#[test]
fn refuses_what_is_not_its_own_or_has_no_bounds() {
    let mut set = Revocations::new(domain());
    let other = SpiffeId::parse("spiffe://other.org/web").unwrap();
    let root = SpiffeId::parse("spiffe://example.org").unwrap();
    for (subject, code) in [
        (Subject::Id(other), "revocation.foreign"),
        (Subject::Id(root), "revocation.subject"),
        (Subject::Agent(id("/web")), "revocation.subject"),
        (Subject::Site("".into()), "revocation.subject"),
        (Subject::Site("s".repeat(1025).into()), "revocation.subject"),
        (Subject::AuthorityKey(Box::default()), "revocation.subject"),
        (Subject::AuthorityKey(vec![0; 257].into()), "revocation.subject"),
    ] {
        assert_eq!(set.insert(always(subject)).unwrap_err().code(), code);
    }
    assert!(set.is_empty());
}

#[test]
fn a_full_set_takes_no_more_and_can_still_be_changed() {
    let mut set = Revocations::new(domain());
    let instance = |n: usize| {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&n.to_be_bytes());
        Subject::Instance(InstanceId::from_bytes(bytes))
    };
    for n in 0..MAX_REVOCATIONS {
        set.insert(always(instance(n))).unwrap();
    }
    assert_eq!(set.insert(always(instance(MAX_REVOCATIONS))), Err(RevocationError::TooMany));
    let later = Revocation { expires_at: UnixTime::from_secs(200), ..always(instance(7)) };
    assert_eq!(set.insert(later.clone()), Ok(true));
    assert_eq!(set.get(&instance(7)), Some(later));
    assert!(set.remove(&instance(8)));
    assert_eq!(set.insert(always(instance(MAX_REVOCATIONS))), Ok(true));
}

#[test]
fn a_bound_refuses_what_is_older_and_nothing_else() {
    let mut set = Revocations::new(domain());
    let bound = UnixTime::from_secs(50);
    set.insert(Revocation { issued_before: Some(bound), ..always(Subject::Id(id("/web"))) }).unwrap();
    let token = |issued_at: Option<i64>| set.of_token(&id("/web"), None, issued_at.map(UnixTime::from_secs));
    assert_eq!(token(Some(49)), Some(Subject::Id(id("/web"))));
    assert_eq!(token(Some(50)), None);
    assert_eq!(token(None), Some(Subject::Id(id("/web"))), "of unknown age");
    assert_eq!(set.of_token(&id("/api"), None, None), None);
    let namesake = SpiffeId::parse("spiffe://other.org/web").unwrap();
    assert_eq!(set.of_token(&namesake, None, None), None);
}
