//! Connections of this shard whose first header, of the PROXY protocol or HTTP, has come in part.
//! This module owns how many there may be and what they may hold. When there are more, the one with
//! the oldest header is closed: an honest peer sends its header in one piece, so its connection is
//! not here for long.

use super::Shard;
use crate::ids::SocketId;
use crate::limits::{UNFINISHED_HEADER_BYTES, UNFINISHED_HEADERS};
use crate::mutant::Mutant;
use hashbrown::HashMap;
use std::collections::VecDeque;

/// Unfinished headers of a shard, the oldest first.
#[derive(Default)]
pub(super) struct Headers {
    /// Connections with an unfinished header, each with a number that tells a reused socket apart.
    begun: HashMap<SocketId, u64>,
    /// In the order in which the headers began; some are whole since, or their connections are
    /// gone.
    order: VecDeque<(u64, SocketId)>,
    next: u64,
    bytes: usize,
}

impl Headers {
    /// How many headers are unfinished.
    pub(super) fn len(&self) -> usize {
        self.begun.len()
    }

    /// Bytes that the unfinished headers hold.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The bytes that a connection holds of its header have changed.
    pub(super) fn change(&mut self, socket: SocketId, before: usize, after: usize) {
        if after > 0 || !Mutant::HeaderLeaked.is_on() {
            self.bytes = self.bytes + after - before;
        }
        match (before, after) {
            (0, 0) => {}
            (0, _) => {
                self.next += 1;
                self.begun.insert(socket, self.next);
                self.order.push_back((self.next, socket));
                if self.order.len() > 64 && self.order.len() > 2 * self.begun.len() {
                    let begun = &self.begun;
                    self.order.retain(|(number, socket)| begun.get(socket) == Some(number));
                }
            }
            (_, 0) => _ = self.begun.remove(&socket),
            (_, _) => {}
        }
    }

    /// The connection whose unfinished header began first.
    pub(super) fn oldest(&mut self) -> Option<SocketId> {
        while let Some(&(number, socket)) = self.order.front() {
            if self.begun.get(&socket) == Some(&number) {
                return Some(socket);
            }
            self.order.pop_front();
        }
        None
    }

    /// True when more headers are unfinished, or hold more bytes, than allowed.
    pub(super) fn is_over(&self) -> bool {
        self.begun.len() > UNFINISHED_HEADERS || self.bytes > UNFINISHED_HEADER_BYTES
    }
}

impl Shard {
    /// The bytes that a connection holds of its first header may have changed.
    pub(super) fn count_header(&mut self, socket: SocketId, before: usize, after: usize) {
        if before != after {
            self.layered.headers.change(socket, before, after);
            self.counters.headers_unfinished = self.layered.headers.len() as u64;
        }
    }

    /// For checks: true when the bytes that are counted for unfinished headers are those that
    /// exist.
    pub(super) fn headers_add_up(&self) -> bool {
        self.layered.headers.bytes() == self.layered.count_held().header
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_unfinished_header_is_found_also_when_a_socket_is_used_again() {
        let mut headers = Headers::default();
        for socket in 0..3 {
            headers.change(SocketId(socket), 0, 10);
        }
        headers.change(SocketId(0), 10, 0);
        headers.change(SocketId(0), 0, 7);
        assert_eq!((headers.len(), headers.bytes()), (3, 27));
        let mut order = Vec::new();
        while let Some(socket) = headers.oldest() {
            order.push(socket.0);
            let held = if socket.0 == 0 { 7 } else { 10 };
            headers.change(socket, held, 0);
        }
        assert_eq!(order, [1, 2, 0]);
        assert_eq!(headers.bytes(), 0);
    }

    #[test]
    fn headers_that_come_and_go_leave_nothing_behind() {
        let mut headers = Headers::default();
        headers.change(SocketId(9), 0, 1);
        for round in 0..100_000 {
            let socket = SocketId(round % 5);
            headers.change(socket, 0, 100);
            headers.change(socket, 100, 200);
            headers.change(socket, 200, 0);
        }
        assert_eq!((headers.len(), headers.bytes()), (1, 1));
        assert!(headers.order.len() <= 65, "{}", headers.order.len());
    }
}
