//! `apply`, `diff`, `export`: sites, entries, rules, policies and keys as files.
//!
//! Everything is judged by the authority: a diff and a dry run are the same plan as the apply itself. An apply asks for
//! that plan first, and then for its commit at the very revisions that the plan was made for.

use std::{
    collections::BTreeMap,
    io::{self, BufRead as _, IsTerminal as _},
    path::PathBuf,
};

use bonafide_wire::{
    admin::{Applied, ApplyRequest, ApplyResponse, Compared, applied::Action, resource::Resource as Wire},
    types::registration::Kind,
};

use super::{entry, key, policy::kept, site};
use crate::{
    Console, Failure,
    admin::{self, Client, WaitArgs, idempotency_key},
    resource::{self, Resource, fault, print, source, source::Source, unified},
    socket::AdminSocket,
    text::{clean, count},
    view::apply::ApplyView,
};

/// Deletions that a person may confirm by typing `y`.
const MAX_CONFIRMED: usize = 20;
/// Answers hold what stands and what would stand.
const MAX_ANSWER: usize = 32 * 1024 * 1024;

/// What describes the resources.
#[derive(Clone, Debug, clap::Args)]
pub struct FileArgs {
    /// Files or folders (every `*.yaml` and `*.yml` in it) of resources; `-` is standard input
    #[arg(long = "file", short = 'f', value_name = "FILE", required = true, value_hint = clap::ValueHint::AnyPath)]
    files: Vec<PathBuf>,
    /// Also delete what has the labels of -l and is not in the files
    #[arg(long, requires = "labels")]
    prune: bool,
    /// With --prune: the management label of what the files are all of
    #[arg(long = "label", short = 'l', value_name = "KEY=VALUE", value_parser = site::label, requires = "prune")]
    labels: Vec<bonafide_wire::types::Selector>,
}

/// `apply`.
#[derive(Clone, Debug, clap::Args)]
pub struct ApplyArgs {
    /// The files.
    #[command(flatten)]
    files: FileArgs,
    /// Show what would be done, refusals included, and do nothing
    #[arg(long)]
    dry_run: bool,
    /// Delete without being asked
    #[arg(long, short)]
    yes: bool,
    /// Whether to wait for agents.
    #[command(flatten)]
    wait: WaitArgs,
    /// The authority.
    #[command(flatten)]
    socket: AdminSocket,
}

/// `diff`.
#[derive(Clone, Debug, clap::Args)]
pub struct DiffArgs {
    /// The files.
    #[command(flatten)]
    files: FileArgs,
    /// The authority.
    #[command(flatten)]
    socket: AdminSocket,
}

/// `export`.
#[derive(Clone, Debug, clap::Args)]
pub struct ExportArgs {
    /// Only these kinds
    #[arg(value_enum, value_name = "KIND")]
    kinds: Vec<ExportKind>,
    /// Only this site, and what belongs to it
    #[arg(long)]
    site: Option<String>,
    /// Only what has these management labels
    #[arg(long = "label", short = 'l', value_name = "KEY=VALUE", value_parser = site::label)]
    labels: Vec<bonafide_wire::types::Selector>,
    /// The authority.
    #[command(flatten)]
    socket: AdminSocket,
}

/// What can be exported.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum ExportKind {
    /// What each place can ever obtain.
    #[value(alias = "sites")]
    Site,
    /// One identity each.
    #[value(alias = "entries")]
    Entry,
    /// Identities made of what is attested.
    #[value(alias = "rules")]
    Rule,
    /// Who can do what on which thing, when.
    #[value(alias = "policies")]
    Policy,
    /// Keys of applications, without anything secret.
    #[value(alias = "keys")]
    Key,
}

/// Resources, where they came from, and what the authority says of them.
struct Planned {
    sources: Vec<Source>,
    resources: Vec<Resource>,
    request: ApplyRequest,
    answer: ApplyResponse,
    /// By kind and name: only a dry run tells whether a registration is an entry or a rule.
    titles: BTreeMap<(i32, String), String>,
}

