//! A YAML document as a tree that remembers where each value was written, and the layering of such
//! trees: file, then environment, then arguments. Owns syntax; knows nothing of keys and their
//! meaning.
//!
//! Scalars stay text: whether `off` is a word, a boolean or a duration is decided by the key that
//! it is given to.

use std::borrow::Cow;
use std::collections::HashMap;
use std::collections::hash_map::Entry::{Occupied, Vacant};
use std::sync::Arc;

use saphyr_parser::{Event, Parser, ScalarStyle, Span};

use super::problem::{Origin, Problem, Wrong};

/// Deepest nesting; the configuration itself needs four levels.
const MAX_DEPTH: usize = 32;
/// Longest list that can be extended by index from the environment or an argument.
const MAX_INDEX: usize = 4096;

/// A value and where it was written.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Node {
    pub origin: Origin,
    pub value: Value,
}

/// What was written.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Value {
    /// Nothing: `key:` with no value, `~` or `null`.
    Nothing,
    /// A word, number or text.
    Scalar { text: String, quoted: bool },
    /// A sequence.
    List(Vec<Node>),
    /// A mapping, in the order written, each key once.
    Map(Vec<Entry>),
}

/// One key of a mapping.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Entry {
    pub key: String,
    pub origin: Origin,
    pub node: Node,
}

impl Node {
    /// A mapping without keys.
    pub(crate) fn empty(origin: Origin) -> Node {
        Node { origin, value: Value::Map(Vec::new()) }
    }

    /// The value of `key`, when this is a mapping that has it.
    pub(crate) fn get(&self, key: &str) -> Option<&Entry> {
        match &self.value {
            Value::Map(entries) => entries.iter().find(|entry| entry.key == key),
            _ => None,
        }
    }

    /// Where the dotted `key`, or the closest part of it that was written, stands.
    pub(crate) fn origin_of(&self, key: &str) -> Origin {
        let mut origin = Origin::built_in();
        let mut node = self;
        for step in key.split('.') {
            let next = match &node.value {
                Value::List(items) => {
                    step.parse::<usize>().ok().and_then(|at| items.get(at)).map(|n| (&n.origin, n))
                }
                _ => node.get(step).map(|entry| (&entry.origin, &entry.node)),
            };
            let Some((found, below)) = next else { break };
            origin = found.clone();
            node = below;
        }
        origin
    }

    /// What kind of value this is, for messages.
    pub(crate) fn kind(&self) -> &'static str {
        match self.value {
            Value::Nothing => "nothing",
            Value::Scalar { .. } => "a plain value",
            Value::List(_) => "a list",
            Value::Map(_) => "a mapping",
        }
    }
}

/// Lays `over` on `base`: mappings merge key by key, everything else is replaced.
pub(crate) fn merge(base: &mut Node, over: Node) {
    match (&mut base.value, over.value) {
        (Value::Map(below), Value::Map(above)) => {
            for entry in above {
                match below.iter_mut().find(|known| known.key == entry.key) {
                    Some(known) => {
                        known.origin = entry.origin;
                        merge(&mut known.node, entry.node);
                    }
                    None => below.push(entry),
                }
            }
        }
        (_, value) => *base = Node { origin: over.origin, value },
    }
}

