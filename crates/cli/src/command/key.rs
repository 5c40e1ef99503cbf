//! `key create|import|list|show|rotate|config|disable|enable|destroy|restore|trim|alias|export|delete|grant|grants|revoke-grant`.

use std::{
    collections::BTreeMap,
    io::Read as _,
    path::{Path, PathBuf},
};

use bonafide_identity::SpiffeId;
use bonafide_wire::admin::{
    ChangeKeyRequest, CreateKeyRequest, DeleteRequest, DestroyKey, ExportKeyRequest, GrantKeyRequest, Key,
    KeySettings, KeyTarget, ListKeyGrantsRequest, ListKeysRequest, RotateKey, StringMap, StringSet,
    change_key_request::Change,
};
use bonafide_wire::types::Selector;
use zeroize::Zeroizing;

use super::site;
use crate::{
    Console, Failure,
    admin::{self, Client, idempotency_key},
    duration, pem,
    socket::AdminSocket,
    view::key::{ExportView, GrantList, GrantView, KeyList, KeyView},
};

/// No key is larger, in whatever form it is written.
const MAX_MATERIAL: u64 = 64 * 1024;

/// Keys that workloads use and never see.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum KeyCommand {
    /// Make a key; every server of the trust domain has it at once
    Create(CreateArgs),
    /// Make a key of material that was made elsewhere
    Import(ImportArgs),
    /// List keys
    #[command(alias = "ls")]
    List {
        /// The authority.
        #[command(flatten)]
        socket: AdminSocket,
    },
    /// Show a key with all its versions
    Show(NameArgs),
    /// Add a version, and use it from now on; older ones still decrypt and verify
    Rotate {
        /// Take the new version from this file instead of drawing it; `-` is standard input
        #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
        material: Option<PathBuf>,
        /// Which.
        #[command(flatten)]
        key: NameArgs,
    },
    /// Change settings of a key; what is not named stays
    Config {
        /// What to set.
        #[command(flatten)]
        settings: Box<SettingsArgs>,
        /// Which.
        #[command(flatten)]
        key: NameArgs,
    },
    /// Take a key, or a version, out of use; `enable` brings it back
    Disable(TargetArgs),
    /// Take a key, or a version, into use again
    Enable(TargetArgs),
    /// Take a key, or a version, out of use, and destroy it after a time of grace
    Destroy {
        /// How long `restore` can still cancel it: an hour at least
        #[arg(long, value_name = "DURATION", default_value = "7d", value_parser = duration::parse)]
        grace: u32,
        /// Which.
        #[command(flatten)]
        target: TargetArgs,
    },
    /// Cancel a destruction; the key, or version, is disabled then
    Restore(TargetArgs),
    /// Take all versions below one away, for ever: what is encrypted under them is lost
    Trim {
        /// The first version that stays
        #[arg(long, value_name = "VERSION")]
        below: u32,
        /// Which.
        #[command(flatten)]
        key: NameArgs,
    },
    /// Give a key another name besides, or take it away
    Alias {
        /// Take it away
        #[arg(long)]
        remove: bool,
        /// Which.
        #[command(flatten)]
        key: NameArgs,
        /// The other name
        alias: String,
    },
    /// Print the secret of a version, of a key that was created with --exportable
    Export {
        /// Which version [default: the primary]
        #[arg(long, value_name = "VERSION", default_value_t = 0, hide_default_value = true)]
        key_version: u32,
        /// Which.
        #[command(flatten)]
        key: NameArgs,
    },
    /// Forget a key that was destroyed: its name is free again
    #[command(alias = "rm")]
    Delete(NameArgs),
    /// Let a workload use a key for a while; for what lasts, write a policy
    Grant(GrantArgs),
    /// List grants
    Grants {
        /// Only those on this key
        key: Option<String>,
        /// The authority.
        #[command(flatten)]
        socket: AdminSocket,
    },
    /// Take grants back at once
    RevokeGrant {
        /// Their IDs
        #[arg(required = true)]
        ids: Vec<String>,
        /// The authority.
        #[command(flatten)]
        socket: AdminSocket,
    },
}

