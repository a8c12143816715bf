//! The problems of a configuration: what is wrong, where, and what to do about it. Owns the form of
//! the messages: one problem is one line `file:line: key: what; fix`.

use std::fmt;
use std::sync::Arc;

/// The number of characters that are shown of what is wrong.
const MAX_WHAT: usize = 300;
/// The longest word for which a similar word is looked for.
const MAX_WORD: usize = 64;

/// Where a value comes from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Origin {
    source: Arc<str>,
    line: Option<usize>,
}

impl Origin {
    /// A line of a file, counted from 1.
    pub fn line(file: &Arc<str>, line: usize) -> Origin {
        Origin { source: file.clone(), line: Some(line) }
    }

    /// An environment variable or an argument, as the user wrote it.
    pub fn named(source: &str) -> Origin {
        Origin { source: source.into(), line: None }
    }

    /// The built-in default: nothing was written.
    pub fn built_in() -> Origin {
        Origin::named("default")
    }

    /// The number of the line, if the origin is a file.
    pub fn line_number(&self) -> Option<usize> {
        self.line
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "{}:{line}", self.source),
            None => write!(f, "{}", self.source),
        }
    }
}

/// One problem.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Problem {
    /// Where it is.
    pub origin: Origin,
    /// The dotted key (`listeners.0.bind`); empty when the problem concerns the whole source.
    pub key: String,
    /// What is wrong.
    pub what: String,
    /// What to do about it.
    pub fix: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.origin)?;
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        write!(f, "{}; {}", self.what, self.fix)
    }
}

/// A problem with a value whose place is not known yet.
///
/// It passes through serde as the message of an error: the first line says what is wrong, and the
/// second one has the fix.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Wrong {
    /// What is wrong.
    pub what: String,
    /// What to do about it. `None` stands for "write what the key accepts".
    pub fix: Option<String>,
}

impl Wrong {
    pub(crate) fn new(what: impl Into<String>, fix: impl Into<String>) -> Wrong {
        Wrong { what: what.into(), fix: Some(fix.into()) }
    }

    /// A problem with a value that the key does not accept.
    pub(crate) fn value(what: impl Into<String>) -> Wrong {
        Wrong { what: what.into(), fix: None }
    }

    /// A problem from the message of a serde error.
    pub(crate) fn said(message: &str) -> Wrong {
        match message.split_once('\n') {
            Some((what, fix)) => Wrong::new(what, fix),
            None => Wrong::value(message),
        }
    }

    /// The problem of a value at this place. `accepted` says in words what the key accepts.
    pub(crate) fn of_value(self, origin: &Origin, key: &str, accepted: &str) -> Problem {
        let fix = self.fix.unwrap_or_else(|| format!("write {accepted}"));
        // What the user wrote may be of any length, and may contain line feeds.
        let mut what = self.what.replace(char::is_control, " ");
        if let Some((end, _)) = what.char_indices().nth(MAX_WHAT) {
            what.truncate(end);
            what.push_str("...");
        }
        Problem { origin: origin.clone(), key: key.to_owned(), what, fix }
    }

    pub(crate) fn at(self, origin: &Origin, key: &str) -> Problem {
        self.of_value(origin, key, "another value")
    }
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The second line is the fix.
        f.write_str(&self.what.replace(char::is_control, " "))?;
        self.fix.as_ref().map_or(Ok(()), |fix| write!(f, "\n{fix}"))
    }
}

/// All problems of a configuration. Never empty.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Problems(pub Vec<Problem>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, problem) in self.0.iter().enumerate() {
            if position > 0 {
                writeln!(f)?;
            }
            write!(f, "{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

/// The word of `known` that the user probably meant by `word`, chosen by edit distance; `None` when
/// no word is close.
pub(crate) fn nearest<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    if word.len() > MAX_WORD {
        return None;
    }
    let word = word.to_lowercase().replace(['-', ' '], "_");
    known
        .map(|candidate| (strsim::osa_distance(&word, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= 1 + candidate.len().min(word.len()) / 3)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}
