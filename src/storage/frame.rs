//! Frames: the layout of a batch of records in a segment.
//!
//! A batch is what one commit makes durable. Its records form one string of bytes, which is cut
//! into frames of at most [`FRAME_PAYLOAD`] bytes. A frame begins at a multiple of [`ALIGNMENT`]
//! with a header of [`HEADER`] bytes; header and payload have a CRC32C each; zeros fill the frame
//! up to the next multiple. All numbers are little-endian.
//!
//! | bytes | what |
//! |---|---|
//! | 0–7 | magic and version of the format |
//! | 8–15 | the log that it belongs to: a secret number |
//! | 16–23 | number of the batch |
//! | 24–31 | oldest batch that is still needed |
//! | 32–35 | number of the segment |
//! | 36–39, 40–43 | number of the frame within the batch, and how many there are |
//! | 44–47, 48–51 | length and CRC32C of this frame's payload |
//! | 52–55 | length of the batch's payload |
//! | 56–59 | how many batches before this one were not durable yet when it was written |
//! | 60–63 | CRC32C of the first 60 bytes |

/// Frames begin at multiples of this many bytes: the block size of common disks.
pub const ALIGNMENT: usize = 4096;
/// Bytes of a header.
pub const HEADER: usize = 64;
/// Most payload of one frame in bytes: a full frame takes 256 KiB.
pub const FRAME_PAYLOAD: usize = (256 << 10) - HEADER;
/// Most payload of one batch in bytes; the largest record must fit.
pub const BATCH_PAYLOAD: usize = (1 << 28) - 1;
/// Magic, with the version of the format in its last byte.
const MAGIC: [u8; 8] = *b"RINGMQL\x01";

const _: () = assert!((HEADER + FRAME_PAYLOAD).is_multiple_of(ALIGNMENT));

/// The header of a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LogFrameHeader {
    /// The log.
    pub log: u64,
    /// The batch.
    pub batch: u64,
    /// The oldest batch that is still needed: recovery can do without segments before it.
    pub needed: u64,
    /// The segment. Frames that are left from an earlier use of the file have another number.
    pub segment: u32,
    /// Which frame of the batch this is.
    pub frame: u32,
    /// How many the batch has.
    pub frames: u32,
    /// Payload bytes of this frame.
    pub length: u32,
    /// CRC32C of the payload.
    pub checksum: u32,
    /// Payload bytes of the batch.
    pub total: u32,
    /// How many batches just before this one were not durable when it was written.
    pub unsynced: u32,
}

/// Why there is no frame in some bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NoFrame {
    /// There is no header with a correct checksum and consistent lengths.
    Header,
    /// The header has a later version of the format: its number.
    Version(u8),
    /// The bytes end before the payload does.
    Short,
    /// The payload's checksum is wrong.
    Payload,
}

fn word(bytes: &[u8], at: usize) -> u32 {
    let four = bytes.get(at..at + 4).and_then(|four| <[u8; 4]>::try_from(four).ok());
    four.map_or(0, u32::from_le_bytes)
}

fn long(bytes: &[u8], at: usize) -> u64 {
    u64::from(word(bytes, at)) | u64::from(word(bytes, at + 4)) << 32
}

