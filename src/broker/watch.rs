//! Which shards answer, and for how long one has not: late is said, and never a reason to end.
//! Owns the commands that are not answered yet. Time is an argument.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::ids::ShardId;

/// How often each shard is asked whether it is there.
pub(super) const BEAT: Duration = Duration::from_secs(2);
/// A shard that has left a command unanswered for so long is late.
const LATE: Duration = Duration::from_secs(6);
/// Between two looks, more time than this was not the shards': the process was stopped, say.
const OURS: Duration = Duration::from_secs(4);

const _: () = assert!(LATE.as_secs() >= 3 * BEAT.as_secs() && OURS.as_secs() >= 2 * BEAT.as_secs());

/// What every shard had been asked at some moment.
#[derive(Clone, Debug)]
pub(super) struct WatchRound(Vec<u64>);

/// The shards as far as their answers tell.
pub(super) struct Watch {
    shards: Vec<WatchedShard>,
    looked: Instant,
}

#[derive(Default)]
struct WatchedShard {
    /// When each command was given that is not answered yet, oldest first: they are answered in
    /// order.
    open: VecDeque<Instant>,
    asked: u64,
    /// It is late since then: when the command was given that it does not answer.
    late: Option<Instant>,
}

impl Watch {
    pub(super) fn new(shards: usize, now: Instant) -> Watch {
        Watch { shards: (0..shards).map(|_| WatchedShard::default()).collect(), looked: now }
    }

    /// A command was given that will be answered.
    pub(super) fn asked(&mut self, shard: ShardId, now: Instant) {
        let heard = &mut self.shards[usize::from(shard.0)];
        heard.asked += 1;
        heard.open.push_back(now);
    }

    /// A command was answered. Returns how long the shard had been late, if that is over.
    pub(super) fn answered(&mut self, shard: ShardId, now: Instant) -> Option<Duration> {
        let heard = &mut self.shards[usize::from(shard.0)];
        heard.open.pop_front();
        let since = heard.late?;
        if heard.open.front().is_some_and(|&asked| now.duration_since(asked) >= LATE) {
            return None;
        }
        heard.late = None;
        Some(now.duration_since(since))
    }

    /// Whether the shard has answered everything.
    pub(super) fn is_quiet(&self, shard: ShardId) -> bool {
        self.shards[usize::from(shard.0)].open.is_empty()
    }

    /// Finds out who is late; returns those who were not before, and since when. To be called at
    /// least every [`BEAT`]: time in which it was not is not held against anybody.
    pub(super) fn look(&mut self, now: Instant) -> Vec<(ShardId, Instant)> {
        let gap = now.duration_since(self.looked);
        let ours = if gap > OURS { gap - BEAT } else { Duration::ZERO };
        self.looked = now;
        let mut begun = Vec::new();
        for (number, heard) in self.shards.iter_mut().enumerate() {
            if !ours.is_zero() {
                heard.open.iter_mut().for_each(|asked| *asked = (*asked + ours).min(now));
            }
            let Some(&oldest) = heard.open.front() else { continue };
            if heard.late.is_none() && now.duration_since(oldest) >= LATE {
                heard.late = Some(oldest);
                begun.push((ShardId(number as u8), oldest));
            }
        }
        begun
    }

    /// The shards that are late, and since when.
    pub(super) fn late(&self) -> impl Iterator<Item = (ShardId, Instant)> + '_ {
        let numbered = self.shards.iter().enumerate();
        numbered.filter_map(|(number, heard)| Some((ShardId(number as u8), heard.late?)))
    }

    /// What every shard has been asked until now.
    pub(super) fn round(&self) -> WatchRound {
        WatchRound(self.shards.iter().map(|heard| heard.asked).collect())
    }

    /// The shards that have not answered all of it yet.
    pub(super) fn missing<'a>(
        &'a self,
        round: &'a WatchRound,
    ) -> impl Iterator<Item = ShardId> + 'a {
        let answered = |heard: &WatchedShard| heard.asked - heard.open.len() as u64;
        let pairs = self.shards.iter().zip(&round.0).enumerate();
        pairs
            .filter(move |(_, (heard, asked))| answered(heard) < **asked)
            .map(|(number, _)| ShardId(number as u8))
    }

    /// True when everybody who is not late has answered all of it.
    pub(super) fn is_done_by_all_in_time(&self, round: &WatchRound) -> bool {
        self.missing(round).all(|shard| self.shards[usize::from(shard.0)].late.is_some())
    }

    /// True when everybody has answered all of it.
    pub(super) fn is_done(&self, round: &WatchRound) -> bool {
        self.missing(round).next().is_none()
    }
}

#[cfg(test)]
#[path = "watch_tests.rs"]
mod tests;
