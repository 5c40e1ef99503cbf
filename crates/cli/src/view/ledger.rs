//! What the issuance ledger says.

use bonafide_authority::{
    audit::{KeyContents, LedgerReport},
    entry::{Entry, entry::Kind, seal_change::Stage},
};
use bonafide_ledger::Report;
use serde::Serialize;

use crate::{
    Failure,
    console::View,
    moment::Moment,
    page::{Page, some},
    text::{count, hex},
};

/// One entry.
#[derive(Debug, Serialize)]
pub struct EntryView {
    pub(super) index: u64,
    pub(super) at: Moment,
    pub(super) kind: &'static str,
    /// Who got it, or who was refused.
    pub(super) subject: String,
    pub(super) instance: String,
    pub(super) details: Vec<String>,
}

impl EntryView {
    /// One of nobody yet.
    pub(super) fn of(index: u64, at: Moment, kind: &'static str, details: Vec<String>) -> Self {
        Self { index, at, kind, subject: String::new(), instance: String::new(), details }
    }

    /// An entry, as it was written.
    pub fn new(index: u64, entry: Entry) -> Self {
        let at = Moment(entry.at);
        let empty = |kind| Self {
            index,
            at,
            kind,
            subject: String::new(),
            instance: String::new(),
            details: Vec::new(),
        };
        let Some(kind) = entry.kind else {
            return Self { details: vec!["written by a newer version".into()], ..empty("unknown") };
        };
        match kind {
            Kind::X509Svid(svid) => Self {
                subject: svid.spiffe_id,
                instance: instance(&svid.instance),
                details: present([
                    ("generation", svid.generation.to_string()),
                    ("serial", hex(&svid.serial)),
                    ("until", Moment(svid.not_after).absolute()),
                    ("registration", format!("{}@{}", svid.registration, svid.registration_revision)),
                    ("agent", svid.agent),
                ]),
                ..empty("x509-svid")
            },
            Kind::JwtSvid(svid) => Self {
                subject: svid.spiffe_id,
                instance: instance(&svid.instance),
                details: present([
                    ("for", svid.audience.join(", ")),
                    ("jti", svid.jti),
                    ("until", Moment(svid.expires_at).absolute()),
                    ("registration", format!("{}@{}", svid.registration, svid.registration_revision)),
                    ("agent", svid.agent),
                ]),
                ..empty("jwt-svid")
            },
            Kind::AgentSvid(svid) => Self {
                subject: svid.spiffe_id,
                details: present([
                    ("serial", hex(&svid.serial)),
                    ("until", Moment(svid.not_after).absolute()),
                    ("site", svid.site),
                ]),
                ..empty("agent-svid")
            },
            Kind::Attestation(attestation) => Self {
                subject: attestation.agent,
                details: present([
                    ("by", attestation.attestor),
                    ("evidence", attestation.evidence),
                    ("from", attestation.source),
                    ("site", attestation.site),
                ]),
                ..empty("attestation")
            },
            Kind::Refusal(refusal) => Self {
                subject: if refusal.agent.is_empty() { refusal.source } else { refusal.agent },
                instance: instance(&refusal.instance),
                details: present([
                    ("code", refusal.code),
                    ("because", refusal.message),
                    ("registration", refusal.registration),
                    ("site", refusal.site),
                ]),
                ..empty("refusal")
            },
            Kind::SigningCertificate(certificate) => Self {
                subject: hex(&certificate.key_id),
                details: present([
                    ("serial", hex(&certificate.serial)),
                    ("until", Moment(certificate.not_after).absolute()),
                    ("signed by", hex(&certificate.issuer_key_id)),
                ]),
                ..empty("signing-certificate")
            },
            Kind::ServerSvid(svid) => Self {
                subject: svid.spiffe_id,
                details: present([
                    ("serial", hex(&svid.serial)),
                    ("until", Moment(svid.not_after).absolute()),
                ]),
                ..empty("server-svid")
            },
            Kind::Launch(launch) => Self {
                subject: launch.agent,
                instance: instance(&launch.instance),
                details: present([
                    ("registration", launch.registration),
                    ("selectors", launch.selectors.join(" ")),
                    ("at", Moment(launch.launched_at).absolute()),
                ]),
                ..empty("launch")
            },
            Kind::Arrival(arrival) => Self {
                subject: arrival.agent,
                details: present([
                    ("until", Moment(arrival.not_after).absolute()),
                    ("signed by", hex(&arrival.issuer_key_id)),
                ]),
                ..empty("arrival")
            },
            Kind::End(end) => Self {
                subject: end.agent,
                instance: instance(&end.instance),
                details: present([("at", Moment(end.ended_at).absolute())]),
                ..empty("end")
            },
            Kind::SealChange(change) => Self {
                subject: change.seals.join(" "),
                details: present([
                    ("change", change.change.clone()),
                    ("kind", change.kind.clone()),
                    (
                        "stage",
                        match change.stage() {
                            Stage::Intent => "to be done",
                            Stage::Done => "done",
                            Stage::Failed => "failed",
                            Stage::Unspecified => "",
                        }
                        .to_owned(),
                    ),
                    ("code", change.code),
                    ("by", change.actor),
                ]),
                ..empty("seal-change")
            },
            Kind::AuthorityChange(change) => Self {
                subject: change.authority,
                details: present([
                    ("kind", change.kind),
                    ("server", change.server),
                    (if change.revision == 0 { "to be" } else { "is" }, change.state),
                    ("by", change.actor),
                    ("forced", if change.forced { "yes".to_owned() } else { String::new() }),
                    (
                        "revision",
                        if change.revision == 0 { String::new() } else { change.revision.to_string() },
                    ),
                ]),
                ..empty("authority-change")
            },
            Kind::Restore(restore) => Self {
                subject: hex(&restore.incarnation),
                details: present([
                    ("revision", restore.revision.to_string()),
                    (
                        "expected",
                        format!("{}@{}", hex(&restore.expected_incarnation), restore.expected_revision),
                    ),
                ]),
                ..empty("restore")
            },
        }
    }

