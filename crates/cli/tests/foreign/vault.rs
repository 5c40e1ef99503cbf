//! Clients of Vault, unmodified: OpenBao's command line and Python's `hvac` use keys of ours over Vault's API.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Stdio},
};

use base64ct::{Base64, Encoding as _};

use crate::fixture::{TrustDomain, present, succeeded};

const KEEPER: &str = "spiffe://foreign.test/foreign/keeper";
const APP: &str = "spiffe://foreign.test/foreign/app";

const SITE: &str = "kind: Site
name: local
spec:
  scope:
    spiffeIds: [\"spiffe://foreign.test/**\"]
    maxX509Ttl: 24h
    admin: [local]
  x509Ttl: 1h
";
/// The application may do all but sign.
const POLICY: &str = "kind: Policy
name: keys
rules:
- name: both
  allow:
    who: {id: spiffe://foreign.test/foreign/*}
    can: [encrypt, decrypt, rewrap, mac, verify-mac, sign, verify, data-key, public-key]
- name: app-signs-nothing
  deny: {who: {id: spiffe://foreign.test/foreign/app}, can: [sign]}
";

/// A trust domain with an admin of its site, an application, and the certificates of both.
struct Stage {
    domain: TrustDomain,
    /// Whoever the certificates belong to: when a process ends, so does what it may do.
    holders: Vec<(Child, BufReader<ChildStdout>)>,
}

impl Drop for Stage {
    fn drop(&mut self) {
        for (holder, _) in &mut self.holders {
            let _ = holder.kill();
            let _ = holder.wait();
        }
    }
}

impl Stage {
    fn start() -> Self {
        // No name that a linter would accept is one of this machine.
        let domain = TrustDomain::start_with(&["--dns-name", "localhost"]);
        let apply = |name: &str, text: &str| {
            let file = domain.path().join(name);
            fs::write(&file, text).unwrap();
            domain.run(&["apply", "-f", file.to_str().unwrap(), "--yes", "--wait"]);
        };
        apply("site.yaml", SITE);
        apply("keys.yaml", POLICY);
        let selector = format!("unix.uid:{}", nix::unistd::getuid());
        for (id, more) in [(KEEPER, ["--admin", "local"].as_slice()), (APP, &[])] {
            let words = ["entry", "create", id, "-s", &selector, "--x509-ttl", "1h", "--wait"];
            domain.run(&[words.as_slice(), more].concat());
        }
        let mut stage = Self { domain, holders: Vec::new() };
        for id in [KEEPER, APP] {
            let folder = stage.folder(id);
            fs::create_dir(&folder).unwrap();
            let mut holder = stage.domain.command();
            holder.args(["svid", "x509", "--watch", "--spiffe-id", id, "--write"]).arg(&folder);
            let mut holder = holder.stdout(Stdio::piped()).spawn().unwrap();
            let mut line = String::new();
            // It shows what it has written.
            let mut shown = BufReader::new(holder.stdout.take().unwrap());
            shown.read_line(&mut line).unwrap();
            stage.holders.push((holder, shown));
            assert!(folder.join("svid_bundle.pem").exists(), "{line}");
        }
        stage
    }

    fn folder(&self, id: &str) -> PathBuf {
        self.domain.path().join(id.rsplit('/').next().unwrap())
    }

    fn address(&self) -> String {
        let address = self.domain.authority_address();
        format!("https://localhost:{}", address.rsplit(':').next().unwrap())
    }

    /// OpenBao's command line, as this caller: what it printed, or said of its failure.
    fn bao(&self, id: &str, arguments: &[&str]) -> Result<String, String> {
        let folder = self.folder(id);
        let file = |name: &str| folder.join(name);
        let output = Command::new(beside_python("bao"))
            .args(arguments)
            .env("BAO_ADDR", self.address())
            .env("BAO_CACERT", file("svid_bundle.pem"))
            .env("BAO_CLIENT_CERT", file("svid.pem"))
            .env("BAO_CLIENT_KEY", file("svid_key.pem"))
            .env("BAO_MAX_RETRIES", "0")
            .env("HOME", &folder)
            .output()
            .unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    }
}

/// What lies beside the interpreter that the tests are given.
fn beside_python(name: &str) -> PathBuf {
    std::env::var_os("BONAFIDE_TEST_PYTHON").map(PathBuf::from).unwrap_or_default().with_file_name(name)
}

#[test]
fn the_command_line_of_openbao() {
    if !present("OpenBao's command line", Command::new(beside_python("bao")).arg("version")) {
        return;
    }
    let stage = Stage::start();
    let keeper = |arguments: &[&str]| stage.bao(KEEPER, arguments).unwrap();
    let app = |arguments: &[&str]| stage.bao(APP, arguments);

    assert!(keeper(&["status"]).contains("Sealed"));
    keeper(&["write", "-f", "transit/keys/orders"]);
    keeper(&["write", "transit/keys/prints", "type=ecdsa-p256"]);
    assert!(keeper(&["list", "transit/keys"]).contains("orders"));
    assert!(keeper(&["read", "transit/keys/orders"]).contains("aes256-gcm96"));

    let plaintext = Base64::encode_string(b"a secret of the application");
    let field = |name: &str, path: &str, more: &[String]| {
        let name = format!("-field={name}");
        let words = ["write", name.as_str(), path].into_iter();
        app(&words.chain(more.iter().map(String::as_str)).collect::<Vec<_>>())
    };
    let encrypted =
        field("ciphertext", "transit/encrypt/orders", &[format!("plaintext={plaintext}")]).unwrap();
    assert!(encrypted.starts_with("vault:v1:"), "{encrypted}");
    keeper(&["write", "-f", "transit/keys/orders/rotate"]);
    let old = [format!("ciphertext={encrypted}")];
    assert_eq!(field("plaintext", "transit/decrypt/orders", &old).unwrap(), plaintext);
    let rewrapped = field("ciphertext", "transit/rewrap/orders", &old).unwrap();
    assert!(rewrapped.starts_with("vault:v2:"), "{rewrapped}");
    keeper(&["write", "transit/keys/orders/config", "min_decryption_version=2"]);
    assert!(field("plaintext", "transit/decrypt/orders", &old).unwrap_err().contains("400"));
    let new = [format!("ciphertext={rewrapped}")];
    assert_eq!(field("plaintext", "transit/decrypt/orders", &new).unwrap(), plaintext);
    keeper(&["write", "transit/keys/orders/config", "min_encryption_version=2"]);
    keeper(&["write", "transit/keys/orders/trim", "min_available_version=2"]);

    // A policy that lets nobody but the keeper sign; and an admin is somebody else than an application.
    let input = [format!("input={plaintext}")];
    assert!(field("signature", "transit/sign/prints", &input).unwrap_err().contains("403"));
    let signature = keeper(&["write", "-field=signature", "transit/sign/prints", &input[0]]);
    let signed = [input[0].clone(), format!("signature={signature}")];
    assert_eq!(field("valid", "transit/verify/prints", &signed).unwrap(), "true");
    assert!(app(&["write", "-f", "transit/keys/mine"]).unwrap_err().contains("403"));
    assert!(app(&["read", "transit/keys/orders"]).unwrap_err().contains("403"));

    // A login gives a token that is good for nothing without the same certificate.
    let token = app(&["login", "-method=cert", "-field=token", "-no-store"]).unwrap();
    assert!(app(&["token", "lookup", "-format=json"]).unwrap().contains(APP));
    let stolen = Command::new(beside_python("bao"))
        .args(["token", "lookup"])
        .env("BAO_ADDR", stage.address())
        .env("BAO_CACERT", stage.folder(KEEPER).join("svid_bundle.pem"))
        .env("BAO_CLIENT_CERT", stage.folder(KEEPER).join("svid.pem"))
        .env("BAO_CLIENT_KEY", stage.folder(KEEPER).join("svid_key.pem"))
        .env("BAO_TOKEN", &token)
        .env("HOME", stage.folder(KEEPER))
        .output()
        .unwrap();
    assert!(String::from_utf8_lossy(&stolen.stderr).contains("403"), "{stolen:?}");

    keeper(&["delete", "transit/keys/orders"]);
    assert!(field("plaintext", "transit/decrypt/orders", &new).is_err());
    keeper(&["write", "-f", "transit/keys/orders/soft-delete-restore"]);
    assert_eq!(field("plaintext", "transit/decrypt/orders", &new).unwrap(), plaintext);
}

#[test]
fn hvac() {
    let probe = "import hvac";
    if !present("Python's hvac", Command::new(beside_python("python")).args(["-c", probe])) {
        return;
    }
    let stage = Stage::start();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/foreign/python/transit.py");
    let output = Command::new(beside_python("python"))
        .arg(script)
        .args([stage.address(), stage.folder(KEEPER).display().to_string()])
        .arg(stage.folder(APP))
        .output()
        .unwrap();
    succeeded(&output, &["transit.py"]);
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "all held");
}

#[test]
fn hvac_without_a_certificate() {
    let probe = "import hvac, spiffe";
    if !present("Python's hvac and spiffe", Command::new(beside_python("python")).args(["-c", probe])) {
        return;
    }
    let stage = Stage::start();
    stage.domain.run(&["key", "create", "ledger"]);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/foreign/python/jwt_login.py");
    let output = Command::new(beside_python("python"))
        .arg(script)
        .arg(stage.address())
        .arg(stage.folder(KEEPER).join("svid_bundle.pem"))
        .args([APP, "spiffe://foreign.test/bonafide/authority"])
        .env("SPIFFE_ENDPOINT_SOCKET", stage.domain.endpoint())
        .output()
        .unwrap();
    succeeded(&output, &["jwt_login.py"]);
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "all held");
}

/// OpenBao's own server, without a store. Ended when dropped.
struct OpenBao(Child);

impl Drop for OpenBao {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn answers_look_like_those_of_openbao() {
    if !present("OpenBao's server", Command::new(beside_python("bao")).arg("version")) {
        return;
    }
    let stage = Stage::start();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut server = Command::new(beside_python("bao"));
    server.args(["server", "-dev", "-dev-no-store-token", "-dev-root-token-id=root"]);
    let server = server.arg(format!("-dev-listen-address=127.0.0.1:{port}")).env("HOME", stage.domain.path());
    let mut server = OpenBao(server.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap());
    let mut said = BufReader::new(server.0.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert!(said.any(|line| line.contains("Root Token")), "it starts");
    std::thread::spawn(move || said.for_each(drop));
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/foreign/python/oracle.py");
    let output = Command::new(beside_python("python"))
        .arg(script)
        .args([stage.address(), stage.folder(KEEPER).display().to_string()])
        .args([format!("http://127.0.0.1:{port}"), "root".to_owned()])
        .output()
        .unwrap();
    succeeded(&output, &["oracle.py"]);
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "alike");
}
