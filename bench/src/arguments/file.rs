//! Scenario files: YAML mappings whose keys are the options of a command line, by their names.
//!
//! ```yaml
//! command: pub
//! count: 100
//! topic: bench/%i
//! fail-if: [ack.p99>20ms, unacknowledged>0]
//! ```
//!
//! A file with `parts`, a list of such runs, starts all of them at the same time and merges their
//! results. An option beside `parts` applies to each part, except `json` and `fail-if`, which apply
//! to the merged result.

use super::Outcome;
use clap::{ArgAction, Command};
use saphyr_parser::{Event, Parser};
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

/// Bytes of the longest file.
const LONGEST: u64 = 1 << 20;
/// The most parts of a file, which bounds the processes: each part is one.
const MOST_PARTS: usize = 64;

/// What a scenario file describes.
#[derive(Debug)]
pub struct Script {
    /// The file's path, for messages.
    pub path: PathBuf,
    /// Runs that go on at the same time; exactly one without a list of parts.
    pub parts: Vec<ScenarioRun>,
    /// Where the merged result goes and which conditions make it fail.
    pub outcome: Outcome,
    /// Whether the file has a list of parts, even of one part.
    pub merged: bool,
}

/// One run of a scenario file.
#[derive(Debug)]
pub struct ScenarioRun {
    /// The command.
    pub command: String,
    /// The whole command line, with the program's name first.
    pub words: Vec<OsString>,
    /// Path of this run's own result.
    pub json: Option<PathBuf>,
}

/// `key: value`, or `key: [value, …]`.
#[derive(Clone, Debug)]
struct Entry {
    line: usize,
    key: String,
    values: Vec<String>,
}

/// A mapping, and the mappings under its key `parts`.
#[derive(Debug, Default)]
struct Document {
    entries: Vec<Entry>,
    parts: Option<Vec<Vec<Entry>>>,
}

impl Script {
    /// Reads a file. Each `KEY=VALUE` of `changes` replaces a value of the file; `outcome` is what
    /// the command line asks for beside the file.
    pub fn read(path: &Path, changes: &[String], outcome: Outcome) -> Result<Script, String> {
        let said = |why: String| format!("{}{why}", path.display());
        let length = fs::metadata(path).map_err(|e| said(format!(": {e}")))?.len();
        if length > LONGEST {
            return Err(said(format!(": this has over {LONGEST} bytes")));
        }
        let text = fs::read_to_string(path).map_err(|e| said(format!(": {e}")))?;
        let mut document = Reader::document(&text).map_err(&said)?;
        change(&mut document, changes)?;
        script(path, document, outcome).map_err(said)
    }
}

fn change(document: &mut Document, changes: &[String]) -> Result<(), String> {
    for text in changes {
        let (key, value) = text.split_once('=').ok_or("--set needs KEY=VALUE")?;
        document.entries.retain(|entry| entry.key != key);
        for part in document.parts.iter_mut().flatten() {
            part.retain(|entry| entry.key != key);
        }
        let values = vec![value.to_string()];
        document.entries.push(Entry { line: 0, key: key.to_string(), values });
    }
    Ok(())
}

fn script(path: &Path, document: Document, mut outcome: Outcome) -> Result<Script, String> {
    let all = super::command();
    let Some(parts) = document.parts else {
        let part = part(&all, &document.entries, &outcome)?;
        return Ok(Script { path: path.into(), parts: vec![part], outcome, merged: false });
    };
    let mut shared = Vec::new();
    for entry in document.entries {
        match entry.key.as_str() {
            "json" if outcome.json.is_none() => {
                outcome.json = entry.values.first().map(PathBuf::from);
            }
            "json" => {}
            "fail-if" => {
                for condition in &entry.values {
                    let condition = condition.parse().map_err(|why| at(&entry, why))?;
                    outcome.fail_if.push(condition);
                }
            }
            _ => shared.push(entry),
        }
    }
    if parts.is_empty() || parts.len() > MOST_PARTS {
        return Err(format!(": there are 1 to {MOST_PARTS} parts"));
    }
    let none = Outcome::default();
    let one = |own: Vec<Entry>| {
        let has = |entry: &&Entry| !own.iter().any(|other| other.key == entry.key);
        let mut entries: Vec<Entry> = shared.iter().filter(has).cloned().collect();
        let line = own.first().map_or(0, |entry| entry.line);
        entries.extend(own);
        let part = part(&all, &entries, &none)?;
        match part.command.as_str() {
            "conn" | "pub" | "sub" => Ok(part),
            other => Err(format!(":{line}: a part is conn, pub or sub, not {other}")),
        }
    };
    let parts = parts.into_iter().map(one).collect::<Result<Vec<_>, String>>()?;
    Ok(Script { path: path.into(), parts, outcome, merged: true })
}

