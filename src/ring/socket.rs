//! The operations of one socket: receiving, sending, and the two ways of closing.
#![allow(unsafe_code)]
use super::driver::{Deferred, Driver};
use super::event::{Event, Outgoing, Receive};
use super::send::SendProgress;
use super::slots::*;
use super::tag::{self, OperationKind};
use super::uring::GROUP;
use crate::ids::SocketId;
use io_uring::{cqueue, opcode, squeue, types};
use std::time::Instant;

impl Driver {
    /// Starts or continues receiving. Ignored for a socket that is closed or being closed.
    pub fn receive(&mut self, socket: SocketId, how: Receive) {
        let Some(slot) = self.slots.get(socket) else { return };
        if slot.flags & (CLOSING | LINGER | ENDED | HANDING) != 0 {
            return;
        }
        slot.flags &= !(WANT | PAUSED);
        slot.flags |= match how {
            Receive::Once => WANT_ONCE,
            Receive::Stream => WANT_STREAM,
        };
        self.arm(socket);
    }

    /// Stops receiving until `resume`. The peer is slowed down once the kernel's receive buffer is
    /// full. Bytes that the kernel has already taken out of the socket are still reported.
    pub fn pause(&mut self, socket: SocketId) {
        let Some(slot) = self.slots.get(socket) else { return };
        if slot.flags & (CLOSING | LINGER) != 0 {
            return;
        }
        slot.flags |= PAUSED;
        self.cancel_receive(socket);
    }

    /// Continues receiving after `pause`.
    pub fn resume(&mut self, socket: SocketId) {
        let Some(slot) = self.slots.get(socket) else { return };
        slot.flags &= !PAUSED;
        self.arm(socket);
    }

    /// Sends all of `outgoing`, in order. Only one send per socket may be in flight. `Sent` returns
    /// the bytes.
    ///
    /// # Panics
    /// When a send is in flight on this socket, which is a mistake of the caller.
    pub fn send(&mut self, socket: SocketId, outgoing: Outgoing) {
        let refused = |outgoing, errno| Deferred::Sent(socket, outgoing, Err(errno));
        let Some(slot) = self.slots.get(socket) else {
            return self.deferred.push_back(refused(outgoing, libc::EBADF));
        };
        if slot.flags & (CLOSING | LINGER | HANDING) != 0 {
            return self.deferred.push_back(refused(outgoing, libc::EPIPE));
        }
        assert!(slot.flags & SENDING == 0, "one send in flight per socket");
        match self.sends.start(outgoing, slot.table) {
            Err(nothing) => self.deferred.push_back(Deferred::Sent(socket, nothing, Ok(()))),
            Ok((record, entry)) => {
                slot.flags |= SENDING;
                slot.record = record;
                let tag = tag::tag(OperationKind::Send, slot.generation, socket.0);
                self.rings[slot.ring as usize].push(entry.user_data(tag));
            }
        }
    }

    /// Closes in an orderly way: waits for the send in flight, shuts the sending side down,
    /// discards input until the peer has closed as well or `linger` is over, and then closes. Ends
    /// with `Closed`. The input is discarded one buffer at a time: a continuous receive would take
    /// up to 32 of them whenever it is this socket's turn, and others wait for that.
    pub fn shutdown_then_close(&mut self, socket: SocketId) {
        let linger = self.config.linger;
        let Some(slot) = self.slots.get(socket) else { return };
        if slot.flags & (CLOSING | LINGER | HANDING) != 0 {
            return;
        }
        slot.flags |= LINGER;
        slot.flags &= !(WANT | PAUSED);
        let (flags, generation) = (slot.flags, slot.generation);
        if flags & ENDED == 0 {
            slot.flags |= WANT_ONCE;
            self.arm(socket);
        }
        self.lingering.push_back((Instant::now() + linger, socket, generation));
        if flags & SENDING == 0 {
            self.shut_down(socket);
        }
    }

