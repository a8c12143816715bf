//! Makes bridges from the configuration: the plan of their links, their [`Intake`]s, and the work
//! of their threads.
#![allow(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "threads of their own, which share one order with the control thread"
)]

use super::buffer::{Buffer, BufferPlace, directory, may_pass};
use super::feed::{BridgeId, Feed, FeederPlan, feed};
use super::figures::BridgeFigures;
use super::http::request::RequestPlan;
use super::http::serve::HttpBridge;
use super::intake::{Intake, WaitingPublishers};
use super::inward::{BridgeIdentity, Inward, Shards};
use super::lanes::{self, BridgeLane, LaneStates};
use super::mqtt::refusals::Refusals;
use super::mqtt::serve::{Connecting, MqttBridge};
use super::mqtt::session::{RemotePlan, RemoteSession};
use super::mqtt::topics::Topics;
use super::numbers::Numbers;
use super::orders::Orders;
use super::thread::BridgeWork;
#[cfg(feature = "kafka")]
use crate::client_tls::check_files;
use crate::client_tls::{Authorities, OwnCertificate, client_config, without_authorities};
use crate::config::{
    self, BridgePuback, BridgeStart, BridgeTls, BridgeVersion, BufferMode, Get, OnBufferFull,
};
use crate::ids::ClientKey;
use crate::packet::Version;
use crate::shard::{Answering, LinkPart, LinkPlan, WhenFull};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;

/// The most bytes that wait in one shard's link: messages that arrive while the thread writes to a
/// disk.
const LINK: u64 = 8 << 20;

/// How often a directory is tried again at the start, and the pause before.
const TRIES: u32 = 5;
const PAUSE: Duration = Duration::from_millis(200);

/// What all bridges of this process share.
pub struct Common {
    /// This broker's name in ClientIds.
    pub host: String,
    /// This broker's name on the paths of messages.
    pub instance: String,
    /// `storage.path`.
    pub storage: PathBuf,
    /// Milliseconds since 1970 at the zero of the shards' clock.
    pub zero: u64,
    /// The number of cores.
    pub cores: usize,
    /// Computes a publisher's key from its name.
    pub key: Box<dyn Fn(&str) -> u64 + Send + Sync>,
}

/// A lane of a bridge as a configuration wants it, after all checks.
pub struct WantedLane {
    /// The bridge's configuration.
    pub config: config::Bridge,
    /// The lane.
    pub lane: BridgeLane,
    /// The kind of its other end.
    pub kind: &'static str,
    /// A digest of the files that the configuration names.
    pub files: u64,
    /// The work of its thread.
    pub work: BridgeWork,
}

/// A lane of a bridge before its thread runs.
pub struct Planned {
    /// The bridge's configuration.
    pub config: config::Bridge,
    /// The lane.
    pub lane: BridgeLane,
    /// Its number for the cores.
    pub id: BridgeId,
    /// Its link on each core.
    pub link: LinkPlan,
    /// Its figures.
    pub figures: Arc<BridgeFigures>,
    numbers: Numbers,
    feeds: Vec<Feed>,
    bell: Arc<Notify>,
}

impl Common {
    /// The key of a bridge as a publisher.
    fn own(&self, name: &str) -> ClientKey {
        // ClientIds cannot contain NUL, so no client has this name.
        ClientKey::new((self.key)(&format!("\0bridge/{name}")))
    }

    /// Plans a lane of a bridge, and what each core needs for it.
    ///
    /// # Errors
    /// Fails when the file in its directory cannot be read.
    pub fn plan(
        &self,
        id: BridgeId,
        config: &config::Bridge,
        lane: BridgeLane,
    ) -> Result<(Planned, Vec<FeederPlan>), String> {
        let numbers = self.numbers(config)?;
        let link = self.link(config, &numbers, lane);
        let (kind, most) = (kind(config), most_bytes(config, lane));
        let figures = BridgeFigures::new(&config.name, kind, self.cores, most);
        let bell = Arc::new(Notify::new());
        let each = figures.feeds.iter().map(|figures| feed(id, link.clone(), &bell, figures));
        let (feeders, feeds) = each.unzip();
        let config = config.clone();
        Ok((Planned { config, lane, id, link, figures, numbers, feeds, bell }, feeders))
    }

