//! Who is believed: owners, parameters, rosters, epochs, deny-lists.

use std::collections::BTreeSet;

use bonafide_crypto::digest::sha256;
use bonafide_crypto::key::Signer;
use bonafide_sealing::deny::{Denied, DenyList, TrustedDenyList};
use bonafide_sealing::document::{Document, Signature};
use bonafide_sealing::epoch::{EpochRecord, TrustedEpoch};
use bonafide_sealing::group::{G1Point, G2Point, Scalar};
use bonafide_sealing::identity::Identity;
use bonafide_sealing::owner::{Owner, Root};
use bonafide_sealing::params::{SealParams, TrustedParams};
use bonafide_sealing::roster::{Roster, TrustedRoster};
use bonafide_sealing::trust::TrustError;
use bonafide_sealing::witness::{Circumstances, MAX_CLAIMS, Statement, VALIDITY};

use crate::world::{
    Keys, LABEL, NOW, POLICY, World, index, key, keyset, member_key, operator_key, public, roster_of, signed,
    tenant, times,
};

fn unsigned(error: TrustError) -> (usize, usize) {
    let TrustError::Unsigned { have, need, .. } = error else { panic!("{error:?}") };
    (have, need)
}

#[test]
fn the_root_delegates_by_m_of_k() {
    let keys = Keys::new();
    let root = |signers: &[usize]| {
        let signers: Vec<&dyn Signer> =
            signers.iter().map(|at| keys.root[*at].as_ref() as &dyn Signer).collect();
        Owner::new(keys.root(), &signed(keys.delegation(1), &signers))
    };
    assert!(root(&[0, 1]).is_ok() && root(&[0, 1, 2]).is_ok());
    assert_eq!(unsigned(root(&[1]).unwrap_err()), (1, 2));
    assert_eq!(unsigned(root(&[]).unwrap_err()), (0, 2));
    // A signature of somebody else, or twice the same, is not a second one.
    let mut twice = signed(keys.delegation(1), &[keys.root[0].as_ref(), keys.seal.as_ref()]);
    assert_eq!(unsigned(Owner::new(keys.root(), &twice).unwrap_err()), (1, 2));
    let stolen = twice.signatures[0].value.clone();
    twice.add(Signature { key: *public(keys.root[1].as_ref()).fingerprint(), value: stolen });
    assert_eq!(unsigned(Owner::new(keys.root(), &twice).unwrap_err()), (1, 2));

    // One key has one purpose, and the root's none.
    let mut shared = keys.delegation(1);
    shared.keys[0] = shared.keys[1].clone();
    let shared = signed(shared, &[keys.root[0].as_ref(), keys.root[1].as_ref()]);
    assert_eq!(Owner::new(keys.root(), &shared).unwrap_err(), TrustError::KeyTwice("delegation"));
    let mut own = keys.delegation(1);
    own.keys[4].push(public(keys.root[0].as_ref()));
    let own = signed(own, &[keys.root[0].as_ref(), keys.root[1].as_ref()]);
    assert_eq!(Owner::new(keys.root(), &own).unwrap_err(), TrustError::KeyTwice("delegation"));

    // Newer delegations only, and of this root only.
    let owner = keys.owner();
    let newer = |serial| signed(keys.delegation(serial), &[keys.root[0].as_ref(), keys.root[1].as_ref()]);
    assert!(owner.renew(&newer(2)).is_ok());
    assert_eq!(owner.renew(&newer(1)).unwrap_err(), TrustError::Stale("delegation"));
    let mut other = keys.delegation(2);
    other.root = [1; 32];
    let other = signed(other, &[keys.root[0].as_ref(), keys.root[1].as_ref()]);
    assert_eq!(owner.renew(&other).unwrap_err(), TrustError::Mismatch("delegation"));
}

#[test]
fn the_next_root_is_committed_to_from_the_start() {
    let keys = Keys::new();
    let next = ["next root 1", "next root 2"].map(key);
    let body = |keys: &[std::sync::Arc<bonafide_crypto::key::PrivateKey>]| Root {
        tenant: tenant(),
        serial: 2,
        threshold: 2,
        keys: keys.iter().map(|key| public(key.as_ref())).collect(),
        next: [3; 32],
    };
    let root = keys.root();
    let good = signed(body(&next), &[next[0].as_ref(), next[1].as_ref()]);
    assert!(root.succeeded_by(&good).is_ok());
    // Whoever steals all of today's keys can't name tomorrow's.
    let mut thief = signed(body(&keys.root[..2]), &[keys.root[0].as_ref(), keys.root[1].as_ref()]);
    assert_eq!(root.succeeded_by(&thief).unwrap_err(), TrustError::Chain("root"));
    thief.body.serial = 3;
    assert_eq!(root.succeeded_by(&thief).unwrap_err(), TrustError::Chain("root"));
    let one = signed(body(&next), &[next[0].as_ref(), keys.root[0].as_ref()]);
    assert_eq!(unsigned(root.succeeded_by(&one).unwrap_err()), (1, 2));
}

