//! Records that a bridge brings from Kafka, on the bridge's thread. They go to the shards as
//! messages. A record is committed when it and all earlier ones of its partition have been settled.
#![allow(clippy::disallowed_methods, reason = "on the bridge's own thread, never on a core's")]

use super::client::{Reports, SharedReports};
use super::consumer::{KafkaConsumer, WantedPartitions};
use super::inbound::{InboundPlan, NoMessage, Positions};
use super::properties::KafkaProperties;
use super::token::TokenSource;
use crate::bridge::figures::{BridgeDropReason, BridgeFigures};
use crate::bridge::inward::{Inward, Settled};
use crate::bridge::orders::wait_for_end;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// The most unsettled messages; with as many, no record is taken.
const UNSETTLED: usize = 1024;
/// The longest time for leaving a consumer group.
const LEAVING: Duration = Duration::from_secs(3);
/// Records that are taken before other work is looked at again.
const TURN: usize = 256;

/// Which records are brought, and how.
pub struct BringPlan {
    /// What records become.
    pub plan: Arc<InboundPlan>,
    /// The properties of the client.
    pub properties: KafkaProperties,
    /// Where tokens come from, if the client shows one.
    pub tokens: Option<Arc<TokenSource>>,
    /// The partitions to read.
    pub wanted: WantedPartitions,
    /// The pause before another client is started.
    pub pause: Duration,
}

/// The state of bringing records.
pub struct Bringing {
    plan: BringPlan,
    source: Option<KafkaConsumer>,
    again: Instant,
    positions: Positions,
    tickets: u64,
    reports: Reports,
}

impl Bringing {
    /// Starts without a client.
    pub fn new(plan: BringPlan) -> Bringing {
        Bringing {
            plan,
            source: None,
            again: Instant::now(),
            positions: Positions::default(),
            tickets: 0,
            reports: Reports::default(),
        }
    }

    /// Starts a client if none runs and one is due.
    ///
    /// # Errors
    /// The reason why no client could be started.
    pub fn start(&mut self, bell: &Arc<Notify>, name: &str) -> Result<(), String> {
        if self.source.is_some() || self.again > Instant::now() {
            return Ok(());
        }
        let shared_reports = SharedReports::new(bell, name);
        let plan = &self.plan;
        let tokens = plan.tokens.clone();
        match KafkaConsumer::start(
            &plan.properties,
            &plan.wanted,
            &plan.plan,
            tokens,
            shared_reports,
        ) {
            Ok(source) => self.source = Some(source),
            Err(why) => {
                self.again = Instant::now() + self.plan.pause;
                return Err(why);
            }
        }
        Ok(())
    }

    /// When the next client is to be started; `None` while one runs.
    pub fn deadline(&self) -> Option<Instant> {
        Some(self.again).filter(|_| self.source.is_none())
    }

    /// The client's reports about its connection and errors. A client that cannot go on is ended.
    pub fn reports(&mut self) -> Option<&Reports> {
        let source = self.source.as_ref()?;
        source.shared_reports.take(&mut self.reports);
        if self.reports.fatal
            && let Some(source) = self.source.take()
        {
            source.close();
            self.again = Instant::now() + self.plan.pause;
        }
        Some(&self.reports)
    }

    /// Takes records as long as the shards keep up. Returns true when there may be more.
    pub fn take(&mut self, inward: &mut Inward, figures: &BridgeFigures) -> bool {
        let mut any = false;
        for _ in 0..TURN {
            if inward.under_way() >= UNSETTLED {
                return false;
            }
            let Some(arrival) = self.source.as_ref().and_then(KafkaConsumer::next) else {
                return any;
            };
            any = true;
            self.tickets += 1;
            let ticket = self.tickets;
            self.positions.take(&arrival.topic, arrival.partition, arrival.offset, ticket);
            match arrival.message {
                Ok(mut message) => {
                    message.ticket = ticket;
                    inward.push(message);
                }
                Err(why) => {
                    figures.lose(match why {
                        NoMessage::Topic => BridgeDropReason::Unwanted,
                        NoMessage::TooLarge => BridgeDropReason::TooLarge,
                    });
                    self.settled(ticket);
                }
            }
        }
        true
    }

    /// Takes in the shards' outcomes of messages that were brought.
    pub fn settle(&mut self, settled: &[(u64, Settled)], figures: &BridgeFigures) {
        for &(ticket, outcome) in settled {
            match outcome {
                Settled::Accepted => figures.brought.add(1),
                Settled::Denied(why) => {
                    figures.lose(BridgeDropReason::Unwanted);
                    tracing::debug!(bridge = &*figures.name, why, "message not taken");
                }
            }
            self.settled(ticket);
        }
    }

    fn settled(&mut self, ticket: u64) {
        if let Some((topic, partition, offset)) = self.positions.settle(ticket)
            && let Some(source) = &self.source
        {
            source.accepted(&topic, partition, offset);
        }
    }

    /// Commits what has been settled, and waits a while until the group knows that this member
    /// leaves: otherwise the group's other members, and the next start of this one, would wait for
    /// it.
    pub fn close(&mut self) {
        let Some(source) = self.source.take() else { return };
        wait_for_end(&source.close(), Instant::now() + LEAVING);
    }
}
