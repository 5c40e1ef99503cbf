//! Documents of an owner in files: PEM blocks, or one document as it is.

use std::{
    fs,
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use bonafide_crypto::key::PrivateKey;
use bonafide_sealing::{
    document::{Document, FormatError, Signed},
    owner::{Owner, Root},
    params::{SealParams, TrustedParams},
    trust::TrustError,
};
use zeroize::Zeroizing;

use crate::{
    Failure,
    pem::{self, Block},
    text::hex,
};

/// Label of a root.
pub(super) const ROOT: &str = "BONAFIDE SEALING ROOT";
/// Label of a delegation with its signatures.
pub(super) const DELEGATION: &str = "BONAFIDE SEALING DELEGATION";
/// Label of parameters with their signatures.
const PARAMS: &str = "BONAFIDE SEALING PARAMETERS";
/// Bytes of one file of documents.
const MAX_FILE: usize = 1 << 20;

/// Parameters that an owner has signed.
pub(super) struct Pinned {
    pub(super) owner: Owner,
    pub(super) params: TrustedParams,
}

impl Pinned {
    /// Verifies parameters. `root` is what the digest of the owner's root must be.
    pub(super) fn read(documents: &[Block], root: Option<&str>) -> Result<Self, Failure> {
        let body = Root::decode(&one(documents, ROOT)?.der).map_err(malformed)?;
        if root.is_some_and(|root| !root.eq_ignore_ascii_case(&hex(&body.digest()))) {
            return Err(Failure::of(
                "secret.other-root",
                format!("the files have another root, `{}`", hex(&body.digest())),
                "get the documents from the owner again; somebody may show you others",
            ));
        }
        let delegation = Signed::decode(&one(documents, DELEGATION)?.der).map_err(malformed)?;
        let owner = Owner::new(body, &delegation).map_err(untrusted)?;
        let params = TrustedParams::verify(&owner, &params(documents)?).map_err(untrusted)?;
        Ok(Self { owner, params })
    }
}

/// All documents of some files. A file that is no PEM is one set of parameters.
pub(super) fn documents(paths: &[PathBuf]) -> Result<Vec<Block>, Failure> {
    let mut all = Vec::new();
    for path in paths {
        let content = bytes(Some(path), MAX_FILE)?;
        match str::from_utf8(&content) {
            Ok(text) if text.contains("-----BEGIN ") => {
                let hint = "get the file again, whole and unchanged";
                all.extend(pem::decode(text).map_err(|cause| Failure::of("input.pem", cause, hint))?);
            }
            _ => all.push(Block { label: PARAMS.to_owned(), der: content.to_vec() }),
        }
    }
    Ok(all)
}

/// The parameters among documents, which nobody has verified yet.
pub(super) fn params(documents: &[Block]) -> Result<Signed<SealParams>, Failure> {
    Signed::decode(&one(documents, PARAMS)?.der).map_err(malformed)
}

/// As people compare it.
pub(super) fn root_digest(pinned: &Pinned) -> String {
    hex(&pinned.owner.root().digest())
}

/// A private key: PKCS#8 in PEM.
pub(super) fn private_key(path: &Path) -> Result<PrivateKey, Failure> {
    let content = bytes(Some(path), 16 << 10)?;
    let failed = |why: String| {
        let message = format!("`{}` is no private key: {why}", path.display());
        Failure::of(
            "secret.owner-key",
            message,
            "name a file of `bonafide secret owner new`, such as `seal.key`",
        )
    };
    let text = str::from_utf8(&content).map_err(|_| failed("it is no text".to_owned()))?;
    let blocks = pem::decode(text).map_err(|cause| failed(cause.to_string()))?;
    let block = blocks.into_iter().find(|block| block.label == "PRIVATE KEY");
    let der = Zeroizing::new(block.ok_or_else(|| failed("it has no block `PRIVATE KEY`".to_owned()))?.der);
    PrivateKey::from_pkcs8_der(&der).map_err(|cause| failed(cause.to_string()))
}

/// A bounded file, or standard input, as text.
pub(super) fn text(path: Option<&Path>, most: usize) -> Result<String, Failure> {
    let content = bytes(path, most)?;
    String::from_utf8(content.to_vec()).map_err(|_| {
        Failure::of("input.not-text", "this is no text", "give what `bonafide secret seal` has printed")
    })
}

pub(super) fn untrusted(error: TrustError) -> Failure {
    Failure::of(error.code(), error, error.hint())
}

fn malformed(error: FormatError) -> Failure {
    Failure::of(error.code(), error, error.hint())
}

fn one<'a>(documents: &'a [Block], label: &str) -> Result<&'a Block, Failure> {
    let mut found = documents.iter().filter(|block| block.label == label);
    match (found.next(), found.next()) {
        (Some(block), None) => Ok(block),
        (first, _) => {
            let how_many = if first.is_some() { "several documents" } else { "no document" };
            let message = format!("the files have {how_many} `{label}`");
            let hint = "name the parameters, and the owner's `owner.pem`, with --params, each once";
            Err(Failure::of("secret.documents", message, hint))
        }
    }
}

fn bytes(path: Option<&Path>, most: usize) -> Result<Zeroizing<Vec<u8>>, Failure> {
    let path = path.filter(|path| *path != Path::new("-"));
    let name = path.unwrap_or(Path::new("standard input"));
    let failed = |source| Failure::read(name, source);
    let mut content = Zeroizing::new(Vec::new());
    let limit = most as u64 + 1;
    match path {
        Some(path) => fs::File::open(path).map_err(failed)?.take(limit).read_to_end(&mut content),
        None => io::stdin().lock().take(limit).read_to_end(&mut content),
    }
    .map_err(failed)?;
    if content.len() > most {
        let message = format!("`{}` is larger than {most} bytes", name.display());
        return Err(Failure::of("input.too-large", message, "this is something else than is asked for here"));
    }
    Ok(content)
}
