//! Refusals with a stable code, carried in the details of a gRPC status.

use prost::Message;
use tonic::{Code, Status};

use crate::types::Problem;

/// Turns a [`Problem`] into a status of the given gRPC code.
pub trait IntoStatus {
    /// The status' message is the problem's; code and hint travel in `grpc-status-details-bin`.
    fn into_status(self, code: Code) -> Status;
}

impl IntoStatus for Problem {
    fn into_status(self, code: Code) -> Status {
        Status::with_details(code, self.message.clone(), self.encode_to_vec().into())
    }
}

/// Reads the problem back out of a status. A status of other origin yields its own message under `rpc.<code>`.
pub fn problem_of(status: &Status) -> Problem {
    if let Ok(problem) = Problem::decode(status.details())
        && !problem.code.is_empty()
    {
        return problem;
    }
    Problem {
        code: format!("rpc.{}", kebab(&format!("{:?}", status.code()))),
        message: status.message().to_owned(),
        hint: String::new(),
    }
}

fn kebab(camel: &str) -> String {
    let mut out = String::new();
    for (index, letter) in camel.chars().enumerate() {
        if letter.is_ascii_uppercase() && index > 0 {
            out.push('-');
        }
        out.push(letter.to_ascii_lowercase());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_survives_the_status() {
        let problem = Problem {
            code: "scope.spiffe-id".into(),
            message: "`spiffe://td/x` is outside the site".into(),
            hint: "ask an operator to widen the site's scope".into(),
        };
        let status = problem.clone().into_status(Code::PermissionDenied);
        assert_eq!(problem_of(&status), problem);
    }

    #[test]
    fn a_foreign_status_keeps_its_message() {
        let problem = problem_of(&Status::deadline_exceeded("too late"));
        assert_eq!(problem.code, "rpc.deadline-exceeded");
        assert_eq!(problem.message, "too late");
    }
}
