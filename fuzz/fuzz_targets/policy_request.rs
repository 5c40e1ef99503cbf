//! Lines: an action, a path, a host, a key. No request makes a decision fail, and explaining it decides the same.
#![no_main]

use std::sync::LazyLock;

use bonafide_identity::SpiffeId;
use bonafide_policy::{
    Caller, CertifiedLabels, Document, Request, Snapshot, Thing, read, scenario::DEFAULT_NOW,
};
use libfuzzer_sys::fuzz_target;

static SNAPSHOT: LazyLock<Snapshot> = LazyLock::new(|| {
    let texts = [
        include_str!("../../examples/policies/ledger-callers.yaml"),
        include_str!("../../examples/policies/orders-key.yaml"),
    ];
    let documents: Vec<Document> = texts.into_iter().flat_map(|text| read(text).unwrap()).collect();
    let callee = CertifiedLabels::new([("app", "ledger"), ("env", "prod")]).unwrap();
    Snapshot::compile(documents.iter().filter_map(Document::policy).cloned(), &callee, 1, 1).unwrap()
});

fuzz_target!(|text: &str| {
    let labels = CertifiedLabels::new([("env", "prod"), ("tier", "web")]).unwrap();
    let who = Caller::new(SpiffeId::parse("spiffe://prod.acme/ns/shop/sa/web").unwrap(), labels);
    let mut lines = text.split('\n');
    let mut request = Request::new(&who, lines.next().unwrap_or_default(), DEFAULT_NOW);
    request.on = Thing { path: lines.next(), host: lines.next(), key: lines.next(), ..Thing::nothing() };
    assert_eq!(SNAPSHOT.decide(&request), SNAPSHOT.explain(&request).decision);
});
