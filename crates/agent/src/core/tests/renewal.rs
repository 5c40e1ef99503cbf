//! What is lost, refused or changed, and renewed all the same.

use super::*;

#[test]
fn a_lost_answer_is_asked_for_with_the_same_key() {
    let mut world = one_registration();
    world.launch(10, 1);
    world.settle();
    let before = held(&world, 10).remove(0).held.unwrap();
    world.advance(600);
    // The authority signs, and its answer is lost; then the agent restarts as well.
    while !world.up.is_empty() {
        world.deliver_up();
    }
    world.disconnect();
    world.restart();
    world.connect();
    world.settle();
    let after = held(&world, 10).remove(0).held.unwrap();
    assert_eq!(before.instance, after.instance);
    assert_eq!(after.generation, before.generation + 1);
    world.check();
    assert!(world.authority.alarms.is_empty());
}

#[test]
fn what_is_lost_on_an_open_stream_is_asked_for_again() {
    for answered in [false, true] {
        let mut world = one_registration();
        world.launch(10, 1);
        world.settle();
        let before = held(&world, 10).remove(0).held.unwrap();
        world.advance(600);
        let renewals = |world: &World| {
            let renewals = world.up.iter().filter_map(|kind| match kind {
                agent_message::Kind::RenewX509(renewal) => Some(renewal.clone()),
                _ => None,
            });
            renewals.collect::<Vec<_>>()
        };
        let first = renewals(&world).remove(0);
        // Requests are dropped, or the answers to them.
        while answered && !world.up.is_empty() {
            world.deliver_up();
        }
        world.up.clear();
        world.down.clear();
        world.advance(59);
        assert!(world.up.is_empty());
        assert_eq!(world.silences, 0);
        world.advance(1);
        assert!(world.silences > 0, "an authority that hangs is left for another one");
        let again = renewals(&world).remove(0);
        assert_ne!(again.request, first.request);
        assert_eq!((&again.public_key, &again.nonce), (&first.public_key, &first.nonce));
        assert_eq!(again.generation, first.generation);
        world.settle();
        let after = held(&world, 10).remove(0).held.unwrap();
        assert_eq!((after.instance, after.generation), (before.instance, before.generation + 1));
        world.check();
        world.check_at_rest();
    }
}

#[test]
fn a_report_that_is_lost_is_told_again() {
    let mut world = one_registration();
    world.launch(10, 1);
    world.up.clear();
    world.advance(60);
    world.settle();
    world.check_at_rest();
}

#[test]
fn a_refused_renewal_keeps_what_there_is_until_it_expires() {
    let mut world = one_registration();
    world.launch(10, 1);
    world.settle();
    world.authority.refuse = Some((String::from("lineage.forked"), 0));
    world.advance(600);
    world.settle();
    let identity = held(&world, 10).remove(0);
    assert_eq!(identity.problem.unwrap().code, "lineage.forked");
    assert_eq!(identity.held.unwrap().generation, 1);
    world.advance(401);
    assert!(held(&world, 10).remove(0).held.is_none(), "nothing expired is served");
    world.check();
}

#[test]
fn a_broken_lineage_is_replaced_before_it_expires() {
    let mut world = one_registration();
    world.launch(10, 1);
    world.settle();
    let before = held(&world, 10).remove(0).held.unwrap().instance;
    world.authority.refuse = Some((String::from("lineage.discontinuous"), 0));
    world.advance(600);
    world.settle();
    assert!(held(&world, 10).remove(0).held.is_some(), "kept until there is another one");
    world.check();
    world.authority.refuse = None;
    world.advance(20);
    world.settle();
    let after = held(&world, 10).remove(0).held.unwrap();
    assert_ne!(after.instance, before);
    assert!(after.credential.not_after() > world.now.saturating_add(Duration::from_secs(900)));
    assert!(world.authority.ended.contains(&before));
    world.check_at_rest();
}

#[test]
fn a_clock_that_went_ahead_and_came_back_stops_nothing() {
    let mut world = one_registration();
    world.launch(10, 1);
    world.settle();
    let real = world.now;
    world.now = real.saturating_add(Duration::from_secs(7200));
    world.act(|core, now| core.observe(now));
    // The authority's clock is right: all that it sends has expired by the agent's.
    while let Some(kind) = world.up.pop_front() {
        world.down.extend(world.authority.answer(kind, real));
        while !world.down.is_empty() {
            world.deliver_down();
        }
    }
    assert!(held(&world, 10).remove(0).held.is_none());
    world.now = real.saturating_add(Duration::from_secs(1));
    world.act(|core, now| core.observe(now));
    world.settle();
    assert!(held(&world, 10).remove(0).held.is_some());
    world.check_at_rest();
}

#[test]
fn a_renewal_that_was_lost_while_the_clock_went_back_is_asked_for_again() {
    let mut world = one_registration();
    world.launch(10, 1);
    world.settle();
    // It was due by a clock that is half a minute ahead.
    let due = held(&world, 10).remove(0).held.unwrap().renew_after;
    world.now = due;
    world.act(|core, now| core.observe(now));
    assert!(!world.up.is_empty());
    world.disconnect();
    world.now = due.saturating_sub(Duration::from_secs(30));
    world.act(|core, now| core.observe(now));
    world.connect();
    world.settle();
    world.advance(60);
    world.settle();
    assert_eq!(held(&world, 10).remove(0).held.unwrap().generation, 2);
}

#[test]
fn a_withdrawn_registration_takes_its_svid_along() {
    let mut world = one_registration();
    world.launch(10, 1);
    world.settle();
    world.authority.remove("web");
    world.publish();
    world.settle();
    assert!(matches!(world.core.launch_state(&world.running[&10].0), LaunchState::Gone));
    assert_eq!(world.core.counts(), (0, 0));
    world.check_at_rest();
}

#[test]
fn a_changed_registration_renews_at_once_and_keeps_the_instance() {
    let mut world = one_registration();
    world.launch(10, 1);
    world.settle();
    let before = held(&world, 10).remove(0).held.unwrap();
    world.authority.put(types::Registration { dns_names: vec!["web.example.org".into()], ..entry("web", 1) });
    world.publish();
    world.settle();
    let after = held(&world, 10).remove(0).held.unwrap();
    assert_eq!(after.instance, before.instance);
    assert_eq!(after.generation, 2);
    world.check_at_rest();
}
