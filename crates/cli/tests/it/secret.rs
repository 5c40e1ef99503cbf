//! `secret …`: sealed offline, from files alone.

use std::{
    fs,
    io::Write as _,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Command, Output, Stdio},
    sync::Arc,
};

use bonafide_crypto::{key::PrivateKey, random::SystemRandom};
use bonafide_identity::time::{Clock as _, SystemClock};
use bonafide_policy::{SecretPolicy, read};
use bonafide_sealing::{
    armour,
    document::{Document as _, Signed},
    group::{G1Point, G2Point, Scalar},
    identity::Keyset,
    opening::{Acceptance, AuthenticObject},
    owner::{Delegation, Owner, Root},
    params::SealParams,
};

use crate::program::{bonafide, text};

const POLICY: &str = "kind: SecretPolicy\nname: db\n# for people\nrules:\n- name: billing\n  \
    allow: {who: {id: spiffe://prod.acme/ns/billing/sa/*}}\n";

/// A tenant whose keys the program has made, and parameters as an owner signs them.
struct Tenant {
    folder: tempfile::TempDir,
    root: String,
    owner: Owner,
}

impl Tenant {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let made = bonafide(&["secret", "owner", "new", folder.path().join("owner").to_str().unwrap()]);
        assert!(made.status.success(), "{}", text(&made.stderr));
        let public = fs::read_to_string(folder.path().join("owner/owner.pem")).unwrap();
        let blocks = bonafide_cli::pem::decode(&public).unwrap();
        let root = Root::decode(&blocks[0].der).unwrap();
        let delegation = Signed::<Delegation>::decode(&blocks[1].der).unwrap();
        let owner = Owner::new(root, &delegation).unwrap();
        let tenant = Self { root: text(&made.stdout).trim().to_owned(), owner, folder };
        let secret = Scalar::random(&SystemRandom);
        let now = SystemClock.now().as_secs() as u64;
        let mut params = Signed::new(SealParams {
            tenant: *tenant.owner.tenant(),
            keyset: Keyset::new("main").unwrap(),
            version: 1,
            key: G1Point::generator().times(&secret).unwrap(),
            key2: G2Point::generator().times(&secret).unwrap(),
            not_before: now - 100,
            not_after: now + 100_000,
            previous: [0; 32],
            site_keys: Vec::new(),
        });
        params.sign(tenant.key("params").as_ref()).unwrap();
        tenant.write("params", &params.encode());
        tenant.write("p.yaml", POLICY.as_bytes());
        tenant
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    fn write(&self, name: &str, content: &[u8]) {
        fs::write(self.path(name), content).unwrap();
    }

    fn key(&self, name: &str) -> Arc<PrivateKey> {
        let pem = fs::read_to_string(self.path(&format!("owner/{name}.key"))).unwrap();
        let blocks = bonafide_cli::pem::decode(&pem).unwrap();
        Arc::new(PrivateKey::from_pkcs8_der(&blocks[0].der).unwrap())
    }

    fn seal_arguments(&self, more: &[&str]) -> Vec<String> {
        let (owner, params, policy) =
            (self.path("owner/owner.pem"), self.path("params"), self.path("p.yaml"));
        let fixed =
            ["secret", "seal", "--params", &owner, "--params", &params, "--policy", &policy, "--for", "1d"];
        fixed.iter().chain(more).map(|argument| (*argument).to_owned()).collect()
    }

    fn seal(&self, secret: &[u8], more: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bonafide"));
        fed(command.args(self.seal_arguments(more)), secret)
    }
}

fn fed(command: &mut Command, input: &[u8]) -> Output {
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // What refuses early does not read.
    let _ = child.stdin.take().unwrap().write_all(input);
    child.wait_with_output().unwrap()
}

fn code(output: &Output) -> String {
    assert_eq!(text(&output.stdout), "");
    let told = text(&output.stderr);
    let last = told.lines().rfind(|line| line.starts_with("error[")).unwrap_or_else(|| panic!("{told}"));
    last.split(['[', ']']).nth(1).unwrap().to_owned()
}

#[test]
fn a_secret_is_sealed_and_signed() {
    let tenant = Tenant::new();
    let key = tenant.path("owner/seal.key");
    let more = ["--root", &tenant.root, "--owner-key", &key, "--label", "a", "--aad", "of the database"];
    let output = tenant.seal(b"hunter2", &more);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(text(&output.stderr).starts_with("warning[secret.evidence]"), "{}", text(&output.stderr));
    assert_eq!(text(&output.stderr).lines().count(), 1);
    let line = text(&output.stdout);
    assert_eq!(line.lines().count(), 1);
    let object = armour::from_text(&line).unwrap();
    assert_eq!((object.stanzas[0].label.as_slice(), object.public.name.as_str()), (b"a".as_slice(), "db"));
    // What keyholders will read, and not the file.
    let policy = SecretPolicy::of(&read(POLICY).unwrap()[0]).unwrap();
    assert_eq!(object.stanzas[0].policy, policy.as_bytes());
    let acceptance = Acceptance { owner: &tenant.owner, name: "db", min_serial: 0, unsigned: false };
    let now = SystemClock.now().as_secs() as u64;
    AuthenticObject::verify(object, &acceptance, now).unwrap();

    let file = tenant.path("object");
    tenant.write("object", line.as_bytes());
    let shown = bonafide(&["secret", "inspect", &file, "-o", "json"]);
    let shown: serde_json::Value = serde_json::from_slice(&shown.stdout).unwrap();
    assert_eq!(shown["purpose"], "of the database");
    assert_eq!(shown["stanzas"][0]["evidence"], "authority");
    assert!(!shown.to_string().contains("hunter2"));
}

