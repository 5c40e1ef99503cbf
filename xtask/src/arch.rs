//! The arrows of the house: who may depend on whom. `ARCHITECTURE.md` explains the floors.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

const FLOOR_0: &[&str] = &["crypto", "identity", "policy", "sealing", "secmem", "wire"];
const FLOOR_1: &[&str] = &["attest", "ca", "keyring", "kms", "ledger", "store"];
const FLOOR_2: &[&str] = &["net", "tls"];
const FLOOR_3: &[&str] = &["agent", "authority", "cli", "keyholder", "sdk", "simulation"];

/// What each crate may use in its shipped code. Tests may use more.
fn allowed(name: &str) -> Option<Vec<&'static str>> {
    let below_roles = || [FLOOR_0, FLOOR_1, FLOOR_2].concat();
    Some(match name {
        "secmem" => vec![],
        "crypto" => vec!["secmem"],
        "identity" => vec!["crypto"],
        "policy" | "wire" => vec!["identity"],
        "store" | "ledger" | "kms" | "sealing" => vec!["crypto"],
        "keyring" => vec!["crypto", "secmem"],
        "ca" | "attest" | "tls" => vec!["crypto", "identity"],
        "net" => vec!["tls"],
        "authority" => below_roles(),
        "keyholder" => below_roles().into_iter().filter(|room| *room != "store").collect(),
        "agent" => below_roles().into_iter().filter(|room| !["ca", "store"].contains(room)).collect(),
        "sdk" => vec!["crypto", "identity", "kms", "policy", "sealing", "tls", "wire"],
        // A client of the authority's wire, for `cli` and `lab`: knowing no role, it measures whichever serves.
        "simulation" => vec!["attest", "crypto", "identity", "tls", "wire"],
        "cli" => [below_roles().as_slice(), FLOOR_3].concat(),
        "lab" => [below_roles().as_slice(), FLOOR_3, &["testkit"]].concat(),
        // Beside the house: tests and examples.
        "testkit" => below_roles(),
        _ => return None,
    })
}

/// Crates that stand for a library of others: nobody else names it.
const SOLE_OWNERS: &[(&str, &[&str])] = &[
    ("aws-lc-rs", &["crypto"]),
    ("blst", &["sealing"]),
    ("rusqlite", &["store"]),
    ("rustls", &["tls"]),
    ("rustls-webpki", &["identity"]),
    ("tokio-postgres", &["store"]),
    ("tokio-rustls", &["tls"]),
];

type Arrows = BTreeMap<String, Vec<String>>;

fn shipped_dependencies() -> Arrows {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version=1", "--no-deps", "--offline"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let mut arrows = Arrows::new();
    for package in metadata["packages"].as_array().unwrap() {
        let Some(name) = package["name"].as_str().unwrap().strip_prefix("bonafide-") else { continue };
        let shipped = package["dependencies"].as_array().unwrap().iter().filter(|d| d["kind"] != "dev");
        let names = shipped.map(|d| d["name"].as_str().unwrap().to_owned()).collect();
        arrows.insert(name.to_owned(), names);
    }
    arrows
}

#[test]
fn every_arrow_is_in_the_table() {
    for (name, dependencies) in shipped_dependencies() {
        let Some(allowed) = allowed(&name) else {
            panic!("`{name}` has no place in the house: see xtask/src/arch.rs")
        };
        for dependency in dependencies.iter().filter_map(|d| d.strip_prefix("bonafide-")) {
            assert!(allowed.contains(&dependency), "`{name}` must not use `{dependency}`");
        }
    }
}

#[test]
fn foreign_libraries_have_one_door() {
    let arrows = shipped_dependencies();
    for (library, owners) in SOLE_OWNERS {
        for (name, dependencies) in &arrows {
            let uses = dependencies.iter().any(|d| d == library);
            // Benchmarks measure the bare library beside ours.
            let may = owners.contains(&name.as_str()) || name == "lab";
            assert!(!uses || may, "`{name}` names `{library}`, which is the business of {owners:?}");
        }
    }
}

/// Where `unsafe` may be written: all of `secmem`, and one module of `sealing`. Every other crate denies it by the lints of the
/// workspace, and an exception would be an attribute in its source.
#[test]
fn unsafe_has_two_doors() {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates");
    let mut exceptions = Vec::new();
    for room in std::fs::read_dir(&crates).unwrap() {
        let room = room.unwrap().path();
        let manifest = std::fs::read_to_string(room.join("Cargo.toml")).unwrap();
        if !manifest.contains("[lints]\nworkspace = true") {
            exceptions.push(room.strip_prefix(&crates).unwrap().to_owned());
        }
        let mut folders = vec![room.join("src")];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else if std::fs::read_to_string(&path).is_ok_and(|source| source.contains("(unsafe_code")) {
                    exceptions.push(path.strip_prefix(&crates).unwrap().to_owned());
                }
            }
        }
    }
    exceptions.sort();
    assert_eq!(exceptions, [Path::new("sealing/src/group/foreign.rs"), Path::new("secmem")]);
}
