//! Users that are looked up where they already are: in Redis or PostgreSQL, with the columns that
//! EMQX's users have. What is asked, and what an answer means; asking is the broker's
//! (`broker/services`).

use super::chain::{Accepted, Proof, Verdict};
use super::claims;
use super::digest::Hashing;
use super::http::{PLACEHOLDERS, known, value};
use super::template::Template;
use crate::config::{self, Get, OnFailure};
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;

/// What is asked of a store.
#[derive(Clone, Debug)]
pub enum Ask {
    /// A Redis command: its words.
    Redis(Vec<Template>),
    /// An SQL query whose parameters are these.
    Postgres(Box<str>, Vec<Template>),
}

/// A store of users.
#[derive(Debug)]
pub struct Lookup {
    /// Where it is: an URL.
    pub url: Box<str>,
    /// Authorities of its certificate in PEM; `None`: those of the host.
    pub ca: Option<Arc<str>>,
    /// What it is asked.
    pub ask: Ask,
    /// Longest time for an answer, waiting for a connection included.
    pub timeout: Duration,
    /// Connections.
    pub pool: usize,
    hashing: Hashing,
    on_failure: OnFailure,
}

/// The columns of a user.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Row {
    /// `password_hash`, or `password`.
    pub hash: Option<String>,
    /// `salt`.
    pub salt: String,
    /// `is_superuser`.
    pub superuser: bool,
}

impl Row {
    /// Of named columns; `None` stands for null.
    pub fn of<'a>(columns: impl IntoIterator<Item = (&'a str, Option<String>)>) -> Row {
        let mut row = Row::default();
        for (name, text) in columns {
            let Some(text) = text else { continue };
            match name {
                "password_hash" | "password" => row.hash = Some(text),
                "salt" => row.salt = text,
                "is_superuser" => {
                    row.superuser = text == "t" || claims::is_true(Some(&Value::String(text)));
                }
                _ => {}
            }
        }
        row
    }
}

/// Commands that only read one hash.
const COMMANDS: [&str; 3] = ["HMGET", "HGET", "HGETALL"];

impl Lookup {
    /// A Redis server, from its section.
    ///
    /// # Errors
    /// What its command has that cannot be obeyed.
    pub fn redis(section: &config::Redis, ca: Option<&str>) -> Result<Lookup, String> {
        let words: Vec<Template> = section.command.split_whitespace().map(Template::new).collect();
        let name = section.command.split_whitespace().next().unwrap_or_default();
        if !COMMANDS.iter().any(|known| name.eq_ignore_ascii_case(known)) {
            return Err(format!("`{name}` is none of HMGET, HGET and HGETALL"));
        }
        let fields = section.command.split_whitespace().skip(2);
        let all = name.eq_ignore_ascii_case("HGETALL");
        if !all && !fields.into_iter().any(|field| field == "password_hash" || field == "password")
        {
            return Err("the command asks for no field password_hash or password".to_owned());
        }
        check(words.iter().flat_map(Template::names))?;
        let server = &*section.server;
        let url =
            if server.contains("://") { server.to_owned() } else { format!("redis://{server}") };
        Ok(Lookup {
            url: url.into(),
            ca: ca.map(Into::into),
            ask: Ask::Redis(words),
            timeout: section.timeout.get(),
            pool: section.pool.get() as usize,
            hashing: Hashing::new(&section.password_hash_algorithm),
            on_failure: section.on_failure,
        })
    }

    /// A PostgreSQL server, from its section.
    ///
    /// # Errors
    /// What its query has that cannot be obeyed.
    pub fn postgres(section: &config::Postgres, ca: Option<&str>) -> Result<Lookup, String> {
        let (query, parameters) = parameters(&section.query);
        check(parameters.iter().flat_map(Template::names))?;
        Ok(Lookup {
            url: (*section.url).into(),
            ca: ca.map(Into::into),
            ask: Ask::Postgres(query.into(), parameters),
            timeout: section.timeout.get(),
            pool: section.pool.get() as usize,
            hashing: Hashing::new(&section.password_hash_algorithm),
            on_failure: section.on_failure,
        })
    }

    /// The words of the command, or the query's parameters, for a client.
    pub fn filled(&self, proof: &Proof) -> Vec<String> {
        let (Ask::Redis(templates) | Ask::Postgres(_, templates)) = &self.ask;
        templates.iter().map(|template| template.fill(|name| value(proof, name))).collect()
    }

