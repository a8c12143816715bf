//! The Kafka client: librdkafka, which has threads of its own, and one more thread that receives
//! its reports and leaves them for the bridge's thread.
#![allow(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "reports of the client's threads, shared with the bridge's thread, and with no core"
)]

use super::properties::KafkaProperties;
use super::record::KafkaRecord;
use super::token::TokenSource;
use rdkafka::client::{ClientContext, OAuthToken};
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer, ProducerContext, PurgeConfig};
use std::error::Error;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// How long the thread waits for reports before it checks whether the client is still wanted.
const POLL: Duration = Duration::from_millis(100);
/// The longest time in which an ending client gives up the records under way.
const ENDING: Duration = Duration::from_secs(2);

/// The outcome of a record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum KafkaVerdict {
    /// The cluster has acknowledged it.
    Arrived,
    /// It is larger than the client or the cluster accepts.
    TooLarge,
    /// The cluster refuses it now and later: its topic does not exist or may not be written to, or
    /// its content violates a rule of the cluster.
    Refused(RDKafkaErrorCode),
    /// The client has given it up; it is to be sent again.
    GivenUp(RDKafkaErrorCode),
    /// The client is ending.
    Ended,
}

/// The outcome that an error means.
pub fn judge(error: &KafkaError) -> KafkaVerdict {
    use RDKafkaErrorCode as Code;
    let code = error.rdkafka_error_code().unwrap_or(Code::Fail);
    match code {
        Code::MessageSizeTooLarge | Code::MessageBatchTooLarge | Code::InvalidMessageSize => {
            KafkaVerdict::TooLarge
        }
        Code::UnknownTopic
        | Code::UnknownTopicOrPartition
        | Code::UnknownPartition
        | Code::InvalidTopic
        | Code::TopicAuthorizationFailed
        | Code::InvalidRecord
        | Code::InvalidTimestamp
        | Code::PolicyViolation => KafkaVerdict::Refused(code),
        Code::PurgeQueue | Code::PurgeInflight => KafkaVerdict::Ended,
        code => KafkaVerdict::GivenUp(code),
    }
}

/// The client's reports.
#[derive(Default)]
pub struct Reports {
    /// Outcomes of records, by the numbers of their messages.
    pub records: Vec<(usize, KafkaVerdict)>,
    /// Whether there is a connection, if that has been found out since the last look.
    pub connected: Option<bool>,
    /// The last error.
    pub error: Option<String>,
    /// Whether the client cannot go on.
    pub fatal: bool,
    /// Whether the client has ended; no further reports follow.
    pub ended: bool,
}

/// Reports of the client's threads, kept until the bridge's thread takes them.
pub struct SharedReports {
    reports: Mutex<Reports>,
    bell: Arc<Notify>,
    bridge: String,
}

impl SharedReports {
    /// Starts without reports; `bell` wakes the bridge's thread.
    pub fn new(bell: &Arc<Notify>, bridge: &str) -> Arc<SharedReports> {
        let reports = Mutex::new(Reports::default());
        Arc::new(SharedReports { reports, bell: Arc::clone(bell), bridge: bridge.to_owned() })
    }

    fn lock(&self) -> MutexGuard<'_, Reports> {
        self.reports.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes all reports; the memory of `old` is used again.
    pub fn take(&self, old: &mut Reports) {
        old.records.clear();
        let records = std::mem::take(&mut old.records);
        *old = std::mem::replace(&mut *self.lock(), Reports { records, ..Reports::default() });
    }

    /// Wakes the bridge's thread.
    pub fn wake(&self) {
        self.bell.notify_one();
    }

    /// The name for a thread of this bridge's client.
    pub fn thread_name(&self, of: &str) -> String {
        format!("{of}-{}", self.bridge)
    }

    /// Notes a consumer's error.
    pub fn failed(&self, error: &KafkaError) {
        let fatal = matches!(error, KafkaError::MessageConsumptionFatal(_));
        self.note(|reports| {
            reports.error = Some(error.to_string());
            reports.fatal |= fatal;
        });
    }

    fn note(&self, change: impl FnOnce(&mut Reports)) {
        change(&mut self.lock());
        self.bell.notify_one();
    }
}

/// Receives what librdkafka reports on its own threads.
pub struct KafkaContext {
    /// Where the reports go.
    pub shared_reports: Arc<SharedReports>,
    /// Where tokens come from, if the client shows one.
    pub tokens: Option<Arc<TokenSource>>,
}

impl ClientContext for KafkaContext {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn generate_oauth_token(&self, _: Option<&str>) -> Result<OAuthToken, Box<dyn Error>> {
        let tokens = self.tokens.as_ref().ok_or("the configuration names no token")?;
        let token = tokens.token()?;
        Ok(OAuthToken {
            token: token.text,
            principal_name: token.principal,
            lifetime_ms: i64::try_from(token.until).unwrap_or(i64::MAX),
        })
    }

    fn log(&self, level: RDKafkaLogLevel, facility: &str, text: &str) {
        let bridge = &*self.shared_reports.bridge;
        tracing::debug!(bridge, ?level, facility, text, "kafka client");
    }

