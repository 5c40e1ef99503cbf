//! Keyrings and seals, as files on a disk that an attacker can read and write.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs,
    reason = "a failed test is a panic"
)]

mod device;
mod handler;
mod seals;
mod worker;

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Mutex,
};

use bonafide_crypto::random::{Random, SystemRandom};
use bonafide_keyring::{KeyFileSeal, Keyring, KeyringError, PassphraseCost, PassphraseSeal, Seal};
use bonafide_secmem::SecretBytes;
use proptest::prelude::*;

pub(crate) struct Directory(tempfile::TempDir);

impl Directory {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn files(&self) -> Vec<PathBuf> {
        fs::read_dir(self.0.path()).unwrap().map(|file| file.unwrap().path()).collect()
    }
}

fn secret(bytes: &[u8]) -> SecretBytes {
    SecretBytes::new(bytes.len(), |out| out.copy_from_slice(bytes)).unwrap()
}

/// The cheapest that is allowed: tests are not built with optimisation.
fn passphrase(words: &str) -> PassphraseSeal {
    PassphraseSeal::new(secret(words.as_bytes())).with_cost(PassphraseCost {
        memory: 8 * 1024,
        passes: 1,
        lanes: 1,
    })
}

fn key_file_keyring(directory: &Directory) -> (KeyFileSeal, Keyring) {
    let seal = KeyFileSeal::create(directory.at("seal.key"), &SystemRandom).unwrap();
    let keyring = Keyring::create(directory.at("keyring"), &seal, &SystemRandom).unwrap();
    (seal, keyring)
}

fn write_private(path: &Path, contents: &[u8]) {
    fs::write(path, contents).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

fn code<T: std::fmt::Debug>(result: Result<T, KeyringError>) -> &'static str {
    result.unwrap_err().code()
}

#[test]
fn what_was_wrapped_opens_again_and_only_for_what_it_is() {
    let directory = Directory::new();
    let (seal, keyring) = key_file_keyring(&directory);
    let wrapped = keyring.wrap("signing-key/1", b"private", &SystemRandom);
    let keyring_again = Keyring::open(directory.at("keyring"), &seal).unwrap();
    for keyring in [&keyring, &keyring_again] {
        assert_eq!(**keyring.unwrap("signing-key/1", &wrapped).unwrap(), *b"private");
        assert_eq!(code(keyring.unwrap("signing-key/2", &wrapped)), "keyring.unwrap");
        for at in 0..wrapped.len() {
            let mut flipped = wrapped.clone();
            flipped[at] ^= 1;
            let expected = if at < 4 { "keyring.version" } else { "keyring.unwrap" };
            assert_eq!(code(keyring.unwrap("signing-key/1", &flipped)), expected);
            assert!(keyring.unwrap("signing-key/1", &wrapped[..at]).is_err());
        }
    }
    assert_eq!(keyring_again.primary(), 1);
    let other = Directory::new();
    let (_, other) = key_file_keyring(&other);
    assert_eq!(code(other.unwrap("signing-key/1", &wrapped)), "keyring.unwrap");
}

