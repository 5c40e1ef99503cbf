//! Keys and grants.

use std::collections::BTreeMap;

use base64ct::{Base64, Encoding as _};
use bonafide_wire::admin;
use serde::Serialize;
use zeroize::Zeroizing;

use crate::{
    console::View,
    duration,
    moment::Moment,
    page::{Page, some},
    pem,
    text::hex,
};

/// A key, without anything secret.
#[derive(Debug, Serialize)]
pub struct KeyView {
    name: String,
    id: String,
    aliases: Vec<String>,
    r#type: String,
    state: String,
    destroy_at: Option<Moment>,
    created_at: Option<Moment>,
    exportable: bool,
    convergent: bool,
    /// The private halves are in a device.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    external: bool,
    primary: u32,
    min_encrypt: u32,
    min_decrypt: u32,
    trimmed: u32,
    /// Seconds; absent: only by hand.
    rotation: Option<u32>,
    next_rotation: Option<Moment>,
    local: String,
    max_stale: u32,
    lease_age: u32,
    lease_messages: u64,
    lease_bytes: u64,
    audit_sync: bool,
    sites: Vec<String>,
    labels: BTreeMap<String, String>,
    versions: Vec<VersionView>,
    revision: u64,
}

/// A version of a key.
#[derive(Debug, Serialize)]
pub struct VersionView {
    number: u32,
    state: String,
    destroy_at: Option<Moment>,
    created_at: Option<Moment>,
    imported: bool,
    /// PEM.
    public_key: Option<String>,
}

impl From<admin::Key> for KeyView {
    fn from(key: admin::Key) -> Self {
        let settings = key.settings.unwrap_or_default();
        Self {
            id: hex(&key.id),
            name: key.name,
            aliases: key.aliases,
            r#type: key.r#type,
            state: key.state,
            destroy_at: Moment::from_wire(key.destroy_at),
            created_at: Moment::from_wire(key.created_at),
            exportable: key.exportable,
            convergent: key.convergent,
            external: key.external,
            primary: key.primary,
            min_encrypt: key.min_encrypt,
            min_decrypt: key.min_decrypt,
            trimmed: key.trimmed,
            rotation: settings.rotation.filter(|period| *period != 0),
            next_rotation: Moment::from_wire(key.next_rotation),
            local: settings.local.unwrap_or_default(),
            max_stale: settings.max_stale.unwrap_or_default(),
            lease_age: settings.max_age.unwrap_or_default(),
            lease_messages: settings.max_messages.unwrap_or_default(),
            lease_bytes: settings.max_bytes.unwrap_or_default(),
            audit_sync: settings.audit_sync.unwrap_or_default(),
            sites: settings.sites.unwrap_or_default().values,
            labels: settings.labels.unwrap_or_default().values,
            versions: key.versions.into_iter().map(Into::into).collect(),
            revision: key.revision,
        }
    }
}

impl From<admin::KeyVersion> for VersionView {
    fn from(version: admin::KeyVersion) -> Self {
        let public = &version.public_key;
        Self {
            number: version.number,
            state: version.state,
            destroy_at: Moment::from_wire(version.destroy_at),
            created_at: Moment::from_wire(version.created_at),
            imported: version.imported,
            public_key: (!public.is_empty()).then(|| pem::encode("PUBLIC KEY", public)),
        }
    }
}

impl KeyView {
    /// `enabled`, or what else and when.
    fn condition(state: &str, destroy_at: Option<Moment>, page: &Page) -> String {
        match destroy_at {
            Some(at) => format!("to be destroyed {}", page.time(at)),
            None => state.to_owned(),
        }
    }
}

