//! A bridge to a Kafka cluster, on the bridge's thread: messages in the buffer go to the client,
//! within the client's bound of records under way, and the client's reports settle messages.
#![allow(clippy::disallowed_methods, reason = "on the bridge's own thread, never on a core's")]

use super::bring::{BringPlan, Bringing};
use super::client::{KafkaProducer, KafkaVerdict, Reports, SharedReports};
use super::consumer::WantedPartitions;
use super::inbound::InboundPlan;
use super::properties::{self, KafkaProperties};
use super::record::{KafkaRecord, RecordPlan};
use super::token::TokenSource;
use crate::bridge::figures::{BridgeDropReason, BridgeState};
use crate::bridge::intake::{Intake, wall_millis};
use crate::bridge::inward::Inward;
use crate::config::{self, Get};
use std::collections::{HashSet, VecDeque};
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

/// The most records that the client has, whatever their size.
const MOST_RECORDS: usize = 100_000;
/// The most topics that messages may name, as the client keeps state for each.
const MOST_TOPICS: usize = 1000;
/// Messages that are given to the client before reports are looked at again.
const TURN: usize = 1024;
/// The longest sleep of a bridge with nothing to wait for.
const LOOK: Duration = Duration::from_secs(60);
/// The least interval between two log lines about a failing cluster.
const COMPLAINT: Duration = Duration::from_secs(10);

/// The reason for a missing connection when the client gives none.
const NOBODY: &str = "no broker can be reached";

/// A bridge to a Kafka cluster.
pub struct KafkaBridge<'a> {
    /// The side of the bridge towards this broker.
    pub intake: &'a mut Intake,
    /// The way of brought messages, and of the bridge's state, to the shards.
    pub inward: Inward,
    /// How records are made; `None` when the bridge sends none.
    pub plan: Option<RecordPlan>,
    /// The records that are brought, if any.
    pub bringing: Option<Bringing>,
    /// The properties of the client that sends.
    pub properties: KafkaProperties,
    /// Where tokens come from, if clients show one.
    pub tokens: Option<Arc<TokenSource>>,
    /// The most bytes of records under way.
    pub window: usize,
    /// The shortest and the longest pause before the next client is started.
    pub retry: (Duration, Duration),
}

/// Records that the client has, in the order of their messages.
#[derive(Default)]
struct UnderWay {
    /// Message number, route and cost of each record; a cost of 0 marks a settled record.
    records: VecDeque<(u64, u16, u32)>,
    bytes: usize,
}

impl UnderWay {
    fn push(&mut self, number: u64, route: u16, cost: usize) {
        let cost = u32::try_from(cost).unwrap_or(u32::MAX);
        self.bytes += cost as usize;
        self.records.push_back((number, route, cost));
    }

    /// Settles the record with this number. Returns its route if it was under way.
    fn settle(&mut self, number: u64) -> Option<u16> {
        let at = self.records.binary_search_by_key(&number, |&(number, ..)| number).ok()?;
        let record = self.records.get_mut(at).filter(|record| record.2 > 0)?;
        self.bytes -= std::mem::take(&mut record.2) as usize;
        let route = record.1;
        while self.records.front().is_some_and(|record| record.2 == 0) {
            self.records.pop_front();
        }
        Some(route)
    }

    fn clear(&mut self) {
        *self = UnderWay::default();
    }
}

/// The client that sends, as the bridge sees it.
enum ProducerState {
    /// It is running.
    Running(KafkaProducer),
    /// It is ending; its last reports arrive here.
    Ending(Arc<SharedReports>),
    /// There is none; the next one is started at this time.
    Absent(Instant),
}

struct RunningKafkaBridge<'a> {
    bridge: KafkaBridge<'a>,
    client: ProducerState,
    reports: Reports,
    under_way: UnderWay,
    topics: HashSet<String>,
    record: KafkaRecord,
    failures: u32,
    last_error: String,
    complained: Option<Instant>,
}

