//! Whoever can write the directory changes it; verification must find it, and say where.

use std::path::Path;

use super::*;

/// Full tiles that only tiles hold, full tiles that the tail backs, partial tiles, a checkpoint, and a signed tail.
async fn fixture() -> Fixture {
    let fixture = Fixture::new(256);
    let ledger = fixture.open();
    ledger.append_batch(entries(0..130)).await.unwrap();
    ledger.checkpoint(&BINDINGS).await.unwrap();
    ledger.append_batch(entries(130..520)).await.unwrap();
    ledger.checkpoint(&BINDINGS).await.unwrap();
    drop(ledger);
    // Retires the second segment, so that two bundles are in tiles alone.
    drop(fixture.open());
    assert_eq!(segments(&fixture.path()).unwrap(), [512]);
    assert_eq!(fixture.verify().unwrap().unsigned, 0);
    fixture
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for file in fs::read_dir(directory).unwrap() {
        let path = file.unwrap().path();
        if path.is_dir() { files.extend(self::files(&path)) } else { files.push(path) }
    }
    files
}

fn broken_file(result: Result<Report, LedgerError>) -> PathBuf {
    match result {
        Err(LedgerError::Broken { file, .. }) => file,
        other => panic!("not found broken: {other:?}"),
    }
}

#[tokio::test]
async fn every_flipped_byte_of_every_file_is_found() {
    let fixture = fixture().await;
    let mut bytes = 0;
    for path in files(&fixture.path()) {
        let name = path.strip_prefix(fixture.path()).unwrap().to_owned();
        let contents = fs::read(&path).unwrap();
        // Of the many hashes in a full tile one byte each, and each place in a hash.
        let sampled = |at: &usize| contents.len() != 8192 || at % 32 == (at / 32) % 32;
        for at in (0..contents.len()).filter(sampled) {
            let mut flipped = contents.clone();
            flipped[at] ^= 1 << (at % 8);
            fs::write(&path, &flipped).unwrap();
            let found = broken_file(fixture.verify());
            // A hash that does not fit its entry may be found from either side.
            let other_side = name.starts_with("tile/0") && found.starts_with("tile/entries");
            assert!(found == name || other_side, "byte {at} of {name:?}: said {found:?}");
            bytes += 1;
        }
        for changed in
            [contents.get(1..).unwrap_or_default().to_vec(), [contents.as_slice(), b"\x01"].concat()]
        {
            if name == Path::new("lock") {
                continue;
            }
            fs::write(&path, &changed).unwrap();
            broken_file(fixture.verify());
        }
        fs::write(&path, &contents).unwrap();
    }
    fixture.verify().unwrap();
    assert!(bytes > 2_500, "{bytes}");
}

#[tokio::test]
async fn removed_renamed_and_added_files_are_found() {
    let fixture = fixture().await;
    let names: Vec<PathBuf> = files(&fixture.path())
        .into_iter()
        .map(|path| path.strip_prefix(fixture.path()).unwrap().to_owned())
        .collect();
    let away = fixture.directory.path().join("away");
    for name in &names {
        if name == Path::new("lock") {
            continue;
        }
        fs::rename(fixture.path().join(name), &away).unwrap();
        let result = fixture.verify();
        if name == Path::new("checkpoint") {
            // Who removes the signature is not contradicted by it, but it is missing from the report.
            let report = result.unwrap();
            assert_eq!((report.checkpoint, report.unsigned), (None, 520));
        } else {
            let found = broken_file(result);
            assert!(
                found == *name || name.starts_with("tail") && found == Path::new("tail"),
                "{name:?}: {found:?}"
            );
        }
        fs::rename(&away, fixture.path().join(name)).unwrap();
    }
    for name in
        ["other", "tile/0/002", "tile/0/001.p/7", "tile/2/000", "tile/x", "tail/x", "tile/entries/002.p/99"]
    {
        let path = fixture.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, [7; 32]).unwrap();
        assert_eq!(broken_file(fixture.verify()), Path::new(name));
        fs::remove_file(path).unwrap();
    }
    fixture.verify().unwrap();
}

