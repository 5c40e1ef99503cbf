//! One module for each command: its arguments, its calls, its answer.

pub mod agent;
pub mod ca;
pub mod entry;
pub mod explain;
pub mod join;
pub mod site;
pub mod status;
pub mod token;
