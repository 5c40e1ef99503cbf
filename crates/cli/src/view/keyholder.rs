//! One keyholder.

use base64ct::{Base64, Encoding as _};
use bonafide_wire::keyholder::{Documents, KeyholderStatus};
use serde::Serialize;

use crate::{console::View, page::Page};

/// What a keyholder says of itself.
#[derive(Debug, Serialize)]
pub struct KeyholderView {
    serving: bool,
    why: String,
    key: String,
    tenant: String,
    keyset: String,
    roster: u64,
    index: u32,
    threshold: u32,
    members: u32,
    deny_list: u64,
    versions: Vec<VersionView>,
    ceremony: String,
    notices: Vec<String>,
    missing_protections: Vec<String>,
}

#[derive(Debug, Serialize)]
struct VersionView {
    version: u64,
    epoch: u64,
    has_share: bool,
    is_signed: bool,
    /// What the owner is to sign.
    unsigned_params: String,
}

impl KeyholderView {
    /// Status, and parameters that wait for the owner.
    #[must_use]
    pub fn new(status: KeyholderStatus, documents: &Documents) -> Self {
        let unsigned = |version: u64| {
            let found = documents.versions.iter().find(|each| each.version == version);
            found.map(|each| Base64::encode_string(&each.unsigned_params)).unwrap_or_default()
        };
        let versions = status.versions.iter().map(|each| VersionView {
            version: each.version,
            epoch: each.epoch,
            has_share: each.has_share,
            is_signed: each.is_signed,
            unsigned_params: unsigned(each.version),
        });
        Self {
            versions: versions.collect(),
            serving: status.serving,
            why: status.why,
            key: Base64::encode_string(&status.key),
            tenant: status.tenant,
            keyset: status.keyset,
            roster: status.roster_serial,
            index: status.index,
            threshold: status.threshold,
            members: status.members,
            deny_list: status.deny_serial,
            ceremony: status.ceremony,
            notices: status.notices,
            missing_protections: status.missing,
        }
    }
}

impl View for KeyholderView {
    fn draw(&self, page: &mut Page) {
        let serving = if self.serving { "yes".to_owned() } else { format!("no: {}", self.why) };
        let share = format!("{} of {}, {} open", self.index, self.members, self.threshold);
        let mut rows = vec![
            ["serving".to_owned(), serving],
            ["key".to_owned(), self.key.clone()],
            ["keyset".to_owned(), format!("{} {}", self.tenant, self.keyset)],
            ["roster".to_owned(), self.roster.to_string()],
            ["share".to_owned(), share],
            ["deny-list".to_owned(), self.deny_list.to_string()],
        ];
        for version in &self.versions {
            let signed = if version.is_signed { "signed" } else { "the owner has not signed it" };
            let share = if version.has_share { "" } else { ", no share" };
            let text = format!("epoch {}, {signed}{share}", version.epoch);
            rows.push([format!("version {}", version.version), text]);
            if !version.is_signed {
                rows.push(["parameters".to_owned(), version.unsigned_params.clone()]);
            }
        }
        if !self.ceremony.is_empty() {
            rows.push(["ceremony".to_owned(), self.ceremony.clone()]);
        }
        rows.extend(self.notices.iter().map(|notice| ["notice".to_owned(), notice.clone()]));
        rows.extend(self.missing_protections.iter().map(|what| ["missing".to_owned(), what.clone()]));
        page.table(["KEYHOLDER", ""], rows);
    }

    fn names(&self) -> Vec<String> {
        vec![self.key.clone()]
    }
}
