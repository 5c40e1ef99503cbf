//! Written by `cargo xtask codegen`, but for this file, which gives the package its place.

pub(crate) mod worker {
    include!("bonafide.keyholder.worker.rs");
}
