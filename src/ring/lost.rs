//! Recovery from lost completions. The kernel stores completions that do not fit into the
//! completion queue in memory of its own. When it cannot get that memory, it reports EBADR:
//! something has completed, but nobody can say what. A send may or may not have been done, received
//! bytes may be lost, and a connection may have been accepted without a report. None of the ring's
//! connections can be trusted any more, so all of them are closed like broken connections. Clients
//! reconnect, and the sessions know what they still have to deliver.
use super::driver::Driver;
use super::event::Event;
use super::send::SendProgress;
use super::slots::{CLOSING, HANDING, IN_FLIGHT, SENDING, STARVED, WANT};
use crate::ids::SocketId;
use std::time::Instant;

impl Driver {
    /// Closes everything on `ring` after it has lost completions, and starts again with an empty
    /// table. Takes at most a second, and delays only this core. If the kernel still uses some of
    /// our memory after that time, the next pass tries again.
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
        // Nothing new is accepted meanwhile.
        self.listeners.retry_at = Some(Instant::now());
        self.listeners.want_room = false;
        let ported = std::mem::replace(&mut self.ported, false);
        self.rings[ring].promised -= self.port.withdraw(ring);
        let watches = self.watches;
        self.rings[ring].lost = false;
        let released = self.rings[ring].cancel_everything();
        // The completions that are known are handled first, while the descriptor table is still
        // there, and again after it has been closed.
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

    /// Visits the completions of `ring` until there are none left. The ring's sockets are being
    /// closed, so no new operations are started for them.
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

    /// Closes a socket whose operations in flight will never be reported. The kernel has finished
    /// them.
    fn abandon(&mut self, socket: SocketId, handler: &mut impl FnMut(&mut Driver, Event<'_>)) {
        let Some(slot) = self.slots.get(socket) else { return };
        let (flags, record, table) = (slot.flags, slot.record, slot.table);
        slot.flags = flags & !(IN_FLIGHT | WANT | STARVED) | CLOSING;
        if flags & SENDING != 0
            && let SendProgress::Done(outgoing, result) =
                self.sends.completed(record, table, -libc::EIO, true)
        {
            handler(self, Event::Sent { socket, outgoing, result });
        }
        if flags & HANDING != 0 {
            // The socket may have arrived and used up its permit. Its home shard is not told about
            // it, and closes the connection after a time-out.
            let (cookie, _) = self.hand_overs.take(record);
            handler(self, Event::HandedOver { socket, cookie, result: Err(libc::EIO) });
        }
        self.finish_if_done(socket, handler);
    }
}