/// One key.
#[derive(Clone, Debug, clap::Args)]
pub struct NameArgs {
    /// Its name, or an alias
    name: String,
    /// The authority.
    #[command(flatten)]
    socket: AdminSocket,
}

/// A key, or one version of it.
#[derive(Clone, Debug, clap::Args)]
pub struct TargetArgs {
    /// Only this version [default: the key as a whole]
    #[arg(long, value_name = "VERSION", default_value_t = 0, hide_default_value = true)]
    key_version: u32,
    /// Which.
    #[command(flatten)]
    key: NameArgs,
}

/// What a key is born with.
#[derive(Clone, Debug, clap::Args)]
pub struct CreateArgs {
    /// `aes128-gcm`, `aes256-gcm`, `chacha20-poly1305`, `hmac-sha256` (384, 512), `ecdsa-p256` (p384, p521), `ed25519`,
    /// `rsa-2048` (3072, 4096), `ml-dsa-65`, `ml-kem-768`
    #[arg(long = "type", value_name = "TYPE", default_value = "aes256-gcm")]
    key_type: String,
    /// The key itself may be given out; never to be changed
    #[arg(long)]
    exportable: bool,
    /// The same plaintext in the same context gives the same ciphertext; never to be changed
    #[arg(long)]
    convergent: bool,
    /// The private half is drawn in the server's PKCS#11 device, and never leaves it; never to be changed
    #[arg(long, conflicts_with_all = ["exportable", "convergent"])]
    external: bool,
    /// Another name besides; can be repeated
    #[arg(long = "alias", value_name = "NAME")]
    aliases: Vec<String>,
    /// What else to set.
    #[command(flatten)]
    settings: Box<SettingsArgs>,
    /// Which.
    #[command(flatten)]
    key: NameArgs,
}

/// A key that was made elsewhere.
#[derive(Clone, Debug, clap::Args)]
pub struct ImportArgs {
    /// The raw bytes of a symmetric key; PKCS#8 of a key pair, as PEM or DER; `-` is standard input
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    material: PathBuf,
    /// What it is born with.
    #[command(flatten)]
    create: CreateArgs,
}

/// What can be set at any time.
#[derive(Clone, Debug, clap::Args)]
pub struct SettingsArgs {
    /// The version that encrypts and signs
    #[arg(long, value_name = "VERSION")]
    primary: Option<u32>,
    /// The oldest version that encrypts and signs when it is asked to
    #[arg(long, value_name = "VERSION")]
    min_encrypt: Option<u32>,
    /// The oldest version that decrypts and verifies
    #[arg(long, value_name = "VERSION")]
    min_decrypt: Option<u32>,
    /// Add a version so often, an hour at least; `0s`: only by hand
    #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
    rotate_every: Option<u32>,
    /// Where leased data keys may be used: `process`, `agent`, `never`
    #[arg(long, value_name = "WHERE")]
    local: Option<String>,
    /// For how long who holds a lease, or serves the key, may have heard nothing
    #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
    max_stale: Option<u32>,
    /// How old a lease gets
    #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
    lease_age: Option<u32>,
    /// Messages under one lease
    #[arg(long, value_name = "COUNT")]
    lease_messages: Option<u64>,
    /// Bytes under one lease
    #[arg(long, value_name = "COUNT")]
    lease_bytes: Option<u64>,
    /// Whether operations are on the disk before they are executed, and not only before they are answered
    #[arg(long, value_name = "BOOL")]
    audit_sync: Option<bool>,
    /// Only for workloads of this site; can be repeated
    #[arg(long = "site", value_name = "SITE")]
    sites: Vec<String>,
    /// For workloads of all sites again
    #[arg(long, conflicts_with = "sites")]
    all_sites: bool,
    /// Policies find it by these; can be repeated, and replaces those that it has
    #[arg(long = "label", short = 'l', value_name = "KEY=VALUE", value_parser = site::label)]
    labels: Vec<Selector>,
}

