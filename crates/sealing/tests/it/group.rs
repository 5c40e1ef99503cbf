//! The groups, against RFC 9380 and against a second implementation.

use ark_ec::CurveGroup;
use ark_ff::Field;
use bonafide_crypto::random::SystemRandom;
use bonafide_sealing::group::{
    G1Point, G2Point, GroupError, Gt, Index, MAX_KEYHOLDERS, Polynomial, Scalar, evaluate_commitments,
    lagrange_at_zero, pair, pair_multiple,
};
use proptest::prelude::*;

use crate::reference as ark;
use crate::world::index;

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn hashes_are_those_of_rfc_9380() {
    let file: serde_json::Value =
        serde_json::from_str(include_str!("../../vectors/rfc9380-g2.json")).unwrap();
    let tag = file["tag"].as_str().unwrap().as_bytes();
    let vectors = file["vectors"].as_array().unwrap();
    assert_eq!(vectors.len(), 5);
    for vector in vectors {
        let message = vector["message"].as_str().unwrap().as_bytes();
        let ours = G2Point::hash(message, tag).unwrap();
        let theirs = ark::hash_to_g2(message, tag);
        assert_eq!(ours.encode(), ark::g2_bytes(&theirs));
        let encoded = hexadecimal(&ours.encode());
        // The compressed form has three bits of flags in the first digit or two.
        assert_eq!(encoded[2..96], vector["x"][1].as_str().unwrap()[2..]);
        assert_eq!(encoded[96..], *vector["x"][0].as_str().unwrap());
        assert_eq!(format!("{}", theirs.y.c0), decimal(vector["y"][0].as_str().unwrap()));
    }
    assert!(G2Point::hash(b"", b"").is_none());
    assert!(G2Point::hash(b"", &[7; 256]).is_none());
}

fn decimal(hex: &str) -> String {
    use ark_ff::PrimeField as _;
    let bytes: Vec<u8> =
        (0..48).map(|at| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).unwrap()).collect();
    format!("{}", ark_bls12_381::Fq::from_be_bytes_mod_order(&bytes))
}

