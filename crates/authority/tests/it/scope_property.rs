//! No evidence of a site, and no admin of a site, ever yields an ID, a DNS name, a label, a lifetime or an admin right
//! outside its scope.
//!
//! Random sites, scopes, registrations, rules and admin calls go through the real admin functions, by operators and by
//! admins of sites. After each call, everything that any agent's evidence can earn is checked against a model of the
//! scope that shares no code with the authority.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use bonafide_attest::{
    SelectorSet,
    registration::{Kind, Registration},
};
use bonafide_authority::{
    admin::Caller,
    registration::{Earned, earn},
    site::Site,
    state::State,
};
use bonafide_identity::{SpiffeId, time::Clock};
use bonafide_wire::{
    admin::{
        Applied, ApplyRequest, ApplyResponse, BanAgentRequest, CreateJoinTokenRequest, DeleteRequest,
        PutRegistrationRequest, PutSiteRequest, Resource, applied::Action,
    },
    types,
};
use proptest::{prelude::*, sample::select, test_runner::TestRunner};

use crate::support::{LOCAL, Server, agent_id, entry, put, resource, selectors, site_admin, site_resource};

const SITES: [&str; 3] = ["edge", "core", "lab"];
/// The last three start as registrations of admins.
const IDS: [&str; 8] = ["r0", "r1", "r2", "r3", "r4", "admin-edge", "admin-core", "admin-lab"];

/// One call. Who: an operator, or an admin of a site by one of the registrations.
#[derive(Clone, Debug)]
enum Step {
    PutSite(types::Site),
    PutRegistration(Who, types::Registration),
    DeleteRegistration(Who, String),
    PutSiteAs(Who, types::Site),
    DeleteSite(Who, String),
    Token(Who, String),
    Ban(Who, String),
    Apply(Who, Vec<Resource>, bool),
}

/// What a caller's certificate says; it may be outdated, or have been true never.
#[derive(Clone, Debug)]
enum Who {
    Operator,
    Admin { id: String, site: String, registration: String, admin: Vec<String> },
}

impl Who {
    fn caller(&self) -> Caller {
        match self {
            Self::Operator => LOCAL,
            Self::Admin { id, site, registration, admin } => {
                let admin: Vec<&str> = admin.iter().map(String::as_str).collect();
                site_admin(id, site, registration, &admin)
            }
        }
    }
}

fn segment() -> impl Strategy<Value = &'static str> {
    prop_oneof![9 => select(vec!["a", "b"]), 1 => select(vec!["bonafide", "Bonafide", "agent", "edge"])]
}

fn spiffe_id() -> impl Strategy<Value = String> {
    let domain = prop_oneof![19 => Just("example.org"), 1 => Just("example.com")];
    let path = prop_oneof![19 => prop::collection::vec(segment(), 1..4), 1 => Just(Vec::new())];
    (domain, path).prop_map(|(domain, path)| {
        path.iter().fold(format!("spiffe://{domain}"), |id, segment| format!("{id}/{segment}"))
    })
}

fn template() -> impl Strategy<Value = String> {
    let part = prop_oneof![3 => segment(), 3 => select(vec!["{x.one}", "{x.two}"])];
    prop::collection::vec(part, 1..4).prop_map(|path| {
        path.iter().fold("spiffe://example.org".to_owned(), |id, part| format!("{id}/{part}"))
    })
}

fn pattern() -> impl Strategy<Value = String> {
    let part = prop_oneof![3 => segment(), 3 => Just("*")];
    let narrow = (prop::collection::vec(part, 1..3), any::<bool>()).prop_map(|(mut path, deep)| {
        if deep {
            path.push("**");
        }
        path.iter().fold("spiffe://example.org".to_owned(), |id, part| format!("{id}/{part}"))
    });
    prop_oneof![2 => narrow, 1 => Just("spiffe://example.org/**".to_owned())]
}

fn site_name() -> impl Strategy<Value = String> {
    select(SITES.to_vec()).prop_map(ToOwned::to_owned)
}

fn dns_name() -> impl Strategy<Value = String> {
    select(vec!["example.org", "a.example.org", "b.a.example.org", "a.example.com"])
        .prop_map(ToOwned::to_owned)
}

fn label() -> impl Strategy<Value = (String, String)> {
    (select(vec!["env", "tier"]), select(vec!["prod", "test", ""]))
        .prop_map(|(key, value)| (key.into(), value.into()))
}

fn ttl(max: u32) -> impl Strategy<Value = u32> {
    prop_oneof![16 => Just(0), 4 => 10..=max, 1 => 1..=2 * max]
}

