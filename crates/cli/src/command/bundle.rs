//! `bundle show`: the trust bundle, for those who verify.

use bonafide_identity::{SpiffeId, TrustDomain, bundle::TrustBundle};
use bonafide_wire::admin::{GetBundleRequest, StatusRequest};
use clap::ValueEnum;

use crate::{Console, Failure, admin, pem, socket::AdminSocket};

/// The trust bundle.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum BundleCommand {
    /// Print the trust bundle: public keys only
    Show {
        /// In which form
        #[arg(long, value_enum, default_value_t = BundleFormat::Spiffe)]
        format: BundleFormat,
        /// The authority.
        #[command(flatten)]
        socket: AdminSocket,
    },
}

/// Forms of a bundle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum BundleFormat {
    /// A SPIFFE bundle document (JWKS): X.509 roots and JWT keys
    Spiffe,
    /// The X.509 roots as PEM
    Pem,
}

/// Runs the command.
///
/// # Errors
/// What the authority refuses, sockets that do not answer, and a bundle that does not parse.
pub async fn run(command: BundleCommand, console: &Console) -> Result<(), Failure> {
    let BundleCommand::Show { format, socket } = command;
    let mut client = admin::connect(&socket.path).await?;
    let document = client.get_bundle(GetBundleRequest {}).await?.into_inner().bundle;
    match format {
        BundleFormat::Spiffe => {
            console.write(&document)?;
            if document.ends_with(b"\n") { Ok(()) } else { console.write(b"\n") }
        }
        BundleFormat::Pem => {
            let trust_domain = client.status(StatusRequest {}).await?.into_inner().trust_domain;
            let bundle = parse(&trust_domain, &document)?;
            let roots = bundle.x509_authorities().iter().map(|root| root.der());
            console.write(pem::encode_certificates(roots).as_bytes())
        }
    }
}

/// Parses a SPIFFE bundle document of a trust domain, which may be named by its SPIFFE ID.
///
/// # Errors
/// With the code of what is wrong.
pub(crate) fn parse(trust_domain: &str, document: &[u8]) -> Result<TrustBundle, Failure> {
    let name = trust_domain.parse::<TrustDomain>().or_else(|cause| {
        trust_domain.parse::<SpiffeId>().map(|id| id.trust_domain().clone()).map_err(|_| cause)
    });
    let trust_domain = name.map_err(|cause| {
        Failure::of(cause.code(), cause, "the other side speaks of a trust domain that is none")
    })?;
    TrustBundle::parse(&trust_domain, document)
        .map_err(|cause| Failure::of(cause.code(), &cause, "ask for a SPIFFE bundle document (JWKS)"))
}
