//! What is revoked.

use bonafide_identity::revocation::Subject;
use bonafide_wire::{admin, to_subject};
use serde::Serialize;

use crate::{console::View, moment::Moment, page::Page, text};

/// A revocation with its reason.
#[derive(Debug, Serialize)]
pub struct RevocationView {
    kind: &'static str,
    subject: String,
    site: String,
    issued_before: Option<Moment>,
    expires_at: Option<Moment>,
    reason: String,
    revoked_by: String,
    revoked_at: Option<Moment>,
}

/// A revocation of a kind that is not known here.
#[derive(Clone, Copy, Debug)]
pub struct UnknownKind;

impl TryFrom<admin::RevocationRecord> for RevocationView {
    type Error = UnknownKind;

    fn try_from(record: admin::RevocationRecord) -> Result<Self, UnknownKind> {
        let revocation = record.revocation.unwrap_or_default();
        let subject = to_subject(&revocation).ok_or(UnknownKind)?;
        let lasts = !matches!(subject, Subject::Site(_));
        let (kind, subject) = match subject {
            Subject::Agent(id) => ("agent", id.to_string()),
            Subject::AuthorityKey(key_id) => ("authority-key", text::hex(&key_id)),
            Subject::Id(id) => ("id", id.to_string()),
            Subject::Instance(instance) => ("instance", instance.to_string()),
            Subject::Site(site) => ("site", site.into()),
        };
        Ok(Self {
            kind,
            subject,
            site: record.site,
            issued_before: Moment::from_wire(revocation.issued_before),
            // A quarantine lasts until it is lifted.
            expires_at: Moment::from_wire(revocation.expires_at).filter(|_| lasts),
            reason: record.reason,
            revoked_by: record.revoked_by,
            revoked_at: Moment::from_wire(record.revoked_at),
        })
    }
}

/// Revocations.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub struct RevocationList(pub Vec<RevocationView>);

impl View for RevocationList {
    fn draw(&self, page: &mut Page) {
        let rows: Vec<_> = self
            .0
            .iter()
            .map(|each| {
                [
                    each.kind.to_owned(),
                    each.subject.clone(),
                    page.time_or(each.issued_before, "any time"),
                    page.time_or(each.revoked_at, ""),
                    page.time_or(each.expires_at, "when released"),
                    each.reason.clone(),
                ]
            })
            .collect();
        page.table(["KIND", "SUBJECT", "ISSUED BEFORE", "REVOKED", "ENDS", "REASON"], rows);
    }

    fn names(&self) -> Vec<String> {
        self.0.iter().map(|each| each.subject.clone()).collect()
    }
}
