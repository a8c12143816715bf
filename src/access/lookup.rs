//! Users in Redis or PostgreSQL, with the columns of databases made for EMQX. Owns what an answer
//! of their [`Database`] means.

use super::chain::{Accepted, Proof, Verdict};
use super::claims;
use super::database::{Columns, Database};
use super::digest::Hashing;
use crate::config::{self, Get};
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;

/// A database of users.
#[derive(Debug)]
pub struct Lookup {
    /// The database, which is asked for one row.
    pub database: Arc<Database>,
    hashing: Hashing,
    /// For how long a login is remembered.
    pub remember: Duration,
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
    /// Picks the columns that are known by their names.
    pub fn of(columns: Columns) -> Row {
        let mut row = Row::default();
        for (name, text) in columns {
            let Some(text) = text else { continue };
            match name.as_str() {
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

impl Lookup {
    /// Reads the section of a Redis server.
    ///
    /// # Errors
    /// What its command has that cannot be obeyed.
    pub fn redis(section: &config::Redis, ca: Option<&str>) -> Result<Lookup, String> {
        let database = Database::redis_users(section, ca)?;
        let mut words = section.command.split_whitespace();
        let all = words.next().is_some_and(|name| name.eq_ignore_ascii_case("HGETALL"));
        if !all && !words.skip(1).any(|field| field == "password_hash" || field == "password") {
            return Err("the command asks for no field password_hash or password".to_owned());
        }
        let hashing = Hashing::new(&section.password_hash_algorithm);
        Ok(Lookup { database: Arc::new(database), hashing, remember: section.remember.get() })
    }

    /// Reads the section of a PostgreSQL server.
    ///
    /// # Errors
    /// What its query has that cannot be obeyed.
    pub fn postgres(section: &config::Postgres, ca: Option<&str>) -> Result<Lookup, String> {
        let database = Arc::new(Database::postgres_users(section, ca)?);
        let hashing = Hashing::new(&section.password_hash_algorithm);
        Ok(Lookup { database, hashing, remember: section.remember.get() })
    }

    /// The verdict about a client from the row of its user; `None` when there is no such user.
    /// Takes as long as its hash.
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
            attributes: Box::default(),
        }
    }

    fn columns(all: &[(&str, Option<&str>)]) -> Columns {
        all.iter().map(|(name, text)| ((*name).to_owned(), text.map(str::to_owned))).collect()
    }

    #[test]
    fn a_command_asks_for_a_hash() {
        for (command, good) in [
            ("HMGET x salt", false),
            ("HMGET x password_hash", true),
            ("hgetall x", true),
            ("HGET x password", true),
        ] {
            let section = config::Redis { command: Text::of(command), ..Default::default() };
            assert_eq!(Lookup::redis(&section, None).is_ok(), good, "{command}");
        }
    }

    #[test]
    fn a_row_decides() {
        let lookup = Lookup::redis(&config::Redis::default(), None).expect("the default");
        let hash = "bede90386d450cea8b77b822f8887065e4e5abf132c2f9dccfcc7fbd4cba5e35";
        let row = Row::of(columns(&[
            ("password_hash", Some(hash)),
            ("salt", Some("salt")),
            ("is_superuser", Some("1")),
            ("other", None),
        ]));
        let Verdict::Accept(accepted) = lookup.judge(&proof("ann", "secret"), Some(&row)) else {
            panic!("it is the password");
        };
        assert!(accepted.superuser);
        assert_eq!(word(&lookup.judge(&proof("ann", "x"), Some(&row))), "wrong password");
        assert_eq!(word(&lookup.judge(&proof("ann", "x"), None)), "unknown");
        let empty = Row::of(columns(&[("salt", Some("x"))]));
        assert_eq!(word(&lookup.judge(&proof("ann", ""), Some(&empty))), "unknown");
    }
}
