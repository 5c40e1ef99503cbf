//! `decide-…`, `policy-load-10k`: what a decision costs in process, at very many rules.

mod workload;

use std::{
    hint::black_box,
    process::Command,
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
};

use anyhow::{Context as _, Result, ensure};
#[cfg(feature = "engines")]
use bonafide_policy::read_canonical;
use bonafide_policy::{Live, Request, Snapshot};

use self::workload::Workload;
use crate::{
    clock::CpuClock,
    figure::Figure,
    pairs::{median, quantile},
};

const ROUNDS: usize = 41;
/// Decisions on every request of a workload in one round.
const TIMES: usize = 10;
/// The program beside this one that counts allocations.
const ALLOCATIONS: &str = "bonafide-lab-allocations";

/// The figure of a name.
pub(crate) fn figure(name: &'static str) -> Result<Figure> {
    match name {
        "decide-10k" => decide(name, "10,000 mixed rules", &Workload::mixed(10_000)?, 0.25),
        "decide-10k-p99" => slowest(name, &Workload::mixed(10_000)?),
        "decide-alloc" => allocations(name),
        "decide-100k" => decide(name, "100,000 mixed rules", &Workload::mixed(100_000)?, 10.0),
        "decide-grid" => decide(name, "100 callers × 100 paths", &Workload::grid(10_000)?, 10.0),
        "decide-shared-prefix" => {
            let what = "10,000 rules about the same callers and the same path";
            decide(name, what, &Workload::shared_prefix(10_000)?, 10.0)
        }
        #[cfg(feature = "engines")]
        "decide-cedar-10k" => cedar_figure(name),
        #[cfg(feature = "engines")]
        "decide-regorus-10k" => regorus_figure(name),
        _ => load(name, &Workload::mixed(10_000)?),
    }
}

/// The median of rounds, in µs of CPU time for each decision.
fn decide(name: &'static str, what: &str, workload: &Workload, target: f64) -> Result<Figure> {
    let snapshot = workload.snapshot()?;
    let requests: Vec<Request<'_>> = workload.requests.iter().map(|scenario| scenario.request()).collect();
    let mut rounds = Vec::with_capacity(ROUNDS);
    for _ in 0..ROUNDS {
        let start = CpuClock::thread().now()?;
        for _ in 0..TIMES {
            for request in &requests {
                black_box(snapshot.decide(black_box(request)));
            }
        }
        let spent = (CpuClock::thread().now()? - start).as_secs_f64();
        rounds.push(spent * 1e6 / (TIMES * requests.len()) as f64);
    }
    let what = format!("decision at {what}; {}", shares(&snapshot, &requests));
    Ok(Figure {
        name,
        value: median(rounds),
        unit: "µs",
        floor: None,
        ratio: None,
        peer_ratio: None,
        target: Some(target),
        what,
    })
}