/// Often none.
fn some<T: std::fmt::Debug>(item: impl Strategy<Value = T>) -> impl Strategy<Value = Vec<T>> {
    (prop::collection::vec(item, 0..3), 0..3)
        .prop_map(|(items, keep)| if keep == 0 { items } else { Vec::new() })
}

/// Seldom none.
fn many<T: std::fmt::Debug>(item: impl Strategy<Value = T>) -> impl Strategy<Value = Vec<T>> {
    prop::collection::vec(item, 1..4)
}

fn site() -> impl Strategy<Value = types::Site> {
    let dns = prop_oneof![dns_name(), Just("*.example.org".to_owned())];
    let labels = (select(vec!["env", "tier"]), select(vec!["prod", "*", ""]));
    let labels =
        many(labels.prop_map(|(key, value)| types::Selector { key: key.into(), value: value.into() }));
    let scope = (many(pattern()), many(dns), labels, ttl(86_400), ttl(300), many(site_name())).prop_map(
        |(spiffe_ids, dns_names, labels, max_x509_ttl, max_jwt_ttl, admin)| types::Scope {
            spiffe_ids,
            dns_names,
            labels,
            max_x509_ttl,
            max_jwt_ttl,
            admin,
            ..types::Scope::default()
        },
    );
    (site_name(), scope, ttl(86_400), ttl(300)).prop_map(
        |(name, scope, default_x509_ttl, default_jwt_ttl)| types::Site {
            name,
            scope: Some(scope),
            default_x509_ttl,
            default_jwt_ttl,
            ..types::Site::default()
        },
    )
}

fn registration() -> impl Strategy<Value = types::Registration> {
    let named = prop_oneof![
        spiffe_id().prop_map(|id| (types::registration::Kind::Entry, id)),
        template().prop_map(|id| (types::registration::Kind::Rule, id)),
    ];
    let parent = prop_oneof![8 => Just(String::new()), 1 => (site_name(), 0_u8..2).prop_map(|(site, n)| agent_id(&site, n).to_string())];
    let lifetimes = (ttl(5000), ttl(300));
    (
        select(IDS.to_vec()),
        named,
        site_name(),
        parent,
        some(dns_name()),
        prop::collection::vec(site_name(), 0..2),
        some(label()),
        lifetimes,
    )
        .prop_map(
            |(id, (kind, spiffe_id), site, parent, dns_names, admin, labels, (x509_ttl, jwt_ttl))| {
                types::Registration {
                    id: id.into(),
                    kind: kind.into(),
                    site,
                    spiffe_id,
                    parent,
                    selectors: selectors(&[("x.always", "1")]),
                    x509_ttl,
                    jwt_ttl,
                    dns_names,
                    admin,
                    labels: labels.into_iter().collect(),
                    ..types::Registration::default()
                }
            },
        )
}

fn who() -> impl Strategy<Value = Who> {
    let admin = (spiffe_id(), site_name(), select(IDS.to_vec()), prop::collection::vec(site_name(), 1..4))
        .prop_map(|(id, site, registration, admin)| Who::Admin {
            id,
            site,
            registration: registration.into(),
            admin,
        });
    prop_oneof![1 => Just(Who::Operator), 3 => admin]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => site().prop_map(Step::PutSite),
        8 => (who(), registration()).prop_map(|(who, registration)| Step::PutRegistration(who, registration)),
        1 => (who(), select(IDS.to_vec())).prop_map(|(who, id)| Step::DeleteRegistration(who, id.into())),
        1 => (who(), site()).prop_map(|(who, site)| Step::PutSiteAs(who, site)),
        1 => (who(), site_name()).prop_map(|(who, site)| Step::DeleteSite(who, site)),
        1 => (who(), site_name()).prop_map(|(who, site)| Step::Token(who, site)),
        1 => (who(), site_name()).prop_map(|(who, site)| Step::Ban(who, site)),
        9 => (who(), described(), any::<bool>())
            .prop_map(|(who, resources, prune)| Step::Apply(who, resources, prune)),
    ]
}

/// Sites and registrations that share one apply. Some have the management label that others prune by.
fn described() -> impl Strategy<Value = Vec<Resource>> {
    let labels =
        || any::<bool>().prop_map(|managed| if managed { managed_labels() } else { BTreeMap::new() });
    let one = prop_oneof![
        1 => (site(), labels()).prop_map(|(site, management_labels)| {
            site_resource(types::Site { management_labels, ..site })
        }),
        4 => (registration(), labels()).prop_map(|(registration, management_labels)| {
            resource(types::Registration { management_labels, ..registration })
        }),
    ];
    prop::collection::vec(one, 1..3)
}