    /// Whether the entry is about this SPIFFE ID or instance.
    pub fn is_about(&self, name: &str) -> bool {
        self.subject == name || self.instance == name
    }
}

/// Entries, oldest first.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub struct EntryList(pub Vec<EntryView>);

impl View for EntryList {
    fn draw(&self, page: &mut Page) {
        for entry in &self.0 {
            page.line(&format!("{} {} {} {}", entry.index, entry.at.absolute(), entry.kind, entry.subject));
            if !entry.instance.is_empty() {
                page.line(&format!("    instance {}", entry.instance));
            }
            for detail in &entry.details {
                page.line(&format!("    {detail}"));
            }
        }
    }

    fn names(&self) -> Vec<String> {
        self.0.iter().map(|entry| entry.index.to_string()).collect()
    }
}

/// What was found to be true of a whole ledger.
#[derive(Debug, Serialize)]
pub struct ReportView {
    size: u64,
    unsigned: u64,
    checkpoint: Option<CheckpointView>,
    x509_svids: u64,
    jwt_svids: u64,
    attestations: u64,
    refusals: u64,
    restores: u64,
    /// Of a ledger of keys.
    #[serde(skip_serializing_if = "Option::is_none")]
    keys: Option<KeysView>,
    /// Written by a newer version.
    unknown: u64,
    /// What an honest server never writes.
    findings: Vec<String>,
    /// Absent when none was looked for.
    certificate: Option<CertificateView>,
}

/// A certificate that was looked for.
#[derive(Debug, Serialize)]
struct CertificateView {
    /// Absent when there is none.
    entry: Option<u64>,
}

/// What a ledger of keys says.
#[derive(Debug, Serialize)]
struct KeysView {
    operations: u64,
    changes: u64,
    leases: u64,
    open_intents: u64,
}

/// The last checkpoint.
#[derive(Debug, Serialize)]
struct CheckpointView {
    origin: String,
    size: u64,
    root: String,
    incarnation: String,
    revision: u64,
    set_digest: String,
}

impl ReportView {
    /// `entry`: where the certificate that was looked for is, if one was.
    pub fn new(report: LedgerReport, entry: Option<Option<u64>>) -> Self {
        let LedgerReport { ledger, contents } = report;
        let mut view = Self::of_ledger(ledger);
        view.x509_svids = contents.x509_svids;
        view.jwt_svids = contents.jwt_svids;
        view.attestations = contents.attestations;
        view.refusals = contents.refusals;
        view.restores = contents.restores;
        view.unknown = contents.unknown;
        let findings = contents.findings.iter();
        view.findings = findings.map(|(index, finding)| format!("entry {index}: {finding}")).collect();
        view.certificate = entry.map(|entry| CertificateView { entry });
        view
    }