/// How many are allowed, and denied by a rule.
fn shares(snapshot: &Snapshot, requests: &[Request<'_>]) -> String {
    let percent = |count: usize| count * 100 / requests.len().max(1);
    let decisions = || requests.iter().map(|request| snapshot.decide(request));
    let allowed = decisions().filter(|decision| decision.is_allowed()).count();
    let ruled = decisions().filter(|decision| decision.reason.rule().is_some()).count();
    format!("{} % allowed, {} % denied by a rule", percent(allowed), percent(ruled - allowed))
}

/// One decision at a time, by the clock on the wall: what a caller waits.
fn slowest(name: &'static str, workload: &Workload) -> Result<Figure> {
    let snapshot = workload.snapshot()?;
    let requests: Vec<Request<'_>> = workload.requests.iter().map(|scenario| scenario.request()).collect();
    let mut each = Vec::with_capacity(ROUNDS * requests.len());
    for _ in 0..ROUNDS {
        for request in &requests {
            let start = std::time::Instant::now();
            black_box(snapshot.decide(black_box(request)));
            each.push(start.elapsed().as_secs_f64() * 1e6);
        }
    }
    let value = quantile(each, 0.99);
    let what =
        "99 of 100 decisions at 10,000 mixed rules take less, with the reading of the clock".to_owned();
    Ok(Figure {
        name,
        value,
        unit: "µs",
        floor: None,
        ratio: None,
        peer_ratio: None,
        target: Some(5.0),
        what,
    })
}

/// How often a decision takes memory. The allocator here does not count, so another program decides.
fn allocations(name: &'static str) -> Result<Figure> {
    let program = std::env::current_exe()?.with_file_name(ALLOCATIONS);
    let output = Command::new(&program).output().with_context(|| format!("running {}", program.display()))?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let value = String::from_utf8(output.stdout)?.trim().parse()?;
    let what = "allocations of one decision, at 10,000 rules of each kind".to_owned();
    Ok(Figure { name, value, unit: "", floor: None, ratio: None, peer_ratio: None, target: Some(0.0), what })
}

/// From an edit that has arrived to policies that decide, while others decide.
fn load(name: &'static str, workload: &Workload) -> Result<Figure> {
    let live = Live::new(workload.snapshot()?);
    let requests: Vec<Request<'_>> = workload.requests.iter().map(|scenario| scenario.request()).collect();
    let expected: Vec<bool> =
        requests.iter().map(|request| live.current().decide(request).is_allowed()).collect();
    let (done, decided, failed) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    let (mut rounds, mut all) = (Vec::new(), Vec::new());
    std::thread::scope(|scope| -> Result<()> {
        scope.spawn(|| {
            while !done.load(Relaxed) {
                for (request, expected) in requests.iter().zip(&expected) {
                    let same = live.current().decide(request).is_allowed() == *expected;
                    failed.fetch_add(u64::from(!same), Relaxed);
                }
                decided.fetch_add(requests.len() as u64, Relaxed);
            }
        });
        let measured = (|| {
            for _ in 0..11 {
                let start = CpuClock::thread().now()?;
                live.replace(workload.reload()?);
                rounds.push((CpuClock::thread().now()? - start).as_secs_f64() * 1e3);
                let start = CpuClock::thread().now()?;
                black_box(workload.load()?);
                all.push((CpuClock::thread().now()? - start).as_secs_f64() * 1e3);
            }
            Ok(())
        })();
        done.store(true, Relaxed);
        measured
    })?;
    let failed = failed.into_inner();
    ensure!(failed == 0, "{failed} decisions were wrong while policies were replaced");
    let what = format!(
        "an edit of 100 of 10,000 rules read, compiled and published; {:.0} ms if all have to be read; no wrong one of \
         {} decisions meanwhile",
        median(all),
        decided.into_inner()
    );
    Ok(Figure {
        name,
        value: median(rounds),
        unit: "ms",
        floor: None,
        ratio: None,
        peer_ratio: None,
        target: Some(50.0),
        what,
    })
}

/// `decide-cedar-10k`: the same rules and requests, decided by Cedar.
#[cfg(feature = "engines")]
fn cedar_figure(name: &'static str) -> Result<Figure> {
    use std::str::FromStr as _;

    use bonafide_policy::{CertifiedLabels, cedar};
    use cedar_policy as theirs;

    /// It looks at every rule.
    const SOME: usize = 32;
    let workload = Workload::mixed(10_000)?;
    let text = cedar::policies(workload.policies.iter().map(|policy| &**policy));
    let set = theirs::PolicySet::from_str(&text)?;
    let (authorizer, entities) = (theirs::Authorizer::new(), theirs::Entities::empty());
    let workloads = theirs::EntityTypeName::from_str("Workload")?;
    let actions = theirs::EntityTypeName::from_str("Action")?;
    let uid = |kind: &theirs::EntityTypeName, id: &str| {
        theirs::EntityUid::from_type_name_and_id(kind.clone(), theirs::EntityId::new(id))
    };
    let snapshot = workload.snapshot()?;
    let mut rounds = Vec::new();
    for scenario in workload.requests.iter().take(SOME) {
        let ours = scenario.request();
        let request = cedar::request(&ours, &CertifiedLabels::none())?;
        let context = theirs::Context::from_json_str(&request.context, None)?;
        let (principal, action) = (uid(&workloads, &request.principal), uid(&actions, &request.action));
        let request = theirs::Request::new(principal, action, uid(&workloads, "callee"), context, None)?;
        let start = CpuClock::thread().now()?;
        let answer = black_box(authorizer.is_authorized(black_box(&request), &set, &entities));
        rounds.push((CpuClock::thread().now()? - start).as_secs_f64() * 1e6);
        let same = (answer.decision() == theirs::Decision::Allow) == snapshot.decide(&ours).is_allowed();
        ensure!(same, "Cedar decides otherwise");
    }
    Ok(Figure {
        name,
        value: median(rounds),
        unit: "µs",
        floor: None,
        ratio: None,
        peer_ratio: None,
        target: None,
        what: "for comparison: Cedar on the rules and requests of decide-10k, its context made before"
            .to_owned(),
    })
}

/// `decide-regorus-10k`: the same rules and requests, decided by an interpreter of Rego.
#[cfg(feature = "engines")]
fn regorus_figure(name: &'static str) -> Result<Figure> {
    use std::num::NonZeroUsize;

    use bonafide_policy::{analysis::world::Scope, record, rego::export};
    use regorus::utils::limits::PolicyLengthConfig;

    /// It looks at every rule.
    const SOME: usize = 8;
    let workload = Workload::mixed(10_000)?;
    let mut documents = Vec::with_capacity(workload.documents.len());
    for text in &workload.documents {
        documents.push(read_canonical(text).context("a workload that is no policy")?);
    }
    let mut engine = regorus::Engine::new();
    let (size, lines) = (NonZeroUsize::new(16 << 20), NonZeroUsize::new(1 << 20));
    engine.set_policy_length_config(PolicyLengthConfig {
        max_file_bytes: size.context("not zero")?,
        max_lines: lines.context("not zero")?,
        ..PolicyLengthConfig::default()
    });
    engine.add_policy("policies.rego".to_owned(), export::module(&documents, Scope::Enforced))?;
    let snapshot = workload.snapshot()?;
    let mut rounds = Vec::new();
    for scenario in workload.requests.iter().take(SOME) {
        let input = regorus::Value::from_json_str(&record::of(scenario).to_string())?;
        engine.set_input(input);
        let start = CpuClock::thread().now()?;
        let answer = black_box(engine.eval_rule("data.bonafide.policies.allow".to_owned())?);
        rounds.push((CpuClock::thread().now()? - start).as_secs_f64() * 1e6);
        let expected = snapshot.decide(&scenario.request()).is_allowed();
        ensure!(answer == regorus::Value::from(expected), "regorus decides otherwise");
    }
    // The first one also prepares the program.
    let first = rounds.remove(0);
    Ok(Figure {
        name,
        value: median(rounds),
        unit: "µs",
        floor: None,
        ratio: None,
        peer_ratio: None,
        target: None,
        what: format!(
            "for comparison: regorus on the rules and requests of decide-10k, exported; {:.1} s the first time",
            first / 1e6
        ),
    })
}
