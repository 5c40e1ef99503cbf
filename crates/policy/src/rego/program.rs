//! Programs in Rego that take part in decisions: `kind: RegoPolicy`.
//!
//! The entry point is a rule. Its value is a boolean (true allows, false says nothing), or an object with `allow` (or
//! `allowed`, as the OPA plugin of Envoy has it), `deny` and `reasons`; undefined says nothing. Programs take part under
//! the same rule as policies: deny beats allow beats default deny, and everything that goes wrong denies.
//!
//! A program is interpreted, on a thread of its own for each decision, with 64 MiB of stack, and has 20 milliseconds.
//! The interpreter looks at the time at each of its steps; where a single step takes longer, the decision does not wait
//! for it, and the program denies everything until that step has come to its end. It denies what is asked while it is
//! asked 16 things already, too. There is no limit on memory but the time to fill it, and what
//! [`source`](super::source) refuses: nobody should publish programs who may not run code on the node.

use std::{
    fmt,
    num::NonZeroU32,
    sync::{Arc, mpsc},
    thread,
    time::Duration,
};

use regorus::{Engine, utils::limits::ExecutionTimerConfig};
use serde_json::Value;

use super::{
    runs::{Run, Runs},
    source,
};
use crate::{
    decision::{Decision, Reason},
    model::{Effect, Mode, RegoPolicy},
};

/// Time for one decision.
const TIME: Duration = Duration::from_millis(20);
/// Until then nobody waits for a step that takes too long.
const PATIENCE: Duration = Duration::from_millis(100);
/// Time to check a program.
const TIME_TO_LOAD: Duration = Duration::from_secs(2);
/// Bytes of the stack of the interpreter: its recursion is bounded by the size of a program.
const STACK: usize = 64 * 1024 * 1024;
/// Reasons of one answer, and bytes of each.
const MAX_REASONS: usize = 16;
const MAX_REASON: usize = 256;
/// The name of a program's text in its error messages.
const SOURCE: &str = "rego";
/// Bytes of an input.
const MAX_INPUT: usize = 256 * 1024;

/// A program that was checked.
pub struct Program {
    name: String,
    mode: Mode,
    entrypoint: String,
    engine: Engine,
    runs: Arc<Runs>,
}

/// What a program says of a request.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Verdict {
    /// It may be served, for all that the program knows.
    pub allow: bool,
    /// It may not.
    pub deny: bool,
    /// Why, in the program's words; bounded.
    pub reasons: Vec<String>,
}

/// Why a program is not loaded, or denies.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum RegoFault {
    /// It is asked too many things at once.
    #[error("the program is asked 16 things already")]
    Busy,
    /// A builtin that is missing, or that programs may not use.
    #[error("the program calls `{0}`, which it may not")]
    Builtin(String),
    /// A control character.
    #[error("the program has a control character")]
    Control,
    /// The entry point is no rule of the program.
    #[error("the program has no rule `{0}`")]
    Entrypoint(String),
    /// It failed.
    #[error("the program failed: {0}")]
    Failed(String),
    /// A format that could make text of any length.
    #[error("the program calls `sprintf` with a format that is no constant, or has a width")]
    Format,
    /// A function whose name has a dot.
    #[error("the program has a function `{0}`, and a function's name can have no dot")]
    Function(String),
    /// An import of data.
    #[error("the program imports `{0}`, and there is no data but the input")]
    Import(String),
    /// The input is too large.
    #[error("the input is larger than 256 KiB")]
    Input,
    /// A function that calls itself.
    #[error("the function `{0}` calls itself")]
    Recursion(String),
    /// It takes too long to check it.
    #[error("the program takes longer than 2 s to load")]
    Slow,
    /// It did not come back in time, now or before.
    #[error("the program did not come back in time, and is not asked again until it has")]
    Stuck,
    /// It does not parse.
    #[error("the program is no Rego: {0}")]
    Syntax(String),
    /// It took too long.
    #[error("the program took longer than 20 ms")]
    Time,
    /// Brackets in too many brackets.
    #[error("the program has brackets in too many brackets")]
    TooDeep,
    /// Too many bytes.
    #[error("the program is larger than 64 KiB")]
    TooLarge,
    /// Too many rules.
    #[error("the program has more than 256 rules")]
    TooManyRules,
    /// Its tree is not what this version of the interpreter makes.
    #[error("the program has something in it that can't be checked")]
    Tree,
    /// The value of the entry point means nothing.
    #[error("the entry point is neither a boolean nor an object of `allow`, `deny` and `reasons`")]
    Value,
    /// `with`.
    #[error("the program uses `with`, which is for tests")]
    With,
}

