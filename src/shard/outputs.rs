//! What goes out of this shard to the driver: the pool of buffers, the list of connections that
//! have output, and the orders to the driver.

use super::Action;
use super::connection::Connection;
use super::meter::Meter;
use super::output::{Output, OutputPool};
use super::spare::halve;
use crate::ids::SocketId;
use crate::limits::cost;
use crate::time::Instant;

/// The buffers, the connections to flush, and the orders to the driver.
#[derive(Default)]
pub(super) struct Outputs {
    pub(super) pool: OutputPool,
    /// Connections with output for which no send has been asked for; each once.
    pub(super) dirty: Vec<SocketId>,
    /// The orders to the driver, in order; drained after each step.
    pub(super) actions: Vec<Action>,
}

impl Outputs {
    /// The connection's output, to which something is about to be added at `now`. The output is
    /// made if there is none, and gets a send at the end of the step.
    #[inline]
    pub(super) fn of<'a>(
        &mut self,
        connection: &'a mut Connection,
        meter: &mut Meter,
        socket: SocketId,
        now: Instant,
    ) -> &'a mut Output {
        let output = connection.output.get_or_insert_with(|| {
            let mut output = self.pool.take_output();
            output.progressed = now;
            output
        });
        if !output.dirty {
            output.dirty = true;
            self.dirty.push(socket);
            meter.charge(cost::SEND);
        }
        output
    }

    /// Gives half of the spare room back.
    pub(super) fn shrink(&mut self) {
        self.pool.shrink();
        halve(&mut self.actions);
        halve(&mut self.dirty);
    }
}