    /// Moves messages on disk that are laid out for another number of lanes to the present lanes.
    fn gather(&self, config: &config::Bridge, of: u16) -> Result<(), String> {
        if config.buffer.mode == BufferMode::Memory || config.mqtt.is_none() {
            return Ok(());
        }
        let directory = directory(config, &self.storage);
        let segment = config.buffer.segment.get();
        let moved = patiently(|| lanes::gather(&directory, of, segment));
        let moved = moved.map_err(|error| format!("buffer: {}: {error}", directory.display()))?;
        if moved > 0 {
            let bridge = &*config.name;
            tracing::info!(bridge, moved, "what waited is shared by another number of connections");
        }
        Ok(())
    }

    /// The plan for the links of a bridge's lane.
    pub fn link(&self, config: &config::Bridge, numbers: &Numbers, lane: BridgeLane) -> LinkPlan {
        let kind = kind(config);
        let first = || config.mqtt.as_ref().map(|mqtt| Topics::new(&mqtt.topics).both());
        let part =
            || LinkPart { number: lane.number, of: lane.of, first: first().unwrap_or_default() };
        LinkPlan {
            filters: filters(config),
            numbers: numbers.current().to_vec(),
            // With Kafka, each route gets its own copy of a message.
            once: kind != "kafka",
            part: (lane.of > 1).then(part),
            bytes: (most_bytes(config, lane)).min(LINK / u64::from(lane.of)) as usize,
            when_full: when_full(config),
            names: kind != "mqtt",
            own: Some(self.own(&config.name)),
            zero: self.zero,
            answering: answering(config),
        }
    }

    fn numbers(&self, config: &config::Bridge) -> Result<Numbers, String> {
        let Some(kafka) = &*config.kafka else { return Ok(Numbers::default()) };
        let filters = kafka.routes.iter().map(|route| &*route.filter);
        if config.buffer.mode == BufferMode::Memory {
            return Ok(Numbers::new(filters));
        }
        let directory = directory(config, &self.storage);
        let opened = patiently(|| Numbers::open(&directory, filters.clone()));
        opened.map_err(|error| format!("buffer: {}: {error}", directory.display()))
    }

    /// Updates the numbers of a bridge whose routes have changed.
    ///
    /// # Errors
    /// Fails when its directory cannot be written, or when there have been too many filters.
    pub fn renumber(&self, config: &config::Bridge, numbers: &mut Numbers) -> Result<(), String> {
        let Some(kafka) = &*config.kafka else { return Ok(()) };
        let filters = kafka.routes.iter().map(|route| &*route.filter);
        let mut new = numbers.clone();
        new.change(filters).map_err(|error| format!("routes: {error}"))?;
        if config.buffer.mode != BufferMode::Memory && new != *numbers {
            let directory = directory(config, &self.storage);
            std::fs::create_dir_all(&directory)
                .and_then(|()| new.save(&directory))
                .map_err(|error| format!("buffer: {}: {error}", directory.display()))?;
        }
        *numbers = new;
        Ok(())
    }

    /// The [`Intake`] of a bridge's lane. With the first lane, messages on disk that are laid out
    /// for another number of lanes are moved; not earlier, because during an upgrade the old
    /// process still owns them.
    ///
    /// # Errors
    /// Fails when its directory cannot be used.
    pub fn intake(&self, planned: Planned, shards: &Shards) -> Result<Intake, String> {
        let Planned { config, lane, figures, numbers, mut feeds, bell, .. } = planned;
        if lane.is_first() {
            self.gather(&config, lane.of)?;
        }
        for (feed, tell) in feeds.iter_mut().zip(&shards.tell) {
            feed.wake_by(Arc::clone(tell));
        }
        let (most, full) = (most_bytes(&config, lane), when_full(&config));
        let opened = self.at_place(&config, lane, |place| Buffer::open_or_wait(most, full, place));
        let (orders, waiting) = (Arc::new(Orders::default()), WaitingPublishers::default());
        Ok(Intake { buffer: opened?, feeds, figures, bell, orders, waiting, numbers })
    }

