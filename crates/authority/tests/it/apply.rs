//! Apply: many resources at once, all or nothing; and lists, page by page.

use std::collections::BTreeMap;

use bonafide_wire::{
    admin::{
        ApplyRequest, ApplyResponse, Compared, CreateJoinTokenRequest, DeleteRequest, ListAgentsRequest,
        ListJoinTokensRequest, ListSitesRequest, Resource, ResourceKind, applied::Action,
    },
    types,
};

use crate::support::{LOCAL, Server, entry, put, resource, scope, site_admin, site_resource};

fn site(name: &str) -> types::Site {
    let scope = types::Scope {
        admin: vec![name.into()],
        ..scope(&[&format!("spiffe://example.org/{name}/**"), &format!("spiffe://example.org/also/{name}")])
    };
    types::Site { name: name.into(), scope: Some(scope), ..types::Site::default() }
}

fn web(site: &str, id: &str) -> types::Registration {
    entry(site, id, &format!("spiffe://example.org/{site}/{id}"), &[("unix.uid", "1"), ("unix.gid", "2")])
}

fn team(name: &str) -> BTreeMap<String, String> {
    BTreeMap::from([("team".to_owned(), name.to_owned())])
}

fn apply_of(resources: Vec<Resource>) -> ApplyRequest {
    ApplyRequest { resources, ..ApplyRequest::default() }
}

/// `name action code`, one for each result.
fn told(answer: &ApplyResponse) -> Vec<String> {
    let line = |result: &bonafide_wire::admin::Applied| {
        let code = result.problem.as_ref().map(|problem| problem.code.clone()).unwrap_or_default();
        let action = result.action().as_str_name().trim_start_matches("ACTION_").to_lowercase();
        format!("{} {action} {code}", result.name).trim_end().to_owned()
    };
    answer.results.iter().map(line).collect()
}

async fn apply(server: &Server, request: ApplyRequest) -> ApplyResponse {
    server.admin.apply(&LOCAL, request).await.unwrap()
}

#[tokio::test]
async fn everything_is_written_in_one_commit_or_nothing_is() {
    let server = Server::new().await;
    let outside = entry("edge", "bad", "spiffe://example.org/core/x", &[("unix.uid", "1")]);
    let nowhere = web("gone", "lost");
    let malformed = types::Registration { selectors: Vec::new(), ..web("edge", "all") };
    // Registrations before the site that they need: the order is the server's affair.
    let good = vec![resource(web("edge", "web")), site_resource(site("edge")), resource(web("edge", "db"))];
    let mut all = good.clone();
    all.extend([outside, nowhere, malformed, web("edge", "web")].map(resource));
    let before = (server.registry.state().revision(), server.store.commits());
    let answer = apply(&server, apply_of(all)).await;
    assert_eq!(
        told(&answer),
        [
            "web created",
            "edge created",
            "db created",
            "bad refused scope.spiffe-id",
            "lost refused site.unknown",
            "all refused registration.no-selectors",
            "web refused apply.twice",
        ]
    );
    assert!(!answer.committed);
    assert_eq!((server.registry.state().revision(), server.store.commits()), before);

    let answer = apply(&server, apply_of(good)).await;
    assert_eq!(told(&answer), ["web created", "edge created", "db created"]);
    assert!(answer.committed);
    let state = server.registry.state();
    assert_eq!((answer.revision, server.store.commits()), (state.revision(), before.1 + 1));
    assert!(state.registration("web").is_some() && state.site("edge").is_some());
}

fn policy(source: &str) -> Resource {
    use bonafide_wire::admin::resource::Resource as Described;
    let policy = types::Policy { source: source.to_owned(), ..types::Policy::default() };
    Resource { resource: Some(Described::Policy(policy)) }
}

