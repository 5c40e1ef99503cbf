use std::{
    fmt::Write as _,
    process::{Child, Command, Stdio},
};

use super::*;
use crate::{
    attestor::{Attestation, Attested},
    process::Evidence,
};

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

fn run(path: &std::path::Path) -> Running {
    Running(Command::new(path).arg("1000").stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap())
}

async fn attest(pid: u32, max_bytes: u64) -> Attested {
    let process = Process::open(pid as i32, Evidence::Pidfd).unwrap();
    let attestation = Attestation::new(vec![Box::new(UnixAttestor::new(max_bytes))], 4);
    attestation.attest_other(&process).await.unwrap()
}

fn hex_digest(path: &std::path::Path) -> String {
    let digest = bonafide_crypto::digest::sha256(&std::fs::read(path).unwrap());
    digest.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

#[tokio::test]
async fn this_process_is_what_it_is() {
    let exe = std::env::current_exe().unwrap();
    let attested = attest(std::process::id(), u64::MAX).await;
    let only = |key: &str| {
        let values: Vec<String> = attested.selectors.values(key).map(str::to_owned).collect();
        assert_eq!(values.len(), 1, "{key}");
        values[0].clone()
    };
    assert_eq!(only("unix.uid"), rustix::process::geteuid().as_raw().to_string());
    assert_eq!(only("unix.gid"), rustix::process::getegid().as_raw().to_string());
    assert_eq!(only("unix.path"), exe.to_str().unwrap());
    assert_eq!(only("unix.sha256"), hex_digest(&exe));
    assert_eq!(attested.failures, Vec::<String>::new());
}

#[tokio::test]
async fn a_deleted_executable_is_hashed_as_it_runs() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("sleep");
    std::fs::copy("/bin/sleep", &path).unwrap();
    let digest = hex_digest(&path);
    let child = run(&path);
    std::fs::remove_file(&path).unwrap();
    // Another file has its place by now.
    std::fs::copy("/bin/true", &path).unwrap();
    let attested = attest(child.0.id(), u64::MAX).await;
    assert_eq!(attested.selectors.values("unix.path").collect::<Vec<_>>(), [path.to_str().unwrap()]);
    assert_eq!(attested.selectors.values("unix.sha256").collect::<Vec<_>>(), [digest]);
}

#[tokio::test]
async fn a_name_that_ends_like_a_deleted_file_is_that_name() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("sleep (deleted)");
    std::fs::copy("/bin/sleep", &path).unwrap();
    let child = run(&path);
    let attested = attest(child.0.id(), u64::MAX).await;
    assert_eq!(attested.selectors.values("unix.path").collect::<Vec<_>>(), [path.to_str().unwrap()]);
}

/// Whoever may make a user namespace may mount in it what he likes, and run it from outside.
#[tokio::test]
async fn a_file_of_another_mount_namespace_does_not_borrow_a_path_of_this_one() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("app");
    std::fs::copy("/bin/true", &path).unwrap();
    let script = format!(
        "mount -t tmpfs none {0} && cp /bin/sleep {0}/app && echo ready && exec sleep 1000",
        directory.path().display()
    );
    let mut elsewhere = Command::new("unshare");
    elsewhere.args(["--user", "--map-root-user", "--mount", "sh", "-c", &script]).stdout(Stdio::piped());
    let Ok(elsewhere) = elsewhere.spawn() else { return eprintln!("skipped: there is no `unshare`") };
    let mut elsewhere = Running(elsewhere);
    let mut said = [0; 5];
    if elsewhere.0.stdout.take().unwrap().read_exact(&mut said).is_err() {
        return eprintln!("skipped: no namespaces here");
    }
    let through = format!("/proc/{}/root{}", elsewhere.0.id(), path.display());
    let child = run(std::path::Path::new(&through));
    for deleted in [false, true] {
        if deleted {
            std::fs::remove_file(&through).unwrap();
        }
        let attested = attest(child.0.id(), u64::MAX).await;
        assert_eq!(attested.selectors.values("unix.path").collect::<Vec<_>>(), Vec::<&str>::new());
        assert!(attested.failures.iter().any(|failure| failure.contains("another file lies there")));
    }
}

#[tokio::test]
async fn a_large_executable_has_no_digest_and_says_so() {
    let child = run(std::path::Path::new("/bin/sleep"));
    let attested = attest(child.0.id(), 100).await;
    assert!(!attested.selectors.contains_key("unix.sha256"));
    assert!(attested.failures.iter().any(|failure| failure.contains("larger than 100 bytes")));
    assert!(attested.selectors.contains_key("unix.uid"));
}

#[test]
fn digests_are_remembered_until_the_file_changes() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("sleep");
    std::fs::copy("/bin/sleep", &path).unwrap();
    let files = Files { max_bytes: u64::MAX, digests: Mutex::default() };
    let digest = |files: &Files| {
        let child = run(&path);
        files.digest(&Process::open(child.0.id() as i32, Evidence::Pidfd).unwrap()).unwrap()
    };
    let first = digest(&files);
    assert_eq!(digest(&files), first);
    assert_eq!(files.digests.lock().unwrap().len(), 1);
    let mut changed = std::fs::read(&path).unwrap();
    changed.extend_from_slice(b"more");
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, changed).unwrap();
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    assert_ne!(digest(&files), first);
}
