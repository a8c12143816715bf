//! The start of the cores: each is told of the others, and none serves before all are whole.

use super::core::{CoreCommand, CoreReport};
use super::{Broker, Failure};
use crate::ring::{Doorbell, RingPort};
use std::time::{Duration, Instant};

/// How long the cores may take to start. Later nothing has a time limit.
const START: Duration = Duration::from_secs(60);

impl Broker {
    /// Waits for every core's driver, tells each about all, and waits until each has put back what
    /// was stored: a message that one of them took in before would miss the subscribers of another.
    pub(super) fn introduce(&mut self) -> Result<(), Failure> {
        let mut peers: Vec<Option<(RingPort, Doorbell)>> = vec![None; self.cores.len()];
        let until = Instant::now() + START;
        while peers.iter().any(Option::is_none) {
            match self.reports.recv_deadline(until) {
                Ok(CoreReport::Up(id, port, doorbell)) => {
                    peers[usize::from(id.0)] = Some((port, doorbell));
                }
                Ok(CoreReport::Failed(id, why)) => {
                    return Err(Failure::new(format!("shard {} cannot start: {why}", id.0)));
                }
                // Nothing has been asked of anybody yet.
                Ok(CoreReport::Done(_) | CoreReport::Alive(..) | CoreReport::Ended(_)) => {}
                Err(_) => {
                    let seconds = START.as_secs();
                    return Err(Failure::new(format!("a shard did not start in {seconds} s")));
                }
            }
        }
        let peers: Vec<(RingPort, Doorbell)> = peers.into_iter().flatten().collect();
        self.doorbells = peers.iter().map(|(_, doorbell)| doorbell.clone()).collect();
        self.tell_all(|| CoreCommand::Peers(peers.clone()));
        let round = self.watch.round();
        while !self.watch.is_done(&round) {
            match self.reports.recv() {
                Ok(CoreReport::Done(id) | CoreReport::Alive(id, _)) => {
                    self.watch.answered(id, Instant::now());
                }
                Ok(CoreReport::Failed(id, why)) => {
                    return Err(Failure::new(format!("shard {} cannot start: {why}", id.0)));
                }
                Ok(CoreReport::Up(..)) => {}
                Ok(CoreReport::Ended(_)) | Err(_) => {
                    return Err(Failure::new("a shard ended at the start"));
                }
            }
        }
        Ok(())
    }
}
