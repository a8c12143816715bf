//! The connections whose output waits for the store. A connection waits for a batch of this shard's
//! log, for messages that have to be safe on other shards, for receipts, and for fan-outs in
//! progress. This module owns the order in which the connections wait, so that those that may
//! continue are found without looking at the others.
//!
//! What a client says while its connection waits makes the connection wait for more. The output
//! that was there before does not wait for that: at the end of each step an [`OutputMark`] notes
//! how far the output goes, and what it waits for. Otherwise a client that never pauses would not
//! be answered before its window is full.

use crate::ids::{ShardId, SocketId};
use crate::mutant::Mutant;
use hashbrown::HashMap;
use std::collections::VecDeque;

/// Most marks of a connection. When it has as many, the last one is moved on instead.
const MARKS: usize = 8;

/// What output waits for. For one connection, none of this ever decreases.
#[derive(Clone, Default, PartialEq, Eq)]
struct StoreNeeds {
    /// This batch has to be durable.
    batch: u64,
    /// This receipt, and all before it, have to be closed: see [`super::receipts`].
    receipt: u64,
    /// For each shard that messages went to: how many of those sent there have to be safe.
    elsewhere: Vec<(ShardId, u64)>,
}

/// The output up to this position ([`super::output::Output::end`]) waits for no more than this.
struct OutputMark {
    position: u64,
    needs: StoreNeeds,
}

/// What a connection's output waits for.
#[derive(Default)]
struct WithheldUntil {
    /// What all of it waits for.
    needs: StoreNeeds,
    /// A fan-out of the client's message is under way, so its batch is not known yet.
    fanning: bool,
    /// What parts of it wait for, in order. Without a mark, output waits for everything.
    marks: VecDeque<OutputMark>,
    /// The output up to this position waits for nothing any more.
    cleared: u64,
}

/// How far the store has come, here and on other shards.
pub(super) trait StoreProgress {
    /// The last batch of this shard that is durable.
    fn durable(&self) -> u64;
    /// How many of the messages sent to that shard are safe there.
    fn safe(&self, shard: ShardId) -> u64;
    /// All receipts up to this one are closed.
    fn closed(&self) -> u64;
}

impl StoreNeeds {
    fn are_met(&self, progress: &impl StoreProgress) -> bool {
        let safe = |&(shard, count): &(ShardId, u64)| progress.safe(shard) >= count;
        self.batch <= progress.durable()
            && self.receipt <= progress.closed()
            && self.elsewhere.iter().all(safe)
    }
}

impl WithheldUntil {
    fn is_met(&self, progress: &impl StoreProgress) -> bool {
        !self.fanning && self.needs.are_met(progress)
    }

    /// Takes out the marks that wait for nothing any longer; true when there were any.
    fn clear(&mut self, progress: &impl StoreProgress) -> bool {
        let before = self.cleared;
        let is_met = |mark: &mut OutputMark| mark.needs.are_met(progress);
        while let Some(mark) = self.marks.pop_front_if(is_met) {
            self.cleared = mark.position;
        }
        self.cleared != before
    }

    /// Notes that the output up to `end` waits for what all of it waits for now.
    fn mark(&mut self, end: u64) {
        if self.fanning || Mutant::StorageAnsweredTogether.is_on() {
            return;
        }
        let full = self.marks.len() == MARKS;
        match self.marks.back_mut() {
            Some(last) if last.position == end => {}
            Some(last) if full || last.needs == self.needs => {
                last.position = end;
                last.needs.clone_from(&self.needs);
            }
            _ => self.marks.push_back(OutputMark { position: end, needs: self.needs.clone() }),
        }
    }
}

/// The connections whose output waits. An entry of the queues may be of a connection that waits for
/// something later by now, or that is gone. Each entry is looked at once, when what it waits for
/// has come.
#[derive(Default)]
pub(super) struct Withheld {
    needs: HashMap<u32, WithheldUntil, foldhash::fast::FixedState>,
    /// Batch and connection, the oldest first.
    batches: VecDeque<(u64, u32)>,
    /// Receipt and connection, the oldest first.
    receipts: VecDeque<(u64, u32)>,
    /// For each shard: how many of the messages sent there have to be safe, and the connection.
    elsewhere: Vec<VecDeque<(u64, u32)>>,
    /// The connections with a fan-out under way.
    fanning: Vec<u32>,
}

impl Withheld {
    /// How many connections wait.
    pub(super) fn len(&self) -> usize {
        self.needs.len()
    }

    /// The connections that wait.
    pub(super) fn all(&self) -> Vec<SocketId> {
        self.needs.keys().map(|&socket| SocketId(socket)).collect()
    }

