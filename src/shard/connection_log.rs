//! Log lines about clients that connect, disconnect or are refused. This module owns the rate
//! limits of these lines, one per kind and shard. A line beyond its limit is counted, and written
//! only where the log has level `debug`. No line allocates in the shard.
//!
//! Values that a client has chosen (ClientId, user name) are logged as text and cut to [`SHOWN`]
//! bytes. The log's formats quote and escape them.

use super::Shard;
use super::close::Cause;
use crate::config::CertificateName;
use crate::ids::{ListenerId, Peer, SocketId};
use crate::packet::{Connect, Version};
use crate::time::Instant;

/// Lines of one kind that may be written per second, on average.
const RATE: u64 = 10;
/// Lines of one kind that may be written at once.
const BURST: u64 = 50;
/// Milliseconds between two lines of one kind at that rate.
const PACE: u64 = 1000 / RATE;
/// Milliseconds between two lines that say how many lines were left out.
const TOLD: u64 = 10_000;
/// Bytes of a ClientId, user name or topic that a line shows, at most.
const SHOWN: usize = 256;

/// What a line is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum LineKind {
    Connected,
    Disconnected,
    Refused,
    Denied,
}

impl LineKind {
    const ALL: [LineKind; 4] =
        [LineKind::Connected, LineKind::Disconnected, LineKind::Refused, LineKind::Denied];

    fn word(self) -> &'static str {
        match self {
            LineKind::Connected => "connected",
            LineKind::Disconnected => "disconnected",
            LineKind::Refused => "refused",
            LineKind::Denied => "denied",
        }
    }
}

/// How many lines of each kind have been written lately, and were left out.
#[derive(Default)]
pub(super) struct ConnectionLog {
    paces: [LinePace; LineKind::ALL.len()],
    told: Instant,
}

/// One kind's limit.
#[derive(Clone, Copy, Default)]
struct LinePace {
    /// Milliseconds on the shard's clock: when the lines so far would have been due at [`RATE`].
    until: u64,
    /// Lines left out since that was last logged.
    left_out: u64,
}

impl LinePace {
    /// Whether a line may be written at `now`; counts it if not.
    fn allows(&mut self, now: Instant) -> bool {
        let until = self.until.max(now.0) + PACE;
        let allowed = until <= now.0 + BURST * PACE;
        if allowed {
            self.until = until;
        } else {
            self.left_out += 1;
        }
        allowed
    }
}

impl ConnectionLog {
    /// The lines left out since that was last logged, by kind, when it is time to log it; the
    /// counts begin anew.
    fn left_out(&mut self, now: Instant) -> Option<[u64; LineKind::ALL.len()]> {
        let any = self.paces.iter().any(|pace| pace.left_out > 0);
        if !any || now.millis_since(self.told) < TOLD {
            return None;
        }
        self.told = now;
        Some(std::array::from_fn(|at| std::mem::take(&mut self.paces[at].left_out)))
    }
}

/// A line at `info`, or at `debug` when its kind is past the limit.
macro_rules! line {
    ($how:expr, $($fields:tt)*) => {
        match $how {
            Some(LineLevel::Info) => tracing::info!($($fields)*),
            Some(LineLevel::Debug) => tracing::debug!($($fields)*),
            None => {}
        }
    };
}

enum LineLevel {
    Info,
    Debug,
}

impl Shard {
    /// The level at which a line of this kind is to be written now; `None` when it is not to be
    /// written.
    fn connection_log(&mut self, kind: LineKind) -> Option<LineLevel> {
        if !self.settings.log_connections || !tracing::enabled!(tracing::Level::INFO) {
            return None;
        }
        if self.entrance.log.paces[kind as usize].allows(self.now) {
            return Some(LineLevel::Info);
        }
        self.counters.log_left_out += 1;
        tracing::enabled!(tracing::Level::DEBUG).then_some(LineLevel::Debug)
    }

    /// A client has connected: `name` is its ClientId, assigned or its own.
    pub(super) fn log_connected(
        &mut self,
        socket: SocketId,
        name: &str,
        connect: &Connect<'_>,
        present: bool,
    ) {
        let how = self.connection_log(LineKind::Connected);
        let (true, Some(connection)) = (how.is_some(), self.connections.get(socket.0)) else {
            return;
        };
        line!(
            how,
            client_id = shown(name),
            username = connect.username.map(shown),
            common_name = self.common_name(socket).map(shown),
            peer = %connection.peer,
            listener = self.listener_name(connection.listener),
            version = version_name(connect.version),
            keep_alive = connect.keep_alive,
            session_present = present,
            shard = self.topology.id.0,
            "client connected"
        );
    }

