//! Tells the demo: numbered scenes, each with what was observed.

use serde::Serialize;

use crate::{
    Console, Failure, Format,
    console::View,
    page::{Mark, Page},
    text::clean,
};

/// What was observed, scene by scene.
#[derive(Debug)]
pub(super) struct Narrator<'a> {
    console: &'a Console,
    scenes: Vec<Scene>,
}

/// A numbered scene.
#[derive(Debug, Serialize)]
struct Scene {
    title: String,
    observations: Vec<Observation>,
}

#[derive(Debug, Serialize)]
struct Observation {
    state: Mark,
    text: String,
}

impl<'a> Narrator<'a> {
    /// Nothing told yet.
    pub(super) fn new(console: &'a Console) -> Self {
        Self { console, scenes: Vec::new() }
    }

    /// Begins a scene.
    ///
    /// # Errors
    /// When standard output cannot be written.
    pub(super) fn scene(&mut self, title: &str) -> Result<(), Failure> {
        self.scenes.push(Scene { title: title.to_owned(), observations: Vec::new() });
        let number = self.scenes.len();
        self.live(|page| {
            if number > 1 {
                page.line("");
            }
            page.line(&format!("{number}. {title}"));
        })
    }

    /// Something was seen that is as it should be.
    ///
    /// # Errors
    /// When standard output cannot be written.
    pub(super) fn saw(&mut self, text: impl Into<String>) -> Result<(), Failure> {
        self.observe(Mark::Ok, text.into())
    }

    /// Something is as it should be, or the demo has failed.
    ///
    /// # Errors
    /// When it is not as it should be.
    pub(super) fn check(&mut self, holds: bool, text: impl Into<String>) -> Result<(), Failure> {
        let text = text.into();
        if holds { self.saw(text) } else { Err(super::stage::observation_failed(format!("not so: {text}"))) }
    }

    /// Shows a view, indented, as part of the scene.
    ///
    /// # Errors
    /// When standard output cannot be written.
    pub(super) fn quote<V: View>(&mut self, view: &V) -> Result<(), Failure> {
        if self.is_silent() {
            return Ok(());
        }
        let text = crate::render(view, Format::Table, false, self.console.is_coloured(), self.console.now())?;
        let indented: String =
            text.lines().map(|line| format!("     {line}").trim_end().to_owned() + "\n").collect();
        self.console.write(indented.as_bytes())
    }

    /// Shows text, indented, as part of the scene.
    ///
    /// # Errors
    /// When standard output cannot be written.
    pub(super) fn quote_text(&mut self, text: &str) -> Result<(), Failure> {
        if self.is_silent() {
            return Ok(());
        }
        let indented: String = text.lines().map(|line| format!("     {line}\n")).collect();
        self.console.write(indented.as_bytes())
    }

    /// The end: how many observations there were, or the one that failed.
    ///
    /// # Errors
    /// When standard output cannot be written.
    pub(super) fn end(&mut self, result: &Result<(), Failure>) -> Result<(), Failure> {
        if let Err(failure) = result {
            self.observe(Mark::Failed, failure.to_string())?;
        }
        let count: usize = self.scenes.iter().map(|scene| scene.observations.len()).sum();
        if result.is_ok() {
            self.live(|page| {
                page.line("");
                page.line(&format!("The story holds: {count} observations, none of them failed."));
            })?;
        }
        if self.console.format() == Format::Table { Ok(()) } else { self.console.show(&Report(&self.scenes)) }
    }

    fn observe(&mut self, state: Mark, text: String) -> Result<(), Failure> {
        let coloured = self.console.is_coloured();
        let line = text.clone();
        if let Some(scene) = self.scenes.last_mut() {
            scene.observations.push(Observation { state, text });
        }
        if self.is_silent() {
            return Ok(());
        }
        let (sign, colour) = if state == Mark::Ok { ("✓", "32") } else { ("✗", "31") };
        let sign = if coloured { format!("\u{1b}[{colour}m{sign}\u{1b}[0m") } else { sign.to_owned() };
        self.console.write(format!("   {sign} {}\n", clean(&line)).as_bytes())
    }

    fn is_silent(&self) -> bool {
        self.console.is_quiet() || self.console.format() != Format::Table
    }

    fn live(&self, draw: impl FnOnce(&mut Page)) -> Result<(), Failure> {
        if self.is_silent() {
            return Ok(());
        }
        let mut page = Page::new(self.console.now(), self.console.is_coloured());
        draw(&mut page);
        self.console.write(page.into_text().as_bytes())
    }
}

#[derive(Serialize)]
#[serde(transparent)]
struct Report<'a>(&'a [Scene]);

impl View for Report<'_> {
    fn draw(&self, page: &mut Page) {
        for scene in self.0 {
            page.line(&scene.title);
        }
    }

    fn names(&self) -> Vec<String> {
        Vec::new()
    }
}
