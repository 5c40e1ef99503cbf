//! Every call of the admin API, by every kind of caller.

use std::{collections::BTreeMap, time::Duration};

use bonafide_net::{tls_listener::PeerSvid, unix};
use bonafide_wire::{
    admin::{
        ApplyRequest, BanAgentRequest, CreateJoinTokenRequest, DeleteRequest, ExplainRequest,
        GetBundleRequest, ListAgentsRequest, ListAuthoritiesRequest, ListJoinTokensRequest,
        ListRegistrationsRequest, ListSitesRequest, PutSiteRequest, StatusRequest, WaitRequest, admin_server,
    },
    problem_of, types,
};
use tonic::{Request, Status};

use crate::support::{
    ADMINS_AGENT, LOCAL, Server, agent_id, entry, peers::Issuer, put, resource, scope, site_admin,
};

/// The sites `edge` (with the admin's own workload) and `core`; the admin may administer `edge`.
async fn server() -> Server {
    let server = Server::new().await;
    let own = types::Scope { admin: vec!["edge".into()], ..scope(&["spiffe://example.org/edge/**"]) };
    server.put_site("edge", own).await;
    server.put_site("core", scope(&["spiffe://example.org/core/**"])).await;
    let admin = types::Registration {
        admin: vec!["edge".into()],
        ..entry("edge", "edge-admin", "spiffe://example.org/edge/admin", &[("unix.uid", "7")])
    };
    server.admin.put_registration(&LOCAL, put(admin)).await.unwrap();
    server.put_entry("edge", "edge-web", "spiffe://example.org/edge/web", &[("unix.uid", "1")]).await;
    server.put_entry("core", "core-web", "spiffe://example.org/core/web", &[("unix.uid", "1")]).await;
    server.add_agent("edge", 1).await;
    server.add_agent("edge", ADMINS_AGENT).await;
    server.add_agent("core", 2).await;
    server.add_root().await;
    server
}

#[derive(Clone, Debug)]
enum Who {
    Nobody,
    Socket { uid: u32, gid: u32 },
    Peer(PeerSvid),
}

fn request<T>(who: &Who, message: T) -> Request<T> {
    let mut request = Request::new(message);
    match who {
        Who::Nobody => (),
        Who::Socket { uid, gid } => {
            request.extensions_mut().insert(unix::Caller { pid: 1, uid: *uid, gid: *gid, pidfd: None });
        }
        Who::Peer(peer) => {
            request.extensions_mut().insert(peer.clone());
        }
    }
    request
}

/// The code of each call's refusal, or `ok`: for each call once about `edge`, and once about `core` where that differs.
async fn outcomes(server: &Server, who: &Who) -> BTreeMap<String, String> {
    outcomes_of(&server.admin, server, who).await
}

/// Generic, so that the calls are those that gRPC makes.
async fn outcomes_of(
    admin: &impl admin_server::Admin,
    server: &Server,
    who: &Who,
) -> BTreeMap<String, String> {
    fn said<T>(result: Result<T, Status>) -> String {
        match result {
            Ok(_) => "ok".into(),
            Err(status) => {
                let problem = problem_of(&status);
                assert!(!problem.message.is_empty() && !problem.hint.is_empty(), "{problem:?}");
                problem.code
            }
        }
    }
    let mut all = BTreeMap::new();
    let mut note = |call: String, outcome: String| assert!(all.insert(call, outcome).is_none());
    note("status".into(), said(admin.status(request(who, StatusRequest {})).await));
    note("list sites".into(), said(admin.list_sites(request(who, ListSitesRequest::default())).await));
    note("bundle".into(), said(admin.get_bundle(request(who, GetBundleRequest {})).await));
    note("authorities".into(), said(admin.list_authorities(request(who, ListAuthoritiesRequest {})).await));
    note("wait".into(), said(admin.wait(request(who, WaitRequest { revision: 1, timeout: 1 })).await));
    for (site, number) in [("edge", 1_u8), ("core", 2)] {
        let name = |call: &str| format!("{call} {site}");
        let agent = agent_id(site, number).to_string();
        let new = types::Site { name: site.into(), scope: Some(scope(&[])), ..types::Site::default() };
        let list = ListRegistrationsRequest { site: site.into(), ..ListRegistrationsRequest::default() };
        note(name("list registrations"), said(admin.list_registrations(request(who, list)).await));
        note(
            name("list tokens"),
            said(
                admin
                    .list_join_tokens(request(
                        who,
                        ListJoinTokensRequest { site: site.into(), ..Default::default() },
                    ))
                    .await,
            ),
        );
        note(
            name("list agents"),
            said(
                admin
                    .list_agents(request(who, ListAgentsRequest { site: site.into(), ..Default::default() }))
                    .await,
            ),
        );
        let explain = ExplainRequest { agent: agent.clone(), selectors: Vec::new() };
        note(name("explain"), said(admin.explain(request(who, explain)).await));
        let token = CreateJoinTokenRequest { site: site.into(), ..CreateJoinTokenRequest::default() };
        note(name("create token"), said(admin.create_join_token(request(who, token)).await));
        let id =
            server.registry.state().tokens().find(|token| token.site == site).map(|token| token.id.clone());
        if let Some(id) = id {
            let delete = DeleteRequest { name: id, ..DeleteRequest::default() };
            note(name("delete token"), said(admin.delete_join_token(request(who, delete)).await));
        }
        let fresh = entry(
            site,
            &format!("{site}-new"),
            &format!("spiffe://example.org/{site}/new"),
            &[("unix.uid", "9")],
        );
        note(name("put registration"), said(admin.put_registration(request(who, put(fresh))).await));
        let delete = DeleteRequest { name: format!("{site}-web"), ..DeleteRequest::default() };
        note(name("delete registration"), said(admin.delete_registration(request(who, delete)).await));
        let described = entry(
            site,
            &format!("{site}-applied"),
            &format!("spiffe://example.org/{site}/applied"),
            &[("unix.uid", "9")],
        );
        let apply = ApplyRequest { resources: vec![resource(described)], ..ApplyRequest::default() };
        let answer = admin.apply(request(who, apply)).await;
        let refused = answer.as_ref().ok().and_then(|answer| answer.get_ref().results[0].problem.clone());
        note(name("apply"), refused.map_or_else(|| said(answer), |problem| problem.code));
        let ban = BanAgentRequest { id: agent, reason: "test".into(), ..BanAgentRequest::default() };
        note(name("ban agent"), said(admin.ban_agent(request(who, ban)).await));
        let delete = DeleteRequest { name: site.into(), ..DeleteRequest::default() };
        note(name("delete site"), said(admin.delete_site(request(who, delete)).await));
        let put = PutSiteRequest { site: Some(new), ..PutSiteRequest::default() };
        note(name("put site"), said(admin.put_site(request(who, put)).await));
    }
    all
}