    /// Makes the connection wait for that batch. Batches must not decrease from one call to the
    /// next.
    pub(super) fn wait_for_batch(&mut self, socket: SocketId, batch: u64) {
        debug_assert!(self.batches.back().is_none_or(|last| last.0 <= batch));
        let known = self.needs.len();
        let need = self.needs.entry(socket.0).or_default();
        let before = std::mem::replace(&mut need.needs.batch, batch);
        if before != batch || self.needs.len() != known {
            self.batches.push_back((batch, socket.0));
        }
    }

    /// Makes the connection wait until that receipt is closed. Receipts must not decrease from one
    /// call to the next.
    pub(super) fn wait_for_receipt(&mut self, socket: SocketId, receipt: u64) {
        let need = self.needs.entry(socket.0).or_default();
        if std::mem::replace(&mut need.needs.receipt, receipt) != receipt {
            self.receipts.push_back((receipt, socket.0));
        }
    }

    /// Makes the connection wait until `count` of the messages sent to `shard` are safe there.
    pub(super) fn wait_elsewhere(&mut self, socket: SocketId, shard: ShardId, count: u64) {
        let need = self.needs.entry(socket.0).or_default();
        match need.needs.elsewhere.iter_mut().find(|known| known.0 == shard) {
            Some(known) => known.1 = count,
            None => need.needs.elsewhere.push((shard, count)),
        }
        let at = usize::from(shard.0);
        if self.elsewhere.len() <= at {
            self.elsewhere.resize_with(at + 1, VecDeque::new);
        }
        if let Some(queue) = self.elsewhere.get_mut(at) {
            queue.push_back((count, socket.0));
        }
    }

    /// Makes the connection wait for the fan-outs that are under way.
    pub(super) fn wait_for_fan_outs(&mut self, socket: SocketId) {
        let need = self.needs.entry(socket.0).or_default();
        if !std::mem::replace(&mut need.fanning, true) {
            self.fanning.push(socket.0);
        }
    }

    /// Notes that no fan-out is under way any longer. Their records are in batches up to
    /// `appended`, and their messages on other shards have receipts up to `receipt`.
    pub(super) fn fan_outs_are_over(&mut self, appended: u64, receipt: u64) {
        for socket in self.fanning.drain(..) {
            let Some(need) = self.needs.get_mut(&socket) else { continue };
            if std::mem::replace(&mut need.fanning, false) {
                (need.needs.batch, need.needs.receipt) = (appended, receipt);
                self.batches.push_back((appended, socket));
                self.receipts.push_back((receipt, socket));
            }
        }
    }

    /// Up to which position the connection's output may be sent; `None` when all of it may. `end`:
    /// the position of its end. Everything that the output has to wait for is known by now.
    pub(super) fn may_send(
        &mut self,
        socket: SocketId,
        end: u64,
        progress: &impl StoreProgress,
    ) -> Option<u64> {
        let need = self.needs.get_mut(&socket.0).filter(|need| !need.is_met(progress))?;
        need.mark(end);
        need.clear(progress);
        let all = need.cleared > 0 && Mutant::StoragePartEarly.is_on();
        Some(if all { end } else { need.cleared })
    }

    /// Forgets a connection that is gone, with everything it waited for.
    pub(super) fn forget(&mut self, socket: SocketId) {
        self.needs.remove(&socket.0);
    }

