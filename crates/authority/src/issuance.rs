//! Evidence → site scope → registration → template → lint → log → sign → release.
//!
//! - A request contributes a public key and the proof of its possession, nothing else. What is certified comes from
//!   the registration through [`Grant`](crate::scope::Grant), which nothing but a site's scope can make.
//! - The entry with serial and hash goes to the ledger before the key is touched, and the certificate leaves only
//!   when the entry is on disk. The signature itself is made while the disk works.
//! - An SVID never outlives the intermediate that signed it. It may outlive the SVID of the agent that asked for it:
//!   bound to that, lifetimes would shrink to what the agent has left, between half and all of an hour, and renewals
//!   double; and an agent that is banned is told at once to drop what it holds.

pub(crate) mod agents;
mod certified;
mod earnings;
mod issuer;
pub(crate) mod lineages;
pub(crate) mod moves;
mod ownership;
mod prepare;
mod queue;
mod renewal;

pub(crate) use certified::AGENT_KEY;
pub(crate) use issuer::{Ask, Asker, Issuer, IssuerParts, Job};
pub(crate) use prepare::{Dates, dates};
