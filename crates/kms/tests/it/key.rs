//! The life of keys and versions, as a state machine under any order of changes.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bonafide_kms::algorithm::{KeyType, Operation};
use bonafide_kms::key::{Birth, Ceilings, Change, Key, KeyError, Local, Settings, State, Target};
use proptest::prelude::*;

use super::KEY;

const HOUR: i64 = 3600;

fn key() -> Key {
    Key::new(KEY, "orders", KeyType::Aes256Gcm, Birth::default(), false).unwrap()
}

/// With versions 1 to `newest`.
fn rotated(newest: u32) -> Key {
    (1..newest).fold(key(), |key, _| key.apply(&Change::Rotate { imported: false }, 0).unwrap())
}

fn set(settings: Settings) -> Change {
    Change::Configure(settings)
}

fn version(number: u32) -> Target {
    Target::Version(number)
}

#[test]
fn a_new_key_encrypts_with_version_1() {
    let key = key();
    assert_eq!(key.version_for(Operation::Encrypt, None), Ok(1));
    assert_eq!(key.version_for(Operation::Decrypt, Some(1)), Ok(1));
    assert_eq!(key.version_for(Operation::Decrypt, Some(2)), Err(KeyError::NoVersion(2)));
    assert_eq!(key.version_for(Operation::Fetch, None), Err(KeyError::NotExportable));
    assert_eq!(key.version_for(Operation::Sign, None).unwrap_err().code(), "kms.operation-unfit");
    assert_eq!((key.due(i64::MAX), key.next_due()), (vec![], None));
    for name in ["", "-a", ".a", "a b", "a//b", "/a", "a/", "a/../b", "é", &"a".repeat(129)] {
        let made = Key::new(KEY, name, KeyType::Aes256Gcm, Birth::default(), false);
        assert_eq!(made.unwrap_err().code(), "kms.key-name", "{name}");
    }
    let convergent = Birth { convergent: true, ..Birth::default() };
    let made = Key::new(KEY, "a", KeyType::Ed25519, convergent, false);
    assert_eq!(made, Err(KeyError::Convergent(KeyType::Ed25519)));
}

#[test]
fn an_external_key_is_of_a_fitting_kind_and_stays_where_it_is() {
    let external = Birth { external: true, ..Birth::default() };
    for key_type in KeyType::ALL {
        let made = Key::new(KEY, "a", key_type, external, false);
        if key_type.can_be_external() {
            assert!(key_type.signs() && made.is_ok_and(|key| key.local == Local::Never), "{key_type}");
        } else {
            assert_eq!(made, Err(KeyError::ExternalType(key_type)));
        }
    }
    let rsa = |birth, imported| Key::new(KEY, "a", KeyType::Rsa2048, birth, imported);
    assert_eq!(rsa(Birth { exportable: true, ..external }, false), Err(KeyError::External));
    assert_eq!(rsa(external, true), Err(KeyError::External));
    let key = rsa(external, false).unwrap();
    assert_eq!(key.version_for(Operation::Fetch, None), Err(KeyError::External));
    assert_eq!(key.version_for(Operation::Decrypt, None), Ok(1));
    assert_eq!(key.apply(&Change::Rotate { imported: true }, 0), Err(KeyError::External));
    assert!(key.apply(&Change::Rotate { imported: false }, 0).is_ok());
    for local in [Local::Agent, Local::Process] {
        let local = set(Settings { local: Some(local), ..Settings::default() });
        assert_eq!(key.apply(&local, 0), Err(KeyError::ExternalLocal));
    }
}

