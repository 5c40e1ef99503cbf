//! The writer: groups, conflicts, failures, other servers, and the fold itself.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bonafide_authority::{
    Refusal,
    records::{Lease, Object, RecordChange, lease_key},
    registry::{Registry, RegistryError},
};
use bonafide_store::{SqliteStore, Store, StoreError};
use futures_util::future::join_all;

use crate::support::{MemoryStore, Server, TestClock, scope, trust_domain};

fn lease(name: &str, holder: &str) -> RecordChange {
    let lease = Lease { holder: holder.into(), epoch: 1, expires_at: 0 };
    RecordChange::Put(Object::Lease(name.into(), Arc::new(lease)))
}

#[tokio::test]
async fn many_writers_share_commits_and_each_gets_its_own_revision() {
    let server = Server::new().await;
    let before = server.store.commits();
    let writes = (0..200).map(|n| server.registry.write(move |_| Ok(vec![lease(&format!("l{n}"), "me")])));
    let mut revisions: Vec<u64> =
        join_all(writes).await.into_iter().map(|written| written.unwrap().revision).collect();
    revisions.sort_unstable();
    assert_eq!(revisions, (2..=201).collect::<Vec<_>>());
    assert!(server.store.commits() - before < 20, "{} commits", server.store.commits() - before);
    assert_eq!(server.registry.state().revision(), 201);
}

#[tokio::test]
async fn a_mutation_sees_what_its_neighbours_in_the_group_did_and_a_failing_one_disturbs_none() {
    let server = Server::new().await;
    let claim = |holder: String| {
        server.registry.write(move |state| {
            if state.lease("leader").is_some() {
                return Err(Refusal::precondition("test.taken", "taken"));
            }
            Ok(vec![lease("leader", &holder), lease(&format!("of-{holder}"), &holder)])
        })
    };
    let results = join_all((0..50).map(|n| claim(n.to_string()))).await;
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1);
    assert!(
        results
            .iter()
            .filter_map(|result| result.as_ref().err())
            .all(|refusal| refusal.code() == "test.taken")
    );
    // Settings, and the two records of the winner.
    assert_eq!(server.registry.state().revision(), 3);
}

#[tokio::test]
async fn two_servers_agree_on_one_winner_and_on_the_state() {
    let (store, clock) = (MemoryStore::new(), TestClock::new());
    let one = Server::over(store.clone(), clock.clone()).await;
    let two = Server::over(store.clone(), clock.clone()).await;
    let evaluated = Arc::new(AtomicUsize::new(0));
    let claim = |server: &Server, name: String, holder: &'static str| {
        let evaluated = evaluated.clone();
        let registry = server.registry.clone();
        async move {
            registry
                .write(move |state| {
                    evaluated.fetch_add(1, Ordering::SeqCst);
                    match state.lease(&name) {
                        Some(_) => Err(Refusal::precondition("test.taken", "taken")),
                        None => Ok(vec![lease(&name, holder)]),
                    }
                })
                .await
        }
    };
    for round in 0..50 {
        let name = format!("leader-{round}");
        let (first, second) =
            tokio::join!(claim(&one, name.clone(), "one"), claim(&two, name.clone(), "two"));
        assert!(first.is_ok() != second.is_ok(), "round {round}");
        let winner = if first.is_ok() { "one" } else { "two" };
        let revision = one.registry.state().revision().max(two.registry.state().revision());
        one.registry.reached(revision).await;
        two.registry.reached(revision).await;
        assert_eq!(one.registry.state().lease(&name).unwrap().holder, winner);
        assert_eq!(two.registry.state().lease(&name).unwrap().holder, winner);
    }
    assert!(evaluated.load(Ordering::SeqCst) >= 100);
}

