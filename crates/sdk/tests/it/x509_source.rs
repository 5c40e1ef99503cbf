use std::time::Duration;

use bonafide_sdk::{Clock, Pick, X509Source};
use bonafide_testkit::TestDomain;
use bonafide_wire::types::Problem;

use crate::fake_agent::FakeAgent;

#[tokio::test]
async fn identity_and_bundles_come_from_the_agent_and_follow_it() {
    let agent = FakeAgent::start();
    let source = agent.x509().await;
    assert_eq!(source.id().unwrap().to_string(), "spiffe://example.org/web");
    assert_eq!(
        source.bundles().get(agent.domain.trust_domain()).unwrap().x509_authorities(),
        [agent.domain.root().clone()]
    );

    let mut updates = source.updates();
    let renewed = agent.grant("/web");
    assert!(updates.changed().await);
    assert_eq!(source.svid().unwrap().leaf().der(), renewed.leaf().der());
}

#[tokio::test]
async fn every_message_is_the_full_state() {
    let agent = FakeAgent::start();
    let foreign = TestDomain::new("partner.org", agent.clock.now());
    let svid = agent.domain.svid("/web", agent.clock.now());
    let mut response = agent.response(&[(&svid, "")]);
    response
        .federated_bundles
        .insert("spiffe://partner.org".to_owned(), foreign.root().der().to_vec().into());
    // Broken ones are skipped, and cost nobody else anything.
    response.federated_bundles.insert("spiffe://broken.org".to_owned(), b"no certificate".to_vec().into());
    response
        .federated_bundles
        .insert("spiffe://partner.org/path".to_owned(), foreign.root().der().to_vec().into());
    agent.answer(response);

    let source = agent.x509().await;
    assert!(source.bundles().get(foreign.trust_domain()).is_some());
    assert_eq!(source.bundles().len(), 2);

    let mut updates = source.updates();
    agent.grant("/web");
    assert!(updates.changed().await);
    assert!(source.bundles().get(foreign.trust_domain()).is_none(), "defederated");
}

#[tokio::test]
async fn the_wanted_identity_is_picked_and_gone_when_it_is_withdrawn() {
    let agent = FakeAgent::start();
    let (web, admin) =
        (agent.domain.svid("/web", agent.clock.now()), agent.domain.svid("/admin", agent.clock.now()));
    agent.answer(agent.response(&[(&web, "public"), (&admin, "internal")]));

    let first = agent.x509().await;
    let by_hint = agent.x509_picked(Pick::Hint("internal".to_owned())).await.unwrap();
    let by_id = agent.x509_picked(Pick::Id(admin.id().clone())).await.unwrap();
    assert_eq!(first.id().unwrap(), *web.id());
    assert_eq!(by_hint.id().unwrap(), *admin.id());
    assert_eq!(by_id.id().unwrap(), *admin.id());
    assert_eq!(first.svids().len(), 2);
    let error = agent.x509_picked(Pick::Hint("other".to_owned())).await.unwrap_err();
    assert_eq!(error.code(), "sdk.no-svid");

    let mut updates = by_hint.updates();
    agent.answer(agent.response(&[(&web, "public")]));
    assert!(updates.changed().await);
    assert_eq!(by_hint.svid().unwrap_err().code(), "sdk.no-svid");
}

#[tokio::test]
async fn when_the_agent_withdraws_everything_nothing_is_left() {
    let agent = FakeAgent::start();
    let source = agent.x509().await;
    let mut updates = source.updates();
    agent.refuse(Problem { code: "workload.no-registration".to_owned(), ..Problem::default() });
    assert!(updates.changed().await);
    assert_eq!(source.svid().unwrap_err().code(), "sdk.no-svid");
    assert!(source.svids().is_empty() && source.bundles().is_empty());

    let again = agent.grant("/web");
    assert!(updates.changed().await);
    assert_eq!(source.svid().unwrap().leaf().der(), again.leaf().der());
}

