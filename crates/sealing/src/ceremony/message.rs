//! What parties say. Each message is signed with the key of its sender in the roster ([`Signed`](crate::document::Signed)).

use super::deal::{Possession, SEALED_SHARE, SealedShare};
use crate::cbor::{Reader, Writer};
use crate::document::{Digest, Document, MAX_SIGNATURE};
use crate::epoch::{read_points, write_points};
use crate::group::{G1Point, G2_BYTES, G2Point, Index, MAX_KEYHOLDERS, Scalar};

/// A message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Digest of the plan.
    pub session: Digest,
    /// Who speaks, in the roster of his part.
    pub sender: Index,
    /// What he says.
    pub content: Content,
}

/// What is said. Dealers say *deal*, *shares* and *answer*, receivers the rest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// Commitments to what will be dealt.
    Deal {
        /// To each coefficient; in a refresh without that of power 0.
        commitments: Vec<G1Point>,
        /// For a new key.
        possession: Option<Box<Possession>>,
    },
    /// The key that shares for the sender are encrypted to in this ceremony.
    Join {
        /// The key.
        key: G1Point,
    },
    /// The shares of all receivers, in their order.
    Shares {
        /// What the dealer has seen.
        transcript: Digest,
        /// Encrypted shares.
        sealed: Vec<SealedShare>,
    },
    /// The share of this dealer does not open, or does not fit.
    Complaint {
        /// What the receiver has seen.
        transcript: Digest,
        /// Which dealer.
        accused: Index,
    },
    /// The share that a complaint is about, for everybody to see.
    Answer {
        /// What the dealer has seen.
        transcript: Digest,
        /// Whose share it is.
        receiver: Index,
        /// The share.
        share: Scalar,
    },
    /// The new share is verified and durable.
    Ready {
        /// Signature under the record of the new epoch.
        signature: Vec<u8>,
    },
    /// The sender has not said *ready* in this session, and will not: no use to wait for it.
    Never,
}

impl Content {
    /// The number of its kind.
    pub(super) fn number(&self) -> u8 {
        match self {
            Self::Deal { .. } => 1,
            Self::Join { .. } => 2,
            Self::Shares { .. } => 3,
            Self::Complaint { .. } => 4,
            Self::Answer { .. } => 5,
            Self::Ready { .. } => 6,
            Self::Never => 7,
        }
    }

    /// Whether dealers say this.
    pub(super) fn is_dealers(&self) -> bool {
        matches!(self, Self::Deal { .. } | Self::Shares { .. } | Self::Answer { .. })
    }
}

impl Document for Message {
    const NAME: &'static str = "ceremony message";
    const MAX: usize = 512 + MAX_KEYHOLDERS as usize * (SEALED_SHARE + 8);

    fn encode(&self) -> Vec<u8> {
        let mut out = Writer::default();
        let fields = match &self.content {
            Content::Deal { possession, .. } => 1 + 3 * usize::from(possession.is_some()),
            Content::Join { .. } | Content::Ready { .. } => 1,
            Content::Shares { .. } | Content::Complaint { .. } => 2,
            Content::Answer { .. } => 3,
            Content::Never => 0,
        };
        out.map(3 + fields).number(1).bytes(&self.session);
        out.number(2).number(u64::from(self.sender.number()));
        out.number(3).number(u64::from(self.content.number()));
        match &self.content {
            Content::Deal { commitments, possession } => {
                out.number(4);
                write_points(&mut out, commitments);
                if let Some(possession) = possession {
                    out.number(5).bytes(&possession.second.encode()).number(6).bytes(&possession.challenge);
                    out.number(7).bytes(possession.response.to_bytes().as_slice());
                }
            }
            Content::Join { key } => {
                out.number(4).bytes(&key.encode());
            }
            Content::Shares { transcript, sealed } => {
                out.number(4).bytes(transcript).number(5).array(sealed.len());
                for share in sealed {
                    out.bytes(&share.0);
                }
            }
            Content::Complaint { transcript, accused } => {
                out.number(4).bytes(transcript).number(5).number(u64::from(accused.number()));
            }
            Content::Answer { transcript, receiver, share } => {
                out.number(4).bytes(transcript).number(5).number(u64::from(receiver.number()));
                out.number(6).bytes(share.to_bytes().as_slice());
            }
            Content::Ready { signature } => {
                out.number(4).bytes(signature);
            }
            Content::Never => {}
        }
        out.finish()
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(bytes);
        let mut map = reader.map()?;
        map.required(&mut reader, 1)?;
        let session = *reader.fixed()?;
        map.required(&mut reader, 2)?;
        let sender = Index::new(reader.number()?).ok()?;
        map.required(&mut reader, 3)?;
        let number = reader.number()?;
        if number != 7 {
            map.required(&mut reader, 4)?;
        }
        let content = match number {
            1 => {
                let commitments = read_points(&mut reader)?;
                let mut possession = None;
                if map.optional(&mut reader, 5)? {
                    let second = reader.fixed::<G2_BYTES>()?;
                    map.required(&mut reader, 6)?;
                    let challenge = *reader.fixed()?;
                    map.required(&mut reader, 7)?;
                    let response = Scalar::from_bytes(reader.fixed()?).ok()?;
                    let second = G2Point::decode(second).ok()?;
                    possession = Some(Box::new(Possession { second, challenge, response }));
                }
                Content::Deal { commitments, possession }
            }
            2 => Content::Join { key: G1Point::decode(reader.fixed()?).ok()? },
            3 => {
                let transcript = *reader.fixed()?;
                map.required(&mut reader, 5)?;
                let sealed =
                    reader.list(usize::from(MAX_KEYHOLDERS), |reader| Some(SealedShare(*reader.fixed()?)))?;
                Content::Shares { transcript, sealed }
            }
            4 => {
                let transcript = *reader.fixed()?;
                map.required(&mut reader, 5)?;
                Content::Complaint { transcript, accused: Index::new(reader.number()?).ok()? }
            }
            5 => {
                let transcript = *reader.fixed()?;
                map.required(&mut reader, 5)?;
                let receiver = Index::new(reader.number()?).ok()?;
                map.required(&mut reader, 6)?;
                Content::Answer { transcript, receiver, share: Scalar::from_bytes(reader.fixed()?).ok()? }
            }
            6 => Content::Ready { signature: reader.bytes(MAX_SIGNATURE)?.to_vec() },
            7 => Content::Never,
            _ => return None,
        };
        map.end()?;
        reader.finish()?;
        Some(Self { session, sender, content })
    }
}
