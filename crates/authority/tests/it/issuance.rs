//! What agents get, and what they don't.

use std::time::Duration;

use bonafide_attest::join::JoinLine;
use bonafide_identity::time::Clock;
use bonafide_identity::{BundleMap, TrustBundle, jwt, x509};
use bonafide_wire::admin::{BanAgentRequest, ListAgentsRequest};
use bonafide_wire::node::agent_message::Kind as Say;
use bonafide_wire::node::authority_message::Kind as Heard;
use bonafide_wire::node::{Hello, IssueJwt, Launch, RenewAgent, Report};
use bonafide_wire::problem_of;
use bonafide_wire::types::Selector;
use bytes::Bytes;

use crate::agents::{Agent, Connected, attest, dial, new_key, pinned, request_for};
use crate::world::{World, entry, in_time, trust_domain};

fn bundles(connected: &Connected) -> BundleMap {
    let mut bundles = BundleMap::new();
    bundles.insert(TrustBundle::parse(&trust_domain(), &connected.bundle).unwrap());
    bundles
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_hundred_nodes_with_one_token_one_is_admitted() {
    let mut world = World::new().await;
    let line: JoinLine = world.join_line("lab").await.parse().unwrap();
    let mut attempts = tokio::task::JoinSet::new();
    // Nobody without a certificate may ask more than twice at a time.
    for _ in 0..100 {
        let channel = dial(&line.address, &pinned(&line, &world)).await.unwrap();
        for _ in 0..2 {
            let (channel, line) = (channel.clone(), line.clone());
            attempts.spawn(async move { attest(channel, &line, request_for(&new_key())).await });
        }
    }
    let (mut admitted, mut refused) = (0, 0);
    while let Some(attempt) = in_time(attempts.join_next()).await {
        match attempt.unwrap() {
            Ok(_) => admitted += 1,
            Err(status) => {
                assert_eq!(problem_of(&status).code, "token.invalid");
                refused += 1;
            }
        }
    }
    assert_eq!((admitted, refused), (1, 199));
    let agents = world.admin.list_agents(ListAgentsRequest::default()).await.unwrap().into_inner().agents;
    assert_eq!(agents.len(), 1);
    assert!(!agents[0].id.contains(&line.token.to_text()[..8]), "the ID tells nothing of the token");
}

#[tokio::test]
async fn a_request_that_proves_no_key_does_not_cost_the_token() {
    let mut world = World::new().await;
    let line: JoinLine = world.join_line("lab").await.parse().unwrap();
    let channel = dial(&line.address, &pinned(&line, &world)).await.unwrap();
    let mut broken = request_for(&new_key()).to_vec();
    *broken.last_mut().unwrap() ^= 1;
    let status = attest(channel.clone(), &line, broken.into()).await.unwrap_err();
    assert!(problem_of(&status).code.starts_with("crypto.csr"), "{status:?}");
    attest(channel, &line, request_for(&new_key())).await.unwrap();
}

#[tokio::test]
async fn an_expired_token_admits_nobody() {
    let mut world = World::new().await;
    let line: JoinLine = world.join_line("lab").await.parse().unwrap();
    world.clock.advance(Duration::from_secs(601));
    let channel = dial(&line.address, &pinned(&line, &world)).await.unwrap();
    let status = attest(channel, &line, request_for(&new_key())).await.unwrap_err();
    assert_eq!(problem_of(&status).code, "token.invalid");
}

#[tokio::test]
async fn a_workload_gets_what_its_registration_says() {
    let mut world = World::new().await;
    let mut registration = entry("web", "/app/web");
    registration.dns_names = vec!["web.example.org".into()];
    registration.labels.insert("team".into(), "shop".into());
    registration.x509_ttl = 600;
    world.put(registration).await;
    let agent = Agent::join(&mut world, "lab").await;
    let mut stream = agent.connect().await;
    let instance = stream.issue("web").await.unwrap();

    let chain: Vec<&[u8]> = instance.chain.iter().map(|der| &**der).collect();
    assert_eq!(chain.len(), 2, "leaf and intermediate, without the root");
    let verified = x509::verify(&chain, &bundles(&stream), world.clock.now()).unwrap();
    assert_eq!(verified.id().as_str(), "spiffe://example.org/app/web");
    let attributes = verified.attributes().unwrap();
    assert_eq!(attributes.instance, Some(instance.id));
    assert_eq!((attributes.generation, instance.generation), (0, 0));
    assert_eq!(attributes.site(), Some("lab"));
    assert_eq!(attributes.registration(), Some("web"));
    assert_eq!(attributes.label("team"), Some(b"shop".as_slice()));
    assert_eq!(attributes.selectors().collect::<Vec<_>>(), [("unix.uid", b"1000".as_slice())]);
    assert_eq!(&*verified.leaf().dns_names()[0], "web.example.org");
    assert_eq!(verified.leaf().not_after().since(world.clock.now()), Duration::from_secs(600));
}

#[tokio::test]
async fn a_rule_needs_its_selectors_and_certifies_what_it_used() {
    let mut world = World::new().await;
    let mut rule = entry("users", "/app/{unix.user}");
    rule.kind = bonafide_wire::types::registration::Kind::Rule.into();
    rule.selectors = vec![Selector { key: "unix.gid".into(), value: "100".into() }];
    world.put(rule).await;
    let agent = Agent::join(&mut world, "lab").await;
    let mut stream = agent.connect().await;
    assert_eq!(stream.issue("users").await.err().unwrap().code, "registration.selectors");

    let selector = |key: &str, value: &str| Selector { key: key.into(), value: value.into() };
    let mut issue = async |selectors: Vec<Selector>| {
        let ask = bonafide_wire::node::IssueX509 {
            request: stream.request(),
            registration: "users".into(),
            selectors,
            csr: request_for(&new_key()),
        };
        stream.ask(Say::IssueX509(ask)).await
    };
    let known = vec![selector("unix.gid", "100"), selector("unix.user", "ada"), selector("unix.uid", "7")];
    let Ok(Heard::X509Issued(issued)) = issue(known).await else { panic!() };
    let leaf = bonafide_identity::Certificate::from_der(&issued.chain[0]).unwrap();
    assert_eq!(leaf.spiffe_id().unwrap().as_str(), "spiffe://example.org/app/ada");
    let certified: Vec<_> = leaf.attributes().unwrap().selectors().collect();
    assert_eq!(certified, [("unix.gid", b"100".as_slice()), ("unix.user", b"ada".as_slice())]);

    let weak =
        vec![selector("unix.gid", "100"), selector("unix.user", "ada"), selector("agent.peer", "start-time")];
    let Ok(Heard::X509Issued(issued)) = issue(weak).await else { panic!() };
    let leaf = bonafide_identity::Certificate::from_der(&issued.chain[0]).unwrap();
    let says_so = leaf
        .attributes()
        .unwrap()
        .evidence()
        .any(|evidence| evidence == ("agent.peer", b"start-time".as_slice()));
    assert!(says_so, "an SVID that was earned on a weak kernel");

    let escape = vec![selector("unix.gid", "100"), selector("unix.user", "ada/../../bonafide/agent")];
    assert!(issue(escape).await.unwrap_err().code.starts_with("template."));
}

#[tokio::test]
async fn renewal_takes_a_fresh_key_and_both_signatures() {
    let mut world = World::new().await;
    world.put(entry("web", "/app/web")).await;
    let agent = Agent::join(&mut world, "lab").await;
    let mut stream = agent.connect().await;
    let first = stream.issue("web").await.unwrap();
    let second = stream.renew_with(&first, new_key()).await.unwrap();
    assert_eq!((second.id, second.generation), (first.id, 1));
    assert_eq!(second.leaf().attributes().unwrap().generation, 1);
    let third = stream.renew_with(&second, new_key()).await.unwrap();
    assert_eq!(third.generation, 2);

    // Each way to break it.
    let key = new_key();
    let good = third.renewal(100, &key);
    let mut broken = Vec::new();
    let mut change = |code: &'static str, change: &dyn Fn(&mut bonafide_wire::node::RenewX509)| {
        let mut ask = good.clone();
        change(&mut ask);
        broken.push((code, ask));
    };
    change("lineage.signature", &|ask| ask.previous_key_signature = ask.new_key_signature.clone());
    change("lineage.signature", &|ask| ask.new_key_signature = ask.previous_key_signature.clone());
    change("lineage.signature", &|ask| ask.nonce = Bytes::from_static(&[1; 16]));
    change("lineage.malformed", &|ask| ask.nonce = Bytes::from_static(&[1; 15]));
    change("lineage.discontinuous", &|ask| ask.generation += 1);
    change("lineage.discontinuous", &|ask| ask.instance = Bytes::from_static(&[1; 16]));
    change("lineage.previous", &|ask| ask.previous_chain.clear());
    change("lineage.malformed", &|ask| ask.previous_chain = vec![ask.previous_chain[0].clone(); 9]);
    change("lineage.forked", &|ask| ask.previous_chain = first.chain.clone());
    change("registration.unknown", &|ask| ask.registration = "other".into());
    change("lineage.same-key", &|ask| {
        ask.public_key = Bytes::copy_from_slice(third.key.public_key().spki_der())
    });
    for (code, ask) in broken {
        assert_eq!(stream.ask(Say::RenewX509(ask)).await.unwrap_err().code, code);
    }
    assert!(matches!(stream.ask(Say::RenewX509(good)).await, Ok(Heard::X509Issued(_))));
}