/// The key that new secrets are sealed with is what an attacker would exchange.
#[test]
fn parameters_with_another_key_are_refused() {
    let world = World::dealt(2, 3, Vec::new());
    let sign = |params: SealParams| signed(params, &[world.keys.params.as_ref()]);
    let verify = |params: SealParams| TrustedParams::verify(&world.owner, &sign(params));
    let good = world.params.params().clone();
    assert!(verify(good.clone()).is_ok());

    let own = Scalar::from_number(666);
    let mut swapped = sign(good.clone());
    swapped.body.key = times(&own);
    assert_eq!(unsigned(TrustedParams::verify(&world.owner, &swapped).unwrap_err()), (0, 1));
    let stranger = signed(swapped.body.clone(), &[world.keys.seal.as_ref(), member_key(1).as_ref()]);
    assert_eq!(unsigned(TrustedParams::verify(&world.owner, &stranger).unwrap_err()), (0, 1));
    // Two keys with two secrets, even if the owner has signed them.
    assert_eq!(verify(swapped.body).unwrap_err(), TrustError::Inconsistent("parameters"));
    let mut other = good.clone();
    other.key2 = G2Point::generator();
    assert_eq!(verify(other).unwrap_err(), TrustError::Inconsistent("parameters"));
    let mut foreign = good.clone();
    foreign.tenant = bonafide_sealing::identity::Tenant::from_bytes([1; 16]);
    assert_eq!(verify(foreign).unwrap_err(), TrustError::Mismatch("parameters"));

    // Versions form a chain.
    let mut next = good.clone();
    (next.version, next.previous) = (2, *world.params.digest());
    assert!(world.params.succeeded_by(&world.owner, &sign(next.clone())).is_ok());
    let refused = |params: SealParams| world.params.succeeded_by(&world.owner, &sign(params)).unwrap_err();
    assert_eq!(refused(good), TrustError::Stale("parameters"));
    assert_eq!(refused(SealParams { version: 3, ..next.clone() }), TrustError::Chain("parameters"));
    assert_eq!(refused(SealParams { previous: [0; 32], ..next }), TrustError::Chain("parameters"));
    assert_eq!(world.params.check_time(NOW - 1001), Err(TrustError::NotYetValid("parameters")));
    assert_eq!(world.params.check_time(NOW + 1_000_000_000), Err(TrustError::Expired("parameters")));
}

