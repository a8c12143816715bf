//! The sends in flight. Whatever the kernel points to stays in its record until the completion has
//! been seen.
#![allow(unsafe_code)]
use super::event::{Outgoing, Segment};
use io_uring::{opcode, squeue, types};

/// The largest number of pieces in one SENDMSG.
const PIECES: usize = 64;
/// The number of records kept for reuse. Records beyond it are freed when they come back.
const SPARE: usize = 1024;
/// The longest single SEND in bytes. Its length has 32 bits and its result is signed.
const LONGEST: usize = 1 << 30;
/// MSG_WAITALL makes the kernel complete partial sends. MSG_NOSIGNAL turns SIGPIPE into an error.
const FLAGS: i32 = libc::MSG_WAITALL | libc::MSG_NOSIGNAL;

/// The memory that one SENDMSG refers to. It is boxed because its address must not change.
struct Vectors {
    header: libc::msghdr,
    pieces: [libc::iovec; PIECES],
}

/// One `send`. It is boxed while it is in flight, so that payload types that store bytes inline do
/// not move either.
struct SendInFlight {
    outgoing: Outgoing,
    /// The next byte to send: the index of its segment (0 for `One`) and the offset within it.
    segment: usize,
    offset: usize,
    left: usize,
    vectors: Option<Box<Vectors>>,
}

/// The state of a send after a completion.
pub(super) enum SendProgress {
    /// A part was sent. This operation sends the rest.
    More(squeue::Entry),
    Done(Outgoing, Result<(), i32>),
}

pub(super) struct Sends {
    records: Vec<Option<Box<SendInFlight>>>,
    free: Vec<u32>,
    #[expect(clippy::vec_box, reason = "used as boxes: the allocations are what is kept")]
    spare: Vec<Box<SendInFlight>>,
    #[expect(clippy::vec_box, reason = "used as boxes: the allocations are what is kept")]
    spare_vectors: Vec<Box<Vectors>>,
}

impl Sends {
    pub(super) fn new() -> Self {
        Sends {
            records: Vec::new(),
            free: Vec::new(),
            spare: Vec::new(),
            spare_vectors: Vec::new(),
        }
    }

    pub(super) fn in_flight(&self) -> u32 {
        (self.records.len() - self.free.len()) as u32
    }

    /// Takes ownership of the bytes. `Err` returns them when there is nothing to send.
    pub(super) fn start(
        &mut self,
        outgoing: Outgoing,
        table: u32,
    ) -> Result<(u32, squeue::Entry), Outgoing> {
        let left = length(&outgoing);
        if left == 0 {
            return Err(outgoing);
        }
        let fresh = SendInFlight { outgoing, segment: 0, offset: 0, left, vectors: None };
        let record = match self.spare.pop() {
            Some(mut record) => {
                *record = fresh;
                record
            }
            None => Box::new(fresh),
        };
        let index = self.free.pop().unwrap_or_else(|| {
            self.records.push(None);
            self.records.len() as u32 - 1
        });
        self.records[index as usize] = Some(record);
        let entry = self.operation(index, table);
        Ok((index, entry))
    }

    /// Handles a completion of record `index`. With `give_up` the rest is not sent, because the
    /// socket is being closed.
    pub(super) fn completed(
        &mut self,
        index: u32,
        table: u32,
        result: i32,
        give_up: bool,
    ) -> SendProgress {
        let record = self.records[index as usize].as_mut().expect("a send completes once");
        let ended = match result {
            1.. if result as usize >= record.left => Some(Ok(())),
            1.. => {
                record.advance(result as usize);
                give_up.then_some(Err(libc::ECANCELED))
            }
            0 => Some(Err(libc::EPIPE)),
            _ if result == -libc::EINTR && !give_up => None,
            _ => Some(Err(-result)),
        };
        match ended {
            None => SendProgress::More(self.operation(index, table)),
            Some(result) => SendProgress::Done(self.finish(index), result),
        }
    }

