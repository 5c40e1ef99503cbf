//! `policy`: what policies mean, from their files alone; and which ones the authority has.

pub mod asked;
mod files;
pub mod kept;
mod programs;
mod vocabulary;

use std::path::{Path, PathBuf};

use bonafide_policy::{
    Document,
    analysis::world::Scope,
    cedar,
    check::{self, Vocabulary},
    coverage, diff,
    judge::Judge,
    rego::export,
    replay,
};

use self::{asked::AskedArgs, files::Policies};
use crate::{
    Console, Failure,
    admin::WaitArgs,
    socket::AdminSocket,
    view::policy::{CheckView, DiffView, ExplainView, ReplayView, TestView},
};

/// Bytes of a decision log.
const MAX_LOG: u64 = 256 * 1024 * 1024;

/// `policy …`.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum PolicyCommand {
    /// Find rules that never apply, add nothing, take away, let in too many, or name what does not exist
    ///
    /// Each finding that can be shown comes with a request that shows it. Exit codes: 0 nothing but notes, 1 errors or
    /// warnings, 2 it can't be told.
    Check(CheckArgs),
    /// Show who gains and who loses access by an edit, each with a request whose decision changes
    ///
    /// Exit codes: 0 nothing changes, 1 something does, 2 it can't be told.
    Diff(DiffArgs),
    /// Run the tests that stand in the files
    ///
    /// Exit codes: 0 all pass, 1 some fail, 2 they can't be run.
    Test(TestArgs),
    /// Tell how a request is decided, and why; for a denial also which rules nearly allow it
    ///
    /// Exit codes: 0 allowed, 1 denied, 2 it can't be told.
    Explain(ExplainArgs),
    /// Print policies in another language, where they decide the same
    Export(ExportArgs),
    /// Decide a log of decisions again, and show which would change
    ///
    /// The log is JSON, one event a line, in the shape of OPA's. Exit codes: 0 none would change, 1 some would, 2 it
    /// can't be told.
    Replay(ReplayArgs),
    /// List the policies that the authority has
    #[command(alias = "ls")]
    List {
        /// The authority.
        #[command(flatten)]
        socket: AdminSocket,
    },
    /// Delete policies from the authority: agents forget them at once
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

/// Where policies are.
#[derive(Clone, Debug, clap::Args)]
pub struct PolicyFiles {
    /// Files or folders (every `*.yaml` and `*.yml` in it) of policies; `-` is standard input
    #[arg(value_name = "FILE", required = true, value_hint = clap::ValueHint::AnyPath)]
    files: Vec<PathBuf>,
}

/// `policy check`.
#[derive(Clone, Debug, clap::Args)]
pub struct CheckArgs {
    /// What to check.
    #[command(flatten)]
    files: PolicyFiles,
    /// The names that exist: YAML with `labels`, `trustDomains`, `services`, `keys`, `actions`, `workloads`
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    vocabulary: Option<PathBuf>,
    /// Leave notes out
    #[arg(long)]
    no_notes: bool,
}

/// `policy diff`.
#[derive(Clone, Debug, clap::Args)]
pub struct DiffArgs {
    /// File or folder of the policies as they were
    #[arg(value_hint = clap::ValueHint::AnyPath)]
    old: PathBuf,
    /// File or folder of the policies as they are to be
    #[arg(value_hint = clap::ValueHint::AnyPath)]
    new: PathBuf,
}

/// `policy test`.
#[derive(Clone, Debug, clap::Args)]
pub struct TestArgs {
    /// What to test.
    #[command(flatten)]
    files: PolicyFiles,
    /// Leave out one rule at a time, and fail when no test fails then
    #[arg(long)]
    mutate: bool,
    /// Fail when a rule is reached by no test
    #[arg(long)]
    all_rules: bool,
    /// Write the results as JUnit XML too
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    junit: Option<PathBuf>,
}

/// `policy explain`.
#[derive(Clone, Debug, clap::Args)]
pub struct ExplainArgs {
    /// What decides.
    #[command(flatten)]
    files: PolicyFiles,
    /// Ask this `SecretPolicy` instead of the others
    #[arg(long, value_name = "NAME")]
    secret: Option<String>,
    /// What is asked.
    #[command(flatten)]
    asked: Box<AskedArgs>,
}

/// `policy export`.
#[derive(Clone, Debug, clap::Args)]
pub struct ExportArgs {
    /// What to export.
    #[command(flatten)]
    files: PolicyFiles,
    /// The language
    #[arg(long, value_enum)]
    to: Language,
    /// Export this `SecretPolicy` instead of the others
    #[arg(long, value_name = "NAME")]
    secret: Option<String>,
}

/// A language that policies can be written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Language {
    /// Of Amazon's Cedar.
    Cedar,
    /// Of the Open Policy Agent, version 1.
    Rego,
}

/// `policy replay`.
#[derive(Clone, Debug, clap::Args)]
pub struct ReplayArgs {
    /// The draft.
    #[command(flatten)]
    files: PolicyFiles,
    /// The decision log
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    log: PathBuf,
}

