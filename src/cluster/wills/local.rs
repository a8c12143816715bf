//! The will messages of this node's clients, and how far other nodes have been told them.

use super::PLACE;
use crate::cluster::record::{NodeRecord, WillRef};
use crate::mesh::moves::FarWill;
use crate::mutant::Mutant;
use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;

/// The most changes that wait to be told to one node; with more, the node is told everything again.
const CHANGES: usize = 1 << 16;

/// The will messages of this node's clients, by ClientId, each with the stamp of when it was told.
#[derive(Default)]
pub struct LocalWills {
    all: BTreeMap<Box<str>, (u64, FarWill)>,
    bytes: usize,
}

impl LocalWills {
    /// The number of will messages.
    pub fn len(&self) -> usize {
        self.all.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Bytes of the entries. The messages belong to the sessions.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Sets or removes the will message of a client. Returns true when there is something to tell.
    pub fn set(&mut self, client: &str, stamp: u64, will: Option<FarWill>) -> bool {
        let Some(will) = will else {
            let had = self.all.remove(client).is_some();
            self.bytes -= if had { client.len() + PLACE } else { 0 };
            return had && !Mutant::ClusterWillKept.is_on();
        };
        if self.all.insert(client.into(), (stamp, will)).is_none() {
            self.bytes += client.len() + PLACE;
        }
        !Mutant::ClusterWillUntold.is_on()
    }

    fn after(&self, client: Option<&str>) -> Option<&str> {
        let from = client.map_or(Bound::Unbounded, Bound::Excluded);
        let next = self.all.range::<str, _>((from, Bound::Unbounded)).next();
        next.map(|(client, _)| &**client)
    }

    /// Tells the will message of a client to a node of that level.
    fn tell(&self, client: &str, level: u8, tell: &mut dyn FnMut(&NodeRecord<'_>)) {
        let Some((stamp, will)) = self.all.get(client) else {
            return tell(&NodeRecord::NoWill(client));
        };
        let FarWill { message, due, message_expiry, stored } = will;
        let will = WillRef {
            stamp: *stamp,
            due: *due,
            message_expiry: *message_expiry,
            client,
            message: message.view(),
        };
        let record = match stored {
            true => NodeRecord::StoredWill(will),
            false => NodeRecord::Will(will),
        };
        // Who does not read of stored will messages must not keep what was there before.
        match record.level() <= level {
            true => tell(&record),
            false => tell(&NodeRecord::NoWill(client)),
        }
    }
}

/// Up to which ClientId the will messages have been told.
#[derive(Default)]
enum HowFar {
    /// Nothing has been told.
    #[default]
    Begin,
    /// Those of the ClientIds up to this one; `None` when the beginning alone has been told.
    UpTo(Option<Box<str>>),
    /// All have been told.
    Done,
}

/// How far another node has been told this node's will messages.
#[derive(Default)]
pub struct WillTelling {
    stage: HowFar,
    /// ClientIds that were told already and whose will messages have changed since.
    changes: VecDeque<Box<str>>,
}

impl WillTelling {
    /// Begins to tell everything again.
    pub fn begin(&mut self) {
        *self = WillTelling::default();
    }

    /// Another process has told everything.
    pub fn is_told(&mut self) {
        self.stage = HowFar::Done;
    }

    /// Whether everything has been told.
    pub fn is_done(&self) -> bool {
        matches!(self.stage, HowFar::Done) && self.changes.is_empty()
    }

    /// The will message of a client has changed.
    pub fn changed(&mut self, client: &str) {
        let known = match &self.stage {
            HowFar::Begin => false,
            HowFar::UpTo(last) => last.as_deref().is_some_and(|last| client <= last),
            HowFar::Done => true,
        };
        if !known {
            return;
        }
        if self.changes.len() >= CHANGES {
            return self.begin();
        }
        self.changes.push_back(client.into());
    }

    /// Tells a node of that level one more record; returns false when there is none.
    pub fn next(
        &mut self,
        wills: &LocalWills,
        level: u8,
        tell: &mut dyn FnMut(&NodeRecord<'_>),
    ) -> bool {
        if let Some(client) = self.changes.pop_front() {
            wills.tell(&client, level, tell);
            return true;
        }
        let last = match &self.stage {
            HowFar::Done => return false,
            HowFar::Begin => {
                tell(&NodeRecord::NoWills);
                self.stage = HowFar::UpTo(None);
                return true;
            }
            HowFar::UpTo(last) => last.as_deref(),
        };
        match wills.after(last) {
            None => {
                self.stage = HowFar::Done;
                false
            }
            Some(client) => {
                wills.tell(client, level, tell);
                self.stage = HowFar::UpTo(Some(client.into()));
                true
            }
        }
    }
}
