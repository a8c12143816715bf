//! What is known of another node goes to the process that takes this one's place in an upgrade.

use super::{PeerCounts, PeerNode, Presence};
use crate::cluster::clock::Offset;
use crate::cluster::counted::{self, NamedCount};
use crate::cluster::filters::FilterTelling;
use crate::cluster::frame::Abilities;
use crate::cluster::lane::{self, Lane};
use crate::cluster::peer::LocalBroker;
use crate::limits::CLUSTER_FILTERS;
use crate::mutant::Mutant;
use crate::time::Instant;
use crate::upgrade::cluster::{MovedPeer, MovedRun};

impl PeerCounts {
    /// The counts by their names.
    pub(in super::super) fn named(&mut self) -> [NamedCount<'_>; 6] {
        let PeerCounts { sent, received, lost, resends, disagreements, malformed } = self;
        [
            ("sent", sent),
            ("received", received),
            ("lost", lost),
            ("resends", resends),
            ("disagreements", disagreements),
            ("malformed", malformed),
        ]
    }
}

impl PeerNode {
    /// Packs what is known of the node with this number, whose clients have these will messages.
    /// `lacks_retained`: it has not been told all retained messages.
    pub(in super::super) fn pack(
        &self,
        number: u8,
        wills: Option<MovedRun>,
        lacks_retained: bool,
    ) -> MovedPeer {
        let ends = self.windows.iter().zip(&self.arrivals);
        MovedPeer {
            number,
            name: self.name.clone(),
            incarnation: self.incarnation,
            newest: self.told.newest,
            level: self.told.level,
            down: match self.presence {
                Presence::Up => None,
                Presence::Down(since) => Some(since),
            },
            has_ended: self.has_ended,
            stream: self.stream,
            back: self.back,
            lanes: ends.map(|(window, arrivals)| lane::pack(window, arrivals)).collect(),
            telling: self.telling.pack(),
            filters: if Mutant::ClusterUpgradeFiltersLost.is_on() {
                Vec::new()
            } else {
                self.filters.texts()
            },
            snapshot: self.snapshot,
            is_whole: self.is_whole,
            offset: self.offset.known(),
            lacks_retained: self.lacks_retained || lacks_retained,
            knows_wills: self.wills.is_done(),
            wills,
            counted: counted::pack(PeerCounts { resends: self.resends(), ..self.counts }.named()),
        }
    }

    /// The node as it was packed by a process of level `level`, heard at `now`; `own` is what this
    /// one can do. The node's filters are wanted of the broker.
    ///
    /// # Errors
    /// What cannot be.
    pub(in super::super) fn unpack(
        moved: MovedPeer,
        (own, level): (Abilities, u8),
        broker: &mut impl LocalBroker,
        now: Instant,
    ) -> Result<PeerNode, String> {
        let lanes = moved.lanes.into_iter().map(lane::unpack);
        let (windows, arrivals): (Vec<_>, Vec<_>) = lanes.unzip();
        let three =
            || format!("node {} has other lanes than these {}", moved.name, Lane::ALL.len());
        let windows = windows.try_into().map_err(|_| three())?;
        let arrivals = arrivals.try_into().map_err(|_| three())?;
        if moved.filters.len() > CLUSTER_FILTERS {
            return Err(format!("node {} has too many filters", moved.name));
        }
        let mut counts = PeerCounts::default();
        counted::add(counts.named(), &moved.counted);
        let mut peer = PeerNode {
            presence: moved.down.map_or(Presence::Up, Presence::Down),
            heard: now,
            has_ended: moved.has_ended,
            stream: moved.stream,
            back: moved.back,
            windows,
            arrivals,
            telling: FilterTelling::unpack(moved.telling),
            snapshot: moved.snapshot,
            is_whole: moved.is_whole,
            offset: Offset::with(moved.offset, now),
            lacks_retained: moved.lacks_retained,
            // Those that came by mail may be on their way to the shards.
            groups_told: true,
            counts,
            told: Abilities { newest: moved.newest, level: moved.level },
            ..PeerNode::named(moved.name, moved.incarnation, own, now)
        };
        // With a higher level it can be told more of each.
        if moved.knows_wills && peer.can().level <= level {
            peer.wills.is_told();
        }
        let change = &mut |filter: &str, wanted: bool| broker.want(moved.number, filter, wanted);
        for (number, filter) in moved.filters.iter().enumerate() {
            peer.filters.set(number as u32, filter.as_deref(), change);
        }
        Ok(peer)
    }

    /// Some numbers of this node's filters mean something else than the node was told.
    pub(in super::super) fn renumbered(&mut self, changed: &[u32]) {
        changed.iter().for_each(|&number| self.telling.changed(number));
    }
}
