//! Users and rules in Redis: one hash each. A server may be a node of a cluster: then the node that
//! has the key is asked, wherever that is.

use super::redis_nodes::{SlotMap, slot, url_at};
use super::stores::DatabaseFault;
use crate::access::database::{Columns, Database};
use redis::aio::MultiplexedConnection;
use redis::{
    Client, Cmd, ErrorKind, Pipeline, RedisError, ServerErrorKind, TlsCertificates, Value,
};
use std::collections::HashMap;
use std::time::Duration;

/// Nodes that one question is sent on to.
const HOPS: usize = 8;
/// Nodes that there are connections to.
const NODES: usize = 256;

/// A connection; with a cluster, one to each node that was asked.
pub(super) struct RedisConnection {
    /// The URL of the node that is asked when it is not known which one has a key.
    home: String,
    /// By URL.
    nodes: HashMap<String, MultiplexedConnection>,
    slots: SlotMap,
    /// How long making a connection may take.
    patience: Duration,
}

/// Where a question goes next.
struct Stop {
    url: String,
    /// The key is being moved to that node.
    asking: bool,
}

impl RedisConnection {
    /// Connects, to the first of the servers that can be reached.
    pub(super) async fn open(database: &Database) -> Result<RedisConnection, DatabaseFault> {
        let servers: Vec<&str> = database.servers().collect();
        // So that each has its turn in the time of one question.
        let patience = database.timeout / (servers.len() as u32 + 1);
        let mut last = DatabaseFault::Broken("there is no server".to_owned());
        for url in servers {
            match connect(database, url, patience).await {
                Ok(connection) => {
                    let nodes = HashMap::from([(url.to_owned(), connection)]);
                    let slots = SlotMap::default();
                    return Ok(RedisConnection { home: url.to_owned(), nodes, slots, patience });
                }
                Err(fault) => last = fault,
            }
        }
        Err(last)
    }

    /// The fields of a hash: `words` are the command. One row, or none where there is no value.
    pub(super) async fn ask(
        &mut self,
        database: &Database,
        words: &[String],
    ) -> Result<Vec<Columns>, DatabaseFault> {
        let slot = slot(words.get(1).map(String::as_bytes).unwrap_or_default());
        let mut command = Cmd::new();
        for word in words {
            command.arg(word);
        }
        let url = self.slots.node(slot).unwrap_or(&self.home).to_owned();
        let mut stop = Stop { url, asking: false };
        for _ in 0..HOPS {
            let answer = match self.node(database, &stop.url).await {
                Ok(node) => answer(node, &command, stop.asking).await,
                Err(fault) => {
                    stop = self.lose(&stop.url, fault)?;
                    continue;
                }
            };
            stop = match answer {
                Ok(value) => return Ok(row(words, &value).into_iter().collect()),
                Err(error) => self.next(slot, &stop.url, &error)?,
            };
        }
        Err(DatabaseFault::Refused("the nodes of the cluster name each other for a key".to_owned()))
    }

    /// Where a question goes that the node has not answered.
    fn next(&mut self, slot: u16, url: &str, error: &RedisError) -> Result<Stop, DatabaseFault> {
        let named = error.redirect_node().and_then(|(address, _)| url_at(url, address));
        match (error.kind(), named) {
            (ErrorKind::Server(ServerErrorKind::Moved), Some(url)) => {
                self.slots.moved(slot, &url);
                Ok(Stop { url, asking: false })
            }
            (ErrorKind::Server(ServerErrorKind::Ask), Some(url)) => Ok(Stop { url, asking: true }),
            _ if error.is_io_error() || error.is_unrecoverable_error() => {
                self.lose(url, DatabaseFault::Broken(error.to_string()))
            }
            _ => Err(DatabaseFault::Refused(error.to_string())),
        }
    }

    /// The connection to a node, which is made when there is none.
    async fn node(
        &mut self,
        database: &Database,
        url: &str,
    ) -> Result<&mut MultiplexedConnection, DatabaseFault> {
        if !self.nodes.contains_key(url) {
            if self.nodes.len() >= NODES {
                let home = &self.home;
                self.nodes.retain(|known, _| known == home);
            }
            let connection = connect(database, url, self.patience).await?;
            self.nodes.insert(url.to_owned(), connection);
        }
        self.nodes
            .get_mut(url)
            .ok_or_else(|| DatabaseFault::Broken("there is no connection".to_owned()))
    }

    /// A node cannot be reached: the home node knows which one has its keys by now. When it is the
    /// home node itself, all begins anew.
    fn lose(&mut self, url: &str, fault: DatabaseFault) -> Result<Stop, DatabaseFault> {
        self.nodes.remove(url);
        self.slots.lost(url);
        match url == self.home {
            true => Err(fault),
            false => Ok(Stop { url: self.home.clone(), asking: false }),
        }
    }
}

async fn answer(
    node: &mut MultiplexedConnection,
    command: &Cmd,
    asking: bool,
) -> Result<Value, RedisError> {
    if !asking {
        return command.query_async(node).await;
    }
    let mut both = Pipeline::new();
    both.cmd("ASKING").ignore().add_command(command.clone());
    both.query_async::<(Value,)>(node).await.map(|(value,)| value)
}

async fn connect(
    database: &Database,
    url: &str,
    patience: Duration,
) -> Result<MultiplexedConnection, DatabaseFault> {
    let client = match &database.ca {
        None => Client::open(url),
        Some(ca) => {
            let root_cert = Some(ca.as_bytes().to_vec());
            Client::build_with_tls(url, TlsCertificates { client_tls: None, root_cert })
        }
    };
    let broken = |error: RedisError| DatabaseFault::Broken(error.to_string());
    let client = client.map_err(broken)?;
    match tokio::time::timeout(patience, client.get_multiplexed_async_connection()).await {
        Ok(connection) => connection.map_err(broken),
        Err(_) => Err(DatabaseFault::Broken("the server lets nobody connect in time".to_owned())),
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
