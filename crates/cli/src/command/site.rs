//! `site list|show|put|quarantine|release|delete`.

use std::{io::Read as _, path::PathBuf};

use bonafide_wire::{
    admin::{DeleteRequest, ListSitesRequest, PutSiteRequest},
    types::{Scope, Selector, Site},
};
use bytes::Bytes;

use crate::{
    Console, Failure,
    admin::{self, Client, WaitArgs, idempotency_key},
    command::revoke::{self, CommonArgs},
    duration, pem,
    socket::AdminSocket,
    view::site::{SiteList, SiteView},
};

/// Sites: what each place can ever obtain.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum SiteCommand {
    /// List the sites
    #[command(alias = "ls")]
    List {
        /// The authority.
        #[command(flatten)]
        socket: AdminSocket,
    },
    /// Show one site
    Show {
        /// Its name
        name: String,
        /// The authority.
        #[command(flatten)]
        socket: AdminSocket,
    },
    /// Create a site, or replace it whole
    Put(Box<PutArgs>),
    /// Issue nothing at a site, and let peers refuse all that was issued there, until it is released
    Quarantine {
        /// Its name
        name: String,
        /// Reason and authority.
        #[command(flatten)]
        common: CommonArgs,
    },
    /// End a quarantine
    Release {
        /// Its name
        name: String,
        /// Whether to wait for agents.
        #[command(flatten)]
        wait: WaitArgs,
        /// The authority.
        #[command(flatten)]
        socket: AdminSocket,
    },
    /// Delete sites; refused while something still belongs to them
    #[command(alias = "rm")]
    Delete {
        /// Their names
        #[arg(required = true)]
        names: Vec<String>,
        /// Whether to wait for agents.
        #[command(flatten)]
        wait: WaitArgs,
        /// The authority.
        #[command(flatten)]
        socket: AdminSocket,
    },
}

/// A site, as flags.
#[derive(Clone, Debug, clap::Args)]
pub struct PutArgs {
    /// Its name
    name: String,
    /// SPIFFE IDs that it can obtain: `*` is one segment, `/**` at the end one or more
    #[arg(long = "spiffe-id", value_name = "PATTERN", required = true)]
    spiffe_ids: Vec<String>,
    /// DNS names that it can obtain: `api.example.org` or `*.example.org`
    #[arg(long = "dns", value_name = "PATTERN")]
    dns_names: Vec<String>,
    /// Labels that it can obtain; `*` as value is any
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = label)]
    labels: Vec<Selector>,
    /// Sites that identities of this one may administer
    #[arg(long = "admin", value_name = "SITE")]
    admin: Vec<String>,
    /// Longest lifetime of an X509-SVID
    #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = duration::parse)]
    max_x509_ttl: u32,
    /// Longest lifetime of a JWT-SVID
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = duration::parse)]
    max_jwt_ttl: u32,
    /// Lifetime of X509-SVIDs whose registration names none [default: the shorter of 1h and the longest]
    #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
    x509_ttl: Option<u32>,
    /// Lifetime of JWT-SVIDs whose registration names none [default: the shorter of 5m and the longest]
    #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
    jwt_ttl: Option<u32>,
    /// Signatures that its agents may ask for, per second [default: the authority's]
    #[arg(long, value_name = "RATE", default_value_t = 0, hide_default_value = true)]
    signatures_per_second: u32,
    /// Attestations that its nodes may ask for, per second [default: the authority's]
    #[arg(long, value_name = "RATE", default_value_t = 0, hide_default_value = true)]
    attestations_per_second: u32,
    /// Admit nodes by certificates of these roots (a PEM file of certificates; several files, several roots)
    #[arg(long = "x509pop-root", value_name = "FILE")]
    x509pop_roots: Vec<PathBuf>,
    /// Refuse if the site exists
    #[arg(long)]
    create_only: bool,
    /// Whether to wait for agents.
    #[command(flatten)]
    wait: WaitArgs,
    /// The authority.
    #[command(flatten)]
    socket: AdminSocket,
}

