//! `Debug` of messages that hold a key or a bearer token: everything but that.

use std::fmt;

use crate::{admin, kms, node, workload};

macro_rules! debug_without {
    ($message:ty, hides $($secret:ident),+; shows $($shown:ident),*) => {
        impl fmt::Debug for $message {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                // Naming every field makes a new one a compile error here, until somebody has decided.
                let Self { $($secret: _,)+ $($shown,)* } = self;
                f.debug_struct(stringify!($message))$(.field(stringify!($shown), $shown))*.finish_non_exhaustive()
            }
        }
    };
}

debug_without!(workload::X509svid, hides x509_svid_key; shows spiffe_id, x509_svid, bundle, hint);
debug_without!(workload::Jwtsvid, hides svid; shows spiffe_id, hint);
debug_without!(workload::ValidateJwtsvidRequest, hides svid; shows audience);
debug_without!(admin::CreateJoinTokenResponse, hides token, join; shows id, expires_at);
debug_without!(
    admin::CreateKeyRequest,
    hides material;
    shows name, r#type, exportable, convergent, external, settings, aliases, management_labels, idempotency_key
);
debug_without!(admin::ExportKeyResponse, hides material; shows version, r#type);
debug_without!(admin::RotateKey, hides material; shows);
debug_without!(kms::DataKeyResult, hides plaintext; shows problem, wrapped, version);
debug_without!(kms::DecryptResult, hides plaintext; shows problem, version);
debug_without!(kms::EncryptItem, hides plaintext; shows context, version);
debug_without!(kms::FetchResult, hides material; shows problem, version, r#type);
debug_without!(
    kms::LeaseResult,
    hides data_key;
    shows problem, lease, key_id, r#type, version, wrapped, public_keys, terms, name
);
debug_without!(kms::RandomResponse, hides random; shows);
debug_without!(node::AttestBegin, hides evidence; shows attestor, csr, agent_version);
debug_without!(node::JwtIssued, hides token; shows request, expires_at);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_not_shown() {
        const CANARY: &str = "canary-7f3a";
        let key = bytes::Bytes::from_static(CANARY.as_bytes());
        // What bytes look like when they are printed.
        let printed = format!("{key:?}");
        let shown = [
            format!("{:?}", workload::X509svid { x509_svid_key: key.clone(), ..Default::default() }),
            format!("{:?}", workload::Jwtsvid { svid: CANARY.into(), ..Default::default() }),
            format!("{:?}", workload::ValidateJwtsvidRequest { svid: CANARY.into(), ..Default::default() }),
            format!(
                "{:?}",
                admin::CreateJoinTokenResponse {
                    token: CANARY.into(),
                    join: CANARY.into(),
                    ..Default::default()
                }
            ),
            format!("{:?}", admin::CreateKeyRequest { material: key.clone(), ..Default::default() }),
            format!("{:?}", admin::ExportKeyResponse { material: key.clone(), ..Default::default() }),
            format!("{:?}", admin::RotateKey { material: key.clone() }),
            format!("{:?}", kms::DataKeyResult { plaintext: key.clone(), ..Default::default() }),
            format!("{:?}", kms::DecryptResult { plaintext: key.clone(), ..Default::default() }),
            format!("{:?}", kms::EncryptItem { plaintext: key.clone(), ..Default::default() }),
            format!("{:?}", kms::FetchResult { material: key.clone(), ..Default::default() }),
            format!("{:?}", kms::LeaseResult { data_key: key.clone(), ..Default::default() }),
            format!("{:?}", kms::RandomResponse { random: key.clone() }),
            format!("{:?}", node::AttestBegin { evidence: key, ..Default::default() }),
            format!("{:?}", node::JwtIssued { token: CANARY.into(), ..Default::default() }),
        ];
        for shown in shown {
            assert!(!shown.contains(CANARY) && !shown.contains(printed.as_str()), "{shown}");
        }
    }
}
