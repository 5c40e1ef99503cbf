//! Sites: places that vouch for workloads, and names for them.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
    time::Duration,
};

use bonafide_identity::{Certificate, time::UnixTime};

use crate::{refusal::Refusal, scope::Scope};

/// Longest name.
const MAX_NAME: usize = 63;

/// A site, as the store holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Site {
    /// See [`check_name`].
    pub name: Arc<str>,
    /// All that the site's evidence and its admins can ever obtain.
    pub scope: Scope,
    /// For registrations that name no lifetime. Never above the scope's.
    pub default_x509_ttl: Duration,
    /// For registrations that name no lifetime. Never above the scope's.
    pub default_jwt_ttl: Duration,
    /// How operators find and prune what they manage.
    pub management_labels: BTreeMap<String, String>,
    /// When it was first put.
    pub created_at: UnixTime,
    /// Log revision of the last change.
    pub revision: u64,
    /// Roots of the PKI whose certificates admit nodes (`x509pop`). Empty: none does.
    pub x509pop_roots: Vec<Certificate>,
}

impl Site {
    /// Whether both say the same: revision, creation and the order of patterns don't count.
    #[must_use]
    pub fn says_the_same_as(&self, other: &Self) -> bool {
        fn set<T: ToString>(items: &[T]) -> BTreeSet<String> {
            items.iter().map(ToString::to_string).collect()
        }
        let plain = |site: &Self| Self {
            scope: Scope {
                spiffe_ids: Vec::new(),
                dns_names: Vec::new(),
                labels: Vec::new(),
                ..site.scope.clone()
            },
            created_at: UnixTime::from_secs(0),
            revision: 0,
            x509pop_roots: Vec::new(),
            ..site.clone()
        };
        let labels = |site: &Self| -> BTreeSet<_> {
            site.scope.labels.iter().map(|label| (label.key.clone(), label.value.clone())).collect()
        };
        let roots = |site: &Self| -> BTreeSet<Vec<u8>> {
            site.x509pop_roots.iter().map(|root| root.der().to_vec()).collect()
        };
        set(&self.scope.spiffe_ids) == set(&other.scope.spiffe_ids)
            && set(&self.scope.dns_names) == set(&other.scope.dns_names)
            && labels(self) == labels(other)
            && roots(self) == roots(other)
            && plain(self) == plain(other)
    }
}

impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

/// A site's name is 1 to 63 of `a-z 0-9 -`, and begins and ends with a letter or digit: it is a segment of SPIFFE IDs
/// and of store keys.
///
/// # Errors
/// `site.name`.
pub fn check_name(name: &str) -> Result<(), Refusal> {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if name.is_empty()
        || name.len() > MAX_NAME
        || !name.bytes().all(inner)
        || name.starts_with('-')
        || name.ends_with('-')
    {
        return Err(Refusal::invalid(
            "site.name",
            "a site's name has 1 to 63 of `a-z 0-9 -` and no `-` at either end",
        )
        .hint("choose a name such as `edge-1`"));
    }
    Ok(())
}
