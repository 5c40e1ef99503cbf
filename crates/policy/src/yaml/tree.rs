//! YAML as a tree that knows where everything stands. Anchors, aliases and tags are refused: what a file says must be
//! readable where it stands, and nothing may grow beyond it.

use std::collections::BTreeMap;

use granit_parser::{Event, Parser, ScalarStyle, Span, Tag};

use super::fault::{Fault, Spot};

/// Nodes of one source.
const MAX_NODES: usize = 200_000;
/// Collections in collections; resources need five.
const MAX_DEPTH: usize = 16;

/// A value and its place.
#[derive(Clone, Debug)]
pub struct Node {
    /// Where it begins.
    pub spot: Spot,
    /// What it says.
    pub value: Value,
}

/// What YAML can say.
#[derive(Clone, Debug)]
pub enum Value {
    /// One value.
    Text {
        /// Without quotes and escapes.
        text: String,
        /// Written without quotes, so that YAML may mean a number by it.
        plain: bool,
    },
    /// `- item` or `[item]`.
    List(Vec<Node>),
    /// Each name once.
    Map(Vec<(Key, Node)>),
    /// Its fault is told already.
    Broken,
}

/// A field's name.
#[derive(Clone, Debug)]
pub struct Key {
    /// The name.
    pub text: String,
    /// Where it stands.
    pub spot: Spot,
}

/// The documents of a text; those with broken syntax only as faults.
pub fn parse(text: &str, faults: &mut Vec<Fault>) -> Vec<Node> {
    let options = granit_parser::options! {
        emit_comments: false,
        emit_unresolved_aliases: true,
        flow_nesting_limit: MAX_DEPTH,
        block_nesting_limit: MAX_DEPTH,
    };
    let mut parser = Parser::new_from_str_with_options(text, options);
    let mut builder = Builder { faults, stack: Vec::new(), documents: Vec::new(), nodes: 0 };
    loop {
        match parser.next_event() {
            None | Some(Ok((Event::StreamEnd, _))) => break,
            Some(Ok((event, span))) => {
                if builder.nodes >= MAX_NODES {
                    builder.fault(
                        "resource.too-large",
                        spot(&span),
                        "the file has more than 200000 values",
                        "split it, or write a rule in place of many entries",
                    );
                    break;
                }
                builder.take(event, &span);
            }
            Some(Err(error)) => {
                let marker = error.marker();
                let place = Spot { line: marker.line().max(1), column: marker.col() + 1, length: 1 };
                let message = error.info();
                let message = message.lines().next().unwrap_or("this is not YAML");
                builder.fault(
                    "resource.syntax",
                    place,
                    format!("this is not YAML: {message}"),
                    syntax_help(text, place.line),
                );
                builder.stack.clear();
                // The documents after it may have faults of their own to tell.
                if !matches!(parser.proceed_next_document(), Ok(true)) {
                    break;
                }
            }
        }
    }
    builder.documents
}

struct Builder<'a> {
    faults: &'a mut Vec<Fault>,
    stack: Vec<Open>,
    documents: Vec<Node>,
    nodes: usize,
}

/// A collection whose end has not come.
enum Open {
    List(Spot, Vec<Node>),
    Map { spot: Spot, fields: Vec<(Key, Node)>, lines: BTreeMap<String, usize>, key: Option<Key> },
}

impl Builder<'_> {
    fn fault(&mut self, code: &str, spot: Spot, message: impl Into<String>, help: impl Into<String>) {
        self.faults.push(Fault::new(code, spot, message, help));
    }

    fn take(&mut self, event: Event<'_>, span: &Span) {
        let place = spot(span);
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                self.check_properties(place, anchor, tag.as_deref());
                let plain = style == ScalarStyle::Plain;
                self.add(Node { spot: place, value: Value::Text { text: text.into_owned(), plain } });
            }
            Event::SequenceStart(_, anchor, tag) => {
                self.check_properties(place, anchor, tag.as_deref());
                self.stack.push(Open::List(place, Vec::new()));
            }
            Event::MappingStart(_, anchor, tag) => {
                self.check_properties(place, anchor, tag.as_deref());
                let (fields, lines) = (Vec::new(), BTreeMap::new());
                self.stack.push(Open::Map { spot: place, fields, lines, key: None });
            }
            Event::SequenceEnd | Event::MappingEnd => match self.stack.pop() {
                Some(Open::List(spot, items)) => self.add(Node { spot, value: Value::List(items) }),
                Some(Open::Map { spot, fields, .. }) => self.add(Node { spot, value: Value::Map(fields) }),
                None => (),
            },
            Event::Alias(_) | Event::UnresolvedAlias(_) => {
                self.fault(
                    "resource.alias",
                    place,
                    "aliases are not read: what a resource says stands in its own place",
                    "write the value out",
                );
                self.add(Node { spot: place, value: Value::Broken });
            }
            _ => (),
        }
    }

    fn check_properties(&mut self, place: Spot, anchor: usize, tag: Option<&Tag>) {
        if anchor != 0 {
            self.fault(
                "resource.anchor",
                place,
                "anchors are not read: what a resource says stands in its own place",
                "leave the `&name` out, and write the value where it is needed",
            );
        }
        if tag.is_some() {
            self.fault(
                "resource.tag",
                place,
                "tags are not read: a field knows its own type",
                "leave the tag out",
            );
        }
    }

    /// A node that is complete: to the collection that it stands in.
    fn add(&mut self, node: Node) {
        self.nodes += 1;
        match self.stack.last_mut() {
            None => self.documents.push(node),
            Some(Open::List(_, items)) => items.push(node),
            Some(Open::Map { fields, lines, key, .. }) => match key.take() {
                None => match node.value {
                    Value::Text { text, .. } => *key = Some(Key { text, spot: node.spot }),
                    value => {
                        *key = Some(Key { text: String::new(), spot: node.spot });
                        if !matches!(value, Value::Broken) {
                            self.fault(
                                "resource.key",
                                node.spot,
                                "the name of a field must be text",
                                "write `name: value`; text that begins with `{` or `[` needs quotes",
                            );
                        }
                    }
                },
                Some(key) => {
                    if let Some(line) = lines.insert(key.text.clone(), key.spot.line) {
                        let message = format!("`{}` is given twice, first at line {line}", key.text);
                        self.fault("resource.field-twice", key.spot, message, "keep one of the two");
                    } else {
                        fields.push((key, node));
                    }
                }
            },
        }
    }
}

fn spot(span: &Span) -> Spot {
    let same_line = span.start.line() == span.end.line();
    let length = if same_line { span.end.col().saturating_sub(span.start.col()) } else { 1 };
    Spot { line: span.start.line().max(1), column: span.start.col() + 1, length: length.max(1) }
}

fn syntax_help(text: &str, line: usize) -> &'static str {
    let near = text.lines().skip(line.saturating_sub(2)).take(2).collect::<Vec<_>>().join("\n");
    if near.contains('\t') {
        "indent with spaces, not with tabs"
    } else {
        "check the indentation, and quote text with `: `, `#`, `{`, `[` or `*` in it"
    }
}
