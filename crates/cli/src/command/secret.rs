//! `secret seal|inspect|params|policy|owner`: sealed secrets, from files alone. Nothing here opens a socket.

mod files;
mod owner;
mod policy;

use std::{io::Read as _, path::PathBuf};

use bonafide_crypto::{
    key::{PrivateKey, Signer},
    random::SystemRandom,
};
use bonafide_policy::model::Evidence;
use bonafide_sealing::{
    MAX_SECRET, armour,
    document::VerifyingKey,
    object::PublicData,
    owner::Purpose,
    seal::{Quantum, Recipient, Sealing, seal},
};
use zeroize::Zeroizing;

use self::{files::Pinned, owner::OwnerCommand, policy::PolicyCommand};
use crate::{
    Console, Failure, duration,
    view::secret::{ObjectView, ParamsView},
};

/// `secret …`.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum SecretCommand {
    /// Seal what comes on standard input to a policy; prints the object, one line of text, and nothing else
    Seal(SealArgs),
    /// Show what everybody can see of a sealed secret
    Inspect {
        /// The object [default: standard input]
        file: Option<PathBuf>,
    },
    /// Look at the parameters that secrets are sealed with
    #[command(subcommand)]
    Params(ParamsCommand),
    /// Write and check policies that secrets are sealed to
    #[command(subcommand)]
    Policy(PolicyCommand),
    /// Make the keys of an owner
    #[command(subcommand)]
    Owner(OwnerCommand),
}

/// `secret params …`.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum ParamsCommand {
    /// Show what they say, without looking at who has signed
    Show {
        /// The files.
        #[command(flatten)]
        trust: TrustArgs,
    },
    /// Show them if the owner has signed them and they are valid now; exit code 1 if not
    Verify {
        /// The files.
        #[command(flatten)]
        trust: TrustArgs,
    },
}

/// Public documents of an owner.
#[derive(Clone, Debug, clap::Args)]
pub struct TrustArgs {
    /// Parameters, and the owner's root and delegation, in one file or several; can be repeated
    #[arg(long, value_name = "FILE", required = true, value_hint = clap::ValueHint::FilePath)]
    params: Vec<PathBuf>,
    /// SHA-256 of the owner's root in hexadecimal, as you know it from the owner
    #[arg(long, value_name = "SHA256")]
    root: Option<String>,
}

/// `secret seal`.
#[derive(Clone, Debug, clap::Args)]
pub struct SealArgs {
    /// What is sealed with.
    #[command(flatten)]
    trust: TrustArgs,
    /// Who may open it: a file with one `SecretPolicy`
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    policy: PathBuf,
    /// What workloads ask for it by [default: the name of the policy]
    #[arg(long)]
    name: Option<String>,
    /// What it can be revoked by, beside its policy
    #[arg(long, default_value = "", hide_default_value = true)]
    label: String,
    /// What it is for: everybody can read it, and nobody can change it
    #[arg(long, default_value = "", hide_default_value = true)]
    aad: String,
    /// It opens no longer than this
    #[arg(long = "for", value_name = "DURATION", value_parser = duration::parse)]
    ttl: Option<u32>,
    /// Higher than that of the last secret of this name [default: the seconds since 1970]
    #[arg(long)]
    serial: Option<u64>,
    /// The site whose post-quantum key is used, if the parameters have several
    #[arg(long)]
    site: Option<String>,
    /// Whether it must outlive elliptic curves: of itself if it lives longer than 90 days
    #[arg(long, value_enum, default_value_t = PostQuantum::Auto)]
    post_quantum: PostQuantum,
    /// The owner's key for sealing; without it, whoever can write where the object lies can replace it
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    owner_key: Option<PathBuf>,
}

/// Whether there is a post-quantum half.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum PostQuantum {
    /// If it lives longer than 90 days.
    Auto,
    /// In any case.
    Always,
    /// Never.
    Never,
}

/// Runs the command.
///
/// # Errors
/// Files that can't be read or believed, and what can't be sealed.
pub fn run(command: SecretCommand, console: &Console) -> Result<(), Failure> {
    match command {
        SecretCommand::Seal(arguments) => seal_secret(&arguments, console),
        SecretCommand::Inspect { file } => {
            let text = files::text(file.as_deref(), armour::MAX_TEXT + 64)?;
            let object =
                armour::from_text(&text).map_err(|error| Failure::of(error.code(), error, error.hint()))?;
            console.show(&ObjectView::from(&object))
        }
        SecretCommand::Params(ParamsCommand::Show { trust }) => {
            let documents = files::documents(&trust.params)?;
            console.show(&ParamsView::new(&files::params(&documents)?.body, None))
        }
        SecretCommand::Params(ParamsCommand::Verify { trust }) => {
            let pinned = trusted(&trust, console)?;
            pinned.params.check_time(now(console)).map_err(files::untrusted)?;
            console.show(&ParamsView::new(pinned.params.params(), Some(pinned.owner.root())))
        }
        SecretCommand::Policy(command) => policy::run(command, console),
        SecretCommand::Owner(command) => owner::run(command, console),
    }
}

