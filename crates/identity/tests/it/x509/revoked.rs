//! What was issued and is valid, and must be refused all the same.

use std::sync::Arc;

use bonafide_identity::attributes::{self, Attribute, Attributes, Kind};
use bonafide_identity::revocation::{AGENT_KEY, Subject};
use bonafide_identity::{
    BundleMap, Certificate, InstanceId, Revocation, Revocations, SpiffeId, TrustBundle, TrustDomain, UnixTime,
};

use super::{ID, KEYS, World, verify};
use crate::forge::{Forge, NOW};

const AGENT: &str = "/bonafide/agent/edge/0190a1b2-c3d4-7e5f-8a6b-7c8d9e0f1a2b";
const INSTANCE: InstanceId = InstanceId::from_bytes([7; 16]);

fn domain() -> TrustDomain {
    TrustDomain::parse("example.org").unwrap()
}

fn world() -> World {
    let mut world = World::new();
    let attributes = Attributes {
        instance: Some(INSTANCE),
        attributes: vec![Attribute::site("edge"), Attribute::new(Kind::Evidence, AGENT_KEY, AGENT)],
        ..Attributes::default()
    };
    world.leaf.add(attributes::OID.as_bytes(), false, attributes.encode().unwrap().der().to_vec());
    world
}

fn revocations(subject: Subject, issued_before: Option<UnixTime>) -> Arc<Revocations> {
    let mut set = Revocations::new(domain());
    set.insert(Revocation { subject, issued_before, expires_at: UnixTime::from_secs(NOW + 100) }).unwrap();
    Arc::new(set)
}

fn outcome(world: &World, bundles: BundleMap, subject: Subject, before: Option<UnixTime>) -> &'static str {
    let bundles = bundles.with_revocations(revocations(subject, before));
    verify(&world.chain(), &bundles, NOW).map_or_else(|error| error.code(), |_| "ok")
}

#[test]
fn each_subject_refuses_what_it_names_and_nothing_else() {
    let world = world();
    let id = |path: &str| SpiffeId::new(&domain(), path).unwrap();
    let other_agent = AGENT.replace("0190a1b2", "0190a1b3");
    let root = KEYS.root.public_key().key_id();
    let intermediate = KEYS.intermediate.public_key().key_id();
    for (subject, expected) in [
        (Subject::Instance(INSTANCE), "x509.revoked-instance"),
        (Subject::Instance(InstanceId::from_bytes([8; 16])), "ok"),
        (Subject::Id(SpiffeId::parse(ID).unwrap()), "x509.revoked-id"),
        (Subject::Id(id("/ns/shop/sa")), "ok"),
        (Subject::Agent(id(AGENT)), "x509.revoked-agent"),
        (Subject::Agent(id(&other_agent)), "ok"),
        (Subject::Site("edge".into()), "x509.revoked-site"),
        (Subject::Site("edge2".into()), "ok"),
        (Subject::AuthorityKey(intermediate.into()), "x509.distrusted-authority"),
        (Subject::AuthorityKey(root.into()), "x509.distrusted-authority"),
        (Subject::AuthorityKey(KEYS.leaf.public_key().key_id().into()), "ok"),
    ] {
        let bundles = (world.bundles)(&world);
        assert_eq!(outcome(&world, bundles, subject.clone(), None), expected, "{subject}");
    }
}

#[test]
fn a_bound_is_compared_with_the_start_of_validity() {
    let world = world();
    let leaf = Certificate::from_der(&world.chain()[0]).unwrap();
    for (seconds, expected) in [(0, "ok"), (1, "x509.revoked-id"), (-1, "ok")] {
        let bound = UnixTime::from_secs(leaf.not_before().as_secs() + seconds);
        let subject = Subject::Id(SpiffeId::parse(ID).unwrap());
        assert_eq!(outcome(&world, (world.bundles)(&world), subject, Some(bound)), expected, "{seconds}");
    }
}

#[test]
fn revocations_of_another_trust_domain_mean_nothing() {
    let world = world();
    let mut set = Revocations::new(TrustDomain::parse("other.org").unwrap());
    let subjects = [Subject::Site("edge".into()), Subject::Instance(INSTANCE)];
    for subject in subjects {
        set.insert(Revocation { subject, issued_before: None, expires_at: UnixTime::from_secs(NOW) })
            .unwrap();
    }
    let bundles = (world.bundles)(&world).with_revocations(Arc::new(set));
    verify(&world.chain(), &bundles, NOW).unwrap();
}

#[test]
fn a_path_around_a_distrusted_authority_is_found() {
    let world = world();
    let other = KEYS.other.public_key();
    let second = Forge::authority("second", "second", "spiffe://example.org", other, other);
    let cross = Forge::authority(
        "second",
        "intermediate",
        "spiffe://example.org",
        KEYS.intermediate.public_key(),
        other,
    );
    let mut chain = world.chain();
    chain.push(cross.sign(&KEYS.other));
    let bundle = TrustBundle::new(domain())
        .with_x509_authority(Certificate::from_der(&world.root_der()).unwrap())
        .with_x509_authority(Certificate::from_der(&second.sign(&KEYS.other)).unwrap());
    let distrusted = revocations(Subject::AuthorityKey(KEYS.root.public_key().key_id().into()), None);
    let bundles = BundleMap::from(bundle).with_revocations(distrusted);
    verify(&chain, &bundles, NOW).unwrap();
    let error = verify(&world.chain(), &bundles, NOW).unwrap_err();
    assert_eq!(error.code(), "x509.distrusted-authority");
}

#[test]
fn an_agent_is_known_by_its_own_id() {
    let mut world = World::new();
    let id = format!("spiffe://example.org{AGENT}");
    world.leaf = Forge::leaf("intermediate", &id, KEYS.leaf.public_key(), KEYS.intermediate.public_key());
    let agent = Subject::Agent(SpiffeId::parse(&id).unwrap());
    for (subject, expected) in
        [(agent, "x509.revoked-agent"), (Subject::Site("edge".into()), "x509.revoked-site")]
    {
        assert_eq!(outcome(&world, (world.bundles)(&world), subject, None), expected);
    }
}
