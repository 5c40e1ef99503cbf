//! `inspect`: looks into any artefact.

use std::{
    io::Read as _,
    path::{Path, PathBuf},
};

use bonafide_identity::TrustDomain;

use crate::{
    Console, Failure,
    inspect::{self, Trust},
    pem::MAX_INPUT,
};

/// `inspect`.
#[derive(Clone, Debug, clap::Args)]
pub struct InspectArgs {
    /// Certificate, chain or key (PEM or DER), JWT-SVID, bundle, join line [default: standard input]
    file: Option<PathBuf>,
    /// Verify against this trust bundle: a SPIFFE document, a bundle map, or PEM
    #[arg(long, value_name = "FILE")]
    bundle: Option<PathBuf>,
    /// The trust domain that it must be of
    #[arg(long, value_parser = |text: &str| text.parse::<TrustDomain>())]
    trust_domain: Option<TrustDomain>,
    /// The audience that a token must be for
    #[arg(long)]
    audience: Option<String>,
}

/// Runs the command.
///
/// # Errors
/// [`Failure::Negative`] when something is wrong with the artefact; what it is no artefact at all; files that cannot be
/// read.
pub fn run(arguments: InspectArgs, console: &Console) -> Result<(), Failure> {
    let input = match arguments.file.as_deref() {
        Some(path) if path != Path::new("-") => read(path)?,
        _ => {
            bounded(std::io::stdin()).map_err(|source| Failure::read(Path::new("standard input"), source))?
        }
    };
    let trust = Trust {
        bundle: arguments.bundle.as_deref().map(read).transpose()?,
        trust_domain: arguments.trust_domain,
        audience: arguments.audience,
    };
    let view = inspect::inspect(&input, &trust, console.clock().now())?;
    console.show(&view)?;
    if view.is_sound() { Ok(()) } else { Err(Failure::Negative) }
}

fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    std::fs::File::open(path).and_then(bounded).map_err(|source| Failure::read(path, source))
}

/// One byte more than is looked at, so that too long is seen as too long.
fn bounded(source: impl std::io::Read) -> std::io::Result<Vec<u8>> {
    let mut content = Vec::new();
    source.take(MAX_INPUT as u64 + 1).read_to_end(&mut content)?;
    Ok(content)
}
