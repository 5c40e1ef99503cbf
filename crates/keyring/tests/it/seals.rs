//! Several seals of one keyring, and their change, whatever happens meanwhile.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use bonafide_crypto::{aead::AeadKey, kdf::hkdf_sha256, key::KeyAlgorithm};
use bonafide_keyring::{
    DeviceAccess, KeySpec, LiveKeys as _, SealChange, SealName, SealSource, Seals, change_seals,
    inspect_seals,
};

use super::device::Token;
use super::*;

const NONE: DeviceAccess = DeviceAccess::None;

fn name(name: &str) -> SealName {
    name.parse().unwrap()
}

fn file(directory: &Directory, name: &str) -> SealSource {
    SealSource::KeyFile(directory.at(&format!("{name}.key")))
}

fn add(directory: &Directory, new: &str) -> SealChange {
    SealChange::Add { name: name(new), source: file(directory, new) }
}

fn remove(names: &[&str]) -> SealChange {
    SealChange::Remove(names.iter().map(|removed| name(removed)).collect())
}

/// Changes the keyring, with these seals at hand.
fn change(directory: &Directory, shown: &[&str], change: &SealChange) -> Result<Seals, KeyringError> {
    let shown: Vec<_> = shown.iter().map(|name| file(directory, name)).collect();
    change_seals(directory.at("keyring"), &shown, change, &NONE, &SystemRandom)
}

fn opens(directory: &Directory, seal: &str) -> bool {
    let Ok(seal) = KeyFileSeal::open(directory.at(&format!("{seal}.key"))) else { return false };
    Keyring::open(directory.at("keyring"), &seal).is_ok()
}

fn names(seals: &Seals) -> Vec<&str> {
    seals.seals.iter().map(|seal| seal.name.as_str()).collect()
}

#[test]
fn any_of_several_seals_opens_and_those_that_do_not_are_told() {
    let directory = Directory::new();
    let (_, keyring) = key_file_keyring(&directory);
    let wrapped = keyring.wrap("k", b"one", &SystemRandom);
    let words = || SealSource::Passphrase(secret(b"words"));
    change(&directory, &["seal"], &add(&directory, "disk")).unwrap();
    let change_words = SealChange::Add { name: name("recovery"), source: words() };
    let seals = change(&directory, &["seal"], &change_words).unwrap();
    assert_eq!(names(&seals), ["key-file", "disk", "recovery"]);
    let by: Vec<_> = seals.seals.iter().map(|seal| seal.opened_by).collect();
    assert_eq!(by, [Some(0), None, Some(1)], "the new one stands behind what was shown");

    let path = directory.at("keyring");
    for shown in [file(&directory, "seal"), file(&directory, "disk"), words()] {
        let (keyring, opened) = Keyring::unseal(&path, &[shown], &NONE).unwrap();
        assert_eq!(**keyring.unwrap("k", &wrapped).unwrap(), *b"one");
        assert!(opened.problems.is_empty());
    }
    let shown = [
        SealSource::Device,
        file(&directory, "lost"),
        SealSource::Missing { kind: "passphrase", why: "there is no `/pass`".into() },
        SealSource::Passphrase(secret(b"other words")),
        file(&directory, "disk"),
        words(),
    ];
    let (_, opened) = Keyring::unseal(&path, &shown, &NONE).unwrap();
    assert_eq!((opened.by, opened.seal.as_str()), (4, "disk"));
    let codes: Vec<_> = opened.problems.iter().map(|(place, error)| (*place, error.code())).collect();
    let expected = ["keyring.no-device", "keyring.io", "keyring.seal-missing", "keyring.wrong-seal"];
    assert_eq!(codes, expected.into_iter().enumerate().collect::<Vec<_>>());
    let none = Keyring::unseal(&path, &shown[..4], &NONE).unwrap_err();
    assert_eq!(none.code(), "keyring.no-seal");
    assert!(none.to_string().contains("there is no `/pass` (keyring.seal-missing)"), "{none}");
    // Of a single seal, its own error is all.
    assert_eq!(code(Keyring::unseal(&path, &shown[3..4], &NONE)), "keyring.wrong-seal");

    let seen = inspect_seals(&path, &shown, &NONE).unwrap();
    let by: Vec<_> = seen.seals.iter().map(|seal| (seal.kind.as_str(), seal.opened_by)).collect();
    assert_eq!(by, [("key-file", None), ("key-file", Some(4)), ("passphrase", Some(5))]);
    assert_eq!(seen.problems.len(), 4);
}