fn at(entry: &Entry, why: String) -> String {
    match entry.line {
        0 => format!(": --set {}: {why}", entry.key),
        line => format!(":{line}: {}: {why}", entry.key),
    }
}

fn part(all: &Command, entries: &[Entry], outcome: &Outcome) -> Result<ScenarioRun, String> {
    let command = entries.iter().find(|entry| entry.key == "command");
    let command = command.ok_or(": there is no `command`")?;
    let name = command.values.first().map_or("", String::as_str);
    let runs = |command: &&Command| {
        let name = command.get_name();
        matches!(name, "conn" | "pub" | "sub" | "compare" | "floor")
            || crate::scenario::find(name).is_ok()
    };
    let grammar = all.find_subcommand(name).filter(runs);
    let grammar = grammar.ok_or_else(|| {
        at(command, format!("{name:?} is not conn, pub, sub, compare, floor or a scenario"))
    })?;
    let mut words: Vec<OsString> = vec!["ringmq-bench".into(), name.into()];
    let mut json = None;
    for entry in entries.iter().filter(|entry| entry.key != "command") {
        if entry.key == "json" {
            json = entry.values.first().map(PathBuf::from);
        }
        words.extend(option(grammar, entry)?.into_iter().map(OsString::from));
    }
    if let Some(path) = &outcome.json {
        words.push(format!("--json={}", path.display()).into());
        json = Some(path.clone());
    }
    words.extend(outcome.fail_if.iter().map(|one| format!("--fail-if={one}").into()));
    // Only checks the words: a mistake in any part is found before the first part starts.
    let checked = all.clone().try_get_matches_from(&words);
    checked.map_err(|error| format!(": {error}"))?;
    Ok(ScenarioRun { command: name.to_string(), words, json })
}

/// The words of the command line for one option.
fn option(grammar: &Command, entry: &Entry) -> Result<Vec<String>, String> {
    let key = entry.key.as_str();
    let named = |arg: &&clap::Arg| {
        let long = arg.get_long().unwrap_or(arg.get_id().as_str());
        let others = arg.get_all_aliases().unwrap_or_default();
        long == key || others.contains(&key)
    };
    let Some(arg) = grammar.get_arguments().find(named).filter(|_| key != "help") else {
        let known = grammar.get_arguments().filter_map(clap::Arg::get_long);
        let near = known
            .max_by(|a, b| strsim::jaro_winkler(a, key).total_cmp(&strsim::jaro_winkler(b, key)));
        let near = near.filter(|near| strsim::jaro_winkler(near, key) > 0.7);
        let near = near.map(|near| format!("; is it {near}?")).unwrap_or_default();
        return Err(at(entry, format!("{} has no such option{near}", grammar.get_name())));
    };
    if arg.is_positional() {
        return Ok(entry.values.clone());
    }
    if !matches!(arg.get_action(), ArgAction::SetTrue) {
        return Ok(entry.values.iter().map(|value| format!("--{key}={value}")).collect());
    }
    match entry.values.first().map(String::as_str) {
        Some("true") => Ok(vec![format!("--{key}")]),
        Some("false") => Ok(Vec::new()),
        _ => Err(at(entry, "true or false is needed".into())),
    }
}