/// A grant.
#[derive(Clone, Debug, clap::Args)]
pub struct GrantArgs {
    /// Who may use it
    #[arg(long, value_name = "SPIFFE_ID")]
    to: SpiffeId,
    /// What he may do: `encrypt`, `decrypt`, `sign`, ...; can be repeated
    #[arg(long = "can", value_name = "OPERATION", required = true)]
    operations: Vec<String>,
    /// Only with a context that says this; can be repeated
    #[arg(long = "context", value_name = "NAME=VALUE", value_parser = site::label)]
    context: Vec<Selector>,
    /// For how long
    #[arg(long = "for", value_name = "DURATION", default_value = "1h", value_parser = duration::parse)]
    ttl: u32,
    /// Which.
    #[command(flatten)]
    key: NameArgs,
}

impl SettingsArgs {
    fn settings(self) -> KeySettings {
        let sites = !self.sites.is_empty() || self.all_sites;
        let labels = !self.labels.is_empty();
        KeySettings {
            primary: self.primary,
            min_encrypt: self.min_encrypt,
            min_decrypt: self.min_decrypt,
            rotation: self.rotate_every,
            local: self.local,
            max_stale: self.max_stale,
            max_age: self.lease_age,
            max_messages: self.lease_messages,
            max_bytes: self.lease_bytes,
            audit_sync: self.audit_sync,
            sites: sites.then_some(StringSet { values: self.sites }),
            labels: labels.then(|| StringMap { values: pairs(self.labels) }),
        }
    }
}

/// Runs the command.
///
/// # Errors
/// What the authority refuses, files that can't be read, and sockets that do not answer.
pub async fn run(command: KeyCommand, console: &Console) -> Result<(), Failure> {
    match command {
        KeyCommand::Create(create) => make(create, None, console).await,
        KeyCommand::Import(ImportArgs { material, create }) => {
            let material = read_material(&material)?;
            make(create, Some(material), console).await
        }
        KeyCommand::List { socket } => {
            let mut client = admin::connect(&socket.path).await?;
            let keys = all(&mut client).await?;
            console.show(&KeyList(keys.into_iter().map(Into::into).collect()))
        }
        KeyCommand::Show(key) => {
            let mut client = admin::connect(&key.socket.path).await?;
            let request = ListKeysRequest { name: key.name, ..ListKeysRequest::default() };
            let found = client.list_keys(request).await?.into_inner().keys;
            found.into_iter().next().map_or(Ok(()), |key| console.show(&KeyView::from(key)))
        }
        KeyCommand::Rotate { material, key } => {
            let material = material.as_deref().map(read_material).transpose()?;
            let material = material.map(bytes::Bytes::from_owner).unwrap_or_default();
            change(key, Change::Rotate(RotateKey { material }), "rotated", console).await
        }
        KeyCommand::Config { settings, key } => {
            change(key, Change::Configure(settings.settings()), "changed", console).await
        }
        KeyCommand::Disable(TargetArgs { key_version: version, key }) => {
            change(key, Change::Disable(KeyTarget { version }), "disabled", console).await
        }
        KeyCommand::Enable(TargetArgs { key_version: version, key }) => {
            change(key, Change::Enable(KeyTarget { version }), "enabled", console).await
        }
        KeyCommand::Destroy { grace, target: TargetArgs { key_version: version, key } } => {
            let done = "is scheduled for destruction";
            change(key, Change::Destroy(DestroyKey { version, grace }), done, console).await
        }
        KeyCommand::Restore(TargetArgs { key_version: version, key }) => {
            change(key, Change::Restore(KeyTarget { version }), "restored, and is disabled", console).await
        }
        KeyCommand::Trim { below, key } => change(key, Change::Trim(below), "trimmed", console).await,
        KeyCommand::Alias { remove, alias, key } => {
            let wanted = if remove { Change::RemoveAlias(alias) } else { Change::AddAlias(alias) };
            change(key, wanted, "changed", console).await
        }
        KeyCommand::Export { key_version: version, key } => {
            let mut client = admin::connect(&key.socket.path).await?;
            let request = ExportKeyRequest { name: key.name, version };
            console.show(&ExportView::from(client.export_key(request).await?.into_inner()))
        }
        KeyCommand::Delete(key) => {
            let mut client = admin::connect(&key.socket.path).await?;
            let request = DeleteRequest { name: key.name.clone(), idempotency_key: idempotency_key() };
            client.delete_key(request).await?;
            console.note(format!("deleted key `{}`", key.name));
            Ok(())
        }
        KeyCommand::Grant(GrantArgs { to, operations, context, ttl, key }) => {
            let mut client = admin::connect(&key.socket.path).await?;
            let request = GrantKeyRequest {
                key: key.name,
                spiffe_id: to.to_string(),
                operations,
                context: pairs(context),
                ttl,
                idempotency_key: idempotency_key(),
            };
            let grant = client.grant_key(request).await?.into_inner().grant;
            grant.map_or(Ok(()), |grant| console.show(&GrantList(vec![GrantView::from(grant)])))
        }
        KeyCommand::Grants { key, socket } => {
            let mut client = admin::connect(&socket.path).await?;
            let request = ListKeyGrantsRequest { key: key.unwrap_or_default() };
            let grants = client.list_key_grants(request).await?.into_inner().grants;
            console.show(&GrantList(grants.into_iter().map(Into::into).collect()))
        }
        KeyCommand::RevokeGrant { ids, socket } => {
            let mut client = admin::connect(&socket.path).await?;
            for id in ids {
                let request = DeleteRequest { name: id.clone(), idempotency_key: idempotency_key() };
                client.revoke_key_grant(request).await?;
                console.note(format!("took grant `{id}` back"));
            }
            Ok(())
        }
    }
}

