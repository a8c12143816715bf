//! What is done when the kernel has lost completions. It keeps those that do not fit into the
//! queue in memory of its own, and when it gets none, says EBADR: something has completed, and
//! nobody will say what. A send may be done or not, received bytes may be gone, a connection may
//! have been accepted that nobody knows. None of the ring's connections can be trusted any more, so
//! all of them end, as broken ones do: clients come back, and sessions know what they are owed.
use super::driver::Driver;
use super::event::Event;
use super::send::Progress;
use super::slots::{CLOSING, HANDING, IN_FLIGHT, SENDING, STARVED, WANT};
use crate::ids::SocketId;
use std::time::Instant;

impl Driver {
    /// Ends everything on `ring`, whose lost completions nobody can make up for, and begins anew
    /// with it. Takes a second at most, of this core alone. When the kernel does not let go of what
    /// it was given by then, it is tried again in the next pass.
    pub(super) fn recover(
        &mut self,
        ring: usize,
        handler: &mut impl FnMut(&mut Driver, Event<'_>),
    ) {
        let sockets = self.rings[ring].sockets;
        tracing::error!(
            ring,
            sockets,
            "the kernel ran out of memory and lost completions: the ring's connections are closed"
        );
        self.counts.losses += 1;
        // Nothing new comes in meanwhile.
        self.listeners.retry_at = Some(Instant::now());
        self.listeners.want_room = false;
        let ported = std::mem::replace(&mut self.ported, false);
        self.rings[ring].promised -= self.port.withdraw(ring);
        let watches = self.watches;
        self.rings[ring].lost = false;
        let released = self.rings[ring].cancel_everything();
        // What is known to have completed is acted on, with the table as it is and then without.
        self.settle_all(ring, handler);
        if released {
            self.close_table(ring);
            self.settle_all(ring, handler);
            for socket in self.slots.of_ring(ring) {
                self.abandon(socket, handler);
            }
            self.forget_accepts(ring);
            self.rings[ring].used = 0;
            if ring == 0 && self.watches == watches {
                self.watch_doorbell();
            }
            if let Err(error) = self.rings[ring].renew_buffers(&self.config, &mut self.pool) {
                tracing::error!(ring, %error, "no new receive buffers; some may be lost");
            }
        } else {
            self.rings[ring].lost = true;
        }
        self.ported = ported;
        self.top_up_accepts();
        self.grant_permits();
    }

    /// Visits what completes on `ring` until nothing does. Its sockets are being closed, so that
    /// nothing new is begun for them.
    fn settle_all(&mut self, ring: usize, handler: &mut impl FnMut(&mut Driver, Event<'_>)) {
        loop {
            for socket in self.slots.of_ring(ring) {
                if let Some(slot) = self.slots.get(socket) {
                    slot.flags = slot.flags & !WANT | CLOSING;
                }
            }
            self.rings[ring].turn();
            self.rings[ring].harvest();
            if self.visit_ring(ring, usize::MAX, handler) == 0 {
                return;
            }
        }
    }

    fn close_table(&mut self, ring: usize) {
        if let Err(error) = self.rings[ring].close_table() {
            tracing::error!(ring, %error, "the ring's connections could not be closed");
        }
    }

    /// Ends a socket without what is in flight for it: the kernel has let go of it.
    fn abandon(&mut self, socket: SocketId, handler: &mut impl FnMut(&mut Driver, Event<'_>)) {
        let Some(slot) = self.slots.get(socket) else { return };
        let (flags, record, table) = (slot.flags, slot.record, slot.table);
        slot.flags = flags & !(IN_FLIGHT | WANT | STARVED) | CLOSING;
        if flags & SENDING != 0
            && let Progress::Done(outgoing, result) =
                self.sends.completed(record, table, -libc::EIO, true)
        {
            handler(self, Event::Sent { socket, outgoing, result });
        }
        if flags & HANDING != 0 {
            // It may have arrived, and used its permit up. Its home hears nothing of it, and
            // closes it after a while.
            let (cookie, _) = self.hand_overs.take(record);
            handler(self, Event::HandedOver { socket, cookie, result: Err(libc::EIO) });
        }
        self.finish_if_done(socket, handler);
    }
}