    /// Takes out the connections that wait for nothing any longer; returns them, and those of which
    /// a part of the output waits for nothing any longer.
    pub(super) fn take_met(&mut self, progress: &impl StoreProgress) -> Vec<SocketId> {
        let mut met = Vec::new();
        let needs = &mut self.needs;
        let mut look = |socket: u32| {
            let Some(need) = needs.get_mut(&socket) else { return };
            if need.is_met(progress) {
                needs.remove(&socket);
                met.push(SocketId(socket));
            } else if need.clear(progress) {
                met.push(SocketId(socket));
            }
        };
        let durable = progress.durable();
        while let Some((_, socket)) = self.batches.pop_front_if(|next| next.0 <= durable) {
            look(socket);
        }
        let closed = progress.closed();
        while let Some((_, socket)) = self.receipts.pop_front_if(|next| next.0 <= closed) {
            look(socket);
        }
        for (at, queue) in self.elsewhere.iter_mut().enumerate() {
            let safe = progress.safe(ShardId(at as u8));
            while let Some((_, socket)) = queue.pop_front_if(|next| next.0 <= safe) {
                look(socket);
            }
        }
        met
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct At(u64, [u64; 2], u64);

    impl StoreProgress for At {
        fn durable(&self) -> u64 {
            self.0
        }

        fn safe(&self, shard: ShardId) -> u64 {
            self.1[usize::from(shard.0)]
        }

        fn closed(&self) -> u64 {
            self.2
        }
    }

    fn met(withheld: &mut Withheld, at: &At) -> Vec<u32> {
        withheld.take_met(at).into_iter().map(|socket| socket.0).collect()
    }

    #[test]
    fn who_waits_goes_on_when_all_that_it_waits_for_has_come_and_not_before() {
        let mut withheld = Withheld::default();
        let other = ShardId(1);
        withheld.wait_for_batch(SocketId(1), 3);
        withheld.wait_for_batch(SocketId(2), 3);
        withheld.wait_elsewhere(SocketId(2), other, 7);
        withheld.wait_for_fan_outs(SocketId(3));
        withheld.wait_for_batch(SocketId(1), 4); // it has said more
        withheld.wait_elsewhere(SocketId(4), other, 9);
        assert_eq!(met(&mut withheld, &At(3, [0, 6], 0)), [0; 0]);
        assert!(withheld.may_send(SocketId(2), 0, &At(3, [0, 6], 0)).is_some());
        assert_eq!(met(&mut withheld, &At(3, [0, 7], 0)), [2]);
        assert_eq!(met(&mut withheld, &At(4, [0, 7], 0)), [1]);
        withheld.fan_outs_are_over(5, 2);
        assert_eq!(met(&mut withheld, &At(4, [0, 9], 0)), [4]);
        assert_eq!(met(&mut withheld, &At(5, [0, 9], 1)), [0; 0]);
        assert_eq!(met(&mut withheld, &At(5, [0, 9], 2)), [3]);
        withheld.wait_for_receipt(SocketId(6), 3);
        assert_eq!(met(&mut withheld, &At(5, [0, 9], 2)), [0; 0]);
        assert_eq!(met(&mut withheld, &At(5, [0, 9], 4)), [6]);
        assert_eq!(withheld.len(), 0);
        assert!(withheld.batches.is_empty() && withheld.elsewhere.iter().all(|q| q.is_empty()));
    }

    #[test]
    fn a_socket_that_comes_again_does_not_inherit_what_the_one_before_it_waited_for() {
        let mut withheld = Withheld::default();
        withheld.wait_for_batch(SocketId(1), 3);
        withheld.forget(SocketId(1));
        assert_eq!(withheld.may_send(SocketId(1), 9, &At(0, [0, 0], 0)), None);
        withheld.wait_for_batch(SocketId(1), 5);
        assert_eq!(met(&mut withheld, &At(3, [0, 0], 0)), [0; 0]);
        assert_eq!(met(&mut withheld, &At(5, [0, 0], 0)), [1]);
    }

    #[test]
    fn output_does_not_wait_for_what_is_said_after_it() {
        let mut withheld = Withheld::default();
        let (socket, other) = (SocketId(1), ShardId(1));
        withheld.wait_for_batch(socket, 3);
        assert_eq!(withheld.may_send(socket, 10, &At(2, [0, 0], 0)), Some(0));
        withheld.wait_elsewhere(socket, other, 7);
        assert_eq!(withheld.may_send(socket, 10, &At(2, [0, 0], 0)), Some(0));
        assert_eq!(withheld.may_send(socket, 14, &At(2, [0, 0], 0)), Some(0));
        withheld.wait_for_batch(socket, 4);
        assert_eq!(met(&mut withheld, &At(3, [0, 6], 0)), [1]);
        assert_eq!(withheld.may_send(socket, 18, &At(3, [0, 6], 0)), Some(10));
        assert_eq!(met(&mut withheld, &At(3, [0, 7], 0)), [1]);
        assert_eq!(withheld.may_send(socket, 18, &At(3, [0, 7], 0)), Some(14));
        // While a fan-out is under way, what the output waits for is not known.
        withheld.wait_for_fan_outs(socket);
        assert_eq!(withheld.may_send(socket, 22, &At(4, [0, 7], 0)), Some(18));
        withheld.fan_outs_are_over(5, 0);
        assert_eq!(withheld.may_send(socket, 22, &At(4, [0, 7], 0)), Some(18));
        assert_eq!(met(&mut withheld, &At(5, [0, 7], 0)), [1]);
        assert_eq!(withheld.may_send(socket, 22, &At(5, [0, 7], 0)), None);
    }

    #[test]
    fn a_client_that_never_pauses_is_answered_however_much_it_says() {
        let mut withheld = Withheld::default();
        let (socket, mut sent) = (SocketId(1), 0);
        for step in 1..1000 {
            withheld.wait_for_batch(socket, step);
            // Twenty steps later what was said in a step is durable.
            let durable = At(step.saturating_sub(20), [0, 0], 0);
            met(&mut withheld, &durable);
            let cleared = withheld.may_send(socket, step, &durable).expect("it waits");
            assert!((sent..=durable.0).contains(&cleared), "{cleared} of {}", durable.0);
            assert!(cleared + 20 >= durable.0, "{cleared} of {}", durable.0);
            assert!(withheld.needs[&1].marks.len() <= MARKS);
            sent = cleared;
        }
    }
}