/// Puts `value` at the dotted `path` of `root`, making the mappings and lists on the way. A list of
/// sections that was not written has one element, all defaults, because that is the default of
/// `listeners`.
///
/// # Errors
/// When the path goes through a plain value or skips list elements.
pub(crate) fn place(root: &mut Node, path: &[&str], value: Node) -> Result<(), Wrong> {
    let Some((step, rest)) = path.split_first() else {
        merge(root, value);
        return Ok(());
    };
    let index = step.parse::<usize>().ok();
    if matches!(root.value, Value::Nothing) {
        root.value = match index {
            Some(_) => Value::List(vec![Node::empty(Origin::built_in())]),
            None => Value::Map(Vec::new()),
        };
    }
    match (&mut root.value, index) {
        (Value::Map(entries), None) => {
            if !entries.iter().any(|entry| entry.key == *step) {
                let origin = value.origin.clone();
                let node = Node { origin: origin.clone(), value: Value::Nothing };
                entries.push(Entry { key: (*step).to_owned(), origin, node });
            }
            let entry = entries.iter_mut().find(|entry| entry.key == *step);
            let entry = entry.expect("it was found or pushed just now");
            if rest.is_empty() {
                entry.origin = value.origin.clone();
            }
            place(&mut entry.node, rest, value)
        }
        (Value::List(items), Some(index)) if index < items.len().min(MAX_INDEX) => {
            place(&mut items[index], rest, value)
        }
        (Value::List(items), Some(index)) if index == items.len() && index < MAX_INDEX => {
            items.push(Node { origin: value.origin.clone(), value: Value::Nothing });
            place(&mut items[index], rest, value)
        }
        (Value::List(items), Some(_)) => Err(Wrong::new(
            format!("element {step} does not follow the {} elements of the list", items.len()),
            format!("use an index of at most {}", items.len()),
        )),
        (Value::List(_), None) => Err(Wrong::new(
            format!("`{step}` is not an index, but the value here is a list"),
            "name the element by its number, counted from 0",
        )),
        (_, _) => Err(Wrong::new(
            format!("there is no `{step}` here, because the value is {}", root.kind()),
            "check the key with `ringmq config reference`",
        )),
    }
}

/// Reads one YAML document. `origin` says where a line of `text` stands; problems other than syntax
/// (a key listed twice) are added to `problems` and reading goes on. An empty document is
/// `Value::Nothing`.
///
/// # Errors
/// The first syntax error, or a YAML feature that a configuration does not need.
pub(crate) fn read(
    text: &str,
    origin: &dyn Fn(usize) -> Origin,
    problems: &mut Vec<Problem>,
) -> Result<Node, Problem> {
    let mut reader = Reader { parser: Parser::new_from_str(text), origin, problems };
    reader.document()
}

/// A file as a tree.
///
/// # Errors
/// As [`read`].
pub(crate) fn read_file(
    name: &str,
    text: &str,
    problems: &mut Vec<Problem>,
) -> Result<Node, Problem> {
    let file: Arc<str> = name.into();
    read(text, &|line| Origin::line(&file, line), problems).map_err(|mut problem| {
        let line = problem.origin.line_number().and_then(|line| line.checked_sub(1));
        let written = line.and_then(|line| text.lines().nth(line)).unwrap_or_default();
        // `bind: [::1]:1883` is the syntax of a list to YAML, and everyone writes it once.
        if let Some((_, address)) =
            written.split_once(": [").filter(|(_, tail)| tail.contains("]:"))
        {
            problem.fix = format!("quote the address: \"[{}\"", address.trim());
        }
        problem
    })
}

struct Reader<'a, 'p> {
    parser: Parser<'a, saphyr_parser::StrInput<'a>>,
    origin: &'p dyn Fn(usize) -> Origin,
    problems: &'p mut Vec<Problem>,
}

