//! What a draft would change of what was decided: decisions from a log, decided again.
//!
//! A log is JSON, one event a line or all in one array. An event has the shape of OPA's decision log: `input` as
//! [`crate::record`] has it (or as the OPA plugin of Envoy gives it), and `result`, a boolean or an object with
//! `decision` (a boolean, `allow` or `deny`), `allow` or `allowed`. `decision_id`, `timestamp`, `policy` and `rule` are
//! kept if they are there. Of an input of which a part was left out (`erased`, `masked`) only what is certain is decided
//! again: properties and the bound context may be missing as long as no rule that matters looks at them.

use serde_json::Value;

use crate::{
    analysis::{
        atom::{Atom, Variable},
        region::Region,
        witness,
        world::{Scope, World},
    },
    judge::{Judge, Ruling},
    model::{Document, Effect},
    path::PathFault,
    record::{self, RecordFault},
    scenario::Scenario,
};

/// Most bytes of one event.
pub const MAX_EVENT: usize = 1024 * 1024;
/// The `path` of events of our agents.
const OWN_PATH: &str = "bonafide/authorize";
/// Texts of so many bytes may have been longer; a letter has up to four.
const CUT_FROM: usize = 253;
/// What no rule looks at.
const UNSEEN: [&str; 5] = [
    "/input/attributes/request/http/headers",
    "/input/attributes/request/http/body",
    "/input/attributes/request/http/raw_body",
    "/input/parsed_body",
    "/input/parsed_query",
];

/// A decision that was logged.
#[derive(Clone, Debug)]
pub struct Event {
    /// Its ID in the log, if it has one.
    pub id: String,
    /// When it was made, as the log says it.
    pub time: String,
    /// What was asked.
    pub scenario: Scenario,
    /// What the answer was.
    pub effect: Effect,
    /// By which rule, if the log says it.
    pub by: Option<String>,
    /// What was left out of the log.
    pub hidden: Hidden,
}

/// Values that a log left out.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Hidden {
    /// Properties of the caller.
    pub who_props: bool,
    /// Properties of the thing.
    pub on_props: bool,
    /// Properties of the circumstances.
    pub when_props: bool,
    /// The bound context.
    pub aad: bool,
}

/// Why an event is not decided again.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum EventFault {
    /// It has no input that is a request.
    #[error("its input is no request: {0}")]
    Input(RecordFault),
    /// It is no JSON object.
    #[error("it is no JSON object")]
    Json,
    /// A part of its input was left out.
    #[error("a part of its input is masked")]
    Masked,
    /// It does not say what the decision was.
    #[error("its result is neither allow nor deny")]
    Result,
    /// More than a MiB.
    #[error("it is larger than 1 MiB")]
    TooLarge,
}

impl EventFault {
    /// A stable name of this error for programs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Input(_) => "replay.input",
            Self::Json => "replay.json",
            Self::Masked => "replay.masked",
            Self::Result => "replay.result",
            Self::TooLarge => "replay.too-large",
        }
    }

    /// What a person can do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Input(fault) => fault.hint(),
            Self::Json | Self::TooLarge => "write one JSON event a line",
            Self::Masked => "mask less of the input where decisions are to be replayed",
            Self::Result => "log `result` as a boolean, or with `decision`",
        }
    }
}

/// What came of a replay.
#[derive(Clone, Debug, Default)]
pub struct Replay {
    /// Events that were decided again.
    pub decided: usize,
    /// Those whose decision would change.
    pub changes: Vec<Change>,
    /// Those that were not decided again: the number of the event, from 1, and why.
    pub skipped: Vec<(usize, EventFault)>,
}

/// A decision that would change.
#[derive(Clone, Debug)]
pub struct Change {
    /// The number of the event, from 1.
    pub number: usize,
    /// What was decided.
    pub event: Event,
    /// What would be decided.
    pub after: Ruling,
}

/// The events of a log. Each on its own, so that one that is broken hides no other.
pub fn events(text: &str) -> Vec<Result<Event, EventFault>> {
    if text.trim_start().starts_with('[') {
        return match serde_json::from_str::<Vec<Value>>(text) {
            Ok(events) => events.iter().map(event).collect(),
            Err(_) => vec![Err(EventFault::Json)],
        };
    }
    let lines = text.lines().filter(|line| !line.trim().is_empty());
    lines
        .map(|line| {
            if line.len() > MAX_EVENT {
                return Err(EventFault::TooLarge);
            }
            event(&serde_json::from_str(line).map_err(|_| EventFault::Json)?)
        })
        .collect()
}