fn pairs(selectors: Vec<Selector>) -> BTreeMap<String, String> {
    selectors.into_iter().map(|pair| (pair.key, pair.value)).collect()
}

async fn make(
    create: CreateArgs,
    material: Option<Zeroizing<Vec<u8>>>,
    console: &Console,
) -> Result<(), Failure> {
    let CreateArgs { key_type, exportable, convergent, external, aliases, settings, key } = create;
    let mut client = admin::connect(&key.socket.path).await?;
    let request = CreateKeyRequest {
        name: key.name,
        r#type: key_type,
        exportable,
        convergent,
        external,
        settings: Some(settings.settings()),
        aliases,
        material: material.map(bytes::Bytes::from_owner).unwrap_or_default(),
        idempotency_key: idempotency_key(),
        ..CreateKeyRequest::default()
    };
    let made = client.create_key(request).await?.into_inner().key;
    made.map_or(Ok(()), |key| console.show(&KeyView::from(key)))
}

async fn change(key: NameArgs, wanted: Change, done: &str, console: &Console) -> Result<(), Failure> {
    let mut client = admin::connect(&key.socket.path).await?;
    let request =
        ChangeKeyRequest { name: key.name.clone(), change: Some(wanted), idempotency_key: idempotency_key() };
    let changed = client.change_key(request).await?.into_inner().key;
    console.note(format!("key `{}` {done}", key.name));
    changed.map_or(Ok(()), |key| console.show(&KeyView::from(key)))
}

/// Every key that the caller may see, page by page.
pub(super) async fn all(client: &mut Client) -> Result<Vec<Key>, Failure> {
    let mut found = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = ListKeysRequest { name: String::new(), page_size: admin::PAGE, page_token };
        let page = client.list_keys(request).await?.into_inner();
        found.extend(page.keys);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return Ok(found);
        }
    }
}

/// Bytes of a key: of a file in PEM the first block, of any other one all.
fn read_material(path: &Path) -> Result<Zeroizing<Vec<u8>>, Failure> {
    let mut content = Zeroizing::new(Vec::with_capacity(MAX_MATERIAL as usize));
    let failed = |source| Failure::read(path, source);
    if path == Path::new("-") {
        std::io::stdin().take(MAX_MATERIAL).read_to_end(&mut content).map_err(failed)?;
    } else {
        let file = std::fs::File::open(path).map_err(failed)?;
        file.take(MAX_MATERIAL).read_to_end(&mut content).map_err(failed)?;
    }
    let block =
        std::str::from_utf8(&content).ok().and_then(|text| pem::decode(text).ok()?.into_iter().next());
    Ok(block.map_or(content, |block| Zeroizing::new(block.der)))
}
