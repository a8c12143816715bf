//! Queues of connections that wait for their turn. A connection stands in at most one queue, and
//! loses its place at once when it closes.

use crate::ids::SocketId;
use hashbrown::HashMap;
use std::collections::VecDeque;

/// Several queues, called lines by their number, of connections that wait for their turn.
#[derive(Default)]
pub(super) struct TurnQueues {
    lines: Vec<VecDeque<(u64, SocketId)>>,
    /// The line in which a connection stands, and its number there. An entry of a line with another
    /// number is obsolete.
    places: HashMap<SocketId, (u32, u64)>,
    next: u64,
}

impl TurnQueues {
    /// How many connections wait.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// True when no connection waits.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// Puts the connection at the end of that line, unless it stands in a line already.
    pub fn push(&mut self, line: usize, socket: SocketId) {
        if self.places.contains_key(&socket) {
            return;
        }
        if self.lines.len() <= line {
            self.lines.resize_with(line + 1, VecDeque::new);
        }
        self.next += 1;
        self.places.insert(socket, (line as u32, self.next));
        let line = &mut self.lines[line];
        line.push_back((self.next, socket));
        // An obsolete entry leaves when its turn comes, or when most of a line is obsolete.
        if line.len() > 64 && line.len() > 2 * self.places.len() {
            line.retain(|&(number, socket)| {
                self.places.get(&socket).is_some_and(|place| place.1 == number)
            });
        }
    }

    /// Puts the connection back to the front of that line, from which it was just taken.
    pub fn push_front(&mut self, line: usize, socket: SocketId) {
        if self.places.contains_key(&socket) {
            return;
        }
        self.next += 1;
        self.places.insert(socket, (line as u32, self.next));
        if let Some(line) = self.lines.get_mut(line) {
            line.push_front((self.next, socket));
        }
    }

    /// Whether the connection stands in that line.
    pub fn is_at(&self, socket: SocketId, line: usize) -> bool {
        self.places.get(&socket).is_some_and(|place| place.0 as usize == line)
    }

    /// Takes the first connection out of that line.
    pub fn pop(&mut self, line: usize) -> Option<SocketId> {
        let queue = self.lines.get_mut(line)?;
        while let Some((number, socket)) = queue.pop_front() {
            if self.places.get(&socket).is_some_and(|place| place.1 == number) {
                self.places.remove(&socket);
                return Some(socket);
            }
        }
        *queue = VecDeque::new();
        None
    }

    /// How many lines there are.
    pub fn lines(&self) -> usize {
        self.lines.len()
    }

    /// The most connections that may stand in that line: obsolete entries count, too.
    pub fn bound(&self, line: usize) -> usize {
        self.lines.get(line).map_or(0, VecDeque::len)
    }

    /// Removes a connection that is closed. Its number may soon name another connection.
    pub fn remove(&mut self, socket: SocketId) {
        self.places.remove(&socket);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_has_its_turn_once_and_who_has_closed_has_none() {
        let mut lines = TurnQueues::default();
        for number in 0..5 {
            lines.push(number as usize % 2, SocketId(number));
            lines.push(1, SocketId(number));
        }
        lines.remove(SocketId(2));
        lines.push(0, SocketId(2)); // another connection of that number, behind the others
        assert_eq!((lines.len(), lines.bound(0)), (5, 4));
        let order: Vec<u32> = std::iter::from_fn(|| lines.pop(0)).map(|socket| socket.0).collect();
        assert_eq!(order, [0, 4, 2]);
        assert_eq!(lines.pop(1), Some(SocketId(1)));
        lines.push(1, SocketId(1));
        let order: Vec<u32> = std::iter::from_fn(|| lines.pop(1)).map(|socket| socket.0).collect();
        assert_eq!(order, [3, 1]);
        assert!(lines.is_empty() && lines.pop(7).is_none());
        for number in 0..100_000 {
            lines.push(0, SocketId(number));
            lines.remove(SocketId(number));
        }
        assert!(lines.bound(0) <= 65);
    }
}