    /// Changes a buffer to what the configuration says.
    ///
    /// # Errors
    /// Fails when its directory cannot be used; then nothing has changed.
    pub fn change(
        &self,
        config: &config::Bridge,
        lane: BridgeLane,
        buffer: &mut Buffer,
    ) -> Result<(), String> {
        let (most, full) = (most_bytes(config, lane), when_full(config));
        self.at_place(config, lane, |place| buffer.change(most, full, place))
    }

    fn at_place<T>(
        &self,
        config: &config::Bridge,
        lane: BridgeLane,
        open: impl FnOnce(BufferPlace<'_>) -> std::io::Result<T>,
    ) -> Result<T, String> {
        let directory = lane.directory(&directory(config, &self.storage));
        let segment = config.buffer.segment.get();
        let place = match config.buffer.mode {
            BufferMode::Memory => BufferPlace::Memory,
            BufferMode::Disk => BufferPlace::Disk(&directory, segment),
            BufferMode::Hybrid => BufferPlace::Both(&directory, segment),
        };
        open(place).map_err(|error| format!("buffer: {}: {error}", directory.display()))
    }

    /// The lanes of a bridge that the configuration wants.
    ///
    /// # Errors
    /// What is wrong with the bridge, with the key.
    pub fn wanted(
        &self,
        bridge: &config::Bridge,
        lanes: u16,
        most: u32,
        shards: &Shards,
    ) -> Result<Vec<WantedLane>, String> {
        let (state, files) = (LaneStates::new(lanes), files(bridge));
        let wanted = |lane: BridgeLane| {
            let (kind, config) = (kind(bridge), bridge.clone());
            let inward = self.inward(&bridge.name, lane, &state, shards);
            let work = if let Some(mqtt) = &*bridge.mqtt {
                self.to_broker(&bridge.name, lane, (mqtt, most), inward)
            } else if let Some(http) = &*bridge.http {
                to_service(http)
            } else if let Some(kafka) = &*bridge.kafka {
                to_kafka(&bridge.name, kafka, inward, most as usize)
            } else {
                Err("it has no other end".to_owned())
            };
            let work = work.map_err(|why| format!("{kind}.{why}"))?;
            Ok(WantedLane { config, lane, kind, files, work })
        };
        BridgeLane::all(lanes).map(wanted).collect()
    }

    /// How a bridge gives messages to the shards.
    fn inward(
        &self,
        name: &str,
        lane: BridgeLane,
        state: &LaneStates,
        shards: &Shards,
    ) -> impl Fn() -> Inward + Send + Sync + use<> {
        let (shards, topic, state) = (shards.clone(), state_topic(name), state.clone());
        let own = BridgeIdentity { key: self.own(name), name: name.into() };
        move || Inward::new(shards.clone(), own.clone(), &topic, &state, lane.number)
    }

    fn to_broker(
        &self,
        name: &str,
        lane: BridgeLane,
        (mqtt, most): (&config::MqttBridgeConfig, u32),
        inward: impl Fn() -> Inward + Send + Sync + 'static,
    ) -> Result<BridgeWork, String> {
        let (connecting, plan) = (connecting(mqtt)?, self.remote(name, lane, mqtt, most));
        let (policy, longest) = (mqtt.on_refused, mqtt.retry.max.get());
        Ok(Arc::new(move |intake, runtime| {
            let (connecting, session) = (connecting.clone(), RemoteSession::new(plan.clone()));
            let (refusals, inward) = (Refusals::new(policy, longest), inward());
            let complained = None;
            let bridge = MqttBridge { connecting, session, refusals, complained, intake, inward };
            runtime.block_on(bridge.run());
            Ok(())
        }))
    }

    fn remote(
        &self,
        name: &str,
        lane: BridgeLane,
        mqtt: &config::MqttBridgeConfig,
        most: u32,
    ) -> RemotePlan {
        let client_id = match &mqtt.client_id.0 {
            Some(given) => given.to_string(),
            None => format!("{}.{name}", self.host),
        };
        let client_id = format!("{client_id}{}", lane.suffix());
        let state_topic = match &*mqtt.notification_topic {
            _ if !mqtt.notifications => None,
            "" => Some(format!("$SYS/broker/connection/{client_id}/state")),
            given => Some(given.to_owned()).filter(|_| lane.is_first()),
        };
        let topics = Topics::new(&mqtt.topics);
        RemotePlan {
            topics: if lane.is_first() { topics } else { topics.only_outward() },
            version: match mqtt.protocol_version {
                BridgeVersion::V5 => Version::V5,
                BridgeVersion::V311 => Version::V311,
            },
            client_id,
            username: mqtt.username.to_string(),
            password: mqtt.password.to_string(),
            clean_start: mqtt.clean_start,
            session_expiry: mqtt.session_expiry.get().as_secs().try_into().unwrap_or(u32::MAX),
            keep_alive: mqtt.keep_alive.get().as_secs().try_into().unwrap_or(u16::MAX),
            max_inflight: mqtt.max_inflight.get(),
            receive_maximum: mqtt.receive_maximum.get(),
            state_topic,
            max_hops: mqtt.max_hops.get(),
            instance: self.instance.clone(),
            max_packet_size: most,
        }
    }
}

/// Tries something with a directory several times, at most for a second, while it fails for a
/// reason that may pass. Unlike what waits, it has to be known before the broker takes messages.
fn patiently<T>(mut attempt: impl FnMut() -> std::io::Result<T>) -> std::io::Result<T> {
    for _ in 0..TRIES {
        match attempt() {
            Err(error) if may_pass(&error) => std::thread::sleep(PAUSE),
            other => return other,
        }
    }
    attempt()
}

/// The most bytes that wait in a lane of a bridge.
pub fn most_bytes(bridge: &config::Bridge, lane: BridgeLane) -> u64 {
    bridge.buffer.max_bytes.get() / u64::from(lane.of)
}

/// The topic name of a bridge's state at this broker.
pub fn state_topic(name: &str) -> String {
    format!("$SYS/broker/connection/{name}/state")
}

/// The kind of a bridge's other end: the key in the configuration.
pub fn kind(bridge: &config::Bridge) -> &'static str {
    match (&*bridge.mqtt, &*bridge.http) {
        (Some(_), _) => "mqtt",
        (_, Some(_)) => "http",
        (None, None) => "kafka",
    }
}

