//! What goes wrong: full disks, kills, and records that were changed.

use std::sync::atomic::Ordering;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::*;
use crate::key_entry::change::Stage;
use crate::records::KeyVersion;

#[tokio::test]
async fn when_the_ledger_is_full_nothing_is_released_and_nothing_is_changed() {
    let house = House::new().await;
    let web = workload("web", &[]);
    house.policy(WEB_ENCRYPTS).await;
    house.key("orders/pii", KeyType::Aes256Gcm).await;
    let settings = Settings { audit_sync: Some(true), ..Settings::default() };
    house.key_with("orders/sync", KeyType::Aes256Gcm, settings, Flags::default()).await;
    let ciphertext = house.encrypt(&web, "orders/pii", &[]).await.unwrap();
    house.paper.full.store(true, Ordering::SeqCst);
    let refused = house.encrypt(&web, "orders/pii", &[]).await.unwrap_err();
    assert_eq!(refused.code(), "kms.audit-full");
    assert!(refused.hint_text().contains("key-ledger"));
    assert_eq!(code(house.decrypt(&web, "orders/pii", &ciphertext, &[]).await), "kms.audit-full");
    assert_eq!(code(house.encrypt(&web, "orders/sync", &[]).await), "kms.audit-full");
    let title = Title {
        actor: lifecycle::actor("test"),
        change: "rotate",
        key: "orders/pii".into(),
        key_id: Bytes::new(),
        version: 0,
    };
    let mut committed = false;
    let changed = house.service.recorded(title, async {
        committed = true;
        Ok(((), 1))
    });
    assert_eq!(code(changed.await), "kms.audit-full");
    assert!(!committed, "not before its intent is on the disk");
    // It heals by itself.
    house.paper.full.store(false, Ordering::SeqCst);
    house.encrypt(&web, "orders/pii", &[]).await.unwrap();
}

#[tokio::test]
async fn what_is_to_be_on_the_disk_before_is_there_before_and_after() {
    let house = House::new().await;
    let web = workload("web", &[]);
    house.policy(WEB_ENCRYPTS).await;
    let settings = Settings { audit_sync: Some(true), ..Settings::default() };
    house.key_with("orders/sync", KeyType::Aes256Gcm, settings, Flags::default()).await;
    house.encrypt(&web, "orders/sync", &[("a", "1")]).await.unwrap();
    let operations: Vec<_> = house
        .written()
        .into_iter()
        .filter_map(|entry| match entry {
            EntryKind::Operation(operation) => Some(operation),
            _ => None,
        })
        .collect();
    let [intent, done] = operations.as_slice() else { panic!("{operations:?}") };
    assert_eq!((intent.stage(), done.stage()), (operation::Stage::Intent, operation::Stage::Done));
    assert_eq!(intent.number, done.number);
    let actor = done.actor.as_ref().unwrap();
    assert_eq!((actor.id.as_str(), actor.site.as_str()), ("spiffe://example.org/web", "lab"));
    assert_eq!(actor.agent, AGENT);
    assert_eq!(done.items[0].context_sha256.len(), 32);
}

#[tokio::test]
async fn a_server_that_is_killed_within_a_rotation_leaves_the_key_as_it_was() {
    let house = House::new().await;
    let web = workload("web", &[]);
    house.policy(WEB_ENCRYPTS).await;
    let record = house.key("orders/pii", KeyType::Aes256Gcm).await;
    let ciphertext = house.encrypt(&web, "orders/pii", &[]).await.unwrap();
    let title = Title {
        actor: lifecycle::actor("test"),
        change: "rotate",
        key: record.name().into(),
        key_id: Bytes::new(),
        version: 2,
    };
    // Its intent is on the ledger, the next secret is drawn, and then it is gone.
    let service = house.service.clone();
    let key = record.key.clone();
    let rotation = house.service.recorded(title, async move {
        service.draw(key.id, 2, key.key_type, Flags::default(), None).await?;
        std::future::pending::<Result<((), u64), Refusal>>().await
    });
    let killed = tokio::time::timeout(Duration::from_millis(200), rotation).await;
    assert!(killed.is_err());
    let entries = house.written();
    assert!(matches!(entries.last(), Some(EntryKind::Change(change)) if change.stage() == Stage::Intent));
    let House { directory, clock, service, registry, cable, .. } = house;
    drop((service, registry, cable));
    // The store is unlocked once the registry's writer has ended.
    let again = loop {
        let lock =
            SqliteStore::open(directory.path().join("store"), MacKey::from_bytes(&[7; 32]), &SystemRandom);
        if lock.map(drop).is_ok() {
            break House::at(directory.clone(), clock.clone()).await;
        }
        tokio::task::yield_now().await;
    };
    assert_eq!(again.decrypt(&web, "orders/pii", &ciphertext, &[]).await, Ok(1));
    again.change("orders/pii", Change::Rotate { imported: false }).await.unwrap();
    assert_eq!(again.decrypt(&web, "orders/pii", &ciphertext, &[]).await, Ok(1));
    let newer = again.encrypt(&web, "orders/pii", &[]).await.unwrap();
    assert_eq!(again.decrypt(&web, "orders/pii", &newer, &[]).await, Ok(2));
}