#[tokio::test]
async fn the_second_successor_is_a_clone_and_a_lost_reply_is_not() {
    let mut world = World::new().await;
    world.put(entry("web", "/app/web")).await;
    let agent = Agent::join(&mut world, "lab").await;
    let mut stream = agent.connect().await;
    let first = stream.issue("web").await.unwrap();
    let lost = first.renewal(7, &new_key());
    assert!(matches!(stream.ask(Say::RenewX509(lost.clone())).await, Ok(Heard::X509Issued(_))));
    assert!(matches!(stream.ask(Say::RenewX509(lost.clone())).await, Ok(Heard::X509Issued(_))));
    let clone = stream.renew_with(&first, new_key()).await.err().unwrap();
    assert_eq!(clone.code, "lineage.forked");

    // And the server does not forget it.
    let mut world = world.restart().await;
    let mut agent = agent;
    agent.address = world.running().node_address().to_string();
    let mut stream = agent.connect().await;
    assert_eq!(stream.renew_with(&first, new_key()).await.err().unwrap().code, "lineage.forked");
    assert!(matches!(stream.ask(Say::RenewX509(lost)).await, Ok(Heard::X509Issued(_))));
    world.stop().await;
}

#[tokio::test]
async fn an_instance_stays_with_its_agent_and_ends_with_its_process() {
    let mut world = World::new().await;
    world.put(entry("web", "/app/web")).await;
    let (one, other) = (Agent::join(&mut world, "lab").await, Agent::join(&mut world, "lab").await);
    let (mut one, mut other) = (one.connect().await, other.connect().await);
    let instance = one.issue("web").await.unwrap();
    assert_eq!(other.renew_with(&instance, new_key()).await.err().unwrap().code, "lineage.discontinuous");

    let end =
        bonafide_wire::node::End { instance: Bytes::copy_from_slice(instance.id.as_bytes()), ended_at: 1 };
    let launch = Launch { instance: end.instance.clone(), registration: "web".into(), ..Launch::default() };
    let report = |request| Report { request, launches: vec![launch.clone()], ends: vec![end.clone()] };
    // Another agent's word ends nothing.
    assert!(matches!(other.ask(Say::Report(report(1))).await, Ok(Heard::Reported(_))));
    let next = one.renew_with(&instance, new_key()).await.unwrap();
    assert!(matches!(one.ask(Say::Report(report(2))).await, Ok(Heard::Reported(_))));
    assert_eq!(one.renew_with(&next, new_key()).await.err().unwrap().code, "lineage.ended");
}

