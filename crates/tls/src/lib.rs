//! The only place that names rustls: SPIFFE verifiers, rotating resolvers, authorizers.
