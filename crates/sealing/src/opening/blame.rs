//! Evidence against a keyholder.

use super::Holder;
use crate::document::{Document, Signed};
use crate::epoch::TrustedEpoch;
use crate::exchange::{EvaluationReply, EvaluationRequest};
use crate::group::Gt;
use crate::proof::{Proof, Statement};

/// A keyholder's own signature under a wrong answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lie {
    /// Who.
    pub holder: Holder,
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
    /// Whether this shows a third party, who knows the epoch, that the keyholder has lied.
    #[must_use]
    pub fn convicts(&self, epoch: &TrustedEpoch) -> bool {
        let Some(member) = epoch.roster().roster().member(self.holder.index) else { return false };
        let signed = |reply: &Signed<EvaluationReply>| {
            let by = Holder { epoch: reply.body.epoch, index: reply.body.index };
            by == self.holder && reply.count([&member.key]) == 1
        };
        if self.holder.epoch != epoch.record().epoch
            || !signed(&self.reply)
            || self.reply.body.request != self.request.digest()
        {
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
            let share = epoch.record().share(self.holder.index)?;
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
