//! How keys and shares come to be: state machines without I/O. The authority has no part in any of it.
//!
//! | ceremony | who deals | what becomes of the key |
//! |---|---|---|
//! | *generate* | every member of the roster, a random number | it is their sum, which nobody ever has |
//! | *refresh* | every member, zero | stays; shares of the epoch before are worth nothing together with new ones |
//! | *reshare* | t or more of the old members, their own shares | stays; is shared among another roster |
//!
//! ```text
//! deal ──┐ commitments, for a new key with proof of possession
//! join ──┤ the receivers' keys of this ceremony
//!        ▼ all have everything: its hash is the transcript
//! shares ──▶ encrypted to those keys, and naming the transcript: who saw something else is found out here
//!        ▼ each receiver checks every share against the commitments
//! (complaint ──▶ answer: the dealer shows the share in question to everybody, who check it)
//!        ▼ each receiver has its new share on disk
//! ready ──▶ its signature under the epoch's record. With all of them that record is the certificate:
//!           everybody switches, and only then erases what was before
//! ```
//!
//! **Why so.** Shares that are sent over TLS alone can't be shown to anybody, so a liar could have honest dealers thrown out; here
//! each is a signed ciphertext, and a complaint is answered in the open. (What is shown belongs to the complainer: if he lied,
//! he has given away what he had.) Without the transcript, one member could deal two different zeros and destroy the key. A
//! switch before all are ready could leave fewer than t with either epoch.
//!
//! **Either the old state or the new one.** Three rules hold for every member, and its surroundings:
//!
//! 1. *Ready* is said after the new share is durable, and never taken back.
//! 2. A share that was stored is kept until a certificate of its epoch or of a later one is durable. Nothing less ends it, not
//!    even a member that says it is not ready ([`Content::Never`]): it may have said both.
//! 3. The epoch of a ceremony is higher than that of every share that the member has stored, and the certificate of the highest
//!    epoch counts.
//!
//! So whoever sees a certificate can follow it: all have its share. Certificates are relayed by anybody, also after a restart
//! ([`Decision`]), so that all come to the same one; until then the old shares answer, or those of the new epoch, each for itself.
//!
//! A member that is absent means that nothing happens: to go on without it, the owner and enough operators sign another roster,
//! and the rest reshare.

mod deal;
mod decision;
mod machine;
mod message;
mod plan;
mod setup;

pub use self::deal::{Possession, SealedShare};
pub use self::decision::Decision;
pub use self::machine::Ceremony;
pub use self::message::{Content, Message};
pub use self::plan::{Kind, Plan, Template};
pub use self::setup::{Before, Setup};
use crate::document::{Digest, FormatError, Signed};
use crate::epoch::EpochRecord;
use crate::group::{GroupError, Index, Scalar};
use crate::params::SealParams;
use crate::trust::TrustError;

/// What the surroundings are to do.
#[derive(Debug)]
pub enum Effect {
    /// Send this to every other party.
    Broadcast(Signed<Message>),
    /// Make this durable beside what is there, then say [`Ceremony::stored`].
    Store(Box<Pending>),
    /// Everybody is ready: make this certificate durable, answer with the new share from now on, then erase the old share and its
    /// seal key. Who has no new share erases all the same.
    Switch(Box<Signed<EpochRecord>>),
    /// It came to nothing, and the old state stays. What was stored is kept all the same until a certificate of its epoch or a
    /// later one is durable.
    Abort(Abort),
    /// Somebody has contradicted himself, but too late to matter. For the log.
    Report(Abort),
}

/// A new share that is not in use yet.
#[derive(Debug)]
pub struct Pending {
    /// Which ceremony made it.
    pub session: Digest,
    /// Whose it is.
    pub index: Index,
    /// What it belongs to.
    pub record: EpochRecord,
    /// The parameters that it is a share of. After *generate*, they wait for the owner's signature.
    pub params: SealParams,
    /// The share.
    pub secret: Scalar,
}

