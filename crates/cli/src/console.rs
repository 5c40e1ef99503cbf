//! Where output goes: data to standard output in the chosen format, messages to standard error.

use std::{
    io::{self, IsTerminal, Write as _},
    sync::Arc,
};

use bonafide_identity::time::Clock;
use clap::ValueEnum;
use serde::Serialize;

use crate::{Failure, moment::Moment, page::Page};

/// How data is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Table,
    /// One JSON document.
    Json,
    /// One YAML document.
    Yaml,
}

/// Something that a command answers with.
pub trait View: Serialize {
    /// The form for people.
    fn draw(&self, page: &mut Page);
    /// What `--quiet` prints, one a line: the names that another command would take.
    fn names(&self) -> Vec<String>;
}

impl<V: View> View for &V {
    fn draw(&self, page: &mut Page) {
        (*self).draw(page);
    }

    fn names(&self) -> Vec<String> {
        (*self).names()
    }
}

/// Standard output and standard error, and how to use them.
#[derive(Clone, Debug)]
pub struct Console {
    format: Format,
    quiet: bool,
    coloured: bool,
    clock: Arc<dyn Clock>,
}

impl Console {
    /// Colours only on a terminal, and not if `NO_COLOR` is set to something (no-color.org).
    pub fn new(format: Format, quiet: bool, clock: Arc<dyn Clock>) -> Self {
        let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self { format, quiet, coloured: !no_color && io::stdout().is_terminal(), clock }
    }

    /// The time.
    pub fn now(&self) -> Moment {
        Moment(self.clock.now().as_secs())
    }

    /// The clock.
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    /// Whether messages are unwanted.
    pub fn is_quiet(&self) -> bool {
        self.quiet
    }

    /// The chosen format.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Whether standard output takes colours.
    pub fn is_coloured(&self) -> bool {
        self.coloured
    }

    /// Writes data.
    ///
    /// # Errors
    /// When standard output cannot be written.
    pub fn show<V: View>(&self, view: &V) -> Result<(), Failure> {
        self.write(render(view, self.format, self.quiet, self.coloured, self.now())?.as_bytes())
    }

    /// Writes bytes as they are.
    ///
    /// # Errors
    /// When standard output cannot be written.
    pub fn write(&self, bytes: &[u8]) -> Result<(), Failure> {
        let mut out = io::stdout().lock();
        out.write_all(bytes).and_then(|()| out.flush()).map_err(Failure::Output)
    }

    /// A message for people, unless `--quiet`.
    pub fn note(&self, message: impl AsRef<str>) {
        if !self.quiet {
            // Nothing is left to tell it to if standard error is closed.
            let _ = writeln!(io::stderr().lock(), "{}", message.as_ref());
        }
    }
}

/// Renders a view; pure.
///
/// # Errors
/// When a value has no form in the format.
pub fn render<V: View>(
    view: &V,
    format: Format,
    quiet: bool,
    coloured: bool,
    now: Moment,
) -> Result<String, Failure> {
    let failed = |message: String| Failure::of("output.not-rendered", message, "use another --output");
    match format {
        Format::Json => {
            let text = serde_json::to_string_pretty(view).map_err(|cause| failed(cause.to_string()))?;
            Ok(format!("{text}\n"))
        }
        Format::Yaml => {
            let text = serde_saphyr::to_string(view).map_err(|cause| failed(cause.to_string()))?;
            Ok(if text.ends_with('\n') { text } else { format!("{text}\n") })
        }
        Format::Table if quiet => {
            Ok(view.names().iter().map(|name| format!("{}\n", crate::text::clean(name))).collect())
        }
        Format::Table => {
            let mut page = Page::new(now, coloured);
            view.draw(&mut page);
            Ok(page.into_text())
        }
    }
}
