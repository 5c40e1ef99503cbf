//! The second implementation: the same formulas on arkworks, written without a look at the first. Slow, not constant-time, and
//! for comparison only.

use ark_bls12_381::{Bls12_381, Fq, Fq2, Fq12, Fr, G1Affine, G1Projective, G2Affine, g2};
use ark_ec::hashing::curve_maps::wb::WBMap;
use ark_ec::hashing::map_to_curve_hasher::MapToCurve;
use ark_ec::pairing::Pairing;
use ark_ec::{AffineRepr, CurveGroup, PrimeGroup};
use ark_ff::{BigInteger, Field, PrimeField};
use bonafide_crypto::digest::sha256;

pub(crate) fn scalar(bytes: &[u8; 32]) -> Fr {
    let value = Fr::from_be_bytes_mod_order(bytes);
    assert_eq!(value.into_bigint().to_bytes_be(), bytes, "not reduced");
    value
}

pub(crate) fn scalar_bytes(value: &Fr) -> [u8; 32] {
    value.into_bigint().to_bytes_be().try_into().unwrap()
}

fn fq_bytes(value: &Fq) -> [u8; 48] {
    value.into_bigint().to_bytes_be().try_into().unwrap()
}

/// The compressed form, flags and all, from the coordinates.
pub(crate) fn g1_bytes(point: &G1Affine) -> [u8; 48] {
    let mut out = fq_bytes(&point.x);
    out[0] |= 0x80;
    if point.y.into_bigint() > (-point.y).into_bigint() {
        out[0] |= 0x20;
    }
    out
}

pub(crate) fn g1(bytes: &[u8; 48]) -> G1Affine {
    let mut x = *bytes;
    let greatest = x[0] & 0x20 != 0;
    assert_eq!(x[0] & 0xc0, 0x80);
    x[0] &= 0x1f;
    let point = G1Affine::get_point_from_x_unchecked(Fq::from_be_bytes_mod_order(&x), greatest).unwrap();
    assert!(point.is_in_correct_subgroup_assuming_on_curve());
    point
}

pub(crate) fn g2_bytes(point: &G2Affine) -> [u8; 96] {
    let mut out = [0; 96];
    out[..48].copy_from_slice(&fq_bytes(&point.x.c1));
    out[48..].copy_from_slice(&fq_bytes(&point.x.c0));
    out[0] |= 0x80;
    let minus = -point.y;
    let order = |y: &Fq2| (y.c1.into_bigint(), y.c0.into_bigint());
    if order(&point.y) > order(&minus) {
        out[0] |= 0x20;
    }
    out
}

/// For each power of `w` the real and the imaginary part.
pub(crate) fn gt_bytes(value: &Fq12) -> Vec<u8> {
    let halves = [[value.c0.c0, value.c0.c1, value.c0.c2], [value.c1.c0, value.c1.c1, value.c1.c2]];
    let mut out = Vec::new();
    for power in 0..6 {
        let part = halves[power % 2][power / 2];
        out.extend(fq_bytes(&part.c0));
        out.extend(fq_bytes(&part.c1));
    }
    out
}

pub(crate) fn gt(bytes: &[u8]) -> Fq12 {
    let number = |place: usize| Fq::from_be_bytes_mod_order(&bytes[48 * place..48 * (place + 1)]);
    let part = |power: usize| Fq2::new(number(2 * power), number(2 * power + 1));
    let half = |odd: usize| ark_bls12_381::Fq6::new(part(odd), part(2 + odd), part(4 + odd));
    Fq12::new(half(0), half(1))
}

pub(crate) fn pair(p: &G1Affine, q: &G2Affine) -> Fq12 {
    Bls12_381::pairing(p, q).0
}

pub(crate) fn power(base: &Fq12, exponent: &Fr) -> Fq12 {
    base.pow(exponent.into_bigint())
}

pub(crate) fn g1_times(scalar: &Fr) -> G1Affine {
    (G1Projective::generator() * scalar).into_affine()
}

/// expand_message_xmd with SHA-256 (RFC 9380 section 5.3.1).
fn expand(message: &[u8], tag: &[u8], length: usize) -> Vec<u8> {
    let tag = [tag, &[tag.len() as u8]].concat();
    let first = sha256(&[&[0; 64], message, &(length as u16).to_be_bytes(), &[0], &tag].concat());
    let mut block = sha256(&[&first[..], &[1], &tag].concat());
    let mut out = block.to_vec();
    for number in 2..=length.div_ceil(32) as u8 {
        let mixed: Vec<u8> = first.iter().zip(block).map(|(a, b)| a ^ b).collect();
        block = sha256(&[&mixed[..], &[number], &tag].concat());
        out.extend(block);
    }
    out.truncate(length);
    out
}

/// `BLS12381G2_XMD:SHA-256_SSWU_RO_` (RFC 9380 section 8.8.2).
pub(crate) fn hash_to_g2(message: &[u8], tag: &[u8]) -> G2Affine {
    let uniform = expand(message, tag, 256);
    let number = |place: usize| Fq::from_be_bytes_mod_order(&uniform[64 * place..64 * (place + 1)]);
    let map =
        |place: usize| WBMap::<g2::Config>::map_to_curve(Fq2::new(number(place), number(place + 1))).unwrap();
    (map(0) + map(2)).into_affine().clear_cofactor()
}

/// Lagrange's coefficients at zero.
pub(crate) fn lagrange(places: &[u64]) -> Vec<Fr> {
    let coefficient = |own: &u64| {
        places.iter().filter(|other| *other != own).fold(Fr::from(1_u64), |product, other| {
            let (own, other) = (Fr::from(*own), Fr::from(*other));
            product * other / (other - own)
        })
    };
    places.iter().map(coefficient).collect()
}
