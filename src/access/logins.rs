//! Logins that one shard remembers for a while. A client that shows the same credentials again is
//! accepted without another hash or question, so that a crowd of clients whose connections broke is
//! back soon. Only accepted logins are remembered, never refusals.
//!
//! The table has a fixed size; a new login replaces the one that has the same place. It contains no
//! password, but a keyed hash of 64 bits of everything that the method was shown.

use super::chain::Accepted;
use crate::time::Instant;

/// Most bytes of rules and attributes of a login that is remembered.
const LARGEST: usize = 4096;

/// One login.
#[derive(Clone, Debug)]
struct RecentLogin {
    key: u64,
    /// When the login is forgotten.
    until: Instant,
    /// When the client has to authenticate again.
    ends: Instant,
    accepted: Box<Accepted>,
}

/// Logins of one shard.
#[derive(Default, Debug)]
pub struct Logins {
    /// `room` places; allocated when the first login is remembered.
    entries: Box<[Option<RecentLogin>]>,
    room: usize,
}

impl Logins {
    /// Room for `room` logins, rounded up to a power of two; 0 for none.
    pub fn new(room: usize) -> Logins {
        Logins {
            entries: Box::default(),
            room: if room == 0 { 0 } else { room.next_power_of_two() },
        }
    }

    /// What a client with the credentials of this key was accepted with, if that is remembered.
    pub fn find(&self, key: u64, now: Instant) -> Option<Box<Accepted>> {
        let entry = self.entries.get(self.place(key))?.as_ref()?;
        if entry.key != key || entry.until <= now || entry.ends <= now {
            return None;
        }
        let mut accepted = entry.accepted.clone();
        if entry.ends != Instant::END {
            accepted.lasts = Some(entry.ends.millis_since(now));
        }
        Some(accepted)
    }

    /// Remembers a login for `millis` milliseconds.
    pub fn put(&mut self, key: u64, accepted: &Accepted, now: Instant, millis: u64) {
        if self.room == 0 || millis == 0 || accepted.size() > LARGEST {
            return;
        }
        if self.entries.is_empty() {
            self.entries = vec![None; self.room].into();
        }
        let at = self.place(key);
        let ends = accepted.lasts.map_or(Instant::END, |millis| now.plus_millis(millis));
        if let Some(entry) = self.entries.get_mut(at) {
            let until = now.plus_millis(millis);
            *entry = Some(RecentLogin { key, until, ends, accepted: Box::new(accepted.clone()) });
        }
    }

    fn place(&self, key: u64) -> usize {
        (key >> 20) as usize & self.entries.len().wrapping_sub(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(lasts: Option<u64>) -> Accepted {
        Accepted { lasts, ..Accepted::default() }
    }

    #[test]
    fn a_login_is_remembered_until_its_time_or_its_end() {
        let now = Instant(5_000);
        let mut logins = Logins::new(16);
        assert!(logins.find(7, now).is_none());
        logins.put(7, &with(None), now, 1000);
        let lasts = |logins: &Logins, at| logins.find(7, Instant(at)).map(|found| found.lasts);
        assert_eq!(lasts(&logins, 5_999), Some(None));
        assert_eq!(lasts(&logins, 6_000), None);
        assert!(logins.find(8, now).is_none() && logins.find(7 | 1 << 50, now).is_none());
        logins.put(7, &with(Some(300)), now, 1000);
        assert_eq!(lasts(&logins, 5_100), Some(Some(200)));
        assert_eq!(lasts(&logins, 5_300), None);
    }

    #[test]
    fn room_is_bounded_and_nothing_large_is_kept() {
        let now = Instant(0);
        let mut logins = Logins::new(3);
        (0..100u64).for_each(|key| logins.put(key << 20, &with(None), now, 1000));
        assert_eq!(logins.entries.len(), 4);
        let known = (0..100u64).filter(|key| logins.find(key << 20, now).is_some()).count();
        assert_eq!(known, 4);
        let attributes = [("name".into(), "x".repeat(LARGEST).into())].into();
        logins.put(1, &Accepted { attributes, ..Accepted::default() }, now, 1000);
        assert!(logins.find(1, now).is_none());
        let mut none = Logins::new(0);
        none.put(1, &with(None), now, 1000);
        assert!(none.find(1, now).is_none());
    }
}