/// The versions of some keys of all kinds, as they are stored.
async fn stored(house: &House) -> Vec<KeyVersion> {
    let kinds =
        [KeyType::Aes256Gcm, KeyType::Aes128Gcm, KeyType::HmacSha256, KeyType::EcdsaP256, KeyType::MlDsa65];
    let mut all = Vec::new();
    for (number, kind) in kinds.into_iter().cycle().take(10).enumerate() {
        let name = format!("orders/{number}");
        house.key(&name, kind).await;
        for _ in 0..2 {
            house.change(&name, Change::Rotate { imported: false }).await.unwrap();
        }
        let id = *house.registry.state().key(&name).unwrap().id();
        all.extend(house.registry.state().key_versions(&id).map(|version| (**version).clone()));
    }
    all
}

#[tokio::test]
async fn ten_thousand_bit_flips_and_a_thousand_swaps_of_stored_secrets_are_all_found() {
    let house = House::new().await;
    let all = stored(&house).await;
    let hands = house.service.hands().clone();
    for version in &all {
        hands.open(version).await.unwrap();
    }
    let mut runner = TestRunner::new(Config::default());
    let (mut flips, mut swaps) = (0, 0);
    while flips < 10_000 || swaps < 1000 {
        let pick = |runner: &mut TestRunner| {
            let index = any::<prop::sample::Index>().new_tree(runner).unwrap();
            proptest::strategy::ValueTree::current(&index)
        };
        let (one, other) = (pick(&mut runner).get(&all).clone(), pick(&mut runner).get(&all).clone());
        let mut changed = Vec::new();
        for _ in 0..10 {
            let mut wrapped = one.wrapped.to_vec();
            let bit = pick(&mut runner).index(wrapped.len() * 8);
            wrapped[bit / 8] ^= 1 << (bit % 8);
            changed.push(KeyVersion { wrapped: wrapped.into(), ..one.clone() });
            flips += 1;
        }
        if one.wrapped != other.wrapped {
            // Of another key, or of another version of the same key.
            changed.push(KeyVersion { wrapped: other.wrapped.clone(), ..one.clone() });
            swaps += 1;
        }
        for version in changed {
            let which = (
                bonafide_kms::ciphertext::KeyId::from_bytes(version.key.as_ref().try_into().unwrap()),
                version.number,
            );
            hands.forget(&which);
            assert_eq!(code(hands.open(&version).await), "kms.wrapped-refused");
        }
    }
}

#[tokio::test]
async fn a_record_under_the_name_of_another_version_is_damaged() {
    let house = House::new().await;
    let all = stored(&house).await;
    let record = |version: &KeyVersion| Object::KeyVersion(Arc::new(version.clone()));
    for (one, other) in all.iter().zip(all.iter().skip(1)) {
        let (one, other) = (record(one), record(other));
        assert!(Object::decode(&one.key(), &one.encode(), 1).unwrap().is_some());
        let swapped = Object::decode(&one.key(), &other.encode(), 1).unwrap_err();
        assert_eq!(swapped.code(), "record.damaged");
    }
}

#[tokio::test]
async fn a_secret_that_was_swapped_is_refused_and_said() {
    let house = House::new().await;
    let web = workload("web", &[]);
    house.policy(WEB_ENCRYPTS).await;
    let (one, other) =
        (house.key("orders/a", KeyType::Aes256Gcm).await, house.key("orders/b", KeyType::Aes256Gcm).await);
    let state = house.registry.state();
    let wrapped = state.key_version(other.id(), 1).unwrap().wrapped.clone();
    let version = KeyVersion { wrapped, ..(**state.key_version(one.id(), 1).unwrap()).clone() };
    drop(state);
    house.put(Object::KeyVersion(Arc::new(version))).await;
    assert_eq!(code(house.encrypt(&web, "orders/a", &[]).await), "kms.wrapped-refused");
    house.encrypt(&web, "orders/b", &[]).await.unwrap();
}

#[tokio::test]
async fn a_server_that_is_cut_off_from_its_store_stops_using_keys_and_goes_on_by_itself() {
    let house = House::new().await;
    let web = workload("web", &[]);
    house.policy(WEB_ENCRYPTS).await;
    house.key("orders/pii", KeyType::Aes256Gcm).await;
    let patient = Settings { max_stale: Some(Duration::from_secs(3600)), ..Settings::default() };
    house.key_with("orders/edge", KeyType::Aes256Gcm, patient, Flags::default()).await;
    house.cable.cut.store(true, Ordering::SeqCst);
    house.encrypt(&web, "orders/pii", &[]).await.unwrap();
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(120)).await;
    let refused = house.encrypt(&web, "orders/pii", &[]).await.unwrap_err();
    assert_eq!((refused.code(), refused.kind()), ("kms.stale", tonic::Code::Unavailable));
    // As long as the key says.
    house.encrypt(&web, "orders/edge", &[]).await.unwrap();
    tokio::time::advance(Duration::from_secs(3600)).await;
    assert_eq!(code(house.encrypt(&web, "orders/edge", &[]).await), "kms.stale");
    tokio::time::resume();
    house.cable.cut.store(false, Ordering::SeqCst);
    let back = async {
        while house.encrypt(&web, "orders/pii", &[]).await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), back).await.unwrap();
}