/// Makes sites, entries, rules, policies and keys as the files say.
///
/// # Errors
/// Faults of the files, what the authority refuses, and sockets that do not answer.
pub async fn run(arguments: ApplyArgs, console: &Console) -> Result<(), Failure> {
    let (sources, resources) = read(&arguments.files, console)?;
    let mut client = connect(&arguments.socket).await?;
    let planned = plan(&mut client, &arguments.files, sources, resources).await?;
    planned.warn(console);
    if planned.is_refused() || arguments.dry_run {
        console.show(&planned.view(false))?;
        return planned.refusal(console);
    }
    let differing: Vec<&Applied> =
        planned.answer.results.iter().filter(|result| result.action() != Action::Unchanged).collect();
    if differing.is_empty() {
        console.show(&planned.view(true))?;
        return arguments.wait.finish(console, &mut client, planned.answer.revision).await;
    }
    confirm(&differing, arguments.yes)?;
    let compared = differing.iter().map(|result| compared(result)).collect();
    let request = ApplyRequest {
        dry_run: false,
        compared,
        idempotency_key: idempotency_key(),
        ..planned.request.clone()
    };
    let answer = client.apply(request).await?.into_inner();
    let done = Planned { answer, ..planned };
    console.show(&done.view(done.answer.committed || !done.is_refused()))?;
    done.refusal(console)?;
    arguments.wait.finish(console, &mut client, done.answer.revision).await
}

/// Shows what an apply would change. Ends with [`Failure::Negative`] when there is something, with
/// [`Failure::Trouble`] when it can't be told.
///
/// # Errors
/// See above.
pub async fn diff(arguments: DiffArgs, console: &Console) -> Result<(), Failure> {
    let differs =
        differences(arguments, console).await.map_err(|failure| Failure::Trouble(Box::new(failure)))?;
    if differs { Err(Failure::Negative) } else { Ok(()) }
}

async fn differences(arguments: DiffArgs, console: &Console) -> Result<bool, Failure> {
    let (sources, resources) = read(&arguments.files, console)?;
    let mut client = connect(&arguments.socket).await?;
    let planned = plan(&mut client, &arguments.files, sources, resources).await?;
    planned.warn(console);
    let mut out = String::new();
    for (index, result) in planned.answer.results.iter().enumerate() {
        let side = |resource: &Option<bonafide_wire::admin::Resource>| match resource {
            Some(bonafide_wire::admin::Resource { resource: Some(wire) }) => print::document(wire),
            _ => Ok(String::new()),
        };
        let title = planned.title(index, result);
        let standing = match revision(result) {
            0 => format!("{title} (not there)"),
            revision => format!("{title} (revision {revision})"),
        };
        let described = match planned.place(index) {
            Some(place) => format!("{title} ({place})"),
            None => format!("{title} (pruned)"),
        };
        let (before, after) = (side(&result.before)?, side(&result.after)?);
        out.push_str(&unified::diff((&standing, &before), (&described, &after), console.is_coloured()));
    }
    console.write(out.as_bytes())?;
    planned.refusal(console)?;
    Ok(!out.is_empty())
}

