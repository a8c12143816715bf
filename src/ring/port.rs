//! Where other shards send sockets: a handle that names a ring with room in its table.
//!
//! Shared between threads, hence the atomics. The kernel would close an accepted socket that finds
//! the table full, so accepts and arrivals are counted against it beforehand, and nobody sends
//! without a permit: the owner puts permits for slots it keeps free into
//! a cell, a sender takes one per socket, and a permit whose send failed goes back into its cell.
//! Checked by `tests/loom`.
use crate::atomic::{AtomicI32, AtomicU32, Ordering};
use std::os::fd::RawFd;
use std::sync::Arc;

/// Names the ring of one shard that takes hand-overs. Follows the shard as it opens rings.
#[derive(Clone, Debug)]
pub struct RingPort {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// The cell senders try first.
    current: AtomicU32,
    /// Cells in use, from the front.
    opened: AtomicU32,
    cells: Box<[Cell]>,
}

#[derive(Debug)]
struct Cell {
    /// Valid while there are permits: a ring for which one is out is not closed. Only a core that
    /// ends does not wait for them. One used just after that names no ring, or one that another
    /// core opened since, where the socket goes astray; cores only end with the process.
    fd: AtomicI32,
    permits: AtomicI32,
}

/// The right to send one socket to one ring.
#[derive(Debug)]
pub(super) struct Permit {
    port: RingPort,
    ring: u32,
    pub(super) fd: RawFd,
}

impl Permit {
    /// The socket did not go: the slot it was for is free again.
    pub(super) fn give_back(self) {
        self.port.shared.cells[self.ring as usize].permits.fetch_add(1, Ordering::AcqRel);
    }
}

impl RingPort {
    pub(super) fn new(max_rings: u32) -> Self {
        let cell = || Cell { fd: AtomicI32::new(-1), permits: AtomicI32::new(0) };
        let cells = (0..max_rings).map(|_| cell()).collect();
        let (current, opened) = (AtomicU32::new(0), AtomicU32::new(0));
        RingPort { shared: Arc::new(Shared { current, opened, cells }) }
    }

    /// Takes a permit from the advertised ring, or from any other that still has one.
    pub(super) fn take(&self) -> Option<Permit> {
        let shared = &*self.shared;
        let opened = shared.opened.load(Ordering::Acquire);
        let first = shared.current.load(Ordering::Acquire);
        (0..opened).map(|step| (first + step) % opened).find_map(|ring| {
            let cell = &shared.cells[ring as usize];
            cell.permits
                .fetch_update(Ordering::AcqRel, Ordering::Acquire, |permits| {
                    (permits > 0).then(|| permits - 1)
                })
                .ok()?;
            let fd = cell.fd.load(Ordering::Acquire);
            Some(Permit { port: self.clone(), ring, fd })
        })
    }

    /// The owner opened ring number `ring`.
    pub(super) fn opened(&self, ring: usize, fd: RawFd) {
        self.shared.cells[ring].fd.store(fd, Ordering::Release);
        self.shared.opened.store(ring as u32 + 1, Ordering::Release);
    }

    /// The owner keeps `count` more slots of `ring` free, and wants senders to use that ring.
    pub(super) fn grant(&self, ring: usize, count: u32) {
        self.shared.cells[ring].permits.fetch_add(count as i32, Ordering::AcqRel);
        self.shared.current.store(ring as u32, Ordering::Release);
    }

    /// Permits of `ring` that nobody has taken.
    pub(super) fn permits(&self, ring: usize) -> u32 {
        self.shared.cells[ring].permits.load(Ordering::Acquire).max(0) as u32
    }

    /// Takes the untaken permits of `ring` back; how many there were.
    pub(super) fn withdraw(&self, ring: usize) -> u32 {
        self.shared.cells[ring].permits.swap(0, Ordering::AcqRel).max(0) as u32
    }

    /// The owner goes away: no permit is given from now on.
    pub(super) fn retire(&self) {
        for cell in &self.shared.cells {
            // A swap, for the same reason as in `flag`: permits may be coming back just now.
            cell.permits.swap(i32::MIN / 2, Ordering::AcqRel);
        }
    }

    pub(super) fn is_same(&self, other: &RingPort) -> bool {
        Arc::ptr_eq(&self.shared, &other.shared)
    }
}
