//! A Redis or PostgreSQL server that is asked about clients. Owns the command or query, and how a
//! client's values are filled into it. The broker talks to the server (`broker/services`). The
//! meaning of answers is in [`super::lookup`] for users and in [`super::stored_rules`] for rules.

use super::chain::{Proof, Verdict};
use super::http::{self, Purpose};
use super::template::Template;
use super::{Deed, Said};
use crate::config::{self, Get, OnFailure};
use std::sync::Arc;
use std::time::Duration;

/// The question to a database.
#[derive(Clone, Debug)]
pub enum DatabaseQuery {
    /// The words of a Redis command.
    Redis(Vec<Template>),
    /// An SQL query and its parameters.
    Postgres(Box<str>, Vec<Template>),
}

/// A database and the question to it.
#[derive(Debug)]
pub struct Database {
    /// Its URL, or the URLs of several nodes of a Redis cluster, separated by commas.
    pub url: Box<str>,
    /// The authorities that its certificate is checked with, in PEM; `None` for those of the host.
    pub ca: Option<Arc<str>>,
    /// The question to it.
    pub ask: DatabaseQuery,
    /// Longest time for an answer, including the wait for a connection.
    pub timeout: Duration,
    /// Most connections to it.
    pub pool: usize,
    /// What happens when it does not answer.
    pub on_failure: OnFailure,
}

/// One row of an answer, or one Redis hash: names and values; `None` stands for null.
pub type Columns = Vec<(String, Option<String>)>;

impl Database {
    /// The URLs of a Redis server, or of the nodes of a cluster.
    pub fn servers(&self) -> impl Iterator<Item = &str> {
        self.url.split(',')
    }

    /// A Redis server that has users.
    ///
    /// # Errors
    /// What its command has that cannot be obeyed.
    pub fn redis_users(section: &config::Redis, ca: Option<&str>) -> Result<Database, String> {
        let purpose = Purpose::Authentication;
        let words = command(&section.command, &["HMGET", "HGET", "HGETALL"], purpose)?;
        let how = (section.timeout.get(), section.pool.get(), section.on_failure);
        Ok(Database::new(redis_url(&section.server), ca, DatabaseQuery::Redis(words), how))
    }

    /// A Redis server that has rules.
    ///
    /// # Errors
    /// What its command has that cannot be obeyed.
    pub fn redis_rules(section: &config::RedisRules, ca: Option<&str>) -> Result<Database, String> {
        let words = command(&section.command, &["HGETALL", "HMGET"], Purpose::Authorization)?;
        let how = (section.timeout.get(), section.pool.get(), section.on_failure);
        Ok(Database::new(redis_url(&section.server), ca, DatabaseQuery::Redis(words), how))
    }

    /// A PostgreSQL server that has users.
    ///
    /// # Errors
    /// What its query has that cannot be obeyed.
    pub fn postgres_users(
        section: &config::Postgres,
        ca: Option<&str>,
    ) -> Result<Database, String> {
        let ask = query(&section.query, Purpose::Authentication)?;
        let how = (section.timeout.get(), section.pool.get(), section.on_failure);
        Ok(Database::new((*section.url).into(), ca, ask, how))
    }

    /// A PostgreSQL server that has rules.
    ///
    /// # Errors
    /// What its query has that cannot be obeyed.
    pub fn postgres_rules(
        section: &config::PostgresRules,
        ca: Option<&str>,
    ) -> Result<Database, String> {
        let ask = query(&section.query, Purpose::Authorization)?;
        let how = (section.timeout.get(), section.pool.get(), section.on_failure);
        Ok(Database::new((*section.url).into(), ca, ask, how))
    }

    fn new(
        url: Box<str>,
        ca: Option<&str>,
        ask: DatabaseQuery,
        (timeout, pool, on_failure): (Duration, u32, OnFailure),
    ) -> Database {
        Database { url, ca: ca.map(Into::into), ask, timeout, pool: pool as usize, on_failure }
    }

    /// The words of the command, or the query's parameters, filled in for a client.
    pub fn filled(&self, proof: &Proof) -> Vec<String> {
        self.fill(|name| http::value(proof, name))
    }

    /// The same, filled in for what a client wants to do.
    pub fn filled_for(&self, proof: &Proof, deed: Deed, topic: &str) -> Vec<String> {
        self.fill(|name| http::value_of_deed(proof, deed, topic, name))
    }

    fn fill(&self, value: impl Fn(&str) -> Option<String>) -> Vec<String> {
        let (DatabaseQuery::Redis(templates) | DatabaseQuery::Postgres(_, templates)) = &self.ask;
        templates.iter().map(|template| template.fill(&value)).collect()
    }

    /// The verdict when there is no answer about who a client is.
    pub fn failed(&self, why: &'static str) -> Verdict {
        match self.on_failure {
            OnFailure::Deny => Verdict::Failed(why),
            OnFailure::Ignore => Verdict::Unknown,
        }
    }

    /// The answer about a deed when the database gives none.
    pub fn silent(&self, why: &'static str) -> Said {
        match self.on_failure {
            OnFailure::Deny => Said::Failed(why),
            OnFailure::Ignore => Said::Nothing,
        }
    }
}