#[tokio::test]
async fn the_last_svid_outlives_the_agent_and_a_new_agent_is_found() {
    let mut agent = FakeAgent::start();
    let source = agent.x509().await;
    let before = source.svid().unwrap();
    agent.stop().await;
    assert_eq!(source.svid().unwrap().leaf().der(), before.leaf().der());

    let mut updates = source.updates();
    let renewed = agent.grant("/web");
    agent.resume();
    assert!(updates.changed().await);
    assert_eq!(source.svid().unwrap().leaf().der(), renewed.leaf().der());
}

#[tokio::test]
async fn an_expired_svid_is_no_longer_given_out() {
    let mut agent = FakeAgent::start();
    let source = agent.x509().await;
    let mut updates = source.updates();
    agent.stop().await;
    agent.clock.advance(Duration::from_secs(3601));
    tokio::time::pause();
    assert!(updates.changed().await);
    let error = source.svid().unwrap_err();
    assert_eq!(error.code(), "sdk.no-svid");
    assert!(!error.hint().is_empty());
}

#[tokio::test]
async fn an_svid_that_expired_while_the_machine_slept_is_not_given_out() {
    let agent = FakeAgent::start();
    let source = agent.x509().await;
    // No timer of the source has fired yet.
    agent.clock.advance(Duration::from_secs(3601));
    assert_eq!(source.svid().unwrap_err().code(), "sdk.no-svid");
}

#[tokio::test]
async fn a_refusal_keeps_the_agents_words() {
    let agent = FakeAgent::start();
    agent.refuse(Problem {
        code: "workload.no-registration".to_owned(),
        message: "no registration matches this process".to_owned(),
        hint: "ask an operator to register it".to_owned(),
    });
    let mut options = agent.options();
    options.patience = Duration::from_millis(120);
    let error = X509Source::connect_with(options).await.unwrap_err();
    assert_eq!(error.code(), "workload.no-registration");
    assert_eq!(error.to_string(), "no registration matches this process");
    assert_eq!(error.hint(), "ask an operator to register it");
}

#[tokio::test]
async fn a_registration_that_comes_in_time_is_waited_for() {
    let agent = FakeAgent::start();
    agent.refuse(Problem { code: "workload.no-registration".to_owned(), ..Problem::default() });
    let (source, _) = tokio::join!(agent.x509(), async {
        tokio::task::yield_now().await;
        agent.grant("/late")
    });
    assert_eq!(source.id().unwrap().path(), "/late");
}

#[tokio::test]
async fn nobody_at_the_socket_is_said_plainly() {
    let mut agent = FakeAgent::start();
    agent.stop().await;
    let mut options = agent.options();
    options.patience = Duration::from_millis(120);
    let error = X509Source::connect_with(options).await.unwrap_err();
    assert_eq!(error.code(), "sdk.agent-unreachable");
}

#[tokio::test]
async fn answers_that_do_not_fit_together_are_refused_and_cost_nothing() {
    let agent = FakeAgent::start();
    let source = agent.x509().await;
    let good = source.svid().unwrap();
    let (web, other) =
        (agent.domain.svid("/web", agent.clock.now()), agent.domain.svid("/other", agent.clock.now()));

    let mut foreign_key = agent.response(&[(&web, "")]);
    foreign_key.svids[0].x509_svid_key = other.key().to_pkcs8_der().to_vec().into();
    let mut foreign_id = agent.response(&[(&web, "")]);
    foreign_id.svids[0].spiffe_id = other.id().to_string();
    let mut torn = agent.response(&[(&web, "")]);
    torn.svids[0].x509_svid.truncate(100);
    let mut no_bundle = agent.response(&[(&web, "")]);
    no_bundle.svids[0].bundle = b"\x30\x03xyz".to_vec().into();
    let empty = agent.response(&[]);
    for broken in [foreign_key, foreign_id, torn, no_bundle, empty] {
        agent.answer(broken);
        let error = X509Source::connect_with(agent.options()).await.unwrap_err();
        assert_eq!(error.code(), "sdk.answer", "{error}");
        assert_eq!(source.svid().unwrap().leaf().der(), good.leaf().der());
    }
    let mut updates = source.updates();
    let next = agent.grant("/web");
    assert!(updates.changed().await);
    assert_eq!(source.svid().unwrap().leaf().der(), next.leaf().der());
}