#[tokio::test]
async fn a_guardrail_that_denies_a_call_denies_the_same_in_an_apply() {
    let server = Server::new().await;
    let admin = types::Registration {
        admin: vec!["edge".into()],
        ..entry("edge", "edge-admin", "spiffe://example.org/edge/admin", &[("unix.uid", "7")])
    };
    let old = types::Registration { management_labels: team("a"), ..web("edge", "old") };
    let guardrail = "{kind: Guardrail, name: quiet, rules: [{name: q, deny: {who: anyone, can: [PutRegistration, DeleteRegistration, PutPolicy]}}]}";
    let first = [site_resource(site("edge")), resource(admin), resource(old), policy(guardrail)];
    assert!(apply(&server, apply_of(first.into())).await.committed);
    server.add_agent("edge", crate::support::ADMINS_AGENT).await;
    let caller = site_admin("spiffe://example.org/edge/admin", "edge", "edge-admin", &["edge"]);
    let own = "{kind: Policy, name: own, sites: [edge], rules: [{name: a, allow: {who: anyone}}]}";
    for dry_run in [true, false] {
        let request = apply_of(vec![resource(web("edge", "new")), policy(own)]);
        let request = ApplyRequest { prune: team("a").into_iter().collect(), dry_run, ..request };
        let answer = server.admin.apply(&caller, request).await.unwrap();
        assert!(!answer.committed);
        assert_eq!(
            told(&answer),
            [
                "new refused admin.denied-by-policy",
                "own refused admin.denied-by-policy",
                "old refused admin.denied-by-policy",
            ]
        );
    }
    let state = server.registry.state();
    assert!(state.registration("new").is_none() && state.registration("old").is_some());
    // What changes nothing is no such call; and whoever is at the machine is not asked about.
    let request =
        apply_of(vec![resource(types::Registration { management_labels: team("a"), ..web("edge", "old") })]);
    assert_eq!(told(&server.admin.apply(&caller, request).await.unwrap()), ["old unchanged"]);
    let request = apply_of(vec![resource(web("edge", "new")), policy(own)]);
    assert!(apply(&server, request).await.committed);
}

#[tokio::test]
async fn policies_of_one_apply_are_counted_together() {
    let server = Server::new().await;
    let admin = types::Registration {
        admin: vec!["edge".into()],
        ..entry("edge", "edge-admin", "spiffe://example.org/edge/admin", &[("unix.uid", "7")])
    };
    assert!(apply(&server, apply_of(vec![site_resource(site("edge")), resource(admin)])).await.committed);
    server.add_agent("edge", crate::support::ADMINS_AGENT).await;
    let caller = site_admin("spiffe://example.org/edge/admin", "edge", "edge-admin", &["edge"]);
    let many = |count: usize| -> Vec<Resource> {
        let one = |n| {
            policy(&format!(
                "{{kind: Policy, name: p{n}, sites: [edge], rules: [{{name: a, allow: {{who: anyone}}}}]}}"
            ))
        };
        (0..count).map(one).collect()
    };
    let answer = server.admin.apply(&caller, apply_of(many(501))).await.unwrap();
    assert!(!answer.committed);
    assert_eq!(told(&answer)[0], "p0 refused policy.too-many-of-site");
    assert!(server.admin.apply(&caller, apply_of(many(500))).await.unwrap().committed);
    let answer = server.admin.apply(&caller, apply_of(many(501))).await.unwrap();
    assert_eq!(told(&answer)[500], "p500 refused policy.too-many-of-site");
    let global =
        policy("{kind: Guardrail, name: all, rules: [{name: a, deny: {who: anyone, can: [Nothing]}}]}");
    assert!(apply(&server, apply_of(vec![global])).await.committed);
}

#[tokio::test]
async fn order_and_defaults_are_no_differences() {
    let server = Server::new().await;
    let described = vec![site_resource(site("edge")), resource(web("edge", "web"))];
    apply(&server, apply_of(described.clone())).await;
    let revision = server.registry.state().revision();
    let mut same = site("edge");
    if let Some(scope) = &mut same.scope {
        scope.spiffe_ids.reverse();
        scope.max_x509_ttl = 3600;
    }
    same.default_jwt_ttl = 300;
    let mut turned = web("edge", "web");
    turned.selectors.reverse();
    let answer = apply(&server, apply_of(vec![site_resource(same), resource(turned)])).await;
    assert_eq!(told(&answer), ["edge unchanged", "web unchanged"]);
    assert!(!answer.committed);
    assert_eq!((answer.revision, server.registry.state().revision()), (revision, revision));

    let other = types::Registration { management_labels: team("a"), ..web("edge", "web") };
    let answer = apply(&server, apply_of(vec![resource(other)])).await;
    assert_eq!(told(&answer), ["web changed"]);
    // An older client knows nothing of management labels, and takes none away.
    server.admin.put_registration(&LOCAL, put(web("edge", "web"))).await.unwrap();
    assert_eq!(server.registry.state().registration("web").unwrap().management_labels, team("a"));
    let answer = apply(&server, apply_of(vec![resource(web("edge", "web"))])).await;
    assert_eq!(told(&answer), ["web changed"], "an apply sets them, also to none");
}