    /// Handles the completion of a send that is not to go on: gives back what was to be sent and a
    /// copy of the part that was not. `None`, and nothing is done, when it is complete or failed.
    pub(super) fn withdraw(&mut self, index: u32, result: i32) -> Option<(Outgoing, Vec<u8>)> {
        let record = self.records[index as usize].as_mut().expect("a send completes once");
        match result {
            1.. if (result as usize) < record.left => record.advance(result as usize),
            _ if result == -libc::ECANCELED || result == -libc::EINTR => {}
            _ => return None,
        }
        let mut rest = Vec::with_capacity(record.left);
        let mut skip = length(&record.outgoing) - record.left;
        record.outgoing.pieces(|piece| {
            let from = skip.min(piece.len());
            skip -= from;
            rest.extend_from_slice(&piece[from..]);
        });
        Some((self.finish(index), rest))
    }

    fn finish(&mut self, index: u32) -> Outgoing {
        let mut record = self.records[index as usize].take().expect("a send completes once");
        self.free.push(index);
        if let Some(vectors) = record.vectors.take()
            && self.spare_vectors.len() < SPARE
        {
            self.spare_vectors.push(vectors);
        }
        let outgoing = std::mem::replace(&mut record.outgoing, Outgoing::One(Vec::new()));
        if self.spare.len() < SPARE {
            self.spare.push(record);
        }
        self.trim();
        outgoing
    }

    /// Releases the memory of the index itself, which can grow large while many readers are slow.
    fn trim(&mut self) {
        if self.free.len() == self.records.len() && self.records.len() > SPARE {
            self.records = Vec::new();
            self.free = Vec::new();
        }
    }

    fn operation(&mut self, index: u32, table: u32) -> squeue::Entry {
        let record = self.records[index as usize].as_mut().expect("the record is in use");
        if let Outgoing::One(bytes) = &record.outgoing {
            let rest = &bytes[record.offset..];
            let length = rest.len().min(LONGEST) as u32;
            return opcode::Send::new(types::Fixed(table), rest.as_ptr(), length)
                .flags(FLAGS)
                .build();
        }
        let vectors = record.vectors.take().or_else(|| self.spare_vectors.pop());
        let vectors = record.vectors.insert(vectors.unwrap_or_else(Vectors::new));
        if let Outgoing::Many(segments) = &record.outgoing {
            vectors.point_into(segments, record.segment, record.offset);
        }
        opcode::SendMsg::new(types::Fixed(table), &vectors.header).flags(FLAGS as u32).build()
    }
}

impl SendInFlight {
    fn advance(&mut self, mut bytes: usize) {
        self.left -= bytes;
        let Outgoing::Many(segments) = &self.outgoing else {
            self.offset += bytes;
            return;
        };
        while bytes > 0 {
            let rest = piece(&segments[self.segment]).len() - self.offset;
            if bytes < rest {
                self.offset += bytes;
                return;
            }
            bytes -= rest;
            self.segment += 1;
            self.offset = 0;
        }
    }
}

impl Vectors {
    fn new() -> Box<Self> {
        // SAFETY: msghdr and iovec are plain C structs for which all zeroes is "empty".
        Box::new(unsafe { std::mem::zeroed() })
    }

    /// Fills the vectors with pointers into `segments`. The record owns the segments and neither
    /// moves nor changes them until the completion.
    fn point_into(&mut self, segments: &[Segment], first: usize, offset: usize) {
        let mut count = 0;
        let mut skip = offset;
        for segment in &segments[first..] {
            let bytes = &piece(segment)[skip..];
            skip = 0;
            if bytes.is_empty() {
                continue;
            }
            let iov_base = bytes.as_ptr().cast_mut().cast();
            self.pieces[count] = libc::iovec { iov_base, iov_len: bytes.len() };
            count += 1;
            if count == PIECES {
                break;
            }
        }
        self.header.msg_iov = self.pieces.as_mut_ptr();
        self.header.msg_iovlen = count as _;
    }
}

fn piece(segment: &Segment) -> &[u8] {
    match segment {
        Segment::Bytes(bytes) => bytes,
        Segment::Shared(shared, range) => {
            let bytes = shared.as_ref();
            let end = range.end.min(bytes.len());
            &bytes[range.start.min(end)..end]
        }
    }
}

fn length(outgoing: &Outgoing) -> usize {
    match outgoing {
        Outgoing::One(bytes) => bytes.len(),
        Outgoing::Many(segments) => segments.iter().map(|segment| piece(segment).len()).sum(),
    }
}
