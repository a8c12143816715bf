//! How clients that are handed over to another process refer to the store. The new process takes
//! over the store's files as they are: a session keeps its number, and a message that waits for the
//! session keeps its slot and number, so nothing is stored anew. The bodies of messages travel with
//! the clients, except for messages that are only in the store.

use super::Shard;
use super::adopt::ANY;
use super::storing::Storing;
use crate::message::Message;
use crate::mutant::Mutant;
use crate::session::{AwayMessage, Flow, Queued, StoredSessionRef, SubscriptionIds};
use crate::storage::image::{Image, SessionSum};
use crate::storage::record::{message_key, session_key};
use crate::upgrade::client::{MovedAway, StoredAs, StoredMessageRef};

impl Storing {
    /// Tells a shard that takes clients over that its log has this content, all of whose sessions
    /// and retained messages have to be handed over.
    pub fn expecting(mut self, image: &Image) -> Storing {
        self.expected = Some((image.session_sum(), image.retained.len() as u64));
        self
    }

    /// Whether the store is still the one of the process whose place this one is to take.
    pub(super) fn is_of_predecessor(&self) -> bool {
        self.expected.is_some()
    }

    /// The reason why the store's files cannot be handed over yet: what is still being written,
    /// read or awaited. `None` when the store rests.
    pub(super) fn under_way(&self) -> Option<&'static str> {
        let reading = &self.reading;
        let reads = reading.under_way || reading.arrived.is_some() || !reading.asked.is_empty();
        let waits = self.withheld.len() > 0 || self.receipts.len() > 0;
        let reasons = [
            (!self.log.rests() || waits, "changes that are being stored"),
            (reads || !reading.line.is_empty(), "messages that are read back from the store"),
            (!reading.departing.is_empty(), "what sessions that have ended had stored"),
            (self.returning.len() > 0, "messages that return to share groups"),
        ];
        let journaling = self.journaling.as_ref().filter(|_| !self.is_of_predecessor());
        reasons
            .iter()
            .find_map(|&(holds, what)| holds.then_some(what))
            .or_else(|| journaling?.under_way(&self.log))
    }

    pub(super) fn packed(&self, index: u32, slot: u32) -> Option<StoredMessageRef> {
        let number = self.bodies.of_slot(index, slot)?;
        Some(StoredMessageRef { slot, number, checksum: self.bodies.checksum(number)? })
    }
}

impl Shard {
    /// How the store refers to the message in this `slot` of the session; `None` if it is not
    /// stored.
    pub(super) fn packed_kept(&self, index: u32, slot: u32) -> Option<StoredMessageRef> {
        self.storing.as_ref().filter(|_| slot != 0)?.packed(index, slot)
    }

    /// The messages of a session's queue that are only in the store.
    pub(super) fn packed_away(&self, flow: &Flow) -> Vec<MovedAway> {
        let mut all = Vec::new();
        flow.pending.each_away(|message, expires| {
            let AwayMessage { slot, number, size, checksum, qos, retain, subscription_ids } =
                message;
            let subscription_ids = subscription_ids.as_slice().to_vec();
            let kept = StoredMessageRef { slot, number, checksum };
            all.push(MovedAway { kept, size, qos, retain, subscription_ids, expires });
        });
        if Mutant::UpgradeAwayLost.is_on() {
            all.clear();
        }
        all
    }

    /// Connects a session that was handed over with its records in the store. A session that is
    /// copied before the store comes is looked for there at the end ([`Shard::check_stored`]).
    pub(super) fn adopt_stored(&mut self, index: u32, stored: StoredAs) -> Result<(), String> {
        let key = session_key(stored.number);
        if self.storing.as_ref().is_some_and(|storing| !storing.log.has(key)) {
            return Err(format!("session {} is not in the store", stored.number));
        }
        self.work.early.get_or_insert_default().arrived.stored.add(stored.number);
        if !Mutant::UpgradeStoredLost.is_on() {
            let known = self.sessions.get_mut(index).ok_or("it is gone")?;
            known.stored = StoredSessionRef::new(stored.number, stored.slot);
        }
        Ok(())
    }

