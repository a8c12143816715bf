//! Records that are brought from Kafka: librdkafka's consumer, on a thread of its own that hands
//! messages to the bridge's thread, and waits while that has enough.
#![allow(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "threads of the bridge, which share a queue with each other and with no core"
)]

use super::client::{Context, SharedReports, configured};
use super::inbound::{Brought, InboundPlan, NoMessage};
use super::properties::Properties;
use crate::bridge::mqtt::session::Incoming;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext};
use rdkafka::message::{BorrowedMessage, Headers, Message};
use rdkafka::{Offset, TopicPartitionList};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

/// How long the thread waits for records before it looks whether it is still wanted.
const POLL: Duration = Duration::from_millis(100);
/// Messages between the two threads.
const AHEAD: usize = 256;

impl ConsumerContext for Context {}

/// A record on its way to the bridge's thread.
pub struct Arrival {
    /// Where it is from.
    pub topic: String,
    /// The same.
    pub partition: i32,
    /// The same.
    pub offset: i64,
    /// What it becomes.
    pub message: Result<Incoming, NoMessage>,
}

/// Which partitions are read.
pub enum Wanted {
    /// Those that the group gives.
    Group(Vec<String>),
    /// These.
    Partitions(Vec<(String, i32)>),
}

/// A consumer, as the bridge's thread has it.
pub struct Source {
    consumer: Arc<BaseConsumer<Context>>,
    arrivals: Receiver<Arrival>,
    thread: JoinHandle<()>,
    /// Where its reports are.
    pub shared_reports: Arc<SharedReports>,
}

impl Source {
    /// Starts one.
    ///
    /// # Errors
    /// Why the library has none.
    pub fn start(
        properties: &Properties,
        wanted: &Wanted,
        plan: &Arc<InboundPlan>,
        shared_reports: Arc<SharedReports>,
    ) -> Result<Source, String> {
        let context = Context { shared_reports: Arc::clone(&shared_reports) };
        let consumer = configured(properties).create_with_context(context);
        let consumer: BaseConsumer<Context> = consumer.map_err(|error| error.to_string())?;
        match wanted {
            Wanted::Group(topics) => {
                let topics: Vec<&str> = topics.iter().map(|topic| &**topic).collect();
                consumer.subscribe(&topics).map_err(|error| error.to_string())?;
            }
            Wanted::Partitions(partitions) => {
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
        Ok(Source { consumer, arrivals, thread, shared_reports })
    }

    /// The next record.
    pub fn next(&self) -> Option<Arrival> {
        self.arrivals.try_recv().ok()
    }

    /// All records of that partition up to that offset have been accepted.
    pub fn accepted(&self, topic: &str, partition: i32, offset: i64) {
        // One that another consumer has by now is theirs.
        let _ = self.consumer.store_offset(topic, partition, offset);
    }

    /// The thread commits what has been accepted, leaves the group and ends.
    pub fn close(self) -> JoinHandle<()> {
        // It may be waiting for room there.
        drop(self.arrivals);
        self.thread
    }
}

/// Hands records over until the bridge's thread has let go of the consumer. Everything that waits
/// for the cluster at the end is done here: the commit, and leaving the group when the last handle
/// goes, which is the one of this thread.
fn consume(
    consumer: &Arc<BaseConsumer<Context>>,
    plan: &InboundPlan,
    to: &SyncSender<Arrival>,
    shared_reports: &SharedReports,
) {
    while Arc::strong_count(consumer) > 1 {
        match consumer.poll(POLL) {
            None => {}
            Some(Err(error)) => shared_reports.failed(&error),
            Some(Ok(record)) => {
                if to.send(arrival(plan, &record)).is_err() {
                    // The consumer is let go of at the same time.
                    std::thread::yield_now();
                    continue;
                }
                shared_reports.wake();
            }
        }
    }
    // Without anything to commit this is an error.
    let _ = consumer.commit_consumer_state(CommitMode::Sync);
}

fn arrival(plan: &InboundPlan, record: &BorrowedMessage<'_>) -> Arrival {
    let brought = Brought {
        topic: record.topic(),
        key: record.key().unwrap_or_default(),
        value: record.payload().unwrap_or_default(),
        timestamp: record.timestamp().to_millis().unwrap_or_default().max(0) as u64,
    };
    let headers = record.headers();
    let headers = headers.into_iter().flat_map(|headers| headers.iter());
    let headers = headers.map(|header| (header.key, header.value.unwrap_or_default()));
    Arrival {
        topic: record.topic().to_owned(),
        partition: record.partition(),
        offset: record.offset(),
        message: plan.message(&brought, headers, 0),
    }
}