impl<'a> Reader<'a, '_> {
    fn document(&mut self) -> Result<Node, Problem> {
        let mut root = Node { origin: (self.origin)(1), value: Value::Nothing };
        let mut documents = 0;
        loop {
            let (event, span) = self.next()?;
            match event {
                Event::StreamEnd => return Ok(root),
                Event::StreamStart | Event::DocumentStart(_) | Event::DocumentEnd => {}
                event => {
                    documents += 1;
                    if documents > 1 {
                        let what = "a second YAML document begins here";
                        return Err(self.wrong(span, what, "keep everything in one document"));
                    }
                    root = self.node(event, span, "", 0)?;
                }
            }
        }
    }

    fn next(&mut self) -> Result<(Event<'a>, Span), Problem> {
        match self.parser.next_event() {
            Some(Ok(event)) => Ok(event),
            Some(Err(error)) => Err(Problem {
                origin: (self.origin)(error.marker().line()),
                key: String::new(),
                what: format!("this is not YAML: {}", error.info()),
                fix: "check indentation, colons and quotes".to_owned(),
            }),
            None => Ok((Event::StreamEnd, Span::default())),
        }
    }

    fn wrong(&self, span: Span, what: &str, fix: &str) -> Problem {
        Wrong::new(what, fix).at(&(self.origin)(span.start.line()), "")
    }

    fn node(
        &mut self,
        event: Event<'a>,
        span: Span,
        key: &str,
        depth: usize,
    ) -> Result<Node, Problem> {
        if depth > MAX_DEPTH {
            return Err(self.wrong(span, "nested too deeply", "no key needs more than 4 levels"));
        }
        let origin = (self.origin)(span.start.line());
        let (anchor, tag) = match &event {
            Event::Scalar(_, _, anchor, tag) => (*anchor, tag.is_some()),
            Event::SequenceStart(anchor, tag) | Event::MappingStart(anchor, tag) => {
                (*anchor, tag.is_some())
            }
            _ => (0, false),
        };
        if anchor != 0 || matches!(event, Event::Alias(_)) {
            let what = "anchors (&) and aliases (*) are not used in this file";
            return Err(self.wrong(span, what, "write the value out, or quote it"));
        }
        if tag {
            let what = "YAML tags (!) are not used in this file";
            return Err(self.wrong(span, what, "remove the tag, or quote the value"));
        }
        let value = match event {
            Event::Scalar(text, style, ..) => scalar(text, style),
            Event::SequenceStart(..) => self.list(key, depth)?,
            Event::MappingStart(..) => self.map(key, depth)?,
            _ => Value::Nothing,
        };
        Ok(Node { origin, value })
    }

    fn list(&mut self, key: &str, depth: usize) -> Result<Value, Problem> {
        let mut items = Vec::new();
        loop {
            let (event, span) = self.next()?;
            if matches!(event, Event::SequenceEnd) {
                return Ok(Value::List(items));
            }
            let below = dotted(key, &items.len().to_string());
            items.push(self.node(event, span, &below, depth + 1)?);
        }
    }

    fn map(&mut self, key: &str, depth: usize) -> Result<Value, Problem> {
        let mut entries: Vec<Entry> = Vec::new();
        let mut places: HashMap<String, usize> = HashMap::new();
        loop {
            let (event, span) = self.next()?;
            let name = match event {
                Event::MappingEnd => return Ok(Value::Map(entries)),
                Event::Scalar(text, ..) => text.into_owned(),
                _ => return Err(self.wrong(span, "this key is not a word", "write `key: value`")),
            };
            let origin = (self.origin)(span.start.line());
            let below = dotted(key, &name);
            let (event, span) = self.next()?;
            let node = self.node(event, span, &below, depth + 1)?;
            match places.entry(name) {
                Occupied(place) => {
                    let first = &entries[*place.get()].origin;
                    let what = format!("this key is already set at {first}");
                    self.problems.push(Wrong::new(what, "keep one of them").at(&origin, &below));
                }
                Vacant(place) => {
                    let key = place.key().clone();
                    place.insert(entries.len());
                    entries.push(Entry { key, origin, node });
                }
            }
        }
    }
}

fn scalar(text: Cow<'_, str>, style: ScalarStyle) -> Value {
    let quoted = !matches!(style, ScalarStyle::Plain);
    if !quoted && matches!(&*text, "" | "~" | "null" | "Null" | "NULL") {
        return Value::Nothing;
    }
    Value::Scalar { text: text.into_owned(), quoted }
}

/// `key` below `prefix`.
pub(crate) fn dotted(prefix: &str, key: &str) -> String {
    match prefix {
        "" => key.to_owned(),
        prefix => format!("{prefix}.{key}"),
    }
}
