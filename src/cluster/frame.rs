//! Frames: what one node sends through the engine, to one other node or to all.
//!
//! A frame is a header and, in a frame of data, one segment of a lane ([`super::lane`]). Numbers
//! are little-endian. A frame is refused, with a reason, if it is cut short, too long, of a format
//! that is not known, or from a node without a valid name. No memory is reserved because of lengths
//! in a frame.
//!
//! # Formats and levels
//! A frame says which format it has. A node reads the formats from [`OLDEST`] to [`NEWEST`], and
//! its hello says up to which it reads ([`Abilities`]); another node gets frames of the newest
//! format that both read. From format 6 on, what follows the known fields of a hello or a state is
//! left out by the reader, so that later formats may add to both. Hellos are for nodes that are not
//! known yet, so they have this format ([`OPEN`]) and no later one. A node of format 5 cannot read
//! them; its own hellos can be read, and are answered by states in its format.
//!
//! What a node can do besides, such as the kinds of records that it reads, is its level
//! ([`LEVEL`]). What one node alone may not do is done once all nodes have its level.

use super::lane::{Acknowledgement, Lane, SEGMENT};
use super::segment::HEAD;

/// The oldest format of frames that this node reads and writes.
pub const OLDEST: u8 = 5;
/// The newest format of frames that this node reads and writes.
pub const NEWEST: u8 = 6;
/// The first format whose hellos and states may be longer than what is known of them.
pub const OPEN: u8 = 6;
/// What this node can do. Level 1: records about adoptions, will messages of stored sessions, and
/// which retained messages the client of a session that moves is owed.
pub const LEVEL: u8 = 1;
/// The first bytes of each frame.
const MAGIC: [u8; 2] = *b"RQ";
/// The longest name of a node in bytes.
pub const LONGEST_NAME: usize = 64;
/// The largest frame in bytes.
pub const LARGEST: usize = SEGMENT + HEAD;

const HELLO: u8 = 0;
const STATE: u8 = 1;
const DATA: u8 = 2;
const GOODBYE: u8 = 3;

/// Bytes of a state.
const STATE_BYTES: u8 = 16 + 17 * Lane::ALL.len() as u8 + 4 + 1 + 20 + 8;

/// Why a frame was refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FrameRefusal {
    /// The bytes are no frame of this protocol.
    Foreign,
    /// The frame has a format that this node does not read.
    Format,
    /// The frame is shorter or longer than its contents say.
    Length,
    /// The sender's name is not valid.
    Name,
    /// The frame's kind or lane is unknown.
    Kind,
}

impl FrameRefusal {
    /// The label of the reason in logs.
    pub fn word(self) -> &'static str {
        match self {
            FrameRefusal::Foreign => "foreign",
            FrameRefusal::Format => "format",
            FrameRefusal::Length => "length",
            FrameRefusal::Name => "name",
            FrameRefusal::Kind => "kind",
        }
    }
}

/// The sender of a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FrameSender<'a> {
    /// The node's name.
    pub name: &'a str,
    /// Distinguishes the runs of one node; a later run has a larger number.
    pub incarnation: u64,
    /// The sender's clock in milliseconds, from an origin of its own.
    pub clock: u64,
    /// The sender's time in milliseconds since 1970.
    pub time: u64,
}

/// What a node tells another node in each frame to it.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct FrameState {
    /// The incarnation of the node that the frame is for.
    pub to: u64,
    /// The number of the sender's stream to that node.
    pub stream: u32,
    /// The number of the stream that the acknowledgements are for; 0 when none is known.
    pub back: u32,
    /// How far the sender has received, by lane.
    pub acknowledged: [Acknowledgement; Lane::ALL.len()],
    /// The snapshot of filters that the sender wants from that node.
    pub snapshot: u32,
    /// Count and digest of the sender's filters, if all of them have been told.
    pub told: Option<FilterDigest>,
    /// The digest of the sender's retained messages.
    pub retained: u64,
}

/// Count and digest of all filters of a node, valid at a place in its control lane.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct FilterDigest {
    /// The number of the segment after the last one that tells filters.
    pub at: u64,
    /// The number of filters.
    pub filters: u32,
    /// The digest of the filters.
    pub digest: u64,
}

/// What a node can do, as its hellos tell.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Abilities {
    /// The newest format of frames that it reads.
    pub newest: u8,
    /// Its level.
    pub level: u8,
}

impl Abilities {
    /// Those of this program.
    pub const OWN: Abilities = Abilities { newest: NEWEST, level: LEVEL };
    /// Those of a node that has told none.
    pub const LEAST: Abilities = Abilities { newest: OLDEST, level: 0 };