/// Completes the URLs of one or several servers, separated by commas.
fn redis_url(servers: &str) -> Box<str> {
    let url = |server: &str| match server.trim() {
        server if server.contains("://") => server.to_owned(),
        server => format!("redis://{server}"),
    };
    servers.split(',').map(url).collect::<Vec<_>>().join(",").into()
}

/// The words of a Redis command. It has to be one of `known`, which only read a single hash.
fn command(text: &str, known: &[&str], purpose: Purpose) -> Result<Vec<Template>, String> {
    let name = text.split_whitespace().next().unwrap_or_default();
    if !known.iter().any(|known| name.eq_ignore_ascii_case(known)) {
        return Err(format!("`{name}` is none of {}", known.join(", ")));
    }
    if text.split_whitespace().nth(1).is_none() {
        return Err("the command names no key".to_owned());
    }
    let words: Vec<Template> = text.split_whitespace().map(Template::new).collect();
    check(words.iter().flat_map(Template::names), purpose)?;
    Ok(words)
}

fn query(text: &str, purpose: Purpose) -> Result<DatabaseQuery, String> {
    let (query, parameters) = parameters(text);
    check(parameters.iter().flat_map(Template::names), purpose)?;
    Ok(DatabaseQuery::Postgres(query.into(), parameters))
}

fn check<'a>(names: impl Iterator<Item = &'a str>, purpose: Purpose) -> Result<(), String> {
    let mut names = names;
    match names.find(|name| !purpose.knows(name)) {
        None => Ok(()),
        Some(name) => Err(purpose.unknown(name)),
    }
}

/// The query with `$1`, `$2`… in place of its placeholders, and the parameters. What a client sends
/// thus never becomes a part of the query. Quotes around a placeholder are removed.
fn parameters(text: &str) -> (String, Vec<Template>) {
    let (mut query, mut parameters) = (String::new(), Vec::new());
    let mut rest = text;
    while let Some((before, (name, after))) =
        rest.split_once("${").and_then(|(before, rest)| Some((before, rest.split_once('}')?)))
    {
        let quote = ['\'', '"'].into_iter().find(|&q| before.ends_with(q) && after.starts_with(q));
        let (before, after) = match quote {
            Some(quote) => (before.strip_suffix(quote), after.strip_prefix(quote)),
            None => (Some(before), Some(after)),
        };
        query.push_str(before.unwrap_or_default());
        parameters.push(Template::new(&format!("${{{name}}}")));
        query.push_str(&format!("${}", parameters.len()));
        rest = after.unwrap_or_default();
    }
    query.push_str(rest);
    (query, parameters)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Text;
    use crate::ids::Peer;

    fn proof(user: &str) -> Proof {
        Proof {
            client_id: "c1".into(),
            username: Some(user.into()),
            password: Some((*b"pw").into()),
            peer: Peer::Unix,
            listener: "main".into(),
            identity: None,
            attributes: [("site".into(), "7".into())].into(),
        }
    }

    #[test]
    fn what_a_client_sends_stays_one_word() {
        let section = config::Redis { server: Text::of("h:1"), ..Default::default() };
        let database = Database::redis_users(&section, None).expect("the default");
        assert_eq!(&*database.url, "redis://h:1");
        let words = database.filled(&proof("a b\r\nDEL x"));
        let rest = ["password_hash", "salt", "is_superuser"];
        assert_eq!(words[..2], ["HMGET", "mqtt_user:a b\r\nDEL x"]);
        assert_eq!(words[2..], rest);
        for wrong in ["DEL ${username}", "", "HGETALL", "HMGET ${user} password"] {
            let section = config::Redis { command: Text::of(wrong), ..section.clone() };
            assert!(Database::redis_users(&section, None).is_err(), "{wrong}");
        }
    }

    #[test]
    fn rules_are_asked_for_by_client_attribute_and_deed() {
        let command = Text::of("HGETALL acl:${client_attrs.site}:${action}:${topic}:${password}");
        let section = config::RedisRules { command, ..Default::default() };
        let wrong = Database::redis_rules(&section, None).expect_err("there is no password");
        assert!(wrong.contains("${password}"), "{wrong}");
        let command = Text::of("HGETALL acl:${client_attrs.site}:${action}:${topic}:${qos}");
        let section = config::RedisRules { command, ..section };
        let database = Database::redis_rules(&section, None).expect("it can be filled");
        let words = database.filled_for(&proof("ann"), Deed::Subscribe { qos: 1 }, "a/+");
        assert_eq!(words, ["HGETALL", "acl:7:subscribe:a/+:1"]);
    }

    #[test]
    fn placeholders_of_a_query_are_parameters() {
        let (query, templates) = parameters(
            "SELECT a FROM u WHERE n = '${username}' AND c = ${clientid} AND p = \"${peerhost}\"",
        );
        assert_eq!(query, "SELECT a FROM u WHERE n = $1 AND c = $2 AND p = $3");
        assert_eq!(templates.len(), 3);
        let section = config::Postgres { query: Text::of("x ${user}"), ..Default::default() };
        assert!(Database::postgres_users(&section, None).is_err());
    }
}
