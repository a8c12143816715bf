//! A log whose files are taken over by another process of the broker, on either side: what was
//! appended is still written, and nothing else is changed on the disk. So the two processes may
//! have the files at the same time, and whichever goes on finds them as it knows them.

use super::log::Log;
use crate::mutant::Mutant;

impl Log {
    /// From now on no segment is made, cleaned or dropped.
    pub fn hold(&mut self) {
        self.held = !Mutant::StorageHeldChanges.is_on();
    }

    /// They are again.
    pub fn go_on(&mut self) {
        self.held = false;
    }

    /// Whether everything is durable, and nothing is asked of whoever owns the files.
    pub fn rests(&self) -> bool {
        let cleans = self.cleaning.as_ref().is_some_and(|cleaning| cleaning.is_reading());
        self.is_settled() && !self.creating && !cleans && self.dropping.is_none()
    }

    /// Segments that hold nothing good, as recovery has found: they are dropped in time.
    pub fn leave(&mut self, unused: Vec<u32>) {
        self.junk.extend(unused);
    }

    /// What is done in each turn.
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
