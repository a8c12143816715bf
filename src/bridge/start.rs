//! Bridges at the start and the end of the broker: plans for the cores, threads, and the order to
//! stop.
#![allow(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "threads of their own, which share one order with the control thread"
)]

use super::buffer::{Buffer, Place, directory};
use super::feed::{Feed, FeederPlan, feed};
use super::figures::Figures;
use super::http::request::RequestPlan;
use super::http::serve::HttpService;
use super::intake::{Intake, Waiting};
use super::inward::{Inward, Shards};
use super::mqtt::serve::{Connecting, MqttBridge};
use super::mqtt::session::{RemotePlan, RemoteSession};
use super::mqtt::topics::Topics;
use super::orders::{Orders, wait_for_end};
use crate::client_tls::{Authorities, OwnCertificate, client_config, without_authorities};
use crate::config::{
    self, BridgePuback, BridgeStart, BridgeTls, BridgeVersion, BufferMode, Config, Get,
    OnBufferFull,
};
use crate::ids::ClientKey;
use crate::packet::Version;
use crate::shard::{Answering, LinkPlan, WhenFull};
use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::Notify;

/// Bytes that wait in one shard's link at most: what comes while the thread writes to a disk.
const LINK: u64 = 8 << 20;

/// How long putting away what was not sent may take besides: it is written to a disk.
const PUT_AWAY: Duration = Duration::from_secs(3);

/// What a bridge's thread does.
type Work = Box<dyn FnOnce(tokio::runtime::Runtime) + Send>;

/// A bridge before its thread runs.
struct Planned {
    config: config::Bridge,
    own: ClientKey,
    feeds: Vec<Feed>,
    figures: Arc<Figures>,
    bell: Arc<Notify>,
}

/// A bridge whose thread runs.
struct Running {
    thread: JoinHandle<()>,
    bell: Arc<Notify>,
    orders: Arc<Orders>,
}

/// All bridges.
#[derive(Default)]
pub struct Bridges {
    planned: Vec<Planned>,
    running: Vec<Running>,
    figures: Vec<Arc<Figures>>,
    host: String,
    instance: String,
    max_packet_size: u32,
    storage: PathBuf,
}

impl Bridges {
    /// The bridges of the configuration, and what each core needs for them. `zero`: the
    /// wall clock at the zero of the shards' clock. `host`, `instance`: this broker's name in
    /// ClientIds and on paths. `key`: that of a publisher's name.
    pub fn plan(
        config: &Config,
        cores: usize,
        zero: SystemTime,
        (host, instance): (String, String),
        key: impl Fn(&str) -> u64,
    ) -> (Bridges, VecDeque<Vec<FeederPlan>>) {
        let mut feeders: VecDeque<Vec<FeederPlan>> = (0..cores).map(|_| Vec::new()).collect();
        let mut planned = Vec::new();
        let zero = zero.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64;
        for bridge in config.bridges.iter() {
            // ClientIds have no such character: it is nobody else's key.
            let own = ClientKey::new(key(&format!("\0bridge/{}", &*bridge.name)));
            let Some((kind, filters)) = kind_and_filters(bridge) else { continue };
            let figures = Figures::new(&bridge.name, kind, cores, bridge.buffer.max_bytes.get());
            let bell = Arc::new(Notify::new());
            let link = LinkPlan {
                filters,
                bytes: bridge.buffer.max_bytes.get().min(LINK) as usize,
                when_full: when_full(bridge),
                names: kind != "mqtt",
                own: Some(own),
                zero,
                answering: answering(bridge),
            };
            let mut feeds = Vec::with_capacity(cores);
            for (feeders, figures) in feeders.iter_mut().zip(&figures.feeds) {
                let (feeder, end) = feed(link.clone(), &bell, figures);
                feeders.push(feeder);
                feeds.push(end);
            }
            planned.push(Planned { config: bridge.clone(), own, feeds, figures, bell });
        }
        let figures = planned.iter().map(|planned| Arc::clone(&planned.figures)).collect();
        let bridges = Bridges {
            planned,
            running: Vec::new(),
            figures,
            host,
            instance,
            max_packet_size: config.mqtt.max_packet_size.get(),
            storage: Path::new(&*config.storage.path).to_owned(),
        };
        (bridges, feeders)
    }

    /// What each bridge counts.
    pub fn figures(&self) -> &[Arc<Figures>] {
        &self.figures
    }

    /// Starts their threads.
    ///
    /// # Errors
    /// Which bridge cannot start, and why.
    pub fn start(&mut self, shards: &Shards) -> Result<(), String> {
        for planned in std::mem::take(&mut self.planned) {
            let name = planned.config.name.to_string();
            let running = self.start_one(planned, shards);
            self.running.push(running.map_err(|why| format!("bridge {name}: {why}"))?);
        }
        Ok(())
    }