    /// What the store's answer means for a client; `None`: it has no such user. Takes as long as
    /// the hash does.
    pub fn judge(&self, proof: &Proof, row: Option<&Row>) -> Verdict {
        let Some((row, hash)) = row.and_then(|row| Some((row, row.hash.as_ref()?))) else {
            return Verdict::Unknown;
        };
        let password = proof.password.as_deref().unwrap_or_default();
        if !self.hashing.is_of(hash, &row.salt, password) {
            return Verdict::Refuse("wrong password");
        }
        Verdict::Accept(Box::new(Accepted { superuser: row.superuser, ..Accepted::default() }))
    }

    /// There is no answer.
    pub fn failed(&self, why: &'static str) -> Verdict {
        match self.on_failure {
            OnFailure::Deny => Verdict::Failed(why),
            OnFailure::Ignore => Verdict::Unknown,
        }
    }
}

fn check<'a>(names: impl Iterator<Item = &'a str>) -> Result<(), String> {
    let mut names = names;
    match names.find(|name| !PLACEHOLDERS.contains(&known(name))) {
        None => Ok(()),
        Some(name) => {
            let there = PLACEHOLDERS.join(", ");
            Err(format!("there is no placeholder ${{{name}}}; there are {there}"))
        }
    }
}

/// A query with `$1`, `$2`… in place of its placeholders, and these: what a client sends never
/// becomes a part of the query. Quotes around a placeholder go with it.
fn parameters(text: &str) -> (String, Vec<Template>) {
    let (mut query, mut parameters) = (String::new(), Vec::new());
    let mut rest = text;
    while let Some((before, (name, after))) =
        rest.split_once("${").and_then(|(before, rest)| Some((before, rest.split_once('}')?)))
    {
        let quoted = before.ends_with('\'') && after.starts_with('\'');
        let (before, after) = match quoted {
            true => (before.strip_suffix('\''), after.strip_prefix('\'')),
            false => (Some(before), Some(after)),
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
    use crate::access::chain::word;
    use crate::config::Text;
    use crate::ids::Peer;

    fn proof(user: &str, password: &str) -> Proof {
        Proof {
            client_id: "c1".into(),
            username: Some(user.into()),
            password: Some(password.as_bytes().into()),
            peer: Peer::Unix,
            listener: "main".into(),
            identity: None,
        }
    }

    #[test]
    fn what_a_client_sends_stays_one_word() {
        let section = config::Redis { server: Text::of("h:1"), ..Default::default() };
        let lookup = Lookup::redis(&section, None).expect("the default");
        assert_eq!(&*lookup.url, "redis://h:1");
        let words = lookup.filled(&proof("a b\r\nDEL x", ""));
        let rest = ["password_hash", "salt", "is_superuser"];
        assert_eq!(words[..2], ["HMGET", "mqtt_user:a b\r\nDEL x"]);
        assert_eq!(words[2..], rest);
        for wrong in ["DEL ${username}", "", "HMGET ${user} password", "HMGET x salt"] {
            let section = config::Redis { command: Text::of(wrong), ..section.clone() };
            assert!(Lookup::redis(&section, None).is_err(), "{wrong}");
        }
    }

    #[test]
    fn placeholders_of_a_query_are_parameters() {
        let (query, templates) =
            parameters("SELECT a FROM u WHERE n = '${username}' AND c = ${clientid} LIMIT 1");
        assert_eq!(query, "SELECT a FROM u WHERE n = $1 AND c = $2 LIMIT 1");
        let section = config::Postgres { query: Text::of("x ${user}"), ..Default::default() };
        assert!(Lookup::postgres(&section, None).is_err());
        assert_eq!(templates.len(), 2);
    }

    #[test]
    fn a_row_decides() {
        let lookup = Lookup::redis(&config::Redis::default(), None).expect("the default");
        let hash = "bede90386d450cea8b77b822f8887065e4e5abf132c2f9dccfcc7fbd4cba5e35";
        let row = Row::of([
            ("password_hash", Some(hash.to_owned())),
            ("salt", Some("salt".to_owned())),
            ("is_superuser", Some("1".to_owned())),
            ("other", None),
        ]);
        let Verdict::Accept(accepted) = lookup.judge(&proof("ann", "secret"), Some(&row)) else {
            panic!("it is the password");
        };
        assert!(accepted.superuser);
        assert_eq!(word(&lookup.judge(&proof("ann", "x"), Some(&row))), "wrong password");
        assert_eq!(word(&lookup.judge(&proof("ann", "x"), None)), "unknown");
        let empty = Row::of([("salt", Some("x".to_owned()))]);
        assert_eq!(word(&lookup.judge(&proof("ann", ""), Some(&empty))), "unknown");
    }
}