#[tokio::test]
async fn what_somebody_else_changed_meanwhile_refuses_the_whole() {
    let server = Server::new().await;
    apply(&server, apply_of(vec![site_resource(site("edge")), resource(web("edge", "web"))])).await;
    let changed = |id: &str| types::Registration { hint: "new".into(), ..web("edge", id) };
    let request = apply_of(vec![resource(changed("web")), resource(changed("db"))]);
    let dry = apply(&server, ApplyRequest { dry_run: true, ..request.clone() }).await;
    let compared: Vec<Compared> = dry
        .results
        .iter()
        .map(|result| {
            let revision = result.before.as_ref().map_or(0, |before| match &before.resource {
                Some(bonafide_wire::admin::resource::Resource::Registration(own)) => own.revision,
                _ => panic!("{before:?}"),
            });
            Compared { kind: result.kind, name: result.name.clone(), revision }
        })
        .collect();
    let request = ApplyRequest { compared, ..request };

    server.put_entry("edge", "web", "spiffe://example.org/edge/other", &[("unix.uid", "1")]).await;
    server.put_entry("edge", "db", "spiffe://example.org/edge/other", &[("unix.uid", "1")]).await;
    let before = server.registry.state().revision();
    let answer = apply(&server, request.clone()).await;
    assert_eq!(told(&answer), ["web refused apply.changed-meanwhile", "db refused apply.changed-meanwhile"]);
    assert_eq!(server.registry.state().revision(), before);

    // Whoever made it as it should be has taken nothing from anybody.
    for id in ["web", "db"] {
        server.admin.put_registration(&LOCAL, put(changed(id))).await.unwrap();
    }
    assert_eq!(told(&apply(&server, request).await), ["web unchanged", "db unchanged"]);
}

#[tokio::test]
async fn only_what_has_the_label_is_pruned() {
    let server = Server::new().await;
    let labelled =
        |id: &str, name: &str| types::Registration { management_labels: team(name), ..web("edge", id) };
    let old_site = types::Site { management_labels: team("a"), ..site("old") };
    let all = vec![
        site_resource(site("edge")),
        site_resource(old_site),
        resource(labelled("a1", "a")),
        resource(labelled("a2", "a")),
        resource(labelled("b1", "b")),
        resource(web("edge", "none")),
        resource(types::Registration { management_labels: team("a"), ..web("old", "a3") }),
    ];
    assert!(apply(&server, apply_of(all)).await.committed);
    let keep = ApplyRequest { prune: team("a"), ..apply_of(vec![resource(labelled("a1", "a"))]) };

    // The site goes with all that it has, or not at all.
    server.put_entry("old", "foreign", "spiffe://example.org/old/x", &[("unix.uid", "1")]).await;
    let answer = apply(&server, keep.clone()).await;
    assert_eq!(told(&answer), ["a1 unchanged", "a2 deleted", "a3 deleted", "old refused site.not-empty"]);
    assert!(server.registry.state().registration("a2").is_some());
    let delete = DeleteRequest { name: "foreign".into(), ..DeleteRequest::default() };
    server.admin.delete_registration(&LOCAL, delete).await.unwrap();

    let answer = apply(&server, keep).await;
    assert_eq!(told(&answer), ["a1 unchanged", "a2 deleted", "a3 deleted", "old deleted"]);
    let state = server.registry.state();
    let left: Vec<String> = state.registrations_after("").map(|own| own.id.clone()).collect();
    assert_eq!(left, ["a1", "b1", "none"]);
    assert!(state.site("old").is_none() && state.site("edge").is_some());
}

