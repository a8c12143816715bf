//! Who has come in, and until when clients were joining.

/// Clients that came in, each for the first time or again.
pub struct Arrivals {
    was_in: Vec<bool>,
    /// Those that came in.
    pub connected: u64,
    /// How often some of them came in again.
    pub reconnected: u64,
    /// When a client last came in for the first time: until then they were joining. Those that
    /// reconnect later do not count.
    pub last_first: u64,
}

impl Arrivals {
    /// Nobody has come in at `now`.
    pub fn new(clients: u32, now: u64) -> Arrivals {
        let was_in = vec![false; clients as usize];
        Arrivals { was_in, connected: 0, reconnected: 0, last_first: now }
    }

    /// A client comes in.
    pub fn note(&mut self, client: u32, now: u64) {
        if std::mem::replace(&mut self.was_in[client as usize], true) {
            self.reconnected += 1;
        } else {
            self.connected += 1;
            self.last_first = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_reconnects_does_not_lengthen_the_time_of_joining() {
        let mut arrivals = Arrivals::new(2, 5);
        [(0, 10), (1, 20), (0, 900)].into_iter().for_each(|(client, at)| arrivals.note(client, at));
        assert_eq!((arrivals.connected, arrivals.reconnected, arrivals.last_first), (2, 1, 20));
    }
}
