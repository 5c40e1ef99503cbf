//! What a program may consist of, looked at before it is run.
//!
//! The interpreter trusts its programs more than we do: it parses nested brackets in exponential time, a recursive
//! function would use up its stack, and single steps such as `numbers.range(1, 1000000000)` take memory before any limit
//! is looked at. So a program may call only what is known to take no more than its input allows.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::program::RegoFault;
use crate::read::MAX_REGO;

/// Rules and functions, counting each definition.
const MAX_RULES: usize = 256;
/// Brackets in brackets.
const MAX_DEPTH: u32 = 12;
/// Steps of the parser, which doubles them at each level of `[` or `{`.
const MAX_PARSE_WORK: u64 = 50_000;

/// Builtins that have no side effect, depend on nothing but their arguments, and whose results are not much larger.
const BUILTINS: &[&str] = &[
    "abs",
    "array.concat",
    "array.reverse",
    "array.slice",
    "ceil",
    "concat",
    "contains",
    "count",
    "endswith",
    "floor",
    "format_int",
    "glob.match",
    "indexof",
    "indexof_n",
    "intersection",
    "is_array",
    "is_boolean",
    "is_null",
    "is_number",
    "is_object",
    "is_set",
    "is_string",
    "lower",
    "max",
    "min",
    "net.cidr_contains",
    "net.cidr_is_valid",
    "object.filter",
    "object.get",
    "object.keys",
    "object.remove",
    "object.subset",
    "object.union",
    "object.union_n",
    "regex.find_n",
    "regex.is_valid",
    "regex.match",
    "regex.replace",
    "regex.split",
    "replace",
    "round",
    "sort",
    "split",
    "sprintf",
    "startswith",
    "strings.any_prefix_match",
    "strings.any_suffix_match",
    "strings.count",
    "strings.replace_n",
    "strings.reverse",
    "substring",
    "sum",
    "to_number",
    "trim",
    "trim_left",
    "trim_prefix",
    "trim_right",
    "trim_space",
    "trim_suffix",
    "type_name",
    "union",
    "upper",
    "walk",
    "bits.and",
    "bits.or",
    "bits.xor",
    "bits.negate",
    "bits.rsh",
    "base64.is_valid",
];