    /// What both can do.
    pub fn common(self, other: Abilities) -> Abilities {
        Abilities { newest: self.newest.min(other.newest), level: self.level.min(other.level) }
    }
}

/// The content of a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FrameContent<'a> {
    /// The sender is there, and can do this; for all nodes. In format 5 it cannot tell.
    Hello(Abilities),
    /// The sender ends; for all nodes.
    Goodbye,
    /// The state alone.
    State(FrameState),
    /// The state, and a segment: its lane, its number and its bytes.
    Data(FrameState, Lane, u64, &'a [u8]),
}

/// A frame, borrowed from its bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NodeFrame<'a> {
    /// Its format.
    pub format: u8,
    /// The node that sent it.
    pub sender: FrameSender<'a>,
    /// Its content.
    pub said: FrameContent<'a>,
}

/// Whether `name` is valid as a node's name: it must serve as a token of a subject and as a label.
pub fn is_name(name: &str) -> bool {
    let plain = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_');
    !name.is_empty() && name.len() <= LONGEST_NAME && name.bytes().all(plain)
}

impl<'a> NodeFrame<'a> {
    /// The frame's bytes.
    pub fn write(&self) -> Vec<u8> {
        let mut out = self.head(self.segment().len());
        out.extend_from_slice(self.segment());
        out
    }

    /// The frame's bytes without its segment, with memory for so many more.
    pub fn head(&self, more: usize) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEAD + more);
        let kind = match self.said {
            FrameContent::Hello(_) => HELLO,
            FrameContent::Goodbye => GOODBYE,
            FrameContent::State(_) => STATE,
            FrameContent::Data(..) => DATA,
        };
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&[self.format, kind]);
        out.extend_from_slice(&self.sender.incarnation.to_le_bytes());
        out.extend_from_slice(&self.sender.clock.to_le_bytes());
        out.extend_from_slice(&self.sender.time.to_le_bytes());
        out.push(self.sender.name.len() as u8);
        out.extend_from_slice(self.sender.name.as_bytes());
        match self.said {
            FrameContent::Hello(Abilities { newest, level }) if self.format >= OPEN => {
                out.extend_from_slice(&[newest, level]);
            }
            FrameContent::Hello(_) | FrameContent::Goodbye => {}
            FrameContent::State(state) => state.write(self.format, &mut out),
            FrameContent::Data(state, lane, number, _) => {
                state.write(self.format, &mut out);
                out.push(lane as u8);
                out.extend_from_slice(&number.to_le_bytes());
            }
        }
        out
    }

    fn segment(&self) -> &'a [u8] {
        if let FrameContent::Data(.., segment) = self.said { segment } else { &[] }
    }

    /// The format and the sender's name of a frame of a format that is not known, as all formats
    /// begin in the same way. `None` when `bytes` are no frame.
    pub fn stranger(bytes: &'a [u8]) -> Option<(u8, &'a str)> {
        let mut rest = FrameReader(bytes);
        let [m, n, format, _] = rest.take::<4>().ok()?;
        rest.take::<24>().ok()?; // its incarnation, and two times
        let [length] = rest.take::<1>().ok()?;
        let name = str::from_utf8(rest.slice(usize::from(length)).ok()?).ok()?;
        ([m, n] == MAGIC && is_name(name)).then_some((format, name))
    }

    /// Reads a frame.
    ///
    /// # Errors
    /// The reason why `bytes` are no frame, or none of a format that is known.
    pub fn read(bytes: &'a [u8]) -> Result<NodeFrame<'a>, FrameRefusal> {
        let mut rest = FrameReader(bytes);
        let [m, n, format, kind] = rest.take::<4>().map_err(|_| FrameRefusal::Foreign)?;
        if [m, n] != MAGIC {
            return Err(FrameRefusal::Foreign);
        }
        if !(OLDEST..=NEWEST).contains(&format) {
            return Err(FrameRefusal::Format);
        }
        if bytes.len() > LARGEST {
            return Err(FrameRefusal::Length);
        }
        let (incarnation, clock, time) = (rest.long()?, rest.long()?, rest.long()?);
        let [length] = rest.take::<1>()?;
        let name = rest.slice(usize::from(length))?;
        let name = str::from_utf8(name).map_err(|_| FrameRefusal::Name)?;
        if !is_name(name) {
            return Err(FrameRefusal::Name);
        }
        let said = match kind {
            HELLO if format >= OPEN => {
                let [newest, level] = rest.take::<2>()?;
                rest.0 = &[];
                FrameContent::Hello(Abilities { newest: newest.max(format), level })
            }
            HELLO => FrameContent::Hello(Abilities::LEAST),
            GOODBYE => FrameContent::Goodbye,
            STATE => FrameContent::State(FrameState::read(format, &mut rest)?),
            DATA => {
                let state = FrameState::read(format, &mut rest)?;
                let [lane] = rest.take::<1>()?;
                let lane = Lane::ALL.get(usize::from(lane)).copied().ok_or(FrameRefusal::Kind)?;
                let number = rest.long()?;
                let segment = std::mem::take(&mut rest.0);
                if segment.is_empty() || segment.len() > SEGMENT {
                    return Err(FrameRefusal::Length);
                }
                FrameContent::Data(state, lane, number, segment)
            }
            _ => return Err(FrameRefusal::Kind),
        };
        if !rest.0.is_empty() {
            return Err(FrameRefusal::Length);
        }
        Ok(NodeFrame { format, sender: FrameSender { name, incarnation, clock, time }, said })
    }
}

