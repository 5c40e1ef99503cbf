//! An answer is refused, or has one form; so are the group elements and the proof in it.
#![no_main]

use bonafide_sealing::document::{Document, Signed};
use bonafide_sealing::exchange::EvaluationReply;
use bonafide_sealing::group::{G1Point, G2Point, Gt, Scalar};
use bonafide_sealing::proof::Proof;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(signed) = Signed::<EvaluationReply>::decode(data) {
        assert_eq!(signed.encode(), data);
    }
    if let Ok(reply) = EvaluationReply::decode(data) {
        assert_eq!(reply.encode(), data);
        let _ = Gt::decode(&reply.value);
    }
    if let Some(bytes) = data.first_chunk()
        && let Ok(scalar) = Scalar::from_bytes(bytes)
    {
        assert_eq!(&*scalar.to_bytes(), bytes);
    }
    if let Some(bytes) = data.first_chunk()
        && let Ok(proof) = Proof::decode(bytes)
    {
        assert_eq!(&proof.encode(), bytes);
    }
    if let Some(bytes) = data.first_chunk()
        && let Ok(point) = G1Point::decode(bytes)
    {
        assert_eq!(&point.encode(), bytes);
    }
    if let Some(bytes) = data.first_chunk()
        && let Ok(point) = G2Point::decode(bytes)
    {
        assert_eq!(&point.encode(), bytes);
    }
    if let Some(bytes) = data.first_chunk()
        && let Ok(value) = Gt::decode(bytes)
    {
        assert_eq!(&*value.encode(), bytes);
    }
});
