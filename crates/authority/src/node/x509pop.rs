//! A certificate of a PKI that the site trusts, and a proof that the node holds its key.
//!
//! A certificate has one agent: its ID is derived from it, so that a node that has lost its state comes back as the same
//! agent, and a banned one stays banned. The newest attestation wins. It ends the streams of the one before, whose SVIDs
//! are no longer admitted: a second holder of the key shows, in the log and on the first one's node.

use std::sync::Arc;

use bonafide_attest::x509pop::{self, KIND, Proof, agent_uuid};
use bonafide_attest::{Selector, SelectorSet};
use bonafide_crypto::digest::sha256;
use bonafide_crypto::random::Random;
use bonafide_identity::Certificate;
use bonafide_identity::time::UnixTime;
use bonafide_identity::x509::{MAX_CLIENT_CHAIN, VerifiedClient, verify_client};
use bonafide_wire::node::{X509PopChallenge, X509PopEvidence, X509PopResponse};
use prost::Message;

use super::attestor::{Asked, NodeAttestor, Pending, Step, Verdict};
use crate::journal::hex;
use crate::records::NodeProof;
use crate::refusal::Refusal;
use crate::site::Site;
use crate::state::{SiteState, State};

/// A chain of the greatest length, of certificates of an ordinary size.
const MAX_EVIDENCE: usize = 32 * 1024;
/// Names of one kind in a certificate that become selectors. None do of one that has more.
const MAX_NAMES: usize = 32;

/// Attests by certificate.
#[derive(Clone, Debug)]
pub struct X509Pop {
    random: Arc<dyn Random>,
}

impl X509Pop {
    /// Draws nonces from `random`.
    #[must_use]
    pub fn new(random: Arc<dyn Random>) -> Self {
        Self { random }
    }
}

impl NodeAttestor for X509Pop {
    fn kind(&self) -> &'static str {
        KIND
    }

    fn max_evidence(&self) -> usize {
        MAX_EVIDENCE
    }

    fn claimed_site(&self, evidence: &[u8], state: &State) -> Option<String> {
        let evidence = X509PopEvidence::decode(evidence).ok()?;
        trusting(state, &evidence.site).map(|site| site.name.to_string())
    }

    fn begin(&self, asked: Asked<'_>, state: &State, now: UnixTime) -> Result<Step, Refusal> {
        let evidence = X509PopEvidence::decode(asked.evidence).map_err(|_| malformed("evidence"))?;
        let site = trusting(state, &evidence.site).ok_or_else(no_site)?;
        if evidence.chain.len() > MAX_CLIENT_CHAIN {
            return Err(malformed("chain of certificates, which has more than five,"));
        }
        let chain: Vec<&[u8]> = evidence.chain.iter().map(|der| &**der).collect();
        let client = verify_client(&chain, &site.x509pop_roots, now).map_err(|error| {
            Refusal::denied(error.code(), format!("the node's certificate proves nothing here: {error}"))
                .hint(error.hint())
        })?;
        // A workload's SVID authenticates clients too, and an upstream authority may have issued both.
        if client.leaf().spiffe_id().is_some_and(|id| id.trust_domain() == state.trust_domain()) {
            return Err(Refusal::denied(
                "attest.own-svid",
                "an SVID of this trust domain is no node's certificate",
            )
            .hint("use a certificate that the node's own PKI has issued"));
        }
        let nonce: [u8; 32] = self.random.array();
        Ok(Step::Challenge {
            challenge: X509PopChallenge { nonce: nonce.to_vec().into() }.encode_to_vec(),
            pending: Box::new(Waiting {
                site: site.name.to_string(),
                client,
                nonce,
                csr: asked.csr.to_vec(),
            }),
        })
    }
}

/// Waits for the proof.
#[derive(Debug)]
struct Waiting {
    site: String,
    client: VerifiedClient,
    nonce: [u8; 32],
    csr: Vec<u8>,
}

