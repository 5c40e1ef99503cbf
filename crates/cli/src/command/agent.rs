//! `agent run`: one agent. `agent list`, `agent ban`: agents, as the authority knows them.

use std::{
    io::{self, BufRead as _},
    path::{Path, PathBuf},
    str::FromStr,
};

use bonafide_agent::{AgentConfig, JoinByCertificate, KeyFiles};
use bonafide_attest::join::{JoinError, JoinLine};
use bonafide_identity::TrustDomain;
use bonafide_wire::admin::{Agent, BanAgentRequest, ListAgentsRequest};
use zeroize::Zeroizing;

use crate::{
    Console, Failure,
    admin::{self, Client, WaitArgs, idempotency_key},
    roles,
    socket::AdminSocket,
    view::agent::AgentList,
};

/// The agent of this node, and those that the authority knows.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum AgentsCommand {
    /// Run the agent of this node until it is told to end
    Run(Box<RunArgs>),
    /// List the agents that have joined
    #[command(alias = "ls")]
    List {
        /// Only those of this site
        #[arg(long)]
        site: Option<String>,
        /// The authority.
        #[command(flatten)]
        socket: AdminSocket,
    },
    /// Ban an agent for good: its identities end, and it gets no more
    Ban {
        /// SPIFFE ID of the agent
        id: String,
        /// Why; kept in the record
        #[arg(long, default_value = "")]
        reason: String,
        /// Whether to wait for agents.
        #[command(flatten)]
        wait: WaitArgs,
        /// The authority.
        #[command(flatten)]
        socket: AdminSocket,
    },
}

/// Bytes of standard input that are read for a join word.
const MAX_WORD: u64 = 4096;

/// `agent run`.
#[derive(Clone, clap::Args)]
pub struct RunArgs {
    /// Join with this word, or with `-` with the one on standard input, where no other process sees it; needed once
    #[arg(long, value_name = "WORD", conflicts_with = "join_file")]
    join: Option<JoinWord>,
    /// Join with the word in this file
    #[arg(long, value_name = "FILE")]
    join_file: Option<PathBuf>,
    /// Join with this certificate (PEM, leaf first) of a PKI that the site trusts; the node comes back with it by itself
    #[arg(long, value_name = "FILE", requires_all = ["x509pop_key", "site", "trust_domain", "trust_bundle"],
        conflicts_with_all = ["join", "join_file"])]
    x509pop: Option<PathBuf>,
    /// Key of the certificate (PEM, PKCS#8), readable by its owner alone
    #[arg(long, value_name = "FILE", requires = "x509pop")]
    x509pop_key: Option<PathBuf>,
    /// The site that trusts the certificate
    #[arg(long, value_name = "NAME", requires = "x509pop")]
    site: Option<String>,
    /// The trust domain to join by certificate
    #[arg(long, value_name = "NAME", requires = "x509pop")]
    trust_domain: Option<TrustDomain>,
    /// The trust domain's bundle, as `bonafide bundle show` prints it
    #[arg(long, value_name = "FILE", requires = "x509pop")]
    trust_bundle: Option<PathBuf>,
    /// Settings (TOML); what is given here as a flag overrides them
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where to keep SVIDs and keys of this boot [default: /run/bonafide/agent]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Where to serve workloads [default: /run/bonafide/agent.sock]
    #[arg(long, value_name = "PATH", value_parser = crate::socket::parse)]
    socket: Option<PathBuf>,
    /// Where the authority is, instead of where the join word says; once for each of its servers
    #[arg(long, value_name = "HOST:PORT")]
    authority: Vec<String>,
    /// Serve on a kernel before Linux 6.5, with a weaker check of who calls; SVIDs will say so
    #[arg(long)]
    allow_start_time_peers: bool,
}

/// Where a join word is.
#[derive(Clone)]
enum JoinWord {
    Here(Box<JoinLine>),
    StandardInput,
}

impl FromStr for JoinWord {
    type Err = JoinError;

    fn from_str(word: &str) -> Result<Self, JoinError> {
        match word {
            "-" => Ok(Self::StandardInput),
            word => word.parse().map(|line| Self::Here(Box::new(line))),
        }
    }
}

impl JoinWord {
    fn read(self, input: impl io::Read) -> Result<JoinLine, Failure> {
        match self {
            Self::Here(line) => Ok(*line),
            Self::StandardInput => {
                let mut word = Zeroizing::new(String::new());
                io::BufReader::new(input.take(MAX_WORD))
                    .read_line(&mut word)
                    .map_err(|source| Failure::read(Path::new("/dev/stdin"), source))?;
                word.parse().map_err(|cause: JoinError| Failure::of(cause.code(), cause, cause.hint()))
            }
        }
    }
}