#[test]
fn bounds_of_versions_hold() {
    let key = rotated(4);
    let configure = |key: &Key, min_encrypt, min_decrypt| {
        key.apply(&set(Settings { min_encrypt, min_decrypt, ..Settings::default() }), 0)
    };
    assert_eq!(configure(&key, Some(5), None), Err(KeyError::Minimum), "above the primary");
    assert_eq!(configure(&key, None, Some(2)), Err(KeyError::Minimum), "above `min_encrypt`");
    assert_eq!(configure(&key, Some(0), Some(0)), Err(KeyError::Minimum));
    let key = configure(&key, Some(3), Some(2)).unwrap();
    assert_eq!(key.version_for(Operation::Encrypt, Some(2)), Err(KeyError::TooOld { version: 2, least: 3 }));
    assert_eq!(key.version_for(Operation::Decrypt, Some(2)), Ok(2));
    assert_eq!(key.version_for(Operation::Decrypt, Some(1)), Err(KeyError::TooOld { version: 1, least: 2 }));
    let primary = set(Settings { primary: Some(2), ..Settings::default() });
    assert_eq!(key.apply(&primary, 0), Err(KeyError::Minimum));
    // A bound can be lowered again, until versions were trimmed.
    let key = key.apply(&Change::Trim(2), 0).unwrap();
    assert_eq!(configure(&key, None, Some(1)), Err(KeyError::Minimum));
    assert_eq!(key.version_for(Operation::Decrypt, Some(1)), Err(KeyError::Trimmed(1)));
    assert_eq!(key.apply(&Change::Trim(3), 0), Err(KeyError::Trim(2)));
    assert_eq!(key.apply(&Change::Trim(1), 0).unwrap(), key, "said twice");
}

#[test]
fn the_primary_stays_enabled() {
    let key = rotated(2);
    let at = HOUR;
    for change in [Change::Disable(version(2)), Change::ScheduleDestruction { target: version(2), at }] {
        assert_eq!(key.apply(&change, 0), Err(KeyError::Primary(2)));
    }
    let off = key.apply(&Change::Disable(version(1)), 0).unwrap();
    assert_eq!(off.version_for(Operation::Decrypt, Some(1)), Err(KeyError::Disabled(1)));
    let primary = set(Settings { primary: Some(1), ..Settings::default() });
    assert_eq!(off.apply(&primary, 0), Err(KeyError::Disabled(1)));
    let on = off.apply(&Change::Enable(version(1)), 0).unwrap();
    assert_eq!(on.apply(&primary, 0).unwrap().primary, 1);
    let whole = key.apply(&Change::Disable(Target::Key), 0).unwrap();
    assert_eq!(whole.version_for(Operation::Decrypt, None), Err(KeyError::KeyDisabled));
    assert_eq!(whole.apply(&Change::Enable(Target::Key), 0).unwrap(), key);
}

#[test]
fn destruction_waits_and_can_be_cancelled_until_it_is_done() {
    let key = rotated(2);
    for target in [version(1), Target::Key] {
        let schedule = |at| Change::ScheduleDestruction { target, at };
        assert_eq!(key.apply(&schedule(HOUR - 1), 0), Err(KeyError::Grace));
        assert_eq!(key.apply(&schedule(i64::MIN), 0), Err(KeyError::Grace));
        let scheduled = key.apply(&schedule(HOUR), 0).unwrap();
        assert!(scheduled.version_for(Operation::Decrypt, Some(1)).is_err());
        assert!(scheduled.apply(&Change::Enable(target), 0).is_err(), "only cancelled in so many words");
        assert_eq!((scheduled.due(HOUR - 1), scheduled.next_due()), (vec![], Some(HOUR)));
        assert_eq!(scheduled.apply(&Change::Destroy(target), HOUR - 1), Err(KeyError::NotYet));
        let back = scheduled.apply(&Change::CancelDestruction(target), 0).unwrap();
        assert_eq!(back.apply(&Change::Enable(target), 0).unwrap(), key);
        assert_eq!(scheduled.due(HOUR), vec![Change::Destroy(target)]);
        let destroyed = scheduled.apply(&Change::Destroy(target), HOUR).unwrap();
        assert_eq!(destroyed.versions[&1].state, State::Destroyed);
        assert!(destroyed.apply(&Change::CancelDestruction(target), HOUR).is_err());
        assert!(destroyed.apply(&Change::Enable(target), HOUR).is_err());
        assert_eq!(destroyed.next_due(), None);
    }
    assert_eq!(key.apply(&Change::Destroy(version(1)), HOUR), Err(KeyError::NotScheduled));
    assert_eq!(key.apply(&Change::CancelDestruction(Target::Key), 0), Err(KeyError::NotScheduled));
}

