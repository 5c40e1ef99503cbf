//! The published vectors: made by one implementation, and checked by another that shares no group arithmetic with it.
//!
//! `BONAFIDE_BLESS=1` writes those that are deterministic anew; the file of hybrid secrets is written when it is missing, because
//! ML-KEM draws its own randomness.

use std::path::PathBuf;

use ark_bls12_381::Fr;
use ark_ec::CurveGroup;
use ark_ff::Field;
use bonafide_crypto::cipher::{Cipher, CipherKey};
use bonafide_crypto::digest::sha256;
use bonafide_crypto::hmac::{HmacHash, HmacKey};
use bonafide_crypto::mlkem::MlKemPrivateKey;
use bonafide_sealing::armour;
use bonafide_sealing::document::{Document, Signed};
use bonafide_sealing::exchange::{EvaluationReply, EvaluationRequest};
use bonafide_sealing::group::Scalar;
use bonafide_sealing::identity::{IDENTITY_TAG, Identity, Keyset, Tenant};
use bonafide_sealing::object::{SealedObject, Stanza};
use bonafide_sealing::opening::{Opening, Step};
use bonafide_sealing::params::{SealParams, SiteKey};
use bonafide_sealing::seal::{Quantum, Recipient};
use serde_json::{Value, json};

use crate::reference as ark;
use crate::world::{LABEL, POLICY, Seeded, World};

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(value: &Value) -> Vec<u8> {
    let text = value.as_str().unwrap();
    (0..text.len() / 2).map(|at| u8::from_str_radix(&text[2 * at..2 * at + 2], 16).unwrap()).collect()
}

fn array<const N: usize>(value: &Value) -> [u8; N] {
    unhex(value).try_into().unwrap()
}

fn file(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("vectors").join(name)
}

fn write(name: &str, value: &Value) {
    std::fs::write(file(name), format!("{value:#}\n")).unwrap();
}

fn read(name: &str) -> Value {
    serde_json::from_str(&std::fs::read_to_string(file(name)).unwrap()).unwrap()
}

const SECRETS: [&[u8]; 3] = [b"", b"correct horse battery staple", &[0x5a; 70_000]];

/// Tenant, keyset, policy, label.
type Case<'a> = (&'a [u8; 16], &'a str, &'a [u8], &'a [u8]);

fn identities() -> Vec<Value> {
    let cases: [Case<'_>; 4] = [
        (b"a random tenant!", "main", POLICY, LABEL),
        (b"a random tenant!", "main", POLICY, b""),
        (&[0; 16], "k", b"\0", &[0xff; 256]),
        (&[0xff; 16], "another.key-set_2", &[0x20; 8192], b"label"),
    ];
    let case = |(tenant, keyset, policy, label): Case<'_>| {
        let keyset_name = Keyset::new(keyset).unwrap();
        let identity = Identity::new(&Tenant::from_bytes(*tenant), &keyset_name, policy, label).unwrap();
        json!({
            "tenant": hex(tenant), "keyset": keyset, "policy": hex(policy), "label": hex(label),
            "id": hex(identity.bytes()), "sha256": hex(identity.digest()),
            "point": hex(&identity.point().unwrap().encode()),
        })
    };
    cases.into_iter().map(case).collect()
}

