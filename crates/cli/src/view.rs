//! What commands answer with: stable names for JSON and YAML, tables for people. Lists are arrays.

pub mod agent;
pub mod apply;
pub mod authority;
pub mod decision;
pub mod explanation;
pub mod inspection;
pub mod kept_policy;
pub mod key;
mod key_ledger;
pub mod keyholder;
pub mod ledger;
pub mod policy;
pub mod registration;
pub mod revocation;
pub mod seal;
pub mod secret;
pub mod simulation;
pub mod site;
pub mod status;
pub mod svid;
pub mod token;
