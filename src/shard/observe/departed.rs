//! Why connections ended: the last ones of a shard's clients. An operator learns it so of a client
//! whose session ended with its connection as well, and no session needs room for it.

use crate::ids::ClientKey;
use crate::limits::DEPARTURES;
use crate::time::Instant;

/// How a connection of a client ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Departure {
    /// When it ended.
    pub at: Instant,
    /// Why.
    pub reason: &'static str,
    /// The reason code of the DISCONNECT from or to the client, if there was one.
    pub code: Option<u8>,
}

/// The last [`DEPARTURES`] ends of connections, each with the key of its client.
#[derive(Default)]
pub(in crate::shard) struct DepartureRing {
    all: Vec<(ClientKey, Departure)>,
    /// The place of the next one once all are taken: that of the oldest.
    next: usize,
}

impl DepartureRing {
    pub(super) fn add(&mut self, client: ClientKey, departure: Departure) {
        if self.all.len() < DEPARTURES {
            self.all.push((client, departure));
        } else if let Some(oldest) = self.all.get_mut(self.next) {
            *oldest = (client, departure);
            self.next = (self.next + 1) % DEPARTURES;
        }
    }

    /// The last one of a client.
    pub(in crate::shard) fn last(&self, client: ClientKey) -> Option<Departure> {
        let (older, newer) = (self.all.get(self.next..)?, self.all.get(..self.next)?);
        let newest_first = newer.iter().rev().chain(older.iter().rev());
        newest_first
            .into_iter()
            .find(|(known, _)| *known == client)
            .map(|(_, departure)| *departure)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_end_of_each_client_is_known_until_there_were_too_many_others() {
        let mut all = DepartureRing::default();
        let key = |number: u64| ClientKey::new(1 << 60 | number);
        let end = |at, reason| Departure { at: Instant(at), reason, code: None };
        assert_eq!(all.last(key(0)), None);
        for at in 0..DEPARTURES as u64 {
            all.add(key(at % 10), end(at, "first"));
        }
        assert_eq!(all.last(key(3)).map(|end| end.at.0 % 10), Some(3));
        all.add(key(3), end(5000, "second"));
        assert_eq!(all.last(key(3)), Some(end(5000, "second")));
        for at in 0..DEPARTURES as u64 - 1 {
            all.add(key(77), end(6000 + at, "others"));
            assert_eq!(all.last(key(77)), Some(end(6000 + at, "others")));
        }
        assert_eq!(all.last(key(3)), Some(end(5000, "second")));
        all.add(key(77), end(9000, "others"));
        assert_eq!(all.last(key(3)), None);
    }
}
