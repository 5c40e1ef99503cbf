//! Policies and requests to decide, the same in every run.

use std::sync::Arc;

use anyhow::{Context as _, Result};
use bonafide_identity::SpiffeId;
use bonafide_policy::{Caller, CertifiedLabels, Policy, Scenario, Snapshot, read, read_canonical};

const METHODS: [&str; 4] = ["GET", "POST", "PUT", "DELETE"];
const REQUESTS: u64 = 512;
/// Rules of one document.
const PART: u64 = 100;

/// Policies and requests.
pub(crate) struct Workload {
    /// In their canonical form, as agents get them.
    pub(crate) documents: Vec<String>,
    pub(crate) policies: Vec<Arc<Policy>>,
    pub(crate) requests: Vec<Scenario>,
}

impl Workload {
    fn new(rules: &[String], requests: Vec<Scenario>) -> Result<Self> {
        let mut documents = Vec::new();
        for (number, part) in rules.chunks(PART as usize).enumerate() {
            documents.push(format!("kind: Policy\nname: p{number}\nrules:\n{}", part.concat()));
        }
        let mut workload = Self { documents: Vec::new(), policies: Vec::new(), requests };
        for text in documents {
            let read = read(&text).ok().context("a workload that is no policy")?;
            for document in read {
                workload.documents.push(document.canonical());
                workload.policies.extend(document.policy().cloned());
            }
        }
        Ok(workload)
    }

    /// Callers by ID (half), by the beginning of an ID, and by two labels (a fifth); some of the methods; a path and all
    /// below it. One in twenty denies. Three of four requests are such as a rule is about.
    pub(crate) fn mixed(rules: u64) -> Result<Self> {
        let mut numbers = Numbers(0x9e37_79b9_7f4a_7c15);
        let paths = (rules / 10).max(1);
        let mut texts = Vec::new();
        let mut all = Vec::new();
        for number in 0..rules {
            let who = match number % 10 {
                0..5 => format!("{{id: spiffe://prod.acme/ns/n{}/sa/s{number}}}", number % 97),
                5..8 => format!("{{id: spiffe://prod.acme/ns/m{number}/**}}"),
                _ => format!("{{labels: {{team: t{number}, env: prod}}}}"),
            };
            let count = 1 + numbers.below(3);
            let first = numbers.below(4);
            let can: Vec<&str> = (first..first + count).map(method).collect();
            let path = numbers.below(paths);
            let effect = if number % 20 == 7 { "deny" } else { "allow" };
            texts.push(format!(
                "- {{name: r{number}, {effect}: {{who: {who}, can: [{}], on: {{path: /api/r{path}/**}}}}}}\n",
                can.join(", ")
            ));
            all.push((number, first, path));
        }
        let mut requests = Vec::new();
        for _ in 0..REQUESTS {
            let at = usize::try_from(numbers.below(rules))?;
            let (number, first, path) = all.get(at).copied().context("in range")?;
            let (id, team) = match number % 10 {
                0..5 => (format!("spiffe://prod.acme/ns/n{}/sa/s{number}", number % 97), 0),
                5..8 => (format!("spiffe://prod.acme/ns/m{number}/sa/web"), 0),
                _ => (format!("spiffe://prod.acme/ns/other/sa/s{number}"), number),
            };
            let hit = numbers.below(4) > 0;
            let path = if hit { path } else { path + rules };
            requests.push(scenario(&id, team, method(first), format!("/api/r{path}/items/{number}"))?);
        }
        Self::new(&texts, requests)
    }

    /// Each of many callers may ask for each of many paths: every caller, and every path, is in many rules.
    pub(crate) fn grid(rules: u64) -> Result<Self> {
        let mut numbers = Numbers(0x1234_5678_9abc_def1);
        let side = rules.isqrt();
        let mut texts = Vec::new();
        for caller in 0..side {
            for path in 0..side {
                texts.push(format!(
                    "- {{name: r{caller}-{path}, allow: {{who: {{id: spiffe://prod.acme/ns/n/sa/s{caller}}}, \
                     on: {{path: /api/r{path}}}}}}}\n"
                ));
            }
        }
        let mut requests = Vec::new();
        for _ in 0..REQUESTS {
            let id = format!("spiffe://prod.acme/ns/n/sa/s{}", numbers.below(side));
            requests.push(scenario(&id, 0, "GET", format!("/api/r{}", numbers.below(side * 4 / 3)))?);
        }
        Self::new(&texts, requests)
    }

    /// All rules are about the same callers and the same path; they differ in methods, and in one of fifty labels. So there
    /// is no rare key: hundreds of rules are left to look at.
    pub(crate) fn shared_prefix(rules: u64) -> Result<Self> {
        let mut numbers = Numbers(0x0bad_cafe_0bad_cafe);
        let mut texts = Vec::new();
        for number in 0..rules {
            let effect = if number % 20 == 7 { "deny" } else { "allow" };
            texts.push(format!(
                "- {{name: r{number}, {effect}: {{who: {{id: spiffe://prod.acme/ns/shop/**, labels: {{tier: t{}}}}}, \
                 can: [{}, {}], on: {{path: /api/orders/**}}}}}}\n",
                number % 50,
                method(numbers.below(4)),
                method(numbers.below(4)),
            ));
        }
        let mut requests = Vec::new();
        for number in 0..REQUESTS {
            let id = format!("spiffe://prod.acme/ns/shop/sa/s{number}");
            requests.push(scenario(&id, 0, method(numbers.below(4)), format!("/api/orders/{number}"))?);
        }
        Self::new(&texts, requests)
    }

    /// What decides.
    pub(crate) fn snapshot(&self) -> Result<Snapshot> {
        Ok(Snapshot::compile(self.policies.iter().cloned(), &CertifiedLabels::none(), 1, 0x5eed)?)
    }

    /// As it is done after an edit: one document is read, and all are compiled.
    pub(crate) fn reload(&self) -> Result<Snapshot> {
        let edited = self.documents.first().context("there is a document")?;
        let edited = read_canonical(edited).context("a workload that is no policy")?;
        let edited = edited.policy().cloned().into_iter();
        let policies = edited.chain(self.policies.iter().skip(1).cloned());
        Ok(Snapshot::compile(policies, &CertifiedLabels::none(), 1, 0x5eed)?)
    }

    /// As it is done at a start: all are read, and compiled.
    pub(crate) fn load(&self) -> Result<Snapshot> {
        let mut policies = Vec::with_capacity(self.documents.len());
        for text in &self.documents {
            let document = read_canonical(text).context("a workload that is no policy")?;
            policies.extend(document.policy().cloned());
        }
        Ok(Snapshot::compile(policies, &CertifiedLabels::none(), 1, 0x5eed)?)
    }
}

fn method(number: u64) -> &'static str {
    usize::try_from(number % 4).ok().and_then(|number| METHODS.get(number)).copied().unwrap_or("GET")
}

/// A caller with six labels, as a workload has them.
fn scenario(id: &str, team: u64, can: &str, path: String) -> Result<Scenario> {
    let team = format!("t{team}");
    let labels = CertifiedLabels::new([
        ("app", "shop"),
        ("env", "prod"),
        ("region", "eu-1"),
        ("team", team.as_str()),
        ("tier", "t7"),
        ("version", "2026-11-20"),
    ])?;
    let mut scenario = Scenario::new(Caller::new(SpiffeId::parse(id)?, labels), can);
    scenario.path = Some(path);
    Ok(scenario)
}

/// xorshift64*
struct Numbers(u64);

impl Numbers {
    const fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 20) % bound
    }
}
