//! A request on the command line.

use std::net::IpAddr;

use bonafide_identity::{SpiffeId, UnixTime};
use bonafide_policy::{AssertedProps, Caller, CertifiedLabels, Scenario, read};
use clap::builder::NonEmptyStringValueParser;

use crate::Failure;

/// What is asked.
#[derive(Clone, Debug, clap::Args)]
pub struct AskedArgs {
    /// Who asks: a SPIFFE ID
    #[arg(long, value_name = "ID")]
    who: SpiffeId,
    /// A certified label of the caller; may be given often
    #[arg(long = "label", short = 'l', value_name = "KEY=VALUE", value_parser = pair)]
    labels: Vec<(String, String)>,
    /// A property of the caller that the guarded program asserts
    #[arg(long = "who-prop", value_name = "KEY=VALUE", value_parser = pair)]
    who_props: Vec<(String, String)>,
    /// What it wants to do, such as `GET`
    #[arg(long, value_name = "ACTION", value_parser = NonEmptyStringValueParser::new())]
    can: String,
    /// The path of a call
    #[arg(long)]
    path: Option<String>,
    /// The host of a call
    #[arg(long)]
    host: Option<String>,
    /// The name of a key
    #[arg(long)]
    key: Option<String>,
    /// The name of a service
    #[arg(long)]
    service: Option<String>,
    /// A property of the thing that the guarded program asserts
    #[arg(long = "on-prop", value_name = "KEY=VALUE", value_parser = pair)]
    on_props: Vec<(String, String)>,
    /// A certified label of the workload that is asked
    #[arg(long = "callee", value_name = "KEY=VALUE", value_parser = pair)]
    callee: Vec<(String, String)>,
    /// An entry of the context that a ciphertext is bound to
    #[arg(long = "aad", value_name = "KEY=VALUE", value_parser = pair)]
    aad: Vec<(String, String)>,
    /// The algorithm of a key operation
    #[arg(long)]
    alg: Option<String>,
    /// The address that the request comes from
    #[arg(long, value_name = "ADDRESS")]
    source: Option<IpAddr>,
    /// Another property that the guarded program asserts
    #[arg(long = "when-prop", value_name = "KEY=VALUE", value_parser = pair)]
    when_props: Vec<(String, String)>,
    /// When, such as `2027-01-01` or `2027-01-01T08:30:00Z` [default: now]
    #[arg(long, value_name = "TIME", value_parser = moment)]
    at: Option<UnixTime>,
}

impl AskedArgs {
    pub(super) fn scenario(&self, now: UnixTime) -> Result<Scenario, Failure> {
        let labels = |pairs: &[(String, String)]| {
            CertifiedLabels::new(pairs.iter().map(|(key, value)| (key, value))).map_err(unfit)
        };
        let props = |pairs: &[(String, String)]| {
            AssertedProps::new(pairs.iter().map(|(key, value)| (key, value))).map_err(unfit)
        };
        let caller = Caller::new(self.who.clone(), labels(&self.labels)?);
        let mut scenario = Scenario::new(caller, self.can.clone());
        scenario.who_props = props(&self.who_props)?;
        scenario.callee = labels(&self.callee)?;
        scenario.path.clone_from(&self.path);
        scenario.host.clone_from(&self.host);
        scenario.key.clone_from(&self.key);
        scenario.service.clone_from(&self.service);
        scenario.on_props = props(&self.on_props)?;
        scenario.aad = props(&self.aad)?;
        scenario.algorithm.clone_from(&self.alg);
        scenario.source = self.source;
        scenario.when_props = props(&self.when_props)?;
        scenario.now = self.at.unwrap_or(now);
        Ok(scenario)
    }
}

fn unfit(fault: bonafide_policy::request::FactsFault) -> Failure {
    Failure::of(fault.code(), fault, fault.hint())
}

/// `key=value`; the value may be empty.
fn pair(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("expected `key=value`")?;
    Ok((key.to_owned(), value.to_owned()))
}

fn moment(text: &str) -> Result<UnixTime, String> {
    read::moment(text).ok_or_else(|| "expected `2027-01-01` or `2027-01-01T08:30:00Z`".to_owned())
}
