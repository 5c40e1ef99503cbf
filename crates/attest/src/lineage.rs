//! What the last key and the new key of an instance both sign when its SVID is renewed.

use bonafide_identity::{InstanceId, TrustDomain};

/// The domain of the signatures: no other message of ours begins like it.
const CONTEXT: &[u8] = b"bonafide lineage v1\0";

/// The bytes that are signed. Every part has its length before it, so that no two renewals share a transcript.
///
/// `generation` is that of the SVID asked for, the keys are SubjectPublicKeyInfo in DER.
#[must_use]
pub fn transcript(
    trust_domain: &TrustDomain,
    instance: InstanceId,
    generation: u64,
    nonce: &[u8; 16],
    previous_spki: &[u8],
    new_spki: &[u8],
) -> Vec<u8> {
    let trust_domain = trust_domain.to_string();
    let generation = generation.to_be_bytes();
    let parts: [&[u8]; 6] =
        [trust_domain.as_bytes(), instance.as_bytes(), &generation, nonce, previous_spki, new_spki];
    let mut out = Vec::with_capacity(CONTEXT.len() + parts.iter().map(|part| 8 + part.len()).sum::<usize>());
    out.extend_from_slice(CONTEXT);
    for part in parts {
        out.extend_from_slice(&(part.len() as u64).to_be_bytes());
        out.extend_from_slice(part);
    }
    out
}
