//! Makes [`Access`] from the configuration and the files that it names.

use super::acl_file;
use super::chain::Method;
use super::http::{HttpAuthService, Purpose};
use super::jwt::Jwt;
use super::lookup::Lookup;
use super::password::PasswordFile;
use super::rule::{RuleOrigin, RuleSet};
use super::scram::ScramFile;
use super::stored_rules::StoredRules;
use super::yaml_rules::compile;
use super::{Access, RuleService, RuleServiceKind, RuleSource};
use crate::config::{self, Config, Get, NoMatch, ReadCheck};
use std::io::{self, Read};
use std::sync::Arc;

/// Largest file that is read, bytes.
const MAX_FILE: u64 = 64 << 20;
/// Decisions that a shard remembers by default.
const CACHE: u32 = 16_384;
/// Logins that a shard remembers by default.
const LOGINS: u32 = 65_536;
/// Most problems of one file that are reported.
const MAX_TOLD: usize = 50;

/// Reads the file at a path.
pub type ReadFile<'a> = &'a dyn Fn(&str) -> io::Result<String>;

/// Reads a text file of this host, if it is not too large.
///
/// # Errors
/// Errors of reading, also when it is not UTF-8, or when it is larger than 64 MiB.
pub fn read_file(path: &str) -> io::Result<String> {
    let mut text = String::new();
    std::fs::File::open(path)?.take(MAX_FILE + 1).read_to_string(&mut text)?;
    if text.len() as u64 > MAX_FILE {
        return Err(io::Error::other("the file has more than 64 MiB"));
    }
    Ok(text)
}

/// Makes the [`Access`] that the configuration describes.
///
/// # Errors
/// All problems: `file:line: what` for those in a file.
pub fn load(config: &Config, read: ReadFile<'_>) -> Result<Access, Vec<String>> {
    let access = &config.access;
    let mut loader = Loader { read, problems: Vec::new() };
    let mut methods = Vec::new();
    for (position, method) in access.authentication.iter().enumerate() {
        methods.extend(loader.method(position, method));
    }
    let (mut sources, mut rules) = (Vec::new(), RuleSet::default());
    for (position, source) in access.authorization.iter().enumerate() {
        if source.asks() {
            if let Some(service) = loader.rule_service(position, source) {
                push(&mut sources, std::mem::take(&mut rules));
                sources.push(RuleSource::Service(service));
            }
            continue;
        }
        loader.rules(position, source, &mut rules);
    }
    push(&mut sources, rules);
    if !loader.problems.is_empty() {
        return Err(loader.problems);
    }
    let entries = access.cache.entries.get().unwrap_or(CACHE) as usize;
    let authorizes = !access.authorization.is_empty();
    Ok(Access {
        methods,
        sources,
        authorizes,
        no_match_allows: access.no_match == NoMatch::Allow,
        on_deny: access.on_deny,
        at_delivery: access.read_check == ReadCheck::Delivery,
        on_user_changed: access.on_user_changed,
        cache_entries: entries,
        cache_ttl: access.cache.ttl.get().as_secs() as u32,
        cache_logins: access.cache.logins.get().unwrap_or(LOGINS) as usize,
    })
}

fn push(sources: &mut Vec<RuleSource>, mut rules: RuleSet) {
    if !rules.is_empty() {
        rules.file();
        sources.push(RuleSource::Rules(rules));
    }
}

struct Loader<'a> {
    read: ReadFile<'a>,
    problems: Vec<String>,
}