impl LogFrameHeader {
    fn encode(&self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        bytes[0..8].copy_from_slice(&MAGIC);
        bytes[8..16].copy_from_slice(&self.log.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.batch.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.needed.to_le_bytes());
        let lengths = [self.length, self.checksum, self.total, self.unsynced];
        let words = [self.segment, self.frame, self.frames].into_iter().chain(lengths);
        for (place, number) in bytes[32..60].chunks_exact_mut(4).zip(words) {
            place.copy_from_slice(&number.to_le_bytes());
        }
        let checksum = crc32c::crc32c(&bytes[..60]);
        bytes[60..64].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// The header at the start of `bytes`.
    ///
    /// # Errors
    /// When there is none.
    pub fn read(bytes: &[u8]) -> Result<LogFrameHeader, NoFrame> {
        let bytes = bytes.get(..HEADER).ok_or(NoFrame::Header)?;
        let (body, checksum) = bytes.split_at(60);
        if crc32c::crc32c(body) != word(checksum, 0) || bytes[..7] != MAGIC[..7] {
            return Err(NoFrame::Header);
        }
        if bytes[7] != MAGIC[7] {
            return Err(NoFrame::Version(bytes[7]));
        }
        let header = LogFrameHeader {
            log: long(bytes, 8),
            batch: long(bytes, 16),
            needed: long(bytes, 24),
            segment: word(bytes, 32),
            frame: word(bytes, 36),
            frames: word(bytes, 40),
            length: word(bytes, 44),
            checksum: word(bytes, 48),
            total: word(bytes, 52),
            unsynced: word(bytes, 56),
        };
        if header.is_sound() { Ok(header) } else { Err(NoFrame::Header) }
    }

    /// Whether the lengths are consistent.
    fn is_sound(&self) -> bool {
        let total = self.total as usize;
        let before = (self.frame as usize).saturating_mul(FRAME_PAYLOAD);
        total > 0
            && total <= BATCH_PAYLOAD
            && self.frames as usize == total.div_ceil(FRAME_PAYLOAD)
            && self.frame < self.frames
            && self.length as usize == (total - before).min(FRAME_PAYLOAD)
    }

    /// The last batch that was durable when this one was written.
    pub fn durable(&self) -> u64 {
        self.batch.saturating_sub(1).saturating_sub(u64::from(self.unsynced))
    }

    /// Bytes that the frame takes.
    pub fn size(&self) -> usize {
        (HEADER + self.length as usize).next_multiple_of(ALIGNMENT)
    }
}

/// Bytes that a batch with this much payload takes in a segment.
pub fn disk_size(payload: usize) -> usize {
    let (full, rest) = (payload / FRAME_PAYLOAD, payload % FRAME_PAYLOAD);
    let last = if rest == 0 { 0 } else { (HEADER + rest).next_multiple_of(ALIGNMENT) };
    full * (HEADER + FRAME_PAYLOAD) + last
}

/// The place, within a written batch, of `length` bytes of its payload from `offset` on: the first
/// byte, and the number of bytes from there, headers of frames included.
pub fn span(offset: usize, length: usize) -> (usize, usize) {
    let place = |offset: usize| (offset / FRAME_PAYLOAD + 1) * HEADER + offset;
    let first = place(offset);
    (first, place(offset + length.max(1) - 1) + 1 - first)
}

/// Removes the headers of frames from the bytes of a [`span`] that begins at `offset` of the
/// payload.
pub fn unframe(offset: usize, bytes: &mut Vec<u8>) {
    let mut end = FRAME_PAYLOAD - offset % FRAME_PAYLOAD;
    while end < bytes.len() {
        bytes.drain(end..(end + HEADER).min(bytes.len()));
        end += FRAME_PAYLOAD;
    }
}

/// The numbers of a batch, and the segment that it goes to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BatchStamp {
    /// The log.
    pub log: u64,
    /// The segment.
    pub segment: u32,
    /// The batch.
    pub batch: u64,
    /// The oldest batch that is still needed.
    pub needed: u64,
    /// How many batches just before this one are not durable yet.
    pub unsynced: u32,
}

/// Appends the frames of a batch to `out`. The payload must not be empty and has at most
/// [`BATCH_PAYLOAD`] bytes.
pub fn write(stamp: BatchStamp, payload: &[u8], out: &mut Vec<u8>) {
    out.reserve(disk_size(payload.len()));
    let frames = payload.len().div_ceil(FRAME_PAYLOAD);
    for (frame, part) in payload.chunks(FRAME_PAYLOAD).enumerate() {
        let header = LogFrameHeader {
            log: stamp.log,
            batch: stamp.batch,
            needed: stamp.needed,
            segment: stamp.segment,
            frame: frame as u32,
            frames: frames as u32,
            length: part.len() as u32,
            checksum: crc32c::crc32c(part),
            total: payload.len() as u32,
            unsynced: stamp.unsynced,
        };
        let start = out.len();
        out.extend_from_slice(&header.encode());
        out.extend_from_slice(part);
        out.resize(start + header.size(), 0);
    }
}

/// The frame at the start of `bytes`: its header and payload.
///
/// # Errors
/// When there is no whole frame with correct checksums.
pub fn read(bytes: &[u8]) -> Result<(LogFrameHeader, &[u8]), NoFrame> {
    let header = LogFrameHeader::read(bytes)?;
    let end = HEADER + header.length as usize;
    let payload = bytes.get(HEADER..end).ok_or(NoFrame::Short)?;
    if crc32c::crc32c(payload) != header.checksum {
        return Err(NoFrame::Payload);
    }
    Ok((header, payload))
}

