//! The TLS handshakes of this shard: which of them may proceed, how many are under way, and which
//! of them has to give way.
//!
//! A step of a handshake takes up to some 200 µs, so it is never made where bytes are received.
//! Instead the connection is put into a queue, and in each step of the shard some of the queue are
//! served, with a share of the step that is small enough not to be noticed by established clients.
//! A connection in its handshake is read again only after it was served. A bound on the number of
//! handshakes bounds the memory that rustls uses for them. New connections wait for a place, and a
//! handshake that makes no progress while others wait loses its place, the oldest first.

use super::Shard;
use super::close::Cause;
use super::turn_queues::TurnQueues;
use crate::ids::{ListenerId, SocketId};
use crate::mutant::Mutant;
use crate::time::Instant;
use crate::transport::tls::{Server, TlsFailureKind};
use hashbrown::HashMap;
use std::collections::VecDeque;
use std::sync::Arc;

/// Handshakes under way on a shard, at most, unless a listener says otherwise. They take 11 MiB.
const UNDER_WAY: u32 = 1000;
/// Milliseconds that a handshake may stand still while others wait for its place.
const STILL: u64 = 1000;
/// Milliseconds between two looks for client certificates that have expired.
const EXPIRY: u64 = 60_000;
/// The queues of `lines`: of handshakes under way, and of new ones.
pub(super) const GOING_ON: usize = 0;
pub(super) const NEW: usize = 1;

/// The handshakes of a shard.
#[derive(Default)]
pub(super) struct HandshakeQueue {
    pub(super) lines: TurnQueues,
    /// Handshakes that rustls holds memory for: a number that tells a reused socket apart, and
    /// since when the handshake waits for its client.
    pub(super) under_way: HashMap<SocketId, (u64, Instant)>,
    /// These handshakes in the order of their last steps. Some have made a step since, or are over.
    order: VecDeque<(u64, SocketId)>,
    next: u64,
    /// The TLS settings of each listener's connections.
    servers: Vec<Option<Arc<Server>>>,
    /// When the shard last looked for certificates of connected clients that have expired.
    looked: Instant,
}

impl HandshakeQueue {
    /// How many handshakes wait for a turn.
    pub(super) fn len(&self) -> usize {
        self.lines.len()
    }

    /// How many handshakes rustls holds memory for.
    pub(super) fn under_way(&self) -> usize {
        self.under_way.len()
    }

    /// The TLS settings of that listener's connections.
    pub(super) fn server(&self, listener: ListenerId) -> Option<&Arc<Server>> {
        self.servers.get(usize::from(listener.0))?.as_ref()
    }

    /// When a handshake may have to give way; `None` while no other waits for a place.
    pub(super) fn deadline(&self) -> Option<Instant> {
        if self.lines.bound(NEW) == 0 {
            return None;
        }
        let oldest = self.order.iter().find_map(|(number, socket)| {
            self.under_way.get(socket).filter(|under_way| under_way.0 == *number)
        });
        oldest.map(|(_, since)| since.plus_millis(STILL))
    }

    /// A handshake has made a step and waits for its client.
    pub(super) fn went_on(&mut self, socket: SocketId, now: Instant) {
        self.next += 1;
        self.under_way.insert(socket, (self.next, now));
        self.order.push_back((self.next, socket));
        if self.order.len() > 64 && self.order.len() > 2 * self.under_way.len() {
            let under_way = &self.under_way;
            self.order.retain(|(number, socket)| {
                under_way.get(socket).is_some_and(|known| known.0 == *number)
            });
        }
    }

    /// The handshake that has stood still for longest, if that is long enough.
    pub(super) fn stillest(&mut self, now: Instant) -> Option<SocketId> {
        while let Some(&(number, socket)) = self.order.front() {
            match self.under_way.get(&socket) {
                Some(&(known, since)) if known == number => {
                    let long = now.millis_since(since) >= STILL;
                    return (long && !Mutant::StillNotShed.is_on()).then_some(socket);
                }
                _ => _ = self.order.pop_front(),
            }
        }
        None
    }

    /// A handshake is over, complete or not.
    pub(super) fn over(&mut self, socket: SocketId) {
        self.lines.remove(socket);
        self.under_way.remove(&socket);
    }
}

