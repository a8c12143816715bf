//! One socket: receiving, sending, and the two ways of closing.
#![allow(unsafe_code)]
use super::driver::{Deferred, Driver};
use super::event::{Event, Outgoing, Receive};
use super::send::Progress;
use super::slots::*;
use super::tag::{self, Kind};
use super::uring::GROUP;
use crate::ids::SocketId;
use io_uring::{cqueue, opcode, squeue, types};
use std::time::Instant;

impl Driver {
    /// Starts (or goes on) receiving. Ignored on a socket that is closed or being closed.
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

    /// Stops receiving until `resume`: the peer feels it once the kernel's buffer is full. Bytes
    /// that the kernel has already taken out of the socket are still reported.
    pub fn pause(&mut self, socket: SocketId) {
        let Some(slot) = self.slots.get(socket) else { return };
        if slot.flags & (CLOSING | LINGER) != 0 {
            return;
        }
        slot.flags |= PAUSED;
        self.cancel_receive(socket);
    }

    /// Goes on receiving after `pause`.
    pub fn resume(&mut self, socket: SocketId) {
        let Some(slot) = self.slots.get(socket) else { return };
        slot.flags &= !PAUSED;
        self.arm(socket);
    }

    /// Sends all of `outgoing`, in order. One send at a time per socket; it comes back in `Sent`.
    ///
    /// # Panics
    /// When a send is in flight on this socket: the caller broke the rule above.
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
                let tag = tag::tag(Kind::Send, slot.generation, socket.0);
                self.rings[slot.ring as usize].push(entry.user_data(tag));
            }
        }
    }

    /// Closes in order: after the send in flight, says that nothing more will come, discards input
    /// until the peer has closed too or `linger` is over, then closes. Ends in `Closed`.
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
            slot.flags |= WANT_STREAM;
            self.arm(socket);
        }
        self.lingering.push_back((Instant::now() + linger, socket, generation));
        if flags & SENDING == 0 {
            self.shut_down(socket);
        }
    }

    /// Closes now: cancels what is in flight. Ends in `Closed`.
    pub fn close(&mut self, socket: SocketId) {
        let Some(slot) = self.slots.get(socket) else { return };
        if slot.flags & CLOSING != 0 {
            return;
        }
        slot.flags &= !WANT;
        slot.flags |= CLOSING;
        let (ring, flags) = (slot.ring as usize, slot.flags);
        let send = tag::tag(Kind::Send, slot.generation, socket.0);
        // Each operation is cancelled by its tag, which the kernel finds by hash. Cancelling
        // whatever uses the descriptor would have it look through every request of the ring:
        // half a millisecond per close with 20,000 sockets (measured). No cancel meets a later
        // operation of the same tag: it is queued before that one, in the same ring, and done when
        // it is submitted.
        self.cancel_receive(socket);
        if flags & SENDING != 0 {
            let entry = opcode::AsyncCancel2::new(types::CancelBuilder::user_data(send))
                .build()
                .flags(squeue::Flags::SKIP_SUCCESS)
                .user_data(tag::tag(Kind::Ignored, 0, 0));
            self.rings[ring].push(entry);
        }
        self.close_descriptor(socket);
    }

    /// Gives the table entry back, or leaves that to the completion of what is in flight and may
    /// still have to look the entry up, when it would be another socket's: the kernel shuts down
    /// on a thread of its own, and so does Linux 6.1 a hand-over whose target was busy. All else
    /// (receive, send, close, cancel) has its socket from the moment of submission, in the order
    /// of this ring's queue.
    pub(super) fn close_descriptor(&mut self, socket: SocketId) {
        let Some(slot) = self.slots.get(socket) else { return };
        if slot.flags & (SHUTTING | HANDING) != 0 {
            return;
        }
        slot.flags |= CLOSE_SENT;
        let close = tag::tag(Kind::Close, slot.generation, socket.0);
        let entry = opcode::Close::new(types::Fixed(slot.table)).build().user_data(close);
        self.rings[slot.ring as usize].push(entry);
    }

    /// Starts the wanted receive unless one is in flight or something speaks against it.
    pub(super) fn arm(&mut self, socket: SocketId) {
        let Some(slot) = self.slots.get(socket) else { return };
        const AGAINST: u32 = RECEIVING | PAUSED | STARVED | ENDED | CLOSING | HANDING;
        if slot.flags & WANT == 0 || slot.flags & AGAINST != 0 {
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
        let tag = tag::tag(Kind::Receive, slot.generation, socket.0);
        self.rings[slot.ring as usize].push(entry.user_data(tag));
    }

    pub(super) fn cancel_receive(&mut self, socket: SocketId) {
        let Some(slot) = self.slots.get(socket) else { return };
        if slot.flags & RECEIVING == 0 || slot.flags & CANCELLING != 0 {
            return;
        }
        slot.flags |= CANCELLING;
        let target = tag::tag(Kind::Receive, slot.generation, socket.0);
        let entry = opcode::AsyncCancel2::new(types::CancelBuilder::user_data(target))
            .build()
            .flags(squeue::Flags::SKIP_SUCCESS)
            .user_data(tag::tag(Kind::CancelReceive, slot.generation, socket.0));
        self.rings[slot.ring as usize].push(entry);
    }

    /// The receive had just ended, or could not be cancelled; if it goes on, `received` retries.
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
            // It went on although it was to be cancelled.
            self.cancel_receive(socket);
            return;
        }
        if flags & LINGER != 0 {
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

    /// A receive completed without bytes; `errno` 0 is the end of the stream.
    fn receive_ended(
        &mut self,
        ring: usize,
        socket: SocketId,
        errno: i32,
        handler: &mut impl FnMut(&mut Driver, Event<'_>),
    ) {
        let Some(slot) = self.slots.get(socket) else { return };
        match errno {
            // Paused, closed, or interrupted: `arm` decides whether to go on.
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
            // A send in flight is waited for; its completion closes.
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

    /// After buffers went back to the kernel: everyone who found none tries again.
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
        let give_up = slot.flags & CLOSING != 0;
        match self.sends.completed(slot.record, slot.table, result, give_up) {
            Progress::More(entry) => {
                self.counts.partial_sends += 1;
                let tag = tag::tag(Kind::Send, generation, socket.0);
                self.rings[slot.ring as usize].push(entry.user_data(tag));
            }
            Progress::Done(outgoing, result) => {
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

    /// The send side of an orderly close. A peer that has closed already only needs our close.
    fn shut_down(&mut self, socket: SocketId) {
        let Some(slot) = self.slots.get(socket) else { return };
        if slot.flags & ENDED != 0 {
            return self.close(socket);
        }
        slot.flags |= SHUTTING;
        let entry = opcode::Shutdown::new(types::Fixed(slot.table), libc::SHUT_WR)
            .build()
            .user_data(tag::tag(Kind::Shutdown, slot.generation, socket.0));
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
        // Whoever waited for room in a table gets it now.
        if self.listeners.want_room {
            self.top_up_accepts();
        }
        self.grant_permits();
    }

    /// The last completion of a socket that is being closed frees its slot.
    pub(super) fn finish_if_done(
        &mut self,
        socket: SocketId,
        handler: &mut impl FnMut(&mut Driver, Event<'_>),
    ) {
        let Some(slot) = self.slots.get(socket) else { return };
        if slot.flags & (CLOSING | IN_FLIGHT) == CLOSING {
            self.rings[slot.ring as usize].sockets -= 1;
            // What was refused while it closed must not be told of the next socket with its id.
            self.tell_deferred(handler);
            self.slots.release(socket);
            handler(self, Event::Closed { socket });
        }
    }

    /// Timers: orderly closes whose peer did not close, and accepting that rested long enough.
    pub(super) fn expire(&mut self) {
        if self.lingering.is_empty() && self.listeners.retry_at.is_none() {
            return;
        }
        let now = Instant::now();
        while let Some((deadline, socket, generation)) = self.lingering.front().copied() {
            match self.slots.get_current(socket, generation) {
                Some(_) if deadline > now => break,
                // A slot may have been through all generations since: only who lingers is ended.
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