/// Reads the part of YAML that a scenario file needs: no anchors, no tags, no deeper levels.
struct Reader<'a> {
    parser: Parser<'a, saphyr_parser::StrInput<'a>>,
}

impl<'a> Reader<'a> {
    fn document(text: &'a str) -> Result<Document, String> {
        let mut reader = Reader { parser: Parser::new_from_str(text) };
        let mut document = None;
        loop {
            match reader.next()? {
                (Event::StreamEnd, _) => break,
                (Event::MappingStart(0, None), _) if document.is_none() => {
                    document = Some(reader.top()?);
                }
                (Event::StreamStart | Event::DocumentStart(_) | Event::DocumentEnd, _) => {}
                (_, line) => return Err(format!(":{line}: one mapping, `key: value`, is needed")),
            }
        }
        document.ok_or_else(|| ": this file is empty".into())
    }

    fn next(&mut self) -> Result<(Event<'a>, usize), String> {
        match self.parser.next_event() {
            Some(Ok((event, span))) => Ok((event, span.start.line())),
            Some(Err(error)) => {
                let (line, why) = (error.marker().line(), error.info());
                Err(format!(":{line}: this is not YAML: {why}"))
            }
            None => Ok((Event::StreamEnd, 0)),
        }
    }

    fn top(&mut self) -> Result<Document, String> {
        let mut document = Document::default();
        while let Some((key, line)) = self.key(&document.entries)? {
            if key != "parts" {
                let values = self.values(&key, line)?;
                document.entries.push(Entry { line, key, values });
                continue;
            }
            if document.parts.is_some() {
                return Err(format!(":{line}: parts: this is there twice"));
            }
            document.parts = Some(self.parts(line)?);
        }
        Ok(document)
    }

    fn parts(&mut self, line: usize) -> Result<Vec<Vec<Entry>>, String> {
        let wrong = |line| format!(":{line}: parts: a list of mappings is needed");
        if !matches!(self.next()?.0, Event::SequenceStart(0, None)) {
            return Err(wrong(line));
        }
        let mut parts = Vec::new();
        loop {
            match self.next()? {
                (Event::SequenceEnd, _) => return Ok(parts),
                (Event::MappingStart(0, None), _) => parts.push(self.entries()?),
                (_, line) => return Err(wrong(line)),
            }
        }
    }

    fn entries(&mut self) -> Result<Vec<Entry>, String> {
        let mut entries = Vec::new();
        while let Some((key, line)) = self.key(&entries)? {
            let values = self.values(&key, line)?;
            entries.push(Entry { line, key, values });
        }
        Ok(entries)
    }

    /// The next key of a mapping; fails when `entries` has that key already.
    fn key(&mut self, entries: &[Entry]) -> Result<Option<(String, usize)>, String> {
        match self.next()? {
            (Event::MappingEnd, _) => Ok(None),
            (Event::Scalar(key, _, 0, None), line) => {
                match entries.iter().find(|entry| entry.key == key) {
                    Some(first) => {
                        Err(format!(":{line}: {key}: this is already in line {}", first.line))
                    }
                    None => Ok(Some((key.into_owned(), line))),
                }
            }
            (_, line) => Err(format!(":{line}: a key is a word")),
        }
    }

