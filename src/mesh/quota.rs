//! Bounds that hold for the whole broker. They are counted in atomics, because dividing a bound
//! among the shards would refuse a client on one shard while another shard has room. Routing never
//! touches them.
#![allow(clippy::disallowed_types, reason = "bounds of the whole broker")]

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// An amount in use. The limit is given at each call, since limits change when the configuration is
/// reloaded.
#[derive(Default, Debug)]
pub struct Quota(AtomicU64);

impl Quota {
    /// Adds `amount` if the sum stays within `limit`. False when it does not.
    pub fn take(&self, amount: u64, limit: u64) -> bool {
        self.0
            .try_update(Relaxed, Relaxed, |used| {
                used.checked_add(amount).filter(|&sum| sum <= limit)
            })
            .is_ok()
    }

    /// Subtracts `amount`.
    pub fn give(&self, amount: u64) {
        self.0.fetch_sub(amount, Relaxed);
    }

    /// Changes one contribution from `before` to `after`. The contributions of all shards add up in
    /// whatever order they change.
    pub fn shift(&self, before: u64, after: u64) {
        self.0.fetch_add(after.wrapping_sub(before), Relaxed);
    }

    /// Raises the value to `least`, or by 1 if it is that or more already, and returns it: nobody
    /// gets the same twice.
    pub fn above(&self, least: u64) -> u64 {
        let next = |value: u64| value.saturating_add(1).max(least);
        next(self.0.update(Relaxed, Relaxed, next))
    }

    /// Raises the value to `least`.
    pub fn raise(&self, least: u64) {
        self.0.fetch_max(least, Relaxed);
    }

    /// Sets the amount to `value`.
    pub fn set(&self, value: u64) {
        self.0.store(value, Relaxed);
    }

    /// The amount in use now.
    #[inline]
    pub fn used(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// How often something happened. It only grows.
#[derive(Default, Debug)]
pub struct Total(AtomicU64);

impl Total {
    /// Once more.
    pub fn add(&self) {
        self.0.fetch_add(1, Relaxed);
    }

    /// So often.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Whether messages to be retained have ever been accepted, of topics that begin with `$` and of
/// others: no filter matches both kinds [MQTT-4.7.2-1]. Where there have been none, nothing is to
/// be replayed to a subscription; the broker's own `$SYS` topics are always retained. Such a
/// message may still be on its way to its home shard.
#[derive(Default, Debug)]
pub struct RetainedEver {
    system: Quota,
    others: Quota,
}

impl RetainedEver {
    fn of(&self, text: &str) -> &Quota {
        if text.starts_with('$') { &self.system } else { &self.others }
    }

    /// Says that a message of this topic is to be retained.
    pub fn note(&self, topic: &str) {
        let ever = self.of(topic);
        // Its cache line is written once.
        if ever.used() == 0 {
            ever.set(1);
        }
    }

    /// Whether `filter` may match the topic of a message that is retained.
    pub fn may_match(&self, filter: &str) -> bool {
        self.of(filter).used() != 0
    }
}

/// A rate limit without a queue (the generic cell rate algorithm): at most `per_second`, with
/// bursts of up to one second's worth.
#[derive(Default, Debug)]
pub struct Rate(AtomicU64);

impl Rate {
    /// True when one more is allowed at `now_micros` on a clock that all callers share.
    pub fn allow(&self, now_micros: u64, per_second: u32) -> bool {
        let interval = 1_000_000 / u64::from(per_second.max(1));
        self.0
            .try_update(Relaxed, Relaxed, |due| {
                let next = due.max(now_micros) + interval;
                (next <= now_micros + 1_000_000).then_some(next)
            })
            .is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quota_is_exact_and_given_back() {
        let quota = Quota::default();
        assert!(quota.take(2, 3) && quota.take(1, 3) && !quota.take(1, 3));
        quota.give(1);
        assert!(quota.take(1, 3));
        assert_eq!(quota.used(), 3);
    }

    #[test]
    fn shares_add_up_as_they_change() {
        let quota = Quota::default();
        quota.shift(0, 10);
        quota.shift(0, 5);
        quota.shift(10, 3);
        assert_eq!(quota.used(), 8);
    }

    #[test]
    fn what_the_broker_retains_itself_is_nothing_for_filters_of_others() {
        let ever = RetainedEver::default();
        assert!(["#", "+/a", "a", "$SYS/#", ""].iter().all(|filter| !ever.may_match(filter)));
        ever.note("$SYS/broker/uptime");
        assert!(ever.may_match("$SYS/#") && ever.may_match("$SYS/broker/uptime"));
        assert!(["#", "+/broker/uptime", "a", ""].iter().all(|filter| !ever.may_match(filter)));
        ever.note("a");
        assert!(["#", "+", "a/#", ""].iter().all(|filter| ever.may_match(filter)));
    }

    #[test]
    fn a_rate_allows_a_second_of_burst_and_then_its_pace() {
        let rate = Rate::default();
        let burst = (0..100).filter(|_| rate.allow(10_000_000, 10)).count();
        assert_eq!(burst, 10);
        let later = (0..100).filter(|_| rate.allow(10_500_000, 10)).count();
        assert_eq!(later, 5);
    }
}