/// Everything from sealing to opening, with 2 of 3 keyholders.
fn secret(world: &World, number: usize, plaintext: &[u8]) -> Value {
    let recipients = [world.recipient(), Recipient { policy: b"another policy", ..world.recipient() }];
    let object = world.seal_to(&recipients, plaintext, Quantum::Never);
    let verified = world.verify(object.clone()).unwrap();
    let seed = format!("vector {number}");
    let blind = Scalar::random(&Seeded::new(&seed));
    let policy = Opening::blinding_policy(&verified, 0, &world.params).unwrap();
    let blinding = policy.blind(&Seeded::new(&seed)).unwrap();
    let random = Seeded::new(&format!("request {number}"));
    let mut opening =
        Opening::begin(&verified, 0, world.keyholders(), blinding, None, None, &random).unwrap();
    let replies: Vec<_> = [3, 1].map(|number| world.answer(number, opening.proof_request())).into();
    assert!(matches!(opening.accept(replies[0].clone()), Ok(Step::Wait)));
    assert!(matches!(opening.accept(replies[1].clone()), Ok(Step::Opened(_))));
    // Text for the short ones; a byte and how often for the long one, which is there for its chunks.
    let plain = match plaintext {
        [first, ..] if plaintext.len() > 1000 => format!("{first:02x}*{}", plaintext.len()),
        _ => hex(plaintext),
    };
    json!({
        "secret": plain,
        "object": hex(&object.encode()),
        "text_sha256": hex(&sha256(armour::to_text(&object).as_bytes())),
        "blind": hex(blind.to_bytes().as_slice()),
        "request": hex(&opening.proof_request().encode()),
        "replies": replies.iter().map(|reply| hex(&reply.encode())).collect::<Vec<_>>(),
    })
}

#[test]
fn vectors_are_what_they_were() {
    let world = World::dealt(2, 3, Vec::new());
    let shares: Vec<String> = world.shares.iter().map(|share| hex(share.secret_bytes().as_slice())).collect();
    let secrets: Vec<Value> =
        SECRETS.iter().enumerate().map(|(number, secret_)| secret(&world, number, secret_)).collect();
    let made = json!({
        "suite": "BBF-V01-CS02",
        "note": "the key is known here: never use it",
        "identities": identities(),
        "key": hex(world.polynomial.at_zero().to_bytes().as_slice()),
        "shares": shares,
        "params": hex(&world.params.params().encode()),
        "epoch": hex(&world.epoch.record().encode()),
        "secrets": secrets,
    });
    if std::env::var_os("BONAFIDE_BLESS").is_some() {
        write("bbf-v01-cs02.json", &made);
    }
    assert_eq!(read("bbf-v01-cs02.json"), made, "formats or numbers have changed");
}

