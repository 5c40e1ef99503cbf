//! A node that has certificates issued all the time, and remembers which it was given.

use std::{collections::HashSet, path::Path};

use anyhow::{Context, Result, bail, ensure};
use bonafide_authority::entry::{Entry, entry::Kind};
use bonafide_crypto::{
    csr,
    key::{KeyAlgorithm, PrivateKey},
};
use bonafide_identity::Certificate;
use bonafide_ledger::VerifierKey;
use bonafide_wire::{
    node::{IssueX509, agent_message, authority_message},
    types::{Problem, Selector},
};
use bytes::Bytes;
use prost::Message as _;

use super::admin::{Operator, entry, refused};
use crate::node::Node;

/// The entry that it asks for.
const REGISTRATION: &str = "issued";
const SELECTOR: (&str, &str) = ("unix.user", "issued");

#[derive(Debug)]
pub(crate) struct Issuing {
    node: Node,
    request: Bytes,
    number: u64,
    given: HashSet<[u8; 32]>,
}

impl Issuing {
    pub(crate) async fn join(operator: &mut Operator) -> Result<Self> {
        operator.put(entry(REGISTRATION, &[SELECTOR])).await.map_err(refused)?;
        let node = Node::join(&operator.join_word().await?.parse()?).await?;
        let request = csr::build(&PrivateKey::generate(KeyAlgorithm::EcP256)?)?.into();
        Ok(Self { node, request, number: 0, given: HashSet::new() })
    }

    /// After the authority was gone.
    pub(crate) async fn reconnect(&mut self) -> Result<()> {
        self.node.reconnect().await
    }

    /// Asks until there is no answer.
    pub(crate) async fn issue_until_it_fails(&mut self) -> anyhow::Error {
        loop {
            match self.issue().await {
                Ok(Ok(())) => {}
                Ok(Err(problem)) => return refused(problem),
                Err(error) => return error,
            }
        }
    }

    /// One certificate, or why not.
    pub(crate) async fn issue(&mut self) -> Result<Result<(), Problem>> {
        self.number += 1;
        let (key, value) = SELECTOR;
        let ask = IssueX509 {
            request: self.number,
            registration: REGISTRATION.to_owned(),
            selectors: vec![Selector { key: key.to_owned(), value: value.to_owned() }],
            csr: self.request.clone(),
        };
        self.node.say(agent_message::Kind::IssueX509(ask)).await?;
        loop {
            match self.node.hear().await? {
                authority_message::Kind::X509Issued(issued) if issued.request == self.number => {
                    let leaf = issued.chain.first().context("an answer without a certificate")?;
                    self.given.insert(Certificate::from_der(leaf)?.tbs_sha256());
                    return Ok(Ok(()));
                }
                authority_message::Kind::Refused(refused) if refused.request == self.number => {
                    return Ok(Err(refused.problem.unwrap_or_default()));
                }
                authority_message::Kind::Banned(_) => bail!("the node was banned"),
                _ => {}
            }
        }
    }

    /// Certificates that it was given.
    pub(crate) fn given(&self) -> usize {
        self.given.len()
    }

    /// Whether the ledger below `data`, whose authority has ended well, is whole, and knows all of them.
    pub(crate) fn check_logged(&self, data: &Path) -> Result<()> {
        let key: VerifierKey = std::fs::read_to_string(data.join("ledger.pub"))?.trim().parse()?;
        let mut missing = self.given.clone();
        bonafide_ledger::verify_entries(data.join("ledger"), &key, &mut |_, entry| {
            if let Ok(Entry { kind: Some(Kind::X509Svid(svid)), .. }) = Entry::decode(entry)
                && let Ok(digest) = <[u8; 32]>::try_from(svid.tbs_sha256.as_ref())
            {
                missing.remove(&digest);
            }
        })?;
        ensure!(
            missing.is_empty(),
            "{} certificates were given away and are not in the ledger",
            missing.len()
        );
        Ok(())
    }
}