/// Runs the command.
///
/// # Errors
/// What the authority refuses, and sockets that do not answer.
pub async fn run(command: SiteCommand, console: &Console) -> Result<(), Failure> {
    match command {
        SiteCommand::List { socket } => {
            let sites = all(&mut admin::connect(&socket.path).await?).await?;
            console.show(&SiteList(sites.into_iter().map(Into::into).collect()))
        }
        SiteCommand::Show { name, socket } => {
            let sites = all(&mut admin::connect(&socket.path).await?).await?;
            match sites.into_iter().find(|site| site.name == name) {
                Some(site) => console.show(&SiteView::from(site)),
                None => Err(Failure::of(
                    "site.unknown",
                    format!("there is no site `{name}`"),
                    "`bonafide site list` names them all",
                )),
            }
        }
        SiteCommand::Quarantine { name, common } => revoke::quarantine(name, common, console).await,
        SiteCommand::Release { name, wait, socket } => revoke::release(name, wait, socket, console).await,
        SiteCommand::Put(arguments) => put(*arguments, console).await,
        SiteCommand::Delete { names, wait, socket } => {
            let mut client = admin::connect(&socket.path).await?;
            let mut revision = 0;
            for name in names {
                let request = DeleteRequest { name: name.clone(), idempotency_key: idempotency_key() };
                revision = client.delete_site(request).await?.into_inner().revision;
                console.note(format!("deleted site `{name}`"));
            }
            wait.finish(console, &mut client, revision).await
        }
    }
}

/// Every site that the caller may see.
///
/// # Errors
/// What the authority refuses.
pub async fn all(client: &mut Client) -> Result<Vec<Site>, Failure> {
    let mut found = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = ListSitesRequest { page_size: admin::PAGE, page_token };
        let page = client.list_sites(request).await?.into_inner();
        found.extend(page.sites);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return Ok(found);
        }
    }
}

/// The site that was named, or the only one there is.
///
/// # Errors
/// A usage error when none was named and there is not exactly one.
pub async fn named_or_only(client: &mut Client, name: Option<String>) -> Result<String, Failure> {
    if let Some(name) = name {
        return Ok(name);
    }
    let mut names: Vec<String> = all(client).await?.into_iter().map(|site| site.name).collect();
    match (names.pop(), names.len()) {
        (None, _) => Err(Failure::usage("there is no site yet", "create one with `bonafide site put`")),
        (Some(only), 0) => Ok(only),
        (Some(last), _) => {
            names.push(last);
            Err(Failure::usage("there are several sites", format!("name one of them: {}", names.join(", "))))
        }
    }
}

async fn put(arguments: PutArgs, console: &Console) -> Result<(), Failure> {
    let x509pop_roots = roots(&arguments.x509pop_roots)?;
    let mut client = admin::connect(&arguments.socket.path).await?;
    let site = Site {
        name: arguments.name,
        default_x509_ttl: arguments.x509_ttl.unwrap_or(3_600.min(arguments.max_x509_ttl)),
        default_jwt_ttl: arguments.jwt_ttl.unwrap_or(300.min(arguments.max_jwt_ttl)),
        scope: Some(Scope {
            spiffe_ids: arguments.spiffe_ids,
            dns_names: arguments.dns_names,
            labels: arguments.labels,
            max_x509_ttl: arguments.max_x509_ttl,
            max_jwt_ttl: arguments.max_jwt_ttl,
            admin: arguments.admin,
            signatures_per_second: arguments.signatures_per_second,
            attestations_per_second: arguments.attestations_per_second,
        }),
        x509pop_roots,
        ..Site::default()
    };
    let request = PutSiteRequest {
        site: Some(site),
        idempotency_key: idempotency_key(),
        create_only: arguments.create_only,
    };
    let written = client.put_site(request).await?.into_inner();
    console.show(&SiteView::from(written.site.unwrap_or_default()))?;
    arguments.wait.finish(console, &mut client, written.revision).await
}

/// Every certificate of these files. A file with anything else in it, a key above all, was named by mistake.
fn roots(files: &[PathBuf]) -> Result<Vec<Bytes>, Failure> {
    let mut roots = Vec::new();
    for path in files {
        let unfit = |what: &dyn std::fmt::Display| {
            Failure::of(
                "site.x509pop-root",
                format!("{}: {what}", path.display()),
                "name a PEM file with the certificates of authorities, and nothing else",
            )
        };
        let file = std::fs::File::open(path).map_err(|source| Failure::read(path, source))?;
        let mut text = String::new();
        let limit = pem::MAX_INPUT as u64;
        file.take(limit).read_to_string(&mut text).map_err(|source| Failure::read(path, source))?;
        let blocks = pem::decode(&text).map_err(|cause| unfit(&cause))?;
        if blocks.is_empty() {
            return Err(unfit(&"there is no certificate in it"));
        }
        for block in blocks {
            if block.label != "CERTIFICATE" {
                return Err(unfit(&format_args!("there is a `{}` in it", block.label)));
            }
            roots.push(Bytes::from(block.der));
        }
    }
    Ok(roots)
}

/// `key=value`.
pub(crate) fn label(text: &str) -> Result<Selector, String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() && !value.is_empty() => {
            Ok(Selector { key: key.to_owned(), value: value.to_owned() })
        }
        _ => Err("expected `key=value`".into()),
    }
}
