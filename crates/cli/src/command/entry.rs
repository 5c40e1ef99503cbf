//! `entry create|list|show|delete`: who gets which identity. Rules are entries with a template.

use std::{collections::BTreeMap, fmt::Write as _};

use bonafide_attest::{Selector, SelectorError, catalog};
use bonafide_wire::{
    admin::{DeleteRequest, ListRegistrationsRequest, PutRegistrationRequest},
    types::{self, Registration, registration::Kind},
};

use super::site;
use crate::{
    Console, Failure,
    admin::{self, Client, WaitArgs, idempotency_key},
    duration,
    socket::AdminSocket,
    view::registration::{RegistrationList, RegistrationView},
};

/// Registrations: who gets which identity.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum EntryCommand {
    /// Give an identity to the processes with these selectors
    Create(Box<CreateArgs>),
    /// List the entries and rules
    #[command(alias = "ls")]
    List {
        /// Only those of this site
        #[arg(long)]
        site: Option<String>,
        /// Only those for this SPIFFE ID or template
        #[arg(long)]
        spiffe_id: Option<String>,
        /// The authority.
        #[command(flatten)]
        socket: AdminSocket,
    },
    /// Show one entry or rule
    Show {
        /// Its ID
        id: String,
        /// The authority.
        #[command(flatten)]
        socket: AdminSocket,
    },
    /// Delete entries or rules; the identities they gave end
    #[command(alias = "rm")]
    Delete {
        /// Their IDs
        #[arg(required = true)]
        ids: Vec<String>,
        /// Whether to wait for agents.
        #[command(flatten)]
        wait: WaitArgs,
        /// The authority.
        #[command(flatten)]
        socket: AdminSocket,
    },
}

/// An entry or rule, as flags.
#[derive(Clone, Debug, clap::Args)]
pub struct CreateArgs {
    /// The identity; with --rule a template such as `spiffe://example.org/user/{unix.user}`
    spiffe_id: String,
    /// The identity is a template, filled in from what is attested of each process
    #[arg(long)]
    rule: bool,
    /// What must be attested of the process: `unix.uid:1000`, `systemd.id:web.service`, `docker.image_id:sha256:…` (all of
    /// those given; `--help` names every key)
    #[arg(long = "selector", short = 's', value_name = "KEY:VALUE", required = true, value_parser = selector, long_help = selector_help())]
    selectors: Vec<types::Selector>,
    /// The site whose evidence earns it [default: the only one]
    #[arg(long)]
    site: Option<String>,
    /// The ID of the entry [default: drawn by the authority]
    #[arg(long)]
    id: Option<String>,
    /// SPIFFE ID of the one agent that may host it [default: every agent of the site]
    #[arg(long, value_name = "SPIFFE-ID")]
    parent: Option<String>,
    /// Lifetime of its X509-SVIDs [default: the site's]
    #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
    x509_ttl: Option<u32>,
    /// Lifetime of its JWT-SVIDs [default: the site's]
    #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
    jwt_ttl: Option<u32>,
    /// DNS names in its X509-SVIDs
    #[arg(long = "dns", value_name = "NAME")]
    dns_names: Vec<String>,
    /// Labels certified in its X509-SVIDs
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = site::label)]
    labels: Vec<types::Selector>,
    /// Sites that it may administer
    #[arg(long = "admin", value_name = "SITE")]
    admin: Vec<String>,
    /// Tells several identities of one process apart
    #[arg(long, default_value = "", hide_default_value = true)]
    hint: String,
    /// The entry itself ends after this time [default: never]
    #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
    expires_in: Option<u32>,
    /// Replace the entry whose --id this is, instead of refusing
    #[arg(long, requires = "id")]
    replace: bool,
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
pub async fn run(command: EntryCommand, console: &Console) -> Result<(), Failure> {
    match command {
        EntryCommand::Create(arguments) => create(*arguments, console).await,
        EntryCommand::List { site, spiffe_id, socket } => {
            let mut client = admin::connect(&socket.path).await?;
            let found = all(&mut client, site.unwrap_or_default(), spiffe_id.unwrap_or_default()).await?;
            console.show(&RegistrationList(found.into_iter().map(Into::into).collect()))
        }
        EntryCommand::Show { id, socket } => {
            let mut client = admin::connect(&socket.path).await?;
            let found = all(&mut client, String::new(), String::new()).await?;
            match found.into_iter().find(|registration| registration.id == id) {
                Some(registration) => console.show(&RegistrationView::from(registration)),
                None => Err(Failure::of(
                    "registration.unknown",
                    format!("there is no entry or rule `{id}`"),
                    "`bonafide entry list` names them all",
                )),
            }
        }
        EntryCommand::Delete { ids, wait, socket } => {
            let mut client = admin::connect(&socket.path).await?;
            let mut revision = 0;
            for id in ids {
                let request = DeleteRequest { name: id.clone(), idempotency_key: idempotency_key() };
                revision = client.delete_registration(request).await?.into_inner().revision;
                console.note(format!("deleted `{id}`"));
            }
            wait.finish(console, &mut client, revision).await
        }
    }
}

