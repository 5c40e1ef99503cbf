//! Leases and grants.

use bonafide_kms::ciphertext::{Ciphertext, KeyId};
use bonafide_kms::envelope::DataKey;

use super::*;
use crate::idempotency::Idempotency;
use crate::key_entry::lease_over::How;
use crate::kms::ends::Ending;
use crate::kms::leases::Used;
use crate::kms::leasing::{Leased, Wanted, Wish};
use crate::kms::lifecycle::NewGrant;

fn wish(usage: Wanted) -> Wish {
    Wish { key: "orders/pii".into(), context: pairs(&[("tenant", "t1")]), usage }
}

impl House {
    async fn lease(&self, who: &Caller, usage: Wanted) -> Result<Leased, Refusal> {
        self.service.lease(who, &[wish(usage)]).await?.pop().unwrap()
    }

    /// With a key that web may use, its agent's stream, and what follows changes.
    async fn leasing() -> (Self, Ending) {
        let house = Self::new().await;
        house.key("orders/pii", KeyType::Aes256Gcm).await;
        house.policy(WEB_ENCRYPTS).await;
        let shutdown = bonafide_net::drain::Shutdown::new();
        tokio::spawn(house.service.clone().follow(house.registry.subscribe(), shutdown));
        let stream = house.service.endings(&AGENT.parse().unwrap());
        (house, stream)
    }
}

async fn ended(stream: &Ending) -> Vec<String> {
    let told = tokio::time::timeout(Duration::from_secs(10), stream.next()).await.unwrap();
    told.ended.into_iter().map(|ended| ended.problem.unwrap().code).collect()
}

#[tokio::test]
async fn what_is_encrypted_under_a_lease_opens_at_the_authority_and_under_a_lease() {
    let (house, _stream) = House::leasing().await;
    let web = workload("web", &[]);
    let leased = house.lease(&web, Wanted::Encrypt).await.unwrap();
    let (data_key, wrapped) = leased.data_key.unwrap();
    let (digest, _) = read_context(&pairs(&[("tenant", "t1")])).unwrap();
    let key = KeyId::from_bytes(*leased.record.id());
    let local = |data_key: &[u8], wrapped: &[u8]| {
        DataKey::new(KeyType::Aes256Gcm, key, 1, &digest, data_key.try_into().unwrap(), wrapped).unwrap()
    };
    let ciphertext = Bytes::from(local(&data_key, &wrapped).seal(b"plain", &SystemRandom).unwrap());
    assert_eq!(house.decrypt(&web, "orders/pii", &ciphertext, &[("tenant", "t1")]).await, Ok(1));
    // On another node, after a rotation.
    house.change("orders/pii", Change::Rotate { imported: false }).await.unwrap();
    let parts = Ciphertext::decode(&ciphertext).unwrap().envelope().unwrap();
    let usage = Wanted::Decrypt { wrapped: Bytes::copy_from_slice(parts.wrapped), version: 1 };
    let leased = house.lease(&web, usage).await.unwrap();
    let (again, wrapped) = leased.data_key.unwrap();
    assert_eq!(local(&again, &wrapped).open(parts).unwrap().as_slice(), b"plain");
    // Another context's data key, and what is no data key at all.
    let other = Wish { context: pairs(&[("tenant", "t2")]), ..wish(Wanted::Decrypt { wrapped, version: 1 }) };
    let refused = house.service.lease(&web, &[other]).await.unwrap().pop().unwrap();
    assert_eq!(code(refused), "kms.ciphertext-refused");
    let usage = Wanted::Decrypt { wrapped: Bytes::from_static(b"none"), version: 1 };
    assert_eq!(code(house.lease(&web, usage).await), "kms.ciphertext-refused");
}

