//! What a root key rests under.

use bonafide_wire::admin::{Seal, SealsResponse};
use serde::Serialize;

use crate::{console::View, page::Page};

/// One seal of a keyring.
#[derive(Debug, Serialize)]
pub struct SealView {
    name: String,
    kind: String,
    /// Whether the server can open it now.
    opens: bool,
    #[serde(skip_serializing_if = "String::is_empty")]
    opened_by: String,
}

/// The seals of a server.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub struct SealList(Vec<SealView>);

impl From<SealsResponse> for SealList {
    fn from(seals: SealsResponse) -> Self {
        let view = |seal: Seal| SealView {
            name: seal.name,
            kind: seal.kind,
            opens: !seal.opened_by.is_empty(),
            opened_by: seal.opened_by,
        };
        Self(seals.seals.into_iter().map(view).collect())
    }
}

impl View for SealList {
    fn draw(&self, page: &mut Page) {
        let rows: Vec<_> = self
            .0
            .iter()
            .map(|seal| {
                let opened_by = if seal.opens { seal.opened_by.clone() } else { "nothing here".to_owned() };
                [seal.name.clone(), seal.kind.clone(), opened_by]
            })
            .collect();
        page.table(["NAME", "KIND", "OPENS WITH"], rows);
    }

    fn names(&self) -> Vec<String> {
        self.0.iter().map(|seal| seal.name.clone()).collect()
    }
}
