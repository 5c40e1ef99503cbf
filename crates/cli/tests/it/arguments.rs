//! Command lines that parse, and how those that do not are refused.

use bonafide_cli::Cli;
use clap::{CommandFactory as _, Parser as _};

#[test]
fn the_definition_is_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn what_people_type_parses() {
    for line in [
        "status",
        "status --agent",
        "explain",
        "explain 4711 --admin-socket /a.sock -o json",
        "entry create spiffe://td/web -s unix.uid:1000 --selector unix.path:/usr/bin/web --x509-ttl 1h30m --wait",
        "entry create --rule spiffe://td/user/{unix.user} -s unix.uid:1000 --site local --label tier=front",
        "entry list --site local --output yaml",
        "entry rm a b --wait --timeout 5s",
        "site put edge --spiffe-id spiffe://td/** --dns *.x.org --label tier=* --max-x509-ttl 2d --create-only",
        "site show edge -q",
        "join edge --ttl 1h --socket unix:///a.sock",
        "token create --site edge",
        "agent list",
        "agent ban spiffe://td/bonafide/agent/s/1 --reason lost",
        "revoke instance 0190a1b2-c3d4-7e5f-8a6b-7c8d9e0f1a2b --reason stolen --wait",
        "revoke id spiffe://td/web --delete-registrations",
        "revoke undo --site edge",
        "revoke ls -o json",
        "site quarantine edge --reason odd",
        "site release edge --wait",
        "ca show",
        "ca prepare root --wait",
        "ca activate 00ff --force",
        "ca taint k1",
        "ca revoke 00ff --wait --timeout 1m -o json",
        "ca drill --stolen intermediate --keep-root --timeout 2s",
        "ca drill --stolen jwt --id k1 --no-force",
        "key create orders/pii --type aes256-gcm --rotate-every 90d --site edge --label team=shop --alias pii",
        "key import orders/in --material - --type hmac-sha256 --exportable",
        "key config orders/pii --min-decrypt 3 --local agent --lease-age 10m --audit-sync true",
        "key destroy orders/pii --key-version 2 --grace 1d",
        "key trim orders/pii --below 3",
        "key alias orders/pii other --remove",
        "key grant orders/pii --to spiffe://td/batch --can decrypt --can encrypt --context tenant=t1 --for 2h",
        "key ls -o json",
        "apply -f sites.yaml -f entries --dry-run",
        "apply --file - --prune -l team=a --label env=prod --yes --wait --timeout 5s",
        "diff -f . --prune -l team=a",
        "export",
        "export entry rules --site edge -l team=a",
        "simulate --agents 5000 --entries 10000 --workloads 10000 --ttl 4m --for 5m --changes 600 --reuse-keys",
        "simulate --authority unix:///a.sock -o json",
        "completion bash",
    ] {
        let arguments = std::iter::once("bonafide").chain(line.split(' '));
        if let Err(cause) = Cli::try_parse_from(arguments) {
            panic!("{line}: {cause}");
        }
    }
}

#[test]
fn what_makes_no_sense_is_refused() {
    for line in [
        "",
        "entry create spiffe://td/web",
        "entry create spiffe://td/web -s unix",
        "entry create spiffe://td/web -s unix.uid:",
        "entry create spiffe://td/web -s unix.uid:1 --x509-ttl 3600",
        "entry create spiffe://td/web -s unix.uid:1 --replace",
        "entry delete",
        "apply",
        "apply -f x --prune",
        "apply -f x -l team=a",
        "apply -f x --prune -l team",
        "diff",
        "export secrets",
        "site put edge",
        "join edge --socket tcp://127.0.0.1:1",
        "status --agent --authority",
        "simulate --agents 0",
        "simulate --for 60",
        "simulate --authority /a.sock --directory /tmp",
        "completion tcsh",
    ] {
        let arguments = std::iter::once("bonafide").chain(line.split(' ').filter(|word| !word.is_empty()));
        assert!(Cli::try_parse_from(arguments).is_err(), "{line}");
    }
}