impl RegoFault {
    /// A stable name of this error for programs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Builtin(_) => "policy.rego-builtin",
            Self::Busy => "policy.rego-busy",
            Self::Control => "policy.rego-control",
            Self::Entrypoint(_) => "policy.rego-entrypoint",
            Self::Failed(_) => "policy.rego-failed",
            Self::Format => "policy.rego-format",
            Self::Function(_) => "policy.rego-function",
            Self::Import(_) => "policy.rego-import",
            Self::Input => "policy.rego-input",
            Self::Recursion(_) => "policy.rego-recursion",
            Self::Slow => "policy.rego-slow",
            Self::Stuck => "policy.rego-stuck",
            Self::Syntax(_) => "policy.rego-syntax",
            Self::Time => "policy.rego-time",
            Self::TooDeep => "policy.rego-too-deep",
            Self::TooLarge => "policy.rego-too-large",
            Self::TooManyRules => "policy.rego-too-many-rules",
            Self::Tree => "policy.rego-tree",
            Self::Value => "policy.rego-value",
            Self::With => "policy.rego-with",
        }
    }

    /// What a person can do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Builtin(_) => {
                "use builtins that depend on nothing but their arguments; the time is `input.bonafide.when.now`"
            }
            Self::Control => "save it as text",
            Self::Entrypoint(_) => "write `entrypoint: data.PACKAGE.RULE` with names of the program",
            Self::Failed(_) | Self::Value => "run it with `bonafide policy explain`, and mend it",
            Self::Format => "use `%v`, `%s` and `%d` in a constant",
            Self::Function(_) => "name it without a dot",
            Self::Import(_) => "import only `rego.v1` and parts of `input`",
            Self::Input => "ask with fewer properties",
            Self::Recursion(_) => "write it without recursion, for example with `some x in …`",
            Self::Busy | Self::Slow | Self::Stuck | Self::Time => {
                "make it simpler, or write it as rules of a `Policy`"
            }
            Self::Syntax(_) => "write Rego v1: `allow if { … }`",
            Self::TooDeep => "give inner parts names of their own",
            Self::TooLarge | Self::TooManyRules => {
                "split it into several policies, or write it as rules of a `Policy`"
            }
            Self::Tree => "write it in a simpler way",
            Self::With => "leave `with` out",
        }
    }
}

impl Program {
    /// Checks a program.
    ///
    /// # Errors
    /// [`RegoFault`], for all that can be told without running it.
    pub fn load(policy: &RegoPolicy) -> Result<Self, RegoFault> {
        source::check_text(&policy.rego)?;
        let (rego, entrypoint) = (policy.rego.clone(), policy.entrypoint.clone());
        let name = policy.name.to_string();
        let (sender, receiver) = mpsc::channel();
        let compile = move || {
            let mut engine = Engine::new();
            let result = (|| {
                engine
                    .add_policy(SOURCE.to_owned(), rego)
                    .map_err(|error| RegoFault::Syntax(summary(&error.to_string())))?;
                let tree = engine.get_ast_as_json().map_err(|_| RegoFault::Tree)?;
                source::check_tree(&serde_json::from_str(&tree).map_err(|_| RegoFault::Tree)?)?;
                let compiled = engine.compile_with_entrypoint(&entrypoint.as_str().into());
                compiled.map(drop).map_err(|error| match error.to_string().as_str() {
                    "not a valid rule path" => RegoFault::Entrypoint(entrypoint),
                    text => RegoFault::Syntax(summary(text)),
                })
            })();
            let _ = sender.send(result.map(|()| engine));
        };
        let thread = thread::Builder::new().name("rego-load".to_owned()).stack_size(STACK).spawn(compile);
        thread.map_err(|error| RegoFault::Failed(error.to_string()))?;
        let mut engine = loaded(&receiver, TIME_TO_LOAD)??;
        engine.set_execution_timer_config(ExecutionTimerConfig {
            limit: TIME,
            check_interval: NonZeroU32::MIN,
        });
        engine.set_strict_builtin_errors(true);
        Ok(Self {
            name,
            mode: policy.mode,
            entrypoint: policy.entrypoint.clone(),
            engine,
            runs: Arc::default(),
        })
    }

