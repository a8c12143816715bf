//! How clients come in: the listeners, the connections that were denied, clients on their way from
//! their entry shard to their home, the limits that clients were told, and the log of connects and
//! disconnects. This is the state; what is done with it is in the modules whose types are here.

use super::announced::AnnouncedLimits;
use super::arrivals::Arrivals;
use super::bans::Offenders;
use super::connection_log::ConnectionLog;
use super::hand_over::Departures;
use super::overload::Overload;
use crate::ids::ListenerId;
use crate::mesh::ListenerState;
use std::sync::Arc;

/// A shard's state about clients that connect.
pub(super) struct Entrance {
    listeners: Vec<Option<Arc<ListenerState>>>,
    pub(super) announced: AnnouncedLimits,
    pub(super) arrivals: Arrivals,
    pub(super) departures: Departures,
    /// Connections that met a limit and whose CONNECT is awaited.
    pub(super) refused_waiting: usize,
    /// How many ClientIds were assigned.
    assigned: u64,
    pub(super) log: ConnectionLog,
    /// ClientIds that connect too often.
    pub(super) offenders: Offenders,
    /// How far clients are admitted under overload, and what else is not done then.
    pub(super) overload: Overload,
}

impl Entrance {
    /// For one of `shards` shards.
    pub(super) fn new(shards: u8) -> Self {
        Entrance {
            listeners: Vec::new(),
            announced: AnnouncedLimits::default(),
            arrivals: Arrivals::default(),
            departures: Departures::new(shards),
            refused_waiting: 0,
            assigned: 0,
            log: ConnectionLog::default(),
            offenders: Offenders::default(),
            overload: Overload::default(),
        }
    }

    /// True before the first listener opens.
    pub(super) fn is_shut(&self) -> bool {
        self.listeners.is_empty()
    }

    /// A listener that is open.
    #[inline]
    pub(super) fn listener(&self, listener: ListenerId) -> Option<&Arc<ListenerState>> {
        self.listeners.get(usize::from(listener.0))?.as_ref()
    }

    /// A listener's connections may come from now on.
    pub(super) fn open(&mut self, listener: ListenerId, state: Arc<ListenerState>) {
        let at = usize::from(listener.0);
        if at >= self.listeners.len() {
            self.listeners.resize_with(at + 1, || None);
        }
        if let Some(place) = self.listeners.get_mut(at) {
            *place = Some(state);
        }
    }

    /// Counts one more assigned ClientId; returns how many there are with that one.
    pub(super) fn assign(&mut self) -> u64 {
        self.assigned += 1;
        self.assigned
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_assigned_client_id_has_a_number_of_its_own() {
        let mut entrance = Entrance::new(1);
        assert_eq!([entrance.assign(), entrance.assign()], [1, 2]);
        assert!(entrance.listener(ListenerId(0)).is_none());
    }
}
