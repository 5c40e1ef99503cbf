//! The only place that names aws-lc-rs: keys, signers, AEAD, KDF, MAC, digests, CSRs and JOSE.
//!
//! Everything that comes from outside is parsed strictly and bounded before any arithmetic is done on it:
//! canonical DER, named curves, points on their curve, RSA moduli of 2048 to 8192 bits. There is no HMAC in
//! [`jose`], so that an algorithm confusion between a public key and a shared secret can't be written down.

pub mod aead;
pub mod asn1;
pub mod cipher;
pub mod csr;
pub mod digest;
pub mod erased;
pub mod hmac;
pub mod jose;
pub mod kdf;
pub mod kept;
pub mod key;
pub mod keywrap;
pub mod mac;
pub mod mldsa;
pub mod mlkem;
pub mod oaep;
pub mod random;
pub mod xaes;