#[test]
fn a_removed_seal_opens_nothing_any_more() {
    let directory = Directory::new();
    let (old, keyring) = key_file_keyring(&directory);
    let wrapped = keyring.wrap("k", b"one", &SystemRandom);
    change(&directory, &["seal"], &add(&directory, "new")).unwrap();
    let before = fs::read(directory.at("keyring")).unwrap();
    change(&directory, &["seal", "new"], &remove(&["key-file"])).unwrap();
    assert_eq!(code(Keyring::open(directory.at("keyring"), &old)), "keyring.wrong-seal");
    let seal = KeyFileSeal::open(directory.at("new.key")).unwrap();
    let keyring = Keyring::open(directory.at("keyring"), &seal).unwrap();
    assert_eq!(**keyring.unwrap("k", &wrapped).unwrap(), *b"one", "all records stay readable");

    // Its root key, out of an old copy, opens nothing of the new file: there is a new one.
    let after = fs::read(directory.at("keyring")).unwrap();
    let (_, roots_before) = header(&before);
    let (start, roots_after) = header(&after);
    assert_eq!((roots_before.len(), roots_after.len()), (2, 1));
    let root = old.unseal(&roots_before[0]).unwrap();
    let key = AeadKey::from_bytes(&hkdf_sha256(root.expose(), b"", b"bonafide keyring v1 body"));
    let (start_before, _) = header(&before);
    assert!(key.open(&before[..start_before], &before[start_before..]).is_ok());
    assert!(key.open(&after[..start], &after[start..]).is_err());
    // Nor does the old entry, put back.
    let mut attacked = after[..20].to_vec();
    attacked.push(2);
    attacked.extend_from_slice(&before[21..start_before - entry_length(&before, 1)]);
    attacked.extend_from_slice(&after[21..]);
    write_private(&directory.at("attacked"), &attacked);
    for seal in [&old, &seal] {
        let code = code(Keyring::open(directory.at("attacked"), seal));
        assert_eq!(code, "keyring.broken");
    }
    // A renewal takes a new root key, too.
    change(&directory, &["new"], &SealChange::Renew).unwrap();
    assert_ne!(header(&fs::read(directory.at("keyring")).unwrap()).1, roots_after);
    assert!(opens(&directory, "new"));
}

/// Where the body begins, and the sealed root keys.
fn header(contents: &[u8]) -> (usize, Vec<Vec<u8>>) {
    let (mut at, mut roots) = (21, Vec::new());
    for _ in 0..contents[20] {
        let mut part = || {
            let length = usize::from(u16::from_be_bytes([contents[at], contents[at + 1]]));
            at += 2 + length;
            contents[at - length..at].to_vec()
        };
        let (_name, _kind, root) = (part(), part(), part());
        roots.push(root);
    }
    (at, roots)
}

/// Bytes of one entry of the header.
fn entry_length(contents: &[u8], entry: usize) -> usize {
    let mut at = 21;
    let mut length = 0;
    for _ in 0..=entry {
        let start = at;
        for _ in 0..3 {
            at += 2 + usize::from(u16::from_be_bytes([contents[at], contents[at + 1]]));
        }
        length = at - start;
    }
    length
}

#[test]
fn what_can_not_be_is_refused_and_changes_nothing() {
    let directory = Directory::new();
    key_file_keyring(&directory);
    change(&directory, &["seal"], &add(&directory, "disk")).unwrap();
    let before = fs::read(directory.at("keyring")).unwrap();
    let refused = |shown: &[&str], changed: SealChange| {
        let code = code(change(&directory, shown, &changed));
        assert_eq!(fs::read(directory.at("keyring")).unwrap(), before, "{changed:?}");
        code
    };
    let all = ["seal", "disk"];
    assert_eq!(refused(&all, remove(&["key-file", "disk"])), "keyring.last-seal");
    assert_eq!(refused(&all, remove(&["hsm"])), "keyring.seal-unknown");
    assert_eq!(refused(&["seal"], remove(&["key-file"])), "keyring.seal-away");
    assert_eq!(refused(&["disk"], SealChange::Renew), "keyring.seal-away");
    assert_eq!(refused(&all, add(&directory, "disk")), "keyring.seal-exists");
    // Under another name, the same secret.
    let again = SealChange::Add { name: name("again"), source: file(&directory, "disk") };
    assert_eq!(refused(&all, again), "keyring.seal-exists");
    // Who opens nothing changes nothing, and makes no file.
    assert_eq!(refused(&["lost"], add(&directory, "mine")), "keyring.io");
    assert!(!directory.at("mine.key").exists());
    let wrong = SealSource::KeyFile(directory.at("keyring"));
    assert_eq!(refused(&all, SealChange::Add { name: name("x"), source: wrong }), "keyring.format");
    assert_eq!(
        refused(&all, SealChange::Add { name: name("x"), source: SealSource::Device }),
        "keyring.no-device"
    );
    for wrong in ["", "Up", "a b", &"x".repeat(64)] {
        assert_eq!(code(wrong.parse::<SealName>()), "keyring.seal-name");
    }
    for count in 3..=8 {
        change(&directory, &["seal"], &add(&directory, &format!("seal-{count}"))).unwrap();
    }
    assert_eq!(code(change(&directory, &["seal"], &add(&directory, "ninth"))), "keyring.too-many-seals");
    assert!(!directory.at("ninth.key").exists());
}