#[test]
fn another_implementation_finds_the_same_identities() {
    for case in read("bbf-v01-cs02.json")["identities"].as_array().unwrap() {
        let mut id = Vec::new();
        let policy = sha256(&unhex(&case["policy"]));
        let (tenant, label) = (unhex(&case["tenant"]), unhex(&case["label"]));
        for part in
            [b"BBF-V01-CS02", &tenant[..], case["keyset"].as_str().unwrap().as_bytes(), &policy, &label]
        {
            id.extend((part.len() as u32).to_be_bytes());
            id.extend(part);
        }
        assert_eq!((hex(&id), hex(&sha256(&id))), (text(&case["id"]), text(&case["sha256"])));
        assert_eq!(hex(&ark::g2_bytes(&ark::hash_to_g2(&id, IDENTITY_TAG))), text(&case["point"]));
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

/// HKDF of RFC 5869, on HMAC.
fn hkdf(salt: &[u8], secret: &[u8], info: &[u8], length: usize) -> Vec<u8> {
    let key = HmacKey::new(HmacHash::Sha256, salt).tag(&[secret]);
    let key = HmacKey::new(HmacHash::Sha256, key.as_ref());
    let (mut out, mut block) = (Vec::new(), Vec::new());
    for number in 1..=length.div_ceil(32) as u8 {
        block = key.tag(&[&block, info, &[number]]).as_ref().to_vec();
        out.extend(&block);
    }
    out.truncate(length);
    out
}

fn framed(parts: &[&[u8]]) -> Vec<u8> {
    parts.iter().flat_map(|part| [&(part.len() as u32).to_be_bytes()[..], part].concat()).collect()
}

fn gcm(key: &[u8], nonce: &[u8; 12], aad: &[u8], sealed: &[u8]) -> Vec<u8> {
    let mut out = vec![0; sealed.len() - 16];
    CipherKey::new(Cipher::Aes256Gcm, key).unwrap().open_into(nonce, aad, sealed, &mut out).unwrap();
    out
}

/// Opens with the shared element, step by step as the specification has it.
fn open(object: &SealedObject, stanza: &Stanza, shared: &[u8], half: Option<(&[u8], &[u8])>) -> Vec<u8> {
    let id = stanza.identity(&object.tenant).unwrap();
    let (ikm, context) = match (&stanza.post_quantum, half) {
        (Some(transport), Some((secret, public))) => {
            let context = sha256(&[public, transport.ciphertext.as_slice()].concat());
            (framed(&[secret, shared]), context.to_vec())
        }
        _ => (shared.to_vec(), Vec::new()),
    };
    let derive = |what: &[u8]| {
        hkdf(b"BBF-V01-CS02 kem", &ikm, &[what, id.digest().as_slice(), context.as_slice()].concat(), 32)
    };
    assert_eq!(derive(b"commit"), stanza.commitment);
    let aad = framed(&[&object.oid, &object.file_commitment, &stanza.commitment]);
    let file_key = gcm(&derive(b"key"), &[0; 12], &aad, &stanza.wrapped);
    assert_eq!(hkdf(&[], &file_key, b"fk-commit", 32), object.file_commitment);
    let signer = object.signature.as_ref().unwrap().key;
    let aad =
        framed(&[b"BBF-V01-CS02", &object.oid, &signer, &object.public.encode(), &object.file_commitment]);
    let key = hkdf(&[], &file_key, b"payload", 32);
    let chunks: Vec<&[u8]> = object.payload.chunks(65_536 + 16).collect();
    let mut out = Vec::new();
    for (number, chunk) in chunks.iter().enumerate() {
        let mut nonce = [0; 12];
        (nonce[10], nonce[11]) = (number as u8, u8::from(number + 1 == chunks.len()));
        out.extend(gcm(&key, &nonce, &aad, chunk));
    }
    out
}

#[test]
fn another_implementation_opens_seals_and_checks_proofs() {
    let file = read("bbf-v01-cs02.json");
    let key = ark::scalar(&array(&file["key"]));
    let shares: Vec<Fr> =
        file["shares"].as_array().unwrap().iter().map(|share| ark::scalar(&array(share))).collect();
    let params = SealParams::decode(&unhex(&file["params"])).unwrap();
    assert_eq!(params.key.encode(), ark::g1_bytes(&ark::g1_times(&key)));

    for (case, expected) in file["secrets"].as_array().unwrap().iter().zip(SECRETS) {
        match text(&case["secret"]).split_once('*') {
            Some((byte, count)) => {
                assert_eq!(vec![unhex(&json!(byte))[0]; count.parse().unwrap()], expected);
            }
            None => assert_eq!(unhex(&case["secret"]), expected),
        }
        let object = SealedObject::decode(&unhex(&case["object"])).unwrap();
        // With the key as a whole, by every stanza.
        for stanza in &object.stanzas {
            let id = stanza.identity(&object.tenant).unwrap();
            let q = ark::hash_to_g2(id.bytes(), IDENTITY_TAG);
            let u = ark::g1(&stanza.point.encode());
            let shared = ark::gt_bytes(&ark::power(&ark::pair(&u, &q), &key));
            assert_eq!(open(&object, stanza, &shared, None), expected);
        }
        // As a client does it: blind, answers of two, combine, take the blind away.
        let request = EvaluationRequest::decode(&unhex(&case["request"])).unwrap();
        let id = request.identity().unwrap();
        let q = ark::hash_to_g2(id.bytes(), IDENTITY_TAG);
        let u = ark::g1(&object.stanzas[0].point.encode());
        let blind = ark::scalar(&array(&case["blind"]));
        let a = (u + ark::g1_times(&blind)).into_affine();
        assert_eq!(ark::g1_bytes(&a), request.point.encode());
        let mut combined = ark_bls12_381::Fq12::ONE;
        for (reply, coefficient) in case["replies"].as_array().unwrap().iter().zip(ark::lagrange(&[3, 1])) {
            let reply = Signed::<EvaluationReply>::decode(&unhex(reply)).unwrap().body;
            assert_eq!(reply.request, sha256(&unhex(&case["request"])));
            let share = &shares[reply.index.place()];
            let z = ark::power(&ark::pair(&a, &q), share);
            assert_eq!(ark::gt_bytes(&z), reply.value.as_slice());
            combined *= ark::power(&z, &coefficient);
            check_proof(&id, share, &a, &reply);
        }
        let y = ark::g1(&params.key.encode());
        let mask = ark::power(&ark::pair(&y, &q), &blind).inverse().unwrap();
        let shared = ark::gt_bytes(&(combined * mask));
        assert_eq!(open(&object, &object.stanzas[0], &shared, None), expected);
    }
}

fn check_proof(id: &Identity, share: &Fr, a: &ark_bls12_381::G1Affine, reply: &EvaluationReply) {
    let proof = reply.proof.unwrap();
    let mut challenge = [0; 32];
    challenge[16..].copy_from_slice(&proof[..16]);
    let (c, s) = (ark::scalar(&challenge), ark::scalar(&proof[16..].try_into().unwrap()));
    let q = ark::hash_to_g2(id.bytes(), IDENTITY_TAG);
    let public = ark::g1_times(share);
    let first = (ark::g1_times(&s) - public * c).into_affine();
    let z = ark::gt(reply.value.as_slice());
    let second = ark::power(&ark::pair(a, &q), &s) * ark::power(&z, &c).inverse().unwrap();
    let hash = sha256(&framed(&[
        b"BBF-V01-CS02-DLEQ",
        id.bytes(),
        &ark::g1_bytes(&public),
        &ark::g1_bytes(a),
        reply.value.as_slice(),
        &ark::g1_bytes(&first),
        &ark::gt_bytes(&second),
    ]));
    assert_eq!(hash[..16], proof[..16]);
}

#[test]
fn hybrid_secrets_open_with_both_halves() {
    let name = "bbf-v01-cs02-hybrid.json";
    if !file(name).exists() {
        let site = MlKemPrivateKey::generate().unwrap();
        let public = site.public_key().spki_der();
        let key = SiteKey::new(1, "edge", public.last_chunk::<1184>().unwrap()).unwrap();
        let world = World::dealt(2, 3, vec![key]);
        let object = world.seal_to(&[world.recipient()], b"for long", Quantum::Always);
        write(
            name,
            &json!({
                "suite": "BBF-V01-CS02",
                "note": "both keys are known here: never use them",
                "key": hex(world.polynomial.at_zero().to_bytes().as_slice()),
                "site_key": hex(site.bytes()),
                "params": hex(&world.params.params().encode()),
                "secret": hex(b"for long"),
                "object": hex(&object.encode()),
            }),
        );
    }
    let file = read(name);
    let site = MlKemPrivateKey::from_bytes(&unhex(&file["site_key"])).unwrap();
    let public = site.public_key().spki_der();
    let public: &[u8; 1184] = public.last_chunk().unwrap();
    let params = SealParams::decode(&unhex(&file["params"])).unwrap();
    assert_eq!(params.site_keys[0].bytes(), public);
    let object = SealedObject::decode(&unhex(&file["object"])).unwrap();
    let stanza = &object.stanzas[0];
    let half = site.decapsulate(stanza.post_quantum.as_ref().unwrap().ciphertext.as_slice()).unwrap();
    let id = stanza.identity(&object.tenant).unwrap();
    let q = ark::hash_to_g2(id.bytes(), IDENTITY_TAG);
    let key = ark::scalar(&array(&file["key"]));
    let shared = ark::gt_bytes(&ark::power(&ark::pair(&ark::g1(&stanza.point.encode()), &q), &key));
    assert_eq!(open(&object, stanza, &shared, Some((half.as_slice(), public))), unhex(&file["secret"]));
}
