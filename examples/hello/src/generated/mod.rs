//! Written by `cargo xtask codegen`, but for this file.

include!("hello.v1.rs");