/// A file of the first version: one seal, which had no name.
#[test]
fn a_keyring_of_the_first_version_opens_and_gets_more_seals() {
    let directory = Directory::new();
    let seal = KeyFileSeal::create(directory.at("seal.key"), &SystemRandom).unwrap();
    let root = secret(&[7; 32]);
    let sealed = seal.seal(&root, &SystemRandom).unwrap();
    let mut contents = b"bonafide keyring v1\n\0\x08key-file".to_vec();
    contents.extend_from_slice(&u16::try_from(sealed.len()).unwrap().to_be_bytes());
    contents.extend_from_slice(&sealed);
    let body = [[1; 32].as_slice(), &[0, 0, 0, 1], &[2; 32]].concat();
    let key = AeadKey::from_bytes(&hkdf_sha256(&[7; 32], b"", b"bonafide keyring v1 body"));
    let sealed_body = key.seal(&contents, &body, &SystemRandom);
    contents.extend(sealed_body);
    write_private(&directory.at("keyring"), &contents);
    let keyring = Keyring::open(directory.at("keyring"), &seal).unwrap();
    let wrapped = keyring.wrap("k", b"one", &SystemRandom);
    let seals = change(&directory, &["seal"], &add(&directory, "disk")).unwrap();
    assert_eq!(names(&seals), ["key-file", "disk"]);
    change(&directory, &["disk"], &remove(&["key-file"])).unwrap();
    let disk = KeyFileSeal::open(directory.at("disk.key")).unwrap();
    let keyring = Keyring::open(directory.at("keyring"), &disk).unwrap();
    assert_eq!(**keyring.unwrap("k", &wrapped).unwrap(), *b"one");
}

/// Every state of the disk that a crash can leave: the new file cut off anywhere, beside the old one; and the new one.
#[test]
fn a_change_that_was_cut_off_anywhere_leaves_the_old_keyring_and_can_be_made_again() {
    let directory = Directory::new();
    key_file_keyring(&directory);
    let old = fs::read(directory.at("keyring")).unwrap();
    change(&directory, &["seal"], &add(&directory, "disk")).unwrap();
    let new = fs::read(directory.at("keyring")).unwrap();
    for cut in (0..=new.len()).step_by(7).chain([new.len()]) {
        write_private(&directory.at("keyring"), &old);
        write_private(&directory.at("keyring.new"), &new[..cut]);
        assert!(opens(&directory, "seal") && !opens(&directory, "disk"));
        // The key file was made before; it is taken as it is.
        change(&directory, &["seal"], &add(&directory, "disk")).unwrap();
        assert!(opens(&directory, "seal") && opens(&directory, "disk"));
        assert!(!directory.at("keyring.new").exists());
    }
}

/// Changes a keyring until it is killed. Its directory is where it runs.
#[test]
#[ignore = "what another test starts"]
fn changing_process() {
    let directory = std::env::current_dir().unwrap();
    let at = |name: &str| SealSource::KeyFile(directory.join(name));
    for round in 0_u64.. {
        let other = SealChange::Add { name: name("other"), source: at("other.key") };
        let shown = [at("seal.key"), at("other.key")];
        let changed = if round % 2 == 0 { other } else { remove(&["other"]) };
        println!("round {round}");
        change_seals(directory.join("keyring"), &shown, &changed, &NONE, &SystemRandom).unwrap();
    }
}

