//! How nodes prove what they are. No I/O: evidence in, a challenge or a verdict out.

use std::fmt;

use bonafide_attest::SelectorSet;
use bonafide_identity::time::UnixTime;

use crate::records::{NodeProof, RecordChange};
use crate::refusal::Refusal;
use crate::state::State;

/// One way to prove what a node is.
pub trait NodeAttestor: Send + Sync + fmt::Debug {
    /// As `AttestBegin.attestor` names it.
    fn kind(&self) -> &'static str;

    /// Evidence and answers beyond this many bytes are not looked at.
    fn max_evidence(&self) -> usize;

    /// The site that the evidence claims, found cheaply: its rate is counted before anything expensive is done.
    /// `None` if nobody vouches for such evidence.
    fn claimed_site(&self, evidence: &[u8], state: &State) -> Option<String>;

    /// Looks at evidence.
    ///
    /// # Errors
    /// What is wrong with it, in words that tell a thief nothing.
    fn begin(&self, asked: Asked<'_>, state: &State, now: UnixTime) -> Result<Step, Refusal>;
}

/// What a node begins with.
#[derive(Clone, Copy)]
pub struct Asked<'a> {
    /// May be a secret.
    pub evidence: &'a [u8],
    /// The request for the agent's SVID: what a proof is bound to.
    pub csr: &'a [u8],
}

/// An attestation that waits for an answer.
pub trait Pending: Send + fmt::Debug {
    /// Looks at the answer to the challenge.
    ///
    /// # Errors
    /// What is wrong with it.
    fn answer(self: Box<Self>, response: &[u8], state: &State, now: UnixTime) -> Result<Step, Refusal>;
}

/// What an attestor says next.
#[derive(Debug)]
pub enum Step {
    /// The node must answer this first.
    Challenge {
        /// What is sent to the node.
        challenge: Vec<u8>,
        /// Waits for the answer.
        pending: Box<dyn Pending>,
    },
    /// What was proved.
    Verdict(Verdict),
}

/// What was proved.
pub struct Verdict {
    /// The site that the node belongs to.
    pub site: String,
    /// Last segment of the agent's ID, for evidence that attests the same node again and again. `None`: the evidence
    /// makes a new agent.
    pub agent: Option<[u8; 16]>,
    /// What is known of the node.
    pub selectors: SelectorSet,
    /// What the evidence was, in public words.
    pub evidence: String,
    /// What holds the attestation up for as long as it does; none, if it stands by itself.
    pub proof: Option<NodeProof>,
    /// Spends what may be used once.
    pub spend: Spend,
}

/// Part of the mutation that writes the agent's record. It runs against the state that the mutation is committed on:
/// of two nodes that bring the same evidence, one finds it gone.
pub type Spend = Box<dyn Fn(&State) -> Result<Vec<RecordChange>, Refusal> + Send>;

impl fmt::Debug for Asked<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Asked").finish_non_exhaustive()
    }
}

impl fmt::Debug for Verdict {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Verdict")
            .field("site", &self.site)
            .field("selectors", &self.selectors)
            .field("evidence", &self.evidence)
            .finish_non_exhaustive()
    }
}
