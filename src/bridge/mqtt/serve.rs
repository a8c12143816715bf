//! The connections of a bridge to another MQTT broker, one after the other, on the bridge's thread:
//! waiting messages are sent, and received messages go to the shards. One loop does this without
//! further tasks: each turn does what can be done now, and then waits for the socket, the cores,
//! the shards' answers and the clock together.
#![allow(clippy::disallowed_methods, reason = "on the bridge's own thread, never on a core's")]

use super::liveness::Liveness;
use super::refusals::{Judgement, Refusals};
use super::session::{BridgeEvent, ExchangeTrouble, RemoteSession, SendOutcome};
use crate::bridge::figures::{BridgeDropReason, BridgeState};
use crate::bridge::intake::{Intake, wall_millis};
use crate::bridge::inward::{Inward, Settled};
use crate::packet::{self, Framing, Qos, ReasonCode};
use rustls::pki_types::ServerName;
use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::sync::futures::Notified;
use tokio::time::Sleep;
use tokio_rustls::TlsConnector;

/// Bytes that are encoded ahead of the socket.
const AHEAD: usize = 128 * 1024;
/// Bytes that are read at a time.
const READ: usize = 64 * 1024;
/// The most messages from the other broker that are not settled here; with as many, nothing is
/// read. Needed where the other end does not count them: QoS 0, and version 3.
const UNSETTLED: usize = 1024;
/// The longest sleep of a bridge with nothing else to wait for.
const LOOK: Duration = Duration::from_secs(3600);
/// The least interval between two log lines about refused messages.
const COMPLAINT: Duration = Duration::from_secs(10);

/// How a bridge connects.
#[derive(Clone)]
pub struct Connecting {
    /// Host and port of each address, in order.
    pub addresses: Vec<(String, u16)>,
    /// Whether the address after the lost one is tried next, instead of the first one.
    pub round_robin: bool,
    /// The longest time for opening a connection, and for each answer until it is ready.
    pub timeout: Duration,
    /// The shortest and the longest pause between attempts.
    pub retry: (Duration, Duration),
    /// Whether the bridge connects only once.
    pub once: bool,
    /// The number of waiting messages with which the bridge connects, and the time without messages
    /// after which it disconnects; `None` when it is always connected.
    pub lazy: Option<(usize, Duration)>,
    /// Whether CONNECT of version 3 tells that the client is a bridge.
    pub private: bool,
    /// The TLS configuration, and the name that the certificate must have; `None` for the host of
    /// the address.
    pub tls: Option<(Arc<rustls::ClientConfig>, Option<String>)>,
}

/// A bridge to another MQTT broker.
pub struct MqttBridge<'a> {
    /// How the bridge connects.
    pub connecting: Connecting,
    /// The session with the other broker.
    pub session: RemoteSession,
    /// The state of refusals by the other broker.
    pub refusals: Refusals,
    /// When refusals were last logged.
    pub complained: Option<Instant>,
    /// The side of the bridge towards this broker.
    pub intake: &'a mut Intake,
    /// The way of received messages to the shards.
    pub inward: Inward,
}

trait Io: AsyncRead + AsyncWrite + Unpin {}
impl<T: AsyncRead + AsyncWrite + Unpin> Io for T {}

/// Why a connection has ended, or could not be opened.
enum Broken {
    Io(io::Error),
    Trouble(ExchangeTrouble),
    /// The other broker was silent for too long.
    Silent,
    /// There were no messages for a while.
    Unneeded,
    /// The bridge is to end.
    Ordered,
}

impl std::fmt::Display for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Broken::Io(error) => error.fmt(f),
            Broken::Trouble(trouble) => trouble.fmt(f),
            Broken::Silent => f.write_str("it does not answer in time"),
            Broken::Unneeded => f.write_str("there was nothing to do"),
            Broken::Ordered => f.write_str("the broker stops"),
        }
    }
}

impl From<io::Error> for Broken {
    fn from(error: io::Error) -> Self {
        Broken::Io(error)
    }
}