fn managed_labels() -> BTreeMap<String, String> {
    BTreeMap::from([("by".to_owned(), "test".to_owned())])
}

/// How often something was earned, and something was written by a site's admin: the property must not hold for want
/// of either.
#[derive(Debug, Default)]
struct Reach {
    earned: AtomicUsize,
    by_rules: AtomicUsize,
    written_by_admins: AtomicUsize,
    stranded: AtomicUsize,
    applied: AtomicUsize,
    applied_by_admins: AtomicUsize,
    refused_in_part: AtomicUsize,
}

#[test]
fn nothing_is_ever_earned_or_written_outside_the_scope() {
    let config = ProptestConfig { cases: 128, max_shrink_iters: 200, ..ProptestConfig::default() };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let reach = Reach::default();
    let input = (prop::collection::vec(site(), 3), prop::collection::vec(step(), 1..40));
    TestRunner::new(config)
        .run(&input, |(sites, steps)| {
            runtime.block_on(run(sites, steps, &reach));
            Ok(())
        })
        .unwrap();
    println!("{reach:?}");
    assert!(reach.earned.into_inner() > 500);
    assert!(reach.by_rules.into_inner() > 100);
    assert!(reach.written_by_admins.into_inner() > 50);
    assert!(reach.stranded.into_inner() > 20);
    assert!(reach.applied.into_inner() > 30);
    assert!(reach.applied_by_admins.into_inner() > 8);
    assert!(reach.refused_in_part.into_inner() > 20);
}

async fn run(sites: Vec<types::Site>, steps: Vec<Step>, reach: &Reach) {
    let server = Server::new().await;
    server.add_root().await;
    let operator_put = |site| PutSiteRequest { site: Some(site), ..PutSiteRequest::default() };
    for (mut site, name) in sites.into_iter().zip(SITES) {
        name.clone_into(&mut site.name);
        let admin = format!("spiffe://example.org/{name}/admin");
        if let Some(scope) = &mut site.scope {
            scope.spiffe_ids.push(admin.clone());
            scope.admin.push(name.to_owned());
        }
        let _ = server.admin.put_site(&LOCAL, operator_put(site)).await;
        let own = types::Registration {
            admin: vec![name.to_owned()],
            ..entry(name, &format!("admin-{name}"), &admin, &[("x.always", "1")])
        };
        let _ = server.admin.put_registration(&LOCAL, put(own)).await;
    }
    for site in SITES {
        for number in [0, 1, crate::support::ADMINS_AGENT] {
            server.add_agent(site, number).await;
        }
    }
    for step in steps {
        let before = server.registry.state();
        let by = apply(&server, step.clone(), reach).await;
        let after = server.registry.state();
        check_writes(&before, &after, &by, &step);
        if matches!(by, Who::Admin { .. }) && after.revision() > before.revision() {
            reach.written_by_admins.fetch_add(1, Ordering::Relaxed);
        }
        check_earnings(&server, &after, reach);
    }
}

/// Makes the call, and tells by whom. Whether it was refused is not the point.
async fn apply(server: &Server, step: Step, reach: &Reach) -> Who {
    let admin = &server.admin;
    match step {
        Step::PutSite(site) => {
            let _ = admin.put_site(&LOCAL, PutSiteRequest { site: Some(site), ..Default::default() }).await;
            Who::Operator
        }
        Step::PutSiteAs(who, site) => {
            let request = PutSiteRequest { site: Some(site), ..Default::default() };
            let _ = admin.put_site(&who.caller(), request).await;
            who
        }
        Step::PutRegistration(who, registration) => {
            let who = realistic(server, who);
            let request = PutRegistrationRequest { registration: Some(registration), ..Default::default() };
            let _ = admin.put_registration(&who.caller(), request).await;
            who
        }
        Step::DeleteRegistration(who, name) => {
            let who = realistic(server, who);
            let _ =
                admin.delete_registration(&who.caller(), DeleteRequest { name, ..Default::default() }).await;
            who
        }
        Step::DeleteSite(who, name) => {
            let _ = admin.delete_site(&who.caller(), DeleteRequest { name, ..Default::default() }).await;
            who
        }
        Step::Token(who, site) => {
            let who = realistic(server, who);
            let request = CreateJoinTokenRequest { site, ..Default::default() };
            let _ = admin.create_join_token(&who.caller(), request).await;
            who
        }
        Step::Ban(who, site) => {
            let who = realistic(server, who);
            let request = BanAgentRequest { id: agent_id(&site, 0).to_string(), ..Default::default() };
            let _ = admin.ban_agent(&who.caller(), request).await;
            who
        }
        Step::Apply(who, resources, prune) => {
            let who = realistic(server, who);
            check_apply(server, &who, resources, prune, reach).await;
            who
        }
    }
}