    /// The name of its policy.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether it decides.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// What it says of a request, given as [`crate::record::input`] has it. To wait takes at most 100 milliseconds.
    ///
    /// # Errors
    /// [`RegoFault`]: the request is denied.
    pub fn judge(&self, input: &Value) -> Result<Verdict, RegoFault> {
        if self.runs.is_one_late() {
            return Err(RegoFault::Stuck);
        }
        let input = input.to_string();
        if input.len() > MAX_INPUT {
            return Err(RegoFault::Input);
        }
        let run = self.runs.begin().ok_or(RegoFault::Busy)?;
        let awaited = Arc::downgrade(&run);
        let (mut engine, entrypoint) = (self.engine.clone(), self.entrypoint.clone());
        let (sender, receiver) = mpsc::channel();
        let work = move || {
            let value = engine.set_input_json(&input).and_then(|()| engine.eval_rule(entrypoint));
            let text = value.map_err(|error| failure(&error.to_string())).and_then(|value| match value {
                regorus::Value::Undefined => Ok(None),
                value => value.to_json_str().map(Some).map_err(|_| RegoFault::Value),
            });
            // Before the answer: who has it may ask again.
            drop((engine, run));
            let _ = sender.send(text);
        };
        let thread = thread::Builder::new().name("rego".to_owned()).stack_size(STACK).spawn(work);
        thread.map_err(|error| RegoFault::Failed(error.to_string()))?;
        match receiver.recv_timeout(PATIENCE) {
            Ok(Ok(None)) => Ok(Verdict::default()),
            Ok(Ok(Some(text))) => verdict(&serde_json::from_str(&text).map_err(|_| RegoFault::Value)?),
            Ok(Err(fault)) => Err(fault),
            Err(mpsc::RecvTimeoutError::Disconnected) => {
                Err(RegoFault::Failed("the interpreter gave up".to_owned()))
            }
            Err(mpsc::RecvTimeoutError::Timeout) => {
                Run::give_up(&awaited);
                Err(RegoFault::Stuck)
            }
        }
    }
}

impl fmt::Debug for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Program").field("name", &self.name).field("mode", &self.mode).finish_non_exhaustive()
    }
}

/// What a thread tells that checks a program.
fn loaded<T>(receiver: &mpsc::Receiver<T>, patience: Duration) -> Result<T, RegoFault> {
    receiver.recv_timeout(patience).map_err(|error| match error {
        mpsc::RecvTimeoutError::Timeout => RegoFault::Slow,
        // A panic drops the sender.
        mpsc::RecvTimeoutError::Disconnected => RegoFault::Syntax("the interpreter gave up".to_owned()),
    })
}

/// What rules and programs say together.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Answer {
    /// The answer.
    pub effect: Effect,
    /// What determined it.
    pub by: By,
    /// What the answer would be by the first program in shadow mode that would change it, and the name of its policy.
    pub would: Option<(Effect, String)>,
}

/// What determined an answer.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum By {
    /// The rules, or that none allows it.
    Rules,
    /// A program.
    Program {
        /// The name of its policy.
        policy: String,
        /// Why, in its words.
        reasons: Vec<String>,
    },
    /// A program that failed.
    Fault {
        /// The name of its policy.
        policy: String,
        /// What happened.
        fault: RegoFault,
    },
}

