//! Evidence against a keyholder.

use crate::document::{Document, Signed};
use crate::epoch::TrustedEpoch;
use crate::exchange::{EvaluationReply, EvaluationRequest};
use crate::group::{Gt, Index};
use crate::proof::{Proof, Statement};
use crate::roster::TrustedRoster;

/// A keyholder's own signature under a wrong answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lie {
    /// Who.
    pub index: Index,
    /// What is wrong.
    pub kind: LieKind,
    /// What was asked first.
    pub question: EvaluationRequest,
    /// What the reply answers: the same, or a demand for proof of it.
    pub request: EvaluationRequest,
    /// What was answered first, if there was another answer.
    pub first: Option<Signed<EvaluationReply>>,
    /// The reply that gave it away.
    pub reply: Signed<EvaluationReply>,
}

/// What is wrong with an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LieKind {
    /// Another value than the first time, for the same point and epoch.
    Changed,
    /// No element of the target group.
    NotInGroup,
    /// No proof, or one that proves nothing.
    NotProven,
}

impl Lie {
    /// Whether this shows a third party, who knows roster and epoch, that the keyholder has lied.
    #[must_use]
    pub fn convicts(&self, roster: &TrustedRoster, epoch: &TrustedEpoch) -> bool {
        let Some(member) = roster.roster().member(self.index) else { return false };
        let signed = |reply: &Signed<EvaluationReply>| {
            reply.body.index == self.index
                && reply.count([&member.key]) == 1
                && reply.body.epoch == epoch.record().epoch
        };
        if !signed(&self.reply) || self.reply.body.request != self.request.digest() {
            return false;
        }
        match self.kind {
            LieKind::NotInGroup => Gt::decode(&self.reply.body.value).is_err(),
            LieKind::Changed => {
                // One point under one policy has one answer in one epoch: whichever is wrong, both are his.
                let one_question = self.question.point == self.request.point
                    && self.question.identity() == self.request.identity()
                    && self.question.version == self.request.version;
                let first = self.first.as_ref().filter(|first| signed(first));
                let changed = first.is_some_and(|first| {
                    let asked = [self.question.digest(), self.request.digest()];
                    asked.contains(&first.body.request) && first.body.value != self.reply.body.value
                });
                one_question && changed
            }
            LieKind::NotProven => self.request.prove && !self.is_proven(epoch),
        }
    }

    fn is_proven(&self, epoch: &TrustedEpoch) -> bool {
        let body = &self.reply.body;
        let proven = || {
            let identity = self.request.identity().ok()?;
            let value = Gt::decode(&body.value).ok()?;
            let proof = Proof::decode(body.proof.as_ref()?).ok()?;
            let share = epoch.record().share(self.index)?;
            let statement =
                Statement { identity: &identity, share, point: &self.request.point, value: &value };
            Some(proof.proves(&statement))
        };
        proven().unwrap_or(false)
    }
}

impl LieKind {
    /// The stable name, for the log.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Changed => "answer-changed",
            Self::NotInGroup => "answer-not-in-group",
            Self::NotProven => "answer-not-proven",
        }
    }
}