impl KafkaBridge<'_> {
    /// Compiles the configuration; a brought message has at most `most` bytes.
    ///
    /// # Errors
    /// What is wrong with a template. `config` has checked the templates already.
    pub fn new<'a>(
        kafka: &config::KafkaBridgeConfig,
        tokens: Option<Arc<TokenSource>>,
        intake: &'a mut Intake,
        inward: Inward,
        most: usize,
    ) -> Result<KafkaBridge<'a>, String> {
        let brings = !kafka.topics.is_empty();
        let inbound = InboundPlan::new(kafka, most)?;
        let bringing = brings.then(|| {
            Bringing::new(BringPlan {
                plan: Arc::new(inbound),
                properties: properties::of_consumer(kafka),
                tokens: tokens.clone(),
                wanted: wanted(kafka),
                pause: kafka.retry.max.get(),
            })
        });
        let plan = RecordPlan::new(kafka, &intake.numbers)?;
        Ok(KafkaBridge {
            intake,
            inward,
            plan: Some(plan).filter(|_| !kafka.routes.is_empty()),
            bringing,
            properties: properties::of_producer(kafka),
            tokens,
            window: kafka.max_inflight_bytes.get() as usize,
            retry: (kafka.retry.min.get(), kafka.retry.max.get()),
        })
    }

    /// Sends and brings messages until the bridge is to end.
    pub async fn run(self) {
        let mut running = RunningKafkaBridge {
            bridge: self,
            client: ProducerState::Absent(Instant::now()),
            reports: Reports::default(),
            under_way: UnderWay::default(),
            topics: HashSet::new(),
            record: KafkaRecord::default(),
            failures: 0,
            last_error: String::new(),
            complained: None,
        };
        running.serve().await;
        if let Some(bringing) = &mut running.bridge.bringing {
            bringing.close();
        }
    }
}