#[tokio::test(start_paused = true)]
async fn a_failed_commit_leaves_nothing_behind() {
    let server = Server::new().await;
    server.put_site("edge", scope(&["spiffe://example.org/**"])).await;
    let before = format!("{:?}", server.registry.state());
    server.store.fail_next_commit(StoreError::Full);
    let refused =
        server.registry.write(|_| Ok(vec![lease("a", "x"), RecordChange::Remove("site/edge".into())])).await;
    assert_eq!(refused.unwrap_err().code(), "store.full");
    assert_eq!(format!("{:?}", server.registry.state()), before);
    // The writer goes on, in the right place.
    let written = server.registry.write(|state| {
        assert!(state.site("edge").is_some() && state.lease("a").is_none());
        Ok(vec![lease("a", "y")])
    });
    assert_eq!(written.await.unwrap().revision, 3);
}

#[tokio::test]
async fn readers_that_keep_a_snapshot_keep_what_it_said() {
    let server = Server::new().await;
    server.registry.write(|_| Ok(vec![lease("a", "0")])).await.unwrap();
    let mut kept = vec![server.registry.state()];
    for n in 1..20 {
        server.registry.write(move |_| Ok(vec![lease("a", &n.to_string())])).await.unwrap();
        kept.push(server.registry.state());
    }
    for (n, state) in kept.iter().enumerate() {
        assert_eq!(state.lease("a").unwrap().holder, n.to_string());
        assert_eq!(state.revision(), n as u64 + 2);
    }
}

