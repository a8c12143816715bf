//! Patterns: user names with `*`, and topic filters with placeholders such as `${client_id}`. Owns
//! how patterns are parsed and matched; what they are matched with is an argument.

use super::Who;

/// A pattern in which `*` stands for any text, also an empty one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Glob {
    pub(super) text: Box<str>,
    /// True when a `*` in the text stands for itself.
    pub(super) literal: bool,
}

impl Glob {
    /// A pattern in which each `*` stands for any text.
    pub fn new(text: &str) -> Glob {
        Glob { text: text.into(), literal: !text.contains('*') }
    }

    /// A pattern that matches only this text, whatever is in it.
    pub fn literal(text: &str) -> Glob {
        Glob { text: text.into(), literal: true }
    }

    /// The text of a pattern that matches only itself.
    pub fn exact(&self) -> Option<&str> {
        self.literal.then_some(&*self.text)
    }

    /// Whether the pattern matches. Takes time linear in both texts: it never goes back in `text`.
    pub fn matches(&self, text: &str) -> bool {
        let parts = self.text.split_once('*').filter(|_| !self.literal);
        let Some((head, rest)) = parts else { return *self.text == *text };
        let Some(mut text) = text.strip_prefix(head) else { return false };
        let (middle, tail) = rest.rsplit_once('*').unwrap_or(("", rest));
        for part in middle.split('*').filter(|part| !part.is_empty()) {
            match text.find(part) {
                Some(at) => text = text.get(at + part.len()..).unwrap_or_default(),
                None => return false,
            }
        }
        text.ends_with(tail)
    }
}

/// A part of a level with placeholders.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Piece {
    Text(Box<str>),
    ClientId,
    Username,
    Attribute(Box<str>),
}

impl Piece {
    /// The text that the part stands for. `None` when the client has no such value, or one that is
    /// empty or contains `/`, `+` or `#`, which would change the topic's structure or could be
    /// mistaken for another client's.
    fn value<'a>(&'a self, who: &'a Who<'_>) -> Option<&'a str> {
        let value = match self {
            Piece::Text(text) => return Some(text),
            Piece::ClientId => who.client_id,
            Piece::Username => who.grant.username.as_deref()?,
            Piece::Attribute(name) => {
                let named = |(known, _): &&(Box<str>, Box<str>)| known == name;
                &who.grant.attributes.iter().find(named)?.1
            }
        };
        (!value.is_empty() && !value.contains(['/', '+', '#'])).then_some(value)
    }
}

/// One level of a pattern.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum PatternLevel {
    Text(Box<str>),
    Plus,
    Hash,
    Pieces(Box<[Piece]>),
}

impl PatternLevel {
    /// Whether the level is `text`, once placeholders are filled in.
    fn is(&self, text: &str, who: &Who<'_>) -> bool {
        match self {
            PatternLevel::Text(own) => **own == *text,
            PatternLevel::Pieces(pieces) => {
                let mut rest = Some(text);
                for piece in pieces {
                    rest =
                        rest.zip(piece.value(who)).and_then(|(rest, own)| rest.strip_prefix(own));
                }
                rest == Some("")
            }
            PatternLevel::Plus | PatternLevel::Hash => false,
        }
    }
}

/// How placeholders are written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Notation {
    /// `${client_id}`, `${username}`, `${attribute.NAME}`; EMQX's `${clientid}`,
    /// `${client_attrs.NAME}` too.
    Braces,
    /// Mosquitto's `%c` and `%u`.
    Percent,
    /// No placeholders.
    Plain,
}

/// A topic filter with placeholders.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TopicPattern {
    pub(super) levels: Box<[PatternLevel]>,
    /// True when the pattern means only the filter itself, not what it matches.
    pub(super) literal: bool,
}

/// A level of a pattern, as far as it is known without a client. [`super::topic_rules`] files rules
/// by these.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PatternStep<'a> {
    /// This text.
    Text(&'a str),
    /// Any single level: a `+`, or a level with placeholders.
    Any,
    /// Any number of levels, also none.
    Rest,
}

/// Why a text is not a pattern.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NoPattern(pub String);

impl TopicPattern {
    /// Parses a pattern. In front of the filter, `eq ` means the filter itself.
    ///
    /// # Errors
    /// When it is not a topic filter, or has an unknown placeholder.
    pub fn new(text: &str, notation: Notation) -> Result<TopicPattern, NoPattern> {
        let literal = notation != Notation::Percent && text.starts_with("eq ");
        let text = if literal { text.get(3..).unwrap_or_default().trim_start() } else { text };
        if !crate::topic::valid_filter(text) {
            return Err(NoPattern(format!("`{text}` is no topic filter")));
        }
        let level = |text: &str| match text {
            "+" => Ok(PatternLevel::Plus),
            "#" => Ok(PatternLevel::Hash),
            text => pieces(text, notation).map(|pieces| match &*pieces {
                [] => PatternLevel::Text("".into()),
                [Piece::Text(text)] => PatternLevel::Text(text.clone()),
                _ => PatternLevel::Pieces(pieces),
            }),
        };
        let levels: Result<Box<[PatternLevel]>, NoPattern> = text.split('/').map(level).collect();
        Ok(TopicPattern { levels: levels?, literal })
    }