impl MqttBridge<'_> {
    /// Connects, and reconnects, until the bridge is to end.
    pub async fn run(mut self) {
        self.connect_again_and_again().await;
    }

    async fn connect_again_and_again(&mut self) {
        let (mut at, mut failures) = (0, 0);
        self.inward.publish_state(false);
        loop {
            if !self.is_wanted().await {
                return;
            }
            self.intake.figures.set_state(BridgeState::Connecting);
            let addresses = &self.connecting.addresses;
            let next = addresses.get(at % addresses.len().max(1));
            let Some((host, port)) = next.cloned() else { return };
            let broken = self.connection(&host, port, &mut failures).await;
            self.intake.figures.set_state(BridgeState::Waiting);
            self.intake.buffer.rewind();
            self.refusals.ebb(Instant::now());
            self.inward.publish_state(false);
            let name = &*self.intake.figures.name;
            match &broken {
                Broken::Ordered => return,
                Broken::Unneeded => {
                    tracing::info!(bridge = name, "bridge disconnected: nothing to do");
                    self.intake.figures.set_state(BridgeState::Idle);
                    continue;
                }
                _ => {
                    tracing::warn!(bridge = name, host, port, why = %broken, "bridge not connected")
                }
            }
            self.intake.figures.failures.add(1);
            if self.connecting.once {
                self.intake.figures.set_state(BridgeState::Idle);
                tracing::warn!(bridge = name, "bridge ends: start is once");
                self.rest(LOOK * 24 * 365).await;
                return;
            }
            failures += 1;
            at = if self.connecting.round_robin || failures > 1 { at + 1 } else { 0 };
            if self.private_refused(&broken) {
                continue;
            }
            if !self.rest(self.pause(failures)).await {
                return;
            }
        }
    }

    /// Whether the other broker refused the version because of the bridge bit, which a broker
    /// without bridges takes for an unknown version 3. Then the next attempt follows at once,
    /// without the bit.
    fn private_refused(&mut self, broken: &Broken) -> bool {
        let version = ReasonCode::UnsupportedProtocolVersion;
        let refused =
            matches!(broken, Broken::Trouble(ExchangeTrouble::Refused(r)) if *r == version);
        refused && std::mem::take(&mut self.connecting.private)
    }

    /// A random pause between the shortest and the longest one, whose upper limit doubles with each
    /// failure.
    fn pause(&self, failures: u32) -> Duration {
        use std::hash::BuildHasher;
        let (min, max) = self.connecting.retry;
        let most = min.saturating_mul(1 << failures.min(16)).min(max).max(min);
        let share = std::hash::RandomState::new().hash_one(failures) % 1000;
        min + (most - min).mul_f64(share as f64 / 1000.0)
    }

    /// Waits until there is enough to do. Returns false when the bridge is to end.
    async fn is_wanted(&mut self) -> bool {
        loop {
            self.intake.take();
            if self.intake.orders.is_ending() {
                return false;
            }
            match self.connecting.lazy {
                Some((threshold, _)) if self.intake.buffer.len() < threshold => {
                    self.intake.figures.set_state(BridgeState::Idle);
                    if !self.rest(LOOK).await {
                        return false;
                    }
                }
                _ => return true,
            }
        }
    }

    /// Waits for `pause` and takes in the cores' messages meanwhile; a lazy bridge waits only until
    /// it has enough messages. Returns false when the bridge is to end.
    async fn rest(&mut self, pause: Duration) -> bool {
        let lazy =
            self.connecting.lazy.filter(|_| self.intake.figures.state() == BridgeState::Idle);
        self.meanwhile(tokio::time::sleep(pause), |bridge| {
            lazy.is_some_and(|(threshold, _)| bridge.intake.buffer.len() >= threshold)
        })
        .await;
        !self.intake.orders.is_ending()
    }

    /// Waits for `wanted` and takes in the cores' messages meanwhile. `None` when the bridge is to
    /// end first, or `enough` returns true.
    async fn meanwhile<F: Future>(
        &mut self,
        wanted: F,
        enough: impl Fn(&Self) -> bool,
    ) -> Option<F::Output> {
        let bell = Arc::clone(&self.intake.bell);
        let (mut wanted, mut rung) = (pin!(wanted), pin!(bell.notified()));
        std::future::poll_fn(|context| {
            let mut settled = Vec::new();
            while self.inward.poll_settled(context, &mut settled).is_ready() {}
            self.inward.hand_out(Instant::now());
            while rung.as_mut().poll(context).is_ready() {
                rung.set(bell.notified());
                self.intake.take();
            }
            if self.intake.orders.is_ending() || enough(self) {
                return Poll::Ready(None);
            }
            wanted.as_mut().poll(context).map(Some)
        })
        .await
    }

    /// Opens one connection and serves it until its end.
    async fn connection(&mut self, host: &str, port: u16, failures: &mut u32) -> Broken {
        let timeout = self.connecting.timeout;
        let tls = self.connecting.tls.clone();
        let opening = tokio::time::timeout(timeout, open(host, port, tls));
        let stream = match self.meanwhile(opening, |_| false).await {
            None => return Broken::Ordered,
            Some(Err(_)) => return Broken::Silent,
            Some(Ok(Err(error))) => return Broken::Io(error),
            Some(Ok(Ok(stream))) => stream,
        };
        self.session.connect(self.connecting.private);
        let bell = Arc::clone(&self.intake.bell);
        let mut rung = pin!(bell.notified());
        let mut sleep = pin!(tokio::time::sleep(timeout));
        let mut connection = BridgeStream::new(stream, timeout);
        let broken = std::future::poll_fn(|context| {
            match self.turn(&mut connection, context, (&bell, &mut rung), &mut sleep) {
                Ok(()) => Poll::Pending,
                Err(broken) => Poll::Ready(broken),
            }
        })
        .await;
        if connection.was_ready {
            *failures = 0;
        }
        if matches!(broken, Broken::Ordered | Broken::Unneeded) {
            self.session.disconnect();
            let farewell = std::future::poll_fn(|context| {
                connection.write(context, &mut self.session, self.intake)
            });
            let _ = tokio::time::timeout(Duration::from_secs(1), farewell).await;
        }
        broken
    }

    /// Does everything that can be done now, and arranges to be woken for the rest.
    fn turn<'b>(
        &mut self,
        connection: &mut BridgeStream,
        context: &mut Context<'_>,
        (bell, rung): (&'b Notify, &mut Pin<&mut Notified<'b>>),
        sleep: &mut Pin<&mut Sleep>,
    ) -> Result<(), Broken> {
        loop {
            let mut idle = true;
            while rung.as_mut().poll(context).is_ready() {
                rung.set(bell.notified());
                self.intake.take();
                idle = false;
            }
            let mut settled = Vec::new();
            while self.inward.poll_settled(context, &mut settled).is_ready() {
                idle = false;
            }
            self.settle(&settled);
            let full = self.inward.under_way() >= UNSETTLED;
            if !full && connection.read(context)?.is_ready() {
                self.understand(connection)?;
                idle = false;
            }
            let moment = Instant::now();
            if full {
                // What the other broker sends is not read, so it is not silent.
                connection.liveness.hear(moment);
            }
            self.inward.hand_out(moment);
            idle &= !self.pump(connection, moment);
            if !self.session.out.is_empty() {
                connection.liveness.speak(moment);
                let written = connection.write(context, &mut self.session, self.intake);
                if let Poll::Ready(outcome) = written {
                    outcome?;
                    idle = false;
                }
            }
            if self.intake.orders.is_ending()
                && (self.is_finished() || self.intake.orders.is_late())
            {
                return Err(Broken::Ordered);
            }
            if idle {
                let next = self.deadline(connection, moment)?;
                sleep.as_mut().reset(next.into());
                if sleep.as_mut().poll(context).is_pending() {
                    self.intake.show();
                    return Ok(());
                }
            }
        }
    }

    fn is_finished(&self) -> bool {
        !self.intake.has_unread() && self.session.is_idle() && self.session.out.is_empty()
    }

    /// Takes in the shards' outcomes of brought messages.
    fn settle(&mut self, settled: &[(u64, Settled)]) {
        for &(ticket, outcome) in settled {
            match outcome {
                Settled::Accepted => self.intake.figures.brought.add(1),
                Settled::Denied(why) => {
                    self.intake.figures.lose(BridgeDropReason::Unwanted);
                    tracing::debug!(bridge = self.intake.figures.name, why, "message not taken");
                }
            }
            self.session.accepted(ticket);
        }
    }

    /// Handles the packets that have arrived.
    fn understand(&mut self, connection: &mut BridgeStream) -> Result<(), Broken> {
        let mut events = Vec::new();
        let (mut at, largest) = (0, self.session.plan().max_packet_size);
        let version = self.session.plan().version;
        loop {
            let rest = connection.input.get(at..).unwrap_or_default();
            let framing = packet::frame(rest, largest).map_err(ExchangeTrouble::Violation);
            let total = match framing.map_err(Broken::Trouble)? {
                Framing::Complete { total, .. } => total,
                Framing::Incomplete { .. } => break,
            };
            let whole = rest.get(..total).unwrap_or_default();
            let packet = packet::decode(version, whole).map_err(ExchangeTrouble::Violation);
            let packet = packet.map_err(Broken::Trouble)?;
            self.session.take(&packet, &mut events).map_err(Broken::Trouble)?;
            at += total;
        }
        connection.input.drain(..at);
        for event in events {
            self.happened(connection, event);
        }
        Ok(())
    }

    fn happened(&mut self, connection: &mut BridgeStream, event: BridgeEvent) {
        let name = &*self.intake.figures.name;
        match event {
            BridgeEvent::Connected => {}
            BridgeEvent::Ready => {
                connection.was_ready = true;
                self.intake.figures.set_state(BridgeState::Up);
                self.intake.figures.connects.add(1);
                self.inward.publish_state(true);
                tracing::info!(bridge = name, "bridge connected");
            }
            BridgeEvent::Incoming(message) => {
                connection.worked = Instant::now();
                self.inward.push(message);
            }
            BridgeEvent::Delivered(number) => {
                connection.worked = Instant::now();
                self.refusals.taken(number);
                self.intake.delivered(number);
            }
            BridgeEvent::Rejected(number, reason) => self.refused(number, reason),
            BridgeEvent::Loop => self.intake.figures.lose(BridgeDropReason::Loop),
            BridgeEvent::Stray => self.intake.figures.lose(BridgeDropReason::Unwanted),
        }
    }

    /// Handles the refusal of a message.
    fn refused(&mut self, number: u64, reason: ReasonCode) {
        let judgement = self.refusals.judge(number, reason);
        self.intake.figures.refuse(reason);
        match judgement {
            Judgement::Again => self.intake.figures.retries.add(1),
            Judgement::Drop => self.intake.lose(number, BridgeDropReason::Rejected),
        }
        if self.complained.is_none_or(|then| then.elapsed() > COMPLAINT) {
            self.complained = Some(Instant::now());
            let (bridge, reason) = (&*self.intake.figures.name, reason.name());
            tracing::warn!(bridge, reason, ?judgement, "the other broker refuses messages");
        }
    }

    /// Sends waiting messages as far as the other end and the socket take them. Returns true when
    /// it did anything.
    fn pump(&mut self, connection: &mut BridgeStream, moment: Instant) -> bool {
        if !self.session.is_ready() {
            return false;
        }
        let answered = self.session.under_way() == 0 && connection.unconfirmed.is_empty();
        if answered && self.refusals.ebb(moment) {
            // Of the messages that were read, only the refused ones are not done.
            self.intake.buffer.rewind();
        }
        let window = self.refusals.window(moment);
        let (mut any, mut now) = (false, None);
        while self.session.out.len() < AHEAD
            && self.session.has_room()
            && self.session.under_way() < window
        {
            let Some((number, record)) = self.intake.read() else { break };
            any = true;
            let time = *now.get_or_insert_with(wall_millis);
            let lost = match self.session.publish(number, &record, time) {
                SendOutcome::Sent(Qos::AtMostOnce) => {
                    connection.unconfirmed.push(number);
                    continue;
                }
                SendOutcome::Sent(_) => continue,
                SendOutcome::Unwanted => BridgeDropReason::Unwanted,
                SendOutcome::Loop => BridgeDropReason::Loop,
                SendOutcome::TooLarge => BridgeDropReason::TooLarge,
                SendOutcome::Expired => BridgeDropReason::Expired,
            };
            self.intake.lose(number, lost);
        }
        any
    }

    /// When something has to be done at the latest.
    ///
    /// # Errors
    /// Fails when a time is over whose end means the end of the connection.
    fn deadline(
        &mut self,
        connection: &mut BridgeStream,
        moment: Instant,
    ) -> Result<Instant, Broken> {
        let keep_alive = Duration::from_secs(u64::from(self.session.plan().keep_alive));
        let silent = if connection.was_ready {
            connection.liveness.silent_at(keep_alive)
        } else {
            connection.liveness.heard() + connection.timeout
        };
        if silent <= moment {
            return Err(Broken::Silent);
        }
        let ping = connection.liveness.ping_due(keep_alive);
        if connection.was_ready && ping <= moment {
            self.session.ping();
            connection.liveness.ping(moment);
            return Ok(moment);
        }
        let mut next = if connection.was_ready { silent.min(ping) } else { silent };
        if let Some((_, idle)) = self.connecting.lazy
            && connection.was_ready
        {
            let unneeded = connection.worked + idle;
            if unneeded <= moment && self.is_finished() {
                return Err(Broken::Unneeded);
            }
            next = next.min(unneeded.max(moment + Duration::from_millis(100)));
        }
        let end = self.intake.orders.deadline();
        let others = [self.inward.deadline(), self.refusals.deadline(), end];
        let others = others.into_iter().flatten();
        Ok(others.fold(next, Instant::min).max(moment + Duration::from_micros(500)))
    }
}

