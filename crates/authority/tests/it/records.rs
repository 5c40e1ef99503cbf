//! Records of newer servers, and damaged ones.

use std::sync::Arc;

use bonafide_authority::{
    records::{Lease, Object, RecordError},
    registry::RegistryError,
};

use crate::support::{MemoryStore, Server, TestClock, trust_domain};

/// An envelope whose record has a kind that this version does not know: field 100 of `Record`.
fn newer(min_reader: u8, critical: bool) -> Vec<u8> {
    vec![0x08, min_reader, 0x10, u8::from(critical), 0x1a, 0x04, 0xa2, 0x06, 0x01, 0x78]
}

#[tokio::test]
async fn an_unknown_critical_record_stops_a_server_that_starts() {
    let store = MemoryStore::new();
    store.inject("future/x", Some(newer(9, true)));
    let opened = bonafide_authority::registry::Registry::open(store, trust_domain(), TestClock::new()).await;
    let error = opened.unwrap_err();
    assert_eq!(error.code(), "record.newer");
    assert!(error.hint().contains("upgrade"));
}

#[tokio::test]
async fn an_unknown_critical_record_stops_a_server_that_runs() {
    let server = Server::new().await;
    server.store.inject("future/x", Some(newer(1, true)));
    let failure = server.registry.failed().await;
    assert!(matches!(&*failure, RegistryError::Record(RecordError::Newer { key }) if key == "future/x"));
    let refused = server.registry.write(|_| Ok(vec![])).await.unwrap_err();
    assert_eq!(refused.code(), "record.newer");
}

#[tokio::test]
async fn an_unknown_record_that_is_not_critical_is_kept_and_ignored() {
    let server = Server::new().await;
    server.store.inject("future/x", Some(newer(9, false)));
    server.registry.reached(2).await;
    let lease = Arc::new(Lease::default());
    let put = move |_: &_| {
        Ok(vec![bonafide_authority::records::RecordChange::Put(Object::Lease("a".into(), lease.clone()))])
    };
    assert_eq!(server.registry.write(put).await.unwrap().revision, 3);
    assert_eq!(server.store.value("future/x"), Some(newer(9, false)));
    let again = Server::over(server.store.clone(), server.clock.clone()).await;
    assert_eq!(again.registry.state().revision(), 3);
}

#[test]
fn a_known_kind_of_a_newer_version_is_not_guessed_at() {
    let mut value =
        Object::Lease("a".into(), Arc::new(Lease { holder: "x".into(), ..Lease::default() })).encode();
    assert!(matches!(Object::decode("lease/a", &value, 1), Ok(Some(Object::Lease(..)))));
    // `min_reader` is the first field.
    assert_eq!(value[..2], [0x08, 0x01]);
    value[1] = bonafide_authority::records::VERSION as u8 + 1;
    assert!(matches!(Object::decode("lease/a", &value, 1), Err(RecordError::Newer { .. })));
    // Not critical.
    assert_eq!(value[2..4], [0x10, 0x01]);
    value[3] = 0;
    assert!(matches!(Object::decode("lease/a", &value, 1), Ok(None)));
}

#[test]
fn a_record_under_another_key_is_damaged() {
    let value = Object::Lease("a".into(), Arc::new(Lease::default())).encode();
    for key in ["lease/", "site/a", "settings", ""] {
        assert!(
            matches!(Object::decode(key, &value, 1), Err(RecordError::Damaged { .. })) || key == "lease/",
            "{key}"
        );
    }
    assert!(matches!(Object::decode("lease/a", b"\xff\xff", 1), Err(RecordError::Damaged { .. })));
}

#[tokio::test]
async fn a_critical_record_waits_for_servers_that_are_too_old_to_read_it() {
    use bonafide_authority::records::{RecordChange, Server as Announced, SigningKey, VERSION, signing_key};
    let server = Server::new().await;
    let announce = |name: &'static str, reads, seen_at| {
        let record = Arc::new(Announced { reads, seen_at, version: "0.1.0".into() });
        server
            .registry
            .write(move |_| Ok(vec![RecordChange::Put(Object::Server(name.into(), record.clone()))]))
    };
    let revoke = || {
        let revoked = Arc::new(SigningKey {
            id: "k".into(),
            r#use: signing_key::Use::Intermediate.into(),
            state: signing_key::State::Revoked.into(),
            ..SigningKey::default()
        });
        server.registry.write(move |_| Ok(vec![RecordChange::Put(Object::SigningKey(revoked.clone()))]))
    };
    announce("new", VERSION, 1_000_000).await.unwrap();
    announce("old", 1, 1_000_000).await.unwrap();
    assert_eq!(revoke().await.unwrap_err().code(), "registry.not-activated");
    // Nothing of the refused change stays.
    assert_eq!(server.registry.state().signing_keys().count(), 0);
    // Upgraded, or not heard of for more than a week.
    announce("new", VERSION, 1_000_000 + 8 * 86_400).await.unwrap();
    revoke().await.unwrap();
    announce("old", 1, 1_000_000 + 8 * 86_400).await.unwrap();
    assert_eq!(revoke().await.unwrap_err().code(), "registry.not-activated");
    announce("old", VERSION, 1_000_000 + 8 * 86_400).await.unwrap();
    revoke().await.unwrap();
}