async fn create(arguments: CreateArgs, console: &Console) -> Result<(), Failure> {
    if !arguments.rule && arguments.spiffe_id.contains('{') {
        return Err(Failure::usage(
            format!("`{}` is a template, not a SPIFFE ID", arguments.spiffe_id),
            "add --rule to make IDs from what is attested",
        ));
    }
    let mut labels = BTreeMap::new();
    for label in arguments.labels {
        if let Some(twice) = labels.insert(label.key.clone(), label.value) {
            return Err(Failure::usage(
                format!("the label `{}` is given twice", label.key),
                format!("give it once: it already is `{twice}`"),
            ));
        }
    }
    for key in arguments.selectors.iter().map(|selector| &selector.key).filter(|key| !catalog::is_known(key))
    {
        console.note(catalog::unknown(key));
    }
    let mut client = admin::connect(&arguments.socket.path).await?;
    let kind = if arguments.rule { Kind::Rule } else { Kind::Entry };
    let registration = Registration {
        id: arguments.id.unwrap_or_default(),
        kind: kind.into(),
        site: site::named_or_only(&mut client, arguments.site).await?,
        spiffe_id: arguments.spiffe_id,
        parent: arguments.parent.unwrap_or_default(),
        selectors: arguments.selectors,
        x509_ttl: arguments.x509_ttl.unwrap_or(0),
        jwt_ttl: arguments.jwt_ttl.unwrap_or(0),
        dns_names: arguments.dns_names,
        admin: arguments.admin,
        hint: arguments.hint,
        labels,
        expires_at: arguments.expires_in.map_or(0, |seconds| console.now().0.saturating_add(seconds.into())),
        ..Registration::default()
    };
    let request = PutRegistrationRequest {
        registration: Some(registration),
        idempotency_key: idempotency_key(),
        create_only: !arguments.replace,
    };
    let written = client.put_registration(request).await?.into_inner();
    console.show(&RegistrationView::from(written.registration.unwrap_or_default()))?;
    arguments.wait.finish(console, &mut client, written.revision).await
}

/// Every registration that the caller may see, page by page.
pub(super) async fn all(
    client: &mut Client,
    site: String,
    spiffe_id: String,
) -> Result<Vec<Registration>, Failure> {
    let mut found = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = ListRegistrationsRequest {
            site: site.clone(),
            spiffe_id: spiffe_id.clone(),
            page_size: admin::PAGE,
            page_token: std::mem::take(&mut page_token),
        };
        let page = client.list_registrations(request).await?.into_inner();
        // An empty page that promises another would have us ask for ever.
        let progress = !page.registrations.is_empty();
        found.extend(page.registrations);
        if page.next_page_token.is_empty() || !progress {
            return Ok(found);
        }
        page_token = page.next_page_token;
    }
}

/// Every key that there is.
fn selector_help() -> String {
    let mut help =
        "What must be attested of the process (all of those given). Keys, with what could stand behind them:\n".to_owned();
    for known in catalog::WORKLOAD {
        let _infallible = writeln!(help, "  {}:{}", known.key, known.example);
    }
    help
}

/// `key:value`; the first colon splits.
fn selector(text: &str) -> Result<types::Selector, String> {
    let selector: Selector = text.parse().map_err(|cause: SelectorError| cause.to_string())?;
    Ok(types::Selector { key: selector.key().to_owned(), value: selector.value().to_owned() })
}
