//! Written by `cargo xtask codegen`, but for this file, which gives the packages their places.

/// SPIFFE Workload API.
pub mod workload {
    include!("_.rs");
}

/// Envoy's external authorization, version 3.
pub mod external_auth {
    include!("envoy.service.auth.v3.rs");
}

mod bonafide {
    pub mod types {
        pub mod v1 {
            include!("bonafide.types.v1.rs");
        }
    }
    pub mod node {
        pub mod v1 {
            include!("bonafide.node.v1.rs");
        }
    }
    pub mod agent {
        pub mod v1 {
            include!("bonafide.agent.v1.rs");
        }
    }
    pub mod admin {
        pub mod v1 {
            include!("bonafide.admin.v1.rs");
        }
    }
    pub mod keyholder {
        pub mod v1 {
            include!("bonafide.keyholder.v1.rs");
        }
    }
    pub mod kms {
        pub mod v1 {
            include!("bonafide.kms.v1.rs");
        }
    }
}

pub use bonafide::admin::v1 as admin;
pub use bonafide::agent::v1 as agent;
pub use bonafide::keyholder::v1 as keyholder;
pub use bonafide::kms::v1 as kms;
pub use bonafide::node::v1 as node;
pub use bonafide::types::v1 as types;
