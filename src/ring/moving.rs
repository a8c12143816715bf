//! Sockets that leave for another process, and such that come from one.
//!
//! Before sockets leave, the driver is suspended: it reads none and accepts nobody. Sends that the
//! peers do not read are then withdrawn. A socket is exported as an ordinary descriptor and stays
//! in its table, so nothing has to be undone when the other process fails.
//!
//! To stop or to begin reading takes 2 microseconds for each socket. For most of them that is done
//! while this process, or the other one, serves: a socket that was copied is *watched*
//! ([`Driver::watch`]). The kernel tells when there is something to read, and the socket is read
//! from then on. Nothing is taken out of a watched socket, so both processes can watch it.
#![allow(unsafe_code)]
use super::driver::Driver;
use super::event::Event;
use super::slots::{
    CANCELLING, CLOSING, COPIED, COPYING, EXPORTING, LINGER, POLLING, RECEIVING, SENDING, WANT,
    WATCHED, WITHDRAWING,
};
use super::tag::{self, OperationKind};
use crate::ids::SocketId;
use io_uring::{opcode, squeue, types};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// Lets the kernel choose the entries of the table.
const ANY_ENTRY: i32 = -1;

/// Sockets that are being put into a table. The kernel reads the descriptors and replaces each by
/// the number of its entry.
pub(super) struct TakeOver {
    ring: usize,
    numbers: Box<[i32]>,
    /// Closed when the table has them.
    _files: Vec<OwnedFd>,
    /// The cookie of the first; the others follow.
    cookie: u64,
}

/// An ordinary descriptor of a socket that stays in use, none if it is being closed by now, or why
/// there is none.
pub type SocketCopy = (SocketId, Result<Option<OwnedFd>, i32>);

/// What the driver knows of sockets that move between processes.
#[derive(Default)]
pub(super) struct MovingSockets {
    /// Nothing is read and nobody accepted.
    pub(super) suspended: bool,
    /// Another process works on this core for the same clients.
    pub(super) shares_core: bool,
    /// Sockets whose receive is being cancelled, since the driver is suspended.
    stopping: Vec<SocketId>,
    /// Descriptors that are being made.
    making: u32,
    /// Sends that are being withdrawn.
    withdrawing: u32,
    /// Copies that were made and not taken.
    copies: Vec<(SocketId, u16, Result<OwnedFd, i32>)>,
    incoming: Vec<Option<TakeOver>>,
}

impl Driver {
    /// Stops reading every socket and accepting on every listener, until [`Self::go_on`]. What the
    /// kernel has taken out of the sockets by then is still reported. Not while a suspended driver
    /// is suspended again.
    pub fn suspend(&mut self) {
        self.moving.suspended = true;
        for ring in 0..self.rings.len() {
            self.cancel_accepts(ring);
        }
        let ends = CLOSING | LINGER;
        let read = self.slots.select(|slot| slot.flags & (RECEIVING | ends) == RECEIVING);
        read.iter().for_each(|&socket| self.cancel_receive(socket));
        self.moving.stopping = read;
    }

    /// Whether a suspended driver has come to rest: what the kernel still has to report is only of
    /// sends, and of sockets that are watched or being closed.
    pub fn rests(&mut self) -> bool {
        let accepts = self.rings.iter().any(|ring| ring.accepts > 0);
        let busy = accepts || self.hand_overs.in_flight() > 0 || !self.deferred.is_empty();
        if busy || self.moving.making > 0 {
            return false;
        }
        let Driver { moving, slots, .. } = self;
        moving.stopping.retain(|&socket| {
            let flags = slots.get(socket).map_or(0, |slot| slot.flags);
            flags & (RECEIVING | CLOSING | LINGER) == RECEIVING
        });
        moving.stopping.is_empty()
    }

    /// The socket is read from when there is something to read, and is not read before that. If it
    /// is being read, that is stopped; what was read by then is still reported. A suspended driver
    /// watches as well.
    pub fn watch(&mut self, socket: SocketId) {
        let Some(slot) = self.slots.get(socket) else { return };
        if slot.flags & (CLOSING | LINGER) != 0 {
            return;
        }
        slot.flags |= WATCHED;
        if slot.flags & (RECEIVING | CANCELLING) == RECEIVING {
            self.cancel_receive(socket);
        }
        self.arm(socket);
    }

