//! Verification of a ledger from its files: that nobody edited it, and that what it says holds together.

use std::collections::HashMap;
use std::path::Path;

use bonafide_identity::Certificate;
use bonafide_ledger::{LedgerError, Report, VerifierKey};
use bytes::Bytes;
use prost::Message;

use crate::entry::{Entry, entry::Kind};
use crate::key_entry::{KeyEntry, change, key_entry::Kind as OfKeys, operation};

/// What a ledger says, after everything in it was verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LedgerReport {
    /// Its files, hashes and signature.
    pub ledger: Report,
    /// What its entries say.
    pub contents: Contents,
}

/// What the entries of a ledger say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Contents {
    /// X509-SVIDs of workloads.
    pub x509_svids: u64,
    /// JWT-SVIDs.
    pub jwt_svids: u64,
    /// Nodes that were attested.
    pub attestations: u64,
    /// Requests that were refused.
    pub refusals: u64,
    /// Stores that were accepted although they were older.
    pub restores: u64,
    /// Entries of kinds that a newer server has written.
    pub unknown: u64,
    /// What does not hold together, with the index of the entry.
    pub findings: Vec<(u64, Finding)>,
}

/// Something that an honest server never writes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Finding {
    /// Two certificates with one number.
    #[error("its serial number was used before, by entry {0}")]
    Serial(u64),
    /// Two keys of one generation of an instance: both were logged, so both may have been released.
    #[error(
        "its instance has another certificate of generation {generation}, with another key, in entry {other}"
    )]
    Fork {
        /// The generation that they share.
        generation: u64,
        /// The other entry.
        other: u64,
    },
}

/// Why a ledger can't be verified.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// The files are not what was written.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// An entry is no entry.
    #[error("entry {0} is no entry of such a ledger")]
    Entry(u64),
}

/// Verifies the ledger in `directory` under the key of its server, and walks all of its entries.
///
/// A fork that the server refused is a refusal, not a finding. Certificates whose entries were written before a crash
/// may never have been released: the ledger holds at least what was issued.
///
/// # Errors
/// [`AuditError`], with the first place that is wrong.
pub fn verify_ledger(directory: &Path, key: &VerifierKey) -> Result<LedgerReport, AuditError> {
    let mut walk = Walk::default();
    let verified =
        bonafide_ledger::verify_entries(directory, key, &mut |index, entry| walk.see(index, entry))?;
    if let Some(index) = walk.damaged {
        return Err(AuditError::Entry(index));
    }
    Ok(LedgerReport { ledger: verified, contents: walk.contents })
}

/// Where the entry of a certificate is, if it is in the ledger. It is found by what was signed, not by what the
/// certificate says of itself.
///
/// # Errors
/// As [`verify_ledger`].
pub fn find_certificate(
    directory: &Path,
    key: &VerifierKey,
    certificate: &Certificate,
) -> Result<Option<u64>, AuditError> {
    let wanted = certificate.tbs_sha256();
    let mut found = None;
    bonafide_ledger::verify_entries(directory, key, &mut |index, entry| {
        let kind = Entry::decode(entry).ok().and_then(|entry| entry.kind);
        let tbs = match &kind {
            Some(Kind::X509Svid(svid)) => &svid.tbs_sha256,
            Some(Kind::AgentSvid(svid)) => &svid.tbs_sha256,
            Some(Kind::ServerSvid(svid)) => &svid.tbs_sha256,
            Some(Kind::SigningCertificate(certificate)) => &certificate.tbs_sha256,
            _ => return,
        };
        if **tbs == wanted {
            found = Some(index);
        }
    })?;
    Ok(found)
}

/// What the entries of a ledger of keys say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyContents {
    /// What was done with keys: single items.
    pub operations: u64,
    /// Changes of keys that were committed.
    pub changes: u64,
    /// Leases that were given.
    pub leases: u64,
    /// Requests that were refused.
    pub refusals: u64,
    /// Intents of which it is not said what became of them: the server was killed, or its disk was full.
    pub open_intents: u64,
    /// Entries of kinds that a newer server has written.
    pub unknown: u64,
}

