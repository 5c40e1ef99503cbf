//! Who may revoke what, how much, and for how long.

use std::time::Duration;

use bonafide_authority::Refusal;
use bonafide_authority::admin::Caller;
use bonafide_identity::revocation::{MAX_REVOCATIONS, Subject};
use bonafide_identity::{InstanceId, UnixTime};
use bonafide_wire::admin::{
    BanAgentRequest, ListRevocationsRequest, RevokeRequest, RevokeResponse, UnrevokeRequest,
};
use bonafide_wire::{from_subject, types};

use crate::support::{ADMINS_AGENT, LOCAL, START, Server, agent_id, entry, id, put, rule, scope, site_admin};

async fn server() -> Server {
    let server = Server::new().await;
    let own = types::Scope {
        admin: vec!["edge".into()],
        ..scope(&["spiffe://example.org/edge/**", "spiffe://example.org/both/*"])
    };
    server.put_site("edge", own).await;
    server.put_site("core", scope(&["spiffe://example.org/core/**", "spiffe://example.org/both/*"])).await;
    let admin = types::Registration {
        admin: vec!["edge".into()],
        ..entry("edge", "edge-admin", "spiffe://example.org/edge/admin", &[("unix.uid", "7")])
    };
    server.admin.put_registration(&LOCAL, put(admin)).await.unwrap();
    server.put_entry("edge", "edge-web", "spiffe://example.org/edge/web", &[("unix.uid", "1")]).await;
    let users = rule("edge", "edge-users", "spiffe://example.org/edge/{unix.user}", &[("unix.uid", "1")]);
    server.admin.put_registration(&LOCAL, put(users)).await.unwrap();
    server.add_agent("edge", 1).await;
    server.add_agent("edge", ADMINS_AGENT).await;
    server.add_agent("core", 2).await;
    server
}

fn edge_admin() -> Caller {
    site_admin("spiffe://example.org/edge/admin", "edge", "edge-admin", &["edge"])
}

fn instance(site: u8, number: u16) -> Subject {
    let [high, low] = number.to_be_bytes();
    let mut bytes = [0; 16];
    bytes[..3].copy_from_slice(&[site, high, low]);
    Subject::Instance(InstanceId::from_bytes(bytes))
}

async fn revoke(server: &Server, caller: &Caller, subject: &Subject) -> Result<RevokeResponse, Refusal> {
    let request = RevokeRequest { subject: Some(from_subject(subject)), ..RevokeRequest::default() };
    server.admin.revoke(caller, request).await
}

async fn undo(server: &Server, caller: &Caller, subject: &Subject) -> Result<(), Refusal> {
    let request = UnrevokeRequest { subject: Some(from_subject(subject)), ..UnrevokeRequest::default() };
    server.admin.unrevoke(caller, request).await.map(drop)
}

fn code<T>(result: Result<T, Refusal>) -> String {
    result.map_or_else(|refusal| refusal.code().to_owned(), |_| "ok".to_owned())
}

#[tokio::test]
async fn an_admin_of_a_site_revokes_what_lies_in_it_and_nothing_else() {
    let server = server().await;
    let admin = edge_admin();
    for (subject, expected, by_operator) in [
        (instance(1, 0), "ok", "ok"),
        (instance(2, 0), "revocation.unknown-instance", "ok"),
        (instance(9, 0), "revocation.unknown-instance", "ok"),
        (Subject::Id(id("spiffe://example.org/edge/web")), "ok", "ok"),
        (Subject::Id(id("spiffe://example.org/core/web")), "revocation.other-site", "ok"),
        (Subject::Id(id("spiffe://example.org/both/web")), "revocation.other-site", "ok"),
        (Subject::Id(id("spiffe://example.org/nobody/web")), "revocation.other-site", "ok"),
        (Subject::Id(id("spiffe://other.org/web")), "revocation.foreign", "revocation.foreign"),
        (Subject::Agent(agent_id("edge", 1)), "ok", "ok"),
        (Subject::Agent(agent_id("core", 2)), "agent.unknown", "ok"),
        (Subject::Site("core".into()), "admin.other-site", "ok"),
        (Subject::Site("nowhere".into()), "admin.other-site", "site.unknown"),
        (Subject::AuthorityKey([7; 20].into()), "revocation.authority-key", "revocation.authority-key"),
    ] {
        assert_eq!(code(revoke(&server, &admin, &subject).await), expected, "{subject}");
        assert_eq!(code(revoke(&server, &LOCAL, &subject).await), by_operator, "{subject}");
    }
    let list = |caller: &Caller| {
        let request = ListRevocationsRequest::default();
        server.admin.list_revocations(caller, &request).unwrap().revocations
    };
    assert!(list(&admin).iter().all(|record| record.site == "edge"));
    assert_eq!((list(&admin).len(), list(&LOCAL).len()), (3, 10));
    assert_eq!(code(undo(&server, &admin, &instance(2, 0)).await), "revocation.unknown");
    assert_eq!(code(undo(&server, &admin, &instance(1, 0)).await), "ok");
    assert_eq!(
        code(undo(&server, &LOCAL, &Subject::Agent(agent_id("edge", 1))).await),
        "revocation.agent-is-banned"
    );

    // Who took a site over may close it, but not open it again; and its admins are nobody then.
    assert_eq!(code(revoke(&server, &admin, &Subject::Site("edge".into())).await), "ok");
    assert_eq!(code(undo(&server, &admin, &Subject::Site("edge".into())).await), "admin.not-admin");
    assert_eq!(code(undo(&server, &LOCAL, &Subject::Site("edge".into())).await), "ok");
    assert_eq!(code(undo(&server, &admin, &Subject::Id(id("spiffe://example.org/edge/web"))).await), "ok");
}

