//! A log whose files pass to another process of the broker, on either side. While it is held, what
//! was appended is still written, and nothing else is changed on the disk. So both processes may
//! have the files open at the same time, and the one that goes on finds them as it knows them.

use super::log::Log;
use crate::mutant::Mutant;

impl Log {
    /// Holds the log: from now on no segment is made, cleaned or dropped.
    pub fn hold(&mut self) {
        self.held = !Mutant::StorageHeldChanges.is_on();
    }

    /// Ends [`Log::hold`]: segments are made, cleaned and dropped again.
    pub fn go_on(&mut self) {
        self.held = false;
    }

    /// Whether everything is durable, and no command is unanswered.
    pub fn rests(&self) -> bool {
        let cleans = self.cleaning.as_ref().is_some_and(|cleaning| cleaning.is_reading());
        self.is_settled() && !self.creating && !cleans && self.dropping.is_none()
    }

    /// Takes segments without a batch of the log, as recovery has found them. They are dropped in
    /// time.
    pub fn leave(&mut self, unused: Vec<u32>) {
        self.junk.extend(unused);
    }

    /// The work of each turn.
    pub(super) fn keep_house(&mut self, now: u64) {
        if self.held {
            self.commit(now);
            self.sync(now);
            return;
        }
        self.make_ready(now);
        self.commit(now);
        self.sync(now);
        self.clean();
        self.drop_oldest();
    }
}
