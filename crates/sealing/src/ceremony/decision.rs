//! The last part of a ceremony: all are ready, or one will not be. It survives a restart.

use std::collections::BTreeMap;
use std::sync::Arc;

use bonafide_crypto::key::Signer;

use super::message::{Content, Message};
use super::{Abort, AbortReason, CeremonyError, Effect, Party};
use crate::document::{Digest, Document as _, Signature, Signed, sign};
use crate::epoch::EpochRecord;
use crate::group::Index;
use crate::roster::TrustedRoster;

/// What a receiver does once its new share is durable. Begun again with the same pending share after a restart, it says the
/// same.
#[derive(Debug)]
pub struct Decision {
    session: Digest,
    roster: TrustedRoster,
    record: Signed<EpochRecord>,
    ready: Option<Signed<Message>>,
    refused: bool,
    switched: bool,
}

impl Decision {
    /// Says *ready*.
    ///
    /// # Errors
    /// [`CeremonyError`] if the signer has no part in the roster, or fails.
    pub fn begin(
        session: Digest,
        roster: TrustedRoster,
        record: EpochRecord,
        signer: &Arc<dyn Signer>,
    ) -> Result<(Self, Vec<Effect>), CeremonyError> {
        let mut record = Signed::new(record);
        let signature = sign(signer.as_ref(), &record.message())?;
        let sender = roster.roster().index_of(&signature.key).ok_or(CeremonyError::NoPart)?;
        record.add(signature.clone());
        let content = Content::Ready { signature: signature.value };
        let mut ready = Signed::new(Message { session, sender, content });
        ready.sign(signer.as_ref())?;
        let mut this =
            Self { session, roster, record, ready: Some(ready.clone()), refused: false, switched: false };
        let mut effects = vec![Effect::Broadcast(ready)];
        effects.extend(this.switch());
        Ok((this, effects))
    }

    /// Watches the votes of others, without one: for a member of the roster before that is not in the new one. Its old share is
    /// erased at the certificate like everybody's.
    #[must_use]
    pub fn observe(session: Digest, roster: TrustedRoster, record: EpochRecord) -> Self {
        Self { session, roster, record: Signed::new(record), ready: None, refused: false, switched: false }
    }

    /// What to answer who asks where this member stands; nothing, if it has no vote.
    #[must_use]
    pub fn vote(&self) -> Option<&Signed<Message>> {
        self.ready.as_ref()
    }

    /// The other vote: of a member that has nothing of this session on its disk, and takes no part in it any more.
    ///
    /// # Errors
    /// [`CeremonyError`] if the signer has no part in the roster, or fails.
    pub fn refuse(
        session: Digest,
        roster: &TrustedRoster,
        signer: &dyn Signer,
    ) -> Result<Signed<Message>, CeremonyError> {
        let key = crate::document::VerifyingKey::new(signer.public_key().clone())?;
        let sender = roster.roster().index_of(key.fingerprint()).ok_or(CeremonyError::NoPart)?;
        let mut message = Signed::new(Message { session, sender, content: Content::Never });
        message.sign(signer)?;
        Ok(message)
    }

    /// Takes a vote. Everything else is ignored.
    pub fn receive(&mut self, message: &Signed<Message>) -> Vec<Effect> {
        let body = &message.body;
        let member = self.roster.roster().member(body.sender);
        let Some(member) = member.filter(|_| body.session == self.session && !self.switched) else {
            return Vec::new();
        };
        if message.count([&member.key]) != 1 {
            return Vec::new();
        }
        match &body.content {
            Content::Ready { signature } => {
                let signature = Signature { key: *member.key.fingerprint(), value: signature.clone() };
                if member.key.verifies(&self.record.message(), &signature.value) {
                    self.record.add(signature);
                }
                self.switch()
            }
            // The certificate may come all the same: whoever says this may have said the other.
            Content::Never if !std::mem::replace(&mut self.refused, true) => {
                let named = vec![Party::Receiver(body.sender)];
                vec![Effect::Abort(Abort { reason: AbortReason::Refused, named })]
            }
            _ => Vec::new(),
        }
    }

    /// Takes a certificate that somebody relays: votes of all under this record.
    pub fn relay(&mut self, certificate: &Signed<EpochRecord>) -> Vec<Effect> {
        if self.switched || certificate.body != self.record.body {
            return Vec::new();
        }
        let votes: BTreeMap<&Digest, &Signature> =
            certificate.signatures.iter().map(|signature| (&signature.key, signature)).collect();
        let message = self.record.message();
        for member in &self.roster.roster().members {
            let vote = votes.get(member.key.fingerprint());
            if let Some(vote) = vote.filter(|vote| member.key.verifies(&message, &vote.value)) {
                self.record.add((*vote).clone());
            }
        }
        self.switch()
    }

    /// Who has not said that it is ready.
    #[must_use]
    pub fn missing(&self) -> Vec<Index> {
        let roster = self.roster.roster();
        let voted = |index: &Index| {
            let key = roster.member(*index).map(|member| member.key.fingerprint());
            self.record.signatures.iter().any(|signature| Some(&signature.key) == key)
        };
        roster.indices().filter(|index| !voted(index)).collect()
    }

    fn switch(&mut self) -> Vec<Effect> {
        if self.switched || !self.missing().is_empty() {
            return Vec::new();
        }
        self.switched = true;
        vec![Effect::Switch(Box::new(self.record.clone()))]
    }
}

/// The hash that all parties of a ceremony must have in common.
pub(super) fn transcript<'a>(session: &Digest, messages: impl Iterator<Item = &'a Message>) -> Digest {
    let digests: Vec<Digest> = messages.map(crate::document::Document::digest).collect();
    let framed = crate::document::framed(&[b"bbf-transcript-v1", session, digests.as_flattened()]);
    bonafide_crypto::digest::sha256(&framed)
}

impl Message {
    /// Whether it is the same as another, whoever has signed it.
    pub(super) fn is(&self, other: &Self) -> bool {
        self.encode() == other.encode()
    }
}