impl Pending for Waiting {
    fn answer(self: Box<Self>, response: &[u8], state: &State, _: UnixTime) -> Result<Step, Refusal> {
        let response = X509PopResponse::decode(response).map_err(|_| malformed("answer"))?;
        let node_nonce: &[u8; 32] = (*response.nonce).try_into().map_err(|_| malformed("nonce"))?;
        let leaf = self.client.leaf();
        let proof = Proof {
            trust_domain: state.trust_domain(),
            site: &self.site,
            authority_nonce: &self.nonce,
            node_nonce,
            certificate: leaf.der(),
            csr: &self.csr,
        };
        let algorithm = x509pop::algorithm_of(response.scheme).ok_or_else(|| {
            Refusal::invalid("attest.x509pop-scheme", "the proof is signed with a scheme that is not taken")
                .hint("sign with ECDSA, Ed25519, or RSA with SHA-256 (PSS or PKCS#1 v1.5)")
        })?;
        leaf.public_key().verify(algorithm, &proof.transcript(), &response.signature).map_err(|_| {
            Refusal::denied(
                "attest.x509pop-proof",
                "the node does not prove that it holds the key of its certificate",
            )
            .hint("check that key and certificate belong together, and that nobody stands between")
        })?;
        let root = self.client.root().cloned();
        let proof = root
            .as_ref()
            .map(|root| NodeProof { expires_at: self.client.not_after(), root: sha256(root.der()) });
        let site = self.site.clone();
        Ok(Step::Verdict(Verdict {
            agent: Some(agent_uuid(state.trust_domain(), &self.site, leaf.der())),
            selectors: selectors(&self.client),
            evidence: hex(&sha256(leaf.der())),
            proof,
            site: self.site,
            // Nothing is spent. But a root that was taken away meanwhile admits nobody.
            spend: Box::new(move |state| {
                let roots = trusting(state, &site).map(|site| site.x509pop_roots.as_slice());
                let still = roots.zip(root.as_ref()).is_some_and(|(roots, root)| roots.contains(root));
                if still { Ok(Vec::new()) } else { Err(no_site()) }
            }),
        }))
    }
}

/// What is known of a node by its certificate, in the order of the verified path: nothing of this is read from anywhere
/// else.
fn selectors(client: &VerifiedClient) -> SelectorSet {
    let leaf = client.leaf();
    let fingerprint = |certificate: &Certificate| hex(&sha256(certificate.der()));
    let mut found =
        vec![("x509pop.fingerprint", fingerprint(leaf)), ("x509pop.serialnumber", hex(leaf.serial()))];
    found.extend(client.issuers().iter().map(|issuer| ("x509pop.ca_fingerprint", fingerprint(issuer))));
    found.extend(leaf.common_name().map(|name| ("x509pop.subject_cn", name.to_owned())));
    for (key, names) in [("x509pop.san_dns", leaf.dns_names()), ("x509pop.san_uri", leaf.uri_sans())] {
        if names.len() <= MAX_NAMES {
            found.extend(names.iter().map(|name| (key, name.to_string())));
        }
    }
    // What is no selector's value, a name with a line break, is left out: selectors only ever add rights.
    let fit = found.iter().filter_map(|(key, value)| Selector::new(key, value).ok());
    SelectorSet::collect(fit).unwrap_or_default()
}

/// The site, if it takes certificates at all.
fn trusting<'a>(state: &'a State, name: &str) -> Option<&'a Arc<Site>> {
    state.site(name).and_then(SiteState::site).filter(|site| !site.x509pop_roots.is_empty())
}

/// The same words for a site that there is not and for one that takes no certificates.
fn no_site() -> Refusal {
    Refusal::denied(
        "attest.x509pop-site",
        "there is no site of this name that admits nodes by such a certificate",
    )
    .hint("compare `site` of the node with `bonafide site show`, and give the site roots: `--x509pop-root`")
}

fn malformed(what: &str) -> Refusal {
    Refusal::invalid("attest.malformed", format!("the attestation is malformed: its {what} makes no sense"))
}
