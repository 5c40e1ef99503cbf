//! The answer to a request, and what determined it.

use std::fmt;

use crate::{
    asked::InputFault,
    canonical::Digest,
    model::{Effect, Kind, Mode},
};

/// Allow or deny, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision<'a> {
    /// The answer.
    pub effect: Effect,
    /// Why.
    pub reason: Reason<'a>,
    /// What the answer would be if the policies in shadow mode decided too; `None` if it would be the same.
    pub would: Option<Would<'a>>,
    /// Of the policies that were asked.
    pub revision: u64,
}

/// Why it is so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason<'a> {
    /// This rule says so. Of several, it is the first by the name of its policy and its own; guardrails come before
    /// policies.
    Rule(Determining<'a>),
    /// No rule allows it.
    NoRule,
    /// The request has what no request may have.
    Input(InputFault),
    /// It is unknown for too long whether this policy is still the current one.
    Stale {
        /// The name of the policy.
        policy: &'a str,
    },
}

/// The rule that determined an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Determining<'a> {
    /// The name of its policy.
    pub policy: &'a str,
    /// Its own name.
    pub rule: &'a str,
    /// Which kind of policy.
    pub kind: Kind,
    /// Whether its policy decides.
    pub mode: Mode,
    /// Of the canonical bytes of its policy.
    pub digest: Digest,
}

/// What policies in shadow mode would change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Would<'a> {
    /// The answer that would be given.
    pub effect: Effect,
    /// By which rule.
    pub rule: Determining<'a>,
}

impl Decision<'_> {
    /// Whether the request may be served.
    pub fn is_allowed(&self) -> bool {
        self.effect == Effect::Allow
    }
}

impl<'a> Reason<'a> {
    /// A stable name of this reason for programs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Rule(_) => "policy.rule",
            Self::NoRule => "policy.no-rule",
            Self::Input(fault) => fault.code(),
            Self::Stale { .. } => "policy.stale",
        }
    }

    /// The rule that determined the answer, if one did.
    pub fn rule(&self) -> Option<&Determining<'a>> {
        match self {
            Self::Rule(rule) => Some(rule),
            Self::NoRule | Self::Input(_) | Self::Stale { .. } => None,
        }
    }
}

impl fmt::Display for Reason<'_> {
    /// One line for operators.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rule(rule) => write!(f, "rule `{}` of `{}`", rule.rule, rule.policy),
            Self::NoRule => f.write_str("no rule allows it"),
            Self::Input(fault) => write!(f, "{fault}"),
            Self::Stale { policy } => {
                write!(
                    f,
                    "`{policy}` is stale: it is unknown for too long whether it is still the current one"
                )
            }
        }
    }
}

impl fmt::Display for Decision<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.effect, self.reason)?;
        match &self.would {
            Some(would) => {
                write!(f, " (would {}: rule `{}` of `{}`)", would.effect, would.rule.rule, would.rule.policy)
            }
            None => Ok(()),
        }
    }
}