impl std::fmt::Debug for RunArgs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RunArgs")
            .field("config", &self.config)
            .field("data", &self.data)
            .finish_non_exhaustive()
    }
}

impl RunArgs {
    fn settings(self) -> Result<AgentConfig, Failure> {
        let mut config = match &self.config {
            Some(path) => read(path)?,
            None => AgentConfig::default(),
        };
        if let Some(data) = self.data {
            config.data_dir = data;
        }
        if let Some(socket) = self.socket {
            config.socket = socket;
        }
        config.join_line = self.join.map(|word| word.read(io::stdin())).transpose()?;
        config.join_line_file = self.join_file.or(config.join_line_file);
        if let (Some(certificate), Some(key), Some(site), Some(trust_domain), Some(trust_bundle)) =
            (self.x509pop, self.x509pop_key, self.site, self.trust_domain, self.trust_bundle)
        {
            let x509pop = KeyFiles { certificate, key };
            config.join = Some(JoinByCertificate { site, trust_domain, trust_bundle, x509pop });
        }
        if !self.authority.is_empty() {
            config.authority = self.authority;
        }
        config.allow_start_time_peers |= self.allow_start_time_peers;
        Ok(config)
    }
}

fn read(path: &Path) -> Result<AgentConfig, Failure> {
    let text = std::fs::read_to_string(path).map_err(|source| Failure::read(path, source))?;
    toml::from_str(&text).map_err(|cause: toml::de::Error| {
        let message = format!("{}: {}", path.display(), cause.message().replace('\n', " "));
        Failure::of("config.malformed", message, "see `bonafide agent run --help` for what can be set")
    })
}

/// Runs the agent of this node.
///
/// # Errors
/// Settings that cannot hold, and why the agent ended, unless it was told to.
pub async fn serve(arguments: RunArgs, console: &Console) -> Result<(), Failure> {
    let settings = arguments.settings()?;
    roles::init_logs("info")?;
    roles::serve_agent(settings, console).await
}

/// Runs the command.
///
/// # Errors
/// What the authority refuses, and sockets that do not answer.
pub async fn run(command: AgentsCommand, console: &Console) -> Result<(), Failure> {
    match command {
        AgentsCommand::Run(arguments) => serve(*arguments, console).await,
        AgentsCommand::List { site, socket } => {
            let mut client = admin::connect(&socket.path).await?;
            let agents = all(&mut client, site.unwrap_or_default()).await?;
            console.show(&AgentList(agents.into_iter().map(Into::into).collect()))
        }
        AgentsCommand::Ban { id, reason, wait, socket } => {
            let mut client = admin::connect(&socket.path).await?;
            let request = BanAgentRequest { id: id.clone(), reason, idempotency_key: idempotency_key() };
            let revision = client.ban_agent(request).await?.into_inner().revision;
            console.note(format!("banned {id}"));
            wait.finish(console, &mut client, revision).await
        }
    }
}

/// Every agent that the caller may see, page by page.
async fn all(client: &mut Client, site: String) -> Result<Vec<Agent>, Failure> {
    let mut found = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = ListAgentsRequest { site: site.clone(), page_size: admin::PAGE, page_token };
        let page = client.list_agents(request).await?.into_inner();
        found.extend(page.agents);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return Ok(found);
        }
    }
}

#[cfg(test)]
mod tests {
    use bonafide_attest::join::Token;

    use super::*;

    #[test]
    fn a_join_word_comes_from_the_arguments_or_from_standard_input() {
        let line = JoinLine {
            address: "a.example.org:8443".into(),
            trust_domain: "example.org".parse().unwrap(),
            root_pin: [1; 32],
            token: Token::from_bytes(&[2; 32]).unwrap(),
        };
        let word = line.to_word();
        let read = |argument: &str, input: &str| argument.parse::<JoinWord>().unwrap().read(input.as_bytes());
        let given = |line: Result<JoinLine, Failure>| line.unwrap().to_word();
        assert_eq!(*given(read(&word, "")), *word);
        assert_eq!(*given(read("-", &format!("{}\nand more", *word))), *word);
        assert!(read("-", "").is_err());
        assert!(read("-", &"x".repeat(10_000)).is_err());
        assert!("bfj1.x".parse::<JoinWord>().is_err());
    }
}
