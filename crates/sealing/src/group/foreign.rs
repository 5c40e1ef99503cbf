//! The one door to blst, and the only `unsafe` of this crate: each function of the library that is used, behind references
//! to initialised values. Nothing here decides anything; the rules are in the types beside this file.
//!
//! What all blocks rely on: blst's structures are plain numbers without padding or pointers, of the layout that its bindings
//! declare (and test); a reference to one is valid, aligned and initialised; inputs and outputs never overlap here, because an
//! output is a new local value; blst keeps no pointer, allocates nothing, and touches no global state but a table of constants.
#![expect(unsafe_code, reason = "blst is a library in C and assembly")]
#![deny(clippy::undocumented_unsafe_blocks)]

use blst::{
    BLST_ERROR, blst_fp, blst_fp6, blst_fp12, blst_p1, blst_p1_affine, blst_p2, blst_p2_affine, blst_scalar,
};

/// Lines of the Miller loop of one point: the parameter of the curve has 64 bits, six of them set.
pub(super) const LINES: usize = 68;

/// Bits of a scalar.
const BITS: usize = 255;

pub(super) fn scalar_from_bytes(bytes: &[u8; 32]) -> blst_scalar {
    let mut out = blst_scalar::default();
    // SAFETY: see the head of this file; `bytes` has the 32 bytes that are read.
    unsafe { blst::blst_scalar_from_bendian(&raw mut out, bytes.as_ptr()) };
    out
}

pub(super) fn scalar_to_bytes(scalar: &blst_scalar, out: &mut [u8; 32]) {
    // SAFETY: see the head of this file; `out` has the 32 bytes that are written.
    unsafe { blst::blst_bendian_from_scalar(out.as_mut_ptr(), scalar) };
}

/// Whether it is below the order of the group. Zero is.
pub(super) fn scalar_is_reduced(scalar: &blst_scalar) -> bool {
    // SAFETY: see the head of this file.
    unsafe { blst::blst_scalar_fr_check(scalar) }
}

/// A big-endian number modulo the order.
pub(super) fn scalar_reduce(bytes: &[u8; 48]) -> blst_scalar {
    let mut out = blst_scalar::default();
    // SAFETY: see the head of this file; pointer and length are those of one array. The answer tells zero, which is allowed here.
    let _ = unsafe { blst::blst_scalar_from_be_bytes(&raw mut out, bytes.as_ptr(), bytes.len()) };
    out
}

pub(super) fn scalar_add(a: &blst_scalar, b: &blst_scalar) -> blst_scalar {
    let mut out = blst_scalar::default();
    // SAFETY: see the head of this file. The answer tells zero, which is allowed here, as in the next two.
    let _ = unsafe { blst::blst_sk_add_n_check(&raw mut out, a, b) };
    out
}

pub(super) fn scalar_sub(a: &blst_scalar, b: &blst_scalar) -> blst_scalar {
    let mut out = blst_scalar::default();
    // SAFETY: see the head of this file.
    let _ = unsafe { blst::blst_sk_sub_n_check(&raw mut out, a, b) };
    out
}

pub(super) fn scalar_mul(a: &blst_scalar, b: &blst_scalar) -> blst_scalar {
    let mut out = blst_scalar::default();
    // SAFETY: see the head of this file.
    let _ = unsafe { blst::blst_sk_mul_n_check(&raw mut out, a, b) };
    out
}

/// The inverse; of zero it is zero.
pub(super) fn scalar_inverse(a: &blst_scalar) -> blst_scalar {
    let mut out = blst_scalar::default();
    // SAFETY: see the head of this file.
    unsafe { blst::blst_sk_inverse(&raw mut out, a) };
    out
}

pub(super) fn p1_generator() -> blst_p1_affine {
    // SAFETY: blst returns the address of a constant, which lives as long as the program.
    unsafe { *blst::blst_p1_affine_generator() }
}

pub(super) fn p1_from_affine(point: &blst_p1_affine) -> blst_p1 {
    let mut out = blst_p1::default();
    // SAFETY: see the head of this file.
    unsafe { blst::blst_p1_from_affine(&raw mut out, point) };
    out
}

pub(super) fn p1_to_affine(point: &blst_p1) -> blst_p1_affine {
    let mut out = blst_p1_affine::default();
    // SAFETY: see the head of this file.
    unsafe { blst::blst_p1_to_affine(&raw mut out, point) };
    out
}

pub(super) fn p1_add(a: &blst_p1, b: &blst_p1) -> blst_p1 {
    let mut out = blst_p1::default();
    // SAFETY: see the head of this file.
    unsafe { blst::blst_p1_add_or_double(&raw mut out, a, b) };
    out
}

