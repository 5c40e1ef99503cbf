//! The only place that names aws-lc-rs: keys, signers, AEAD, KDF, JOSE.