/// Why a ceremony came to nothing, and whose doing it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Abort {
    /// What happened.
    pub reason: AbortReason,
    /// Who is named by it.
    pub named: Vec<Party>,
}

/// A party of a ceremony.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Party {
    /// Of the roster whose members deal.
    Dealer(Index),
    /// Of the roster that gets the shares.
    Receiver(Index),
}

/// What ended a ceremony.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AbortReason {
    /// Some did not speak in time.
    #[error("some did not take part in time")]
    Absent,
    /// Two parties have seen different beginnings. Give each the [`Ceremony::log`] of the other: then whoever spoke twice is named.
    #[error("two parties have seen different messages")]
    Divergent,
    /// One party has signed two different messages where there is one.
    #[error("a party has said two different things")]
    Equivocated,
    /// Commitments of the wrong number, of another value than must be dealt, or without proof of possession.
    #[error("a dealer's commitments are not what must be dealt")]
    InvalidDeal,
    /// A share that was shown does not fit the dealer's commitments.
    #[error("a dealer has shown a share that does not fit its commitments")]
    InvalidShare,
    /// The sum of all that was dealt is no key: whoever spoke last has chosen it so.
    #[error("the sum of what was dealt is no key")]
    NoKey,
    /// Somebody promised never to be ready.
    #[error("a party has given up")]
    Refused,
    /// A complaint was not answered: either of both lies.
    #[error("a complaint was not answered")]
    Unresolved,
}

/// Why a ceremony can't begin.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CeremonyError {
    /// Plan, rosters, parameters and epoch do not belong together.
    #[error("plan, rosters, parameters and epoch do not belong together")]
    Plan,
    /// The key of this signer has no part in it.
    #[error("this keyholder has no part in the ceremony")]
    NoPart,
    /// A dealer without its share.
    #[error("a dealer needs the share of the epoch before")]
    NoShare,
    /// A document of the plan.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// A number was zero, which happens to nobody.
    #[error(transparent)]
    Group(#[from] GroupError),
    /// The signer failed.
    #[error("a message could not be signed: {0}")]
    Signer(#[from] bonafide_crypto::key::SignError),
    /// A certificate does not hold.
    #[error(transparent)]
    Trust(#[from] TrustError),
}

impl AbortReason {
    /// The stable code.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::Absent => "sealing.ceremony-absent",
            Self::Divergent => "sealing.ceremony-divergent",
            Self::Equivocated => "sealing.ceremony-equivocated",
            Self::InvalidDeal => "sealing.ceremony-invalid-deal",
            Self::InvalidShare => "sealing.ceremony-invalid-share",
            Self::NoKey => "sealing.ceremony-no-key",
            Self::Refused => "sealing.ceremony-refused",
            Self::Unresolved => "sealing.ceremony-unresolved",
        }
    }

    /// What a person can do about it.
    #[must_use]
    pub const fn hint(self) -> &'static str {
        match self {
            Self::Absent => {
                "bring all keyholders up and begin again; to go on without one, reshare with another roster"
            }
            Self::Divergent => "compare the logs of all parties: whoever has signed two messages is the one",
            Self::Equivocated | Self::InvalidDeal | Self::InvalidShare => {
                "replace the keyholder that is named: it lies, or is broken"
            }
            Self::NoKey => "begin again; if it persists, one keyholder wants it so",
            Self::Refused => "ask the operator that is named, and begin again",
            Self::Unresolved => "one of both that are named lies, or is broken: look at both",
        }
    }
}

impl CeremonyError {
    /// The stable code of this error.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Plan => "sealing.ceremony-plan",
            Self::NoPart => "sealing.ceremony-no-part",
            Self::NoShare => "sealing.ceremony-no-share",
            Self::Format(error) => error.code(),
            Self::Group(error) => error.code(),
            Self::Signer(error) => error.code(),
            Self::Trust(error) => error.code(),
        }
    }
}
