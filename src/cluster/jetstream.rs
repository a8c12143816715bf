//! What the engine keeps ([`super::keeping`]), in NATS JetStream: the journals are the subjects of
//! one stream, and the keys are those of one KV bucket. Each request is a task on the cluster's
//! thread, and is given up after [`PATIENCE`].
//!
//! The stream and the bucket are made when the first request needs them. If they are there already,
//! they are used as they are, so an operator may make them with other limits.
#![allow(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "tasks on the cluster's own thread"
)]

use super::keeping::{KeepAsker, KeepReply, KeepRequest, KeptAt};
use crate::config::{ClusterConfig, Get};
use async_nats::Client;
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, pull};
use async_nats::jetstream::context::{Context, PublishErrorKind};
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::stream::{
    Config, DiscardPolicy, LastRawMessageErrorKind, StorageType, Stream,
};
use async_nats::jetstream::{self, kv};
use futures_lite::StreamExt;
use std::fmt::Display;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

/// The longest time for a request.
const PATIENCE: Duration = Duration::from_secs(10);
/// The longest time for one exchange with the servers.
const EXCHANGE: Duration = Duration::from_secs(4);
/// Entries, and bytes of them, that are read at a time.
const ENTRIES: usize = 2048;
const BYTES: usize = 4 << 20;
/// How long the servers keep what they need for reading when nobody reads on.
const READER: Duration = Duration::from_secs(20);

/// The answers, in the order in which they come. There are no more than requests, of which each
/// shard has one, and the adoption another.
pub type Replies = UnboundedReceiver<(KeepAsker, KeepReply)>;

/// The names of what the servers keep.
struct KeptStreams {
    context: Context,
    /// The stream of the journals, and what their subjects begin with.
    stream: String,
    subject: String,
    bucket: String,
    replicas: usize,
    /// Whether the stream and the bucket are known to be there.
    is_made: AtomicBool,
    /// The trouble that was logged last.
    trouble: Mutex<String>,
}

/// Puts requests to the servers.
pub struct StreamKeeper {
    kept: Arc<KeptStreams>,
    replies: UnboundedSender<(KeepAsker, KeepReply)>,
}

impl StreamKeeper {
    /// For this cluster.
    pub fn new(client: &Client, config: &ClusterConfig) -> (StreamKeeper, Replies) {
        let name = &*config.name;
        let mut context = jetstream::new(client.clone());
        context.set_timeout(EXCHANGE);
        let kept = KeptStreams {
            context,
            stream: format!("ringmq-{name}"),
            subject: format!("ringmq.{name}.journal"),
            bucket: format!("ringmq-{name}"),
            replicas: usize::from(config.replicas.get()),
            is_made: AtomicBool::new(false),
            trouble: Mutex::default(),
        };
        let (replies, receiver) = unbounded_channel();
        (StreamKeeper { kept: Arc::new(kept), replies }, receiver)
    }

    /// Puts a request.
    pub fn ask(&self, asker: KeepAsker, place: KeptAt, request: KeepRequest) {
        let (kept, replies) = (Arc::clone(&self.kept), self.replies.clone());
        tokio::spawn(async move {
            let done = tokio::time::timeout(PATIENCE, kept.obey(&place, request)).await;
            let reply = match done {
                Ok(Ok(reply)) => {
                    kept.complain("");
                    reply
                }
                Ok(Err(why)) => {
                    kept.complain(&why);
                    KeepReply::Failed
                }
                Err(_) => KeepReply::Failed,
            };
            // At the end of the broker nobody waits.
            let _ = replies.send((asker, reply));
        });
    }
}

fn text(error: impl Display) -> String {
    error.to_string()
}

impl KeptStreams {
    async fn obey(&self, place: &KeptAt, request: KeepRequest) -> Result<KeepReply, String> {
        self.make().await?;
        let subject = match place {
            KeptAt::Journal(node, shard) => format!("{}.{node}.{shard}", self.subject),
            KeptAt::Key(key) => format!("$KV.{}.{key}", self.bucket),
        };
        match request {
            KeepRequest::Last => self.last(place, &subject).await,
            KeepRequest::Store(behind, entry) => self.store(subject, behind, entry).await,
            KeepRequest::Read(from) => self.read(place, subject, from).await,
            KeepRequest::Trim(before) => {
                let stream = self.stream(place).await?;
                stream.purge().filter(subject).sequence(before).await.map_err(text)?;
                Ok(KeepReply::Trimmed)
            }
        }
    }

