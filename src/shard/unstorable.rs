//! What clients notice of storage that is behind, full or failing. Publishers of messages that
//! would have to be stored wait or are refused; all other clients go on.

use super::Shard;
use super::connection::Holds;
use super::receive::Handled;
use super::route::GROUP;
use super::storing::Storing;
use crate::ids::{ShardId, ShardSet, SocketId};
use crate::limits::cost;
use crate::mesh::mail::Control;
use crate::mutant::Mutant;
use crate::packet::{Publish, Qos, ReasonCode, Version};
use crate::storage::log::Log;
use crate::topic::{Subscriber, TopicHash};

/// How many subscribers of a filter are looked at. If a filter has more, some of them are taken to
/// be stored.
const LOOKS: usize = 256;

/// How well a log keeps up.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Lateness {
    #[default]
    None,
    /// Half of the changes that may wait to be durable do, or they have waited for half as long as
    /// they may.
    Half,
    /// As many as may wait do: publishers of messages that would have to be stored wait.
    Behind,
    /// Publishers do not wait: messages are acknowledged that are in memory only.
    Degraded,
}

impl Lateness {
    fn of(log: &Log, now: u64) -> Lateness {
        match () {
            () if log.is_degraded() => Lateness::Degraded,
            () if log.is_behind(now) => Lateness::Behind,
            () if log.is_half_behind(now) => Lateness::Half,
            () => Lateness::None,
        }
    }
}

/// What decides whether publishers of messages that have to be stored wait or are refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Standing {
    /// They neither wait nor are refused.
    fine: bool,
    /// New values are refused here.
    refuses: bool,
    /// The other shards that refuse new values.
    refusing: ShardSet,
}

impl Standing {
    fn of(storing: &Storing) -> Standing {
        let refusing = storing.refusing;
        let refuses = storing.log.refuses(storing.micros);
        Standing { fine: is_fine(storing), refuses, refusing }
    }
}

/// Whether publishers neither wait nor are refused.
fn is_fine(storing: &Storing) -> bool {
    storing.log.accepts(storing.micros) && storing.refusing.is_empty()
}

/// Whether the message may have to be stored: any message but QoS 0 without RETAIN. A message that
/// clears a retained one makes room.
fn may_be_stored(publish: &Publish<'_>) -> bool {
    let clears = publish.retain && publish.payload.is_empty();
    !clears && (publish.qos > Qos::AtMostOnce || publish.retain)
}

impl Shard {
    /// Holds or refuses a message that would have to be stored and cannot be now. `None` when the
    /// message can be stored, or need not be.
    #[inline]
    pub(super) fn is_unstorable(
        &mut self,
        socket: SocketId,
        index: u32,
        version: Version,
        publish: &Publish<'_>,
        topic: &str,
    ) -> Option<Handled> {
        let storing = self.storing.as_ref()?;
        if !may_be_stored(publish) || is_fine(storing) || Mutant::StorageDownTaken.is_on() {
            return None;
        }
        self.hold_or_refuse(socket, index, version, publish, topic)
    }

    /// Whether a session that is to last, or has lasted, cannot be stored because the disk fails or
    /// has no room: its CONNACK would wait for as long as that. `known`: the session that its
    /// ClientId has.
    pub(super) fn is_unstorable_session(&self, known: Option<u32>, expiry: u32) -> bool {
        let Some(storing) = &self.storing else { return false };
        if !storing.log.takes_nothing(storing.micros) || Mutant::StorageDownTaken.is_on() {
            return false;
        }
        expiry > 0 || known.is_some_and(|index| self.sessions.stored(index).is_some())
    }