/// Verifies a ledger of keys in `directory` under the key of its server, and walks all of its entries.
///
/// # Errors
/// [`AuditError`], with the first place that is wrong.
pub fn verify_key_ledger(directory: &Path, key: &VerifierKey) -> Result<(Report, KeyContents), AuditError> {
    let mut contents = KeyContents::default();
    let mut damaged = None;
    let mut open: HashMap<(bool, u64), u64> = HashMap::new();
    let report = bonafide_ledger::verify_entries(directory, key, &mut |index, entry| {
        let Ok(entry) = KeyEntry::decode(entry) else {
            damaged.get_or_insert(index);
            return;
        };
        match entry.kind {
            Some(OfKeys::Operation(operation)) if operation.stage() == operation::Stage::Intent => {
                *open.entry((false, operation.number)).or_default() += 1;
            }
            Some(OfKeys::Operation(operation)) => {
                contents.operations +=
                    operation.items.iter().map(|items| u64::from(items.count)).sum::<u64>();
                close(&mut open, (false, operation.number));
            }
            Some(OfKeys::Change(change)) => match change.stage() {
                change::Stage::Intent => *open.entry((true, change.number)).or_default() += 1,
                stage => {
                    contents.changes += u64::from(stage == change::Stage::Committed);
                    close(&mut open, (true, change.number));
                }
            },
            Some(OfKeys::LeaseGiven(lease)) => contents.leases += u64::from(!lease.renewed),
            Some(OfKeys::LeaseOver(_)) => {}
            Some(OfKeys::Refusal(_)) => contents.refusals += 1,
            None => contents.unknown += 1,
        }
    })?;
    if let Some(index) = damaged {
        return Err(AuditError::Entry(index));
    }
    contents.open_intents = open.values().sum();
    Ok((report, contents))
}

fn close(open: &mut HashMap<(bool, u64), u64>, intent: (bool, u64)) {
    if let Some(count) = open.get_mut(&intent) {
        *count = count.saturating_sub(1);
    }
}

#[derive(Default)]
struct Walk {
    contents: Contents,
    damaged: Option<u64>,
    serials: HashMap<Bytes, u64>,
    /// Key and entry of each generation of each instance.
    lineages: HashMap<(Bytes, u64), (Bytes, u64)>,
}

impl Walk {
    fn see(&mut self, index: u64, entry: &[u8]) {
        let Ok(entry) = Entry::decode(entry) else {
            self.damaged.get_or_insert(index);
            return;
        };
        match entry.kind {
            Some(Kind::X509Svid(svid)) => {
                self.contents.x509_svids += 1;
                self.serial(index, svid.serial);
                let of = (svid.instance, svid.generation);
                let (key, other) =
                    self.lineages.entry(of).or_insert_with(|| (svid.key_id.clone(), index)).clone();
                if key != svid.key_id {
                    self.contents
                        .findings
                        .push((index, Finding::Fork { generation: svid.generation, other }));
                }
            }
            Some(Kind::AgentSvid(svid)) => self.serial(index, svid.serial),
            Some(Kind::ServerSvid(svid)) => self.serial(index, svid.serial),
            Some(Kind::SigningCertificate(certificate)) => self.serial(index, certificate.serial),
            Some(Kind::JwtSvid(_)) => self.contents.jwt_svids += 1,
            Some(Kind::Attestation(_)) => self.contents.attestations += 1,
            Some(Kind::Refusal(_)) => self.contents.refusals += 1,
            Some(Kind::Restore(_)) => self.contents.restores += 1,
            Some(
                Kind::Launch(_)
                | Kind::End(_)
                | Kind::AuthorityChange(_)
                | Kind::Arrival(_)
                | Kind::SealChange(_),
            ) => {}
            None => self.contents.unknown += 1,
        }
    }

    fn serial(&mut self, index: u64, serial: Bytes) {
        if let Some(other) = self.serials.insert(serial, index) {
            self.contents.findings.push((index, Finding::Serial(other)));
        }
    }
}

impl AuditError {
    /// Stable code.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Ledger(error) => error.code(),
            Self::Entry(_) => "ledger.entry",
        }
    }

    /// What to do; may be empty.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Ledger(error) => error.hint().unwrap_or_default(),
            Self::Entry(_) => "the ledger of another program, or damaged before it was signed",
        }
    }
}