/// Runs the command.
///
/// # Errors
/// [`Failure::Negative`] when the answer is no, [`Failure::Trouble`] when there is none.
pub async fn run(command: PolicyCommand, console: &Console) -> Result<(), Failure> {
    let answer = match command {
        PolicyCommand::Check(arguments) => check(&arguments, console),
        PolicyCommand::Diff(arguments) => diff(&arguments, console),
        PolicyCommand::Test(arguments) => test(&arguments, console),
        PolicyCommand::Explain(arguments) => explain(&arguments, console),
        PolicyCommand::Export(arguments) => export(&arguments, console).map(|()| true),
        PolicyCommand::Replay(arguments) => replay(&arguments, console),
        PolicyCommand::List { socket } => return kept::list(&socket, console).await,
        PolicyCommand::Delete { names, wait, socket } => {
            return kept::delete(names, wait, &socket, console).await;
        }
    };
    match answer {
        Ok(true) => Ok(()),
        Ok(false) => Err(Failure::Negative),
        Err(failure) => Err(Failure::Trouble(Box::new(failure))),
    }
}

fn check(arguments: &CheckArgs, console: &Console) -> Result<bool, Failure> {
    let policies = files::read(&arguments.files.files, console)?;
    let vocabulary = match &arguments.vocabulary {
        Some(path) => vocabulary::read(path, console)?,
        None => Vocabulary::default(),
    };
    let mut findings = check::check(&policies.documents, &vocabulary);
    if arguments.no_notes {
        findings.retain(|finding| finding.severity != check::Severity::Note);
    }
    let view =
        CheckView::new(&policies.documents, &findings, |document, line| policies.place(document, line));
    console.show(&view)?;
    Ok(view.is_clean())
}

fn diff(arguments: &DiffArgs, console: &Console) -> Result<bool, Failure> {
    let old = files::read(std::slice::from_ref(&arguments.old), console)?;
    let new = files::read(std::slice::from_ref(&arguments.new), console)?;
    let diff = diff::diff(&old.documents, &new.documents);
    console.show(&DiffView::new(&diff))?;
    Ok(diff.is_empty())
}

fn test(arguments: &TestArgs, console: &Console) -> Result<bool, Failure> {
    let policies = files::read(&arguments.files.files, console)?;
    let report = coverage::run(&policies.documents, arguments.mutate);
    if let Some(path) = &arguments.junit {
        let names: Vec<String> =
            (0..policies.documents.len()).map(|document| policies.name(document).to_owned()).collect();
        let text = coverage::junit(&report, &names);
        std::fs::write(path, text).map_err(|source| Failure::write(path, source))?;
    }
    console.show(&TestView::new(&report, |document, line| policies.place(document, line)))?;
    let unreached = arguments.all_rules && report.unreached().next().is_some();
    Ok(report.failed() == 0 && report.survivors().next().is_none() && !unreached)
}

fn explain(arguments: &ExplainArgs, console: &Console) -> Result<bool, Failure> {
    let policies = files::read(&arguments.files.files, console)?;
    let scenario = arguments.asked.scenario(console.clock().now())?;
    let judge = match &arguments.secret {
        Some(name) => Judge::new(&policies.documents, secret(&policies, name)?),
        None => Judge::of_all(&policies.documents),
    };
    let told = judge.explain(&scenario, |explanation| {
        let view = ExplainView::new(&explanation, &policies.documents, &scenario);
        let view =
            view.with_programs(programs::ask(&policies.documents, &scenario, &explanation.decision, console));
        console.show(&view)?;
        Ok(view.is_allowed())
    });
    told.unwrap_or_else(|| {
        Err(Failure::of("policy.twice", "two policies have one name", "give one of the two another name"))
    })
}

fn export(arguments: &ExportArgs, console: &Console) -> Result<(), Failure> {
    let policies = files::read(&arguments.files.files, console)?;
    let scope = match &arguments.secret {
        Some(name) => secret(&policies, name)?,
        None => Scope::Enforced,
    };
    let text = match arguments.to {
        Language::Rego => export::module(&policies.documents, scope),
        Language::Cedar => {
            let chosen = policies.documents.iter().filter_map(Document::policy);
            cedar::policies(chosen.map(|policy| &**policy).filter(|policy| Scope::of(policy) == scope))
        }
    };
    for document in policies.documents.iter().filter(|document| document.policy().is_none()) {
        let name = document.body().name();
        console.note(format!("warning[policy.program]: the program `{name}` is not exported"));
    }
    console.write(text.as_bytes())
}

fn replay(arguments: &ReplayArgs, console: &Console) -> Result<bool, Failure> {
    let policies = files::read(&arguments.files.files, console)?;
    let log = read_log(&arguments.log)?;
    let replay = replay::replay(&policies.documents, replay::events(&log));
    console.show(&ReplayView::new(&replay))?;
    Ok(replay.changes.is_empty())
}

fn secret<'a>(policies: &'a Policies, name: &str) -> Result<Scope<'a>, Failure> {
    let mut found = policies.documents.iter().filter_map(Document::policy).map(|policy| Scope::of(policy));
    found.find(|scope| *scope == Scope::Secret(name)).ok_or_else(|| {
        Failure::of(
            "policy.unknown",
            format!("there is no `SecretPolicy` named `{name}` in the files"),
            "write one of their names, or leave `--secret` out",
        )
    })
}

fn read_log(path: &Path) -> Result<String, Failure> {
    use std::io::Read as _;
    let failed = |source| Failure::read(path, source);
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(failed)?;
    file.take(MAX_LOG + 1).read_to_string(&mut text).map_err(failed)?;
    if text.len() as u64 > MAX_LOG {
        let name = path.display();
        return Err(Failure::of(
            "replay.too-large",
            format!("`{name}` is larger than 256 MiB"),
            "replay it in parts",
        ));
    }
    Ok(text)
}