/// One stolen key of the owner changes no roster, and neither do all keys of the keyholders without the owner.
#[test]
fn a_roster_changes_by_owner_and_operators_together() {
    let world = World::dealt(3, 5, Vec::new());
    let next = |threshold, lower| {
        let mut next = roster_of(threshold, &[1, 2, 3, 9]);
        (next.serial, next.previous, next.lower_threshold) = (2, *world.roster.digest(), lower);
        next
    };
    let operators: Vec<_> = (1..=5).map(operator_key).collect();
    let change = |roster: Roster, owner: bool, count: usize| {
        let mut signers: Vec<&dyn Signer> = operators[..count].iter().map(|key| key.as_ref() as _).collect();
        if owner {
            signers.push(world.keys.roster.as_ref());
        }
        world.roster.succeeded_by(&world.owner, &signed(roster, &signers), NOW, NOW + 3600)
    };
    // n - t + 1 = 3.
    assert!(change(next(3, false), true, 3).is_ok());
    assert_eq!(unsigned(change(next(3, false), true, 2).unwrap_err()), (2, 3));
    assert_eq!(unsigned(change(next(3, false), true, 0).unwrap_err()), (0, 3));
    assert_eq!(unsigned(change(next(3, false), false, 5).unwrap_err()), (0, 1));
    // Servers' keys are not operators' keys.
    let servers: Vec<_> = (1..=5).map(member_key).collect();
    let mut signers: Vec<&dyn Signer> = servers.iter().map(|key| key.as_ref() as _).collect();
    signers.push(world.keys.roster.as_ref());
    let by_servers =
        world.roster.succeeded_by(&world.owner, &signed(next(3, false), &signers), NOW, NOW + 3600);
    assert_eq!(unsigned(by_servers.unwrap_err()), (0, 3));
    // A lower threshold says so, and nothing happens at once.
    assert_eq!(change(next(2, false), true, 5).unwrap_err(), TrustError::Weaker);
    assert!(change(next(2, true), true, 5).is_ok());
    let mut signers: Vec<&dyn Signer> = operators.iter().map(|key| key.as_ref() as _).collect();
    signers.push(world.keys.roster.as_ref());
    let proposal = signed(next(3, false), &signers);
    for (known, now, expected) in [(NOW, NOW + 3599, false), (NOW, NOW + 3600, true), (NOW + 1, NOW, false)] {
        let answer = world.roster.succeeded_by(&world.owner, &proposal, known, now);
        assert_eq!(answer.is_ok(), expected);
    }
    // It follows this very roster, and lists no key twice.
    let mut other = next(3, false);
    other.previous = [1; 32];
    assert_eq!(change(other, true, 5).unwrap_err(), TrustError::Chain("roster"));
    let mut skipped = next(3, false);
    skipped.serial = 3;
    assert_eq!(change(skipped, true, 5).unwrap_err(), TrustError::Chain("roster"));
    let mut twice = next(3, false);
    twice.members[1].key = twice.members[0].key.clone();
    assert_eq!(change(twice, true, 5).unwrap_err(), TrustError::KeyTwice("roster"));
    let mut owners = next(3, false);
    owners.members[1].operator = public(world.keys.roster.as_ref());
    assert_eq!(change(owners, true, 5).unwrap_err(), TrustError::KeyTwice("roster"));
    // And the first one is the first.
    let second = signed(next(3, false), &[world.keys.roster.as_ref()]);
    assert_eq!(TrustedRoster::first(&world.owner, &second).unwrap_err(), TrustError::Chain("roster"));
}

#[test]
fn an_epoch_is_what_all_keyholders_say_and_the_key_demands() {
    let world = World::dealt(2, 3, Vec::new());
    let members = [1, 2, 3].map(member_key);
    let verify = |record: EpochRecord, count: usize| {
        let signers: Vec<&dyn Signer> = members[..count].iter().map(|key| key.as_ref() as _).collect();
        TrustedEpoch::verify(&world.params, &world.roster, &signed(record, &signers))
    };
    let good = world.epoch.record().clone();
    assert!(verify(good.clone(), 3).is_ok());
    assert_eq!(unsigned(verify(good.clone(), 2).unwrap_err()), (2, 3));
    // Shares of a key that somebody else knows; shares that are not those of the commitments; another number of either.
    let inconsistent = TrustError::Inconsistent("epoch");
    let own = [times(&Scalar::from_number(4)), times(&Scalar::from_number(5))];
    let shares = EpochRecord::shares_of(&own, 3).unwrap();
    let stolen = EpochRecord { commitments: own.to_vec(), shares, ..good.clone() };
    assert_eq!(verify(stolen, 3).unwrap_err(), inconsistent);
    let mut stale = good.clone();
    stale.shares[1] = G1Point::generator();
    assert_eq!(verify(stale, 3).unwrap_err(), inconsistent);
    let mut lower = good.clone();
    lower.commitments.truncate(1);
    lower.shares = EpochRecord::shares_of(&lower.commitments, 3).unwrap();
    assert_eq!(verify(lower, 3).unwrap_err(), inconsistent);
    let mut more = good.clone();
    more.shares = EpochRecord::shares_of(&more.commitments, 4).unwrap();
    assert_eq!(verify(more, 3).unwrap_err(), inconsistent);
    let mut other = good;
    other.params = [1; 32];
    assert_eq!(verify(other, 3).unwrap_err(), TrustError::Mismatch("epoch"));
}

