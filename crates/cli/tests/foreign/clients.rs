//! The public clients obtain and validate X.509 and JWT SVIDs and bundles, and see rotation.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use spiffe::{JwtSource, JwtSvid, TrustDomain as ForeignTrustDomain, WorkloadApiClient, X509Source};
use tokio::time::timeout;

use crate::fixture::{ID, TrustDomain, present, succeeded};

const AUDIENCE: &str = "foreign-test";
const PATIENCE: Duration = Duration::from_secs(60);

/// What each client of another language prints, a line for each thing that it has seen.
#[track_caller]
fn saw_everything(output: &str) {
    let id = |what: &str| output.lines().any(|line| line == format!("{what} {ID}"));
    let other = |what: &str| output.lines().any(|line| line.starts_with(what));
    assert!(id("x509") && id("jwt") && id("rotated") && other("refused") && other("bundles"), "{output}");
}

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/foreign").join(name)
}

fn run(domain: &TrustDomain, command: &mut Command) -> String {
    let output = command.env("SPIFFE_ENDPOINT_SOCKET", domain.endpoint()).output().unwrap();
    succeeded(&output, &[&format!("{command:?}")]);
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn rust() {
    let domain = TrustDomain::start();
    let endpoint = domain.endpoint();
    let trust_domain = ForeignTrustDomain::new("foreign.test").unwrap();

    let source = X509Source::builder().endpoint(&endpoint).build().await.unwrap();
    let first = source.svid().unwrap();
    assert_eq!(first.spiffe_id().to_string(), ID);
    assert_eq!(first.hint(), Some("foreign"));
    assert!(source.try_bundle_for_trust_domain(&trust_domain).is_some());

    let tokens = JwtSource::builder().endpoint(&endpoint).build().await.unwrap();
    let token = tokens.fetch_jwt_svid([AUDIENCE]).await.unwrap();
    assert_eq!(token.spiffe_id().to_string(), ID);
    let bundles = tokens.bundle_set().unwrap();
    let valid = JwtSvid::parse_and_validate(token.token(), &*bundles, &[AUDIENCE]).unwrap();
    assert_eq!(valid.spiffe_id().to_string(), ID);
    JwtSvid::parse_and_validate(token.token(), &*bundles, &["another-audience"]).unwrap_err();

    let client = WorkloadApiClient::connect_to(&endpoint).await.unwrap();
    client.validate_jwt_token(AUDIENCE, token.token()).await.unwrap();
    client.validate_jwt_token("another-audience", token.token()).await.unwrap_err();

    let mut updates = source.updated();
    let rotated = async {
        loop {
            updates.changed().await.unwrap();
            let current = source.svid().unwrap();
            if current.cert_chain()[0].as_bytes() != first.cert_chain()[0].as_bytes() {
                return current;
            }
        }
    };
    let second = timeout(PATIENCE, rotated).await.expect("no rotation seen");
    assert_eq!(second.spiffe_id().to_string(), ID);
}

#[test]
fn python() {
    let python = std::env::var("BONAFIDE_TEST_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    if !present("Python client", Command::new(&python).args(["-c", "import spiffe, cryptography"])) {
        return;
    }
    let domain = TrustDomain::start();
    saw_everything(&run(&domain, Command::new(python).arg(folder("python/client.py"))));
}

#[test]
fn go() {
    if !present("Go client", Command::new("go").arg("version")) {
        return;
    }
    let domain = TrustDomain::start();
    let client = domain.path().join("go-client");
    let mut build = Command::new("go");
    build.args(["build", "-o"]).arg(&client).arg(".").current_dir(folder("go"));
    succeeded(&build.output().unwrap(), &["go build"]);
    saw_everything(&run(&domain, &mut Command::new(client)));
}
