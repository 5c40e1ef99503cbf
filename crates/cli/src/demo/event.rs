//! What the actors of the demo tell: one JSON object a line, on their standard output.

use serde::{Deserialize, Serialize};

/// Something that an actor did or saw.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub(super) enum Event {
    /// It received an SVID, the first or the next.
    Identity(Identity),
    /// The server accepts connections.
    Listening {
        /// `address:port`.
        address: String,
    },
    /// It sees an identity of the other side on a new connection, for the first time.
    Peer {
        /// SPIFFE ID.
        spiffe_id: String,
        /// Serial number of the certificate, hex.
        serial: String,
    },
    /// How the conversation went so far.
    Conversation(Conversation),
    /// The server has decided otherwise than before, or for another reason.
    Decided {
        /// Action and path.
        asked: String,
        /// Whether the request was served.
        allowed: bool,
        /// In words, for operators.
        why: String,
        /// What policies in shadow mode would have done; empty: the same.
        would: String,
    },
    /// A key was used: with another version than before, with another outcome, or for some more times.
    Used(Used),
    /// The agent refused it.
    Refused {
        /// Stable code.
        code: String,
        /// One line.
        message: String,
    },
}

/// An SVID, as its owner sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Identity {
    /// SPIFFE ID.
    pub spiffe_id: String,
    /// Instance ID, from the certificate.
    pub instance: String,
    /// How often the instance has been renewed.
    pub generation: u64,
    /// Serial number, hex.
    pub serial: String,
    /// Key ID of the public key, hex.
    pub key: String,
}

/// Counters of the client; all since its start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Conversation {
    /// Requests answered over the one connection that stays open.
    pub on_one_connection: u64,
    /// Requests answered over connections made for them.
    pub on_new_connections: u64,
    /// Requests that were not answered, or answered by somebody else.
    pub failures: u64,
    /// The last failure, in words.
    pub last_failure: String,
}

/// How the use of a key went.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Used {
    /// In words.
    pub what: String,
    /// How often it was tried since its start.
    pub times: u64,
    /// The version of the key; 0: it was refused.
    pub version: u32,
    /// Why it was refused; empty: it was not.
    pub code: String,
    /// The same in one line.
    pub message: String,
}