/// The filters of a bridge's links.
fn filters(bridge: &config::Bridge) -> Vec<Box<str>> {
    match (&*bridge.mqtt, &*bridge.http, &*bridge.kafka) {
        (Some(mqtt), ..) => Topics::new(&mqtt.topics).outward(),
        (_, Some(http), _) => http.filters.to_vec(),
        (.., Some(kafka)) => kafka.routes.iter().map(|route| (&*route.filter).into()).collect(),
        (None, None, None) => Vec::new(),
    }
}

/// A digest of the files that a bridge names: it changes when a certificate is renewed.
fn files(bridge: &config::Bridge) -> u64 {
    let mqtt = bridge.mqtt.as_ref().and_then(|mqtt| mqtt.tls.as_ref());
    let http = bridge.http.as_ref().and_then(|http| http.tls.as_ref());
    let own = mqtt.or(http).map(|tls| [&tls.ca, &tls.certificate, &tls.private_key]);
    let kafka = bridge.kafka.as_ref().and_then(|kafka| kafka.tls.as_ref());
    let named = own.or(kafka.map(|tls| [&tls.ca, &tls.certificate, &tls.private_key]));
    let named = named.into_iter().flatten().filter(|path| !path.is_empty());
    named.fold(0, |sum, path| {
        let bytes = std::fs::read(&**path).unwrap_or_default();
        sum.rotate_left(7) ^ (u64::from(crc32c::crc32c(&bytes)) << 20) ^ bytes.len() as u64
    })
}

