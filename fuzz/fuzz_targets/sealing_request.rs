//! A question to a keyholder is refused, or has one form and one answer, which the keyholder can prove.
#![no_main]

use std::sync::LazyLock;

use bonafide_crypto::key::{KeyAlgorithm, PrivateKey};
use bonafide_crypto::random::SystemRandom;
use bonafide_sealing::document::Document;
use bonafide_sealing::epoch::EpochRecord;
use bonafide_sealing::exchange::EvaluationRequest;
use bonafide_sealing::group::{G2Point, Gt, Index, Polynomial, Scalar};
use bonafide_sealing::identity::{Keyset, Tenant};
use bonafide_sealing::params::SealParams;
use bonafide_sealing::proof::{Proof, Statement};
use bonafide_sealing::share::Share;
use libfuzzer_sys::fuzz_target;

static SIGNER: LazyLock<PrivateKey> = LazyLock::new(|| PrivateKey::generate(KeyAlgorithm::Ed25519).unwrap());

fn share(tenant: Tenant, keyset: Keyset, version: u64) -> Share {
    let polynomial = Polynomial::random(Scalar::from_number(7), 2, &SystemRandom);
    let commitments = polynomial.commitments(0).unwrap();
    let params = SealParams {
        tenant,
        keyset,
        version,
        key: commitments[0],
        key2: G2Point::generator().times(&polynomial.at_zero()).unwrap(),
        not_before: 0,
        not_after: 1,
        previous: [0; 32],
        site_keys: Vec::new(),
    };
    let record = EpochRecord {
        params: params.digest(),
        roster: [0; 32],
        epoch: 1,
        transcript: [0; 32],
        previous: [0; 32],
        shares: EpochRecord::shares_of(&commitments, 3).unwrap(),
        commitments,
    };
    let index = Index::new(2).unwrap();
    Share::new(&params, &record, index, polynomial.at(index)).unwrap()
}

fuzz_target!(|data: &[u8]| {
    let Ok(mut request) = EvaluationRequest::decode(data) else { return };
    assert_eq!(request.encode(), data);
    let share = share(request.tenant, request.keyset.clone(), request.version);
    let identity = request.identity().unwrap();
    let policy = share.prepare(&identity).unwrap();
    request.prove = true;
    let reply = request.answer(&share, &policy, &*SIGNER, &SystemRandom).unwrap();
    let value = Gt::decode(&reply.body.value).unwrap();
    let proof = Proof::decode(reply.body.proof.as_ref().unwrap()).unwrap();
    let (share, point) = (share.public(), &request.point);
    assert!(proof.proves(&Statement { identity: &identity, share, point, value: &value }));
});