fn seal_secret(arguments: &SealArgs, console: &Console) -> Result<(), Failure> {
    let pinned = trusted(&arguments.trust, console)?;
    let policy = policy::one(&arguments.policy, console)?;
    if *policy.evidence() == Evidence::Authority {
        console.note(
            "warning[secret.evidence]: the policy says `evidence: authority`: whoever holds the keys of the authority can \
             open this secret with the help of the keyholders",
        );
    }
    let key = arguments.owner_key.as_deref().map(files::private_key).transpose()?;
    match &key {
        Some(key) => check_delegated(key, &pinned)?,
        None => console.note(
            "warning[secret.unsigned]: without --owner-key nobody signs the secret, and workloads refuse it unless they \
             are told to take such",
        ),
    }
    let secret = read_secret()?;
    if secret.ends_with(b"\n") {
        console.note("note: the secret ends with a line break, which is a part of it");
    }
    let now = now(console);
    let public = PublicData {
        name: arguments.name.clone().unwrap_or_else(|| policy.name().to_owned()),
        purpose: arguments.aad.clone(),
        not_after: arguments.ttl.map(|seconds| now.saturating_add(seconds.into())),
    };
    let recipient = Recipient {
        params: &pinned.params,
        policy: policy.as_bytes(),
        label: arguments.label.as_bytes(),
        site: arguments.site.as_deref(),
    };
    let sealing = Sealing {
        recipients: &[recipient],
        public: &public,
        serial: arguments.serial.unwrap_or(now),
        quantum: match arguments.post_quantum {
            PostQuantum::Auto => Quantum::Auto,
            PostQuantum::Always => Quantum::Always,
            PostQuantum::Never => Quantum::Never,
        },
        signer: key.as_ref().map(|key| key as &dyn Signer),
    };
    let object = seal(&sealing, &secret, now, &SystemRandom)
        .map_err(|error| Failure::of(error.code(), &error, error.hint()))?;
    console.write(format!("{}\n", armour::to_text(&object)).as_bytes())
}

/// Nobody would open what another key has signed.
fn check_delegated(key: &PrivateKey, pinned: &Pinned) -> Result<(), Failure> {
    let public = VerifyingKey::new(key.public_key().clone())
        .map_err(|error| Failure::of(error.code(), error, "use Ed25519, or ECDSA on P-256 or P-384"))?;
    if pinned.owner.key(&[Purpose::Seal], public.fingerprint()).is_some() {
        return Ok(());
    }
    Err(Failure::of(
        "secret.key-not-delegated",
        "the owner has not delegated this key for sealing",
        "use the key of which `owner.pem` knows, such as `seal.key`",
    ))
}

fn read_secret() -> Result<Zeroizing<Vec<u8>>, Failure> {
    // It never grows, so that nothing is left behind.
    let mut secret = Zeroizing::new(Vec::with_capacity(MAX_SECRET + 1));
    let read = std::io::stdin().lock().take(MAX_SECRET as u64 + 1).read_to_end(&mut secret);
    read.map_err(|source| Failure::read(std::path::Path::new("standard input"), source))?;
    if secret.is_empty() {
        return Err(Failure::of(
            "secret.empty",
            "there is no secret on standard input",
            "pipe it in: `< secret`",
        ));
    }
    Ok(secret)
}

/// Parameters under an owner's root. That the root is the right one must be told by somebody: files can't.
fn trusted(arguments: &TrustArgs, console: &Console) -> Result<Pinned, Failure> {
    let pinned = Pinned::read(&files::documents(&arguments.params)?, arguments.root.as_deref())?;
    if arguments.root.is_none() {
        console.note(format!(
            "warning[secret.root-not-pinned]: the owner's root is believed because the files say so; compare it, and name it \
             with --root {}",
            files::root_digest(&pinned)
        ));
    }
    Ok(pinned)
}

fn now(console: &Console) -> u64 {
    u64::try_from(console.now().0).unwrap_or(0)
}