    fn start_one(&self, planned: Planned, shards: &Shards) -> Result<Running, String> {
        let Planned { config, own, mut feeds, figures, bell } = planned;
        for (feed, submit) in feeds.iter_mut().zip(&shards.submit) {
            feed.wake_by(Arc::clone(submit));
        }
        let orders = Arc::new(Orders::default());
        let (bell_of_thread, orders_of_thread) = (Arc::clone(&bell), Arc::clone(&orders));
        let intake = Intake {
            buffer: self.buffer(&config)?,
            feeds,
            figures,
            bell: bell_of_thread,
            orders: orders_of_thread,
            waiting: Waiting::default(),
        };
        let name = &config.name;
        let work: Work = if let Some(mqtt) = &*config.mqtt {
            let state = format!("$SYS/broker/connection/{}/state", &**name);
            let inward = Inward::new(shards.clone(), own, &state);
            let session = RemoteSession::new(self.remote(name, mqtt));
            let bridge = MqttBridge { connecting: connecting(mqtt)?, session, intake, inward };
            Box::new(move |runtime| runtime.block_on(bridge.run()))
        } else if let Some(http) = &*config.http {
            let service = self.service(http, intake)?;
            Box::new(move |runtime| runtime.block_on(service.run()))
        } else if let Some(kafka) = &*config.kafka {
            let state = format!("$SYS/broker/connection/{}/state", &**name);
            let inward = Inward::new(shards.clone(), own, &state);
            to_kafka(kafka, intake, inward, self.max_packet_size as usize)?
        } else {
            return Err("it has no other end".to_owned());
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| error.to_string())?;
        let thread = std::thread::Builder::new().name(format!("bridge-{}", &**name));
        let thread = thread.spawn(move || work(runtime)).map_err(|error| error.to_string())?;
        Ok(Running { thread, bell, orders })
    }

    fn service(&self, http: &config::HttpBridge, intake: Intake) -> Result<HttpService, String> {
        let tls = match &*http.tls {
            Some(tls) => secured(tls)?,
            None if http.url.starts_with("https:") => secured(&BridgeTls::default())?,
            // Not used.
            None => without_authorities(),
        };
        Ok(HttpService {
            intake,
            plan: Arc::new(RequestPlan::new(http, &self.instance)?),
            batch: http.batch.get() as usize,
            lanes: http.lanes.get() as usize,
            timeout: http.timeout.get(),
            retry: (http.retry.min.get(), http.retry.max.get()),
            tries: http.tries.get(),
            tls: Arc::new(tls),
        })
    }

    fn buffer(&self, config: &config::Bridge) -> Result<Buffer, String> {
        let buffer = &config.buffer;
        let directory = directory(config, &self.storage);
        let segment = buffer.segment.get();
        let place = match buffer.mode {
            BufferMode::Memory => Place::Memory,
            BufferMode::Disk => Place::Disk(&directory, segment),
            BufferMode::Hybrid => Place::Both(&directory, segment),
        };
        let opened = Buffer::open(buffer.max_bytes.get(), when_full(config), place);
        opened.map_err(|error| format!("buffer: {}: {error}", directory.display()))
    }

    fn remote(&self, name: &str, mqtt: &config::MqttBridge) -> RemotePlan {
        let client_id = match &mqtt.client_id.0 {
            Some(given) => given.to_string(),
            None => format!("{}.{name}", self.host),
        };
        let state_topic = match &*mqtt.notification_topic {
            _ if !mqtt.notifications => None,
            "" => Some(format!("$SYS/broker/connection/{client_id}/state")),
            given => Some(given.to_owned()),
        };
        RemotePlan {
            topics: Topics::new(&mqtt.topics),
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
            max_packet_size: self.max_packet_size,
        }
    }

    /// The cores have ended: bridges send what waits, at most until then, put the rest away, and
    /// end.
    pub fn stop(&mut self, until: Instant) {
        for running in &self.running {
            running.orders.end(until);
            running.bell.notify_one();
        }
        // The cores may have left nothing of the time.
        let end = until.max(Instant::now()) + PUT_AWAY;
        for running in self.running.drain(..) {
            // One that does not come back ends with the process.
            wait_for_end(&running.thread, end);
        }
    }
}

/// The kind of a bridge, and the filters of its link.
fn kind_and_filters(bridge: &config::Bridge) -> Option<(&'static str, Vec<Box<str>>)> {
    Some(match (&*bridge.mqtt, &*bridge.http, &*bridge.kafka) {
        (Some(mqtt), ..) => ("mqtt", Topics::new(&mqtt.topics).outward()),
        (_, Some(http), _) => ("http", http.filters.to_vec()),
        (.., Some(kafka)) => {
            let filters = kafka.routes.iter().map(|route| Box::from(&*route.filter));
            ("kafka", filters.collect())
        }
        (None, None, None) => return None,
    })
}

#[cfg(feature = "kafka")]
fn to_kafka(
    kafka: &config::KafkaBridge,
    intake: Intake,
    inward: Inward,
    most: usize,
) -> Result<Work, String> {
    let bridge = super::kafka::serve::KafkaBridge::new(kafka, intake, inward, most)?;
    Ok(Box::new(move |runtime| runtime.block_on(bridge.run())))
}

#[cfg(not(feature = "kafka"))]
fn to_kafka(_: &config::KafkaBridge, _: Intake, _: Inward, _: usize) -> Result<Work, String> {
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

/// What TLS is spoken with.
fn secured(tls: &BridgeTls) -> Result<rustls::ClientConfig, String> {
    let own = OwnCertificate::at(&tls.certificate, &tls.private_key);
    client_config(Authorities::at(&tls.ca), own).map_err(|error| format!("tls.{error}"))
}

fn connecting(mqtt: &config::MqttBridge) -> Result<Connecting, String> {
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
