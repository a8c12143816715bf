//! Users and rules in Redis: one hash each.

use super::stores::Fault;
use crate::access::database::{Columns, Database};
use redis::aio::MultiplexedConnection;
use redis::{Client, RedisError, TlsCertificates, Value};

/// A connection.
pub(super) struct Link(MultiplexedConnection);

impl Link {
    /// Connects.
    pub(super) async fn open(database: &Database) -> Result<Link, Fault> {
        let url = &*database.url;
        let client = match &database.ca {
            None => Client::open(url),
            Some(ca) => {
                let root_cert = Some(ca.as_bytes().to_vec());
                Client::build_with_tls(url, TlsCertificates { client_tls: None, root_cert })
            }
        };
        let broken = |error: RedisError| Fault::Broken(error.to_string());
        let client = client.map_err(broken)?;
        client.get_multiplexed_async_connection().await.map(Link).map_err(broken)
    }

    /// The fields of a hash: `words` are the command. One row, or none where there is no value.
    pub(super) async fn ask(&mut self, words: &[String]) -> Result<Vec<Columns>, Fault> {
        let mut command = redis::Cmd::new();
        for word in words {
            command.arg(word);
        }
        let answer: Result<Value, RedisError> = command.query_async(&mut self.0).await;
        match answer {
            Ok(value) => Ok(row(words, &value).into_iter().collect()),
            Err(error) if error.is_io_error() || error.is_unrecoverable_error() => {
                Err(Fault::Broken(error.to_string()))
            }
            Err(error) => Err(Fault::Refused(error.to_string())),
        }
    }
}

fn row(words: &[String], value: &Value) -> Option<Columns> {
    let fields = words.get(2..).unwrap_or_default().iter().cloned();
    match value {
        Value::Nil => None,
        // HGETALL has the names in its answer: behind one another, or as a map.
        Value::Array(list) if fields.len() == 0 => {
            Some(named(list.chunks_exact(2).filter_map(|pair| Some((pair.first()?, pair.get(1)?)))))
        }
        Value::Map(pairs) => Some(named(pairs.iter().map(|(name, value)| (name, value)))),
        Value::Array(list) => Some(fields.zip(list.iter().map(text)).collect()),
        single => Some(fields.zip([text(single)]).collect()),
    }
}

/// Columns with their names.
fn named<'a>(pairs: impl Iterator<Item = (&'a Value, &'a Value)>) -> Columns {
    pairs.filter_map(|(name, value)| Some((text(name)?, text(value)))).collect()
}

fn text(value: &Value) -> Option<String> {
    match value {
        Value::BulkString(bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
        Value::SimpleString(text) => Some(text.clone()),
        Value::Int(number) => Some(number.to_string()),
        Value::Boolean(switch) => Some(switch.to_string()),
        _ => None,
    }
}