fn random_scalar() -> impl Strategy<Value = Scalar> {
    prop::array::uniform32(any::<u8>()).prop_map(|bytes| {
        let mut wide = [0; 48];
        wide[16..].copy_from_slice(&bytes);
        Scalar::reduce(&wide)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn both_implementations_agree(a in random_scalar(), b in random_scalar(), message in any::<[u8; 9]>()) {
        prop_assume!(!a.is_zero() && !b.is_zero());
        let (ta, tb) = (ark::scalar(&a.to_bytes()), ark::scalar(&b.to_bytes()));
        prop_assert_eq!(*a.plus(&b).to_bytes(), ark::scalar_bytes(&(ta + tb)));
        prop_assert_eq!(*a.minus(&b).to_bytes(), ark::scalar_bytes(&(ta - tb)));
        prop_assert_eq!(*a.times(&b).to_bytes(), ark::scalar_bytes(&(ta * tb)));
        prop_assert_eq!(*a.inverse().unwrap().to_bytes(), ark::scalar_bytes(&ta.inverse().unwrap()));

        let p = G1Point::generator().times(&a).unwrap();
        let tp = ark::g1_times(&ta);
        prop_assert_eq!(p.encode(), ark::g1_bytes(&tp));
        prop_assert_eq!(ark::g1(&p.encode()), tp);
        prop_assert_eq!(G1Point::decode(&p.encode()).unwrap(), p);

        let q = G2Point::hash(&message, b"a tag").unwrap();
        let tq = ark::hash_to_g2(&message, b"a tag");
        prop_assert_eq!(q.encode(), ark::g2_bytes(&tq));
        let q = q.times(&b).unwrap();
        let tq = (tq * tb).into_affine();
        prop_assert_eq!(q.encode(), ark::g2_bytes(&tq));
        prop_assert_eq!(G2Point::decode(&q.encode()).unwrap(), q);

        let z = Gt::of(&p, &q);
        let tz = ark::pair(&tp, &tq);
        prop_assert_eq!(&z.encode()[..], &ark::gt_bytes(&tz)[..]);
        prop_assert_eq!(ark::gt(z.encode().as_slice()), tz);
        prop_assert_eq!(&pair(&p, &q.prepare()), &z);
        prop_assert_eq!(&Gt::decode(&z.encode()).unwrap(), &z);
        prop_assert_eq!(&pair_multiple(&p, &b, &q.prepare()).unwrap().encode()[..], &ark::gt_bytes(&ark::power(&tz, &tb))[..]);

        let other = z.times(&z);
        let both = Gt::product_of_powers([(&z, a.clone()), (&other, b.clone())]);
        let expected = ark::power(&tz, &ta) * ark::power(&tz.square(), &tb);
        prop_assert_eq!(&both.encode()[..], &ark::gt_bytes(&expected)[..]);
        prop_assert!(z.times(&z.inverse()).is_one());
    }

    #[test]
    fn any_threshold_of_shares_gives_the_secret(
        secret in random_scalar(),
        threshold in 1_u8..6,
        mut places in prop::sample::subsequence((1..=10_u64).collect::<Vec<_>>(), 5),
    ) {
        let polynomial = Polynomial::random(secret.clone(), threshold, &SystemRandom);
        places.truncate(usize::from(threshold));
        let indices: Vec<Index> = places.iter().map(|place| index(*place)).collect();
        let coefficients = lagrange_at_zero(&indices).unwrap();
        let theirs = ark::lagrange(&places);
        let mut sum = Scalar::zero();
        for ((index, ours), theirs) in indices.iter().zip(&coefficients).zip(theirs) {
            prop_assert_eq!(*ours.to_bytes(), ark::scalar_bytes(&theirs));
            sum = sum.plus(&polynomial.at(*index).times(ours));
        }
        prop_assert_eq!(&sum, &secret);
        // One less gives something else.
        if threshold > 1 {
            let fewer = &indices[1..];
            let coefficients = lagrange_at_zero(fewer).unwrap();
            let sum = fewer.iter().zip(&coefficients).fold(Scalar::zero(), |sum, (index, coefficient)| {
                sum.plus(&polynomial.at(*index).times(coefficient))
            });
            prop_assert_ne!(&sum, &secret);
        }
        let commitments = polynomial.commitments(0).unwrap();
        for index in indices {
            let share = G1Point::generator().times(&polynomial.at(index));
            prop_assert_eq!(evaluate_commitments(&commitments, 0, index), share);
        }
    }

    #[test]
    fn other_bytes_are_no_element(mut bytes in prop::collection::vec(any::<u8>(), 96), flags in 0_u8..8) {
        bytes[0] = bytes[0] & 0x1f | flags << 5;
        let first: &[u8; 48] = bytes.first_chunk().unwrap();
        if let Ok(point) = G1Point::decode(first) {
            prop_assert_eq!(&point.encode(), first);
        }
        let second: &[u8; 96] = bytes.first_chunk().unwrap();
        if let Ok(point) = G2Point::decode(second) {
            prop_assert_eq!(&point.encode(), second);
        }
    }
}

#[test]
fn edges_of_exponents() {
    let z = Gt::of(&G1Point::generator(), &G2Point::generator());
    let minus_one = Scalar::zero().minus(&Scalar::from_number(1));
    assert!(Gt::product_of_powers([(&z, Scalar::zero())]).is_one());
    assert!(Gt::product_of_powers([]).is_one());
    assert_eq!(Gt::product_of_powers([(&z, Scalar::from_number(1))]), z);
    assert_eq!(Gt::product_of_powers([(&z, minus_one)]), z.inverse());
    // Digits of the base at their ends: the curve's parameter, its neighbours, and the greatest digit.
    for number in [0xd201_0000_0000_ffff_u64, 0xd201_0000_0001_0000, 0xd201_0000_0001_0001, u64::MAX, 7, 8, 9]
    {
        let scalar = Scalar::from_number(number);
        let p = G1Point::generator().times(&scalar).unwrap();
        assert_eq!(Gt::product_of_powers([(&z, scalar)]), Gt::of(&p, &G2Point::generator()));
    }
}

#[test]
fn no_infinity_no_one_and_no_other_group() {
    let mut infinity = [0; 48];
    infinity[0] = 0xc0;
    assert_eq!(G1Point::decode(&infinity), Err(GroupError::G1));
    let mut infinity = [0; 96];
    infinity[0] = 0xc0;
    assert_eq!(G2Point::decode(&infinity), Err(GroupError::G2));
    assert!(G1Point::generator().times(&Scalar::zero()).is_none());
    assert!(G2Point::generator().times(&Scalar::zero()).is_none());
    assert!(G2Point::generator().prepare_multiple(&Scalar::zero()).is_none());
    let minus = G1Point::generator().times(&Scalar::zero().minus(&Scalar::from_number(1))).unwrap();
    assert!(minus.plus(&G1Point::generator()).is_none());
    assert!(G1Point::sum([]).is_none() && G2Point::sum([]).is_none());

    // On the curve, but of another order: most points are.
    let mut outside = 0;
    for x in 1..20_u8 {
        let mut bytes = [0; 48];
        (bytes[0], bytes[47]) = (0x80, x);
        let on_curve = ark_bls12_381::G1Affine::get_point_from_x_unchecked(ark_bls12_381::Fq::from(x), false);
        outside += usize::from(on_curve.is_some_and(|p| !p.is_in_correct_subgroup_assuming_on_curve()));
        assert_eq!(G1Point::decode(&bytes), Err(GroupError::G1));
        let mut bytes = [0; 96];
        (bytes[0], bytes[95]) = (0x80, x);
        assert_eq!(G2Point::decode(&bytes), Err(GroupError::G2));
    }
    assert!(outside > 5);

    // x + p is the same number, and another encoding; uncompressed and with wrong flags, too.
    let p = hex48(
        "1a0111ea397fe69a4b1ba7b6434bacd764774b84f38512bf6730d2a0f6b0f6241eabfffeb153ffffb9feffffffffaaab",
    );
    let mut found = 0;
    for number in 1..200 {
        let mut bytes = G1Point::generator().times(&Scalar::from_number(number)).unwrap().encode();
        let flags = bytes[0] & 0xe0;
        bytes[0] &= 0x1f;
        let mut carry = 0;
        for (byte, add) in bytes.iter_mut().zip(p).rev() {
            let sum = u16::from(*byte) + u16::from(add) + carry;
            (*byte, carry) = (sum as u8, sum >> 8);
        }
        if bytes[0] & 0xe0 == 0 {
            bytes[0] |= flags;
            assert_eq!(G1Point::decode(&bytes), Err(GroupError::G1));
            found += 1;
        }
    }
    assert!(found > 0);
    let mut bytes = G1Point::generator().encode();
    bytes[0] &= 0x7f;
    assert_eq!(G1Point::decode(&bytes), Err(GroupError::G1));
    bytes[0] |= 0xc0;
    assert_eq!(G1Point::decode(&bytes), Err(GroupError::G1));
}

#[test]
fn the_target_group_is_decoded_strictly() {
    let z = Gt::of(&G1Point::generator(), &G2Point::generator());
    let good = *z.encode();
    assert_eq!(Gt::decode(&good).unwrap(), z);
    let mut one = [0; 576];
    one[47] = 1;
    assert_eq!(Gt::decode(&one), Err(GroupError::Gt));
    assert_eq!(Gt::decode(&[0; 576]), Err(GroupError::Gt));
    for place in [0, 47, 100, 300, 575] {
        let mut bad = good;
        bad[place] ^= 1;
        assert_eq!(Gt::decode(&bad), Err(GroupError::Gt));
    }
    // A number plus the characteristic.
    let p = hex48(
        "1a0111ea397fe69a4b1ba7b6434bacd764774b84f38512bf6730d2a0f6b0f6241eabfffeb153ffffb9feffffffffaaab",
    );
    let mut bad = good;
    let mut carry = 0;
    for (byte, add) in bad[..48].iter_mut().zip(p).rev() {
        let sum = u16::from(*byte) + u16::from(add) + carry;
        (*byte, carry) = (sum as u8, sum >> 8);
    }
    assert_eq!(Gt::decode(&bad), Err(GroupError::Gt));
    // In the cyclotomic subgroup, but of another order: f^((p^6-1)(p^2+1)) of any f.
    let f = ark::gt(&[9; 576].map(|byte: u8| byte & 0x0f));
    let mut easy = f;
    easy.conjugate_in_place();
    easy *= f.inverse().unwrap();
    let mut map = easy;
    map.frobenius_map_in_place(2);
    easy *= map;
    let bytes: [u8; 576] = ark::gt_bytes(&easy).try_into().unwrap();
    assert_eq!(Gt::decode(&bytes), Err(GroupError::Gt));
}

fn hex48(text: &str) -> [u8; 48] {
    let bytes: Vec<u8> =
        (0..48).map(|at| u8::from_str_radix(&text[2 * at..2 * at + 2], 16).unwrap()).collect();
    bytes.try_into().unwrap()
}

#[test]
fn scalars_are_reduced_and_indices_bounded() {
    let order = hex48(
        "0000000000000000000000000000000073eda753299d7d483339d80809a1d80553bda402fffe5bfeffffffff00000001",
    );
    let order: [u8; 32] = order[16..].try_into().unwrap();
    assert_eq!(Scalar::from_bytes(&order), Err(GroupError::Scalar));
    assert_eq!(Scalar::from_bytes(&[0xff; 32]), Err(GroupError::Scalar));
    let mut below = order;
    below[31] -= 1;
    assert_eq!(*Scalar::from_bytes(&below).unwrap().to_bytes(), below);
    assert!(Scalar::from_bytes(&[0; 32]).unwrap().is_zero());
    assert!(Scalar::zero().inverse().is_none());
    assert_eq!(format!("{:?}", Scalar::from_number(7)), "Scalar([secret])");

    assert!(Index::new(0).is_err() && Index::new(u64::from(MAX_KEYHOLDERS) + 1).is_err());
    assert_eq!(lagrange_at_zero(&[index(1), index(2), index(1)]).unwrap_err(), GroupError::Indices);
    assert_eq!(lagrange_at_zero(&[]).unwrap_err(), GroupError::Indices);
}
