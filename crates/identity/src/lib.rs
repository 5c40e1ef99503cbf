//! SPIFFE IDs, X509- and JWT-SVIDs, trust bundles: parse, build, validate, verify.
