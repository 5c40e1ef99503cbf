//! Join tokens and join lines.

use bonafide_wire::admin;
use serde::Serialize;

use crate::{
    console::View,
    moment::Moment,
    page::{Page, some},
};

/// A token that waits to be used. The secret itself is not kept anywhere.
#[derive(Debug, Serialize)]
pub struct TokenView {
    id: String,
    site: String,
    expires_at: Option<Moment>,
    created_at: Option<Moment>,
}

impl From<admin::JoinToken> for TokenView {
    fn from(token: admin::JoinToken) -> Self {
        Self {
            id: token.id,
            site: token.site,
            expires_at: Moment::from_wire(token.expires_at),
            created_at: Moment::from_wire(token.created_at),
        }
    }
}

/// Tokens.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub struct TokenList(pub Vec<TokenView>);

impl View for TokenList {
    fn draw(&self, page: &mut Page) {
        let rows: Vec<_> = self
            .0
            .iter()
            .map(|token| {
                [
                    token.id.clone(),
                    token.site.clone(),
                    page.time_or(token.expires_at, "never"),
                    page.time_or(token.created_at, ""),
                ]
            })
            .collect();
        page.table(["ID", "SITE", "EXPIRES", "CREATED"], rows);
    }

    fn names(&self) -> Vec<String> {
        self.0.iter().map(|token| token.id.clone()).collect()
    }
}

/// A new token: the only time that it is shown.
#[derive(Serialize)]
pub struct NewTokenView {
    id: String,
    token: String,
    join: String,
    expires_at: Option<Moment>,
}

impl std::fmt::Debug for NewTokenView {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NewTokenView").field("id", &self.id).finish_non_exhaustive()
    }
}

impl From<admin::CreateJoinTokenResponse> for NewTokenView {
    fn from(token: admin::CreateJoinTokenResponse) -> Self {
        Self {
            id: token.id,
            token: token.token,
            join: token.join,
            expires_at: Moment::from_wire(token.expires_at),
        }
    }
}

impl View for NewTokenView {
    fn draw(&self, page: &mut Page) {
        page.record([
            ("id", some(&self.id)),
            ("token", some(&self.token)),
            ("join", some(&self.join)),
            ("expires", some(page.time_or(self.expires_at, "never"))),
        ]);
    }

    fn names(&self) -> Vec<String> {
        vec![self.token.clone()]
    }
}

/// The one line to paste on a new node.
#[derive(Serialize)]
pub struct JoinView {
    id: String,
    site: String,
    join: String,
    command: String,
    expires_at: Option<Moment>,
}

impl std::fmt::Debug for JoinView {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("JoinView").field("id", &self.id).field("site", &self.site).finish_non_exhaustive()
    }
}

impl JoinView {
    /// The line for a token of `site`.
    pub fn new(site: &str, token: admin::CreateJoinTokenResponse) -> Self {
        Self {
            id: token.id,
            site: site.to_owned(),
            // A word among the arguments of a process is for every user to see; `echo` is no process.
            command: format!("echo {} | bonafide agent run --join -", token.join),
            join: token.join,
            expires_at: Moment::from_wire(token.expires_at),
        }
    }

    /// When the line stops working.
    pub fn expires_at(&self) -> Option<Moment> {
        self.expires_at
    }
}

impl View for JoinView {
    fn draw(&self, page: &mut Page) {
        page.line(&self.command);
    }

    fn names(&self) -> Vec<String> {
        vec![self.join.clone()]
    }
}
