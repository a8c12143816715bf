//! The outline of a YAML document: the kind and the line of each node, in order. Refuses what is
//! not YAML, what a configuration does not need (anchors, tags, more than one document) and what is
//! nested too deeply, before any value is read.

use saphyr_parser::{Event, Parser, ScalarStyle, Span};

use super::problem::Wrong;

/// The deepest nesting that is read. The configuration itself needs four levels.
pub(super) const MAX_DEPTH: usize = 16;
/// The longest key in bytes. It is bounded because messages name keys in full.
const MAX_KEY: usize = 256;

/// A node of the document. A key of a mapping is a node, too, and precedes its value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct OutlineNode {
    pub kind: NodeKind,
    /// The line where the node begins, counted from 1.
    pub line: usize,
}

/// The kind of a node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum NodeKind {
    /// A word or number without quotes.
    Plain,
    /// Text in quotes, or a block of text.
    Quoted,
    /// A sequence; its elements follow.
    List,
    /// A mapping; its keys and values follow, in turn.
    Map,
}

/// Why a document is refused: the line, counted from 1, and the problem.
pub(super) type OutlineRefusal = (usize, Wrong);

/// The nodes of `text` in order; none for an empty document.
///
/// # Errors
/// The first part that is not YAML, or that a configuration does not need.
pub(super) fn outline(text: &str) -> Result<Vec<OutlineNode>, OutlineRefusal> {
    let mut outline = Outline { nodes: Vec::new(), open: Vec::new() };
    for event in Parser::new_from_str(text) {
        match event {
            Ok((event, span)) => outline.event(&event, span)?,
            Err(error) => {
                let what = format!("this is not YAML: {}", error.info());
                let wrong = Wrong::new(what, "check indentation, colons and quotes");
                return Err((error.marker().line(), wrong));
            }
        }
    }
    Ok(outline.nodes)
}

struct Outline {
    nodes: Vec<OutlineNode>,
    /// The collections around the next node, the outermost first.
    open: Vec<NodeRole>,
}

/// The role of the next node of a collection.
#[derive(Clone, Copy, PartialEq, Eq)]
enum NodeRole {
    Element,
    Key,
    Value,
}

impl Outline {
    fn event(&mut self, event: &Event<'_>, span: Span) -> Result<(), OutlineRefusal> {
        let line = span.start.line();
        let refuse = |what: &str, fix: &str| Err((line, Wrong::new(what, fix)));
        let (kind, anchor, tagged) = match event {
            Event::SequenceEnd | Event::MappingEnd => {
                self.open.pop();
                return Ok(());
            }
            Event::Scalar(text, ..)
                if text.len() > MAX_KEY && self.open.last() == Some(&NodeRole::Key) =>
            {
                return refuse("this key is too long", "no key has more than 64 letters");
            }
            Event::Scalar(_, ScalarStyle::Plain, anchor, tag) => {
                (NodeKind::Plain, *anchor, tag.is_some())
            }
            Event::Scalar(_, _, anchor, tag) => (NodeKind::Quoted, *anchor, tag.is_some()),
            Event::SequenceStart(anchor, tag) => (NodeKind::List, *anchor, tag.is_some()),
            Event::MappingStart(anchor, tag) => (NodeKind::Map, *anchor, tag.is_some()),
            Event::Alias(anchor) => (NodeKind::Plain, (*anchor).max(1), false),
            _ => return Ok(()),
        };
        if self.open.is_empty() && !self.nodes.is_empty() {
            return refuse("a second YAML document begins here", "keep everything in one document");
        }
        if anchor != 0 {
            let what = "anchors (&) and aliases (*) are not used in this file";
            return refuse(what, "write the value out, or quote it");
        }
        if tagged {
            let what = "YAML tags (!) are not used in this file";
            return refuse(what, "remove the tag, or quote the value");
        }
        if self.open.len() > MAX_DEPTH {
            return refuse("nested too deeply", "no key needs more than 4 levels");
        }
        let scalar = matches!(kind, NodeKind::Plain | NodeKind::Quoted);
        match self.open.last_mut() {
            Some(NodeRole::Key) if !scalar => {
                return refuse("this key is not a word", "write `key: value`");
            }
            Some(open @ NodeRole::Key) => *open = NodeRole::Value,
            Some(open @ NodeRole::Value) => *open = NodeRole::Key,
            Some(NodeRole::Element) | None => {}
        }
        self.nodes.push(OutlineNode { kind, line });
        match kind {
            NodeKind::List => self.open.push(NodeRole::Element),
            NodeKind::Map => self.open.push(NodeRole::Key),
            NodeKind::Plain | NodeKind::Quoted => {}
        }
        Ok(())
    }
}
