//! `log` against ledgers on the disk.

use std::{fs, path::Path, sync::Arc};

use bonafide_authority::entry::{Entry, JwtSvid, Launch, Refusal, X509Svid, entry::Kind};
use bonafide_crypto::key::{KeyAlgorithm, PrivateKey};
use bonafide_ledger::{Bindings, Ledger, LedgerConfig};
use prost::Message as _;

use crate::{
    golden::check_text,
    program::{bonafide, text},
};

fn entry(number: i64) -> Vec<u8> {
    let instance = vec![7; 16];
    let kind = match number % 4 {
        0 => Kind::X509Svid(X509Svid {
            serial: number.to_be_bytes().to_vec().into(),
            spiffe_id: "spiffe://td/web".into(),
            registration: "web".into(),
            registration_revision: 9,
            site: "edge".into(),
            agent: "spiffe://td/bonafide/agent/edge/1".into(),
            instance: instance.into(),
            generation: 2,
            not_after: 1_767_326_645,
            ..Default::default()
        }),
        1 => Kind::JwtSvid(JwtSvid {
            jti: "j".into(),
            spiffe_id: "spiffe://td/web".into(),
            audience: vec!["db".into()],
            expires_at: 1_767_323_345,
            ..Default::default()
        }),
        2 => Kind::Refusal(Refusal {
            code: "scope.spiffe-id".into(),
            message: "outside\u{1b}[2J".into(),
            source: "10.0.0.1".into(),
            ..Default::default()
        }),
        _ => Kind::Launch(Launch {
            instance: instance.into(),
            agent: "spiffe://td/bonafide/agent/edge/1".into(),
            selectors: vec!["unix.uid:1".into()],
            launched_at: 1_767_323_045,
            ..Default::default()
        }),
    };
    Entry { at: 1_767_323_045 + number, kind: Some(kind) }.encode_to_vec()
}

/// A ledger of 604 entries, 600 of them under a checkpoint. Returns its key.
async fn ledger(folder: &Path) -> String {
    let signer = PrivateKey::generate(KeyAlgorithm::Ed25519).unwrap();
    let config = LedgerConfig { origin: "td/ledger/a".into() };
    let ledger = Ledger::open(folder, config, Arc::new(signer)).unwrap();
    ledger.append_batch((0..600).map(entry).collect()).await.unwrap();
    ledger
        .checkpoint(&Bindings { incarnation: [1; 16], revision: 5, set_digest: [2; 32], life: 0 })
        .await
        .unwrap();
    ledger.append_batch((600..604).map(entry).collect()).await.unwrap();
    ledger.verifier_key().to_string()
}

#[tokio::test]
async fn entries_are_shown_from_the_published_files() {
    let folder = tempfile::tempdir().unwrap();
    ledger(folder.path()).await;
    let path = folder.path().to_str().unwrap();
    let show = |arguments: &[&str]| text(&bonafide(&[&["log", "show", path], arguments].concat()).stdout);
    check_text("log.txt", &show(&["-n", "4"]));
    check_text("log.json", &show(&["-n", "2", "-o", "json"]));
    let indices =
        |arguments: &[&str]| show(&[arguments, &["-q"]].concat()).lines().collect::<Vec<_>>().join(" ");
    assert_eq!(indices(&["--from", "254", "-n", "4"]), "254 255 256 257");
    assert_eq!(indices(&["--from", "599"]), "599");
    assert_eq!(indices(&["--about", "10.0.0.1", "-n", "3"]), "590 594 598");
    assert_eq!(indices(&["--about", "07070707-0707-0707-0707-070707070707", "-n", "2"]), "596 599");
    assert_eq!(indices(&["--about", "nobody"]), "");
}

#[tokio::test]
async fn a_whole_ledger_verifies_and_a_changed_one_does_not() {
    let folder = tempfile::tempdir().unwrap();
    let key = ledger(folder.path()).await;
    let path = folder.path().to_str().unwrap();
    let verify = || bonafide(&["log", "verify", path, "--key", &key]);
    let output = verify();
    assert!(output.status.success(), "{}", text(&output.stderr));
    let shown = text(&output.stdout);
    assert!(shown.contains("604 entries") && shown.contains("entries since   4"), "{shown}");

    let data = tempfile::tempdir().unwrap();
    let beside = data.path().join("ledger");
    std::os::unix::fs::symlink(folder.path(), &beside).unwrap();
    let verify_beside = || bonafide(&["log", "verify", beside.to_str().unwrap()]);
    assert!(text(&verify_beside().stderr).starts_with("The key lies beside"));
    assert_eq!(verify_beside().status.code(), Some(1));
    fs::write(data.path().join("ledger.pub"), format!("{key}\n")).unwrap();
    assert!(verify_beside().status.success(), "{}", text(&verify_beside().stderr));

    let checkpoint = folder.path().join("checkpoint");
    let signed = fs::read(&checkpoint).unwrap();
    fs::remove_file(&checkpoint).unwrap();
    let output = verify();
    assert_eq!(output.status.code(), Some(1), "a log that nobody signed proves nothing");
    assert!(text(&output.stderr).starts_with("error[ledger.unsigned]: "), "{}", text(&output.stderr));
    fs::write(&checkpoint, signed).unwrap();

    let tile = folder.path().join("tile/entries/001");
    let mut content = fs::read(&tile).unwrap();
    let place = content.len() / 2;
    content[place] ^= 1;
    fs::write(&tile, content).unwrap();
    let output = verify();
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).starts_with("error[ledger.broken]: "), "{}", text(&output.stderr));
}

#[test]
fn a_folder_that_is_no_ledger() {
    let folder = tempfile::tempdir().unwrap();
    let output = bonafide(&["log", "show", folder.path().to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).starts_with("error[file.not-read]: "), "{}", text(&output.stderr));
    let output = bonafide(&["log", "verify", folder.path().to_str().unwrap(), "--key", "nonsense"]);
    assert!(text(&output.stderr).starts_with("error[ledger.invalid]: "), "{}", text(&output.stderr));
}