#[test]
fn deny_lists_only_grow_and_expire() {
    let keys = Keys::new();
    let owner = keys.owner();
    let identity = Identity::new(&tenant(), &keyset(), POLICY, LABEL).unwrap();
    let list = |serial| DenyList {
        tenant: tenant(),
        keyset: keyset(),
        serial,
        expires: NOW + 100,
        min_version: 1,
        policies: BTreeSet::new(),
        labels: BTreeSet::new(),
        identities: BTreeSet::new(),
    };
    let verify = |list: DenyList, before: Option<&TrustedDenyList>| {
        TrustedDenyList::verify(&owner, &signed(list, &[keys.deny.as_ref()]), before)
    };
    let empty = verify(list(1), None).unwrap();
    assert_eq!(empty.check(&identity, LABEL, 1, NOW), Ok(()));
    // Whoever hears nothing from the owner answers nothing.
    assert_eq!(empty.check(&identity, LABEL, 1, NOW + 100), Err(Denied::Stale));
    assert_eq!(empty.check(&identity, LABEL, 0, NOW), Err(Denied::Version));

    let by_label = DenyList { labels: [sha256(LABEL)].into(), ..list(2) };
    let by_policy = DenyList { policies: [sha256(POLICY)].into(), ..list(2) };
    let by_both = DenyList { identities: [*identity.digest()].into(), ..list(2) };
    let other = Identity::new(&tenant(), &keyset(), POLICY, b"other").unwrap();
    for (denied, others) in [(by_label, true), (by_policy, false), (by_both, true)] {
        let denied = verify(denied, Some(&empty)).unwrap();
        assert_eq!(denied.check(&identity, LABEL, 1, NOW), Err(Denied::Revoked));
        assert_eq!(denied.check(&other, b"other", 1, NOW).is_ok(), others);
        // What is denied stays denied; what is old stays old.
        assert_eq!(verify(list(3), Some(&denied)).unwrap_err(), TrustError::Chain("deny-list"));
        assert_eq!(verify(denied.list().clone(), Some(&denied)).unwrap_err(), TrustError::Stale("deny-list"));
        let more = DenyList { serial: 3, min_version: 2, ..denied.list().clone() };
        let more = verify(more, Some(&denied)).unwrap();
        assert_eq!(more.check(&other, b"other", 1, NOW), Err(Denied::Version));
    }
    let stranger = signed(list(2), &[keys.params.as_ref()]);
    assert_eq!(unsigned(TrustedDenyList::verify(&owner, &stranger, None).unwrap_err()), (0, 1));
}

/// Each field is what the keyholder itself has seen.
#[test]
fn a_witness_speaks_of_one_question() {
    let node = key("node");
    let identity = Identity::new(&tenant(), &keyset(), POLICY, LABEL).unwrap();
    let another = Identity::new(&tenant(), &keyset(), POLICY, b"").unwrap();
    let (point, moved) = (G1Point::generator(), times(&Scalar::from_number(2)));
    let (a, b) = ([1; 32], [2; 32]);
    let seen = Circumstances {
        roster: &a,
        keyholder: index(1),
        identity: &identity,
        version: 1,
        point: &point,
        certificate: &a,
        exporter: &a,
        nonce: &[1; 16],
    };
    let statement = Statement { claims: b"module digest".to_vec(), issued: NOW };
    let value = node.sign(&statement.message(&seen).unwrap()).unwrap();
    let signature = Signature { key: *public(node.as_ref()).fingerprint(), value };
    let holds = |statement: &Statement, seen: &Circumstances<'_>, now| {
        let verify = |message: &[u8], value: &[u8]| public(node.as_ref()).verifies(message, value);
        statement.holds(seen, &signature, verify, now)
    };
    assert!(holds(&statement, &seen, NOW + VALIDITY) && holds(&statement, &seen, NOW - VALIDITY));
    assert!(!holds(&statement, &seen, NOW + VALIDITY + 1) && !holds(&statement, &seen, NOW - VALIDITY - 1));
    for other in [
        Circumstances { roster: &b, ..seen },
        Circumstances { keyholder: index(2), ..seen },
        Circumstances { identity: &another, ..seen },
        Circumstances { version: 2, ..seen },
        Circumstances { point: &moved, ..seen },
        Circumstances { certificate: &b, ..seen },
        Circumstances { exporter: &b, ..seen },
        Circumstances { nonce: &[2; 16], ..seen },
    ] {
        assert!(!holds(&statement, &other, NOW));
    }
    let lie = Statement { claims: b"another".to_vec(), issued: NOW };
    assert!(!holds(&lie, &seen, NOW));
    assert!(Statement { claims: vec![0; MAX_CLAIMS + 1], issued: NOW }.message(&seen).is_err());
}

/// Signatures are over bytes that say what they are: none counts for another kind of document.
#[test]
fn a_signature_is_of_one_kind_of_document() {
    let world = World::dealt(2, 3, Vec::new());
    let roster = signed(world.roster.roster().clone(), &[world.keys.roster.as_ref()]);
    let message = roster.message();
    assert!(message.starts_with(b"bbf-roster-v1"));
    let params = signed(world.params.params().clone(), &[world.keys.params.as_ref()]);
    assert_ne!(params.message()[..14], message[..14]);
    assert!(Roster::decode(&params.body.encode()).is_err());
    assert!(bonafide_sealing::document::Signed::<Roster>::decode(&params.encode()).is_err());
}
