//! Bytes on their way to a client: what a shard hands to the owner of its sockets, and what comes
//! back when the bytes are written. This module is below both, so that neither of them knows the
//! other.
//!
//! A large payload that several connections share is represented by the [`Message`] that all of
//! them hold, and a range of its bytes.

use crate::message::Message;
use std::ops::Range;

/// Bytes handed to the socket driver in one send; it gives them back when they are written.
#[derive(Debug)]
pub enum Outgoing {
    /// A single buffer.
    One(Vec<u8>),
    /// Several pieces, written in order.
    Many(Vec<Segment>),
}

/// A piece of a send.
#[derive(Debug)]
pub enum Segment {
    /// Bytes that belong to this connection only.
    Bytes(Vec<u8>),
    /// Bytes that several connections share: a range within the bytes of a message.
    Shared(Message, Range<usize>),
}

impl Segment {
    /// The number of bytes.
    #[allow(clippy::len_without_is_empty)] // of no use
    pub fn len(&self) -> usize {
        match self {
            Segment::Bytes(bytes) => bytes.len(),
            Segment::Shared(_, range) => range.len(),
        }
    }

    /// Calls `each` with the capacity of the buffer, or with the shared message.
    pub fn visit(&self, each: &mut impl FnMut(usize, Option<&Message>)) {
        match self {
            Segment::Bytes(bytes) => each(bytes.capacity(), None),
            Segment::Shared(message, _) => each(0, Some(message)),
        }
    }
}

impl Outgoing {
    /// Calls `each` with every piece, in order.
    pub fn pieces(&self, mut each: impl FnMut(&[u8])) {
        match self {
            Outgoing::One(bytes) => each(bytes),
            Outgoing::Many(segments) => {
                for segment in segments {
                    match segment {
                        Segment::Bytes(bytes) => each(bytes),
                        Segment::Shared(message, range) => {
                            each(message.as_ref().get(range.clone()).unwrap_or_default());
                        }
                    }
                }
            }
        }
    }

    /// The number of bytes.
    #[allow(clippy::len_without_is_empty)] // never empty
    pub fn len(&self) -> usize {
        match self {
            Outgoing::One(bytes) => bytes.len(),
            Outgoing::Many(segments) => segments.iter().map(Segment::len).sum(),
        }
    }

    /// Calls `each` with the capacity of every buffer, and with every shared message.
    pub fn visit(&self, each: &mut impl FnMut(usize, Option<&Message>)) {
        match self {
            Outgoing::One(bytes) => each(bytes.capacity(), None),
            Outgoing::Many(segments) => segments.iter().for_each(|segment| segment.visit(each)),
        }
    }
}