/// In constant time. The point must be in the subgroup.
pub(super) fn p1_mul(point: &blst_p1, scalar: &blst_scalar) -> blst_p1 {
    let mut out = blst_p1::default();
    // SAFETY: see the head of this file; 255 bits are read of the 32 bytes of a scalar.
    unsafe { blst::blst_p1_mult(&raw mut out, point, scalar.b.as_ptr(), BITS) };
    out
}

pub(super) fn p1_is_infinity(point: &blst_p1) -> bool {
    // SAFETY: see the head of this file.
    unsafe { blst::blst_p1_is_inf(point) }
}

/// Checks the encoding and the curve, not the subgroup.
pub(super) fn p1_uncompress(bytes: &[u8; 48]) -> Option<blst_p1_affine> {
    let mut out = blst_p1_affine::default();
    // SAFETY: see the head of this file; `bytes` has the 48 bytes that are read.
    let result = unsafe { blst::blst_p1_uncompress(&raw mut out, bytes.as_ptr()) };
    (result == BLST_ERROR::BLST_SUCCESS).then_some(out)
}

pub(super) fn p1_compress(point: &blst_p1_affine) -> [u8; 48] {
    let mut out = [0; 48];
    // SAFETY: see the head of this file; `out` has the 48 bytes that are written.
    unsafe { blst::blst_p1_affine_compress(out.as_mut_ptr(), point) };
    out
}

/// In the subgroup, and not infinity.
pub(super) fn p1_is_member(point: &blst_p1_affine) -> bool {
    // SAFETY: see the head of this file.
    unsafe { !blst::blst_p1_affine_is_inf(point) && blst::blst_p1_affine_in_g1(point) }
}

pub(super) fn p2_generator() -> blst_p2_affine {
    // SAFETY: blst returns the address of a constant, which lives as long as the program.
    unsafe { *blst::blst_p2_affine_generator() }
}

pub(super) fn p2_from_affine(point: &blst_p2_affine) -> blst_p2 {
    let mut out = blst_p2::default();
    // SAFETY: see the head of this file.
    unsafe { blst::blst_p2_from_affine(&raw mut out, point) };
    out
}

pub(super) fn p2_to_affine(point: &blst_p2) -> blst_p2_affine {
    let mut out = blst_p2_affine::default();
    // SAFETY: see the head of this file.
    unsafe { blst::blst_p2_to_affine(&raw mut out, point) };
    out
}

pub(super) fn p2_add(a: &blst_p2, b: &blst_p2) -> blst_p2 {
    let mut out = blst_p2::default();
    // SAFETY: see the head of this file.
    unsafe { blst::blst_p2_add_or_double(&raw mut out, a, b) };
    out
}

/// In constant time. The point must be in the subgroup.
pub(super) fn p2_mul(point: &blst_p2, scalar: &blst_scalar) -> blst_p2 {
    let mut out = blst_p2::default();
    // SAFETY: see the head of this file; 255 bits are read of the 32 bytes of a scalar.
    unsafe { blst::blst_p2_mult(&raw mut out, point, scalar.b.as_ptr(), BITS) };
    out
}

pub(super) fn p2_is_infinity(point: &blst_p2) -> bool {
    // SAFETY: see the head of this file.
    unsafe { blst::blst_p2_is_inf(point) }
}

/// Checks the encoding and the curve, not the subgroup.
pub(super) fn p2_uncompress(bytes: &[u8; 96]) -> Option<blst_p2_affine> {
    let mut out = blst_p2_affine::default();
    // SAFETY: see the head of this file; `bytes` has the 96 bytes that are read.
    let result = unsafe { blst::blst_p2_uncompress(&raw mut out, bytes.as_ptr()) };
    (result == BLST_ERROR::BLST_SUCCESS).then_some(out)
}

pub(super) fn p2_compress(point: &blst_p2_affine) -> [u8; 96] {
    let mut out = [0; 96];
    // SAFETY: see the head of this file; `out` has the 96 bytes that are written.
    unsafe { blst::blst_p2_affine_compress(out.as_mut_ptr(), point) };
    out
}

/// In the subgroup, and not infinity.
pub(super) fn p2_is_member(point: &blst_p2_affine) -> bool {
    // SAFETY: see the head of this file.
    unsafe { !blst::blst_p2_affine_is_inf(point) && blst::blst_p2_affine_in_g2(point) }
}