#[tokio::test]
async fn root_the_servers_user_and_the_admin_group_may_do_everything() {
    for (uid, gid) in [(0, 0), (900, 1), (1000, 950)] {
        let server = server().await;
        for (call, outcome) in outcomes(&server, &Who::Socket { uid, gid }).await {
            let expected = if call.starts_with("delete site") { "site.not-empty" } else { "ok" };
            assert_eq!(outcome, expected, "{call} by {uid}:{gid}");
        }
    }
}

#[tokio::test]
async fn others_may_do_nothing() {
    let server = server().await;
    let issuer = Issuer::new();
    // Right in the certificate alone, right in the registration alone, or a certificate of another identity.
    let peers = [
        ("admin.unauthenticated", Who::Nobody),
        ("admin.unauthenticated", Who::Peer(PeerSvid(None))),
        ("admin.not-admin", Who::Socket { uid: 1000, gid: 1000 }),
        (
            "admin.not-admin",
            Who::Peer(issuer.peer("spiffe://example.org/edge/admin", "edge", "edge-admin", &[])),
        ),
        (
            "admin.not-admin",
            Who::Peer(issuer.peer("spiffe://example.org/edge/admin", "edge", "edge-admin", &["core"])),
        ),
        (
            "admin.not-admin",
            Who::Peer(issuer.peer("spiffe://example.org/edge/web", "edge", "edge-web", &["edge"])),
        ),
        (
            "admin.not-admin",
            Who::Peer(issuer.peer("spiffe://example.org/edge/web", "edge", "edge-admin", &["edge"])),
        ),
        (
            "admin.not-admin",
            Who::Peer(issuer.peer("spiffe://example.org/edge/admin", "core", "edge-admin", &["edge"])),
        ),
        (
            "admin.not-admin",
            Who::Peer(issuer.peer("spiffe://example.org/edge/admin", "edge", "gone", &["edge"])),
        ),
        (
            "admin.not-admin",
            Who::Peer(issuer.peer("spiffe://example.org/core/web", "core", "core-web", &["core"])),
        ),
    ];
    let before = server.registry.state().revision();
    for (expected, who) in peers {
        for (call, outcome) in outcomes(&server, &who).await {
            assert_eq!(outcome, expected, "{call} by {who:?}");
        }
    }
    assert_eq!(server.registry.state().revision(), before);
}

#[tokio::test]
async fn a_sites_admin_touches_that_site_alone_and_no_site_itself() {
    let server = server().await;
    let who = Who::Peer(Issuer::new().peer(
        "spiffe://example.org/edge/admin",
        "edge",
        "edge-admin",
        &["edge", "core"],
    ));
    for (call, outcome) in outcomes(&server, &who).await {
        let expected = match call.as_str() {
            "put site edge" | "put site core" | "delete site edge" | "delete site core" => "admin.local-only",
            "delete registration core" => "registration.unknown",
            "ban agent core" => "agent.unknown",
            call if call.ends_with("core") => "admin.other-site",
            _ => "ok",
        };
        assert_eq!(outcome, expected, "{call}");
    }
    let state = server.registry.state();
    assert!(
        state.registration("core-web").is_some() && state.agent(&agent_id("core", 2)).unwrap().ban.is_none()
    );
    assert!(
        state.registration("edge-web").is_none() && state.agent(&agent_id("edge", 1)).unwrap().ban.is_some()
    );
}

