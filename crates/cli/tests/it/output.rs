//! What people and scripts read, in every format.

use bonafide_cli::{
    Failure, Format, Moment, render,
    view::{
        agent::AgentList,
        authority::SigningAuthorityList,
        explanation::ExplanationView,
        registration::{RegistrationList, RegistrationView},
        site::{SiteList, SiteView},
        status::{Answer, StatusView},
        token::{JoinView, NewTokenView, TokenList},
    },
};
use bonafide_wire::{
    admin, agent,
    types::{self, Problem, Selector, registration::Kind},
};

use crate::golden::{NOW, check};

const HOUR: i64 = 3_600;

fn selector(key: &str, value: &str) -> Selector {
    Selector { key: key.into(), value: value.into() }
}

fn problem(code: &str, message: &str, hint: &str) -> Problem {
    Problem { code: code.into(), message: message.into(), hint: hint.into() }
}

fn site() -> types::Site {
    types::Site {
        name: "edge".into(),
        scope: Some(types::Scope {
            spiffe_ids: vec!["spiffe://example.org/edge/**".into(), "spiffe://example.org/web".into()],
            dns_names: vec!["*.edge.example.org".into()],
            labels: vec![selector("tier", "*")],
            max_x509_ttl: 86_400,
            max_jwt_ttl: 3_600,
            admin: vec!["edge".into()],
            signatures_per_second: 0,
            attestations_per_second: 5,
        }),
        default_x509_ttl: 3_600,
        default_jwt_ttl: 300,
        revision: 7,
        created_at: NOW - 2 * HOUR,
        ..types::Site::default()
    }
}

fn registration() -> types::Registration {
    types::Registration {
        id: "web".into(),
        kind: Kind::Entry.into(),
        site: "edge".into(),
        spiffe_id: "spiffe://example.org/web".into(),
        selectors: vec![selector("unix.uid", "1000"), selector("unix.path", "/usr/bin/web")],
        x509_ttl: 5_400,
        dns_names: vec!["web.edge.example.org".into()],
        labels: [("tier".to_owned(), "front".to_owned())].into(),
        expires_at: NOW + 24 * HOUR,
        created_at: NOW - HOUR,
        revision: 9,
        ..Default::default()
    }
}

#[test]
fn sites() {
    check("site", &SiteView::from(site()));
    check(
        "sites",
        &SiteList(vec![site().into(), types::Site { name: "bare".into(), ..Default::default() }.into()]),
    );
}

#[test]
fn registrations() {
    let rule = types::Registration {
        id: "users".into(),
        kind: Kind::Rule.into(),
        site: "edge".into(),
        spiffe_id: "spiffe://example.org/user/{unix.user}".into(),
        parent: "spiffe://example.org/bonafide/agent/edge/1".into(),
        selectors: vec![selector("unix.uid", "1000")],
        ..Default::default()
    };
    check("registration", &RegistrationView::from(registration()));
    check("registrations", &RegistrationList(vec![registration().into(), rule.into()]));
    check("no-registrations", &RegistrationList(Vec::new()));
}

#[test]
fn tokens() {
    let waiting =
        admin::JoinToken { id: "k7".into(), site: "edge".into(), expires_at: NOW + 600, created_at: NOW };
    let new = admin::CreateJoinTokenResponse {
        id: "k7".into(),
        token: "TOKEN".into(),
        expires_at: NOW + 600,
        join: "bfj1.WORD".into(),
    };
    check("tokens", &TokenList(vec![waiting.into()]));
    check("new-token", &NewTokenView::from(new.clone()));
    check("join", &JoinView::new("edge", new.clone()));
    for debug in
        [format!("{:?}", NewTokenView::from(new.clone())), format!("{:?}", JoinView::new("edge", new))]
    {
        assert!(!debug.contains("TOKEN") && !debug.contains("WORD"), "{debug}");
    }
}

#[test]
fn agents() {
    let away = admin::Agent {
        id: "spiffe://example.org/bonafide/agent/edge/1".into(),
        site: "edge".into(),
        attestor: "join_token".into(),
        acknowledged_revision: 9,
        attested_at: NOW - HOUR,
        svid_expires_at: NOW - 60,
        version: "0.1.0".into(),
        ..Default::default()
    };
    let banned = admin::Agent { banned: true, connected: true, ..away.clone() };
    let connected = admin::Agent { connected: true, svid_expires_at: NOW + HOUR, ..away.clone() };
    check("agents", &AgentList(vec![away.into(), banned.into(), connected.into()]));
}

#[test]
fn signing_authorities() {
    use admin::signing_authority::Kind;
    let root = admin::SigningAuthority {
        kind: Kind::Root.into(),
        id: "00ff".into(),
        state: "active".into(),
        not_before: NOW - HOUR,
        not_after: NOW + 8_760 * HOUR,
        algorithm: "EC P-256".into(),
        certificate: Vec::new().into(),
        ..admin::SigningAuthority::default()
    };
    let jwt = admin::SigningAuthority {
        kind: Kind::Jwt.into(),
        id: "k1".into(),
        state: "prepared".into(),
        not_after: 0,
        ..root.clone()
    };
    check("signing-authorities", &SigningAuthorityList(vec![root.into(), jwt.into()]));
}

