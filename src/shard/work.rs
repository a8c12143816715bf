//! What the shard does by itself in a share of each step: requests and ends of sessions that take
//! several steps, wills, upkeep, `$SYS`, stopping, and reports to those who watch the shard.

use super::claims::Claims;
use super::early::EarlyCopies;
use super::endings::Endings;
use super::observe::Observers;
use super::stop::Stopping;
use super::sys::Sys;
use super::task::Tasks;
use super::upkeep::Upkeep;
use super::wills::Wills;
use crate::telemetry::Counters;

/// The work of a shard that goes on over several steps.
pub(super) struct Work {
    pub(super) tasks: Tasks,
    pub(super) stopping: Stopping,
    pub(super) wills: Wills,
    pub(super) endings: Endings,
    pub(super) upkeep: Upkeep,
    pub(super) sys: Sys,
    pub(super) observers: Observers,
    pub(super) claims: Claims,
    /// What all this cost in the last step that had such work, in units of about 100 ns, without
    /// the connections that wait for their turn.
    pub(super) lasted: u32,
    /// The copies that are made before an upgrade, while one is under way.
    pub(super) early: Option<Box<EarlyCopies>>,
    /// What the processes before this one have counted.
    pub(super) carried: Option<Box<Counters>>,
}

impl Work {
    /// Nothing to do.
    pub(super) fn new() -> Self {
        Work {
            tasks: Tasks::default(),
            stopping: Stopping::default(),
            wills: Wills::default(),
            endings: Endings::default(),
            upkeep: Upkeep::default(),
            sys: Sys::default(),
            observers: Observers::default(),
            claims: Claims::default(),
            lasted: 0,
            early: None,
            carried: None,
        }
    }

    /// Zero when nothing is to be done. One look at all of it costs a step a tenth of what asking
    /// each kind would.
    #[inline]
    pub(super) fn len(&self) -> usize {
        let stops = usize::from(self.stopping.draining) | self.stopping.to_refer as usize;
        self.tasks.len()
            | self.wills.len()
            | self.observers.events()
            | self.endings.len()
            | self.upkeep.flows_due()
            | stops
    }
}