    fn stats_raw(&self, statistics: &[u8]) {
        // The statistics are a document of a few thousand bytes; only brokers in it have a state,
        // topics have none.
        let up = memchr_of(statistics, br#""state":"UP""#);
        self.shared_reports.note(|reports| reports.connected = Some(up));
    }

    fn error(&self, error: KafkaError, reason: &str) {
        let code = error.rdkafka_error_code();
        let gone = code == Some(RDKafkaErrorCode::AllBrokersDown);
        // The library would show a refused token again until its time is over; a new client gets
        // another one.
        let tokens = self.tokens.as_ref();
        let tokens = tokens.filter(|_| code == Some(RDKafkaErrorCode::Authentication));
        tokens.iter().for_each(|tokens| tokens.forget());
        self.shared_reports.note(|reports| {
            // That no broker is there says less than what one of them has just said.
            if !gone || reports.error.is_none() {
                reports.error = Some(reason.to_owned());
            }
            reports.fatal |= tokens.is_some();
            if gone {
                reports.connected = Some(false);
            }
        });
    }
}

/// Whether `bytes` contain `wanted`.
fn memchr_of(bytes: &[u8], wanted: &[u8]) -> bool {
    bytes.windows(wanted.len()).any(|window| window == wanted)
}

impl ProducerContext for KafkaContext {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, number: usize) {
        let verdict = match result {
            Ok(_) => KafkaVerdict::Arrived,
            Err((error, _)) => judge(error),
        };
        let mut reports = self.shared_reports.lock();
        reports.records.push((number, verdict));
        // The reader takes all outcomes at once, so only the first one has to wake it.
        let first = reports.records.len() == 1;
        drop(reports);
        if first {
            self.shared_reports.bell.notify_one();
        }
    }
}

/// The library's configuration for a client.
pub fn configured(properties: &KafkaProperties) -> ClientConfig {
    let mut config = ClientConfig::new();
    for (name, value) in properties {
        config.set(name, value);
    }
    let debugs = tracing::enabled!(tracing::Level::DEBUG);
    let level = if debugs { RDKafkaLogLevel::Debug } else { RDKafkaLogLevel::Warning };
    config.set_log_level(level);
    config
}

/// Checks properties.
///
/// # Errors
/// The name of a property that the library does not accept, and why.
pub fn check(properties: &KafkaProperties) -> Result<(), (String, String)> {
    match configured(properties).create_native_config() {
        Ok(_) => Ok(()),
        Err(KafkaError::ClientConfig(_, what, name, _)) => Err((name, what)),
        Err(error) => Err((String::new(), error.to_string())),
    }
}

/// A client that sends records.
pub struct KafkaProducer {
    producer: Arc<BaseProducer<KafkaContext>>,
    /// Where the client leaves its reports.
    pub shared_reports: Arc<SharedReports>,
}

impl KafkaProducer {
    /// Starts a client.
    ///
    /// # Errors
    /// The library's reason why there is none.
    pub fn start(
        properties: &KafkaProperties,
        tokens: Option<Arc<TokenSource>>,
        shared_reports: Arc<SharedReports>,
    ) -> Result<KafkaProducer, String> {
        let context = KafkaContext { shared_reports: Arc::clone(&shared_reports), tokens };
        let producer = configured(properties).create_with_context(context);
        let producer: BaseProducer<KafkaContext> = producer.map_err(|error| error.to_string())?;
        let producer = Arc::new(producer);
        let (polled, told) = (Arc::clone(&producer), Arc::clone(&shared_reports));
        let thread = std::thread::Builder::new().name(shared_reports.thread_name("kafka"));
        let thread = thread.spawn(move || poll(&polled, &told));
        thread.map_err(|error| error.to_string())?;
        Ok(KafkaProducer { producer, shared_reports })
    }

    /// Gives the client a record, made from the message with this number.
    ///
    /// # Errors
    /// The record's outcome.
    pub fn send(
        &self,
        number: usize,
        record: &KafkaRecord,
        value: &[u8],
    ) -> Result<(), KafkaVerdict> {
        let mut sent = BaseRecord::with_opaque_to(&record.topic, number).payload(value);
        sent.timestamp = record.timestamp;
        if !record.key.is_empty() {
            sent = sent.key(&record.key[..]);
        }
        if !record.headers.is_empty() {
            let headers = OwnedHeaders::new_with_capacity(record.headers.len());
            let headers = record.headers.iter().fold(headers, |headers, (name, value)| {
                headers.insert(Header { key: name, value: Some(&value[..]) })
            });
            sent = sent.headers(headers);
        }
        self.producer.send(sent).map_err(|(error, _)| judge(&error))
    }
}

/// Receives a client's reports until its `KafkaProducer` has gone; then the records under way are
/// given up.
fn poll(producer: &Arc<BaseProducer<KafkaContext>>, shared_reports: &SharedReports) {
    while Arc::strong_count(producer) > 1 {
        producer.poll(POLL);
    }
    producer.purge(PurgeConfig::default().queue().inflight());
    let until = Instant::now() + ENDING;
    while producer.in_flight_count() > 0 && Instant::now() < until {
        producer.poll(Duration::from_millis(5));
    }
    shared_reports.note(|reports| reports.ended = true);
}