#[test]
fn keys_of_an_owner_are_for_him_alone() {
    let tenant = Tenant::new();
    for file in ["root-1", "root-3", "next-2", "seal", "roster", "params", "deny", "rewrap"] {
        let path = tenant.path(&format!("owner/{file}.key"));
        assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600, "{file}");
    }
    assert!(Path::new(&tenant.path("owner/owner.pem")).exists());
    let again = bonafide(&["secret", "owner", "new", &tenant.path("owner")]);
    assert_eq!(code(&again), "file.not-written");
}

#[test]
fn what_is_not_believed_is_not_sealed_with() {
    let tenant = Tenant::new();
    let other = "00".repeat(32);
    assert_eq!(code(&tenant.seal(b"x", &["--root", &other])), "secret.other-root");
    let key = tenant.path("owner/rewrap.key");
    assert_eq!(code(&tenant.seal(b"x", &["--owner-key", &key])), "secret.key-not-delegated");
    assert_eq!(code(&tenant.seal(b"", &[])), "secret.empty");
    assert_eq!(code(&tenant.seal(b"x", &["--post-quantum", "always"])), "sealing.site-key-missing");
    let untold = tenant.seal(b"x", &[]);
    assert!(text(&untold.stderr).contains(&format!("--root {}", tenant.root)));
    assert!(text(&untold.stderr).contains("warning[secret.unsigned]"));
    // Another public key, under the signature of the right one.
    let bytes = fs::read(tenant.path("params")).unwrap();
    let mut params = Signed::<SealParams>::decode(&bytes).unwrap();
    let secret = Scalar::random(&SystemRandom);
    params.body.key = G1Point::generator().times(&secret).unwrap();
    params.body.key2 = G2Point::generator().times(&secret).unwrap();
    tenant.write("params", &params.encode());
    assert_eq!(code(&tenant.seal(b"x", &[])), "sealing.signatures-missing");
    let (owner, path) = (tenant.path("owner/owner.pem"), tenant.path("params"));
    let arguments = ["secret", "params", "verify", "--params", &owner, "--params", &path];
    assert_eq!(code(&bonafide(&arguments)), "sealing.signatures-missing");
    assert!(bonafide(&["secret", "params", "show", "--params", &path]).status.success());
}

#[test]
fn a_policy_that_is_printed_can_be_sealed_to() {
    let tenant = Tenant::new();
    let new =
        ["secret", "policy", "new", "db", "--id", "spiffe://a.b/c", "--cache-for", "5m", "-l", "env=prod"];
    let witness = ["--workload", "unix.user=billing", "--node", "x509pop.subject_cn=n1"];
    let printed = bonafide(&[new.as_slice(), &witness].concat());
    assert!(printed.status.success(), "{}", text(&printed.stderr));
    tenant.write("p.yaml", &printed.stdout);
    let checked = bonafide(&["secret", "policy", "check", &tenant.path("p.yaml"), "-o", "json"]);
    let checked: serde_json::Value = serde_json::from_slice(&checked.stdout).unwrap();
    assert_eq!((&checked["evidence"], &checked["cache_for"]), (&"witness".into(), &"5m".into()));
    let key = tenant.path("owner/seal.key");
    let output = tenant.seal(b"x", &["--root", &tenant.root, "--owner-key", &key]);
    assert_eq!((output.status.success(), text(&output.stderr).as_str()), (true, ""));
    tenant.write("p.yaml", b"kind: SecretPolicy\nname: db\nrules: []\n");
    assert_eq!(code(&tenant.seal(b"x", &[])), "resource.invalid");
}

#[test]
fn sealing_needs_no_network() {
    if !rustix::process::geteuid().is_root() {
        let _ = writeln!(std::io::stderr(), "skipped: only root can make a network namespace");
        return;
    }
    let tenant = Tenant::new();
    let key = tenant.path("owner/seal.key");
    let mut command = Command::new("unshare");
    command.arg("-n").arg(env!("CARGO_BIN_EXE_bonafide"));
    command.args(tenant.seal_arguments(&["--root", &tenant.root, "--owner-key", &key]));
    let output = fed(&mut command, b"hunter2");
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(text(&output.stdout).starts_with(armour::PREFIX));
}