impl View for KeyView {
    fn draw(&self, page: &mut Page) {
        let seconds = |seconds: u32| duration::format(seconds.into());
        let yes = |is: bool, what: &str| if is { what.to_owned() } else { String::new() };
        let rotation = match (self.rotation, self.next_rotation) {
            (Some(period), Some(next)) => format!("every {}, next {}", seconds(period), page.time(next)),
            _ => "by hand".to_owned(),
        };
        let lease = format!(
            "{}, {} messages, {} bytes; {}",
            seconds(self.lease_age),
            self.lease_messages,
            self.lease_bytes,
            match self.local.as_str() {
                "never" => "none are given".to_owned(),
                local => format!("in the {local}, for {} without word", seconds(self.max_stale)),
            }
        );
        let labels = self.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
        page.record([
            ("name", some(&self.name)),
            ("aliases", self.aliases.clone()),
            ("id", some(&self.id)),
            ("type", some(&self.r#type)),
            ("state", some(Self::condition(&self.state, self.destroy_at, page))),
            (
                "born",
                some(
                    [
                        yes(self.exportable, "exportable"),
                        yes(self.convergent, "convergent"),
                        yes(self.external, "external: in a PKCS#11 device"),
                    ]
                    .join(" ")
                    .trim(),
                ),
            ),
            ("primary", some(self.primary.to_string())),
            ("encrypts from", some(self.min_encrypt.to_string())),
            ("decrypts from", some(self.min_decrypt.to_string())),
            ("rotation", some(rotation)),
            ("leases", some(lease)),
            ("audit", some(yes(self.audit_sync, "before it is executed"))),
            ("sites", self.sites.clone()),
            ("labels", labels),
        ]);
        page.gap();
        let rows: Vec<_> = self
            .versions
            .iter()
            .map(|version| {
                [
                    version.number.to_string(),
                    Self::condition(&version.state, version.destroy_at, page),
                    yes(version.imported, "imported"),
                    page.time_or(version.created_at, ""),
                ]
            })
            .collect();
        page.table(["VERSION", "STATE", "ORIGIN", "CREATED"], rows);
    }

    fn names(&self) -> Vec<String> {
        vec![self.name.clone()]
    }
}

/// Keys.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub struct KeyList(pub Vec<KeyView>);

impl View for KeyList {
    fn draw(&self, page: &mut Page) {
        let sites = |sites: &[String]| if sites.is_empty() { "all".to_owned() } else { sites.join(", ") };
        let rows: Vec<_> = self
            .0
            .iter()
            .map(|key| {
                [
                    key.name.clone(),
                    key.r#type.clone(),
                    KeyView::condition(&key.state, key.destroy_at, page),
                    key.primary.to_string(),
                    key.versions.len().to_string(),
                    sites(&key.sites),
                    page.time_or(key.next_rotation, "by hand"),
                ]
            })
            .collect();
        page.table(["NAME", "TYPE", "STATE", "PRIMARY", "VERSIONS", "SITES", "ROTATES"], rows);
    }

    fn names(&self) -> Vec<String> {
        self.0.iter().map(|key| key.name.clone()).collect()
    }
}

/// A secret that was exported: the only view that shows one.
#[derive(Serialize)]
pub struct ExportView {
    version: u32,
    r#type: String,
    /// Base64 of the bytes of a symmetric key; PEM of a key pair.
    #[serde(serialize_with = "shown")]
    material: Zeroizing<String>,
}

impl std::fmt::Debug for ExportView {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ExportView").field("version", &self.version).finish_non_exhaustive()
    }
}

impl From<admin::ExportKeyResponse> for ExportView {
    fn from(exported: admin::ExportKeyResponse) -> Self {
        let pair = ["ecdsa-", "ed25519", "rsa-"].iter().any(|kind| exported.r#type.starts_with(kind));
        let material = if pair {
            pem::encode("PRIVATE KEY", &exported.material)
        } else {
            Base64::encode_string(&exported.material)
        };
        Self { version: exported.version, r#type: exported.r#type, material: Zeroizing::new(material) }
    }
}

impl View for ExportView {
    fn draw(&self, page: &mut Page) {
        self.material.lines().for_each(|line| page.line(line));
    }

    fn names(&self) -> Vec<String> {
        vec![self.material.trim_end().to_owned()]
    }
}

/// It was asked for.
fn shown<S: serde::Serializer>(material: &Zeroizing<String>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(material)
}

/// A grant.
#[derive(Debug, Serialize)]
pub struct GrantView {
    id: String,
    key: String,
    spiffe_id: String,
    operations: Vec<String>,
    context: BTreeMap<String, String>,
    expires_at: Option<Moment>,
    granted_by: String,
    granted_at: Option<Moment>,
}

impl From<admin::KeyGrant> for GrantView {
    fn from(grant: admin::KeyGrant) -> Self {
        Self {
            id: grant.id,
            key: grant.key,
            spiffe_id: grant.spiffe_id,
            operations: grant.operations,
            context: grant.context,
            expires_at: Moment::from_wire(grant.expires_at),
            granted_by: grant.granted_by,
            granted_at: Moment::from_wire(grant.granted_at),
        }
    }
}

/// Grants.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub struct GrantList(pub Vec<GrantView>);

impl View for GrantList {
    fn draw(&self, page: &mut Page) {
        let rows: Vec<_> = self
            .0
            .iter()
            .map(|grant| {
                [
                    grant.id.clone(),
                    grant.key.clone(),
                    grant.spiffe_id.clone(),
                    grant.operations.join(" "),
                    grant
                        .context
                        .iter()
                        .map(|(name, value)| format!("{name}={value}"))
                        .collect::<Vec<_>>()
                        .join(" "),
                    page.time_or(grant.expires_at, "never"),
                    grant.granted_by.clone(),
                ]
            })
            .collect();
        page.table(["ID", "KEY", "TO", "CAN", "CONTEXT", "EXPIRES", "BY"], rows);
    }

    fn names(&self) -> Vec<String> {
        self.0.iter().map(|grant| grant.id.clone()).collect()
    }
}