#[tokio::test]
async fn a_sites_admin_applies_what_lies_in_his_site() {
    let server = Server::new().await;
    let admin = types::Registration {
        admin: vec!["edge".into()],
        ..entry("edge", "edge-admin", "spiffe://example.org/edge/admin", &[("unix.uid", "7")])
    };
    let foreign = types::Registration { management_labels: team("a"), ..web("core", "core-web") };
    let base = vec![site_resource(site("edge")), site_resource(site("core"))];
    apply(&server, apply_of([base, vec![resource(admin), resource(foreign)]].concat())).await;
    server.add_agent("edge", crate::support::ADMINS_AGENT).await;
    let caller = site_admin("spiffe://example.org/edge/admin", "edge", "edge-admin", &["edge"]);

    let own = vec![site_resource(site("edge")), resource(web("edge", "web"))];
    let request = ApplyRequest { prune: team("a"), ..apply_of(own) };
    let answer = server.admin.apply(&caller, request).await.unwrap();
    assert_eq!(told(&answer), ["edge unchanged", "web created"], "and nothing of others is pruned");
    assert!(answer.committed);

    let mut wider = site("edge");
    wider.scope.as_mut().unwrap().spiffe_ids.push("spiffe://example.org/**".into());
    let others = vec![
        site_resource(wider),
        site_resource(site("core")),
        resource(web("core", "new")),
        resource(web("edge", "core-web")),
        resource(entry("edge", "up", "spiffe://example.org/core/up", &[("unix.uid", "1")])),
        resource(web("edge", "fine")),
    ];
    let before = server.registry.state().revision();
    for dry_run in [true, false] {
        let request = ApplyRequest { dry_run, ..apply_of(others.clone()) };
        let answer = server.admin.apply(&caller, request).await.unwrap();
        assert_eq!(
            told(&answer),
            [
                "edge refused admin.local-only",
                "core refused admin.other-site",
                "new refused admin.other-site",
                "core-web refused registration.exists",
                "up refused scope.spiffe-id",
                "fine created",
            ]
        );
        let told_of_others = answer.results.iter().filter(|result| result.name.contains("core"));
        assert!(told_of_others.into_iter().all(|result| result.before.is_none()), "{answer:?}");
    }
    assert_eq!(server.registry.state().revision(), before);
}

#[tokio::test]
async fn a_repeated_key_applies_once_and_a_request_is_bounded() {
    let server = Server::new().await;
    let request = ApplyRequest { idempotency_key: "k".into(), ..apply_of(vec![site_resource(site("edge"))]) };
    let first = apply(&server, request.clone()).await;
    let delete = DeleteRequest { name: "edge".into(), ..DeleteRequest::default() };
    server.admin.delete_site(&LOCAL, delete).await.unwrap();
    let again = apply(&server, request).await;
    assert!(again.replayed && !again.committed && server.registry.state().site("edge").is_none());
    assert_eq!(again.revision, first.revision);

    let many = (0..4001).map(|n| resource(web("edge", &format!("w{n}")))).collect();
    let refusal = server.admin.apply(&LOCAL, apply_of(many)).await.unwrap_err();
    assert_eq!(refusal.code(), "apply.too-many");
    let full: Vec<Resource> = (0..3999).map(|n| resource(web("edge", &format!("w{n}")))).collect();
    let answer = apply(&server, apply_of([full, vec![site_resource(site("edge"))]].concat())).await;
    assert!(answer.committed, "as many as are allowed fit one commit");
}

#[tokio::test]
async fn a_dry_run_warns_of_what_is_probably_not_meant() {
    let server = Server::new().await;
    apply(&server, apply_of(vec![site_resource(site("edge")), resource(web("edge", "web"))])).await;
    let mut narrow = site("edge");
    narrow.scope.as_mut().unwrap().spiffe_ids.remove(0);
    let parent = crate::support::agent_id("edge", 3).to_string();
    let alone = types::Registration {
        parent,
        ..entry("edge", "alone", "spiffe://example.org/also/edge", &[("unix.uid", "1")])
    };
    let request = apply_of(vec![site_resource(narrow), resource(alone)]);
    let answer = apply(&server, ApplyRequest { dry_run: true, ..request }).await;
    let codes: Vec<&str> = answer
        .results
        .iter()
        .flat_map(|result| &result.warnings)
        .map(|warning| warning.code.as_str())
        .collect();
    assert_eq!(codes, ["site.strands", "registration.parent-unknown"]);
    assert!(answer.results.iter().all(|result| result.action() != Action::Refused));
    assert_eq!(answer.results[0].kind(), ResourceKind::Site);
}