/// Prints what the authority has, as files that `apply` takes back with no difference.
///
/// # Errors
/// What the authority refuses, and sockets that do not answer.
pub async fn export(arguments: ExportArgs, console: &Console) -> Result<(), Failure> {
    let mut client = admin::connect(&arguments.socket.path).await?;
    let labels = pairs(&arguments.labels)?;
    let wanted = |kind| arguments.kinds.is_empty() || arguments.kinds.contains(&kind);
    let labelled =
        |own: &BTreeMap<String, String>| labels.iter().all(|(key, value)| own.get(key) == Some(value));
    let mut resources: Vec<Wire> = Vec::new();
    if wanted(ExportKind::Site) {
        let sites = site::all(&mut client).await?.into_iter();
        let named = |name: &str| arguments.site.as_deref().is_none_or(|only| only == name);
        let sites = sites.filter(|site| named(&site.name) && labelled(&site.management_labels));
        resources.extend(sites.map(Wire::Site));
    }
    if wanted(ExportKind::Entry) || wanted(ExportKind::Rule) {
        let found =
            entry::all(&mut client, arguments.site.clone().unwrap_or_default(), String::new()).await?;
        let now = console.now().0;
        let found = found.into_iter().filter(|own| {
            let kind = if own.kind() == Kind::Rule { ExportKind::Rule } else { ExportKind::Entry };
            // What has expired is about to be removed, and can't be written again.
            let lives = own.expires_at == 0 || own.expires_at > now;
            wanted(kind) && lives && labelled(&own.management_labels)
        });
        resources.extend(found.map(Wire::Registration));
    }
    if wanted(ExportKind::Policy) {
        let found = kept::all(&mut client).await?.into_iter();
        let of_site =
            |sites: &[String]| arguments.site.as_ref().is_none_or(|only| sites.iter().any(|own| own == only));
        let found = found.filter(|policy| of_site(&policy.sites) && labelled(&policy.management_labels));
        resources.extend(found.map(Wire::Policy));
    }
    if wanted(ExportKind::Key) {
        let found = key::all(&mut client).await?.into_iter();
        let of_site =
            |sites: &[String]| arguments.site.as_ref().is_none_or(|only| sites.iter().any(|own| own == only));
        let found = found.filter(|key| {
            let sites = key.settings.as_ref().and_then(|settings| settings.sites.as_ref());
            // What is on its way out is not to be made again.
            let lives = matches!(key.state.as_str(), "enabled" | "disabled");
            lives && of_site(sites.map_or(&[], |sites| &sites.values)) && labelled(&key.management_labels)
        });
        resources.extend(found.map(Wire::Key));
    }
    console.write(print::documents(&resources)?.as_bytes())
}

async fn connect(socket: &AdminSocket) -> Result<Client, Failure> {
    Ok(admin::connect(&socket.path).await?.max_decoding_message_size(MAX_ANSWER))
}

fn read(arguments: &FileArgs, console: &Console) -> Result<(Vec<Source>, Vec<Resource>), Failure> {
    let sources = source::read(&arguments.files)?;
    match resource::read(&sources) {
        Ok(resources) if resources.is_empty() && !arguments.prune => Err(Failure::of(
            "resource.none",
            "there is no resource in the files",
            "a resource begins with `kind: Site`, `Entry`, `Rule`, `Policy` or `Key`",
        )),
        Ok(resources) => Ok((sources, resources)),
        Err(faults) => {
            tell(&fault::render_all(&faults, &sources, console.is_coloured()));
            let number = u64::try_from(faults.len()).unwrap_or(u64::MAX);
            Err(Failure::of(
                "resource.invalid",
                format!("the files have {}", count(number, "fault", "faults")),
                "nothing was sent to the authority: mend the files, and run it again",
            ))
        }
    }
}

async fn plan(
    client: &mut Client,
    files: &FileArgs,
    sources: Vec<Source>,
    resources: Vec<Resource>,
) -> Result<Planned, Failure> {
    let prune = if files.prune { pairs(&files.labels)? } else { BTreeMap::new() };
    let resources_on_wire = resource::to_wire(&resources);
    let request =
        ApplyRequest { resources: resources_on_wire, prune, dry_run: true, ..ApplyRequest::default() };
    let answer = client.apply(request.clone()).await?.into_inner();
    let titles = answer
        .results
        .iter()
        .map(|result| ((result.kind, result.name.clone()), crate::view::apply::title(result)))
        .collect();
    Ok(Planned { sources, resources, request, answer, titles })
}

impl Planned {
    fn is_refused(&self) -> bool {
        self.answer.results.iter().any(|result| result.problem.is_some())
    }

    fn view(&self, done: bool) -> ApplyView {
        let results = &self.answer.results;
        let titles: Vec<String> =
            results.iter().enumerate().map(|(index, result)| self.title(index, result)).collect();
        ApplyView::new(results, &titles, self.answer.revision, done)
    }

    fn title(&self, index: usize, result: &Applied) -> String {
        let own = self.resources.get(index).map(|resource| resource::title(&resource.wire));
        let planned = || self.titles.get(&(result.kind, result.name.clone())).cloned();
        own.or_else(planned).unwrap_or_else(|| result.name.clone())
    }

    /// `file:line` of the resource; `None` for what is pruned.
    fn place(&self, index: usize) -> Option<String> {
        let resource = self.resources.get(index)?;
        let source = self.sources.get(resource.source)?;
        Some(format!("{}:{}", source.name, resource.spot.line))
    }

