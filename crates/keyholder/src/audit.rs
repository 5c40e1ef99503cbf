//! What is written about each question, before its answer leaves: one line of text, in the keyholder's ledger.
//!
//! ```text
//! decapsulate time=1800000000 decision=allow caller=spiffe://example.org/web instance=… keyset=main version=1 epoch=2 \
//!   policy=<SHA-256> label=<SHA-256> point=<SHA-256> prove=false rule=web
//! ```
//!
//! It never holds what a caller chose, but for digests of it, and names that were verified.

use std::fmt::Write as _;

use bonafide_crypto::digest::sha256;
use bonafide_identity::{UnixTime, VerifiedX509Svid};
use bonafide_sealing::exchange::EvaluationRequest;
use bonafide_sealing::identity::Identity;

use crate::error::Refusal;

/// A line in the making.
pub(crate) struct Entry {
    line: String,
    rest: String,
}

impl Entry {
    pub(crate) fn new(now: UnixTime, question: &[u8]) -> Self {
        let line = format!("decapsulate time={}", now.as_secs());
        let rest = format!(" question={}", hexadecimal(&sha256(question)));
        Self { line, rest }
    }

    pub(crate) fn caller(&mut self, svid: &VerifiedX509Svid) {
        self.add("caller", svid.id());
        if let Some(instance) = svid.attributes().and_then(|attributes| attributes.instance) {
            self.add("instance", instance);
        }
    }

    pub(crate) fn question(&mut self, question: &EvaluationRequest, identity: &Identity) {
        self.add("keyset", &question.keyset);
        self.add("version", question.version);
        self.add("policy", hexadecimal(identity.policy_digest()));
        self.add("label", hexadecimal(&sha256(&question.label)));
        self.add("point", hexadecimal(&sha256(&question.point.encode())));
        self.add("prove", question.prove);
    }

    pub(crate) fn epoch(&mut self, epoch: u64) {
        self.add("epoch", epoch);
    }

    pub(crate) fn rule(&mut self, rule: &str) {
        self.add("rule", rule);
    }

    pub(crate) fn end(&mut self, outcome: Result<(), &Refusal>) {
        match outcome {
            Ok(()) => self.line.push_str(" decision=allow"),
            Err(refusal) => {
                let _ = write!(self.line, " decision=refuse code={}", refusal.code());
            }
        }
    }

    pub(crate) fn encode(self) -> Vec<u8> {
        (self.line + &self.rest).into_bytes()
    }

    fn add(&mut self, name: &str, value: impl std::fmt::Display) {
        let _ = write!(self.rest, " {name}={value}");
    }
}

/// Lower-case digits.
pub(crate) fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