/// An apply is all or nothing, and does what its dry run said.
async fn check_apply(server: &Server, who: &Who, resources: Vec<Resource>, prune: bool, reach: &Reach) {
    let prune = if prune { managed_labels() } else { BTreeMap::new() };
    let request = ApplyRequest { resources, prune, ..ApplyRequest::default() };
    let before = server.registry.state().revision();
    let dry = ApplyRequest { dry_run: true, ..request.clone() };
    let told = server.admin.apply(&who.caller(), dry).await;
    assert_eq!(server.registry.state().revision(), before, "a dry run wrote");
    let done = server.admin.apply(&who.caller(), request).await;
    let after = server.registry.state().revision();
    let (told, done) = match (told, done) {
        (Ok(told), Ok(done)) => (told, done),
        (Err(told), Err(done)) => {
            assert_eq!((told, after), (done, before));
            return;
        }
        (told, done) => panic!("{told:?} became {done:?}"),
    };
    let short = |answer: &ApplyResponse| -> Vec<_> {
        let result =
            |result: &Applied| (result.kind, result.name.clone(), result.action, result.problem.clone());
        answer.results.iter().map(result).collect()
    };
    assert_eq!(short(&told), short(&done));
    let refused = done.results.iter().filter(|result| result.problem.is_some()).count();
    let differ = done.results.iter().any(|result| result.action() != Action::Unchanged);
    assert_eq!(done.committed, refused == 0 && differ);
    assert_eq!(done.committed, after > before, "{done:?}");
    if done.committed {
        reach.applied.fetch_add(1, Ordering::Relaxed);
        if matches!(who, Who::Admin { .. }) {
            reach.applied_by_admins.fetch_add(1, Ordering::Relaxed);
        }
    } else if refused > 0 && refused < done.results.len() {
        reach.refused_in_part.fetch_add(1, Ordering::Relaxed);
    }
}

/// Makes an admin real if somebody is one today: the certificate is what its registration earns, with the claimed
/// rights beside the granted ones.
fn realistic(server: &Server, who: Who) -> Who {
    let Who::Admin { admin, registration, .. } = &who else { return who };
    let admins: Vec<Earned> = earnings(&server.registry.state(), server)
        .into_iter()
        .filter(|earned| !earned.grant.admin().is_empty())
        .collect();
    let own = |earned: &&Earned| earned.registration.id == *registration;
    let Some(earned) = admins.iter().find(own).or(admins.first()) else { return who };
    Who::Admin {
        id: earned.grant.id().to_string(),
        site: earned.site.name.to_string(),
        registration: earned.registration.id.clone(),
        admin: admin.iter().chain(earned.grant.admin()).cloned().collect(),
    }
}

/// Evidence that agents may claim, whole and partial.
fn evidence() -> Vec<SelectorSet> {
    let set = |pairs: &[(&str, &str)]| SelectorSet::from_pairs(pairs.iter().copied()).unwrap();
    let mut all = vec![SelectorSet::new(), set(&[("x.one", "a")])];
    for one in ["a", "bonafide", "Bonafide", "..", "a/b", "%2e", "agent"] {
        all.push(set(&[("x.always", "1"), ("x.one", one), ("x.two", "b")]));
    }
    all.push(set(&[("x.always", "1"), ("x.one", "a"), ("x.one", "b"), ("x.two", "edge")]));
    all
}

fn earnings(state: &State, server: &Server) -> Vec<Earned> {
    let now = server.clock.now();
    let mut all = Vec::new();
    for agent in state.agents() {
        for id in IDS {
            for attested in evidence() {
                all.extend(earn(state, &agent.id, id, &attested, now).ok().inspect(|earned| {
                    assert_eq!(*earned.site.name, *agent.site, "evidence of one site earned another's");
                    assert!(agent.ban.is_none());
                }));
            }
        }
    }
    all
}

