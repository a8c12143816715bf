//! Clients on their way to this shard, which is their home. The socket arrives through the kernel's
//! rings, and what the client has sent arrives by mail. Whichever of the two comes first waits for
//! the other.
//!
//! The mail is written after the kernel has moved the socket, so both arrive within a step or two.
//! One of them stays alone only when the kernel lacks memory and loses completions. It is then kept
//! for as long as a client may take to connect, and no longer.

use super::upkeep::ROUND;
use super::{Action, Shard};
use crate::ids::SocketId;
use crate::limits::cost;
use crate::mesh::mail::Arriving;
use crate::mutant::Mutant;
use hashbrown::HashMap;

/// Sockets that have waited in vain and are given up in a round of upkeep, at most; as many mails.
const LOST: usize = 64;

/// Mail without its socket, and sockets without their mail, each with the round of upkeep in which
/// it came.
#[derive(Default)]
pub(super) struct Arrivals {
    mail: HashMap<u64, (u64, Box<Arriving>)>,
    sockets: HashMap<u64, (u64, SocketId)>,
    /// Rounds of upkeep so far. Time would not do: it also passes while the process is stopped and
    /// nothing can arrive.
    round: u64,
}

impl Arrivals {
    /// How many sockets and mails wait.
    pub(super) fn len(&self) -> usize {
        self.mail.len() + self.sockets.len()
    }

    /// Gives back memory, down to room for `kept`.
    pub(super) fn shrink(&mut self, kept: usize) {
        self.mail.shrink_to((self.mail.capacity() / 2).max(kept));
        self.sockets.shrink_to((self.sockets.capacity() / 2).max(kept));
    }
}

impl Shard {
    /// A socket from another shard has arrived on this one's ring.
    pub fn arrived(&mut self, socket: SocketId, cookie: u64) {
        match self.entrance.arrivals.mail.remove(&cookie) {
            Some((_, arriving)) => self.welcome(socket, *arriving),
            None => {
                self.entrance
                    .arrivals
                    .sockets
                    .insert(cookie, (self.entrance.arrivals.round, socket));
            }
        }
    }

    /// What the client of a socket on its way has sent has come by mail.
    pub(super) fn told_of(&mut self, arriving: Box<Arriving>) {
        match self.entrance.arrivals.sockets.remove(&arriving.cookie) {
            Some((_, socket)) => self.welcome(socket, *arriving),
            None => {
                self.entrance
                    .arrivals
                    .mail
                    .insert(arriving.cookie, (self.entrance.arrivals.round, arriving));
            }
        }
    }

    /// Gives up the sockets and mails whose other half has not come in `mqtt.connect_timeout`: the
    /// socket is closed, and the client of a mail is not counted any more. To be called in each
    /// round of upkeep.
    pub(super) fn give_up_lost(&mut self) {
        self.entrance.arrivals.round += 1;
        if Mutant::LostHandOverKept.is_on() {
            return;
        }
        let allowed = self.settings.connect_timeout.div_ceil(ROUND);
        let round = self.entrance.arrivals.round;
        let over = |since: u64| round - since > allowed;
        let sockets = self.entrance.arrivals.sockets.extract_if(|_, (since, _)| over(*since));
        let sockets: Vec<_> = sockets.map(|(_, (_, socket))| socket).take(LOST).collect();
        let mail = self.entrance.arrivals.mail.extract_if(|_, (since, _)| over(*since));
        let listeners: Vec<_> =
            mail.map(|(_, (_, lost))| (lost.listener, lost.peer, lost.source)).take(LOST).collect();
        self.meter.charge(cost::VISIT * (sockets.len() + listeners.len()) as u32);
        if !Mutant::LostHandOverUncounted.is_on() {
            self.counters.handovers_lost += (sockets.len() + listeners.len()) as u64;
        }
        for socket in sockets {
            self.outputs.actions.push(Action::Close(socket));
        }
        for (listener, peer, source) in listeners {
            self.counters.connections_closed += 1;
            self.leave_listener(listener, peer, source);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{ListenerId, Peer, ShardId};
    use crate::mesh::quota::{Quota, Rate};
    use crate::mesh::{ListenerState, Shared};
    use crate::overload::sources::SourceMark;
    use crate::time::Instant;
    use crate::topic::Seeds;
    use std::sync::Arc;

    #[test]
    fn what_stays_alone_is_given_up_after_the_connect_timeout() {
        let config = crate::config::Config::default();
        let settings = crate::shard::Settings::new(&config);
        let patience = settings.connect_timeout;
        let shared = Shared::new(Seeds::fixed(1));
        let mut shard =
            Shard::new(ShardId(1), 2, Arc::new(settings), Arc::clone(&shared), Instant(1000));
        let listener_state = Arc::new(ListenerState {
            name: "sim".into(),
            allow_anonymous: true,
            mountpoint: "".into(),
            max_connections: 10,
            max_connect_rate: None,
            stack: Default::default(),
            connections: Quota::default(),
            rate: Rate::default(),
            accepted: Default::default(),
            refused: Default::default(),
        });
        shard.open_listener(ListenerId(0), Arc::clone(&listener_state));
        // The connection was counted by the shard that accepted it.
        assert!(listener_state.connections.take(1, 10) && shared.connections.take(1, 10));
        let peer = Peer::Unix;
        shard.arrived(SocketId(3), 7);
        let mail = Arriving {
            cookie: 8,
            listener: ListenerId(0),
            peer,
            source: SourceMark::default(),
            assigned: None,
            bytes: vec![0x10],
            layers: None,
            wire: Vec::new(),
        };
        shard.told_of(Box::new(mail));
        let mut step = |now: u64| {
            shard.begin(Instant(now), now * 1000);
            shard.finish();
            let closes = |action: &Action| matches!(action, Action::Close(SocketId(3)));
            let closed = shard.outputs.actions.drain(..).filter(|action| closes(action)).count();
            (closed, shard.entrance.arrivals.len(), shard.counters.handovers_lost)
        };
        for now in (1000..1000 + patience).step_by(100) {
            assert_eq!(step(now), (0, 2, 0), "at {now}");
        }
        // The process is stopped for an hour: a socket or mail that comes next still finds its
        // other half.
        let woken = 3_600_000;
        assert_eq!(step(woken), (0, 2, 0));
        assert_eq!((listener_state.connections.used(), shared.connections.used()), (1, 1));
        let closed: usize = (1..=40).map(|n| step(woken + n * 100).0).sum();
        assert_eq!(closed, 1);
        assert_eq!(step(woken + 5000), (0, 0, 2));
        assert_eq!((listener_state.connections.used(), shared.connections.used()), (0, 0));
    }
}
