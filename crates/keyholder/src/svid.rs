//! What the server shows of itself, from files that others keep.

use std::fs;
use std::io;
use std::path::Path;

use bonafide_crypto::key::PrivateKey;
use bonafide_identity::{Certificate, X509Svid};
use zeroize::Zeroizing;

use crate::config::SvidFiles;
use crate::error::Refusal;

/// No such file is longer.
const MAX: u64 = 256 << 10;
const CERTIFICATE: &str = "CERTIFICATE";
const KEY: &str = "PRIVATE KEY";

/// Reads an SVID. A pair that does not fit is one that is being replaced: to be read again a little later.
pub(crate) fn read(files: &SvidFiles) -> Result<X509Svid, Refusal> {
    let mut chain = Vec::new();
    for der in blocks(&files.certificate, CERTIFICATE)? {
        chain.push(Certificate::from_der(&der).map_err(|error| unfit(&files.certificate, error))?);
    }
    let key = blocks(&files.key, KEY)?.pop().ok_or_else(|| unfit(&files.key, "there is no key in it"))?;
    let key = PrivateKey::from_pkcs8_der(&key).map_err(|error| unfit(&files.key, error))?;
    X509Svid::new(chain, key, None).map_err(|error| unfit(&files.certificate, error))
}

/// The DER of all blocks with this label.
fn blocks(path: &Path, label: &str) -> Result<Vec<Zeroizing<Vec<u8>>>, Refusal> {
    let length = fs::metadata(path).map_err(|cause| unfit(path, cause))?.len();
    if length > MAX {
        return Err(unfit(path, io::Error::from(io::ErrorKind::FileTooLarge)));
    }
    let text = Zeroizing::new(fs::read_to_string(path).map_err(|cause| unfit(path, cause))?);
    let end = format!("-----END {label}-----");
    let mut found = Vec::new();
    for block in text.split_inclusive(end.as_str()) {
        let Some((_, body)) = block.split_once(&format!("-----BEGIN {label}-----")) else { continue };
        let whole = Zeroizing::new(format!("-----BEGIN {label}-----{body}\n"));
        let (_, der) = der::pem::decode_vec(whole.as_bytes()).map_err(|cause| unfit(path, cause))?;
        found.push(Zeroizing::new(der));
    }
    Ok(found)
}

fn unfit(path: &Path, cause: impl std::fmt::Display) -> Refusal {
    Refusal::new(
        "keyholder.svid",
        format!("the SVID in `{}` can't be used: {cause}", path.display()),
        "write it with `bonafide svid x509 --write DIR --watch`, and name both files in the settings",
    )
}