impl RunningKafkaBridge<'_> {
    async fn serve(&mut self) {
        let bell = Arc::clone(&self.bridge.intake.bell);
        let mut rung = pin!(bell.notified());
        let mut sleep = pin!(tokio::time::sleep(LOOK));
        self.bridge.inward.publish_state(false);
        self.bridge.intake.take();
        std::future::poll_fn(|context| {
            loop {
                while rung.as_mut().poll(context).is_ready() {
                    rung.set(bell.notified());
                    self.bridge.intake.take();
                }
                self.read_answers(context);
                self.read_reports();
                self.start_client(Instant::now());
                let brought = self.bring();
                if self.pump() || brought {
                    continue;
                }
                if self.is_over() {
                    return Poll::Ready(());
                }
                sleep.as_mut().reset(self.deadline().into());
                if sleep.as_mut().poll(context).is_pending() {
                    self.bridge.intake.show();
                    return Poll::Pending;
                }
            }
        })
        .await;
    }

    /// Takes in the shards' answers about the bridge's state and about brought messages.
    fn read_answers(&mut self, context: &mut Context<'_>) {
        let mut settled = Vec::new();
        while self.bridge.inward.poll_settled(context, &mut settled).is_ready() {}
        if let Some(bringing) = &mut self.bridge.bringing {
            bringing.settle(&settled, &self.bridge.intake.figures);
        }
        self.bridge.inward.hand_out(Instant::now());
    }

    /// Brings records. Returns true when there may be more.
    fn bring(&mut self) -> bool {
        let KafkaBridge { bringing, intake, inward, plan, .. } = &mut self.bridge;
        let Some(bringing) = bringing else { return false };
        let started = bringing.start(&intake.bell, &intake.figures.name);
        let more = !intake.orders.is_ending() && bringing.take(inward, &intake.figures);
        inward.hand_out(Instant::now());
        let (mut told, mut wrong) = (None, None);
        if let Some(reports) = bringing.reports() {
            told = reports.connected.filter(|_| plan.is_none());
            wrong = reports.error.clone();
        }
        if let Some(why) = wrong.or(started.err()) {
            self.complain(&why);
            self.last_error = why;
        }
        if let Some(is) = told {
            let why = std::mem::take(&mut self.last_error);
            self.connected(is, &why);
        }
        more
    }

    fn is_over(&self) -> bool {
        let orders = &self.bridge.intake.orders;
        let idle = self.under_way.records.is_empty() && !self.bridge.intake.has_unread();
        orders.is_ending() && (idle || orders.is_late())
    }

    fn deadline(&self) -> Instant {
        let start = match self.client {
            ProducerState::Absent(at) if self.bridge.plan.is_some() => Some(at),
            _ => None,
        };
        let end = self.bridge.intake.orders.deadline();
        let bring = self.bridge.bringing.as_ref().and_then(Bringing::deadline);
        let others = [start, end, bring, self.bridge.inward.deadline()].into_iter().flatten();
        let next = others.min().unwrap_or_else(|| Instant::now() + LOOK);
        next.max(Instant::now() + Duration::from_millis(1))
    }

    fn start_client(&mut self, now: Instant) {
        let due = matches!(self.client, ProducerState::Absent(at) if at <= now);
        if !due || self.bridge.plan.is_none() {
            return;
        }
        let intake = &self.bridge.intake;
        intake.figures.set_state(BridgeState::Connecting);
        let shared_reports = SharedReports::new(&intake.bell, &intake.figures.name);
        let tokens = self.bridge.tokens.clone();
        match KafkaProducer::start(&self.bridge.properties, tokens, shared_reports) {
            Ok(sender) => self.client = ProducerState::Running(sender),
            Err(why) => {
                self.complain(&why);
                self.client = ProducerState::Absent(now + self.pause());
            }
        }
    }

    /// The pause before the next client, twice as long after each failure.
    fn pause(&mut self) -> Duration {
        let (min, max) = self.bridge.retry;
        let pause = min.saturating_mul(1 << self.failures.min(20)).min(max);
        self.failures += 1;
        pause
    }

    fn read_reports(&mut self) {
        let shared_reports = match &self.client {
            ProducerState::Running(sender) => Arc::clone(&sender.shared_reports),
            ProducerState::Ending(shared_reports) => Arc::clone(shared_reports),
            ProducerState::Absent(_) => return,
        };
        let mut reports = std::mem::take(&mut self.reports);
        shared_reports.take(&mut reports);
        if let Some(error) = reports.error.take() {
            // While there is a connection, the library deals with a broker that is away.
            if self.bridge.intake.figures.state() != BridgeState::Up {
                self.complain(&error);
            }
            self.last_error = error;
        }
        let mut given_up = reports.fatal.then(|| self.last_error.clone());
        for &(number, verdict) in &reports.records {
            given_up = self.judge(number as u64, verdict).or(given_up);
        }
        let arrived = reports.records.iter().any(|&(_, verdict)| verdict == KafkaVerdict::Arrived);
        if arrived || reports.connected.is_some() {
            let why = std::mem::take(&mut self.last_error);
            self.connected(arrived || reports.connected == Some(true), &why);
        }
        if let Some(why) = given_up {
            self.give_up(&why);
        }
        if reports.ended {
            self.client_ended();
        }
        self.reports = reports;
    }

    /// Handles the outcome of one record. Returns why the client has to be restarted, if it has to.
    fn judge(&mut self, number: u64, verdict: KafkaVerdict) -> Option<String> {
        if verdict == KafkaVerdict::Ended {
            // The message is read again when the client has ended.
            return None;
        }
        let route = self.under_way.settle(number)?;
        let waits = self.bridge.plan.as_ref().is_some_and(|plan| plan.waits(route));
        let intake = &mut self.bridge.intake;
        match verdict {
            KafkaVerdict::Arrived => {
                intake.delivered(number);
                self.failures = 0;
            }
            KafkaVerdict::TooLarge => intake.lose(number, BridgeDropReason::TooLarge),
            KafkaVerdict::Refused(code) if !waits => {
                intake.lose(number, BridgeDropReason::Rejected);
                self.complain(&code.to_string());
            }
            KafkaVerdict::Refused(code) | KafkaVerdict::GivenUp(code) => {
                intake.figures.retries.add(1);
                return Some(code.to_string());
            }
            KafkaVerdict::Ended => {}
        }
        None
    }

    /// Notes whether there is a connection.
    fn connected(&mut self, is: bool, why: &str) {
        let figures = &self.bridge.intake.figures;
        let was = figures.state() == BridgeState::Up;
        let sends = self.bridge.plan.is_some();
        if is == was || sends && !matches!(self.client, ProducerState::Running(_)) {
            return;
        }
        let bridge = &*figures.name;
        if is {
            figures.set_state(BridgeState::Up);
            figures.connects.add(1);
            tracing::info!(bridge, "bridge connected");
            self.bridge.inward.publish_state(true);
        } else {
            self.disconnected(why);
        }
    }

    fn disconnected(&mut self, why: &str) {
        let figures = &self.bridge.intake.figures;
        if figures.state() == BridgeState::Waiting {
            return;
        }
        figures.set_state(BridgeState::Waiting);
        figures.failures.add(1);
        let why = if why.is_empty() { NOBODY } else { why };
        tracing::warn!(bridge = &*figures.name, why, "bridge not connected");
        self.bridge.inward.publish_state(false);
    }

    /// Ends the client: records that have not arrived are sent again, in order, by the next one.
    fn give_up(&mut self, why: &str) {
        if let ProducerState::Running(sender) = &self.client {
            self.client = ProducerState::Ending(Arc::clone(&sender.shared_reports));
        }
        self.disconnected(why);
        self.complain(why);
    }

    fn client_ended(&mut self) {
        let again = self.under_way.records.iter().filter(|record| record.2 > 0).count();
        self.bridge.intake.figures.retries.add(again as u64);
        self.under_way.clear();
        self.topics.clear();
        self.bridge.intake.buffer.rewind();
        let pause = self.pause();
        self.client = ProducerState::Absent(Instant::now() + pause);
    }

    fn complain(&mut self, why: &str) {
        if self.complained.is_none_or(|then| then.elapsed() > COMPLAINT) {
            self.complained = Some(Instant::now());
            let bridge = &*self.bridge.intake.figures.name;
            tracing::warn!(bridge, why, "trouble with the Kafka cluster");
        }
    }

    /// Gives messages to the client within its bounds. Returns true when there may be more.
    fn pump(&mut self) -> bool {
        let mut moment = None;
        for _ in 0..TURN {
            let full = self.under_way.bytes >= self.bridge.window
                || self.under_way.records.len() >= MOST_RECORDS;
            let ProducerState::Running(sender) = &self.client else { return false };
            let Some(plan) = &self.bridge.plan else { return false };
            let intake = &mut self.bridge.intake;
            let Some((number, message)) = (if full { None } else { intake.read() }) else {
                return false;
            };
            let now = *moment.get_or_insert_with(wall_millis);
            if message.expires.is_some_and(|at| at <= now) {
                intake.lose(number, BridgeDropReason::Expired);
                continue;
            }
            let record = &mut self.record;
            let route = match plan.fill(&message, record) {
                Ok(route) => route,
                Err(why) => {
                    intake.lose(number, why.as_loss());
                    continue;
                }
            };
            if !self.topics.contains(&record.topic) {
                if self.topics.len() >= MOST_TOPICS {
                    intake.lose(number, BridgeDropReason::Unwanted);
                    self.complain("messages name more topics than a bridge has");
                    continue;
                }
                self.topics.insert(record.topic.clone());
            }
            let value = record.value(&message);
            let sent = sender.send(number as usize, record, value);
            self.under_way.push(number, route, record.cost(value.len()));
            if let Err(verdict) = sent
                && let Some(why) = self.judge(number, verdict)
            {
                self.give_up(&why);
            }
        }
        true
    }
}

/// The partitions that are to be read.
fn wanted(kafka: &config::KafkaBridgeConfig) -> WantedPartitions {
    if kafka.topics.iter().all(|topic| topic.partitions.is_empty()) {
        return WantedPartitions::Group(
            kafka.topics.iter().map(|topic| topic.topic.to_string()).collect(),
        );
    }
    let each = kafka.topics.iter().flat_map(|topic| {
        let numbers = topic.partitions.iter();
        numbers.map(|number| (topic.topic.to_string(), number.get() as i32))
    });
    WantedPartitions::Partitions(each.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_under_way_is_counted_in_bytes_and_leaves_in_any_order() {
        let mut under_way = UnderWay::default();
        for number in [3, 4, 7] {
            under_way.push(number, number as u16, 10);
        }
        assert_eq!(under_way.settle(5), None);
        assert_eq!(under_way.settle(7), Some(7));
        assert_eq!(under_way.settle(7), None);
        assert_eq!((under_way.bytes, under_way.records.len()), (20, 3));
        assert_eq!(under_way.settle(3), Some(3));
        assert_eq!(under_way.settle(4), Some(4));
        assert_eq!((under_way.bytes, under_way.records.len()), (0, 0));
    }
}