#[test]
fn a_key_rotates_by_itself() {
    let period =
        |seconds| set(Settings { rotation: Some(Some(Duration::from_secs(seconds))), ..Settings::default() });
    assert_eq!(key().apply(&period(3599), 0), Err(KeyError::Rotation));
    assert_eq!(key().apply(&period(u64::MAX), 0), Err(KeyError::Rotation));
    let key = key().apply(&period(7200), 100).unwrap();
    assert_eq!(key.next_due(), Some(7200), "from the birth of the newest version on");
    // Said again, it puts nothing off.
    assert_eq!(key.apply(&period(7200), 5000).unwrap(), key);
    assert_eq!(key.due(7199), vec![]);
    assert_eq!(key.due(7200), vec![Change::Rotate { imported: false }]);
    let next = key.apply(&Change::Rotate { imported: false }, 7205).unwrap();
    assert_eq!((next.primary, next.next_rotation), (2, Some(14_405)));
    assert_eq!(next.version_for(Operation::Decrypt, Some(1)), Ok(1));
    let off = next.apply(&Change::Disable(Target::Key), 7205).unwrap();
    assert_eq!((off.due(i64::MAX), off.next_due()), (vec![], None), "nobody needs it then");
    let ended = next.apply(&set(Settings { rotation: Some(None), ..Settings::default() }), 0).unwrap();
    assert_eq!(ended.next_due(), None);
    // A period that is over already is due now, and not in the past.
    let late = rotated(1).apply(&period(3600), 1_000_000).unwrap();
    assert_eq!(late.next_rotation, Some(1_000_000));
}

#[test]
fn settings_are_bounded() {
    let key = key();
    let refused = |settings: Settings| key.apply(&set(settings), 0).unwrap_err().code();
    let ceilings = |ceilings| Settings { ceilings: Some(ceilings), ..Settings::default() };
    assert_eq!(refused(ceilings(Ceilings { messages: 0, ..Ceilings::DEFAULT })), "kms.key-ceilings");
    assert_eq!(refused(ceilings(Ceilings { bytes: u64::MAX, ..Ceilings::DEFAULT })), "kms.key-ceilings");
    assert_eq!(refused(ceilings(Ceilings { age: Duration::ZERO, ..Ceilings::DEFAULT })), "kms.key-ceilings");
    let stale = |seconds| Settings { max_stale: Some(Duration::from_secs(seconds)), ..Settings::default() };
    assert_eq!((refused(stale(0)), refused(stale(86_401))), ("kms.key-max-stale", "kms.key-max-stale"));
    let label = |name: &str, value: &str| Settings {
        labels: Some(BTreeMap::from([(name.to_owned(), value.to_owned())])),
        ..Settings::default()
    };
    assert_eq!((refused(label("", "")), refused(label("a", "\n"))), ("kms.key-bounds", "kms.key-bounds"));
    let sites = Settings { sites: Some((0..65).map(|n| n.to_string()).collect()), ..Settings::default() };
    assert_eq!(refused(sites), "kms.key-bounds");
    let local = Settings {
        local: Some(Local::Never),
        audit_sync: Some(true),
        sites: Some(BTreeSet::from(["eu".to_owned()])),
        ..Settings::default()
    };
    let set = key.apply(&set(local), 0).unwrap();
    assert!(set.is_for_site("eu") && !set.is_for_site("us") && key.is_for_site("us"));
    let alias = |alias: &str| Change::AddAlias(alias.to_owned());
    assert_eq!(key.apply(&alias("orders"), 0), Err(KeyError::AliasExists("orders".to_owned())));
    assert_eq!(key.apply(&alias("a b"), 0).unwrap_err().code(), "kms.key-name");
    let named = key.apply(&alias("pay"), 0).unwrap();
    assert_eq!(named.apply(&alias("pay"), 0).unwrap_err().code(), "kms.alias-exists");
    assert_eq!(named.apply(&Change::RemoveAlias("pay".to_owned()), 0).unwrap(), key);
    assert_eq!(key.apply(&Change::RemoveAlias("pay".to_owned()), 0).unwrap_err().code(), "kms.no-alias");
}