/// One event.
///
/// # Errors
/// [`EventFault`]
pub fn event(value: &Value) -> Result<Event, EventFault> {
    let text = |name: &str| value.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    let fields = value.as_object().ok_or(EventFault::Json)?;
    let masks = ["erased", "masked"].into_iter().filter_map(|name| fields.get(name)?.as_array());
    let hidden = hidden(masks.flatten().filter_map(Value::as_str)).ok_or(EventFault::Masked)?;
    let input = fields.get("input").ok_or(EventFault::Input(RecordFault::Missing("input")))?;
    let scenario = record::scenario(input).map_err(EventFault::Input)?;
    // Our own log keeps the beginning of a long text, and of a path what stands before its `#`, and does not say so.
    let texts = [&scenario.path, &scenario.host, &scenario.key, &scenario.service];
    let is_cut = texts.into_iter().flatten().any(|text| text.len() >= CUT_FROM)
        || value.pointer("/result/code").and_then(Value::as_str) == Some(PathFault::Fragment.code());
    if fields.get("path").and_then(Value::as_str) == Some(OWN_PATH) && is_cut {
        return Err(EventFault::Masked);
    }
    let result = fields.get("result").ok_or(EventFault::Result)?;
    let effect = effect(result).ok_or(EventFault::Result)?;
    let by = match (text("policy"), text("rule")) {
        (policy, rule) if !policy.is_empty() && !rule.is_empty() => Some(format!("{policy}/{rule}")),
        _ => result.get("by").and_then(Value::as_str).map(str::to_owned),
    };
    Ok(Event { id: text("decision_id"), time: text("timestamp"), scenario, effect, by, hidden })
}

/// Decides all of them again, by the enforced policies among these.
pub fn replay(documents: &[Document], events: Vec<Result<Event, EventFault>>) -> Replay {
    let judge = Judge::new(documents, Scope::Enforced);
    let worlds = World::all(documents);
    let world = worlds.iter().find(|world| world.scope == Scope::Enforced);
    let mut replay = Replay::default();
    for (number, event) in (1..).zip(events) {
        match event {
            Ok(event) if world.is_some_and(|world| !is_certain(world, &event)) => {
                replay.skipped.push((number, EventFault::Masked));
            }
            Ok(event) => {
                replay.decided += 1;
                let after = judge.judge(&event.scenario);
                if after.effect != event.effect {
                    replay.changes.push(Change { number, event, after });
                }
            }
            Err(fault) => replay.skipped.push((number, fault)),
        }
    }
    replay
}

/// What is left out. `None` if that is more than properties and context.
fn hidden<'a>(pointers: impl Iterator<Item = &'a str>) -> Option<Hidden> {
    let mut hidden = Hidden::default();
    for pointer in pointers {
        let below =
            |of: &str| pointer.strip_prefix(of).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        if below("/input/bonafide/who/props") {
            hidden.who_props = true;
        } else if below("/input/bonafide/on/props") {
            hidden.on_props = true;
        } else if below("/input/bonafide/when/props") {
            hidden.when_props = true;
        } else if below("/input/bonafide/when/aad") {
            hidden.aad = true;
        } else if pointer.starts_with("/input") && !UNSEEN.into_iter().any(below) {
            return None;
        }
    }
    Some(hidden)
}

/// Whether what was left out can't change the decision.
fn is_certain(world: &World<'_>, event: &Event) -> bool {
    let Event { hidden, scenario, .. } = event;
    if *hidden == Hidden::default() {
        return true;
    }
    let Some(point) = witness::point(scenario) else { return true };
    let is_hidden = |variable: &Variable| match variable {
        Variable::CallerProperty(_) => hidden.who_props,
        Variable::ResourceProperty(_) => hidden.on_props,
        Variable::SituationProperty(_) => hidden.when_props,
        Variable::Context(_) => hidden.aad,
        _ => false,
    };
    // Exceptions look at nothing that can be hidden.
    let (mut certain, mut open) = (Vec::new(), Vec::new());
    for entry in &world.entries {
        let (dark, light): (Vec<Atom>, Vec<Atom>) =
            entry.region.atoms.iter().cloned().partition(|atom| atom.variables().any(is_hidden));
        let visible = Region { atoms: light, except: entry.region.except.clone() };
        if visible.contains(&point) {
            if dark.is_empty() { certain.push(entry.rule.effect) } else { open.push(entry.rule.effect) }
        }
    }
    certain.contains(&Effect::Deny)
        || !open.contains(&Effect::Deny) && (certain.contains(&Effect::Allow) || open.is_empty())
}

fn effect(result: &Value) -> Option<Effect> {
    let of = |allowed| if allowed { Effect::Allow } else { Effect::Deny };
    if let Value::Bool(allowed) = result {
        return Some(of(*allowed));
    }
    match result.get("decision") {
        Some(Value::String(decision)) if decision == "allow" => return Some(Effect::Allow),
        Some(Value::String(decision)) if decision == "deny" => return Some(Effect::Deny),
        Some(Value::Bool(allowed)) => return Some(of(*allowed)),
        Some(_) => return None,
        None => {}
    }
    let allowed = ["allow", "allowed"].into_iter().find_map(|name| result.get(name))?;
    allowed.as_bool().map(of)
}
