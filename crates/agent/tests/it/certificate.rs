//! Agents that join by a certificate of their node.

use std::{os::unix::fs::PermissionsExt, path::PathBuf, time::Duration};

use bonafide_agent::{JoinByCertificate, KeyFiles};
use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};

use crate::world::World;

/// The files of a node, and the root that its site trusts.
fn node(world: &World) -> (JoinByCertificate, Vec<u8>) {
    let mut root = CertificateParams::default();
    root.distinguished_name.push(rcgen::DnType::CommonName, "factory root");
    root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    root.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let root_key = KeyPair::generate().unwrap();
    let root_der = root.self_signed(&root_key).unwrap().der().to_vec();
    let mut leaf = CertificateParams::default();
    leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    leaf.use_authority_key_identifier_extension = true;
    let key = KeyPair::generate().unwrap();
    let certificate = leaf.signed_by(&key, &Issuer::new(root, root_key)).unwrap();
    let file = |name: &str, content: &str| -> PathBuf {
        let path = world.directory().join(name);
        std::fs::write(&path, content).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
        path
    };
    let join = JoinByCertificate {
        site: "lab".into(),
        trust_domain: "example.org".parse().unwrap(),
        trust_bundle: world.directory().join("bundle.json"),
        x509pop: KeyFiles {
            certificate: file("node.pem", &certificate.pem()),
            key: file("node.key", &key.serialize_pem()),
        },
    };
    (join, root_der)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_with_a_certificate_joins_and_comes_back() {
    let mut world = World::new().await;
    let (join, root) = node(&world);
    world.put_site(vec![root]).await;
    std::fs::write(&join.trust_bundle, world.bundle().await).unwrap();
    world.start_agent_by(&join).await.unwrap();
    let first = world.connected().await;
    assert_eq!(world.svids().await.unwrap().svids[0].spiffe_id, "spiffe://example.org/app/web");
    world.stop_agent().await;

    // A restart needs nothing but what is stored.
    std::fs::rename(&join.x509pop.key, world.directory().join("away")).unwrap();
    world.start_agent_by(&join).await.unwrap();
    assert_eq!(world.connected().await.agent_id, first.agent_id);
    world.stop_agent().await;
    std::fs::rename(world.directory().join("away"), &join.x509pop.key).unwrap();

    // A node that has lost all comes back as the same agent.
    std::fs::remove_dir_all(world.directory().join("agent")).unwrap();
    world.start_agent_by(&join).await.unwrap();
    assert_eq!(world.connected().await.agent_id, first.agent_id);
    world.stop_agent().await;

    // So does one that was away for longer than its SVID lives.
    world.stop_authority().await;
    world.clock.advance(Duration::from_secs(40 * 86_400));
    world.start_authority().await;
    world.start_agent_by(&join).await.unwrap();
    let back = world.connected().await;
    assert_eq!((back.agent_id, back.problem), (first.agent_id, None));
    assert_eq!(world.svids().await.unwrap().svids[0].spiffe_id, "spiffe://example.org/app/web");
    world.stop_agent().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_expires_while_it_runs_attests_again() {
    let mut world = World::new().await;
    let (join, root) = node(&world);
    world.put_site(vec![root]).await;
    std::fs::write(&join.trust_bundle, world.bundle().await).unwrap();
    world.start_agent_by(&join).await.unwrap();
    world.connected().await;
    world.stop_authority().await;
    world.until("sees that", |status| status.problem.is_some()).await;
    world.clock.advance(Duration::from_secs(2 * 86_400));
    world.start_authority().await;
    let back = world.connected().await;
    assert!(back.agent_svid_expires_at > world.now());
    assert_eq!(back.problem, None);
    world.stop_agent().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_not_trusted_says_so() {
    let mut world = World::new().await;
    let (join, _) = node(&world);
    std::fs::write(&join.trust_bundle, world.bundle().await).unwrap();
    world.start_agent_by(&join).await.unwrap();
    assert_eq!(world.agent_ended().await, "attest.x509pop-site");
}

/// Its site trusts another PKI from now on, and the node gets a certificate of that one.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_gets_another_certificate_attests_again_by_itself() {
    let mut world = World::new().await;
    let (join, root) = node(&world);
    world.put_site(vec![root]).await;
    std::fs::write(&join.trust_bundle, world.bundle().await).unwrap();
    world.start_agent_by(&join).await.unwrap();
    let before = world.connected().await;
    world.svids().await.unwrap();

    // In place of the first one's files.
    let (_, next) = node(&world);
    world.put_site(vec![next]).await;
    world.stop_authority().await;
    world.start_authority().await;
    let other =
        |status: &bonafide_wire::agent::AgentStatus| status.connected && status.agent_id != before.agent_id;
    world.until("another agent", other).await;
    assert_eq!(world.svids().await.unwrap().svids[0].spiffe_id, "spiffe://example.org/app/web");
    world.stop_agent().await;
}
