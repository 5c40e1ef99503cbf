//! What a node signs to prove that it holds the key of its certificate (node attestation `x509pop`).
//!
//! Both sides add a nonce, so that neither chooses alone what is signed, and the request for the agent's key is signed
//! along: an answer that somebody else's connection brings admits nobody but the node that made it.

use bonafide_crypto::digest::sha256;
use bonafide_crypto::key::{PublicKeyAlgorithm, SignatureAlgorithm};
use bonafide_identity::TrustDomain;

/// `AttestBegin.attestor`.
pub const KIND: &str = "x509pop";

/// The domain of the signatures: no other message of ours begins like it.
const CONTEXT: &[u8] = b"bonafide x509pop v1\0";
/// The domain of agents' IDs.
const ID_CONTEXT: &[u8] = b"bonafide x509pop agent v1\0";

/// All that is signed.
#[derive(Clone, Copy, Debug)]
pub struct Proof<'a> {
    /// Of the authority.
    pub trust_domain: &'a TrustDomain,
    /// The site that the node claims to belong to.
    pub site: &'a str,
    /// Drawn by the authority for this attestation.
    pub authority_nonce: &'a [u8; 32],
    /// Drawn by the node for this attestation.
    pub node_nonce: &'a [u8; 32],
    /// The node's certificate, DER.
    pub certificate: &'a [u8],
    /// The request for the agent's SVID, as it was sent.
    pub csr: &'a [u8],
}

impl Proof<'_> {
    /// The bytes that are signed. Every part has its length before it, so that no two proofs share a transcript.
    #[must_use]
    pub fn transcript(&self) -> Vec<u8> {
        let trust_domain = self.trust_domain.to_string();
        let (certificate, csr) = (sha256(self.certificate), sha256(self.csr));
        let parts: [&[u8]; 6] = [
            trust_domain.as_bytes(),
            self.site.as_bytes(),
            self.authority_nonce,
            self.node_nonce,
            &certificate,
            &csr,
        ];
        framed(CONTEXT, &parts)
    }
}

/// The last segment of the ID of the agent whose node has this certificate: the same for every attestation with it, and
/// another one for every other certificate, site or trust domain. In the form of a version 8 UUID (RFC 9562 section 5.8).
#[must_use]
pub fn agent_uuid(trust_domain: &TrustDomain, site: &str, certificate: &[u8]) -> [u8; 16] {
    let trust_domain = trust_domain.to_string();
    let parts: [&[u8]; 3] = [trust_domain.as_bytes(), site.as_bytes(), &sha256(certificate)];
    let digest = sha256(&framed(ID_CONTEXT, &parts));
    let mut uuid: [u8; 16] = digest.first_chunk().copied().unwrap_or_default();
    let [_, _, _, _, _, _, version, _, variant, ..] = &mut uuid;
    *version = *version & 0x0f | 0x80;
    *variant = *variant & 0x3f | 0x80;
    uuid
}

/// How a node signs with a key of this kind: PSS for RSA.
#[must_use]
pub fn algorithm_for(key: PublicKeyAlgorithm) -> SignatureAlgorithm {
    match key {
        PublicKeyAlgorithm::Rsa { .. } => SignatureAlgorithm::RsaPssSha256,
        other => SignatureAlgorithm::default_for(other),
    }
}

/// The TLS SignatureScheme (RFC 8446 section 4.2.3) of an algorithm; `None` for those that prove nothing here.
#[must_use]
pub fn scheme_of(algorithm: SignatureAlgorithm) -> Option<u32> {
    SCHEMES.iter().find(|(_, known)| *known == algorithm).map(|(scheme, _)| *scheme)
}

/// The algorithm of a TLS SignatureScheme; `None` for those that prove nothing here.
#[must_use]
pub fn algorithm_of(scheme: u32) -> Option<SignatureAlgorithm> {
    SCHEMES.iter().find(|(known, _)| *known == scheme).map(|(_, algorithm)| *algorithm)
}

/// PKCS#1 v1.5 for keys in devices that can't do PSS.
const SCHEMES: [(u32, SignatureAlgorithm); 6] = [
    (0x0401, SignatureAlgorithm::RsaPkcs1Sha256),
    (0x0403, SignatureAlgorithm::EcdsaP256Sha256),
    (0x0503, SignatureAlgorithm::EcdsaP384Sha384),
    (0x0603, SignatureAlgorithm::EcdsaP521Sha512),
    (0x0804, SignatureAlgorithm::RsaPssSha256),
    (0x0807, SignatureAlgorithm::Ed25519),
];

fn framed(context: &[u8], parts: &[&[u8]]) -> Vec<u8> {
    let mut out = Vec::with_capacity(context.len() + parts.iter().map(|part| 8 + part.len()).sum::<usize>());
    out.extend_from_slice(context);
    for part in parts {
        out.extend_from_slice(&(part.len() as u64).to_be_bytes());
        out.extend_from_slice(part);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_counts() {
        let (one, two): (TrustDomain, TrustDomain) =
            ("example.org".parse().unwrap(), "example.com".parse().unwrap());
        let proof = Proof {
            trust_domain: &one,
            site: "lab",
            authority_nonce: &[1; 32],
            node_nonce: &[2; 32],
            certificate: b"certificate",
            csr: b"csr",
        };
        let others = [
            Proof { trust_domain: &two, ..proof },
            Proof { site: "labs", ..proof },
            Proof { authority_nonce: &[3; 32], ..proof },
            Proof { node_nonce: &[3; 32], ..proof },
            Proof { authority_nonce: &[2; 32], node_nonce: &[1; 32], ..proof },
            Proof { certificate: b"other", ..proof },
            Proof { csr: b"other", ..proof },
        ];
        for other in others {
            assert_ne!(other.transcript(), proof.transcript(), "{other:?}");
        }
        let uuid = agent_uuid(&one, "lab", b"certificate");
        assert_eq!(uuid, agent_uuid(&one, "lab", b"certificate"));
        assert_eq!((uuid[6] >> 4, uuid[8] >> 6), (8, 2));
        assert_ne!(uuid, agent_uuid(&two, "lab", b"certificate"));
        assert_ne!(uuid, agent_uuid(&one, "labs", b"certificate"));
        assert_ne!(uuid, agent_uuid(&one, "lab", b"other"));
    }

    #[test]
    fn schemes_have_one_algorithm() {
        for (scheme, algorithm) in SCHEMES {
            assert_eq!((algorithm_of(scheme), scheme_of(algorithm)), (Some(algorithm), Some(scheme)));
        }
        assert_eq!(algorithm_of(0x0201), None, "SHA-1");
        assert_eq!(scheme_of(SignatureAlgorithm::RsaPkcs1Sha512), None);
    }
}