    /// Of a ledger of keys.
    pub fn of_keys(ledger: Report, contents: &KeyContents) -> Self {
        let keys = KeysView {
            operations: contents.operations,
            changes: contents.changes,
            leases: contents.leases,
            open_intents: contents.open_intents,
        };
        let mut view = Self::of_ledger(ledger);
        view.refusals = contents.refusals;
        view.unknown = contents.unknown;
        view.keys = Some(keys);
        view
    }

    fn of_ledger(ledger: Report) -> Self {
        let checkpoint = ledger.checkpoint.map(|checkpoint| CheckpointView {
            origin: checkpoint.origin,
            size: checkpoint.size,
            root: hex(&checkpoint.root),
            incarnation: hex(&checkpoint.bindings.incarnation),
            revision: checkpoint.bindings.revision,
            set_digest: hex(&checkpoint.bindings.set_digest),
        });
        Self {
            size: ledger.size,
            unsigned: ledger.unsigned,
            checkpoint,
            x509_svids: 0,
            jwt_svids: 0,
            attestations: 0,
            refusals: 0,
            restores: 0,
            keys: None,
            unknown: 0,
            findings: Vec::new(),
            certificate: None,
        }
    }

    /// # Errors
    /// When an entry says what an honest server never writes, or the certificate is not in the ledger.
    pub fn verdict(&self) -> Result<(), Failure> {
        if self.checkpoint.is_none() {
            return Err(Failure::of(
                "ledger.unsigned",
                "no checkpoint signs the log, so whoever can write its files could have made all of it",
                "an authority publishes a checkpoint before it serves anybody: find out who removed it",
            ));
        }
        if let Some(first) = self.findings.first() {
            let hint = "the authority or its ledger was tampered with: keep a copy, and compare the entries";
            return Err(Failure::of("ledger.finding", first, hint));
        }
        if self.certificate.as_ref().is_some_and(|certificate| certificate.entry.is_none()) {
            let hint =
                "another server has issued it (each has its own ledger), or its CA key was used elsewhere";
            return Err(Failure::of(
                "ledger.not-logged",
                "the certificate has no entry in this ledger",
                hint,
            ));
        }
        Ok(())
    }
}

impl View for ReportView {
    fn draw(&self, page: &mut Page) {
        page.line(&format!("every file, entry and hash fits: {}", count(self.size, "entry", "entries")));
        match &self.checkpoint {
            None => page.line("there is no checkpoint: nothing is signed"),
            Some(checkpoint) => page.record([
                ("log", some(&checkpoint.origin)),
                ("signed entries", some(checkpoint.size.to_string())),
                ("entries since", some(self.unsigned.to_string())),
                ("root", some(&checkpoint.root)),
                ("store", some(format!("revision {} of {}", checkpoint.revision, checkpoint.incarnation))),
                ("set digest", some(&checkpoint.set_digest)),
            ]),
        }
        if let Some(keys) = &self.keys {
            page.record([
                ("operations", some(keys.operations.to_string())),
                ("changes of keys", some(keys.changes.to_string())),
                ("leases", some(keys.leases.to_string())),
                ("refusals", some(self.refusals.to_string())),
                ("intents without outcome", some(keys.open_intents.to_string())),
            ]);
            return;
        }
        page.record([
            ("X509-SVIDs", some(self.x509_svids.to_string())),
            ("JWT-SVIDs", some(self.jwt_svids.to_string())),
            ("attestations", some(self.attestations.to_string())),
            ("refusals", some(self.refusals.to_string())),
        ]);
        if let Some(entry) = self.certificate.as_ref().and_then(|certificate| certificate.entry) {
            page.line(&format!("the certificate was logged in entry {entry}, before it was signed"));
        }
    }

    fn names(&self) -> Vec<String> {
        match &self.certificate {
            None => vec![self.size.to_string()],
            Some(certificate) => certificate.entry.iter().map(u64::to_string).collect(),
        }
    }
}

/// Names with values, without those that are empty.
pub(super) fn present<const N: usize>(details: [(&str, String); N]) -> Vec<String> {
    let filled = details.into_iter().filter(|(_, value)| !value.is_empty());
    filled.map(|(name, value)| format!("{name}: {value}")).collect()
}

/// As in certificates, and on the wire of people: hyphenated.
pub(super) fn instance(bytes: &[u8]) -> String {
    match <[u8; 16]>::try_from(bytes) {
        Ok(bytes) => bonafide_identity::InstanceId::from_bytes(bytes).to_string(),
        Err(_) => hex(bytes),
    }
}
