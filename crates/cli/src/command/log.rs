//! `log show|verify`: the issuance ledger and the ledger of keys, from their files alone.

use std::{
    io::Read as _,
    path::{Path, PathBuf},
};

use bonafide_authority::{
    audit::{AuditError, find_certificate, verify_key_ledger, verify_ledger},
    entry::Entry,
    key_entry::KeyEntry,
};
use bonafide_identity::Certificate;
use bonafide_ledger::{LedgerError, VerifierKey};
use prost::Message as _;

use crate::{
    Console, Failure, pem,
    progress::with_spinner,
    tiles,
    view::ledger::{EntryList, EntryView, ReportView},
};

const MAX_KEY: u64 = 4_096;
/// A chain in PEM; only its first certificate counts.
const MAX_CERTIFICATE: u64 = 256 * 1024;
const LEDGER: &str = "/var/lib/bonafide/authority/ledger";

/// The ledgers: everything that was ever issued, and refused; and, in `key-ledger`, what was done with keys.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum LogCommand {
    /// Show entries up to the last checkpoint, the latest at the end
    #[command(alias = "tail")]
    Show {
        /// The ledger's folder
        #[arg(default_value = LEDGER)]
        ledger: PathBuf,
        /// How many
        #[arg(long, short = 'n', default_value_t = 20)]
        count: u64,
        /// From this index on, instead of the last ones
        #[arg(long)]
        from: Option<u64>,
        /// Only those about this SPIFFE ID or instance
        #[arg(long, value_name = "ID")]
        about: Option<String>,
    },
    /// Verify every file, entry, hash and the signature; says where the first thing is wrong
    Verify {
        /// The ledger's folder; nothing may append to it meanwhile
        #[arg(default_value = LEDGER)]
        ledger: PathBuf,
        /// The public key of the log, `<name>+<hash>+<key>`, from where the ledger's writer can't change it [default:
        /// what the authority has written beside the ledger, in `ledger.pub`]
        #[arg(long)]
        key: Option<String>,
        /// Find the entry of this certificate, PEM or DER: that it was logged when it was issued
        #[arg(long, value_name = "FILE")]
        certificate: Option<PathBuf>,
    },
}

/// Runs the command.
///
/// # Errors
/// Files that cannot be read; the first place of the ledger that is wrong.
pub async fn run(command: LogCommand, console: &Console) -> Result<(), Failure> {
    match command {
        LogCommand::Show { ledger, count, from, about } => {
            console.show(&show(&ledger, count, from, about.as_deref())?)
        }
        LogCommand::Verify { ledger, key, certificate } => {
            let certificate = certificate.as_deref().map(read_certificate).transpose()?;
            let key = match key {
                Some(key) => key,
                None => {
                    console
                        .note("The key lies beside the ledger: whoever could change both is not found out.");
                    key_beside(&ledger)?
                }
            };
            let key: VerifierKey = key.trim().parse().map_err(ledger_failure)?;
            let task = tokio::task::spawn_blocking(move || audit(&ledger, &key, certificate.as_ref()));
            let ended = with_spinner(console, "verifying the ledger", task).await;
            let report = ended.map_err(|cause| Failure::of("ledger.closed", cause, "try again"))??;
            console.show(&report)?;
            report.verdict()
        }
    }
}

/// Verifies everything, and finds the certificate's entry if one was asked for.
fn audit(ledger: &Path, key: &VerifierKey, certificate: Option<&Certificate>) -> Result<ReportView, Failure> {
    let failure = |cause: AuditError| Failure::of(cause.code(), &cause, cause.hint());
    if tiles::is_of_keys(ledger) {
        let (report, contents) = verify_key_ledger(ledger, key).map_err(failure)?;
        return Ok(ReportView::of_keys(report, &contents));
    }
    let report = verify_ledger(ledger, key).map_err(failure)?;
    let entry =
        certificate.map(|wanted| find_certificate(ledger, key, wanted)).transpose().map_err(failure)?;
    Ok(ReportView::new(report, entry))
}

fn read_certificate(path: &Path) -> Result<Certificate, Failure> {
    let mut content = Vec::new();
    let file = std::fs::File::open(path).map_err(|source| Failure::read(path, source))?;
    file.take(MAX_CERTIFICATE).read_to_end(&mut content).map_err(|source| Failure::read(path, source))?;
    let blocks = str::from_utf8(&content).ok().and_then(|text| pem::decode(text).ok());
    let der = blocks.and_then(|blocks| blocks.into_iter().next()).map_or(content, |first| first.der);
    Certificate::from_der(&der).map_err(|cause| Failure::of(cause.code(), cause, cause.hint()))
}

/// What the authority has written: `<data>/ledger.pub` for `<data>/ledger`, and likewise for `<data>/key-ledger`.
fn key_beside(ledger: &Path) -> Result<String, Failure> {
    let ledger = std::path::absolute(ledger).map_err(|source| Failure::read(ledger, source))?;
    let path = ledger.with_extension("pub");
    let file = std::fs::File::open(&path).map_err(|source| Failure::read(&path, source))?;
    std::io::read_to_string(file.take(MAX_KEY)).map_err(|source| Failure::read(&path, source))
}

fn show(ledger: &Path, count: u64, from: Option<u64>, about: Option<&str>) -> Result<EntryList, Failure> {
    let size = tiles::published_size(ledger)?;
    let of_keys = tiles::is_of_keys(ledger);
    let view = |(index, bytes): (u64, Vec<u8>)| {
        let bytes = bytes.as_slice();
        let decoded = match of_keys {
            true => KeyEntry::decode(bytes).map(|entry| EntryView::of_keys(index, entry)),
            false => Entry::decode(bytes).map(|entry| EntryView::new(index, entry)),
        };
        decoded.map_err(|cause| {
            Failure::of("ledger.broken", format!("entry {index}: {cause}"), "see `bonafide log verify`")
        })
    };
    let Some(name) = about else {
        let from = from.unwrap_or(size.saturating_sub(count));
        let entries = tiles::entries(ledger, size, from, count)?;
        return Ok(EntryList(entries.into_iter().map(view).collect::<Result<_, _>>()?));
    };
    // Newest first, a tile at a time, until there are enough.
    let mut found = Vec::new();
    let first = from.unwrap_or(0);
    let mut end = size;
    while end > first && (found.len() as u64) < count {
        let start = (end - 1) / 256 * 256;
        for entry in tiles::entries(ledger, size, start.max(first), end - start.max(first))?.into_iter().rev()
        {
            let entry = view(entry)?;
            if entry.is_about(name) && (found.len() as u64) < count {
                found.push(entry);
            }
        }
        end = start;
    }
    found.reverse();
    Ok(EntryList(found))
}

fn ledger_failure(cause: LedgerError) -> Failure {
    Failure::of(cause.code(), &cause, cause.hint().unwrap_or("see `bonafide log verify --help`"))
}