    fn warn(&self, console: &Console) {
        for (index, result) in self.answer.results.iter().enumerate() {
            for warning in &result.warnings {
                let (title, code) = (self.title(index, result), clean(&warning.code));
                let (message, hint) = (clean(&warning.message), clean(&warning.hint));
                console.note(format!("warning[{code}]: {title}: {message}\nhint: {hint}"));
            }
        }
    }

    /// # Errors
    /// `apply.refused` if anything is; each refusal is told where its resource stands.
    fn refusal(&self, console: &Console) -> Result<(), Failure> {
        let mut refused = 0_u64;
        let mut text = String::new();
        for (index, result) in self.answer.results.iter().enumerate() {
            let Some(problem) = &result.problem else { continue };
            refused += 1;
            let message = format!("{}: {}", self.title(index, result), problem.message);
            match self.resources.get(index).and_then(|own| Some((own, self.sources.get(own.source)?))) {
                Some((own, source)) => {
                    let fault = fault::Fault::new(&problem.code, own.spot, message, &problem.hint);
                    text.push_str(&fault.render(&source.name, &source.text, console.is_coloured()));
                    text.push('\n');
                }
                None => text.push_str(&format!(
                    "error[{}]: {}\nhint: {}\n\n",
                    clean(&problem.code),
                    clean(&message),
                    clean(&problem.hint)
                )),
            }
        }
        if refused == 0 {
            return Ok(());
        }
        tell(&text);
        Err(Failure::of(
            "apply.refused",
            format!("{} refused, and nothing was written", count(refused, "resource is", "resources are")),
            "mend what is refused, and run it again",
        ))
    }
}

/// Shows what would be deleted, and asks, unless told not to.
fn confirm(differing: &[&Applied], yes: bool) -> Result<(), Failure> {
    let gone: Vec<String> = differing
        .iter()
        .filter(|result| result.action() == Action::Deleted)
        .map(|result| crate::view::apply::title(result))
        .collect();
    if gone.is_empty() || yes {
        return Ok(());
    }
    let number = u64::try_from(gone.len()).unwrap_or(u64::MAX);
    let what = count(number, "resource", "resources");
    let list: String = gone.iter().map(|title| format!("  {}\n", clean(title))).collect();
    tell(&format!("would delete {what}:\n{list}"));
    if !io::stdin().is_terminal() || gone.len() > MAX_CONFIRMED {
        return Err(Failure::of(
            "apply.not-confirmed",
            format!("to delete {what} needs a yes, and nothing was written"),
            "look at the list, and run it again with --yes",
        ));
    }
    tell("delete them? [y/N] ");
    let mut answer = String::new();
    let read = io::stdin().lock().read_line(&mut answer);
    if read.is_ok() && matches!(answer.trim(), "y" | "Y" | "yes") {
        return Ok(());
    }
    Err(Failure::of("apply.not-confirmed", "nothing was written", "run it again, and answer `y`"))
}

fn compared(result: &Applied) -> Compared {
    Compared { kind: result.kind, name: result.name.clone(), revision: revision(result) }
}

/// The revision of what stands; 0: nothing does.
fn revision(result: &Applied) -> u64 {
    match result.before.as_ref().and_then(|before| before.resource.as_ref()) {
        Some(Wire::Site(site)) => site.revision,
        Some(Wire::Registration(registration)) => registration.revision,
        Some(Wire::Policy(policy)) => policy.revision,
        Some(Wire::Key(key)) => key.revision,
        None => 0,
    }
}

fn pairs(labels: &[bonafide_wire::types::Selector]) -> Result<BTreeMap<String, String>, Failure> {
    let mut pairs = BTreeMap::new();
    for label in labels {
        if pairs.insert(label.key.clone(), label.value.clone()).is_some() {
            return Err(Failure::usage(
                format!("the label `{}` is given twice", label.key),
                "give it once: a resource has one value of it",
            ));
        }
    }
    Ok(pairs)
}

/// To standard error, `--quiet` or not: it belongs to a failure, or to a question.
fn tell(text: &str) {
    use io::Write as _;
    // Nothing is left to tell it to if standard error is closed.
    let _ = io::stderr().lock().write_all(text.as_bytes());
}
