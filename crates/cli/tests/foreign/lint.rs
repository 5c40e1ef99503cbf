//! Every certificate that we issue, before linters that are not ours.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use bonafide_identity::Certificate;

use crate::fixture::{TrustDomain, present, succeeded};

/// The linter takes `spiffe://td/…` for a malformed URI; nothing else may be found.
const KNOWN_COMPLAINT: &str = "pkix.invalid_uri_syntax";

/// One file for each certificate of a PEM file.
fn split(pem: &str, folder: &Path, name: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for block in pem.split_inclusive("-----END CERTIFICATE-----\n") {
        let Some((_, certificate)) = block.split_once("-----BEGIN CERTIFICATE-----") else { continue };
        let file = folder.join(format!("{name}-{}.pem", files.len()));
        fs::write(&file, format!("-----BEGIN CERTIFICATE-----{certificate}")).unwrap();
        files.push(file);
    }
    files
}

struct Issued {
    root: PathBuf,
    /// Each with its intermediate: every server has one of its own.
    leaves: Vec<[PathBuf; 2]>,
}

impl Issued {
    /// Root, intermediate, and the SVIDs of a workload, of the agent and of the authority.
    fn of(domain: &TrustDomain) -> Self {
        let folder = domain.path().join("lint");
        fs::create_dir(&folder).unwrap();
        domain.run(&["svid", "x509", "--write", folder.to_str().unwrap()]);
        let read = |name: &str| fs::read_to_string(folder.join(name)).unwrap();
        let roots = split(&read("svid_bundle.pem"), &folder, "root");
        let workload = split(&read("svid.pem"), &folder, "workload");
        let agent = split(&certificates_in(&domain.agent_state()), &folder, "agent");
        let authority = split(&presented_by(&domain.authority_address()), &folder, "authority");
        assert_eq!((roots.len(), workload.len()), (1, 2));
        assert!(authority.len() >= 2 && agent.len() >= 2, "leaf and intermediate");
        let leaves = [workload, agent, authority].map(|chain| [chain[0].clone(), chain[1].clone()]).to_vec();
        Self { root: roots[0].clone(), leaves }
    }

    fn all(&self) -> impl Iterator<Item = &PathBuf> {
        std::iter::once(&self.root).chain(self.leaves.as_flattened())
    }
}

/// Whatever is a certificate in a file of another form, as PEM, in the order of the file.
fn certificates_in(bytes: &[u8]) -> String {
    let mut pem = String::new();
    for start in 0..bytes.len() {
        let Some(&[0x30, 0x82, high, low]) = bytes.get(start..start + 4) else { continue };
        let end = start + 4 + usize::from(u16::from_be_bytes([high, low]));
        let Some(der) = bytes.get(start..end) else { continue };
        if Certificate::from_der(der).is_ok() {
            let mut encode = Command::new("openssl");
            encode.args(["x509", "-inform", "DER"]).stdin(Stdio::piped()).stdout(Stdio::piped());
            let mut encode = encode.spawn().unwrap();
            encode.stdin.take().unwrap().write_all(der).unwrap();
            pem += &String::from_utf8(encode.wait_with_output().unwrap().stdout).unwrap();
        }
    }
    pem
}

/// The chain that a TLS server presents, as PEM.
fn presented_by(address: &str) -> String {
    let mut client = Command::new("openssl");
    client.args(["s_client", "-showcerts", "-connect", address, "-alpn", "h2"]).stdin(Stdio::null());
    // Its exit code tells of the trust that it lacks.
    String::from_utf8_lossy(&client.output().unwrap().stdout).into_owned()
}

#[test]
fn openssl_strict_accepts_every_certificate() {
    if !present("OpenSSL", Command::new("openssl").arg("version")) {
        return;
    }
    let domain = TrustDomain::start();
    let issued = Issued::of(&domain);
    for [leaf, intermediate] in &issued.leaves {
        let mut verify = Command::new("openssl");
        verify.args(["verify", "-x509_strict", "-CAfile"]).arg(&issued.root);
        verify.arg("-untrusted").arg(intermediate).arg(leaf);
        succeeded(&verify.output().unwrap(), &[&leaf.display().to_string()]);
    }
}

#[test]
fn pkilint_accepts_every_certificate() {
    let python = std::env::var("BONAFIDE_TEST_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    if !present("pkilint", Command::new(&python).args(["-c", "import pkilint"])) {
        return;
    }
    let domain = TrustDomain::start();
    for certificate in Issued::of(&domain).all() {
        let mut lint = Command::new(&python);
        lint.args(["-m", "pkilint.bin.lint_pkix_cert", "lint", "--severity", "NOTICE", "--format", "CSV"]);
        let output = lint.arg(certificate).output().unwrap();
        let found = String::from_utf8_lossy(&output.stdout);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(errors.is_empty(), "{errors}");
        assert!(found.starts_with("node_path,"), "no verdict: {found}");
        for finding in found.lines().skip(1).filter(|line| !line.is_empty()) {
            assert!(finding.contains(KNOWN_COMPLAINT), "{}: {finding}", certificate.display());
        }
    }
}