#[tokio::test]
async fn a_revoked_admin_is_none() {
    let server = server().await;
    let admin = edge_admin();
    let own = Subject::Id(id("spiffe://example.org/edge/admin"));
    assert_eq!(code(revoke(&server, &admin, &own).await), "ok");
    assert_eq!(code(undo(&server, &admin, &own).await), "admin.not-admin");
}

#[tokio::test]
async fn records_are_bounded_and_leave_room_for_operators() {
    let server = server().await;
    let admin = edge_admin();
    for number in 0..1000 {
        // By an operator, who may write faster.
        revoke(&server, &LOCAL, &instance(1, number)).await.unwrap();
    }
    assert_eq!(code(revoke(&server, &admin, &instance(1, 1000)).await), "revocation.too-many");
    assert_eq!(code(revoke(&server, &admin, &instance(1, 7)).await), "ok", "it is revoked already");
    assert_eq!(code(revoke(&server, &LOCAL, &instance(1, 1000)).await), "ok");
    assert!(server.registry.state().revocations().len() < MAX_REVOCATIONS);
}

#[tokio::test]
async fn each_ends_with_what_it_can_concern_and_a_quarantine_lasts() {
    let server = server().await;
    let web = Subject::Id(id("spiffe://example.org/edge/web"));
    let first = revoke(&server, &LOCAL, &web).await.unwrap();
    let revocation = first.revocation.unwrap();
    assert_eq!(revocation.issued_before, START + 1);
    assert_eq!(revocation.expires_at, START + 25 * 3600);
    assert_eq!(first.registrations, ["edge-users", "edge-web"]);

    // Later, it concerns what was issued since.
    server.clock.advance(Duration::from_secs(60));
    let delete = RevokeRequest {
        subject: Some(from_subject(&web)),
        delete_registrations: true,
        ..RevokeRequest::default()
    };
    let second = server.admin.revoke(&LOCAL, delete).await.unwrap();
    assert_eq!(second.revocation.unwrap().issued_before, START + 61);
    assert_eq!(
        (second.deleted, second.registrations),
        (vec!["edge-web".to_owned()], vec!["edge-users".to_owned()])
    );

    revoke(&server, &LOCAL, &Subject::Site("core".into())).await.unwrap();
    let state = server.registry.state();
    let expired = |seconds: i64| state.expired(UnixTime::from_secs(START + seconds)).count();
    assert_eq!(expired(25 * 3600), 0);
    assert_eq!(expired(25 * 3600 + 61), 1);
    assert_eq!(expired(1_000_000_000), 1);
}

#[tokio::test]
async fn what_is_revoked_is_so_after_a_restart() {
    let before = server().await;
    revoke(&before, &LOCAL, &instance(1, 5)).await.unwrap();
    let ban = BanAgentRequest { id: agent_id("core", 2).to_string(), ..BanAgentRequest::default() };
    before.admin.ban_agent(&LOCAL, ban).await.unwrap();
    let known = before.registry.state().revocations().clone();
    assert!(known.get(&Subject::Agent(agent_id("core", 2))).is_some(), "a ban revokes what was issued there");
    let after = Server::over(before.store.clone(), before.clock.clone()).await;
    assert_eq!(*after.registry.state().revocations(), known);
}

#[tokio::test]
async fn the_callers_words_and_times_are_checked() {
    let server = server().await;
    let asked = |change: fn(&mut RevokeRequest)| {
        let mut request =
            RevokeRequest { subject: Some(from_subject(&instance(1, 0))), ..RevokeRequest::default() };
        change(&mut request);
        request
    };
    for (request, expected) in [
        (asked(|request| request.subject = None), "revocation.subject"),
        (asked(|request| request.reason = "x".repeat(257)), "revocation.reason"),
        (asked(|request| request.reason = "\u{1b}[2J".into()), "revocation.reason"),
        (asked(|request| request.delete_registrations = true), "revocation.delete-registrations"),
        (asked(|request| request.subject.as_mut().unwrap().issued_before = i64::MAX), "revocation.time"),
        (asked(|request| request.subject.as_mut().unwrap().expires_at = 1), "revocation.time"),
    ] {
        assert_eq!(code(server.admin.revoke(&LOCAL, request).await), expected);
    }
    assert!(server.registry.state().revocations().is_empty());
}