#[tokio::test]
async fn large_reports_use_up_the_share_of_their_agent_alone() {
    let mut world = World::new().await;
    let (one, other) = (Agent::join(&mut world, "lab").await, Agent::join(&mut world, "lab").await);
    let (mut one, mut other) = (one.connect().await, other.connect().await);
    let selector = |n: usize| Selector { key: format!("unix.k{n}"), value: "v".repeat(900) };
    let launch = Launch {
        instance: vec![7; 16].into(),
        registration: "web".into(),
        selectors: (0..30).map(selector).collect(),
        ..Launch::default()
    };
    let report = |request| Report { request, launches: vec![launch.clone(); 30], ends: vec![] };
    let mut passed = 0;
    let refused = loop {
        passed += 1;
        assert!(passed < 10, "nothing stops it");
        if let Err(problem) = one.ask(Say::Report(report(passed))).await {
            break problem;
        }
    };
    assert_eq!(refused.code, "rate.reports");
    assert!(matches!(other.ask(Say::Report(report(1))).await, Ok(Heard::Reported(_))));
}

#[tokio::test]
async fn tokens_are_bound_to_audience_and_instance() {
    let mut world = World::new().await;
    world.put(entry("web", "/app/web")).await;
    world.put(entry("db", "/app/db")).await;
    let agent = Agent::join(&mut world, "lab").await;
    let mut stream = agent.connect().await;
    let instance = stream.issue("web").await.unwrap();
    let ask = |registration: &str, audience: &[&str], instance: &[u8]| IssueJwt {
        request: 50,
        registration: registration.into(),
        selectors: vec![],
        audience: audience.iter().map(|audience| (*audience).to_owned()).collect(),
        instance: Bytes::copy_from_slice(instance),
        chain: vec![],
    };
    let id = instance.id.as_bytes();
    let Ok(Heard::JwtIssued(issued)) = stream.ask(Say::IssueJwt(ask("web", &["db"], id))).await else {
        panic!()
    };
    let svid = jwt::verify(&issued.token, &bundles(&stream), "db", world.clock.now()).unwrap();
    assert_eq!(svid.id().as_str(), "spiffe://example.org/app/web");
    assert_eq!(svid.instance(), Some(instance.id));
    assert_eq!(issued.expires_at, svid.expires_at().as_secs());

    let refused = stream.ask(Say::IssueJwt(ask("db", &["x"], id))).await.unwrap_err();
    assert_eq!(refused.code, "issuance.instance", "an instance of another registration");
    let refused = stream.ask(Say::IssueJwt(ask("web", &["x"], &[1; 16]))).await.unwrap_err();
    assert_eq!(refused.code, "issuance.instance");
    let many = ["a"; 100];
    for audience in [&[][..], &[""][..], &many[..]] {
        assert!(stream.ask(Say::IssueJwt(ask("web", audience, &[]))).await.is_err(), "{audience:?}");
    }
}