#[tokio::test(start_paused = true)]
async fn an_admin_of_a_site_can_not_write_in_a_loop() {
    let server = Server::new().await;
    let admin = types::Registration {
        admin: vec!["edge".into()],
        ..entry("edge", "edge-admin", "spiffe://example.org/edge/admin", &[("unix.uid", "7")])
    };
    apply(&server, apply_of(vec![site_resource(site("edge")), resource(admin)])).await;
    server.add_agent("edge", crate::support::ADMINS_AGENT).await;
    let caller = site_admin("spiffe://example.org/edge/admin", "edge", "edge-admin", &["edge"]);
    let mut written = 0;
    let refusal = loop {
        let request = put(types::Registration { hint: format!("{written}"), ..web("edge", "web") });
        match server.admin.put_registration(&caller, request).await {
            Ok(_) => written += 1,
            Err(refusal) => break refusal,
        }
    };
    assert_eq!((written, refusal.code()), (200, "admin.too-many-writes"));
    assert_eq!(refusal.hint_text(), "try again in 1 s");
    let refused =
        server.admin.apply(&caller, apply_of(vec![resource(web("edge", "web"))])).await.unwrap_err();
    assert_eq!(refused.code(), "admin.too-many-writes");
    server.put_entry("edge", "db", "spiffe://example.org/edge/db", &[("unix.uid", "1")]).await;
    tokio::time::advance(std::time::Duration::from_secs(1)).await;
    server.admin.put_registration(&caller, put(web("edge", "web"))).await.unwrap();
}

#[tokio::test]
async fn pages_neither_repeat_nor_hide_what_stays() {
    let server = Server::new().await;
    for name in ["a", "b", "c", "d", "e"] {
        server.put_site(name, scope(&["spiffe://example.org/**"])).await;
    }
    server.add_root().await;
    let list = |page_token: &str, page_size| {
        let request = ListSitesRequest { page_size, page_token: page_token.into() };
        let page = server.admin.list_sites(&LOCAL, &request).unwrap();
        (page.sites.into_iter().map(|site| site.name).collect::<Vec<_>>(), page.next_page_token)
    };
    let (first, token) = list("", 2);
    assert_eq!((first, token.as_str()), (vec!["a".to_owned(), "b".to_owned()], "b"));
    server.put_site("aa", scope(&[])).await;
    let delete = DeleteRequest { name: "b".into(), ..DeleteRequest::default() };
    server.admin.delete_site(&LOCAL, delete).await.unwrap();
    let (second, token) = list(&token, 2);
    assert_eq!((second, token.as_str()), (vec!["c".to_owned(), "d".to_owned()], "d"));
    assert_eq!(list(&token, 2), (vec!["e".to_owned()], String::new()));
    assert_eq!(list("", 0).0.len(), 5);

    for number in 0..5 {
        server.add_agent("a", number).await;
        server.add_agent("c", number).await;
        let token = CreateJoinTokenRequest { site: "a".into(), ..CreateJoinTokenRequest::default() };
        server.admin.create_join_token(&LOCAL, token).await.unwrap();
    }
    for site in ["", "c"] {
        let mut seen = Vec::new();
        let mut page_token = String::new();
        loop {
            let request = ListAgentsRequest { site: site.into(), page_size: 3, page_token };
            let page = server.admin.list_agents(&LOCAL, &request).unwrap();
            assert!(page.agents.len() <= 3);
            seen.extend(page.agents.into_iter().map(|agent| agent.id));
            page_token = page.next_page_token;
            if page_token.is_empty() {
                break;
            }
        }
        let whole = ListAgentsRequest { site: site.into(), ..ListAgentsRequest::default() };
        let whole = server.admin.list_agents(&LOCAL, &whole).unwrap().agents;
        assert_eq!(seen, whole.into_iter().map(|agent| agent.id).collect::<Vec<_>>());
        assert_eq!(seen.len(), if site.is_empty() { 10 } else { 5 });
    }
    let request = ListJoinTokensRequest { page_size: 4, ..ListJoinTokensRequest::default() };
    let page = server.admin.list_join_tokens(&LOCAL, &request).unwrap();
    let rest = ListJoinTokensRequest { page_token: page.next_page_token, ..request };
    let rest = server.admin.list_join_tokens(&LOCAL, &rest).unwrap();
    assert_eq!((page.tokens.len(), rest.tokens.len(), rest.next_page_token.as_str()), (4, 1, ""));
    let foreign = ListAgentsRequest { page_token: "no ID".into(), ..ListAgentsRequest::default() };
    assert_eq!(server.admin.list_agents(&LOCAL, &foreign).unwrap_err().code(), "list.page-token");
}
