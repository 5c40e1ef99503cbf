//! Logs, to standard error.

use tracing_subscriber::{EnvFilter, fmt, layer::SubscriberExt, util::SubscriberInitExt};

/// The variable that says what is logged, as `info,bonafide_agent=debug`.
pub const FILTER_VARIABLE: &str = "BONAFIDE_LOG";

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// One JSON object per line, for collectors.
    Json,
    /// For people.
    #[default]
    Text,
}

/// Why logs can't be written.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The filter is not one.
    #[error("`{FILTER_VARIABLE}` is not a log filter: {0}")]
    Filter(String),
    /// Another part of the process was first.
    #[error("logging is already set up")]
    Twice,
}

impl TelemetryError {
    /// A stable name for what happened.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Filter(_) => "telemetry.filter",
            Self::Twice => "telemetry.twice",
        }
    }

    /// What to do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Filter(_) => "write it like `info` or `warn,bonafide_agent=debug`",
            Self::Twice => "set up logging once, in `main`",
        }
    }
}

/// Logs to standard error from now on: what [`FILTER_VARIABLE`] says, or else `default_filter`.
///
/// # Errors
/// If the variable can't be parsed, or logging was set up before.
pub fn init(default_filter: &str, format: Format) -> Result<(), TelemetryError> {
    let wanted = std::env::var(FILTER_VARIABLE).unwrap_or_else(|_| default_filter.to_owned());
    let filter = EnvFilter::try_new(&wanted).map_err(|error| TelemetryError::Filter(error.to_string()))?;
    let registry = tracing_subscriber::registry().with(filter);
    let done = match format {
        Format::Json => registry.with(fmt::layer().json().with_writer(std::io::stderr)).try_init(),
        Format::Text => {
            registry.with(fmt::layer().with_writer(std::io::stderr).with_target(false)).try_init()
        }
    };
    done.map_err(|_| TelemetryError::Twice)
}
