//! What the processes before this one have counted: what only grows goes on to grow after an
//! upgrade ([`crate::upgrade`]).

use super::Shard;
use crate::mutant::Mutant;
use crate::telemetry::{Counters, MetricKind};

impl Shard {
    /// The shard's figures, with what was counted before an upgrade.
    pub fn figures(&self) -> Counters {
        let mut figures = self.counters;
        if let Some(carried) = &self.work.carried {
            figures.add(carried);
        }
        figures
    }

    /// Packs what only grows, by the names of the fields.
    pub(super) fn packed_counters(&self) -> Vec<(Box<str>, u64)> {
        let figures = self.figures();
        let grows =
            figures.iter().filter(|(about, value)| about.kind == MetricKind::Counter && *value > 0);
        grows.map(|(about, value)| (about.field.into(), value)).collect()
    }

    /// Goes on from what another process has counted. Another build may have counted something that
    /// this one does not.
    pub fn adopt_counters(&mut self, counted: Vec<(Box<str>, u64)>) {
        if Mutant::UpgradeCountersLost.is_on() {
            return;
        }
        let carried = self.work.carried.get_or_insert_default();
        for (field, value) in counted {
            carried.add_to(&field, value);
        }
    }
}
