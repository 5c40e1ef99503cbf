//! What a workload links: SVID sources and mutual TLS.
