//! Every command: parse, call, print.
//!
//! | command | meaning |
//! |---|---|
//! | `bonafide dev` | authority and agent in one process, ready to use; prints what to do next |
//! | `bonafide demo` | the story so far with real processes; fails if anything is not as it should be |
//! | `bonafide status` | whether authority and agent are well |
//! | `bonafide explain [PID]` | why a process gets an identity, or why not |
//! | `bonafide svid x509\|jwt\|validate` | this process' own identities; `--write DIR` makes files, `--watch` follows |
//! | `bonafide inspect [FILE]` | what a certificate, chain, key, token, bundle or join line says, and what is wrong |
//! | `bonafide entry create\|list\|show\|delete` | who gets which identity: entries, and rules with `--rule` |
//! | `bonafide site list\|show\|put\|delete` | what each place can ever obtain |
//! | `bonafide apply\|diff -f FILE` | makes sites, entries and rules as files say; shows what would change |
//! | `bonafide export [KIND…]` | sites, entries and rules as files that `apply` takes |
//! | `bonafide join [SITE]` | the one line to paste on a new node |
//! | `bonafide key create\|list\|rotate\|config\|…` | keys that workloads use and never see; who may for a while (`grant`) |
//! | `bonafide secret seal\|inspect\|params\|policy\|owner` | seals secrets offline, and looks into what is public of them |
//! | `bonafide token create\|list\|delete` | join tokens |
//! | `bonafide authority init\|run` | makes and runs an authority |
//! | `bonafide keyholder init\|run\|status\|install\|generate\|refresh\|reshare` | one keyholder of sealed secrets, and its ceremonies |
//! | `bonafide agent run` | the agent of this node; `--join -` lets a new node join |
//! | `bonafide agent list\|ban` | agents, as the authority knows them |
//! | `bonafide ca show` | what signs, in which state, until when |
//! | `bonafide ca prepare`, `activate`, `taint`, `revoke` | change what signs |
//! | `bonafide ca drill` | replace a stolen key, renew everything, distrust it everywhere |
//! | `bonafide bundle show` | the trust bundle, as SPIFFE document or PEM |
//! | `bonafide log show\|verify` | the issuance ledger, from its files alone |
//! | `bonafide policy check\|diff\|test\|explain\|export\|replay` | what policies mean, from files alone |
//! | `bonafide simulate` | what an authority pays for very many agents |
//! | `bonafide completion SHELL` | a completion script |
//!
//! `bonafide-agent` is the agent alone: `run`, `status`, `explain`, `svid`, `inspect`, `completion`.
//!
//! Data goes to standard output, in the form that `--output table|json|yaml` names; messages go to standard error.
//! Failures end with `error[code]: message`, a hint, and exit code 1; command lines that make no sense with 2. Of `diff`
//! 0 says that there are no differences, 1 that there are, 2 that it can't be told.

pub mod admin;
pub mod args;
pub mod command;
pub mod console;
pub mod demo;
pub mod failure;
pub mod inspect;
pub mod moment;
pub mod page;
pub mod pem;
pub mod progress;
pub mod resource;
pub mod roles;
pub mod socket;
pub mod text;
pub mod tiles;
pub mod view;

/// Durations as people write them, in files as on the command line.
pub use bonafide_policy::duration;

use std::{
    io::{self, Write as _},
    process::ExitCode,
    sync::Arc,
};

use bonafide_identity::time::SystemClock;
use clap::{CommandFactory, error::ErrorKind};
use clap_complete::Shell;

/// What one thread of a server takes another gives back: glibc pays for that with locks and fragmented arenas.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

pub use crate::{
    args::Cli,
    console::{Console, Format, View, render},
    failure::Failure,
    moment::Moment,
};
use crate::{
    args::{AgentCli, Command, Globals, NodeCommand},
    demo::role::Part,
};

/// Runs the program `bonafide` with the arguments of this process.
pub fn run() -> ExitCode {
    // Before there is a second thread: such a process can still give up its network.
    if std::env::args_os().nth(1).is_some_and(|first| first == roles::KEY_WORKER) {
        return finish(roles::serve_key_worker());
    }
    if std::env::args_os().nth(1).is_some_and(|first| first == roles::SHARE_WORKER) {
        return finish(roles::serve_share_worker());
    }
    finish(parse::<Cli>().and_then(|cli| match cli {
        Some(cli) => start(cli.globals, async |console: &Console| execute(cli.command, console).await),
        None => Ok(()),
    }))
}

/// Runs the program `bonafide-agent` with the arguments of this process.
pub fn run_agent() -> ExitCode {
    finish(parse::<AgentCli>().and_then(|cli| match cli {
        Some(cli) => {
            start(cli.globals, async |console: &Console| execute_on_node(cli.command, console).await)
        }
        None => Ok(()),
    }))
}

/// Parses the command line. `None` when it asked for help or for the version, which is then shown.
fn parse<C: clap::Parser>() -> Result<Option<C>, Failure> {
    match C::try_parse() {
        Ok(cli) => Ok(Some(cli)),
        Err(cause) => match cause.kind() {
            ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
                cause.print().map_err(Failure::Output)?;
                Ok(None)
            }
            _ => Err(usage_failure(&cause)),
        },
    }
}