#[test]
fn versions_are_bounded() {
    let full = rotated(1000);
    assert_eq!(full.apply(&Change::Rotate { imported: false }, 0), Err(KeyError::Bounds));
    let bounds = Settings { min_encrypt: Some(500), min_decrypt: Some(500), ..Settings::default() };
    let trimmed = full.apply(&set(bounds), 0).unwrap().apply(&Change::Trim(500), 0).unwrap();
    assert_eq!(trimmed.apply(&Change::Rotate { imported: true }, 0).unwrap().primary, 1001);
}

fn changes() -> impl Strategy<Value = (Change, i64)> {
    let number = 0..6_u32;
    let target = prop_oneof![3 => number.clone().prop_map(Target::Version), 1 => Just(Target::Key)];
    let bound = || proptest::option::of(0..6_u32);
    let settings = (bound(), bound(), bound(), proptest::option::of(proptest::option::of(3600..9000_u64)));
    let change = prop_oneof![
        4 => any::<bool>().prop_map(|imported| Change::Rotate { imported }),
        3 => settings.prop_map(|(primary, min_encrypt, min_decrypt, rotation)| {
            let rotation = rotation.map(|period| period.map(Duration::from_secs));
            set(Settings { primary, min_encrypt, min_decrypt, rotation, ..Settings::default() })
        }),
        2 => target.clone().prop_map(Change::Disable),
        2 => target.clone().prop_map(Change::Enable),
        2 => (target.clone(), 0..20_000_i64)
            .prop_map(|(target, at)| Change::ScheduleDestruction { target, at }),
        2 => target.clone().prop_map(Change::CancelDestruction),
        2 => target.prop_map(Change::Destroy),
        2 => number.prop_map(Change::Trim),
        1 => "[a-c]".prop_map(Change::AddAlias),
        1 => "[a-c]".prop_map(Change::RemoveAlias),
    ];
    (change, 0..4000_i64)
}

proptest! {
    #[test]
    fn whatever_is_done_in_whatever_order(steps in prop::collection::vec(changes(), 1..60)) {
        let (mut key, mut now) = (key(), 0);
        for (change, pause) in steps {
            now += pause;
            // What is due can always be done.
            for due in key.due(now) {
                let next = key.apply(&due, now);
                prop_assert!(next.is_ok(), "{due:?} {next:?}");
            }
            let Ok(next) = key.apply(&change, now) else { continue };
            prop_assert_eq!(next.check(), Ok(()));
            // Nothing revives what was destroyed, and what was trimmed stays gone.
            prop_assert!(next.trimmed >= key.trimmed);
            prop_assert!(next.versions.keys().all(|number| *number >= next.trimmed));
            for (number, version) in &key.versions {
                match next.versions.get(number) {
                    Some(after) if version.state == State::Destroyed => prop_assert_eq!(after.state, State::Destroyed),
                    Some(after) => prop_assert_eq!((after.created, after.imported), (version.created, version.imported)),
                    None => prop_assert!(*number < next.trimmed),
                }
            }
            prop_assert!(next.newest() >= key.newest(), "a number is never used twice");
            prop_assert!(key.state != State::Destroyed);
            // What it was born with stays.
            prop_assert_eq!((next.id, next.key_type, next.birth), (key.id, key.key_type, key.birth));
            prop_assert!(next.min_decrypt <= next.min_encrypt && next.min_encrypt <= next.primary);
            if next.state == State::Enabled {
                prop_assert_eq!(next.version_for(Operation::Encrypt, None), Ok(next.primary));
            } else {
                for operation in Operation::ALL {
                    prop_assert!(next.version_for(operation, None).is_err());
                }
            }
            // Nothing is destroyed before its time.
            for (number, version) in &next.versions {
                let before = key.versions.get(number).map(|version| version.state);
                if version.state == State::Destroyed && before != Some(State::Destroyed) {
                    let due = [before, Some(key.state)].into_iter().flatten()
                        .any(|state| matches!(state, State::DestroyScheduled(at) if at <= now));
                    prop_assert!(due);
                }
            }
            prop_assert!(next.next_due().is_none_or(|at| next.due(at - 1).is_empty() || at <= now));
            key = next;
        }
    }
}