    /// Makes what is not there.
    async fn make(&self) -> Result<(), String> {
        if self.is_made.load(Ordering::Relaxed) {
            return Ok(());
        }
        let config = Config {
            name: self.stream.clone(),
            subjects: vec![format!("{}.>", self.subject)],
            num_replicas: self.replicas,
            storage: StorageType::File,
            // What the stream has is needed: it must not make room for what comes.
            discard: DiscardPolicy::New,
            allow_direct: false,
            description: Some("RingMQ: sessions of the nodes of a cluster".to_owned()),
            ..Config::default()
        };
        let made = self.context.get_or_create_stream(config).await;
        made.map_err(|error| format!("the stream {}: {error}", self.stream))?;
        if self.context.get_key_value(&*self.bucket).await.is_err() {
            let config = kv::Config {
                bucket: self.bucket.clone(),
                history: 1,
                num_replicas: self.replicas,
                storage: StorageType::File,
                description: "RingMQ: nodes of a cluster, and adoptions".to_owned(),
                ..kv::Config::default()
            };
            let made = self.context.create_key_value(config).await;
            made.map_err(|error| format!("the bucket {}: {error}", self.bucket))?;
        }
        self.is_made.store(true, Ordering::Relaxed);
        Ok(())
    }

    async fn stream(&self, place: &KeptAt) -> Result<Stream<()>, String> {
        let name = match place {
            KeptAt::Journal(..) => self.stream.clone(),
            KeptAt::Key(_) => format!("KV_{}", self.bucket),
        };
        self.context.get_stream_no_info(name).await.map_err(text)
    }

    async fn last(&self, place: &KeptAt, subject: &str) -> Result<KeepReply, String> {
        let stream = self.stream(place).await?;
        match stream.get_last_raw_message_by_subject(subject).await {
            Ok(message) => Ok(KeepReply::Last(Some((message.sequence, message.payload.to_vec())))),
            Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => {
                Ok(KeepReply::Last(None))
            }
            Err(error) => {
                // It may have been deleted, and is made again then.
                self.is_made.store(false, Ordering::Relaxed);
                Err(text(error))
            }
        }
    }

    async fn store(
        &self,
        subject: String,
        behind: Option<u64>,
        entry: Vec<u8>,
    ) -> Result<KeepReply, String> {
        let mut message = PublishMessage::build().payload(entry.into());
        if let Some(sequence) = behind {
            message = message.expected_last_subject_sequence(sequence);
        }
        let sent = self.context.send_publish(subject, message).await.map_err(text)?;
        match sent.await {
            Ok(acknowledged) => Ok(KeepReply::Stored(acknowledged.sequence)),
            Err(error) if error.kind() == PublishErrorKind::WrongLastSequence => {
                Ok(KeepReply::Refused)
            }
            Err(error) => {
                if error.kind() == PublishErrorKind::StreamNotFound {
                    self.is_made.store(false, Ordering::Relaxed);
                }
                Err(text(error))
            }
        }
    }

    async fn read(&self, place: &KeptAt, subject: String, from: u64) -> Result<KeepReply, String> {
        let stream = self.stream(place).await?;
        let config = pull::Config {
            deliver_policy: DeliverPolicy::ByStartSequence { start_sequence: from.max(1) },
            ack_policy: AckPolicy::None,
            filter_subject: subject,
            inactive_threshold: READER,
            memory_storage: true,
            num_replicas: 1,
            ..pull::Config::default()
        };
        let consumer = stream.create_consumer(config).await.map_err(text)?;
        let fetch = consumer.fetch().max_messages(ENTRIES).max_bytes(BYTES);
        let mut messages = fetch.messages().await.map_err(text)?;
        let mut entries = Vec::new();
        while let Some(message) = messages.next().await {
            let message = match message {
                Ok(message) => message,
                // With this, the server ends a batch that the next entry would make too large.
                Err(_) if !entries.is_empty() => break,
                Err(error) => return Err(text(error)),
            };
            let sequence = message.info().map_err(text)?.stream_sequence;
            entries.push((sequence, message.payload.to_vec()));
        }
        Ok(KeepReply::Entries(entries))
    }

    /// Logs a trouble, and again only when it changes.
    fn complain(&self, why: &str) {
        let mut told = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        if *told != why {
            if !why.is_empty() {
                tracing::warn!(why, "cluster: JetStream does not keep what is stored here");
            }
            why.clone_into(&mut told);
        }
    }
}
