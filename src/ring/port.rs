//! The handle through which other shards send sockets to this one. It names a ring whose table has
//! room.
//!
//! The handle is shared between threads and therefore uses atomics. The kernel would close a socket
//! that finds the table full, so table entries for accepts and for arrivals are reserved
//! beforehand, and nobody sends a socket without a permit. The owner stores permits for the entries
//! that it keeps free in a cell per ring. A sender takes one permit per socket, and returns it to
//! the same cell if the send failed. Checked by `tests/loom`.
#![allow(clippy::disallowed_types, reason = "permits that other shards take")]
use crate::atomic::{AtomicI32, AtomicU32, Ordering};
use std::os::fd::RawFd;
use std::sync::Arc;

/// Names the ring of one shard that receives hand-overs. It follows the shard as it opens further
/// rings.
#[derive(Clone, Debug)]
pub struct RingPort {
    shared: Arc<PortState>,
}

#[derive(Debug)]
struct PortState {
    /// The index of the cell that senders try first.
    current: AtomicU32,
    /// The number of cells in use, counted from the front.
    opened: AtomicU32,
    cells: Box<[Cell]>,
}

#[derive(Debug)]
struct Cell {
    /// The descriptor of the ring, valid while permits exist: a ring with an outstanding permit is
    /// not closed. Only a core that ends does not wait for its permits. A descriptor that is used
    /// just after that names either no ring, or a ring that another core has opened since, in which
    /// case the socket is lost; but cores only end together with the process.
    fd: AtomicI32,
    permits: AtomicI32,
}

/// The right to send one socket to one particular ring.
#[derive(Debug)]
pub(super) struct Permit {
    port: RingPort,
    ring: u32,
    pub(super) fd: RawFd,
}

impl Permit {
    /// Returns the permit of a socket that was not sent: its table entry is free again.
    pub(super) fn give_back(self) {
        self.port.shared.cells[self.ring as usize].permits.fetch_add(1, Ordering::AcqRel);
    }
}

impl RingPort {
    pub(super) fn new(max_rings: u32) -> Self {
        let cell = || Cell { fd: AtomicI32::new(-1), permits: AtomicI32::new(0) };
        let cells = (0..max_rings).map(|_| cell()).collect();
        let (current, opened) = (AtomicU32::new(0), AtomicU32::new(0));
        RingPort { shared: Arc::new(PortState { current, opened, cells }) }
    }

    /// Takes a permit of the preferred ring, or of any other ring that still has one.
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

    /// For the owner: ring number `ring` has been opened.
    pub(super) fn opened(&self, ring: usize, fd: RawFd) {
        self.shared.cells[ring].fd.store(fd, Ordering::Release);
        self.shared.opened.store(ring as u32 + 1, Ordering::Release);
    }

    /// For the owner: `count` more table entries of `ring` are reserved, and senders should use
    /// this ring.
    pub(super) fn grant(&self, ring: usize, count: u32) {
        self.shared.cells[ring].permits.fetch_add(count as i32, Ordering::AcqRel);
        self.shared.current.store(ring as u32, Ordering::Release);
    }

    /// How many permits of `ring` nobody has taken yet.
    pub(super) fn permits(&self, ring: usize) -> u32 {
        self.shared.cells[ring].permits.load(Ordering::Acquire).max(0) as u32
    }

    /// Withdraws the permits of `ring` that nobody has taken, and returns how many there were.
    pub(super) fn withdraw(&self, ring: usize) -> u32 {
        self.shared.cells[ring].permits.swap(0, Ordering::AcqRel).max(0) as u32
    }

    /// For the owner, when it ends: no permit is given out from now on.
    pub(super) fn retire(&self) {
        for cell in &self.shared.cells {
            // A swap, for the same reason as in `flag`: a permit may be returned at the same
            // moment.
            cell.permits.swap(i32::MIN / 2, Ordering::AcqRel);
        }
    }

    pub(super) fn is_same(&self, other: &RingPort) -> bool {
        Arc::ptr_eq(&self.shared, &other.shared)
    }
}