/// Looks at a text before it is parsed.
pub(super) fn check_text(text: &str) -> Result<(), RegoFault> {
    if text.len() > MAX_REGO {
        return Err(RegoFault::TooLarge);
    }
    if text.chars().any(|letter| letter.is_control() && !matches!(letter, '\n' | '\r' | '\t')) {
        return Err(RegoFault::Control);
    }
    let (mut depth, mut work) = (0_u32, 0_u64);
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        match letter {
            '#' => {
                let _ = letters.by_ref().find(|letter| *letter == '\n');
            }
            '`' => {
                let _ = letters.by_ref().find(|letter| *letter == '`');
            }
            '"' => loop {
                match letters.next() {
                    Some('\\') => {
                        let _ = letters.next();
                    }
                    Some('"') | None => break,
                    Some('\n') => return Err(RegoFault::Syntax("a string does not end on its line".into())),
                    Some(_) => {}
                }
            },
            '(' | '[' | '{' => {
                depth += 1;
                work += 1_u64.checked_shl(depth).unwrap_or(u64::MAX / 2);
                if depth > MAX_DEPTH || work > MAX_PARSE_WORK {
                    return Err(RegoFault::TooDeep);
                }
            }
            ')' | ']' | '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    Ok(())
}

/// Looks at the tree of a program: one module.
pub(super) fn check_tree(tree: &Value) -> Result<(), RegoFault> {
    let module = tree.get(0).and_then(|module| module.get("ast")).ok_or(RegoFault::Tree)?;
    for import in list(module, "imports") {
        // Data that is imported under another name could hide what is called.
        let path = import.get("refr").and_then(path).ok_or(RegoFault::Tree)?;
        if !matches!(path.split('.').next(), Some("rego" | "future" | "input")) {
            return Err(RegoFault::Import(path));
        }
    }
    let package =
        module.get("package").and_then(|package| path(package.get("refr")?)).ok_or(RegoFault::Tree)?;
    let rules = list(module, "rules");
    if rules.len() > MAX_RULES {
        return Err(RegoFault::TooManyRules);
    }
    let mut functions: BTreeMap<String, Vec<&Value>> = BTreeMap::new();
    for rule in rules {
        let head = rule.pointer("/Spec/head/Func");
        let default = rule.get("Default").filter(|default| !list(default, "args").is_empty());
        if let Some(head) = head.or(default) {
            let name = head.get("refr").and_then(path).ok_or(RegoFault::Tree)?;
            if name.contains('.') {
                return Err(RegoFault::Function(name));
            }
            functions.entry(name).or_default().push(rule);
        }
    }
    let calls = Calls { prefix: format!("data.{package}."), functions: functions.keys().cloned().collect() };
    let mut graph: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for (name, bodies) in &functions {
        let called = graph.entry(name).or_default();
        for body in bodies {
            calls.check(body, called)?;
        }
    }
    for rule in rules {
        calls.check(rule, &mut BTreeSet::new())?;
    }
    match cycle(&graph) {
        Some(name) => Err(RegoFault::Recursion(name.to_owned())),
        None => Ok(()),
    }
}

struct Calls {
    prefix: String,
    functions: BTreeSet<String>,
}

impl Calls {
    /// Whether everything that is called may be; collects functions of the program itself.
    fn check(&self, tree: &Value, called: &mut BTreeSet<String>) -> Result<(), RegoFault> {
        match tree {
            Value::Array(items) => items.iter().try_for_each(|item| self.check(item, called)),
            Value::Object(fields) => {
                if let Some(call) = fields.get("Call") {
                    self.check_call(call, called)?;
                }
                if fields.get("with_mods").and_then(Value::as_array).is_some_and(|mods| !mods.is_empty()) {
                    return Err(RegoFault::With);
                }
                fields.values().try_for_each(|value| self.check(value, called))
            }
            _ => Ok(()),
        }
    }

    fn check_call(&self, call: &Value, called: &mut BTreeSet<String>) -> Result<(), RegoFault> {
        let name = call.get("fcn").and_then(path).ok_or(RegoFault::Tree)?;
        let own = name.strip_prefix(&self.prefix).unwrap_or(&name);
        if self.functions.contains(own) {
            called.insert(own.to_owned());
            return Ok(());
        }
        if !BUILTINS.contains(&name.as_str()) {
            return Err(RegoFault::Builtin(name));
        }
        if name == "sprintf" {
            // A width can be any number.
            let format = call.pointer("/params/0");
            let text = format.and_then(|format| format.get("String").or_else(|| format.get("RawString")));
            let text = text.and_then(|text| text.get("value")?.as_str()).ok_or(RegoFault::Format)?;
            let mut verbs = text.split('%').skip(1);
            if verbs.any(|verb| {
                verb.starts_with(|first: char| !first.is_ascii_alphabetic() && !first.is_ascii_whitespace())
            }) && !text.contains("%%")
            {
                return Err(RegoFault::Format);
            }
        }
        Ok(())
    }
}

fn list<'a>(tree: &'a Value, name: &str) -> &'a [Value] {
    tree.get(name).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

/// `a.b.c`, if it is no more than that.
fn path(tree: &Value) -> Option<String> {
    if let Some(variable) = tree.get("Var") {
        return variable.get("value")?.as_str().map(str::to_owned);
    }
    let dot = tree.get("RefDot")?;
    let field = dot.get("field")?.get(1)?.as_str()?;
    Some(format!("{}.{field}", path(dot.get("refr")?)?))
}

/// A function that calls itself, directly or not.
fn cycle<'a>(graph: &BTreeMap<&'a str, BTreeSet<String>>) -> Option<&'a str> {
    graph.keys().copied().find(|start| {
        let mut seen: BTreeSet<&str> = BTreeSet::new();
        let mut next: Vec<&str> = vec![start];
        while let Some(name) = next.pop() {
            for called in graph.get(name).into_iter().flatten() {
                if called == start {
                    return true;
                }
                if seen.insert(called) {
                    next.push(called);
                }
            }
        }
        false
    })
}