    /// A connected client is being disconnected. To be called while its session is known.
    pub(super) fn log_disconnected(&mut self, socket: SocketId, session: u32, cause: Cause) {
        let how = self.connection_log(LineKind::Disconnected);
        let (true, Some(connection)) = (how.is_some(), self.connections.get(socket.0)) else {
            return;
        };
        let Some(session) = self.sessions.get(session) else { return };
        let (reason, code) = cause.words();
        line!(
            how,
            client_id = shown(&session.client_id),
            peer = %connection.peer,
            listener = self.listener_name(connection.listener),
            version = version_name(session.version),
            reason,
            code,
            shard = self.topology.id.0,
            "client disconnected"
        );
    }

    /// A connection is refused, and nothing is known of its client.
    pub(super) fn log_refused(&mut self, peer: Peer, listener: ListenerId, reason: &str) {
        let how = self.connection_log(LineKind::Refused);
        if how.is_some() {
            let listener = self.listener_name(listener);
            line!(how, %peer, listener, reason, shard = self.topology.id.0, "connection refused");
        }
    }

    /// A client's CONNECT is refused.
    pub(super) fn log_refused_client(
        &mut self,
        socket: SocketId,
        connect: &Connect<'_>,
        reason: &str,
        code: u8,
    ) {
        if let Some(connection) = self.connections.get(socket.0) {
            self.observe_refused(connection.peer, connect, reason, code);
        }
        let how = self.connection_log(LineKind::Refused);
        let (true, Some(connection)) = (how.is_some(), self.connections.get(socket.0)) else {
            return;
        };
        line!(
            how,
            client_id = shown(connect.client_id),
            username = connect.username.map(shown),
            peer = %connection.peer,
            listener = self.listener_name(connection.listener),
            version = version_name(connect.version),
            keep_alive = connect.keep_alive,
            reason,
            code,
            shard = self.topology.id.0,
            "client refused"
        );
    }

    /// The client may not do `what` with that topic.
    pub(super) fn log_denied(&mut self, socket: SocketId, session: u32, what: &str, topic: &str) {
        let how = self.connection_log(LineKind::Denied);
        let (true, Some(connection)) = (how.is_some(), self.connections.get(socket.0)) else {
            return;
        };
        let Some(session) = self.sessions.get(session) else { return };
        line!(
            how,
            client_id = shown(&session.client_id),
            username = session.grant().and_then(|grant| grant.username.as_deref()).map(shown),
            peer = %connection.peer,
            listener = self.listener_name(connection.listener),
            what,
            topic = shown(topic),
            shard = self.topology.id.0,
            "not allowed"
        );
    }

    /// A subscription has ended because the rules have changed.
    pub(super) fn log_revoked(&mut self, session: u32, filter: &str) {
        let how = self.connection_log(LineKind::Denied);
        let (true, Some(session)) = (how.is_some(), self.sessions.get(session)) else { return };
        line!(
            how,
            client_id = shown(&session.client_id),
            username = session.grant().and_then(|grant| grant.username.as_deref()).map(shown),
            filter = shown(filter),
            shard = self.topology.id.0,
            "subscription ended: the rules do not allow it any more"
        );
    }

    /// Logs how many lines were left out, once in a while.
    pub(super) fn tell_left_out(&mut self) {
        let Some(counts) = self.entrance.log.left_out(self.now) else { return };
        for (kind, lines) in LineKind::ALL.into_iter().zip(counts).filter(|(_, lines)| *lines > 0) {
            let (kind, shard) = (kind.word(), self.topology.id.0);
            tracing::info!(kind, lines, shard, "lines about clients were left out");
        }
    }

    pub(super) fn listener_name(&self, listener: ListenerId) -> &str {
        let listener_state = self.entrance.listener(listener);
        listener_state.map_or("closed", |listener_state| &listener_state.name)
    }

    /// The common name of the client's certificate, as far as a layer has verified one; known only
    /// until the client's CONNECT is accepted.
    pub(super) fn common_name(&self, socket: SocketId) -> Option<&str> {
        let layers = self.layered.all.get(socket.0)?;
        let told = layers.common_name();
        told.or_else(|| layers.identity()?.names.name(CertificateName::Cn))
    }
}

/// A text that a client chose, cut to what a line shows of it.
fn shown(text: &str) -> &str {
    &text[..text.floor_char_boundary(SHOWN)]
}

fn version_name(version: Version) -> &'static str {
    match version {
        Version::V31 => "3.1",
        Version::V311 => "3.1.1",
        Version::V5 => "5.0",
    }
}

#[cfg(test)]
#[path = "connection_log_tests.rs"]
mod tests;