#[tokio::test]
async fn leases_end_at_once_with_what_they_rest_on_and_the_agent_hears_why() {
    let (house, stream) = House::leasing().await;
    let (web, db) = (workload("web", &[]), workload("db", &[]));
    let agent: SpiffeId = AGENT.parse().unwrap();
    assert_eq!(code(house.lease(&db, Wanted::Encrypt).await), "kms.denied");

    let leased = house.lease(&web, Wanted::Encrypt).await.unwrap();
    assert!(house.service.holds(&agent));
    house.change("orders/pii", Change::Rotate { imported: false }).await.unwrap();
    assert_eq!(ended(&stream).await, ["kms.lease-superseded"]);
    let renewed = house.service.renew(&agent, &[(leased.id, Used::default())]).await.unwrap().pop().unwrap();
    assert_eq!(code(renewed), "kms.lease-unknown");

    house.lease(&web, Wanted::Encrypt).await.unwrap();
    let never = Settings { local: Some(bonafide_kms::key::Local::Never), ..Settings::default() };
    house.change("orders/pii", Change::Configure(never)).await.unwrap();
    assert_eq!(ended(&stream).await, ["kms.local-never"]);
    assert_eq!(code(house.lease(&web, Wanted::Encrypt).await), "kms.local-never");
    let agent_only = Settings { local: Some(bonafide_kms::key::Local::Agent), ..Settings::default() };
    house.change("orders/pii", Change::Configure(agent_only)).await.unwrap();

    house.lease(&web, Wanted::Encrypt).await.unwrap();
    house.change("orders/pii", Change::Disable(Target::Key)).await.unwrap();
    assert_eq!(ended(&stream).await, ["kms.key-disabled"]);
    house.change("orders/pii", Change::Enable(Target::Key)).await.unwrap();

    house.lease(&web, Wanted::Encrypt).await.unwrap();
    house.no_policy("web").await;
    assert_eq!(ended(&stream).await, ["kms.denied"]);
    house.policy(WEB_ENCRYPTS).await;

    house.lease(&web, Wanted::Encrypt).await.unwrap();
    let gone = crate::records::registration_key("web");
    house.registry.write(move |_| Ok(vec![RecordChange::Remove(gone.clone())])).await.unwrap();
    assert_eq!(ended(&stream).await, ["kms.caller-over"]);
    assert!(!house.service.holds(&agent));
}

#[tokio::test]
async fn a_convergent_key_encrypts_at_the_authority_alone() {
    let (house, _stream) = House::leasing().await;
    let flags = Flags { convergent: true, ..Flags::default() };
    house.key_with("orders/same", KeyType::Aes256Gcm, Settings::default(), flags).await;
    let web = workload("web", &[]);
    let wish = Wish { key: "orders/same".into(), ..wish(Wanted::Encrypt) };
    let refused = house.service.lease(&web, &[wish]).await.unwrap().pop().unwrap();
    assert_eq!(code(refused), "kms.local-never");
    let one = house.encrypt(&web, "orders/same", &[("tenant", "t1")]).await.unwrap();
    assert_eq!(house.encrypt(&web, "orders/same", &[("tenant", "t1")]).await.unwrap(), one);
    assert_ne!(house.encrypt(&web, "orders/same", &[("tenant", "t2")]).await.unwrap(), one);
}

#[tokio::test]
async fn leases_have_ceilings_and_what_was_used_is_on_the_ledger() {
    let (house, stream) = House::leasing().await;
    let web = workload("web", &[]);
    let agent: SpiffeId = AGENT.parse().unwrap();
    let leased = house.lease(&web, Wanted::Encrypt).await.unwrap();
    let terms = leased.terms;
    assert_eq!(terms.expires_at.since(house.clock.now()), Duration::from_secs(300));
    let after = terms.renew_after.since(house.clock.now()).as_secs();
    assert!((160..=200).contains(&after), "{after}");
    assert_eq!((terms.ceilings.messages, terms.ceilings.bytes), (1 << 20, 64 << 30));
    // A data key does not get older than a lease.
    house.clock.advance(Duration::from_secs(100));
    let used = Used { messages: 5, bytes: 500 };
    let renewed = house.service.renew(&agent, &[(leased.id, used)]).await.unwrap().pop().unwrap().unwrap();
    assert_eq!(renewed.expires_at, terms.expires_at);
    house.service.give_back(&agent, &[(leased.id, Used { messages: 7, bytes: 700 })]).await.unwrap();
    let silent = house.lease(&web, Wanted::Encrypt).await.unwrap();
    // Another agent's word about it counts for nothing.
    let other: SpiffeId = "spiffe://example.org/bonafide/agent/lab/two".parse().unwrap();
    let refused = house.service.renew(&other, &[(silent.id, used)]).await.unwrap().pop().unwrap();
    assert_eq!(code(refused), "kms.lease-unknown");
    house.clock.advance(Duration::from_secs(300));
    house.service.sweep();
    let over: Vec<_> = house
        .written()
        .into_iter()
        .filter_map(|entry| match entry {
            EntryKind::LeaseOver(over) => Some((over.how(), over.messages, over.bytes)),
            _ => None,
        })
        .collect();
    assert_eq!(over, [(How::Returned, 7, 700), (How::Silent, 1 << 20, 64 << 30)]);
    drop(stream);
    assert_eq!(code(house.lease(&web, Wanted::Encrypt).await), "kms.no-stream");
}