#[tokio::test]
async fn subscribers_get_every_change_once_and_in_order() {
    let server = Server::new().await;
    let mut applied = server.registry.subscribe();
    let start = server.registry.state().revision();
    join_all((0..100).map(|n| server.registry.write(move |_| Ok(vec![lease(&format!("l{n}"), "x")])))).await;
    let mut seen = Vec::new();
    while seen.len() < 100 {
        let group = applied.recv().await.unwrap();
        assert_eq!(group.revision, group.changes.last().unwrap().revision);
        assert!(server.registry.state().revision() >= group.revision);
        seen.extend(group.changes.iter().map(|change| change.revision));
    }
    assert_eq!(seen, (start + 1..=start + 100).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_compacted_log_is_read_anew_and_told_as_a_reset() {
    let server = Server::new().await;
    let mut applied = server.registry.subscribe();
    let other = Server::over(server.store.clone(), server.clock.clone()).await;
    // Before the first server looks, the log that it needs is gone.
    other.registry.write(|_| Ok(vec![lease("a", "x")])).await.unwrap();
    server.store.compact();
    server.registry.reached(2).await;
    assert!(server.registry.state().lease("a").is_some());
    let told = applied.recv().await.unwrap();
    assert!(told.reset || told.changes.len() == 1);
    server.registry.write(|_| Ok(vec![lease("b", "x")])).await.unwrap();
    assert!(server.registry.state().lease("b").is_some());
}

#[tokio::test]
async fn what_is_folded_again_is_what_was_folded() {
    let server = Server::new().await;
    let everything = types_of_everything();
    server.put_site("edge", everything).await;
    server.put_site("gone", scope(&[])).await;
    server.put_entry("edge", "web", "spiffe://example.org/web", &[("unix.uid", "1000")]).await;
    server.put_entry("edge", "gone", "spiffe://example.org/gone", &[("unix.uid", "1")]).await;
    server.put_entry("edge", "web", "spiffe://example.org/web", &[("unix.uid", "1001")]).await;
    let agent = server.add_agent("edge", 1).await;
    let remove = ["registration/gone", "site/gone"];
    server
        .registry
        .write(move |_| Ok(remove.iter().map(|key| RecordChange::Remove((*key).into())).collect()))
        .await
        .unwrap();
    let again = Server::over(server.store.clone(), server.clock.clone()).await;
    let (one, two) = (server.registry.state(), again.registry.state());
    assert_eq!(one.revision(), two.revision());
    assert_eq!(one.site("edge").unwrap().site(), two.site("edge").unwrap().site());
    assert_eq!(one.registration("web"), two.registration("web"));
    assert!(two.registration("gone").is_none() && two.site("gone").is_none());
    let record = one.agent(&agent).unwrap();
    assert_eq!(one.digest_of(record).bytes(), two.digest_of(record).bytes());
    assert_eq!(one.registrations_of(record).count(), 1);
    assert_eq!(one.expired(bonafide_identity::time::UnixTime::from_secs(i64::MAX)).count(), 0);
}

fn types_of_everything() -> bonafide_wire::types::Scope {
    bonafide_wire::types::Scope {
        spiffe_ids: vec!["spiffe://example.org/**".into(), "spiffe://example.org/a/*".into()],
        dns_names: vec!["*.example.org".into(), "example.org".into()],
        labels: crate::support::selectors(&[("tier", "*"), ("env", "prod")]),
        max_x509_ttl: 600,
        max_jwt_ttl: 60,
        admin: vec!["edge".into()],
        signatures_per_second: 5,
        attestations_per_second: 6,
    }
}

#[tokio::test(start_paused = true)]
async fn what_has_expired_is_swept() {
    let server = Server::new().await;
    server.put_site("edge", scope(&["spiffe://example.org/**"])).await;
    let expires_at = crate::support::START + 60;
    let mut registration =
        crate::support::entry("edge", "web", "spiffe://example.org/web", &[("unix.uid", "1")]);
    registration.expires_at = expires_at;
    let revision = server
        .admin
        .put_registration(&crate::support::LOCAL, crate::support::put(registration))
        .await
        .unwrap()
        .revision;
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert!(server.registry.state().registration("web").is_some());
    server.clock.advance(Duration::from_secs(60));
    server.registry.reached(revision + 1).await;
    assert!(server.registry.state().registration("web").is_none());
    assert_eq!(server.store.value("registration/web"), None);
}

#[tokio::test]
async fn a_store_of_another_trust_domain_is_refused() {
    let server = Server::new().await;
    let opened =
        Registry::open(server.store.clone(), "example.com".parse().unwrap(), server.clock.clone()).await;
    assert!(matches!(opened, Err(RegistryError::OtherTrustDomain { .. })));
    let opened = Registry::open(server.store.clone(), trust_domain(), server.clock.clone()).await;
    assert!(opened.is_ok());
}

#[tokio::test]
async fn on_sqlite_what_was_answered_is_there_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.sqlite");
    let key = || bonafide_crypto::mac::MacKey::from_bytes(&[3; 32]);
    let random = bonafide_crypto::random::SystemRandom;
    let store: Arc<dyn Store> = Arc::new(SqliteStore::open(&path, key(), &random).unwrap());
    let registry = Registry::open(store, trust_domain(), TestClock::new()).await.unwrap();
    join_all((0..50).map(|n| registry.write(move |_| Ok(vec![lease(&format!("l{n}"), "x")])))).await;
    let revision = registry.state().revision();
    let ended = registry.clone();
    drop(registry);
    // The writer lets go of the file when the last handle is gone.
    drop(ended);
    let store = loop {
        match SqliteStore::open(&path, key(), &random) {
            Ok(store) => break store,
            Err(StoreError::Locked(_)) => tokio::task::yield_now().await,
            Err(error) => panic!("{error}"),
        }
    };
    let registry = Registry::open(Arc::new(store), trust_domain(), TestClock::new()).await.unwrap();
    assert_eq!(registry.state().revision(), revision);
    assert_eq!(lease_key("l7"), "lease/l7");
    assert!((0..50).all(|n| registry.state().lease(&format!("l{n}")).is_some()));
}

#[tokio::test(start_paused = true)]
async fn a_server_that_is_cut_off_from_its_store_knows_that_it_is_not_current() {
    let server = Server::new().await;
    assert!(server.registry.is_current());
    // An idle server looks by itself.
    for _ in 0..300 {
        tokio::time::advance(Duration::from_secs(1)).await;
        tokio::task::yield_now().await;
        assert!(server.registry.is_current());
    }
    server.store.cut_off(true);
    for _ in 0..62 {
        tokio::time::advance(Duration::from_secs(1)).await;
        tokio::task::yield_now().await;
    }
    assert!(!server.registry.is_current());
    server.store.cut_off(false);
    while !server.registry.is_current() {
        tokio::time::advance(Duration::from_secs(1)).await;
        tokio::task::yield_now().await;
    }
}