    pub(super) fn push_poll(&mut self, socket: SocketId) {
        let Some(slot) = self.slots.get(socket) else { return };
        slot.flags |= POLLING;
        let entry = opcode::PollAdd::new(types::Fixed(slot.table), libc::POLLIN as u32)
            .build()
            .user_data(tag::tag(OperationKind::Watch, slot.generation, socket.0));
        self.rings[slot.ring as usize].push(entry);
    }

    /// There is something to read, or the socket is being closed.
    #[cold]
    pub(super) fn polled(
        &mut self,
        socket: SocketId,
        generation: u16,
        handler: &mut impl FnMut(&mut Driver, Event<'_>),
    ) {
        let Some(slot) = self.slots.get_current(socket, generation) else { return };
        slot.flags &= !(POLLING | WATCHED);
        self.arm(socket);
        self.finish_if_done(socket, handler);
    }

    pub(super) fn cancel_poll(&mut self, socket: SocketId) {
        let Some(slot) = self.slots.get(socket) else { return };
        if slot.flags & POLLING == 0 {
            return;
        }
        let poll = tag::tag(OperationKind::Watch, slot.generation, socket.0);
        let entry = opcode::AsyncCancel2::new(types::CancelBuilder::user_data(poll))
            .build()
            .flags(squeue::Flags::SKIP_SUCCESS)
            .user_data(tag::tag(OperationKind::Ignored, 0, 0));
        self.rings[slot.ring as usize].push(entry);
    }

    /// Takes back what is being sent and is not sent yet: each such socket gets an
    /// [`Event::Withdrawn`], or an [`Event::Sent`] if all was sent by then.
    pub fn withdraw_sends(&mut self) {
        if self.sends.in_flight() == 0 {
            return;
        }
        let sends = |flags: u32| flags & (SENDING | CLOSING | LINGER) == SENDING;
        for socket in self.slots.select(|slot| sends(slot.flags)) {
            let Some(slot) = self.slots.get(socket) else { continue };
            slot.flags |= WITHDRAWING;
            self.moving.withdrawing += 1;
            let send = tag::tag(OperationKind::Send, slot.generation, socket.0);
            let entry = opcode::AsyncCancel2::new(types::CancelBuilder::user_data(send))
                .build()
                .flags(squeue::Flags::SKIP_SUCCESS)
                .user_data(tag::tag(OperationKind::Ignored, 0, 0));
            self.rings[slot.ring as usize].push(entry);
        }
    }

    /// Whether some send is still being withdrawn.
    pub fn is_withdrawing(&self) -> bool {
        self.moving.withdrawing > 0
    }

    /// A send that was to be withdrawn has completed with `result`.
    #[cold]
    pub(super) fn withdrawn(
        &mut self,
        socket: SocketId,
        generation: u16,
        result: i32,
        handler: &mut impl FnMut(&mut Driver, Event<'_>),
    ) {
        let Some(slot) = self.slots.get(socket) else { return };
        slot.flags &= !WITHDRAWING;
        self.moving.withdrawing -= 1;
        let Some((outgoing, rest)) = self.sends.withdraw(slot.record, result) else {
            // It had ended before.
            return self.sent(socket, generation, result, handler);
        };
        slot.flags &= !SENDING;
        handler(self, Event::Withdrawn { socket, outgoing, rest });
        self.finish_if_done(socket, handler);
    }

    /// Whether another process works on this core meanwhile, to which clients move or from which
    /// they come. This one does not spin then: it would only keep the other from what it waits for.
    pub fn share_core(&mut self, shares: bool) {
        self.moving.shares_core = shares;
    }

    /// Reads and accepts again.
    pub fn go_on(&mut self) {
        self.moving.suspended = false;
        self.moving.stopping.clear();
        let idle = |flags: u32| flags & WANT != 0 && flags & (RECEIVING | POLLING) == 0;
        for socket in self.slots.select(|slot| idle(slot.flags)) {
            self.arm(socket);
        }
        self.top_up_accepts();
    }

    /// Makes an ordinary descriptor of the socket, which stays open here: [`Event::Exported`].
    /// Needs Linux 6.8.
    pub fn export(&mut self, socket: SocketId) {
        self.make_descriptor(socket, EXPORTING);
    }

    /// Makes an ordinary descriptor of a socket that is used on here meanwhile: it comes by
    /// [`Self::take_copies`]. From now on the socket is shut down before it is closed, since the
    /// other descriptor keeps the connection open. False when it is being closed.
    pub fn copy(&mut self, socket: SocketId) -> bool {
        self.make_descriptor(socket, COPYING | COPIED)
    }

    /// The copies that were made since, in no order.
    pub fn take_copies(&mut self) -> Vec<SocketCopy> {
        let made = std::mem::take(&mut self.moving.copies);
        let copies = made.into_iter().map(|(socket, generation, file)| {
            // Its number may be another socket's since.
            let slot = self.slots.get_current(socket, generation);
            match slot.is_some_and(|slot| slot.flags & CLOSING == 0) {
                true => (socket, file.map(Some)),
                false => (socket, Ok(None)),
            }
        });
        copies.collect()
    }

    /// Nobody wants those that were made since.
    #[inline]
    pub fn drop_copies(&mut self) {
        self.moving.copies.clear();
    }

    /// There are no copies any more.
    pub fn forget_copies(&mut self) {
        self.slots.select(|slot| {
            slot.flags &= !COPIED;
            false
        });
    }

    fn make_descriptor(&mut self, socket: SocketId, flags: u32) -> bool {
        let Some(slot) = self.slots.get(socket) else { return false };
        if slot.flags & CLOSING != 0 {
            return false;
        }
        slot.flags |= flags;
        self.moving.making += 1;
        let entry = opcode::FixedFdInstall::new(types::Fixed(slot.table), 0)
            .build()
            .user_data(tag::tag(OperationKind::Export, slot.generation, socket.0));
        self.rings[slot.ring as usize].push(entry);
        true
    }

    pub(super) fn exported(
        &mut self,
        socket: SocketId,
        generation: u16,
        result: i32,
        handler: &mut impl FnMut(&mut Driver, Event<'_>),
    ) {
        // SAFETY: the kernel has just made this descriptor, for us alone.
        let file = (result >= 0).then(|| unsafe { OwnedFd::from_raw_fd(result) });
        self.moving.making = self.moving.making.saturating_sub(1);
        let Some(slot) = self.slots.get_current(socket, generation) else { return };
        let copied = slot.flags & COPYING != 0;
        slot.flags &= !(EXPORTING | COPYING);
        match copied {
            true => self.moving.copies.push((socket, generation, file.ok_or(-result))),
            false => handler(self, Event::Exported { socket, file: file.ok_or(-result) }),
        }
        self.finish_if_done(socket, handler);
    }

    /// Takes sockets over that another process has sent: each is reported as [`Event::TakenOver`],
    /// the first with `cookie`, the following ones with the numbers after it.
    ///
    /// # Errors
    /// When no ring has room for all of them; their number.
    pub fn take_over(&mut self, files: Vec<OwnedFd>, cookie: u64) -> Result<(), usize> {
        let count = files.len();
        let Some(ring) = self
            .roomiest_ring(count as u32)
            .filter(|&ring| self.rings[ring].room() >= count as u32)
        else {
            return Err(count);
        };
        self.rings[ring].used += count as u32;
        let mut numbers: Box<[i32]> = files.iter().map(|file| file.as_raw_fd()).collect();
        let entry = opcode::FilesUpdate::new(numbers.as_mut_ptr(), count as u32).offset(ANY_ENTRY);
        let coming = TakeOver { ring, numbers, _files: files, cookie };
        let free = self.moving.incoming.iter().position(Option::is_none);
        let record = free.unwrap_or(self.moving.incoming.len());
        match self.moving.incoming.get_mut(record) {
            Some(place) => *place = Some(coming),
            None => self.moving.incoming.push(Some(coming)),
        }
        let entry = entry.build().user_data(tag::tag(OperationKind::TakeOver, 0, record as u32));
        self.rings[ring].push(entry);
        Ok(())
    }

    pub(super) fn took_over(
        &mut self,
        record: u32,
        result: i32,
        handler: &mut impl FnMut(&mut Driver, Event<'_>),
    ) {
        let place = self.moving.incoming.get_mut(record as usize);
        let Some(TakeOver { ring, numbers, cookie, _files }) = place.and_then(Option::take) else {
            return;
        };
        let taken = usize::try_from(result).unwrap_or(0).min(numbers.len());
        self.rings[ring].used -= (numbers.len() - taken) as u32;
        for (at, &number) in numbers.iter().enumerate() {
            let cookie = cookie + at as u64;
            if at >= taken {
                let errno = if result < 0 { -result } else { libc::ENFILE };
                handler(self, Event::TakenOver { socket: Err(errno), cookie });
                continue;
            }
            self.rings[ring].sockets += 1;
            let socket = self.slots.open(ring, number as u32);
            handler(self, Event::TakenOver { socket: Ok(socket), cookie });
        }
    }
}