#[tokio::test]
async fn grants_let_others_in_for_a_while_and_never_further_than_who_made_them() {
    let (house, stream) = House::leasing().await;
    let (web, db) = (workload("web", &[]), workload("db", &[]));
    let grant = |operations: &[&str], ttl| {
        let operations: Vec<String> = operations.iter().map(|name| (*name).to_owned()).collect();
        let context = pairs(&[("tenant", "t1")]);
        NewGrant::read("spiffe://example.org/db", &operations, context, ttl, &house.registry.state())
    };
    let none = || Idempotency::new("web", "GrantKey", "", b"").unwrap();
    let make = |wanted: NewGrant| house.service.grant(&web, "orders/pii", wanted, none());
    assert_eq!(code(make(grant(&["encrypt"], 60).unwrap()).await), "kms.denied", "web may not grant");
    house.policy("{kind: Policy, name: grants, rules: [{name: g, allow: {who: {id: spiffe://example.org/web}, can: [grant], on: {key: orders/pii}}}]}").await;
    assert_eq!(
        code(make(grant(&["encrypt", "public-key"], 60).unwrap()).await),
        "kms.denied",
        "nor what it has not"
    );
    for (operations, ttl) in
        [(&["fetch"][..], 60), (&["grant"], 60), (&[], 60), (&["encrypt"], 0), (&["encrypt"], 31 * 86_400)]
    {
        assert!(grant(operations, ttl).is_err(), "{operations:?} {ttl}");
    }
    let (made, _) = make(grant(&["encrypt", "decrypt"], 100).unwrap()).await.unwrap();
    let tenant = [("tenant", "t1"), ("more", "1")];
    let ciphertext = house.encrypt(&db, "orders/pii", &tenant).await.unwrap();
    house.decrypt(&db, "orders/pii", &ciphertext, &tenant).await.unwrap();
    assert_eq!(code(house.encrypt(&db, "orders/pii", &[("tenant", "t2")]).await), "kms.denied");
    // A lease lasts no longer than the grant, and ends with it.
    let leased = house.lease(&db, Wanted::Encrypt).await.unwrap();
    assert_eq!(leased.terms.expires_at.since(house.clock.now()), Duration::from_secs(100));
    // A denial of a policy is stronger.
    house
        .policy(
            "{kind: Guardrail, name: stop, rules: [{name: s, deny: {who: {id: spiffe://example.org/db}}}]}",
        )
        .await;
    assert_eq!(ended(&stream).await, ["kms.denied"]);
    assert_eq!(code(house.encrypt(&db, "orders/pii", &tenant).await), "kms.denied");
    house.no_policy("stop").await;
    house.encrypt(&db, "orders/pii", &tenant).await.unwrap();
    assert_eq!(code(house.service.revoke_grant(&db, &made.id).await), "kms.grant-unknown", "it is not his");
    house.clock.advance(Duration::from_secs(100));
    assert_eq!(code(house.encrypt(&db, "orders/pii", &tenant).await), "kms.denied");
    let (made, _) = make(grant(&["encrypt"], 100).unwrap()).await.unwrap();
    house.lease(&db, Wanted::Encrypt).await.unwrap();
    house.service.revoke_grant(&web, &made.id).await.unwrap();
    assert_eq!(ended(&stream).await, ["kms.denied"]);
    assert_eq!(code(house.encrypt(&db, "orders/pii", &tenant).await), "kms.denied");
}
