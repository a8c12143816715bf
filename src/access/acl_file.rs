//! Parses mosquitto's `acl_file` (mosquitto.conf(5)), with its `user`, `topic` and `pattern` lines,
//! into rules.
//!
//! As in mosquitto, `topic` lines before the first `user` line are about clients without a user
//! name, and those behind a `user` line are about that user. `pattern` lines are about every client
//! and come after the others. A `deny` comes before the other lines of its kind, wherever it
//! stands.
//!
//! Mosquitto lets every client subscribe to everything, and leaves out what a client may not read
//! at delivery. Here a subscription is decided when it is made, unless `access.read_check` says
//! otherwise: `topic read a/#` allows `a/#` and narrower filters, but not `#`.

use super::pattern::{Glob, Notation, TopicPattern};
use super::rule::{ANY_QOS, Condition, Rule, RuleOrigin};
use hashbrown::HashMap;

/// A line that cannot be read: its number, counted from 1, and why.
pub type BadLine = (usize, String);

/// The rules of a file, in the order in which they apply.
///
/// # Errors
/// Every line that cannot be read.
pub fn parse(text: &str, source: u16) -> Result<Vec<Rule>, Vec<BadLine>> {
    let mut file = AclFileReader::default();
    let mut bad = Vec::new();
    for (number, line) in text.lines().enumerate() {
        if let Err(why) = file.line(line, source, number + 1) {
            bad.push((number + 1, why));
        }
    }
    if bad.is_empty() { Ok(file.rules()) } else { Err(bad) }
}

/// Rules of one kind of lines: those that deny, and the others.
#[derive(Default)]
struct RuleLines {
    deny: Vec<Rule>,
    other: Vec<Rule>,
}

#[derive(Default)]
struct AclFileReader {
    /// The user that the next `topic` lines are about; `None` for clients without a user name.
    user: Option<Box<str>>,
    users: HashMap<Option<Box<str>>, RuleLines, foldhash::fast::FixedState>,
    patterns: RuleLines,
}

impl AclFileReader {
    fn line(&mut self, line: &str, source: u16, number: usize) -> Result<(), String> {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            return Ok(());
        }
        let (word, rest) = line.split_once([' ', '\t']).unwrap_or((line, ""));
        let rest = rest.trim();
        match word {
            "user" if rest.is_empty() => Err("`user` without a name".to_owned()),
            "user" => {
                self.user = Some(rest.into());
                Ok(())
            }
            "topic" | "pattern" => {
                let written = RuleOrigin { source, line: number as u32 };
                let pattern = word == "pattern";
                let rule = rule(rest, pattern, self.user.as_deref(), written)?;
                let lines = match pattern {
                    true => &mut self.patterns,
                    false => self.users.entry(self.user.clone()).or_default(),
                };
                let list = if rule.allow { &mut lines.other } else { &mut lines.deny };
                list.push(rule);
                Ok(())
            }
            _ => Err(format!("`{word}` is none of user, topic and pattern")),
        }
    }

    fn rules(self) -> Vec<Rule> {
        let mut users: Vec<RuleLines> = self.users.into_values().collect();
        // Sorted into the order of the file, so that the rules and messages about them are the same
        // each time.
        let line = |rule: &Rule| rule.written.line;
        users.sort_by_key(|lines| lines.deny.iter().chain(&lines.other).map(line).min());
        let all = users.into_iter().chain([self.patterns]);
        all.flat_map(|lines| lines.deny.into_iter().chain(lines.other)).collect()
    }
}

fn rule(
    text: &str,
    pattern: bool,
    user: Option<&str>,
    written: RuleOrigin,
) -> Result<Rule, String> {
    let (access, topic) = match text.split_once([' ', '\t']) {
        Some((access @ ("read" | "write" | "readwrite" | "deny"), topic)) => (access, topic.trim()),
        _ => ("readwrite", text),
    };
    if topic.is_empty() {
        return Err("the line has no topic".to_owned());
    }
    let notation = if pattern { Notation::Percent } else { Notation::Plain };
    let topic = TopicPattern::new(topic, notation).map_err(|no| no.0)?;
    let who = match (pattern, user) {
        (true, _) => Vec::new(),
        // A user name is compared, not matched: a `*` in it stands for itself.
        (false, Some(name)) => vec![Condition::User(vec![Glob::literal(name)])],
        (false, None) => vec![Condition::Anonymous],
    };
    Ok(Rule {
        allow: access != "deny",
        publish: access != "read",
        subscribe: access != "write",
        who,
        qos: ANY_QOS,
        retain: None,
        topics: vec![topic],
        written,
    })
}

#[cfg(test)]
#[path = "acl_file_tests.rs"]
mod tests;