#[test]
fn rotation_adds_a_version_and_keeps_mac_keys() {
    let directory = Directory::new();
    let (seal, keyring) = key_file_keyring(&directory);
    let first = keyring.wrap("k", b"one", &SystemRandom);
    let tag = keyring.mac_key("store").tag(&[b"row"]);
    assert_ne!(tag, keyring.mac_key("other").tag(&[b"row"]));
    let before = fs::read(directory.at("keyring")).unwrap();
    assert_eq!(keyring.rotate(&seal, &SystemRandom).unwrap(), 2);
    let second = keyring.wrap("k", b"two", &SystemRandom);
    assert_eq!((&first[..4], &second[..4]), (&[0, 0, 0, 1][..], &[0, 0, 0, 2][..]));
    let again = Keyring::open(directory.at("keyring"), &seal).unwrap();
    for keyring in [&keyring, &again] {
        assert_eq!(keyring.primary(), 2);
        assert_eq!(**keyring.unwrap("k", &first).unwrap(), *b"one");
        assert_eq!(**keyring.unwrap("k", &second).unwrap(), *b"two");
        keyring.mac_key("store").verify(&[b"row"], &tag).unwrap();
    }
    // A version that an older copy of the keyring does not have is named.
    write_private(&directory.at("keyring"), &before);
    let old = Keyring::open(directory.at("keyring"), &seal).unwrap();
    assert!(matches!(old.unwrap("k", &second), Err(KeyringError::Version(2))));
    assert_eq!(fs::metadata(directory.at("keyring")).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn versions_are_bounded() {
    let directory = Directory::new();
    let (seal, keyring) = key_file_keyring(&directory);
    for version in 2..=256 {
        assert_eq!(keyring.rotate(&seal, &SystemRandom).unwrap(), version);
    }
    assert_eq!(code(keyring.rotate(&seal, &SystemRandom)), "keyring.too-many-versions");
    assert_eq!(keyring.primary(), 256);
    assert_eq!(Keyring::open(directory.at("keyring"), &seal).unwrap().primary(), 256);
}

#[test]
fn a_rotation_that_can_not_be_written_changes_nothing() {
    let directory = Directory::new();
    let (seal, keyring) = key_file_keyring(&directory);
    let path = directory.0.path().to_owned();
    drop(directory);
    assert!(!path.exists());
    assert_eq!(code(keyring.rotate(&seal, &SystemRandom)), "keyring.io");
    assert_eq!(keyring.primary(), 1);
}

#[test]
fn the_wrong_seal_has_a_code_of_its_own() {
    let directory = Directory::new();
    let (right, _) = key_file_keyring(&directory);
    let wrong = KeyFileSeal::create(directory.at("wrong.key"), &SystemRandom).unwrap();
    let keyring = directory.at("keyring");
    assert_eq!(code(Keyring::open(&keyring, &wrong)), "keyring.wrong-seal");
    assert_eq!(code(Keyring::open(&keyring, &passphrase("words"))), "keyring.wrong-seal-kind");
    Keyring::open(&keyring, &right).unwrap();

    let sealed = directory.at("sealed");
    Keyring::create(&sealed, &passphrase("correct horse"), &SystemRandom).unwrap();
    assert_eq!(code(Keyring::open(&sealed, &passphrase("correct house"))), "keyring.wrong-seal");
    assert_eq!(code(Keyring::open(&sealed, &right)), "keyring.wrong-seal-kind");
    // The cost is that of the file, not that of who opens it.
    let other_cost = PassphraseSeal::new(secret(b"correct horse"));
    Keyring::open(&sealed, &other_cost).unwrap();
}

#[test]
fn passphrase_costs_are_bounded_before_any_work() {
    let directory = Directory::new();
    let seal = passphrase("words");
    let good = seal.seal(&secret(&[7; 32]), &SystemRandom).unwrap();
    assert_eq!(seal.unseal(&good).unwrap().expose(), [7; 32]);
    // 4 TiB of memory, 2^32 passes, 2^32 lanes, and next to nothing.
    for (at, number) in [(0, u32::MAX), (0, 8), (0, 0), (4, u32::MAX), (4, 17), (4, 0), (8, u32::MAX), (8, 0)]
    {
        let mut sealed = good.clone();
        sealed[at..at + 4].copy_from_slice(&number.to_be_bytes());
        assert_eq!(code(seal.unseal(&sealed)), "keyring.wrong-seal");
    }
    for len in 0..good.len() {
        assert_eq!(code(seal.unseal(&good[..len])), "keyring.wrong-seal");
    }
    for at in 12..good.len() {
        let mut sealed = good.clone();
        sealed[at] ^= 1;
        assert_eq!(code(seal.unseal(&sealed)), "keyring.wrong-seal");
    }
    let too_cheap =
        PassphraseSeal::new(secret(b"words")).with_cost(PassphraseCost { memory: 8, passes: 1, lanes: 1 });
    assert!(Keyring::create(directory.at("keyring"), &too_cheap, &SystemRandom).is_err());
}

#[test]
fn files_are_private_and_never_overwritten() {
    let directory = Directory::new();
    let (seal, _) = key_file_keyring(&directory);
    for file in directory.files() {
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o7777, 0o600, "{file:?}");
    }
    assert_eq!(directory.files().len(), 2, "nothing half written is left");
    let before = fs::read(directory.at("keyring")).unwrap();
    assert_eq!(code(Keyring::create(directory.at("keyring"), &seal, &SystemRandom)), "keyring.exists");
    assert_eq!(code(KeyFileSeal::create(directory.at("seal.key"), &SystemRandom)), "keyring.exists");
    assert_eq!(fs::read(directory.at("keyring")).unwrap(), before);
    assert_eq!(directory.files().len(), 2);

    for name in ["seal.key", "keyring"] {
        fs::set_permissions(directory.at(name), fs::Permissions::from_mode(0o640)).unwrap();
    }
    assert_eq!(code(KeyFileSeal::open(directory.at("seal.key"))), "keyring.mode");
    assert_eq!(code(Keyring::open(directory.at("keyring"), &seal)), "keyring.mode");
    assert_eq!(code(KeyFileSeal::open(directory.at("none"))), "keyring.io");
    write_private(&directory.at("not a key"), b"bonafide seal key, v1\n\0\ntoo short");
    assert_eq!(code(KeyFileSeal::open(directory.at("not a key"))), "keyring.format");
}

#[test]
fn every_flipped_byte_and_every_cut_is_found() {
    let directory = Directory::new();
    let (seal, _) = key_file_keyring(&directory);
    let good = fs::read(directory.at("keyring")).unwrap();
    let attacked = directory.at("attacked");
    for at in 0..good.len() {
        for flip in [1, 0x80] {
            let mut flipped = good.clone();
            flipped[at] ^= flip;
            write_private(&attacked, &flipped);
            let code = code(Keyring::open(&attacked, &seal));
            assert!(
                matches!(
                    code,
                    "keyring.format" | "keyring.wrong-seal-kind" | "keyring.wrong-seal" | "keyring.broken"
                ),
                "byte {at}: {code}"
            );
        }
        write_private(&attacked, &good[..at]);
        assert!(Keyring::open(&attacked, &seal).is_err(), "cut at {at}");
    }
    write_private(&attacked, &[good.as_slice(), b"\0"].concat());
    assert_eq!(code(Keyring::open(&attacked, &seal)), "keyring.broken");
}

/// Remembers what it gave out.
#[derive(Debug, Default)]
struct Recorded(Mutex<Vec<Vec<u8>>>);

impl Random for Recorded {
    fn fill(&self, out: &mut [u8]) {
        SystemRandom.fill(out);
        self.0.lock().unwrap().push(out.to_vec());
    }
}

#[test]
fn nothing_secret_lies_in_the_clear() {
    let directory = Directory::new();
    let random = Recorded::default();
    let key_file = KeyFileSeal::create(directory.at("seal.key"), &random).unwrap();
    let under_file = Keyring::create(directory.at("keyring-1"), &key_file, &random).unwrap();
    under_file.rotate(&key_file, &random).unwrap();
    let words = "words that nobody guesses";
    Keyring::create(directory.at("keyring-2"), &passphrase(words), &random).unwrap();
    let secret = b"a private key of a certificate authority";
    fs::write(directory.at("wrapped"), under_file.wrap("k", secret, &random)).unwrap();

    // Keys are drawn as 32 bytes; nonces and salts are shorter.
    let drawn = random.0.into_inner().unwrap();
    let mut needles: Vec<Vec<u8>> = drawn.into_iter().filter(|bytes| bytes.len() == 32).collect();
    assert_eq!(
        needles.len(),
        1 + (1 + 2) + (1 + 1) + (1 + 1),
        "seal key, and of each keyring: secrets and roots"
    );
    needles.extend([secret.to_vec(), words.as_bytes().to_vec()]);
    for file in directory.files() {
        let contents = fs::read(&file).unwrap();
        for (index, needle) in needles.iter().enumerate() {
            let found = needle.windows(8).any(|part| contents.windows(8).any(|window| window == part));
            // The key file holds its own key, and nothing else.
            assert_eq!(found, file.ends_with("seal.key") && index == 0, "needle {index} in {file:?}");
        }
    }
    for shown in [format!("{under_file:?}"), format!("{key_file:?}"), format!("{:?}", passphrase(words))] {
        assert!(!shown.contains("words"), "{shown}");
    }
}

proptest! {
    #[test]
    fn any_file_is_refused_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), keep in 0..40_usize) {
        let directory = Directory::new();
        let (seal, _) = key_file_keyring(&directory);
        let mut contents = fs::read(directory.at("keyring")).unwrap()[..keep].to_vec();
        contents.extend(bytes);
        write_private(&directory.at("any"), &contents);
        prop_assert!(Keyring::open(directory.at("any"), &seal).is_err());
    }
}
