//! One module for each command: its arguments, its calls, its answer.

pub mod agent;
pub mod apply;
pub mod authority;
pub mod bundle;
pub mod ca;
pub mod decisions;
pub mod dev;
pub mod entry;
pub mod explain;
pub mod inspect;
pub mod join;
pub mod key;
pub mod keyholder;
pub mod log;
pub mod policy;
pub mod revoke;
pub mod secret;
pub mod simulate;
pub mod site;
pub mod status;
pub mod svid;
pub mod token;