    #[inline(never)]
    fn hold_or_refuse(
        &mut self,
        socket: SocketId,
        index: u32,
        version: Version,
        publish: &Publish<'_>,
        topic: &str,
    ) -> Option<Handled> {
        let storing = self.storing.as_ref()?;
        let hash = TopicHash::new(&self.topology.shared.seeds, topic);
        let (refusing, others) = (storing.refusing, !self.topology.is_alone());
        let interested = match others {
            true => self.topology.shared.interest.shards(&hash),
            false => ShardSet::only(self.topology.id),
        };
        let retained = publish.retain.then(|| self.topology.retained_home(&hash));
        let goes_to = |shard| interested.contains(shard) || retained == Some(shard);
        let late = !storing.log.accepts(storing.micros);
        let here = late
            && (retained == Some(self.topology.id)
                || interested.contains(self.topology.id) && self.is_stored_for_someone(&hash));
        let storing = self.storing.as_ref()?;
        let refused = here && storing.log.refuses(storing.micros) || refusing.iter().any(goes_to);
        if !here && !refused {
            return None;
        }
        if !refused || publish.qos == Qos::AtMostOnce {
            return Some(Handled::Hold(Holds::STORAGE));
        }
        self.count_received(publish);
        self.counters.dropped_storage += 1;
        if version.is_v5() {
            self.acknowledge(socket, index, version, publish, ReasonCode::QuotaExceeded);
        }
        // A publisher that cannot be told of the refusal keeps the message, and sends it again.
        Some(Handled::Next)
    }

    /// Tries publishers of messages that have to be stored again, once after each change of what
    /// they wait for.
    pub(super) fn retry_storage(&mut self) {
        let Some(storing) = self.storing.as_mut().filter(|_| !self.parked.storage.is_empty())
        else {
            return;
        };
        let standing = Standing::of(storing);
        let unchanged = storing.standing.replace(standing) == Some(standing);
        if unchanged && !standing.fine {
            return;
        }
        // A publisher that comes back to the line has had its turn.
        for turn in 0..self.parked.storage.bound(0) {
            if turn > 0 && self.is_spent(self.settings.budget.step) {
                // The others have their turns in the next step.
                if let Some(storing) = &mut self.storing {
                    storing.standing = None;
                }
                return;
            }
            let Some(socket) = self.parked.storage.pop(0) else { return };
            if !Mutant::StorageWaitersForgotten.is_on() {
                self.release(socket, Holds::STORAGE);
            }
        }
    }

    /// Whether a stored session of this shard may get the message.
    fn is_stored_for_someone(&mut self, hash: &TopicHash<'_>) -> bool {
        if self.storing.is_none() {
            return false;
        }
        let (mut found, mut looks) = (false, 0);
        let stored = |subscriber: &Subscriber| {
            subscriber.options & GROUP != 0 || self.sessions.stored(subscriber.target).is_some()
        };
        let visits = self.subscriptions.index.matching(hash, &mut |_, list: &[Subscriber]| {
            looks += list.len().min(LOOKS);
            found |= list.len() > LOOKS || list.iter().any(stored);
        });
        self.meter.charge(cost::VISIT * (visits + looks) as u32);
        found
    }

    /// Reports changes of the state of storage: to the log, and to the other shards, whose
    /// publishers send messages here.
    pub(super) fn watch_storage(&mut self) {
        let Some(storing) = &mut self.storing else { return };
        let (log, now) = (&storing.log, storing.micros);
        let (lateness, refuses) = (Lateness::of(log, now), log.refuses(now));
        let before = std::mem::replace(&mut storing.lateness, lateness);
        if lateness != before {
            let (bytes, millis) = (log.backlog(), log.age(now) / 1000);
            let shard = self.topology.id.0;
            match lateness {
                Lateness::None => tracing::info!(shard, "storage keeps up again"),
                Lateness::Half if before > lateness => {}
                Lateness::Half => tracing::warn!(shard, bytes, millis, "storage is late"),
                Lateness::Behind => tracing::error!(
                    shard,
                    bytes,
                    millis,
                    "storage is behind: publishers of what has to be stored wait"
                ),
                Lateness::Degraded => tracing::error!(
                    shard,
                    bytes,
                    millis,
                    "storage is degraded: messages are acknowledged that are in memory only"
                ),
            }
        }
        if std::mem::replace(&mut storing.refuses, refuses) != refuses {
            let own = self.topology.id;
            for shard in (0..self.topology.shards).map(ShardId).filter(|&shard| shard != own) {
                self.mail.outbox.tell(shard, Control::Unstorable(refuses));
            }
        }
    }

    /// Notes whether another shard refuses messages that would have to be stored there.
    pub(super) fn refuses_there(&mut self, shard: ShardId, refuses: bool) {
        let Some(storing) = &mut self.storing else { return };
        if refuses {
            storing.refusing.insert(shard);
        } else {
            storing.refusing.remove(shard);
        }
    }
}