/// A whole batch at the start of `bytes`: the header of its first frame, its payload put into
/// `payload`, and the bytes that it takes.
///
/// # Errors
/// Where it breaks off, in bytes from the start, and why.
pub fn read_batch(
    bytes: &[u8],
    payload: &mut Vec<u8>,
) -> Result<(LogFrameHeader, usize), (usize, NoFrame)> {
    payload.clear();
    let first = LogFrameHeader::read(bytes).map_err(|why| (0, why))?;
    let mut at = 0;
    for frame in 0..first.frames {
        let (header, part) = read(bytes.get(at..).unwrap_or(&[])).map_err(|why| (at, why))?;
        let checksum = header.checksum;
        if header != (LogFrameHeader { frame, length: part.len() as u32, checksum, ..first }) {
            return Err((at, NoFrame::Header));
        }
        payload.extend_from_slice(part);
        at += header.size();
    }
    Ok((first, at))
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAMP: BatchStamp = BatchStamp { log: 7, segment: 3, batch: 11, needed: 2, unsynced: 0 };

    fn written(length: usize) -> (Vec<u8>, Vec<u8>) {
        let payload: Vec<u8> = (0..length).map(|at| (at * 31 / 8) as u8).collect();
        let mut out = Vec::new();
        write(STAMP, &payload, &mut out);
        (payload, out)
    }

    #[test]
    fn a_batch_of_any_length_is_read_as_it_was_written() {
        for length in [1, 63, 4032, 4033, FRAME_PAYLOAD, FRAME_PAYLOAD + 1, 3 * FRAME_PAYLOAD + 5] {
            let (payload, out) = written(length);
            assert_eq!(out.len(), disk_size(length));
            assert!(out.len().is_multiple_of(ALIGNMENT));
            let mut read = Vec::new();
            let (header, size) = read_batch(&out, &mut read).expect("whole");
            assert_eq!((header.batch, header.segment, header.needed), (11, 3, 2));
            assert_eq!((size, read == payload), (out.len(), true));
        }
    }

    #[test]
    fn any_part_of_a_payload_is_found_in_what_was_written() {
        let (payload, out) = written(2 * FRAME_PAYLOAD + 500);
        for (offset, length) in [
            (0, 1),
            (10, 300),
            (FRAME_PAYLOAD - 1, 1),
            (FRAME_PAYLOAD - 1, 2),
            (FRAME_PAYLOAD, 5),
            (FRAME_PAYLOAD - 7, FRAME_PAYLOAD + 20),
            (0, payload.len()),
        ] {
            let (first, count) = span(offset, length);
            let mut bytes = out[first..first + count].to_vec();
            unframe(offset, &mut bytes);
            assert!(bytes == payload[offset..offset + length], "{length} bytes from {offset}");
        }
    }

    #[test]
    fn a_batch_with_any_bit_flipped_outside_its_padding_is_not_read() {
        let (payload, out) = written(5000);
        let mut read = Vec::new();
        for bit in 0..(HEADER + payload.len()) * 8 {
            let mut damaged = out.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(read_batch(&damaged, &mut read).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn frames_of_different_batches_are_no_batch() {
        let (_, out) = written(FRAME_PAYLOAD + 5);
        let mut other = Vec::new();
        let payload = vec![1; FRAME_PAYLOAD + 5];
        write(BatchStamp { batch: 10, ..STAMP }, &payload, &mut other);
        let mut mixed = out.clone();
        let second = HEADER + FRAME_PAYLOAD;
        mixed[second..].copy_from_slice(&other[second..]);
        assert_eq!(read_batch(&mixed, &mut Vec::new()), Err((second, NoFrame::Header)));
        assert!(read_batch(&out[..second], &mut Vec::new()).is_err());
    }

    #[test]
    fn a_later_version_is_told_by_its_number() {
        let (_, mut out) = written(10);
        out[7] = 9;
        let checksum = crc32c::crc32c(&out[..60]);
        out[60..64].copy_from_slice(&checksum.to_le_bytes());
        assert_eq!(LogFrameHeader::read(&out), Err(NoFrame::Version(9)));
    }
}