#[test]
fn a_change_that_is_killed_leaves_the_old_seals_or_the_new_ones() {
    let directory = Directory::new();
    let (_, keyring) = key_file_keyring(&directory);
    let wrapped = keyring.wrap("k", b"one", &SystemRandom);
    for kill_at in 0..12_u64 {
        let seen = inspect_seals(directory.at("keyring"), &[file(&directory, "seal")], &NONE).unwrap();
        if names(&seen).len() == 2 {
            change(&directory, &["seal", "other"], &remove(&["other"])).unwrap();
        }
        let mut child = Command::new("/proc/self/exe")
            .args(["--exact", "seals::changing_process", "--ignored", "--nocapture"])
            .current_dir(directory.0.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        // Somewhere in that round: nobody knows where, and it differs.
        for line in lines.map_while(Result::ok) {
            if line.ends_with(&format!("round {kill_at}")) {
                break;
            }
        }
        child.kill().unwrap();
        child.wait().unwrap();
        let seal = KeyFileSeal::open(directory.at("seal.key")).unwrap();
        let keyring = Keyring::open(directory.at("keyring"), &seal).unwrap();
        assert_eq!(**keyring.unwrap("k", &wrapped).unwrap(), *b"one");
        let seen = inspect_seals(directory.at("keyring"), &[file(&directory, "seal")], &NONE).unwrap();
        assert_eq!(names(&seen).len() == 2, opens(&directory, "other"), "what is named opens");
    }
}

/// From a file into a device and out of it again, while the worker that signs goes on.
#[test]
fn a_keyring_moves_into_a_device_under_a_worker_that_goes_on() {
    let Some(token) = Token::new() else { return };
    let (path, config) = (token.directory.at("keyring"), token.config());
    let live = token.worker();
    live.create(&path, &file(&token.directory, "seal"), Some(&config)).unwrap();
    let spec = KeySpec { algorithm: KeyAlgorithm::EcP256, in_device: false };
    let key = live.generate(spec, "key/").unwrap();
    // The one that signs changes nothing.
    let shown = [file(&token.directory, "seal"), SealSource::Device];
    let refused = live.seals(&path, &shown, Some(&SealChange::Renew), Some(&config)).unwrap_err();
    assert_eq!(refused.code(), "keyring.worker-protocol");

    let helper = token.worker();
    let hsm = SealChange::Add { name: name("hsm"), source: SealSource::Device };
    let seals = helper.seals(&path, &shown[..1], Some(&hsm), Some(&config)).unwrap();
    assert_eq!(names(&seals), ["key-file", "hsm"]);
    let seals = helper.seals(&path, &shown, Some(&remove(&["key-file"])), Some(&config)).unwrap();
    assert_eq!((names(&seals), seals.seals[0].opened_by), (vec!["hsm"], Some(1)));
    let only = helper.seals(&path, &shown, Some(&remove(&["hsm"])), Some(&config)).unwrap_err();
    assert_eq!(only.code(), "keyring.last-seal");
    let unknown = helper.seals(&path, &shown, None, Some(&config)).unwrap();
    assert_eq!(unknown.problems[0].1.code(), "keyring.wrong-seal-kind");
    drop(helper);
    assert!(key.signer.sign(b"all the time").is_ok());
    drop(live);

    let next = token.worker();
    let unsealed = next.unseal(&path, &shown, Some(&config)).unwrap();
    assert_eq!((unsealed.opened.by, unsealed.opened.seal.as_str()), (1, "hsm"));
    let id: String = key.signer.public_key().key_id().iter().map(|byte| format!("{byte:02x}")).collect();
    assert!(next.open(&format!("key/{id}"), &key.wrapped).is_ok());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Whatever is changed, with whatever at hand: what is named opens, nothing else does, and what was wrapped stays.
    #[test]
    fn the_seals_are_what_the_changes_say(steps in prop::collection::vec((0..3_u8, 0..4_usize, 0..16_u8), 1..12)) {
        const ALL: [&str; 4] = ["key-file", "a", "b", "c"];
        let directory = Directory::new();
        let seal = KeyFileSeal::create(directory.at("key-file.key"), &SystemRandom).unwrap();
        let keyring = Keyring::create(directory.at("keyring"), &seal, &SystemRandom).unwrap();
        let wrapped = keyring.wrap("k", b"one", &SystemRandom);
        let mut model = vec!["key-file"];
        for (what, which, shown) in steps {
            let shown: Vec<&str> =
                ALL.into_iter().enumerate().filter(|(bit, _)| shown & (1 << bit) != 0).map(|(_, name)| name).collect();
            let shown: Vec<&str> = if shown.is_empty() { vec!["none"] } else { shown };
            let (one, can_open) = (ALL[which], model.iter().any(|name| shown.contains(name)));
            let others_open = model.iter().all(|name| *name == one || shown.contains(name));
            let (asked, expected) = match what {
                0 => (add(&directory, one), can_open && !model.contains(&one)),
                1 => (remove(&[one]), can_open && model.contains(&one) && model.len() > 1 && others_open),
                _ => (SealChange::Renew, model.iter().all(|name| shown.contains(name))),
            };
            prop_assert_eq!(change(&directory, &shown, &asked).is_ok(), expected, "{:?} with {:?}", asked, shown);
            match what {
                0 if expected => model.push(one),
                1 if expected => model.retain(|name| *name != one),
                _ => {}
            }
            for name in ALL {
                prop_assert_eq!(opens(&directory, name), model.contains(&name));
            }
        }
        let seal = KeyFileSeal::open(directory.at(&format!("{}.key", model[0]))).unwrap();
        let keyring = Keyring::open(directory.at("keyring"), &seal).unwrap();
        prop_assert_eq!(&**keyring.unwrap("k", &wrapped).unwrap(), b"one");
    }
}
