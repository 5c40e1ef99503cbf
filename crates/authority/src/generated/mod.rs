//! Written by `cargo xtask codegen`, but for this file, which gives the packages their places.

/// The issuance ledger's entries.
pub mod entry {
    include!("bonafide.entry.v1.rs");
}

/// The entries of the ledger of keys.
pub mod key_entry {
    include!("bonafide.keyentry.v1.rs");
}

pub(crate) mod record {
    include!("bonafide.record.v1.rs");
}