    /// Closes at once and cancels the operations in flight. Ends with `Closed`.
    pub fn close(&mut self, socket: SocketId) {
        let Some(slot) = self.slots.get(socket) else { return };
        if slot.flags & CLOSING != 0 {
            return;
        }
        slot.flags &= !WANT;
        slot.flags |= CLOSING;
        let (ring, flags) = (slot.ring as usize, slot.flags);
        let send = tag::tag(OperationKind::Send, slot.generation, socket.0);
        // Each operation is cancelled by its tag, which the kernel finds by hash. To cancel
        // everything that uses the descriptor, the kernel would search all requests of the ring,
        // which takes half a millisecond per close with 20,000 sockets (measured). No cancel can
        // hit a later operation with the same tag, because it is queued before that operation in
        // the same ring and is executed when it is submitted.
        self.cancel_receive(socket);
        self.cancel_poll(socket);
        if flags & SENDING != 0 {
            let entry = opcode::AsyncCancel2::new(types::CancelBuilder::user_data(send))
                .build()
                .flags(squeue::Flags::SKIP_SUCCESS)
                .user_data(tag::tag(OperationKind::Ignored, 0, 0));
            self.rings[ring].push(entry);
        }
        if flags & (COPIED | SHUTTING) == COPIED {
            // The other process would keep the connection open. Its completion closes the socket.
            self.push_shutdown(socket, libc::SHUT_RDWR);
        }
        self.close_descriptor(socket);
    }

    /// Frees the table entry, unless an operation in flight may still have to look it up; then that
    /// operation's completion does it. Without this rule the operation could find another socket in
    /// the entry. Two operations look their entry up late: shutdown, which the kernel executes on a
    /// thread of its own, and on Linux 6.1 a hand-over whose target was busy. All others (receive,
    /// send, close, cancel) hold their socket from the moment of submission, in the order of this
    /// ring's queue.
    pub(super) fn close_descriptor(&mut self, socket: SocketId) {
        let Some(slot) = self.slots.get(socket) else { return };
        if slot.flags & (SHUTTING | HANDING) != 0 {
            return;
        }
        slot.flags |= CLOSE_SENT;
        let close = tag::tag(OperationKind::Close, slot.generation, socket.0);
        let entry = opcode::Close::new(types::Fixed(slot.table)).build().user_data(close);
        self.rings[slot.ring as usize].push(entry);
    }

    /// Starts the receive that the shard wants, unless one is in flight or the socket's state
    /// forbids it.
    pub(super) fn arm(&mut self, socket: SocketId) {
        let Some(slot) = self.slots.get(socket) else { return };
        const AGAINST: u32 = RECEIVING | POLLING | PAUSED | STARVED | ENDED | CLOSING | HANDING;
        if slot.flags & WANT == 0 || slot.flags & AGAINST != 0 {
            return;
        }
        if slot.flags & WATCHED != 0 {
            return self.push_poll(socket);
        }
        if self.moving.suspended {
            return;
        }
        slot.flags |= RECEIVING;
        let fixed = types::Fixed(slot.table);
        let entry = match slot.flags & WANT_STREAM != 0 {
            true => opcode::RecvMulti::new(fixed, GROUP).build(),
            false => opcode::Recv::new(fixed, std::ptr::null_mut(), 0)
                .buf_group(GROUP)
                .build()
                .flags(squeue::Flags::BUFFER_SELECT),
        };
        let tag = tag::tag(OperationKind::Receive, slot.generation, socket.0);
        self.rings[slot.ring as usize].push(entry.user_data(tag));
    }

    pub(super) fn cancel_receive(&mut self, socket: SocketId) {
        let Some(slot) = self.slots.get(socket) else { return };
        if slot.flags & RECEIVING == 0 || slot.flags & CANCELLING != 0 {
            return;
        }
        slot.flags |= CANCELLING;
        let target = tag::tag(OperationKind::Receive, slot.generation, socket.0);
        let entry = opcode::AsyncCancel2::new(types::CancelBuilder::user_data(target))
            .build()
            .flags(squeue::Flags::SKIP_SUCCESS)
            .user_data(tag::tag(OperationKind::CancelReceive, slot.generation, socket.0));
        self.rings[slot.ring as usize].push(entry);
    }

    /// Called when a cancel failed because the receive had just ended or could not be cancelled. If
    /// the receive goes on, `received` tries again.
    pub(super) fn cancel_failed(&mut self, socket: SocketId, generation: u16) {
        if let Some(slot) = self.slots.get_current(socket, generation) {
            slot.flags &= !CANCELLING;
        }
    }