    /// Connects a message that was handed over with its record in the store. All sessions that the
    /// message waits for share one [`Message`], which is returned.
    pub(super) fn adopt_kept(
        &mut self,
        index: u32,
        message: &Message,
        kept: StoredMessageRef,
    ) -> Result<Message, String> {
        let storing = self.storing.as_mut().ok_or_else(no_store)?;
        if !storing.log.has(message_key(kept.number)) {
            return Err(format!("message {} is not in the store", kept.number));
        }
        storing.bodies.set_slot(index, kept.slot, kept.number);
        if let Some(known) = storing.bodies.get(kept.number).cloned() {
            storing.bodies.hold_again(kept.number);
            return Ok(known);
        }
        storing.bodies.hold(kept.number, message.clone(), kept.checksum);
        Ok(message.clone())
    }

    /// Does the same as [`Shard::adopt_kept`] for a message with its delivery options.
    pub(super) fn adopt_queued(
        &mut self,
        index: u32,
        mut queued: Queued,
        kept: Option<StoredMessageRef>,
    ) -> Result<Queued, String> {
        if let Some(kept) = kept {
            queued.message = self.adopt_kept(index, &queued.message, kept)?;
            queued.stored = if Mutant::UpgradeSlotLost.is_on() { 0 } else { kept.slot };
        }
        Ok(queued)
    }

    /// Puts messages that are only in the store at the end of the session's queue.
    pub(super) fn adopt_away(&mut self, index: u32, all: Vec<MovedAway>) -> Result<(), String> {
        for MovedAway { kept, size, qos, retain, subscription_ids, expires } in all {
            let storing = self.storing.as_mut().ok_or_else(no_store)?;
            if !storing.log.has(message_key(kept.number)) {
                return Err(format!("message {} is not in the store", kept.number));
            }
            storing.bodies.adopt_away(kept.number);
            let Some(session) = self.sessions.get_mut(index) else { return Ok(()) };
            let pending = &mut session.flow().pending;
            let (before, bytes) = (pending.away(), pending.bytes());
            let StoredMessageRef { slot, number, checksum } = kept;
            let subscription_ids = SubscriptionIds::from_slice(&subscription_ids);
            let message =
                AwayMessage { slot, number, size, checksum, qos, retain, subscription_ids };
            pending.push_away(message, expires, &ANY);
            self.counters.pending_messages += 1;
            self.counters.pending_bytes += (pending.bytes() - bytes) as u64;
            self.note_away(index, before);
        }
        Ok(())
    }

    /// Checks that every session of the store has been handed over, and no other stored one, and
    /// that there are as many retained messages as in the store. Those that have come are right:
    /// what holds no more is taken away first ([`Shard::end_stale`]).
    ///
    /// # Errors
    /// Some sessions or retained messages of the store were not handed over, which would be lost;
    /// or sessions that the store does not have.
    pub fn check_stored(&self) -> Result<(), String> {
        let came = self.work.early.as_deref().map(|early| early.arrived.stored).unwrap_or_default();
        let Some(storing) = &self.storing else {
            return if came == SessionSum::default() { Ok(()) } else { Err(no_store()) };
        };
        let retained = self.retained.of_clients();
        match storing.expected {
            Some((_, there)) if there != retained && !Mutant::UpgradeRetainedUncompared.is_on() => {
                Err(format!(
                    "the store has {there} retained messages, and {retained} were handed over"
                ))
            }
            Some((there, _)) if there != came => {
                let (there, came) = (there.count(), came.count());
                Err(format!(
                    "the store has {there} sessions, and {came} or others were handed over"
                ))
            }
            _ => Ok(()),
        }
    }

    /// Begins to write to the store, which belongs to this process from now on.
    pub(super) fn serve_stored(&mut self) {
        let Some(storing) = &mut self.storing else { return };
        storing.expected = None;
        storing.bodies.adopted();
        storing.log.go_on();
    }
}

fn no_store() -> String {
    "a session is stored, and the new configuration has no storage.path".to_owned()
}
