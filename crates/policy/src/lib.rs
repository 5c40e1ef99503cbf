//! The policy language: who can do what on which thing, when.
//!
//! ```yaml
//! kind: Policy
//! name: ledger-callers
//! appliesTo: {app: ledger}
//! rules:
//! - name: prod-readers
//!   allow:
//!     who: {labels: {env: prod, tier: [web, api]}}
//!     can: [GET]
//!     on: {path: /v1/**}
//!     except: {path: /v1/orders/*/audit}
//! ```
//!
//! A rule is met when all of its clauses are; a list in a clause is met by any of its items. Deny beats allow, and what
//! no rule allows is denied. The order of rules, policies and files has no meaning. Everything that goes wrong denies.
//!
//! | step | module |
//! |---|---|
//! | text → documents, with the place of every fault | [`yaml`], [`read`](mod@read) |
//! | values that can't be wrong | [`model`], [`words`], [`glob`], [`host`], [`network`] |
//! | the bytes that are hashed and sealed to; printing | [`canonical`], [`print`](mod@print) |
//! | policies compiled for a workload; the answer | [`snapshot`], [`decision`], [`explain`], [`live`] |
//! | what a request says | [`request`], [`path`], [`scenario`] |
//! | policies for another engine | [`cedar`] |
//! | what can be said without a request | [`analysis`], [`check`], [`diff`](mod@diff) |
//! | what documents' own tests say; what a draft would change of what was decided | [`coverage`], [`replay`] |
//! | who may open a sealed secret, of the very bytes that it is sealed to | [`secret`] |
//! | requests as JSON; programs in Rego, and policies as such | [`record`], [`rego`] |
//!
//! There is no clock, no randomness and no I/O here: times and the seed of hashes are parameters.

pub mod analysis;
mod asked;
pub mod canonical;
pub mod cedar;
pub mod check;
pub mod coverage;
pub mod decision;
pub mod diff;
pub mod duration;
pub mod explain;
mod form;
pub mod glob;
pub mod host;
pub mod judge;
pub mod live;
pub mod model;
pub mod network;
pub mod path;
pub mod print;
pub mod read;
pub mod record;
pub mod rego;
pub mod replay;
pub mod request;
pub mod scenario;
pub mod secret;
pub mod set;
pub mod several;
pub mod snapshot;
pub mod text;
pub mod words;
pub mod yaml;

pub use crate::{
    asked::InputFault,
    canonical::Digest,
    decision::{Decision, Determining, Reason, Would},
    explain::{Explanation, NearMiss, Refusal},
    live::Live,
    model::{Body, Document, Effect, Kind, Mode, Policy, RegoPolicy},
    read::{read, read_canonical, read_node},
    request::{AssertedProps, Caller, CertifiedLabels, Circumstances, Request, Thing},
    scenario::Scenario,
    secret::SecretPolicy,
    snapshot::Snapshot,
};