/// Asks the programs that apply to a workload, beside its snapshot. What rules deny is denied without them.
pub fn merge<'p>(
    decision: &Decision<'_>,
    programs: impl IntoIterator<Item = &'p Program>,
    input: &Value,
) -> Answer {
    let by_rules = Answer { effect: decision.effect, by: By::Rules, would: None };
    if !decision.is_allowed() && decision.reason != Reason::NoRule {
        return by_rules;
    }
    let mut answer = by_rules;
    let mut shadows = Vec::new();
    for program in programs {
        let told = says(program, program.judge(input));
        match (program.mode, told) {
            (_, None) => {}
            (Mode::Shadow, Some((effect, _))) => shadows.push((effect, program.name.clone())),
            (Mode::Enforce, Some((Effect::Deny, by))) => {
                return Answer { effect: Effect::Deny, by, would: None };
            }
            (Mode::Enforce, Some((Effect::Allow, by))) if answer.effect == Effect::Deny => {
                answer = Answer { effect: Effect::Allow, by, would: None };
            }
            (Mode::Enforce, Some(_)) => {}
        }
    }
    let deny = shadows.iter().find(|(effect, _)| *effect == Effect::Deny).cloned();
    answer.would = deny.or_else(|| shadows.into_iter().next()).filter(|(effect, _)| *effect != answer.effect);
    answer
}

/// The effect of what a program says, if it says anything.
fn says(program: &Program, verdict: Result<Verdict, RegoFault>) -> Option<(Effect, By)> {
    let policy = program.name.clone();
    match verdict {
        Err(fault) => Some((Effect::Deny, By::Fault { policy, fault })),
        Ok(Verdict { deny: true, reasons, .. }) => Some((Effect::Deny, By::Program { policy, reasons })),
        Ok(Verdict { allow: true, reasons, .. }) => Some((Effect::Allow, By::Program { policy, reasons })),
        Ok(_) => None,
    }
}

/// What the value of an entry point means.
fn verdict(value: &Value) -> Result<Verdict, RegoFault> {
    if let Value::Bool(allow) = value {
        return Ok(Verdict { allow: *allow, ..Verdict::default() });
    }
    let fields = value.as_object().ok_or(RegoFault::Value)?;
    let flag = |name: &str| match fields.get(name) {
        None => Ok(false),
        Some(Value::Bool(flag)) => Ok(*flag),
        Some(_) => Err(RegoFault::Value),
    };
    let reasons = match fields.get("reasons") {
        None => Vec::new(),
        Some(Value::Array(reasons)) => reasons.iter().map(reason).take(MAX_REASONS).collect(),
        Some(_) => return Err(RegoFault::Value),
    };
    Ok(Verdict { allow: flag("allow")? || flag("allowed")?, deny: flag("deny")?, reasons })
}

fn reason(value: &Value) -> String {
    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let end = text.char_indices().map(|(at, _)| at).take_while(|at| *at <= MAX_REASON).last().unwrap_or(0);
    if text.len() <= MAX_REASON { text } else { format!("{}…", text.get(..end).unwrap_or_default()) }
}

fn failure(text: &str) -> RegoFault {
    if text.contains("execution exceeded time limit") {
        RegoFault::Time
    } else {
        RegoFault::Failed(summary(text))
    }
}

/// The interpreter tells on several lines, with the source between them.
fn summary(text: &str) -> String {
    let message = text.lines().find_map(|line| line.split_once("error: ")).map(|(_, message)| message.trim());
    let place = text.lines().find_map(|line| line.trim_start().strip_prefix("--> rego:"));
    match (message.or_else(|| text.lines().find(|line| !line.is_empty())), place) {
        (Some(message), Some(place)) => format!("{message} (at {place})"),
        (message, _) => message.unwrap_or_default().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_waits_for_ever_for_a_program_to_load() {
        let (sender, receiver) = mpsc::channel::<()>();
        assert_eq!(loaded(&receiver, Duration::ZERO), Err(RegoFault::Slow));
        drop(sender);
        assert!(matches!(loaded(&receiver, TIME_TO_LOAD), Err(RegoFault::Syntax(_))));
    }
}
