//! When a connection to another broker needs a PINGREQ, and when the other broker counts as silent.
//! Pure.
//!
//! Two rules apply. This broker has to send a packet within the keep-alive [MQTT-3.1.2-20]. And the
//! other broker has to send something within one and a half of it, or the connection is given up.
//! A broker that gets only QoS 0 answers nothing but PINGREQ; so a PINGREQ is due when either side
//! has been quiet for half the keep-alive, however much the other side sends.

use std::time::{Duration, Instant};

/// The times of a connection that both rules need.
#[derive(Clone, Copy, Debug)]
pub struct Liveness {
    /// When bytes were last read, or bytes could last not be read because messages are unsettled.
    heard: Instant,
    /// When bytes were last written.
    spoke: Instant,
    /// When PINGREQ was last sent.
    pinged: Option<Instant>,
}

impl Liveness {
    /// The liveness of a connection that is opened at `now`.
    pub fn new(now: Instant) -> Liveness {
        Liveness { heard: now, spoke: now, pinged: None }
    }

    /// Bytes were read, or are left unread because this end does not take any now: the silence of
    /// the other broker begins at `now`.
    pub fn hear(&mut self, now: Instant) {
        self.heard = now;
    }

    /// Bytes were written.
    pub fn speak(&mut self, now: Instant) {
        self.spoke = now;
    }

    /// PINGREQ was sent.
    pub fn ping(&mut self, now: Instant) {
        self.pinged = Some(now);
    }

    /// When bytes were last read.
    pub fn heard(&self) -> Instant {
        self.heard
    }

    /// When the next PINGREQ is due. CONNACK may have shortened the keep-alive.
    pub fn ping_due(&self, keep_alive: Duration) -> Instant {
        let quiet = self.heard.min(self.spoke);
        // A PINGREQ without an answer is not repeated at once.
        self.pinged.map_or(quiet, |pinged| pinged.max(quiet)) + keep_alive / 2
    }

    /// When the other broker counts as silent, unless bytes are read before.
    pub fn silent_at(&self, keep_alive: Duration) -> Instant {
        self.heard + keep_alive + keep_alive / 2
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEEP_ALIVE: Duration = Duration::from_secs(60);

    /// Serves a connection for ten keep-alives: this end writes every `writes` seconds, the other
    /// end sends something every `sends` seconds and answers each PINGREQ after a second. Returns
    /// the number of PINGREQs, and the longest time without a written packet; `None` when the
    /// other broker counted as silent.
    fn serve(writes: u64, sends: u64) -> Option<(u32, u64)> {
        let begin = Instant::now();
        let mut liveness = Liveness::new(begin);
        let (mut pings, mut answer, mut last, mut longest) = (0, None, 0, 0);
        for second in 1..10 * KEEP_ALIVE.as_secs() {
            let now = begin + Duration::from_secs(second);
            if second % sends == 0 || answer == Some(second) {
                liveness.hear(now);
            }
            let mut wrote = second % writes == 0;
            if liveness.silent_at(KEEP_ALIVE) <= now {
                return None;
            }
            if liveness.ping_due(KEEP_ALIVE) <= now {
                liveness.ping(now);
                (pings, answer, wrote) = (pings + 1, Some(second + 1), true);
            }
            if wrote {
                liveness.speak(now);
                longest = longest.max(second - last);
                last = second;
            }
        }
        Some((pings, longest))
    }

    #[test]
    fn a_bridge_that_only_sends_qos_0_pings_and_keeps_its_connection() {
        let never = u64::MAX;
        for (writes, sends, pings) in [
            (1, never, 19),
            (29, never, 19),
            (never, never, 19),
            // A bridge that only receives has to send something too.
            (never, 1, 19),
            (20, 20, 0),
        ] {
            let (sent, longest) = serve(writes, sends).expect("the connection lasts");
            assert!(sent.abs_diff(pings) <= 1, "{sent} PINGREQs, {writes} {sends}");
            assert!(longest <= 30, "{longest} seconds without a packet, {writes} {sends}");
        }
    }

    #[test]
    fn a_broker_that_answers_nothing_is_silent_after_three_pings_at_most() {
        let begin = Instant::now();
        let mut liveness = Liveness::new(begin);
        let mut pings = Vec::new();
        for second in 1.. {
            let now = begin + Duration::from_secs(second);
            liveness.speak(now);
            if liveness.silent_at(KEEP_ALIVE) <= now {
                assert_eq!(second, 90);
                break;
            }
            if liveness.ping_due(KEEP_ALIVE) <= now {
                liveness.ping(now);
                pings.push(second);
            }
        }
        assert_eq!(pings, [30, 60]);
    }
}