impl Shard {
    /// New connections of that listener are secured with this from now on; older connections go on
    /// with what they began with.
    pub fn secure(&mut self, listener: ListenerId, server: Arc<Server>) {
        let servers = &mut self.layered.handshakes.servers;
        let at = usize::from(listener.0);
        if at >= servers.len() {
            servers.resize_with(at + 1, || None);
        }
        let ends = server.ends_revoked;
        if let Some(place) = servers.get_mut(at) {
            *place = Some(server);
        }
        if ends && !Mutant::RevokedKept.is_on() {
            self.layered.look_at_certificates();
        }
    }

    /// Once a minute: certificates of live clients may have expired.
    pub(super) fn look_for_expired(&mut self) {
        let mut servers = self.layered.handshakes.servers.iter().flatten();
        let due = self.now.millis_since(self.layered.handshakes.looked) >= EXPIRY;
        if due && servers.any(|server| server.ends_revoked) {
            self.layered.handshakes.looked = self.now;
            self.layered.look_at_certificates();
        }
    }

    /// A record of the connection's handshake has come: the connection waits for its turn.
    pub(super) fn line_up(&mut self, socket: SocketId) {
        let known = self.layered.handshakes.under_way.contains_key(&socket);
        self.layered.handshakes.lines.push(if known { GOING_ON } else { NEW }, socket);
    }

    pub(super) fn most_handshakes(&self) -> usize {
        let servers = self.layered.handshakes.servers.iter().flatten();
        let most = servers.map(|server| server.max_handshakes.unwrap_or(UNDER_WAY)).max();
        most.unwrap_or(UNDER_WAY) as usize
    }

    /// A connection ends that is or was in its handshake; if it still is, the failure is counted.
    pub(super) fn handshake_over(&mut self, socket: SocketId, cause: Cause) {
        if self.layered.is_shaking(socket) {
            match cause {
                Cause::Transport(_) => {}
                Cause::ConnectTimeout => self.count_failure(TlsFailureKind::TimedOut),
                // A client that has sent nothing has not tried a handshake.
                _ if self.layered.is_untouched(socket) => {}
                Cause::EndOfStream | Cause::Broken => self.count_failure(TlsFailureKind::Left),
                _ => self.count_failure(TlsFailureKind::Shed),
            }
        }
        self.layered.handshakes.over(socket);
        self.counters.tls_under_way = self.layered.handshakes.under_way() as u64;
    }

    /// Until when a connection that has sent no CONNECT has time: for its handshake, or for its
    /// CONNECT.
    pub(super) fn entry_deadline(&self, socket: SocketId) -> Option<Instant> {
        let connection = self.connections.get(socket.0)?;
        let patience = if self.layered.is_shaking(socket) {
            self.layered.handshakes.server(connection.listener)?.handshake_timeout
        } else {
            self.settings.connect_timeout
        };
        Some(connection.last_seen.plus_millis(patience))
    }

    pub(super) fn count_failure(&mut self, kind: TlsFailureKind) {
        let counters = &mut self.counters;
        *match kind {
            TlsFailureKind::NotTls => &mut counters.tls_failed_not_tls,
            TlsFailureKind::NothingInCommon => &mut counters.tls_failed_nothing_in_common,
            TlsFailureKind::NoCertificate => &mut counters.tls_failed_no_certificate,
            TlsFailureKind::CertificateExpired => &mut counters.tls_failed_expired,
            TlsFailureKind::UnknownAuthority => &mut counters.tls_failed_unknown_authority,
            TlsFailureKind::CertificateRevoked => &mut counters.tls_failed_revoked,
            TlsFailureKind::BadCertificate => &mut counters.tls_failed_bad_certificate,
            TlsFailureKind::ClientAlert => &mut counters.tls_failed_client_alert,
            TlsFailureKind::Protocol => &mut counters.tls_failed_protocol,
            TlsFailureKind::TimedOut => &mut counters.tls_failed_timed_out,
            TlsFailureKind::Shed => &mut counters.tls_failed_shed,
            TlsFailureKind::Left => &mut counters.tls_failed_left,
            TlsFailureKind::Internal => &mut counters.tls_failed_internal,
        } += 1;
    }
}
