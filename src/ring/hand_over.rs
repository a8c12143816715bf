//! Moving a socket to another shard's ring, and receiving one.
use super::driver::{Deferred, Driver};
use super::event::{Event, MAX_COOKIE};
use super::port::{Permit, RingPort};
use super::slots::{CLOSING, HANDING, IN_FLIGHT, LINGER, RECEIVING, WANT};
use super::tag::{self, Kind};
use crate::ids::SocketId;
use io_uring::{opcode, types};
use std::collections::HashMap;

/// Most permits outstanding per ring: how many sockets may arrive between two passes.
const MOST_PERMITS: u32 = 1024;

/// Hand-overs under way: what must be told or given back when they end.
pub(super) struct HandOvers {
    records: Vec<Option<(u64, Permit)>>,
    free: Vec<u32>,
    /// Those that begin when the receive in flight on the socket has ended.
    after_receive: HashMap<SocketId, (RingPort, u64)>,
}

impl HandOvers {
    pub(super) fn new() -> Self {
        HandOvers { records: Vec::new(), free: Vec::new(), after_receive: HashMap::new() }
    }

    pub(super) fn in_flight(&self) -> u32 {
        (self.records.len() - self.free.len()) as u32
    }

    fn put(&mut self, cookie: u64, permit: Permit) -> u32 {
        let index = self.free.pop().unwrap_or_else(|| {
            self.records.push(None);
            self.records.len() as u32 - 1
        });
        self.records[index as usize] = Some((cookie, permit));
        index
    }

    pub(super) fn take(&mut self, index: u32) -> (u64, Permit) {
        self.free.push(index);
        self.records[index as usize].take().expect("a hand-over completes once")
    }
}

impl Driver {
    /// The handle by which other shards send sockets here. From the first call on, some table
    /// entries are kept free for arrivals.
    pub fn port(&mut self) -> RingPort {
        self.ported = true;
        self.grant_permits();
        self.port.clone()
    }

    /// Moves the socket to another shard's ring, where it appears as `Arrived` with `cookie` (at
    /// most [`MAX_COOKIE`]). Ends in `HandedOver`. A receive in flight is cancelled first, and what
    /// it had taken is reported before; nothing is received after a failure until `receive`.
    /// Nothing else may be in flight on the socket.
    pub fn hand_over(&mut self, socket: SocketId, to: &RingPort, cookie: u64) {
        let Some(slot) = self.slots.get(socket) else { return };
        let errno = match slot.flags & IN_FLIGHT {
            _ if slot.flags & (CLOSING | LINGER) != 0 => libc::EBADF,
            _ if cookie > MAX_COOKIE || to.is_same(&self.port) => libc::EINVAL,
            0 => match to.take() {
                Some(permit) => return self.send_away(socket, permit, cookie),
                None => libc::ENFILE,
            },
            RECEIVING if !self.hand_overs.after_receive.contains_key(&socket) => {
                slot.flags &= !WANT;
                self.hand_overs.after_receive.insert(socket, (to.clone(), cookie));
                return self.cancel_receive(socket);
            }
            _ => libc::EBUSY,
        };
        self.deferred.push_back(Deferred::HandedOver(socket, cookie, errno));
    }

    /// The receive in flight has ended: a hand-over that waited for that begins.
    #[inline]
    pub(super) fn begin_hand_over(&mut self, socket: SocketId) {
        if !self.hand_overs.after_receive.is_empty()
            && let Some((to, cookie)) = self.hand_overs.after_receive.remove(&socket)
        {
            self.hand_over(socket, &to, cookie);
        }
    }

    fn send_away(&mut self, socket: SocketId, permit: Permit, cookie: u64) {
        let target = types::Fd(permit.fd);
        let record = self.hand_overs.put(cookie, permit);
        let Some(slot) = self.slots.get(socket) else { return };
        slot.record = record;
        slot.flags |= HANDING;
        let entry = opcode::MsgRingSendFd::new(
            target,
            types::Fixed(slot.table),
            types::DestinationSlot::auto_target(),
            tag::arrival(cookie),
        )
        .build()
        .user_data(tag::tag(Kind::HandOver, slot.generation, socket.0));
        self.rings[slot.ring as usize].push(entry);
    }

    pub(super) fn handed_over(
        &mut self,
        socket: SocketId,
        generation: u16,
        result: i32,
        handler: &mut impl FnMut(&mut Driver, Event<'_>),
    ) {
        let Some(slot) = self.slots.get_current(socket, generation) else { return };
        slot.flags &= !HANDING;
        let (record, closing) = (slot.record, slot.flags & CLOSING != 0);
        let (cookie, permit) = self.hand_overs.take(record);
        if closing {
            self.close_descriptor(socket);
        }
        if result < 0 {
            permit.give_back();
            handler(self, Event::HandedOver { socket, cookie, result: Err(-result) });
        } else {
            self.close(socket);
            handler(self, Event::HandedOver { socket, cookie, result: Ok(()) });
        }
        self.finish_if_done(socket, handler);
    }

    pub(super) fn arrived(
        &mut self,
        ring: usize,
        result: i32,
        cookie: u64,
        handler: &mut impl FnMut(&mut Driver, Event<'_>),
    ) {
        // The permit is used up even if, against all care, the kernel found no place.
        self.rings[ring].promised = self.rings[ring].promised.saturating_sub(1);
        if result < 0 {
            return;
        }
        self.rings[ring].used += 1;
        self.rings[ring].sockets += 1;
        self.counts.arrived += 1;
        let socket = self.slots.open(ring, result as u32);
        self.grant_permits();
        handler(self, Event::Arrived { socket, cookie });
    }

    /// Keeps a batch of table entries free for arrivals, in a ring that has room.
    pub(super) fn grant_permits(&mut self) {
        if !self.ported {
            return;
        }
        let most = (self.rings[self.granting].capacity / 4).clamp(1, MOST_PERMITS);
        let out = self.port.permits(self.granting);
        // Half used up is soon enough; per arrival would be an atomic each.
        if out > most / 2 {
            return;
        }
        if self.rings[self.granting].room() < most - out {
            let Some(ring) = self.roomiest_ring(most) else { return };
            if ring != self.granting {
                return self.grant_from(ring);
            }
        }
        self.grant(most);
    }

    /// Arrivals use `ring` from now on. Its permits are there before the other's go: a sender that
    /// finds none closes the connection.
    pub(super) fn grant_from(&mut self, ring: usize) {
        let before = std::mem::replace(&mut self.granting, ring);
        self.grant((self.rings[ring].capacity / 4).clamp(1, MOST_PERMITS));
        let unused = self.port.withdraw(before);
        self.rings[before].promised -= unused;
    }

    /// Brings the permits to `most`, as far as there is room.
    fn grant(&mut self, most: u32) {
        let ring = &mut self.rings[self.granting];
        let more = (most - self.port.permits(self.granting).min(most)).min(ring.room());
        ring.promised += more;
        self.port.grant(self.granting, more);
    }
}