    /// The levels of the pattern.
    pub fn steps(&self) -> impl Iterator<Item = PatternStep<'_>> {
        self.levels.iter().map(|level| match level {
            PatternLevel::Text(text) => PatternStep::Text(text),
            PatternLevel::Plus | PatternLevel::Pieces(_) => PatternStep::Any,
            PatternLevel::Hash => PatternStep::Rest,
        })
    }

    /// Approximate bytes of memory.
    pub fn size(&self) -> usize {
        let level = |level: &PatternLevel| match level {
            PatternLevel::Text(text) => text.len(),
            PatternLevel::Pieces(pieces) => pieces.len() * size_of::<Piece>(),
            PatternLevel::Plus | PatternLevel::Hash => 0,
        };
        self.levels.len() * size_of::<PatternLevel>() + self.levels.iter().map(level).sum::<usize>()
    }

    /// Whether it matches a topic name (MQTT 5.0 section 4.7).
    pub fn matches(&self, name: &str, who: &Who<'_>) -> bool {
        // A topic name is a filter without wildcards, which matches itself alone.
        self.covers(name, who)
    }

    /// Whether the pattern matches everything that `filter` matches. If so, a client that may have
    /// the pattern may also have the filter.
    pub fn covers(&self, filter: &str, who: &Who<'_>) -> bool {
        if self.literal {
            return self.is_filter(filter, who);
        }
        if self.starts_wild() && filter.starts_with('$') {
            return false;
        }
        let mut parts = filter.split('/');
        let mut levels = self.levels.iter();
        loop {
            match (levels.next(), parts.next()) {
                (Some(PatternLevel::Hash), _) => return true,
                (None, None) => return true,
                (None, Some(_)) | (Some(_), None) => return false,
                // `#` also matches its parent level, which for `/#` is the empty name, and no topic
                // has that [MQTT-4.7.3-1].
                (Some(PatternLevel::Plus), Some("#")) if filter == "/#" => {
                    return levels.next() == Some(&PatternLevel::Hash);
                }
                (Some(_), Some("#")) => return false,
                (Some(PatternLevel::Plus), Some(_)) => {}
                (Some(level), Some(part)) => {
                    if part == "+" || !level.is(part, who) {
                        return false;
                    }
                }
            }
        }
    }

    /// Whether there can be a topic name that both the pattern and `filter` match.
    pub fn overlaps(&self, filter: &str, who: &Who<'_>) -> bool {
        if self.literal {
            return self.is_filter(filter, who);
        }
        let theirs_wild = filter.starts_with(['+', '#']);
        if self.starts_wild() && filter.starts_with('$') || theirs_wild && self.starts_dollar(who) {
            return false;
        }
        let mut parts = filter.split('/');
        let mut levels = self.levels.iter();
        loop {
            match (levels.next(), parts.next()) {
                (Some(PatternLevel::Hash), _) | (_, Some("#")) => return true,
                (None, None) => return true,
                (None, Some(_)) | (Some(_), None) => return false,
                (Some(PatternLevel::Plus), Some(_)) | (Some(_), Some("+")) => {}
                (Some(level), Some(part)) => {
                    if !level.is(part, who) {
                        return false;
                    }
                }
            }
        }
    }

    fn starts_wild(&self) -> bool {
        matches!(self.levels.first(), Some(PatternLevel::Plus | PatternLevel::Hash))
    }

    fn starts_dollar(&self, who: &Who<'_>) -> bool {
        match self.levels.first() {
            Some(PatternLevel::Text(text)) => text.starts_with('$'),
            Some(PatternLevel::Pieces(pieces)) => {
                let first = pieces.first().and_then(|piece| piece.value(who));
                first.is_some_and(|text| text.starts_with('$'))
            }
            _ => false,
        }
    }

    fn is_filter(&self, filter: &str, who: &Who<'_>) -> bool {
        let mut parts = filter.split('/');
        let same = self.levels.iter().all(|level| match (level, parts.next()) {
            (PatternLevel::Plus, part) => part == Some("+"),
            (PatternLevel::Hash, part) => part == Some("#"),
            (level, Some(part)) => level.is(part, who),
            (_, None) => false,
        });
        same && parts.next().is_none()
    }
}

fn pieces(text: &str, notation: Notation) -> Result<Box<[Piece]>, NoPattern> {
    let mut pieces = Vec::new();
    let mut rest = text;
    let marker = match notation {
        Notation::Braces => "${",
        Notation::Percent => "%",
        Notation::Plain => "\0",
    };
    while let Some((before, after)) = rest.split_once(marker) {
        let (piece, after) = match notation {
            Notation::Percent => match after.chars().next() {
                Some('c') => (Piece::ClientId, after.get(1..).unwrap_or_default()),
                Some('u') => (Piece::Username, after.get(1..).unwrap_or_default()),
                _ => (Piece::Text("%".into()), after),
            },
            _ => {
                let Some((name, after)) = after.split_once('}') else {
                    return Err(NoPattern(format!("`{text}` has a ${{ without }}")));
                };
                (placeholder(name)?, after)
            }
        };
        if !before.is_empty() {
            pieces.push(Piece::Text(before.into()));
        }
        pieces.push(piece);
        rest = after;
    }
    if !rest.is_empty() {
        pieces.push(Piece::Text(rest.into()));
    }
    // Neighbouring texts are merged, so that a level without placeholders is a plain text.
    let texts = pieces.iter().all(|piece| matches!(piece, Piece::Text(_)));
    if texts && pieces.len() > 1 {
        return Ok([Piece::Text(text.into())].into());
    }
    Ok(pieces.into())
}

fn placeholder(name: &str) -> Result<Piece, NoPattern> {
    let attribute = name.strip_prefix("attribute.").or_else(|| name.strip_prefix("client_attrs."));
    match (name, attribute) {
        ("client_id" | "clientid", _) => Ok(Piece::ClientId),
        ("username", _) => Ok(Piece::Username),
        (_, Some(name)) if !name.is_empty() => Ok(Piece::Attribute(name.into())),
        _ => Err(NoPattern(format!("there is no placeholder ${{{name}}}"))),
    }
}

#[cfg(test)]
#[path = "pattern_tests.rs"]
mod tests;