async fn open(
    host: &str,
    port: u16,
    tls: Option<(Arc<rustls::ClientConfig>, Option<String>)>,
) -> io::Result<Box<dyn Io>> {
    let stream = TcpStream::connect((host, port)).await?;
    stream.set_nodelay(true)?;
    let Some((config, name)) = tls else { return Ok(Box::new(stream)) };
    let name = name.unwrap_or_else(|| host.to_owned());
    let name = ServerName::try_from(name).map_err(io::Error::other)?;
    Ok(Box::new(TlsConnector::from(config).connect(name, stream).await?))
}

/// The byte streams of one connection.
struct BridgeStream {
    stream: Box<dyn Io>,
    input: Vec<u8>,
    /// Bytes of the session's output that have been written.
    written: usize,
    flushing: bool,
    /// Messages of QoS 0 in the session's output.
    unconfirmed: Vec<u64>,
    was_ready: bool,
    liveness: Liveness,
    /// When a message last crossed.
    worked: Instant,
    timeout: Duration,
}

impl BridgeStream {
    fn new(stream: Box<dyn Io>, timeout: Duration) -> BridgeStream {
        let now = Instant::now();
        BridgeStream {
            stream,
            input: Vec::new(),
            written: 0,
            flushing: false,
            unconfirmed: Vec::new(),
            was_ready: false,
            liveness: Liveness::new(now),
            worked: now,
            timeout,
        }
    }

