#[path = "bonafide.entry.v1.rs"]
pub mod entry;
#[path = "bonafide.record.v1.rs"]
pub(crate) mod record;