fn to_service(http: &config::HttpBridgeConfig) -> Result<BridgeWork, String> {
    let tls = match &*http.tls {
        Some(tls) => secured(tls)?,
        None if http.url.starts_with("https:") => secured(&BridgeTls::default())?,
        // This configuration is not used.
        None => without_authorities(),
    };
    let (plan, tls) = (Arc::new(RequestPlan::new(http)?), Arc::new(tls));
    let (batch, lanes) = (http.batch.get() as usize, http.lanes.get() as usize);
    let (timeout, retry) = (http.timeout.get(), (http.retry.min.get(), http.retry.max.get()));
    let tries = http.tries.get();
    Ok(Arc::new(move |intake, runtime| {
        let (plan, tls) = (Arc::clone(&plan), Arc::clone(&tls));
        let service = HttpBridge { intake, plan, batch, lanes, timeout, retry, tries, tls };
        runtime.block_on(service.run());
        Ok(())
    }))
}

#[cfg(feature = "kafka")]
fn to_kafka(
    name: &str,
    kafka: &config::KafkaBridgeConfig,
    inward: impl Fn() -> Inward + Send + Sync + 'static,
    most: usize,
) -> Result<BridgeWork, String> {
    use super::kafka::serve::KafkaBridge;
    use super::kafka::token::TokenSource;
    if let Some(tls) = &*kafka.tls {
        let own = OwnCertificate::at(&tls.certificate, &tls.private_key);
        // The library has a password for an encrypted key, by a property of its own.
        let hidden = kafka.properties.iter().any(|(name, _)| &**name == "ssl.key.password");
        check_files(Authorities::at(&tls.ca), own, hidden)
            .map_err(|error| format!("tls.{error}"))?;
    }
    let tokens = kafka.sasl.as_ref().map(|sasl| TokenSource::new(sasl, name)).transpose()?;
    let tokens = tokens.flatten().map(Arc::new);
    let kafka = kafka.clone();
    Ok(Arc::new(move |intake, runtime| {
        let bridge = KafkaBridge::new(&kafka, tokens.clone(), intake, inward(), most)?;
        runtime.block_on(bridge.run());
        Ok(())
    }))
}

#[cfg(not(feature = "kafka"))]
fn to_kafka(
    _: &str,
    _: &config::KafkaBridgeConfig,
    _: impl Fn() -> Inward,
    _: usize,
) -> Result<BridgeWork, String> {
    Err("this program was built without kafka".to_owned())
}

fn when_full(bridge: &config::Bridge) -> WhenFull {
    match bridge.buffer.on_full {
        OnBufferFull::DropOldest => WhenFull::DropOldest,
        OnBufferFull::DropNew => WhenFull::DropNew,
        OnBufferFull::Pause => WhenFull::Pause,
    }
}

fn answering(bridge: &config::Bridge) -> Answering {
    match bridge.puback {
        BridgePuback::Accepted => Answering::Accepted,
        BridgePuback::Delivered => {
            let patience = bridge.puback_timeout.get();
            Answering::Delivered(patience.map(|patience| patience.as_millis() as u64))
        }
    }
}

/// The TLS configuration for a bridge.
fn secured(tls: &BridgeTls) -> Result<rustls::ClientConfig, String> {
    let own = OwnCertificate::at(&tls.certificate, &tls.private_key);
    client_config(Authorities::at(&tls.ca), own).map_err(|error| format!("tls.{error}"))
}

fn connecting(mqtt: &config::MqttBridgeConfig) -> Result<Connecting, String> {
    let address = |text: &str| {
        let (host, port) = text.rsplit_once(':').unwrap_or((text, "1883"));
        let host = host.trim_start_matches('[').trim_end_matches(']');
        (host.to_owned(), port.parse().unwrap_or(1883))
    };
    let tls = match &*mqtt.tls {
        None => None,
        Some(tls) => {
            let name = Some(tls.server_name.to_string()).filter(|name| !name.is_empty());
            Some((Arc::new(secured(tls)?), name))
        }
    };
    let lazy = (mqtt.lazy.threshold.get() as usize, mqtt.lazy.idle.get());
    Ok(Connecting {
        addresses: mqtt.addresses.iter().map(|text| address(text)).collect(),
        round_robin: mqtt.round_robin,
        timeout: mqtt.timeout.get(),
        retry: (mqtt.retry.min.get(), mqtt.retry.max.get()),
        once: mqtt.start == BridgeStart::Once,
        lazy: Some(lazy).filter(|_| mqtt.start == BridgeStart::Lazy),
        private: mqtt.try_private,
        tls,
    })
}