#[tokio::test]
async fn lists_show_a_sites_admin_that_site_alone() {
    let server = server().await;
    let caller = site_admin("spiffe://example.org/edge/admin", "edge", "edge-admin", &["edge"]);
    let token = CreateJoinTokenRequest { site: "core".into(), ..CreateJoinTokenRequest::default() };
    server.admin.create_join_token(&LOCAL, token).await.unwrap();
    let admin = &server.admin;
    let sites = admin.list_sites(&caller, &ListSitesRequest::default()).unwrap().sites;
    assert_eq!(sites.iter().map(|site| site.name.as_str()).collect::<Vec<_>>(), ["edge"]);
    let registrations =
        admin.list_registrations(&caller, &ListRegistrationsRequest::default()).unwrap().registrations;
    assert_eq!(
        registrations.iter().map(|found| found.id.as_str()).collect::<Vec<_>>(),
        ["edge-admin", "edge-web"]
    );
    let agents = admin.list_agents(&caller, &ListAgentsRequest::default()).unwrap().agents;
    assert_eq!(agents.iter().map(|agent| agent.site.as_str()).collect::<Vec<_>>(), ["edge", "edge"]);
    assert!(admin.list_join_tokens(&caller, &ListJoinTokensRequest::default()).unwrap().tokens.is_empty());
    let status = admin.status(&caller, &StatusRequest {}).unwrap();
    assert_eq!((status.sites, status.registrations), (1, 2));
}

#[tokio::test]
async fn rights_end_with_the_registration_the_scope_or_the_time() {
    let caller = site_admin("spiffe://example.org/edge/admin", "edge", "edge-admin", &["edge"]);
    let may = |server: &Server| server.admin.list_sites(&caller, &ListSitesRequest::default()).is_ok();

    let narrowed = server().await;
    assert!(may(&narrowed));
    narrowed.put_site("edge", scope(&["spiffe://example.org/edge/**"])).await;
    assert!(!may(&narrowed), "the site's scope grants no admin rights any more");

    let moved = server().await;
    let elsewhere = types::Scope { admin: vec!["edge".into()], ..scope(&["spiffe://example.org/other/**"]) };
    moved.put_site("edge", elsewhere).await;
    assert!(!may(&moved), "the site's scope does not have the admin's ID any more");

    let changed = server().await;
    changed.put_entry("edge", "edge-admin", "spiffe://example.org/edge/admin", &[("unix.uid", "7")]).await;
    assert!(!may(&changed), "the registration grants no admin rights any more");

    let renamed = server().await;
    let other = types::Registration {
        admin: vec!["edge".into()],
        ..entry("edge", "edge-admin", "spiffe://example.org/edge/another", &[("unix.uid", "7")])
    };
    renamed.admin.put_registration(&LOCAL, put(other)).await.unwrap();
    assert!(!may(&renamed), "the registration is of another identity now");

    let expiring = server().await;
    let short = types::Registration {
        admin: vec!["edge".into()],
        expires_at: crate::support::START + 60,
        ..entry("edge", "edge-admin", "spiffe://example.org/edge/admin", &[("unix.uid", "7")])
    };
    expiring.admin.put_registration(&LOCAL, put(short)).await.unwrap();
    assert!(may(&expiring));
    expiring.clock.advance(Duration::from_secs(60));
    assert!(!may(&expiring), "the registration has expired");

    let banned = server().await;
    let agent = agent_id("edge", ADMINS_AGENT).to_string();
    banned.admin.ban_agent(&LOCAL, BanAgentRequest { id: agent, ..Default::default() }).await.unwrap();
    assert!(!may(&banned), "whoever owns the node of an admin could admit another node, and outlive the ban");

    let reselected = server().await;
    let stricter = types::Registration {
        admin: vec!["edge".into()],
        ..entry("edge", "edge-admin", "spiffe://example.org/edge/admin", &[("unix.uid", "8")])
    };
    reselected.admin.put_registration(&LOCAL, put(stricter)).await.unwrap();
    assert!(!may(&reselected), "the registration is of another workload now");

    let elsewhere = server().await;
    let pinned = types::Registration {
        admin: vec!["edge".into()],
        parent: agent_id("edge", 1).to_string(),
        ..entry("edge", "edge-admin", "spiffe://example.org/edge/admin", &[("unix.uid", "7")])
    };
    elsewhere.admin.put_registration(&LOCAL, put(pinned)).await.unwrap();
    assert!(!may(&elsewhere), "the registration is of another node now");

    let late = server().await;
    late.clock.advance(Duration::from_secs(3599));
    assert!(may(&late));
    late.clock.advance(Duration::from_secs(1));
    assert!(!may(&late), "the certificate has expired, and its connection has not");
}