/// `BLS12381G2_XMD:SHA-256_SSWU_RO_` (RFC 9380 section 8.8.2). The tag must have at most 255 bytes.
pub(super) fn hash_to_p2(message: &[u8], tag: &[u8]) -> blst_p2 {
    let mut out = blst_p2::default();
    // SAFETY: see the head of this file; pointers and lengths are those of slices, and the augmentation is empty, of which
    // nothing is read.
    unsafe {
        blst::blst_hash_to_g2(
            &raw mut out,
            message.as_ptr(),
            message.len(),
            tag.as_ptr(),
            tag.len(),
            std::ptr::null(),
            0,
        );
    }
    out
}

pub(super) fn precompute_lines(point: &blst_p2_affine, lines: &mut [blst_fp6; LINES]) {
    // SAFETY: see the head of this file; blst writes 68 lines, and the array has as many.
    unsafe { blst::blst_precompute_lines(lines.as_mut_ptr(), point) };
}

/// Neither may be infinity.
pub(super) fn miller_loop(lines: &[blst_fp6; LINES], point: &blst_p1_affine) -> blst_fp12 {
    let mut out = blst_fp12::default();
    // SAFETY: see the head of this file; blst reads 68 lines, and the array has as many.
    unsafe { blst::blst_miller_loop_lines(&raw mut out, lines.as_ptr(), point) };
    out
}

/// The same without lines, for a point that is used once.
pub(super) fn miller_loop_once(q: &blst_p2_affine, p: &blst_p1_affine) -> blst_fp12 {
    let mut out = blst_fp12::default();
    // SAFETY: see the head of this file.
    unsafe { blst::blst_miller_loop(&raw mut out, q, p) };
    out
}

pub(super) fn final_exponentiation(value: &blst_fp12) -> blst_fp12 {
    let mut out = blst_fp12::default();
    // SAFETY: see the head of this file.
    unsafe { blst::blst_final_exp(&raw mut out, value) };
    out
}

pub(super) fn fp12_one() -> blst_fp12 {
    // SAFETY: blst returns the address of a constant, which lives as long as the program.
    unsafe { *blst::blst_fp12_one() }
}

pub(super) fn fp12_mul(a: &blst_fp12, b: &blst_fp12) -> blst_fp12 {
    let mut out = blst_fp12::default();
    // SAFETY: see the head of this file.
    unsafe { blst::blst_fp12_mul(&raw mut out, a, b) };
    out
}

/// The square of an element of the cyclotomic subgroup.
pub(super) fn fp12_square(a: &blst_fp12) -> blst_fp12 {
    let mut out = blst_fp12::default();
    // SAFETY: see the head of this file.
    unsafe { blst::blst_fp12_cyclotomic_sqr(&raw mut out, a) };
    out
}

/// The conjugate, which is the inverse of an element of the cyclotomic subgroup.
pub(super) fn fp12_conjugate(a: &blst_fp12) -> blst_fp12 {
    let mut out = *a;
    // SAFETY: see the head of this file.
    unsafe { blst::blst_fp12_conjugate(&raw mut out) };
    out
}

/// To the power of the characteristic of the field.
pub(super) fn fp12_frobenius(a: &blst_fp12) -> blst_fp12 {
    let mut out = blst_fp12::default();
    // SAFETY: see the head of this file; one is among the powers that blst has coefficients for (1 to 3).
    unsafe { blst::blst_fp12_frobenius_map(&raw mut out, a, 1) };
    out
}

pub(super) fn fp12_is_equal(a: &blst_fp12, b: &blst_fp12) -> bool {
    // SAFETY: see the head of this file.
    unsafe { blst::blst_fp12_is_equal(a, b) }
}

pub(super) fn fp12_is_one(a: &blst_fp12) -> bool {
    // SAFETY: see the head of this file.
    unsafe { blst::blst_fp12_is_one(a) }
}

/// In the subgroup of prime order. The numbers must be reduced.
pub(super) fn fp12_is_member(a: &blst_fp12) -> bool {
    // SAFETY: see the head of this file.
    unsafe { blst::blst_fp12_in_group(a) }
}

/// A big-endian number modulo the characteristic.
pub(super) fn fp_from_bytes(bytes: &[u8; 48]) -> blst_fp {
    let mut out = blst_fp::default();
    // SAFETY: see the head of this file; `bytes` has the 48 bytes that are read.
    unsafe { blst::blst_fp_from_bendian(&raw mut out, bytes.as_ptr()) };
    out
}

pub(super) fn fp_to_bytes(value: &blst_fp, out: &mut [u8; 48]) {
    // SAFETY: see the head of this file; `out` has the 48 bytes that are written.
    unsafe { blst::blst_bendian_from_fp(out.as_mut_ptr(), value) };
}
