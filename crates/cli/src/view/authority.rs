//! What signs: roots, intermediates and JWT keys.

use bonafide_wire::admin::{SigningAuthority, signing_authority::Kind};
use serde::Serialize;

use crate::{console::View, moment::Moment, page::Page};

/// A root, an intermediate or a JWT key.
#[derive(Debug, Serialize)]
pub struct SigningAuthorityView {
    kind: &'static str,
    id: String,
    state: String,
    algorithm: String,
    not_before: Option<Moment>,
    not_after: Option<Moment>,
}

impl From<SigningAuthority> for SigningAuthorityView {
    fn from(authority: SigningAuthority) -> Self {
        Self {
            kind: match authority.kind() {
                Kind::Unspecified => "unknown",
                Kind::Root => "root",
                Kind::Intermediate => "intermediate",
                Kind::Jwt => "jwt",
            },
            id: authority.id,
            state: authority.state,
            algorithm: authority.algorithm,
            not_before: Moment::from_wire(authority.not_before),
            not_after: Moment::from_wire(authority.not_after),
        }
    }
}

/// Everything that signs.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub struct SigningAuthorityList(pub Vec<SigningAuthorityView>);

impl View for SigningAuthorityList {
    fn draw(&self, page: &mut Page) {
        let rows: Vec<_> = self
            .0
            .iter()
            .map(|authority| {
                [
                    authority.kind.to_owned(),
                    authority.state.clone(),
                    authority.algorithm.clone(),
                    page.time_or(authority.not_after, "-"),
                    authority.id.clone(),
                ]
            })
            .collect();
        page.table(["KIND", "STATE", "ALGORITHM", "EXPIRES", "ID"], rows);
    }

    fn names(&self) -> Vec<String> {
        self.0.iter().map(|authority| authority.id.clone()).collect()
    }
}
