//! The attacks: what each is called, which broker it wants, how long it lasts, what it may cost.

mod connecting;
mod publishing;
mod reading;
mod sharing;
mod subscribing;
mod web;

use std::io;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::dice::Dice;

/// Where an attack takes place.
pub struct Arena {
    pub address: SocketAddr,
    /// Of its listener for WebSockets, for attacks that want one.
    pub web: Option<SocketAddr>,
    /// As large as the issue's, not as large as every run has time for.
    pub full: bool,
    pub until: Instant,
    /// How much of the attack the broker took in.
    pub landed: AtomicU64,
}

impl Arena {
    pub fn pick(
        &self,
        dice: &mut Dice,
        often: RangeInclusive<usize>,
        full: RangeInclusive<usize>,
    ) -> usize {
        dice.within(if self.full { full } else { often })
    }

    pub fn land(&self, count: usize) {
        self.landed.fetch_add(count as u64, Ordering::Relaxed);
    }

    pub fn is_over(&self) -> bool {
        Instant::now() >= self.until
    }

    /// Waits for the end of the attack, for what goes on by itself.
    pub fn wait(&self) {
        std::thread::sleep(self.until.saturating_duration_since(Instant::now()));
    }
}

/// What went wrong for others because of it, as far as the attack itself sees it.
pub type Outcome = Result<(), String>;

pub struct Attack {
    pub name: &'static str,
    /// What is counted.
    pub unit: &'static str,
    pub settings: &'static [&'static str],
    /// What goes on until it is stopped goes on so long.
    pub lasts: Duration,
    /// Most memory that the broker may need for it, in MiB.
    pub growth: u64,
    /// It reaches thousands of subscribers at once.
    pub broadcast: bool,
    /// Makes sense with so many shards.
    pub shards: usize,
    pub run: fn(&Arena, &mut Dice) -> Outcome,
}

/// What an operator sets who leaves everything as it is.
const DEFAULT: &[&str] = &[];
/// As many filters as a packet can carry.
const ROOMY: &[&str] = &["mqtt.max_subscriptions=unlimited"];
/// A second listener, for WebSockets.
pub const WEB: &[&str] =
    &["listeners.1.name=web", "listeners.1.type=ws", "listeners.1.bind=127.0.0.1:0"];
/// A ring is full after a few connections, the next one is opened.
const RINGS: &[&str] = &["runtime.sockets_per_ring=64"];

const fn attack(
    name: &'static str,
    unit: &'static str,
    millis: u64,
    growth: u64,
    run: fn(&Arena, &mut Dice) -> Outcome,
) -> Attack {
    let lasts = Duration::from_millis(millis);
    Attack { name, unit, settings: DEFAULT, lasts, growth, broadcast: false, shards: 1, run }
}

impl Attack {
    const fn with(mut self, settings: &'static [&'static str]) -> Attack {
        self.settings = settings;
        self
    }

    const fn broadcasting(mut self) -> Attack {
        self.broadcast = true;
        self
    }

    const fn across(mut self) -> Attack {
        self.shards = 2;
        self
    }
}

pub const ALL: [Attack; 29] = [
    attack("wildcards_times_levels", "messages", 600, 96, subscribing::wildcards_times_levels),
    attack("shared_filters", "filters", 600, 96, subscribing::shared_filters).with(ROOMY),
    attack("plain_filters", "filters", 600, 96, subscribing::plain_filters).with(ROOMY),
    attack("unsubscribe_under_replays", "filters", 600, 128, subscribing::under_replays)
        .with(ROOMY),
    attack("session_end", "sessions", 600, 96, subscribing::session_end).with(ROOMY),
    attack("replays", "messages", 800, 96, subscribing::replays),
    attack("broadcast", "deliveries", 800, 192, publishing::broadcast).broadcasting(),
    attack("qos2_identifiers", "identifiers", 600, 64, publishing::identifiers),
    attack("full_mailboxes", "messages", 800, 160, publishing::full_mailboxes).across(),
    attack("huge_packets", "messages", 800, 160, publishing::huge_packets),
    attack("byte_by_byte", "bytes", 800, 64, publishing::byte_by_byte),
    attack("topic_aliases", "messages", 600, 64, publishing::topic_aliases),
    attack("expired_queues", "messages", 1600, 160, publishing::expired_queues),
    attack("slow_acknowledger", "messages", 3000, 64, reading::slow_acknowledger),
    attack("never_reads", "messages", 800, 128, reading::never_reads),
    attack("half_connects", "bytes", 800, 48, connecting::half_connects),
    attack("churn", "connections", 800, 64, connecting::churn),
    attack("churn_small_rings", "connections", 800, 64, connecting::churn).with(RINGS),
    attack("hot_connects", "connections", 800, 64, connecting::hot_connects),
    attack("garbage", "connections", 600, 64, connecting::garbage),
    attack("long_client_ids", "connections", 600, 128, connecting::long_client_ids),
    attack("takeovers", "connections", 600, 64, connecting::takeovers),
    attack("mass_reset", "connections", 600, 128, connecting::mass_reset).broadcasting(),
    attack("dying_members", "messages", 600, 64, sharing::dying_members),
    attack("web_garbage", "connections", 500, 64, web::garbage).with(WEB),
    attack("web_unfinished", "connections", 600, 96, web::unfinished).with(WEB),
    attack("web_huge_frames", "connections", 500, 64, web::huge_frames).with(WEB),
    attack("web_fragments", "frames", 500, 96, web::fragments).with(WEB),
    attack("web_pings", "pings", 500, 96, web::pings).with(WEB),
];

/// What cannot go on without the peer that was cut off.
fn failed(what: &str) -> impl Fn(io::Error) -> String {
    move |error| format!("{what}: {error}")
}