fn check_earnings(server: &Server, state: &State, reach: &Reach) {
    // Entries that a narrower scope has left outside.
    let outside = |own: &Arc<Registration>| match &own.kind {
        Kind::Entry(id) => {
            state.site(&own.site).and_then(|site| site.site()).is_some_and(|site| !model_allows_id(site, id))
        }
        Kind::Rule(_) => false,
    };
    reach.stranded.fetch_add(state.registrations_after("").filter(outside).count(), Ordering::Relaxed);
    for earned in earnings(state, server) {
        reach.earned.fetch_add(1, Ordering::Relaxed);
        if matches!(earned.registration.kind, Kind::Rule(_)) {
            reach.by_rules.fetch_add(1, Ordering::Relaxed);
        }
        let (grant, site) = (&earned.grant, &earned.site);
        let scope = &site.scope;
        assert!(model_allows_id(site, grant.id()), "{grant:?} outside {scope:?}");
        for name in grant.dns_names() {
            let inside =
                scope.dns_names.iter().any(|pattern| model_dns(&pattern.to_string(), &name.to_string()));
            assert!(inside, "{grant:?} outside {scope:?}");
        }
        for (key, value) in grant.labels() {
            let allowed =
                |value: &Option<String>, actual: &String| value.as_ref().is_none_or(|value| value == actual);
            let inside = scope.labels.iter().any(|label| label.key == *key && allowed(&label.value, value));
            assert!(inside, "{grant:?} outside {scope:?}");
        }
        assert!(grant.x509_ttl() <= scope.max_x509_ttl && grant.x509_ttl().as_secs() <= 24 * 3600);
        assert!(grant.jwt_ttl() <= scope.max_jwt_ttl && grant.jwt_ttl().as_secs() <= 300);
        assert!(grant.admin().iter().all(|name| scope.admin.contains(name)), "{grant:?} outside {scope:?}");
    }
}

/// A caller changed nothing but registrations, tokens and agents of sites that certificate, registration and scope
/// all let it administer.
fn check_writes(before: &State, after: &State, by: &Who, step: &Step) {
    let Who::Admin { id, site, registration, admin } = by else { return };
    let granted: BTreeSet<String> = before
        .registration(registration)
        .filter(|own| own.site == *site)
        .filter(|_| {
            before
                .site(site)
                .and_then(|site| site.site())
                .is_some_and(|site| model_allows_id(site, &SpiffeId::parse(id).unwrap()))
        })
        .map(|own| {
            let scope = &before.site(site).unwrap().site().unwrap().scope;
            admin
                .iter()
                .filter(|name| own.admin.contains(name) && scope.admin.contains(*name))
                .cloned()
                .collect()
        })
        .unwrap_or_default();
    let sites = |state: &State| -> BTreeMap<String, Site> {
        state
            .sites()
            .filter_map(|site| site.site())
            .map(|site| (site.name.to_string(), (**site).clone()))
            .collect()
    };
    assert_eq!(sites(before), sites(after), "an admin changed a site: {step:?}");
    let others = |state: &State| -> Vec<String> {
        let registrations = state
            .registrations_after("")
            .filter(|own| !granted.contains(&own.site))
            .map(|own| format!("{own:?}"));
        let tokens =
            state.tokens().filter(|token| !granted.contains(&token.site)).map(|token| format!("{token:?}"));
        let agents =
            state.agents().filter(|agent| !granted.contains(&agent.site)).map(|agent| format!("{agent:?}"));
        registrations.chain(tokens).chain(agents).collect()
    };
    assert_eq!(others(before), others(after), "{by:?} reached beyond {granted:?}: {step:?}");
}

/// Ours, not reserved, and matched by a pattern of the scope: segment by segment, from the texts.
fn model_allows_id(site: &Site, id: &SpiffeId) -> bool {
    let text = id.to_string();
    let Some(path) = text.strip_prefix("spiffe://example.org/") else { return false };
    let segments: Vec<&str> = path.split('/').collect();
    if segments[0].eq_ignore_ascii_case("bonafide")
        || segments.iter().any(|segment| matches!(*segment, "" | "." | ".."))
    {
        return false;
    }
    site.scope.spiffe_ids.iter().any(|pattern| {
        let pattern = pattern.to_string();
        let parts: Vec<&str> = pattern.strip_prefix("spiffe://example.org/").unwrap().split('/').collect();
        model_path(&parts, &segments)
    })
}

fn model_path(pattern: &[&str], path: &[&str]) -> bool {
    match (pattern, path) {
        ([], []) => true,
        (["**"], rest) => !rest.is_empty(),
        ([part, pattern @ ..], [segment, path @ ..]) => {
            (*part == "*" || part == segment) && model_path(pattern, path)
        }
        _ => false,
    }
}

fn model_dns(pattern: &str, name: &str) -> bool {
    match pattern.strip_prefix("*.") {
        Some(parent) => name.split_once('.').is_some_and(|(_, rest)| rest == parent),
        None => pattern == name,
    }
}