#[tokio::test]
async fn what_is_outside_is_refused() {
    let mut world = World::new().await;
    world.put_site("edge", &["spiffe://example.org/edge/**"]).await;
    world.put(entry("web", "/app/web")).await;
    let mut of_edge = entry("far", "/edge/far");
    of_edge.site = "edge".into();
    world.put(of_edge).await;
    let mut dying = entry("dying", "/app/dying");
    dying.expires_at = world.clock.now().as_secs() + 60;
    world.put(dying).await;
    let (agent, other) = (Agent::join(&mut world, "lab").await, Agent::join(&mut world, "lab").await);
    let mut own = entry("own", "/app/own");
    own.parent = other.id.to_string();
    world.put(own).await;
    let mut stream = agent.connect().await;
    assert_eq!(
        stream.registrations.keys().collect::<Vec<_>>(),
        ["dying", "web"],
        "nothing of others is told"
    );

    assert_eq!(stream.issue("far").await.err().unwrap().code, "registration.unknown");
    assert_eq!(stream.issue("own").await.err().unwrap().code, "registration.unknown");
    assert_eq!(stream.issue("nothing").await.err().unwrap().code, "registration.unknown");
    let none = stream.issue_with("web", Bytes::from_static(b"no request")).await.unwrap_err();
    assert_eq!(none.code, "crypto.csr-malformed");

    stream.issue("dying").await.unwrap();
    world.clock.advance(Duration::from_secs(60));
    let gone = stream.issue("dying").await.err().unwrap();
    assert!(["registration.expired", "registration.unknown"].contains(&gone.code.as_str()), "{gone:?}");

    // A scope that is narrowed holds for registrations that were there before.
    stream.issue("web").await.unwrap();
    world.put_site("lab", &["spiffe://example.org/app/db"]).await;
    assert_eq!(stream.issue("web").await.err().unwrap().code, "scope.spiffe-id");
}