impl FrameState {
    fn write(&self, format: u8, out: &mut Vec<u8>) {
        if format >= OPEN {
            out.push(STATE_BYTES);
        }
        out.extend_from_slice(&self.to.to_le_bytes());
        out.extend_from_slice(&self.stream.to_le_bytes());
        out.extend_from_slice(&self.back.to_le_bytes());
        for one in &self.acknowledged {
            out.extend_from_slice(&one.next.to_le_bytes());
            out.extend_from_slice(&one.until.to_le_bytes());
            out.push(u8::from(one.gap));
        }
        out.extend_from_slice(&self.snapshot.to_le_bytes());
        out.push(u8::from(self.told.is_some()));
        let told = self.told.unwrap_or_default();
        out.extend_from_slice(&told.at.to_le_bytes());
        out.extend_from_slice(&told.filters.to_le_bytes());
        out.extend_from_slice(&told.digest.to_le_bytes());
        out.extend_from_slice(&self.retained.to_le_bytes());
    }

    fn read(format: u8, rest: &mut FrameReader<'_>) -> Result<FrameState, FrameRefusal> {
        if format < OPEN {
            return FrameState::read_fields(rest);
        }
        let [length] = rest.take::<1>()?;
        // What follows the known fields is of later formats.
        FrameState::read_fields(&mut FrameReader(rest.slice(usize::from(length))?))
    }

    fn read_fields(rest: &mut FrameReader<'_>) -> Result<FrameState, FrameRefusal> {
        let to = rest.long()?;
        let (stream, back) = (rest.word()?, rest.word()?);
        let mut acknowledged = [Acknowledgement::default(); Lane::ALL.len()];
        for one in &mut acknowledged {
            let (next, until) = (rest.long()?, rest.long()?);
            let [gap] = rest.take::<1>()?;
            *one = Acknowledgement { next, until, gap: gap != 0 };
        }
        let snapshot = rest.word()?;
        let [is_told] = rest.take::<1>()?;
        let told = FilterDigest { at: rest.long()?, filters: rest.word()?, digest: rest.long()? };
        let told = Some(told).filter(|_| is_told != 0);
        let retained = rest.long()?;
        Ok(FrameState { to, stream, back, acknowledged, snapshot, told, retained })
    }
}

/// Bytes that are read from front to back.
struct FrameReader<'a>(&'a [u8]);