#[test]
fn status_of_both() {
    let authority = admin::AuthorityStatus {
        trust_domain: "example.org".into(),
        server: "a".into(),
        version: "0.1.0".into(),
        revision: 12,
        incarnation: "abcd".into(),
        sites: 1,
        registrations: 2,
        agents_connected: 1,
        ledger_size: 31,
        address: "127.0.0.1:8443".into(),
        seal: "key-file".into(),
        started_at: NOW - 90,
        witnessed_size: 30,
        witnesses: 1,
        peers: vec![admin::LedgerPeer { server: "b".into(), size: 9 }],
        replica: Some(admin::LedgerReplica { size: 28, problem: "`/mnt/ledger`: no space".into() }),
    };
    let agent = agent::AgentStatus {
        agent_id: "spiffe://example.org/bonafide/agent/edge/1".into(),
        trust_domain: "example.org".into(),
        site: "edge".into(),
        connected: false,
        problem: Some(problem(
            "connection.refused",
            "127.0.0.1:8443 refuses connections",
            "start the authority",
        )),
        revision: 12,
        registrations: 2,
        instances: 1,
        pooled: 4,
        agent_svid_expires_at: NOW + HOUR,
        version: "0.1.0".into(),
        peer_evidence: vec![agent::PeerEvidence { name: "SO_PEERPIDFD".into(), available: false }],
    };
    let view = StatusView {
        authority: Some(Answer::new(Ok::<_, Failure>(authority))),
        agent: Some(Answer::new(Ok::<_, Failure>(agent))),
    };
    assert!(!view.is_well());
    check("status", &view);
}

#[test]
fn status_of_an_agent_that_is_not_there() {
    let missing = Failure::SocketMissing { what: "agent", path: "/run/bonafide/agent.sock".into() };
    let view =
        StatusView { authority: None, agent: Some(Answer::new(Err::<agent::AgentStatus, _>(missing))) };
    assert!(!view.is_well());
    check("status-unreachable", &view);
}

fn explanation() -> agent::Explanation {
    agent::Explanation {
        pid: 4711,
        peer_evidence: "pidfd".into(),
        selectors: vec![selector("unix.uid", "1000"), selector("unix.path", "/usr/bin/web")],
        agent_id: "spiffe://example.org/bonafide/agent/edge/1".into(),
        site: "edge".into(),
        ..Default::default()
    }
}

#[test]
fn explanation_of_an_identity() {
    let identity = agent::Identity {
        spiffe_id: "spiffe://example.org/web".into(),
        registration: "web".into(),
        instance: "0f2c8a1e-0000-4000-8000-000000000001".into(),
        expires_at: NOW + HOUR,
        renew_after: NOW + HOUR / 2,
        generation: 3,
        ..Default::default()
    };
    let explanation = agent::Explanation { identities: vec![identity], ..explanation() };
    let outcome = admin::Outcome {
        registration: "web".into(),
        spiffe_id: "spiffe://example.org/web".into(),
        problem: None,
    };
    let authority = admin::ExplainResponse { outcomes: vec![outcome], ..Default::default() };
    let view =
        ExplanationView::new("/run/bonafide/agent.sock", explanation, Some(Ok(authority)), Moment(NOW));
    assert!(view.has_identity());
    check("explanation", &view);
}

#[test]
fn explanation_of_a_near_miss() {
    let miss = agent::NearMiss {
        registration: "web".into(),
        spiffe_id: "spiffe://example.org/web".into(),
        missing: vec![selector("unix.uid", "1001")],
    };
    let explanation = agent::Explanation {
        problem: Some(problem(
            "workload.no-registration",
            "no registration matches",
            "create one with `entry create`",
        )),
        near_misses: vec![miss],
        attestor_failures: vec!["cgroup: not readable".into()],
        ..explanation()
    };
    let elsewhere = admin::NearMiss {
        registration: "core-web".into(),
        spiffe_id: "spiffe://example.org/core/web".into(),
        missing: Vec::new(),
        wrong_place: "it belongs to site `core`".into(),
    };
    let authority = admin::ExplainResponse { near_misses: vec![elsewhere], ..Default::default() };
    let view =
        ExplanationView::new("/run/bonafide/agent.sock", explanation, Some(Ok(authority)), Moment(NOW));
    assert!(!view.has_identity());
    check("explanation-near-miss", &view);
}

#[test]
fn explanation_of_a_refused_issuance() {
    let refused = problem("scope.x509-ttl", "the site allows at most 1h", "shorten the entry's lifetime");
    let identity = agent::Identity {
        spiffe_id: "spiffe://example.org/web".into(),
        registration: "web".into(),
        problem: Some(refused),
        ..Default::default()
    };
    let explanation = agent::Explanation { identities: vec![identity], ..explanation() };
    let silent = Failure::SocketMissing { what: "authority", path: "/admin.sock".into() };
    let view = ExplanationView::new("/run/bonafide/agent.sock", explanation, Some(Err(silent)), Moment(NOW));
    assert!(!view.has_identity());
    check("explanation-refused", &view);
}

#[test]
fn a_name_from_afar_cannot_drive_the_terminal() {
    let site = types::Site { name: "\u{1b}[2Jevil\u{202e}\nroot".into(), ..Default::default() };
    for quiet in [false, true] {
        let text =
            render(&SiteList(vec![site.clone().into()]), Format::Table, quiet, false, Moment(NOW)).unwrap();
        assert!(
            !text.contains('\u{1b}') && !text.contains('\u{202e}') && !text.contains("\nroot"),
            "{text:?}"
        );
    }
}

#[test]
fn json_and_yaml_say_the_same() {
    let list = RegistrationList(vec![registration().into()]);
    let json = render(&list, Format::Json, false, false, Moment(NOW)).unwrap();
    let yaml = render(&list, Format::Yaml, false, false, Moment(NOW)).unwrap();
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    let yaml: serde_json::Value = serde_saphyr::from_str(&yaml).unwrap();
    assert_eq!(json, yaml);
}
