//! Programs beside the rules of an explanation.

use bonafide_policy::{Decision, Document, Effect, Scenario};

use crate::Console;

/// The answer, and what determined it, if that is a program.
#[cfg(feature = "rego")]
pub(super) fn ask(
    documents: &[Document],
    scenario: &Scenario,
    decision: &Decision<'_>,
    console: &Console,
) -> Option<(Effect, Vec<String>)> {
    use bonafide_policy::{
        Body, record,
        rego::program::{By, Program, merge},
    };
    let mut programs = Vec::new();
    for document in documents {
        let Body::Rego(policy) = document.body() else { continue };
        if !document.body().applies_to_callee(&scenario.callee) {
            continue;
        }
        match Program::load(policy) {
            Ok(program) => programs.push(program),
            Err(fault) => {
                console.note(format!("warning[{}]: `{}`: {fault}", fault.code(), policy.name()));
                return Some((
                    Effect::Deny,
                    vec![format!("the program `{}` can't be loaded", policy.name())],
                ));
            }
        }
    }
    let answer = merge(decision, &programs, &record::of(scenario));
    match answer.by {
        By::Rules => None,
        By::Program { policy, reasons } => {
            let first = std::iter::once(format!("program `{policy}`"));
            Some((answer.effect, first.chain(reasons).collect()))
        }
        By::Fault { policy, fault } => Some((answer.effect, vec![format!("program `{policy}`: {fault}")])),
    }
}

/// This build runs no programs.
#[cfg(not(feature = "rego"))]
pub(super) fn ask(
    documents: &[Document],
    _: &Scenario,
    _: &Decision<'_>,
    console: &Console,
) -> Option<(Effect, Vec<String>)> {
    for document in documents.iter().filter(|document| document.policy().is_none()) {
        let name = document.body().name();
        console.note(format!(
            "warning[policy.program]: the program `{name}` is not run by this build, and may deny"
        ));
    }
    None
}