/// Clap's message in our form: what is wrong, then what could be meant.
fn usage_failure(cause: &clap::Error) -> Failure {
    let text = cause.render().to_string();
    if cause.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        return Failure::usage("a command is missing", text.trim_end());
    }
    let text = text.strip_prefix("error: ").unwrap_or(&text);
    let (message, rest) = text.split_once("\n\n").unwrap_or((text, ""));
    let line = |prefix: &str| rest.lines().find_map(|line| line.trim_start().strip_prefix(prefix));
    let hint = match (line("tip: "), line("Usage: ")) {
        (Some(tip), _) => tip.to_owned(),
        (None, Some(usage)) => format!("use it as `{usage}`"),
        (None, None) => "`--help` after any command tells what it takes".to_owned(),
    };
    Failure::usage(message.trim_end(), hint)
}

fn start(globals: Globals, work: impl AsyncFnOnce(&Console) -> Result<(), Failure>) -> Result<(), Failure> {
    let console = Console::new(globals.output, globals.quiet, Arc::new(SystemClock));
    demo::end_with_parent()?;
    let runtime = bonafide_net::runtime::start().map_err(|cause| {
        Failure::of("process.no-runtime", cause, "see whether this user may start more threads")
    })?;
    let result = runtime.block_on(work(&console));
    // A thread that still reads standard input must not keep the process.
    runtime.shutdown_background();
    result
}

async fn execute(command: Command, console: &Console) -> Result<(), Failure> {
    match command {
        Command::Dev(arguments) => command::dev::run(arguments, console).await,
        Command::Status(arguments) => command::status::run(arguments, console).await,
        Command::Explain(arguments) => command::explain::run(arguments, console).await,
        Command::Svid(command) => command::svid::run(command, console).await,
        Command::Inspect(arguments) => command::inspect::run(arguments, console),
        Command::Entry(command) => command::entry::run(command, console).await,
        Command::Site(command) => command::site::run(command, console).await,
        Command::Apply(arguments) => command::apply::run(*arguments, console).await,
        Command::Diff(arguments) => command::apply::diff(arguments, console).await,
        Command::Export(arguments) => command::apply::export(arguments, console).await,
        Command::Decisions(arguments) => command::decisions::run(arguments, console).await,
        Command::Policy(command) => command::policy::run(*command, console).await,
        Command::Join(arguments) => command::join::run(arguments, console).await,
        Command::Key(arguments) => command::key::run(*arguments, console).await,
        Command::Secret(command) => command::secret::run(*command, console),
        Command::Token(command) => command::token::run(command, console).await,
        Command::Agent(command) => command::agent::run(command, console).await,
        Command::Revoke(command) => command::revoke::run(command, console).await,
        Command::Ca(command) => command::ca::run(command, console).await,
        Command::Log(command) => command::log::run(command, console).await,
        Command::Bundle(command) => command::bundle::run(command, console).await,
        Command::Simulate(arguments) => command::simulate::run(arguments, console).await,
        Command::Demo(arguments) => demo::run(arguments, console).await,
        Command::DemoServer { client } => demo::role::play(Part::Server { client }, console).await,
        Command::DemoClient { server, address } => {
            demo::role::play(Part::Client { server, address }, console).await
        }
        Command::DemoGuardedServer { client } => {
            demo::role::play(Part::GuardedServer { client }, console).await
        }
        Command::DemoAskingClient { server, address } => {
            demo::role::play(Part::AskingClient { server, address }, console).await
        }
        Command::DemoKeyWriter { server, address } => {
            demo::role::play(Part::KeyWriter { server, address }, console).await
        }
        Command::DemoKeyReader { client } => demo::role::play(Part::KeyReader { client }, console).await,
        Command::DemoLaunch => demo::role::play(Part::Launch, console).await,
        Command::Authority(command) => command::authority::run(command, console).await,
        Command::Keyholder(command) => command::keyholder::run(command, console).await,
        Command::Completion { shell } => complete::<Cli>(shell, "bonafide", console),
    }
}

async fn execute_on_node(command: NodeCommand, console: &Console) -> Result<(), Failure> {
    match command {
        NodeCommand::Run(arguments) => command::agent::serve(*arguments, console).await,
        NodeCommand::Status(arguments) => command::status::run(arguments, console).await,
        NodeCommand::Explain(arguments) => command::explain::run(arguments, console).await,
        NodeCommand::Svid(command) => command::svid::run(command, console).await,
        NodeCommand::Inspect(arguments) => command::inspect::run(arguments, console),
        NodeCommand::Completion { shell } => complete::<AgentCli>(shell, "bonafide-agent", console),
    }
}

fn complete<C: CommandFactory>(shell: Shell, name: &str, console: &Console) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut C::command(), name, &mut script);
    console.write(&script)
}

fn finish(result: Result<(), Failure>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            // Nothing is left to tell it to if standard error is closed.
            let _ = io::stderr().lock().write_all(failure.render().as_bytes());
            ExitCode::from(failure.exit_code())
        }
    }
}
