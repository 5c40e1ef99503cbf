//! What a draft would change of what was decided: decisions from a log, decided again.
//!
//! A log is JSON, one event a line or all in one array. An event has the shape of OPA's decision log: `input` as
//! [`crate::record`] has it (or as the OPA plugin of Envoy gives it), and `result`, a boolean or an object with
//! `decision` (`allow` or `deny`), `allow` or `allowed`. `decision_id` and `timestamp` are kept if they are there. An
//! event that masks a part of its input (`erased`, `masked`) is not decided again: nobody knows what it was about.

use serde_json::Value;

use crate::{
    analysis::world::Scope,
    judge::{Judge, Ruling},
    model::{Document, Effect},
    record::{self, RecordFault},
    scenario::Scenario,
};

/// Most bytes of one event.
pub const MAX_EVENT: usize = 1024 * 1024;

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
    if masks.flatten().filter_map(Value::as_str).any(|pointer| pointer.starts_with("/input")) {
        return Err(EventFault::Masked);
    }
    let input = fields.get("input").ok_or(EventFault::Input(RecordFault::Missing("input")))?;
    let scenario = record::scenario(input).map_err(EventFault::Input)?;
    let result = fields.get("result").ok_or(EventFault::Result)?;
    let effect = effect(result).ok_or(EventFault::Result)?;
    let by = ["by", "rule"].into_iter().find_map(|name| result.get(name)?.as_str()).map(str::to_owned);
    Ok(Event { id: text("decision_id"), time: text("timestamp"), scenario, effect, by })
}

/// Decides all of them again, by the enforced policies among these.
pub fn replay(documents: &[Document], events: Vec<Result<Event, EventFault>>) -> Replay {
    let judge = Judge::new(documents, Scope::Enforced);
    let mut replay = Replay::default();
    for (number, event) in (1..).zip(events) {
        match event {
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
