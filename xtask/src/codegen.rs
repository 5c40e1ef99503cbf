//! Protobuf to Rust, without a `protoc` binary. The output is checked in, so that nobody's build pays for it.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// One generated folder: where the protobuf files are, which ones, and where the Rust goes.
struct Set {
    include: &'static str,
    protos: &'static [&'static str],
    out: &'static str,
    services: Services,
}

/// What is generated for the services of a set.
enum Services {
    None,
    /// Clients and servers, whose messages go through this codec.
    With(&'static str),
}

/// Tonic's own.
const USUAL_CODEC: &str = "tonic_prost::ProstCodec";

const SETS: &[Set] = &[
    Set {
        include: "proto",
        protos: &[
            "spiffe/workloadapi.proto",
            "bonafide/types/v1/types.proto",
            "bonafide/node/v1/node.proto",
            "bonafide/agent/v1/agent.proto",
            "bonafide/admin/v1/admin.proto",
            "bonafide/kms/v1/kms.proto",
            "bonafide/keyholder/v1/keyholder.proto",
            "envoy/service/auth/v3/external_auth.proto",
        ],
        out: "crates/wire/src/generated",
        services: Services::With("crate::codec::MessageCodec"),
    },
    Set {
        include: "crates/authority/proto",
        protos: &["record.proto", "entry.proto", "key_entry.proto"],
        out: "crates/authority/src/generated",
        services: Services::None,
    },
    Set {
        include: "crates/keyholder/proto",
        protos: &["worker.proto"],
        out: "crates/keyholder/src/generated",
        services: Services::None,
    },
    Set {
        include: "examples/hello/proto",
        protos: &["hello.proto"],
        out: "examples/hello/src/generated",
        services: Services::With(USUAL_CODEC),
    },
];

/// Messages that hold a key or a bearer token. `crates/wire/src/secret.rs` gives them a `Debug` that doesn't.
const SECRET: &[&str] = &[
    ".JWTSVID",
    ".ValidateJWTSVIDRequest",
    ".X509SVID",
    ".bonafide.admin.v1.CreateJoinTokenResponse",
    ".bonafide.admin.v1.CreateKeyRequest",
    ".bonafide.admin.v1.ExportKeyResponse",
    ".bonafide.admin.v1.RotateKey",
    ".bonafide.kms.v1.DataKeyResult",
    ".bonafide.kms.v1.DecryptResult",
    ".bonafide.kms.v1.EncryptItem",
    ".bonafide.kms.v1.FetchResult",
    ".bonafide.kms.v1.LeaseResult",
    ".bonafide.kms.v1.RandomResponse",
    ".bonafide.node.v1.AttestBegin",
    ".bonafide.node.v1.JwtIssued",
];

/// The folder with the workspace's `Cargo.toml`.
pub(crate) fn repository_root() -> Result<PathBuf> {
    Ok(Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("xtask lies in the repository")?.to_owned())
}

/// Writes every generated file below `root`.
pub(crate) fn write_all(root: &Path) -> Result<()> {
    for set in SETS {
        write(set, root, &root.join(set.out))?;
    }
    Ok(())
}

fn write(set: &Set, root: &Path, out: &Path) -> Result<()> {
    std::fs::create_dir_all(out).with_context(|| format!("create {}", out.display()))?;
    let descriptors = protox::compile(set.protos, [root.join(set.include)])?;
    let (services, codec) = match set.services {
        Services::None => (false, USUAL_CODEC),
        Services::With(codec) => (true, codec),
    };
    tonic_prost_build::configure()
        .build_client(services)
        .build_server(services)
        .codec_path(codec)
        .build_transport(false)
        .bytes(".")
        .btree_map(".")
        .skip_debug(SECRET)
        .out_dir(out)
        .compile_fds(descriptors)
        .with_context(|| format!("generate {}", out.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checked_in_code_is_what_the_protos_say() {
        let root = repository_root().unwrap();
        for set in SETS {
            let fresh = tempfile::tempdir().unwrap();
            write(set, &root, fresh.path()).unwrap();
            for file in std::fs::read_dir(fresh.path()).unwrap() {
                let file = file.unwrap();
                let generated = std::fs::read_to_string(file.path()).unwrap();
                let checked_in = root.join(set.out).join(file.file_name());
                let committed = std::fs::read_to_string(&checked_in).unwrap_or_default();
                assert!(
                    generated == committed,
                    "{} is stale: run `cargo xtask codegen`",
                    checked_in.display()
                );
            }
        }
    }
}