    /// Reads from the socket once.
    fn read(&mut self, context: &mut Context<'_>) -> Result<Poll<()>, Broken> {
        let at = self.input.len();
        self.input.resize(at + READ, 0);
        let mut room = ReadBuf::new(self.input.get_mut(at..).unwrap_or_default());
        let outcome = Pin::new(&mut self.stream).poll_read(context, &mut room);
        let read = room.filled().len();
        self.input.truncate(at + read);
        match outcome {
            Poll::Pending => Ok(Poll::Pending),
            Poll::Ready(Err(error)) => Err(Broken::Io(error)),
            Poll::Ready(Ok(())) if read == 0 => {
                let error =
                    io::Error::new(io::ErrorKind::UnexpectedEof, "it closes the connection");
                Err(Broken::Io(error))
            }
            Poll::Ready(Ok(())) => {
                self.liveness.hear(Instant::now());
                Ok(Poll::Ready(()))
            }
        }
    }

    /// Writes the session's output. Messages of QoS 0 in it are done then.
    fn write(
        &mut self,
        context: &mut Context<'_>,
        session: &mut RemoteSession,
        intake: &mut Intake,
    ) -> Poll<Result<(), Broken>> {
        while let Some(rest) = session.out.get(self.written..).filter(|rest| !rest.is_empty()) {
            let wrote = ready!(Pin::new(&mut self.stream).poll_write(context, rest))?;
            if wrote == 0 {
                return Poll::Ready(Err(Broken::Io(io::ErrorKind::WriteZero.into())));
            }
            self.written += wrote;
            self.flushing = true;
        }
        if self.flushing {
            ready!(Pin::new(&mut self.stream).poll_flush(context))?;
            self.flushing = false;
        }
        session.out.clear();
        self.written = 0;
        for number in self.unconfirmed.drain(..) {
            intake.delivered(number);
            self.worked = Instant::now();
        }
        Poll::Ready(Ok(()))
    }
}