impl<'a> FrameReader<'a> {
    fn slice(&mut self, length: usize) -> Result<&'a [u8], FrameRefusal> {
        let (slice, rest) = self.0.split_at_checked(length).ok_or(FrameRefusal::Length)?;
        self.0 = rest;
        Ok(slice)
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], FrameRefusal> {
        let (array, rest) = self.0.split_first_chunk::<N>().ok_or(FrameRefusal::Length)?;
        self.0 = rest;
        Ok(*array)
    }

    fn word(&mut self) -> Result<u32, FrameRefusal> {
        Ok(u32::from_le_bytes(self.take::<4>()?))
    }

    fn long(&mut self) -> Result<u64, FrameRefusal> {
        Ok(u64::from_le_bytes(self.take::<8>()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::lane::FULL;
    use proptest::prelude::*;

    fn sample(segment: &[u8]) -> NodeFrame<'_> {
        let acknowledged = [
            Acknowledgement { next: 7, until: 9, gap: true },
            Acknowledgement { next: 1, until: u64::MAX, gap: false },
            Acknowledgement { next: 2, until: 3, gap: false },
        ];
        let told = Some(FilterDigest { at: 4, filters: 5, digest: 6 });
        let state =
            FrameState { to: 3, stream: 1, back: 2, acknowledged, snapshot: 8, told, retained: 11 };
        let sender = FrameSender { name: "node-1", incarnation: 1 << 60, clock: 99, time: 1 << 41 };
        let said = FrameContent::Data(state, Lane::Messages, 17, segment);
        NodeFrame { format: NEWEST, sender, said }
    }

    #[test]
    fn two_full_frames_fit_into_a_buffer_of_the_client_library() {
        let name = "n".repeat(LONGEST_NAME);
        let full = sample(&[1; FULL]);
        let frame = NodeFrame { sender: FrameSender { name: &name, ..full.sender }, ..full };
        let frame = frame.write().len();
        let line = format!("MSG ringmq.{name}.node.{name} 12 {frame}\r\n\r\n");
        assert!(2 * (line.len() + frame) <= 32 << 10, "{} bytes", line.len() + frame);
    }

    #[test]
    fn frames_come_back_as_they_were_written() {
        let data = sample(&[1; SEGMENT]);
        let FrameContent::Data(state, ..) = data.said else { unreachable!() };
        for said in [
            data.said,
            FrameContent::Hello(Abilities { newest: 9, level: 7 }),
            FrameContent::Goodbye,
            FrameContent::State(FrameState { told: None, ..state }),
        ] {
            for format in OLDEST..=NEWEST {
                let mut frame = NodeFrame { format, said, ..data };
                let bytes = frame.write();
                assert!(bytes.len() <= LARGEST);
                if format < OPEN && matches!(said, FrameContent::Hello(_)) {
                    frame.said = FrameContent::Hello(Abilities::LEAST);
                }
                assert_eq!(NodeFrame::read(&bytes), Ok(frame));
            }
        }
    }

    #[test]
    fn what_later_formats_add_to_hellos_and_states_is_left_out() {
        let of = |said| NodeFrame { said, ..sample(b"abc") };
        let hello = of(FrameContent::Hello(Abilities::OWN));
        assert_eq!(NodeFrame::read(&[&hello.write()[..], b"more"].concat()), Ok(hello));
        let data = sample(b"abc");
        let mut bytes = data.write();
        let at = bytes.len() - 3 - 9 - usize::from(STATE_BYTES);
        bytes[at - 1] += 2;
        bytes.splice(bytes.len() - 12..bytes.len() - 12, [8, 8]);
        assert_eq!(NodeFrame::read(&bytes), Ok(data));
        // Nodes of before say nothing of what they can do, and what they say has its length.
        let old = NodeFrame { format: OLDEST, ..hello }.write();
        assert_eq!(NodeFrame::read(&[&old[..], b"x"].concat()), Err(FrameRefusal::Length));
    }

    #[test]
    fn what_is_no_frame_is_refused_with_the_reason() {
        let whole = sample(b"abc").write();
        for cut in 0..whole.len() - 3 {
            assert!(NodeFrame::read(&whole[..cut]).is_err(), "{cut}");
        }
        let changed = |at: usize, byte: u8| {
            let mut bytes = whole.clone();
            bytes[at] = byte;
            NodeFrame::read(&bytes).unwrap_err()
        };
        assert_eq!(changed(0, b'X'), FrameRefusal::Foreign);
        assert_eq!(changed(2, OLDEST - 1), FrameRefusal::Format);
        assert_eq!(changed(2, NEWEST + 1), FrameRefusal::Format);
        assert_eq!(changed(3, 9), FrameRefusal::Kind);
        assert_eq!(changed(29, b'.'), FrameRefusal::Name);
        assert_eq!(changed(29, 0xff), FrameRefusal::Name);
        let goodbye = NodeFrame { said: FrameContent::Goodbye, ..sample(b"") }.write();
        assert_eq!(NodeFrame::read(&[&goodbye[..], b"x"].concat()), Err(FrameRefusal::Length));
        let long = vec![0; SEGMENT + 1];
        assert_eq!(NodeFrame::read(&sample(&long).write()), Err(FrameRefusal::Length));
        assert_eq!(NodeFrame::read(&sample(b"").write()), Err(FrameRefusal::Length));
    }

    #[test]
    fn names_are_tokens_of_subjects() {
        for name in ["a", "node-1_X", &"x".repeat(64)] {
            assert!(is_name(name));
        }
        for name in ["", "a.b", "a b", "*", ">", "ä", &"x".repeat(65)] {
            assert!(!is_name(name), "{name}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_do_no_harm(mut bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = NodeFrame::read(&bytes);
            // The same bytes with a valid head.
            if let Some(head) = bytes.first_chunk_mut::<4>() {
                *head = [b'R', b'Q', OLDEST + head[2] % 3, head[3] % 4];
            }
            if let Ok(frame) = NodeFrame::read(&bytes) {
                let written = frame.write();
                prop_assert_eq!(NodeFrame::read(&written), Ok(frame));
            }
        }
    }
}
