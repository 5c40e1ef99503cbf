//! Stolen keys, bans and quarantines.

use super::*;

#[test]
fn what_a_stolen_key_has_signed_is_replaced_in_the_time_that_was_given() {
    let mut world = one_registration();
    for pid in 1..=20 {
        world.launch(pid, 1);
        world.settle();
    }
    let before: Vec<_> = (1..=20).map(|pid| held(&world, pid)[0].held.clone().unwrap()).collect();
    let pool: BTreeSet<InstanceId> =
        world.core.bins.values().flat_map(|bin| bin.ready.iter().copied()).collect();
    assert!(!pool.is_empty());

    world.authority.stolen(40);
    world.publish();
    world.settle();
    assert!(world.authority.remaining.first().is_some_and(|remaining| *remaining > 0));
    let drawn: BTreeSet<InstanceId> =
        world.core.bins.values().flat_map(|bin| bin.ready.iter().copied()).collect();
    assert!(pool.is_disjoint(&drawn), "the pool is thrown away");
    let renewed = |world: &World| {
        let now: Vec<_> = (1..=20).map(|pid| held(world, pid)[0].held.clone().unwrap()).collect();
        now.iter().zip(&before).filter(|(now, before)| now.generation > before.generation).count()
    };
    let mut seen = BTreeSet::new();
    for _ in 0..45 {
        world.advance(1);
        world.settle();
        seen.insert(renewed(&world));
    }
    assert!(seen.len() > 5, "they come one after the other: {seen:?}");
    assert_eq!(renewed(&world), 20);
    for (pid, before) in (1..=20).zip(&before) {
        let now = held(&world, pid)[0].held.clone().unwrap();
        assert_eq!(now.instance, before.instance, "the lineage goes on");
        assert_eq!(now.credential.chain()[1], "issuer 2".as_bytes());
    }
    assert_eq!(world.authority.remaining.last(), Some(&0));
    world.launch(30, 1);
    world.settle();
    assert_eq!(held(&world, 30)[0].held.as_ref().unwrap().credential.chain()[1], "issuer 2".as_bytes());
    assert_eq!(world.authority.alarms, Vec::<String>::new());
}

#[test]
fn an_agent_that_was_away_learns_of_a_stolen_key_when_it_comes_back() {
    let mut world = one_registration();
    world.launch(1, 1);
    world.settle();
    world.disconnect();
    world.authority.stolen(0);
    world.restart();
    world.connect();
    world.settle();
    world.advance(1);
    world.settle();
    assert_eq!(held(&world, 1)[0].held.as_ref().unwrap().credential.chain()[1], "issuer 2".as_bytes());
    assert_eq!(world.authority.remaining.last(), Some(&0));
    // What it knows survives its own restart, too.
    world.restart();
    assert_eq!(world.core.tainted_keys(), 1);
}

#[test]
fn a_ban_leaves_nothing() {
    let mut world = one_registration();
    world.launch(10, 1);
    world.settle();
    let banned = bonafide_wire::node::Banned { problem: None };
    let message =
        AuthorityMessage { kind: Some(bonafide_wire::node::authority_message::Kind::Banned(banned)) };
    let ended = world.act(|core, now| core.message(message, now));
    assert_eq!(ended, Err(Disconnect::Banned));
    assert!(world.saved.is_empty());
    assert_eq!(world.core.counts(), (0, 0));
    assert!(world.core.check_ready().is_err());
}

#[test]
fn an_agent_that_was_away_learns_of_its_ban_when_it_is_refused() {
    let mut world = one_registration();
    world.launch(10, 1);
    world.settle();
    world.disconnect();
    let mut refused = |code: &str| {
        let problem = Problem { code: code.into(), ..Problem::default() };
        let ended = world.act(|core, now| core.refused(&problem, now));
        (ended, world.saved.is_empty())
    };
    assert_eq!(refused("stream.too-often"), (Ok(()), false), "that may pass");
    assert_eq!(refused("agent.banned"), (Err(Disconnect::Banned), true));
    assert!(world.core.check_ready().is_err());
}

#[test]
fn what_was_refused_in_a_quarantine_is_asked_for_when_it_ends() {
    let site = |start: bool| {
        let subject = bonafide_identity::revocation::Subject::Site("lab".into());
        let revocation = bonafide_identity::Revocation {
            subject,
            issued_before: None,
            expires_at: UnixTime::from_secs(START + 100_000),
        };
        (start, bonafide_wire::from_revocation(&revocation))
    };
    let tell = |world: &mut World, (start, revocation): (bool, types::Revocation)| {
        let (revoked, unrevoked) =
            if start { (vec![revocation], Vec::new()) } else { (Vec::new(), vec![revocation]) };
        let view = world.core.view.to_snapshot();
        let update = bonafide_wire::node::Update {
            incarnation: view.incarnation,
            revision: world.core.view.revision(),
            revoked,
            unrevoked,
            ..Default::default()
        };
        let kind = Some(bonafide_wire::node::authority_message::Kind::Update(update));
        world.down.push_back(AuthorityMessage { kind });
        world.settle();
    };
    let mut world = one_registration();
    let key = bonafide_crypto::key::PrivateKey::generate(bonafide_crypto::key::KeyAlgorithm::EcP256).unwrap();
    let end = UnixTime::from_secs(START + 100_000);
    let id = "spiffe://example.org/bonafide/agent/lab/00000000-0000-4000-8000-000000000001";
    let leaf = crate::testing::fake_leaf(id, None, end, key.public_key().spki_der());
    let node = Credential::new(vec![leaf], Arc::new(key), &FakeLeaf).unwrap();
    world.core.set_node(Arc::new(node), end);
    world.launch(10, 1);
    world.settle();
    tell(&mut world, site(true));
    assert_eq!(world.core.check_ready().unwrap_err().code(), "agent.site-quarantined");
    world.authority.refuse = Some((String::from("site.quarantined"), 0));
    world.advance(600);
    world.settle();
    assert_eq!(held(&world, 10).remove(0).held.unwrap().generation, 1, "refused for good");
    world.authority.refuse = None;
    tell(&mut world, site(false));
    assert_eq!(held(&world, 10).remove(0).held.unwrap().generation, 2, "on the same stream");
}