#[tokio::test]
async fn a_request_that_names_another_identity_is_refused() {
    let mut world = World::new().await;
    world.put(entry("web", "/app/web")).await;
    let agent = Agent::join(&mut world, "lab").await;
    let mut stream = agent.connect().await;
    let naming = |id: &str| {
        let mut parameters = rcgen::CertificateParams::default();
        parameters.distinguished_name = rcgen::DistinguishedName::new();
        parameters.subject_alt_names = vec![rcgen::SanType::URI(id.try_into().unwrap())];
        let key = rcgen::KeyPair::generate().unwrap();
        Bytes::copy_from_slice(parameters.serialize_request(&key).unwrap().der())
    };
    let refused =
        stream.issue_with("web", naming("spiffe://example.org/bonafide/authority/a")).await.unwrap_err();
    assert_eq!(refused.code, "issuance.request-names-another");
    stream.issue_with("web", naming("spiffe://example.org/app/web")).await.unwrap();
    let renewal = RenewAgent { request: 5, csr: naming("spiffe://example.org/app/web") };
    let refused = stream.ask(Say::RenewAgent(renewal)).await.unwrap_err();
    assert_eq!(refused.code, "issuance.request-names-another");
}

#[tokio::test]
async fn an_agent_renews_its_own_svid() {
    let mut world = World::new().await;
    let agent = Agent::join(&mut world, "lab").await;
    let mut stream = agent.connect().await;
    world.clock.advance(Duration::from_secs(1800));
    let renewal = RenewAgent { request: 1, csr: request_for(&new_key()) };
    let Ok(Heard::X509Issued(issued)) = stream.ask(Say::RenewAgent(renewal)).await else { panic!() };
    let leaf = bonafide_identity::Certificate::from_der(&issued.chain[0]).unwrap();
    assert_eq!(leaf.spiffe_id(), Some(&agent.id));
    assert_eq!(leaf.not_after().since(world.clock.now()), Duration::from_secs(3600));
    let half = issued.renew_after - world.clock.now().as_secs();
    assert!((1600..=2000).contains(&half), "{half}");
    let listed = world.admin.list_agents(ListAgentsRequest::default()).await.unwrap().into_inner().agents;
    assert_eq!(listed[0].svid_expires_at, leaf.not_after().as_secs());
}

#[tokio::test]
async fn a_banned_agent_is_told_and_gets_nothing_more() {
    let mut world = World::new().await;
    world.put(entry("web", "/app/web")).await;
    let agent = Agent::join(&mut world, "lab").await;
    let mut stream = agent.connect().await;
    stream.issue("web").await.unwrap();
    let ban = BanAgentRequest { id: agent.id.to_string(), reason: "stolen".into(), ..Default::default() };
    world.admin.ban_agent(ban).await.unwrap();
    let Ok(Heard::Banned(banned)) = stream.next().await else { panic!() };
    assert_eq!(banned.problem.unwrap().code, "agent.banned");
    assert!(stream.next().await.is_err(), "the stream has ended");
    let refused = agent.try_connect(Hello::default()).await.err().unwrap();
    assert_eq!(problem_of(&refused).code, "agent.banned");
}

#[tokio::test]
async fn only_agents_have_streams() {
    let mut world = World::new().await;
    let line: JoinLine = world.join_line("lab").await.parse().unwrap();
    let anonymous = dial(&line.address, &pinned(&line, &world)).await.unwrap();
    let said = tokio_stream::iter(Vec::<bonafide_wire::node::AgentMessage>::new());
    let refused =
        bonafide_wire::node::node_client::NodeClient::new(anonymous).connect(said).await.unwrap_err();
    assert_eq!(problem_of(&refused).code, "stream.no-agent");
}
