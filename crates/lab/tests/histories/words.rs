//! Messages in a few words, without anything that chance beyond the seed has made, as keys are.

use bonafide_wire::node::{agent_message::Kind as Said, authority_message::Kind as Told};

pub(crate) fn told(told: &Told) -> String {
    match told {
        Told::Update(update) => format!(
            "update to {} of {}: {} in, {} out{}",
            update.revision,
            update.incarnation.first().copied().unwrap_or_default(),
            update.upserts.len(),
            update.removals.len(),
            if update.bundle.is_empty() { "" } else { ", bundle" }
        ),
        Told::Bookmark(bookmark) => format!("bookmark {}", bookmark.revision),
        Told::X509Issued(issued) => {
            format!(
                "answer {}: generation {} until half at {}",
                issued.request, issued.generation, issued.renew_after
            )
        }
        Told::Refused(refused) => {
            let code = refused.problem.as_ref().map(|problem| problem.code.as_str()).unwrap_or_default();
            format!("answer {}: refused, {code}", refused.request)
        }
        Told::Reported(reported) => format!("answer {}: reported", reported.request),
        Told::JwtIssued(issued) => format!("answer {}: JWT", issued.request),
        _ => "ban".to_owned(),
    }
}

pub(crate) fn said(said: &Said) -> String {
    match said {
        Said::Hello(hello) => format!("hello at {}", hello.revision),
        Said::Acknowledge(acknowledge) => format!("acknowledgement of {}", acknowledge.revision),
        Said::IssueX509(ask) => format!("question {}: an SVID of {}", ask.request, ask.registration),
        Said::RenewX509(ask) => {
            format!("question {}: generation {} of {}", ask.request, ask.generation, ask.registration)
        }
        Said::IssueJwt(ask) => format!("question {}: a JWT", ask.request),
        Said::RenewAgent(ask) => format!("question {}: the agent's own SVID", ask.request),
        Said::Cosigned(_) => "a cosignature".to_owned(),
        Said::Renewals(renewals) => format!("{} of a tainted authority", renewals.remaining),
        Said::Report(report) => {
            format!(
                "question {}: {} launches, {} ends",
                report.request,
                report.launches.len(),
                report.ends.len()
            )
        }
    }
}