    pub(super) fn received(
        &mut self,
        ring: usize,
        socket: SocketId,
        generation: u16,
        result: i32,
        flags: u32,
        handler: &mut impl FnMut(&mut Driver, Event<'_>),
    ) {
        let buffer = cqueue::buffer_select(flags);
        if buffer.is_some() {
            self.rings[ring].buffers.taken();
        }
        if let Some(slot) = self.slots.get_current(socket, generation) {
            if !cqueue::more(flags) {
                slot.flags &= !(RECEIVING | CANCELLING);
            }
            match result {
                1.. => self.received_bytes(socket, buffer, result as usize, handler),
                _ => self.receive_ended(ring, socket, -result, handler),
            }
        }
        if let Some(id) = buffer {
            self.rings[ring].buffers.give(&mut self.pool, id);
        }
        if !cqueue::more(flags) {
            self.begin_hand_over(socket);
            self.arm(socket);
            self.finish_if_done(socket, handler);
        }
    }

    fn received_bytes(
        &mut self,
        socket: SocketId,
        buffer: Option<u16>,
        length: usize,
        handler: &mut impl FnMut(&mut Driver, Event<'_>),
    ) {
        let (Some(slot), Some(id)) = (self.slots.get(socket), buffer) else { return };
        slot.flags &= !WANT_ONCE;
        let flags = slot.flags;
        if flags & CLOSING != 0 {
            // The receive went on although it should have been cancelled.
            self.cancel_receive(socket);
            return;
        }
        if flags & LINGER != 0 {
            slot.flags |= WANT_ONCE;
            if flags & RECEIVING != 0 {
                self.cancel_receive(socket);
            }
            return;
        }
        if flags & (PAUSED | CANCELLING | RECEIVING) == PAUSED | RECEIVING {
            self.cancel_receive(socket);
        }
        // SAFETY: the completion took this buffer; it is returned after the handler, and the caller
        // of this pass holds the memory.
        let bytes = unsafe { self.pool.filled(id, length) };
        handler(self, Event::Received { socket, bytes });
    }

    /// Handles a receive that completed without bytes. An `errno` of 0 is the end of the stream.
    fn receive_ended(
        &mut self,
        ring: usize,
        socket: SocketId,
        errno: i32,
        handler: &mut impl FnMut(&mut Driver, Event<'_>),
    ) {
        let Some(slot) = self.slots.get(socket) else { return };
        match errno {
            // The receive was paused, closed or interrupted: `arm` decides whether to start another
            // one.
            libc::ECANCELED | libc::EINTR | libc::EAGAIN => return,
            libc::ENOBUFS => {
                self.counts.enobufs += 1;
                self.rings[ring].buffers.ran_out = true;
                if slot.flags & (WANT | STARVED | CLOSING) == slot.flags & WANT {
                    slot.flags |= STARVED;
                    self.starved.push(socket);
                }
                return;
            }
            _ => {}
        }
        slot.flags &= !WANT;
        slot.flags |= ENDED;
        let flags = slot.flags;
        if flags & CLOSING != 0 {
            return;
        }
        if flags & LINGER != 0 {
            // If a send is in flight, its completion closes the socket.
            if flags & SENDING == 0 {
                self.close(socket);
            }
            return;
        }
        match errno {
            0 => handler(self, Event::EndOfStream { socket }),
            errno => handler(self, Event::Failed { socket, errno }),
        }
    }

    /// Called when buffers have been returned to the kernel: every socket that found none tries
    /// again.
    pub(super) fn feed_starved(&mut self) {
        if self.starved.is_empty() {
            return;
        }
        let mut starved = std::mem::take(&mut self.starved);
        for socket in starved.drain(..) {
            if let Some(slot) = self.slots.get(socket)
                && slot.flags & STARVED != 0
            {
                slot.flags &= !STARVED;
                self.arm(socket);
            }
        }
        self.starved = starved;
    }

    pub(super) fn sent(
        &mut self,
        socket: SocketId,
        generation: u16,
        result: i32,
        handler: &mut impl FnMut(&mut Driver, Event<'_>),
    ) {
        let Some(slot) = self.slots.get_current(socket, generation) else { return };
        let leaving = slot.flags & (CLOSING | WITHDRAWING);
        if leaving == WITHDRAWING {
            return self.withdrawn(socket, generation, result, handler);
        }
        let give_up = leaving != 0;
        match self.sends.completed(slot.record, slot.table, result, give_up) {
            SendProgress::More(entry) => {
                self.counts.partial_sends += 1;
                let tag = tag::tag(OperationKind::Send, generation, socket.0);
                self.rings[slot.ring as usize].push(entry.user_data(tag));
            }
            SendProgress::Done(outgoing, result) => {
                slot.flags &= !SENDING;
                if slot.flags & LINGER != 0 {
                    match result {
                        Ok(()) => self.shut_down(socket),
                        Err(_) => self.close(socket),
                    }
                }
                handler(self, Event::Sent { socket, outgoing, result });
                self.finish_if_done(socket, handler);
            }
        }
    }

    /// Shuts the sending side down for an orderly close. If the peer has closed already, closing is
    /// enough.
    fn shut_down(&mut self, socket: SocketId) {
        let Some(slot) = self.slots.get(socket) else { return };
        if slot.flags & ENDED != 0 {
            return self.close(socket);
        }
        self.push_shutdown(socket, libc::SHUT_WR);
    }

    fn push_shutdown(&mut self, socket: SocketId, what: i32) {
        let Some(slot) = self.slots.get(socket) else { return };
        slot.flags |= SHUTTING;
        let entry = opcode::Shutdown::new(types::Fixed(slot.table), what)
            .build()
            .user_data(tag::tag(OperationKind::Shutdown, slot.generation, socket.0));
        self.rings[slot.ring as usize].push(entry);
    }

    pub(super) fn shut(
        &mut self,
        socket: SocketId,
        generation: u16,
        result: i32,
        handler: &mut impl FnMut(&mut Driver, Event<'_>),
    ) {
        let Some(slot) = self.slots.get_current(socket, generation) else { return };
        slot.flags &= !SHUTTING;
        if slot.flags & CLOSING != 0 {
            self.close_descriptor(socket);
        } else if result < 0 {
            self.close(socket);
        }
        self.finish_if_done(socket, handler);
    }

    pub(super) fn close_completed(
        &mut self,
        ring: usize,
        socket: SocketId,
        generation: u16,
        handler: &mut impl FnMut(&mut Driver, Event<'_>),
    ) {
        let Some(slot) = self.slots.get_current(socket, generation) else { return };
        slot.flags &= !CLOSE_SENT;
        self.rings[ring].used -= 1;
        self.finish_if_done(socket, handler);
        // Accepts and hand-overs that waited for room in a table can use the entry now.
        if self.listeners.want_room {
            self.top_up_accepts();
        }
        self.grant_permits();
    }

    /// Frees the slot of a socket that is being closed once its last completion has come.
    pub(super) fn finish_if_done(
        &mut self,
        socket: SocketId,
        handler: &mut impl FnMut(&mut Driver, Event<'_>),
    ) {
        let Some(slot) = self.slots.get(socket) else { return };
        if slot.flags & (CLOSING | IN_FLIGHT) == CLOSING {
            self.rings[slot.ring as usize].sockets -= 1;
            // Outcomes that are still queued for this socket must be reported now, and not later to
            // the next socket that gets its id.
            self.tell_deferred(handler);
            self.slots.release(socket);
            handler(self, Event::Closed { socket });
        }
    }

    /// Handles what is due: orderly closes whose peer did not close in time, and accepting that was
    /// paused.
    pub(super) fn expire(&mut self) {
        if self.lingering.is_empty() && self.listeners.retry_at.is_none() {
            return;
        }
        let now = Instant::now();
        while let Some((deadline, socket, generation)) = self.lingering.front().copied() {
            match self.slots.get_current(socket, generation) {
                Some(_) if deadline > now => break,
                // The generation may have wrapped around since, so only a socket that is in an
                // orderly close is closed.
                Some(slot) if slot.flags & LINGER != 0 => self.close(socket),
                _ => {}
            }
            self.lingering.pop_front();
        }
        if self.lingering.is_empty() {
            self.lingering.shrink_to(64);
        }
        if self.listeners.retry_at.is_some_and(|at| at <= now) {
            self.top_up_accepts();
            self.grant_permits();
        }
    }

    /// When `expire` next has something to do.
    pub(super) fn next_timer(&self) -> Option<Instant> {
        let linger = self.lingering.front().map(|(deadline, ..)| *deadline);
        linger.into_iter().chain(self.listeners.retry_at).min()
    }
}
