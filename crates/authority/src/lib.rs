//! The control plane: registration, sites, issuance, agent streams, bundles, admin API.