    fn values(&mut self, key: &str, line: usize) -> Result<Vec<String>, String> {
        let wrong = |line| format!(":{line}: {key}: a value or a list of values is needed");
        match self.next()? {
            (Event::Scalar(text, _, 0, None), _) => Ok(vec![text.into_owned()]),
            (Event::SequenceStart(0, None), _) => {
                let mut values = Vec::new();
                loop {
                    match self.next()? {
                        (Event::SequenceEnd, _) if !values.is_empty() => return Ok(values),
                        (Event::Scalar(text, _, 0, None), _) => values.push(text.into_owned()),
                        (_, line) => return Err(wrong(line)),
                    }
                }
            }
            _ => Err(wrong(line)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, changes: &[&str]) -> Result<Script, String> {
        let mut document = Reader::document(text)?;
        let changes: Vec<String> = changes.iter().map(ToString::to_string).collect();
        change(&mut document, &changes)?;
        script(Path::new("f.yaml"), document, Outcome::default())
    }

    fn words(part: &ScenarioRun) -> String {
        let words: Vec<_> = part.words.iter().map(|word| word.to_string_lossy()).collect();
        words.join(" ")
    }

    #[test]
    fn a_file_is_a_command_line() {
        let text = "# a comment\ncommand: pub\ncount: 7\ntopic: [a/%i, 'b/%i']\nretain: true\n\
                    fail-if:\n  - ack.p99>20ms\n";
        let script = read(text, &["count=9"]).unwrap();
        assert!(!script.merged);
        let want = "ringmq-bench pub --topic=a/%i --topic=b/%i --retain=true \
                    --fail-if=ack.p99>20ms --count=9";
        assert_eq!(words(&script.parts[0]), want);
        let script =
            read("command: compare\nquick: true\nbroker: 'x=a {port}'\n", &[]).unwrap_err();
        assert!(script.contains("broker: compare has no such option"), "{script}");
        let script = read("command: idle\nbroker: 'x=a {port}'\nno-build: false\n", &[]).unwrap();
        assert_eq!(words(&script.parts[0]), "ringmq-bench idle x=a {port}");
    }

    #[test]
    fn parts_share_what_stands_beside_them() {
        let text = "host: 10.0.0.1\nfail-if: lost>0\njson: out.json\nparts:\n  - command: sub\n    \
                    topic: a\n  - {command: pub, topic: a, host: 10.0.0.2}\n";
        let script = read(text, &[]).unwrap();
        assert!(script.merged && script.outcome.fail_if.len() == 1);
        assert_eq!(script.outcome.json.as_deref(), Some(Path::new("out.json")));
        assert_eq!(words(&script.parts[0]), "ringmq-bench sub --host=10.0.0.1 --topic=a");
        assert_eq!(words(&script.parts[1]), "ringmq-bench pub --topic=a --host=10.0.0.2");
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        for (text, want) in [
            ("", "empty"),
            ("- a\n", ":1: one mapping"),
            ("count: 1\n", "no `command`"),
            ("command: publish\n", ":1: command: \"publish\" is not"),
            ("command: echo-server\n", "is not conn"),
            ("command: run\n", "is not conn"),
            ("command: pub\ntopc: a\n", ":2: topc: pub has no such option; is it topic?"),
            ("command: pub\nhelp: a\n", ":2: help: pub has no such option"),
            ("command: pub\ntopic: a\ncount: 0\n", "--count"),
            ("command: pub\ntopic: a\ntopic: b\n", ":3: topic: this is already in line 2"),
            ("command: pub\ntopic: {a: b}\n", ":2: topic: a value"),
            ("command: pub\ntopic: []\n", "topic: a value"),
            ("command: pub\ntopic: &a b\n", "topic: a value"),
            ("command: pub\ntopic: 'a\n", "not YAML"),
            ("command: million\ndrop: close\n", ""),
            ("parts: 1\n", "parts: a list"),
            ("parts: []\n", "1 to 64 parts"),
            ("parts: [{command: fanin}]\n", ":1: a part is conn, pub or sub, not fanin"),
            ("parts: [{command: pub, topic: a}]\nfail-if: p99\n", ":2: fail-if: a condition"),
        ] {
            match read(text, &[]) {
                Err(error) => assert!(error.contains(want), "{text:?}: {error}"),
                Ok(_) => assert_eq!(want, "", "{text:?}"),
            }
        }
        let error = read("command: pub\ntopic: a\n", &["cuont=1"]).unwrap_err();
        assert!(error.contains("--set cuont: pub has no such option; is it count?"), "{error}");
        let deep = format!("a: {}", "[".repeat(100_000));
        assert!(read(&deep, &[]).is_err());
    }
}