impl Loader<'_> {
    fn method(&mut self, position: usize, method: &config::Authentication) -> Option<Method> {
        let key = format!("access.authentication.{position}");
        if let Some(certificate) = &*method.certificate {
            return Some(Method::Certificate(certificate.username));
        }
        if let Some(file) = &*method.password_file {
            let text = self.text(&format!("{key}.password_file.path"), &file.path)?;
            let parsed = PasswordFile::parse(&text);
            let parsed = self.lines(&file.path, parsed);
            return parsed.map(|it| Method::PasswordFile(it.remembering(file.remember.get())));
        }
        if let Some(section) = &*method.http {
            let service = self.service(&format!("{key}.http"), section, Purpose::Authentication);
            return service.map(Method::Http);
        }
        if let Some(section) = &*method.redis {
            let key = format!("{key}.redis");
            let ca = self.authorities(&key, &section.ca)?;
            let lookup = Lookup::redis(section, ca.as_deref());
            return self.lookup(&format!("{key}.command"), lookup).map(Method::Redis);
        }
        if let Some(section) = &*method.postgres {
            let key = format!("{key}.postgres");
            let ca = self.authorities(&key, &section.ca)?;
            let lookup = Lookup::postgres(section, ca.as_deref());
            return self.lookup(&format!("{key}.query"), lookup).map(Method::Postgres);
        }
        if let Some(section) = &*method.jwt {
            let key = format!("{key}.jwt");
            let path = &section.public_key;
            let pem = match &**path {
                "" => None,
                path => Some(self.text(&format!("{key}.public_key"), path)?),
            };
            let ca = self.authorities(&key, &section.ca)?;
            return match Jwt::new(section, pem.as_deref(), ca.as_deref()) {
                Ok(jwt) => Some(Method::Jwt(Box::new(jwt))),
                Err(why) => {
                    self.problems.push(format!("{key}.public_key: {path}: {why}"));
                    None
                }
            };
        }
        let file = method.scram.as_ref()?; // one of them is there: the configuration was checked
        let text = self.text(&format!("{key}.scram.path"), &file.path)?;
        let parsed = ScramFile::parse(&text);
        self.lines(&file.path, parsed).map(Method::Scram)
    }

    /// The text of the file of authorities; `Some(None)` when none is named, `None` when it cannot
    /// be read.
    fn authorities(&mut self, key: &str, path: &str) -> Option<Option<String>> {
        if path.is_empty() { Some(None) } else { self.text(&format!("{key}.ca"), path).map(Some) }
    }

    fn service(
        &mut self,
        key: &str,
        section: &config::Http,
        purpose: Purpose,
    ) -> Option<Arc<HttpAuthService>> {
        let ca = self.authorities(key, &section.ca)?;
        match HttpAuthService::new(section, ca.as_deref(), purpose) {
            Ok(service) => Some(Arc::new(service)),
            Err(why) => {
                self.problems.push(format!("{key}: {why}"));
                None
            }
        }
    }

    /// A source of rules that is a service.
    fn rule_service(
        &mut self,
        position: usize,
        source: &config::Authorization,
    ) -> Option<RuleService> {
        let key = format!("access.authorization.{position}");
        let (key, kind) = if let Some(section) = &*source.redis {
            let key = format!("{key}.redis");
            let ca = self.authorities(&key, &section.ca)?;
            let rules = StoredRules::redis(section, ca.as_deref());
            let rules = self.lookup(&format!("{key}.command"), rules)?;
            (key, RuleServiceKind::Stored(rules))
        } else if let Some(section) = &*source.postgres {
            let key = format!("{key}.postgres");
            let ca = self.authorities(&key, &section.ca)?;
            let rules = StoredRules::postgres(section, ca.as_deref());
            let rules = self.lookup(&format!("{key}.query"), rules)?;
            (key, RuleServiceKind::Stored(rules))
        } else {
            let key = format!("{key}.http");
            let section = source.http.as_ref()?; // one of them is there
            let service = self.service(&key, section, Purpose::Authorization)?;
            (key, RuleServiceKind::Http(service))
        };
        Some(RuleService { key: key.into(), kind })
    }

    fn lookup<T>(&mut self, key: &str, lookup: Result<T, String>) -> Option<Arc<T>> {
        match lookup {
            Ok(lookup) => Some(Arc::new(lookup)),
            Err(why) => {
                self.problems.push(format!("{key}: {why}"));
                None
            }
        }
    }

    fn rules(&mut self, position: usize, source: &config::Authorization, set: &mut RuleSet) {
        let key = format!("access.authorization.{position}");
        if let Some(file) = &*source.acl_file {
            let Some(text) = self.text(&format!("{key}.acl_file.path"), &file.path) else { return };
            let number = set.add_source(&file.path);
            let parsed = acl_file::parse(&text, number);
            let rules = self.lines(&file.path, parsed);
            rules.into_iter().flatten().for_each(|rule| set.push(rule));
        }
        let Some(rules) = &*source.rules else { return };
        if rules.path.is_empty() {
            let number = set.add_source(&format!("{key}.rules.list"));
            let lines = rules.list.iter().enumerate().map(|(at, rule)| (at as u32 + 1, rule));
            self.compile(&format!("{key}.rules.list"), number, lines, set);
            return;
        }
        let key = format!("{key}.rules.path");
        let Some(text) = self.text(&key, &rules.path) else { return };
        match config::rules_file(&rules.path, text) {
            Ok(read) => {
                let number = set.add_source(&rules.path);
                let lines = read.iter().map(|(line, rule)| (*line as u32, rule));
                self.compile(&rules.path, number, lines, set);
            }
            Err(problems) => self.tell(problems.0.iter().map(ToString::to_string)),
        }
    }

    fn compile<'r>(
        &mut self,
        name: &str,
        source: u16,
        lines: impl Iterator<Item = (u32, &'r config::AccessRule)>,
        set: &mut RuleSet,
    ) {
        for (line, rule) in lines {
            match compile(rule, RuleOrigin { source, line }) {
                Ok(rule) => set.push(rule),
                Err(why) if self.problems.len() < MAX_TOLD => {
                    self.problems.push(format!("{name}:{line}: {why}"));
                }
                Err(_) => {}
            }
        }
    }

    fn text(&mut self, key: &str, path: &str) -> Option<String> {
        match (self.read)(path) {
            Ok(text) => Some(text),
            Err(error) => {
                self.problems.push(format!("{key}: cannot read {path}: {error}"));
                None
            }
        }
    }

    fn lines<T>(&mut self, path: &str, parsed: Result<T, Vec<(usize, String)>>) -> Option<T> {
        match parsed {
            Ok(parsed) => Some(parsed),
            Err(lines) => {
                self.tell(lines.into_iter().map(|(line, why)| format!("{path}:{line}: {why}")));
                None
            }
        }
    }

    fn tell(&mut self, problems: impl Iterator<Item = String>) {
        let mut problems = problems;
        self.problems.extend(problems.by_ref().take(MAX_TOLD));
        let more = problems.count();
        if more > 0 {
            self.problems.push(format!("and {more} more"));
        }
    }
}
