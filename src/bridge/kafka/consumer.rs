//! The consumer of records that are brought from Kafka: librdkafka's consumer, on a thread of its
//! own, which gives messages to the bridge's thread and waits while that has enough.
#![allow(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "threads of the bridge, which share a queue with each other and with no core"
)]

use super::client::{KafkaContext, SharedReports, configured};
use super::inbound::{Brought, InboundPlan, NoMessage};
use super::properties::KafkaProperties;
use super::token::TokenSource;
use crate::bridge::mqtt::session::Incoming;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext};
use rdkafka::message::{BorrowedMessage, Headers, Message};
use rdkafka::{Offset, TopicPartitionList};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

/// How long the thread waits for records before it checks whether the consumer is still wanted.
const POLL: Duration = Duration::from_millis(100);
/// The most messages between the two threads.
const AHEAD: usize = 256;

impl ConsumerContext for KafkaContext {}

/// A record on its way to the bridge's thread.
pub struct ConsumedRecord {
    /// The record's topic.
    pub topic: String,
    /// The record's partition.
    pub partition: i32,
    /// The record's offset in the partition.
    pub offset: i64,
    /// The message for the record, or why there is none.
    pub message: Result<Incoming, NoMessage>,
}

/// The partitions that are read.
pub enum WantedPartitions {
    /// Partitions of these topics, as the consumer group assigns them.
    Group(Vec<String>),
    /// These partitions of topics.
    Partitions(Vec<(String, i32)>),
}

/// A consumer as the bridge's thread has it.
pub struct KafkaConsumer {
    consumer: Arc<BaseConsumer<KafkaContext>>,
    arrivals: Receiver<ConsumedRecord>,
    thread: JoinHandle<()>,
    /// Where the consumer leaves its reports.
    pub shared_reports: Arc<SharedReports>,
}

impl KafkaConsumer {
    /// Starts a consumer.
    ///
    /// # Errors
    /// The library's reason why there is none.
    pub fn start(
        properties: &KafkaProperties,
        wanted: &WantedPartitions,
        plan: &Arc<InboundPlan>,
        tokens: Option<Arc<TokenSource>>,
        shared_reports: Arc<SharedReports>,
    ) -> Result<KafkaConsumer, String> {
        let context = KafkaContext { shared_reports: Arc::clone(&shared_reports), tokens };
        let consumer = configured(properties).create_with_context(context);
        let consumer: BaseConsumer<KafkaContext> = consumer.map_err(|error| error.to_string())?;
        match wanted {
            WantedPartitions::Group(topics) => {
                let topics: Vec<&str> = topics.iter().map(|topic| &**topic).collect();
                consumer.subscribe(&topics).map_err(|error| error.to_string())?;
            }
            WantedPartitions::Partitions(partitions) => {
                let mut list = TopicPartitionList::new();
                for (topic, partition) in partitions {
                    let added = list.add_partition_offset(topic, *partition, Offset::Stored);
                    added.map_err(|error| error.to_string())?;
                }
                consumer.assign(&list).map_err(|error| error.to_string())?;
            }
        }
        let consumer = Arc::new(consumer);
        let (to, arrivals) = sync_channel(AHEAD);
        let polled = Arc::clone(&consumer);
        let (plan, told) = (Arc::clone(plan), Arc::clone(&shared_reports));
        let thread = std::thread::Builder::new().name(shared_reports.thread_name("kafka-in"));
        let thread = thread.spawn(move || consume(&polled, &plan, &to, &told));
        let thread = thread.map_err(|error| error.to_string())?;
        Ok(KafkaConsumer { consumer, arrivals, thread, shared_reports })
    }

    /// The next record.
    pub fn next(&self) -> Option<ConsumedRecord> {
        self.arrivals.try_recv().ok()
    }

    /// All records of the partition up to this offset have been settled.
    pub fn accepted(&self, topic: &str, partition: i32, offset: i64) {
        // It fails if another consumer has the partition by now, which then takes care of it.
        let _ = self.consumer.store_offset(topic, partition, offset);
    }

    /// Ends the consumer: its thread commits what has been settled, leaves the group and ends.
    pub fn close(self) -> JoinHandle<()> {
        // The thread may be waiting for room in the channel.
        drop(self.arrivals);
        self.thread
    }
}

/// Hands records over until the bridge's thread has dropped its handle of the consumer. All waiting
/// for the cluster at the end happens on this thread: the commit, and leaving the group, which
/// happens when the last handle is dropped, and that is this thread's.
fn consume(
    consumer: &Arc<BaseConsumer<KafkaContext>>,
    plan: &InboundPlan,
    to: &SyncSender<ConsumedRecord>,
    shared_reports: &SharedReports,
) {
    while Arc::strong_count(consumer) > 1 {
        match consumer.poll(POLL) {
            None => {}
            Some(Err(error)) => shared_reports.failed(&error),
            Some(Ok(record)) => {
                if to.send(arrival(plan, &record)).is_err() {
                    // The bridge's thread drops its handle of the consumer at the same time.
                    std::thread::yield_now();
                    continue;
                }
                shared_reports.wake();
            }
        }
    }
    // When nothing is to be committed, this is an error.
    let _ = consumer.commit_consumer_state(CommitMode::Sync);
}

fn arrival(plan: &InboundPlan, record: &BorrowedMessage<'_>) -> ConsumedRecord {
    let brought = Brought {
        topic: record.topic(),
        key: record.key().unwrap_or_default(),
        value: record.payload().unwrap_or_default(),
        timestamp: record.timestamp().to_millis().unwrap_or_default().max(0) as u64,
    };
    let headers = record.headers();
    let headers = headers.into_iter().flat_map(|headers| headers.iter());
    let headers = headers.map(|header| (header.key, header.value.unwrap_or_default()));
    ConsumedRecord {
        topic: record.topic().to_owned(),
        partition: record.partition(),
        offset: record.offset(),
        message: plan.message(&brought, headers, 0),
    }
}