#[tokio::test]
async fn a_log_that_was_rewritten_does_not_have_the_signed_root() {
    let fixture = fixture().await;
    // The attacker makes a whole, consistent log with one other entry, and keeps the checkpoint.
    let forged = Fixture::new(256);
    let ledger = forged.open();
    let mut other = entries(0..520);
    other[77] = b"somebody else's".to_vec();
    ledger.append_batch(other).await.unwrap();
    ledger.checkpoint(&BINDINGS).await.unwrap();
    drop(ledger);
    fs::copy(fixture.path().join("checkpoint"), forged.path().join("checkpoint")).unwrap();
    assert_eq!(broken_file(verify(forged.path(), &fixture.key())), Path::new("checkpoint"));
    let forged = Fixture { signer: fixture.signer.clone(), ..forged };
    assert_eq!(forged.try_open().unwrap_err().code(), "ledger.broken");
}

#[tokio::test]
async fn a_log_that_was_cut_below_its_checkpoint_does_not_open() {
    let fixture = Fixture::new(SEGMENT);
    let ledger = fixture.open();
    ledger.append_batch(entries(0..5)).await.unwrap();
    let tail = fixture.path().join(segment::name(0));
    // Behind the groups is space for more.
    let cut = fs::read(&tail).unwrap().iter().rposition(|byte| *byte != 0).unwrap() + 1;
    ledger.append_batch(entries(5..9)).await.unwrap();
    ledger.checkpoint(&BINDINGS).await.unwrap();
    drop(ledger);
    let whole = fs::read(&tail).unwrap();
    // A clean cut, and what looks like a torn write: what was published can't have been torn.
    for cut in [cut, whole.len() - 1] {
        fs::write(&tail, &whole[..cut]).unwrap();
        assert_eq!(fixture.try_open().unwrap_err().code(), "ledger.broken");
        fs::write(&tail, &whole).unwrap();
    }
    drop(fixture.open());
    fixture.verify().unwrap();
}

#[tokio::test]
async fn a_damaged_tail_in_front_of_whole_groups_does_not_open() {
    let fixture = Fixture::new(SEGMENT);
    let ledger = fixture.open();
    for index in 0..5 {
        ledger.append(entry(index + 1)).await.unwrap();
    }
    drop(ledger);
    let tail = fixture.path().join(segment::name(0));
    let whole = fs::read(&tail).unwrap();
    for at in 0..whole.len() - 60 {
        let mut flipped = whole.clone();
        flipped[at] ^= 4;
        fs::write(&tail, &flipped).unwrap();
        assert_eq!(fixture.try_open().unwrap_err().code(), "ledger.broken", "byte {at}");
    }
}

#[tokio::test]
async fn reading_checks_hashes() {
    let fixture = fixture().await;
    let ledger = fixture.open();
    let path = fixture.path().join("tile/entries/000");
    let mut contents = fs::read(&path).unwrap();
    *contents.last_mut().unwrap() ^= 1;
    fs::write(&path, contents).unwrap();
    assert_eq!(ledger.read(255).unwrap_err().code(), "ledger.broken");
    assert_eq!(ledger.read(254).unwrap(), entry(254));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    #[test]
    fn any_bytes_for_a_file_are_refused_without_a_panic(noise in prop::collection::vec(any::<u8>(), 0..300), which in any::<prop::sample::Index>(), keep in 0..400_usize) {
        static FIXTURE: std::sync::OnceLock<Fixture> = std::sync::OnceLock::new();
        let fixture = FIXTURE.get_or_init(|| {
            tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(fixture())
        });
        let mut files = files(&fixture.path());
        files.retain(|path| !path.ends_with("lock"));
        files.sort();
        let path = which.get(&files);
        let contents = fs::read(path).unwrap();
        let mut changed = contents[..keep.min(contents.len())].to_vec();
        changed.extend(noise);
        if changed != contents {
            fs::write(path, &changed).unwrap();
            let result = fixture.verify();
            let opened = fixture.try_open().map(drop);
            fs::write(path, &contents).unwrap();
            prop_assert!(result.is_err(), "{:?}", path);
            // Opening may repair what the tail backs; a later verification shows whether it did.
            drop(opened);
        }
    }
}
