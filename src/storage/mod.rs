//! What survives a restart: one log for each shard, in segments that are files.
//!
//! [`log::Log`] belongs to a shard. It takes records, gathers them into batches, decides where they
//! are written, and knows which of them are alive. It does no I/O: it issues [`StorageCommand`]s
//! and gets [`StorageAnswer`]s. The files belong to whatever carries the commands out: in the
//! broker a thread beside the shard, in tests a simulated disk that loses and breaks what a real
//! disk may. [`recovery`] reads a log back.
//!
//! # The rules
//! 1. One batch is written at a time, with one write and one sync, while the next one is filled. So
//!    a crash can tear only the newest batch, which is then dropped whole. With `durability: async`
//!    syncs are separate from writes: a power cut may then tear any of the batches that were
//!    written since the last sync, and recovery cuts the log before the first of them. Each batch
//!    records up to which batch the log was durable when it was written, and a log at rest ends
//!    with a batch that records it of all others. By that, recovery tells damage from torn batches.
//! 2. A file is never synced again after an error. The batch, which is still in memory, is written
//!    to a fresh segment instead. If that fails too, storage is down and reports so, until a later
//!    try with another fresh segment succeeds.
//! 3. Segments are dropped oldest first. Before one is dropped, its live records are copied behind
//!    the newest batch, that copy becomes durable, and a durable batch records that the segment is
//!    not needed. So a record that takes a value out is never missing while a record that put the
//!    value in still exists.
//! 4. A broken batch with a later batch behind it is damage: recovery reports it and guesses
//!    nothing.
//! 5. Two segments are kept in reserve. On a full disk new values are refused, but records that
//!    take values out, and copies that make room, can still be written.

#[cfg(feature = "runtime")]
pub mod backup;
mod behind;
mod bounds;
mod cleaning;
mod failing;
#[cfg(feature = "runtime")]
pub(crate) mod faults;
#[cfg(feature = "runtime")]
pub mod files;
pub mod frame;
mod holding;
pub mod image;
pub mod index;
#[cfg(feature = "runtime")]
pub mod inspect;
pub mod journal;
pub mod key;
mod kind;
pub mod log;
pub mod newest;
pub mod places;
#[cfg(feature = "runtime")]
pub mod portable;
pub mod record;
pub mod recovery;
#[cfg(feature = "runtime")]
pub mod rewrite;
pub mod salvage;
mod slots;
#[cfg(feature = "runtime")]
pub mod store;
mod tap;
mod unsynced;
#[cfg(feature = "runtime")]
pub mod writer;

use places::SegmentRange;

/// What the log asks of the owner of the files. Each command is answered once, in order.
#[derive(Debug)]
pub enum StorageCommand {
    /// Make a segment of `size` bytes ready, by allocating or reusing a file, so that writing to it
    /// needs no further room. Answered by [`StorageAnswer::SegmentReady`] or
    /// [`StorageAnswer::NoSegment`].
    Create {
        /// Its number.
        segment: u32,
        /// Its bytes.
        size: u64,
    },
    /// Write a batch at `offset` of its segment, and sync as `sync` says. Answered by
    /// [`StorageAnswer::Durable`], or [`StorageAnswer::Written`] if nothing is synced, or
    /// [`StorageAnswer::Failed`].
    Commit {
        /// The batch and its segment.
        stamp: frame::BatchStamp,
        /// Where in the segment, in bytes.
        offset: u64,
        /// The records.
        payload: Vec<u8>,
        /// What to sync.
        sync: Extent,
    },
    /// Sync what was written, while further commands are carried out. Answered by
    /// [`StorageAnswer::Synced`] or [`StorageAnswer::Unsynced`].
    Sync {
        /// The last batch that was written.
        batch: u64,
    },
    /// Read bytes of a segment that is being cleaned. Answered by [`StorageAnswer::Slice`] or
    /// [`StorageAnswer::Unread`].
    Clean {
        /// The segment.
        segment: u32,
        /// From where, in bytes.
        offset: u64,
        /// How many, at most.
        length: usize,
    },
    /// Read a batch back for the journal. Answered by [`StorageAnswer::Copied`].
    Copy {
        /// The segment.
        segment: u32,
        /// From where, in bytes.
        offset: u64,
        /// How many.
        length: usize,
    },
    /// Read records back that are to be sent to clients. Answered by [`StorageAnswer::Bytes`].
    Read {
        /// Where they are, including the headers of frames between their bytes.
        spans: Vec<SegmentRange>,
    },
    /// Remove a segment, or keep its file for reuse, durably. Answered by
    /// [`StorageAnswer::Dropped`].
    Drop {
        /// The segment.
        segment: u32,
        /// Whether its file may be used again: nothing failed on it.
        reuse: bool,
    },
}

/// What a commit syncs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Extent {
    /// Nothing.
    Nothing,
    /// The batch's own segment.
    Segment,
    /// First everything that is not synced in older segments, then the batch's own segment.
    Everything,
}

/// The outcome of a [`StorageCommand`]. Answers come in the order of the commands, except those to
/// [`StorageCommand::Sync`].
#[derive(Debug)]
pub enum StorageAnswer {
    /// The segment can be written.
    SegmentReady {
        /// Which.
        segment: u32,
    },
    /// The segment cannot be made: there is no room, or an error occurred.
    NoSegment {
        /// Which.
        segment: u32,
        /// Why.
        why: String,
    },
    /// The batch survives a power cut.
    Durable {
        /// Which.
        batch: u64,
        /// Its buffer, for reuse.
        payload: Vec<u8>,
    },
    /// The batch survives the end of the process.
    Written {
        /// Which.
        batch: u64,
        /// The records, which are needed should the sync fail.
        payload: Vec<u8>,
    },
    /// Every batch up to this one survives a power cut.
    Synced {
        /// Which.
        batch: u64,
    },
    /// The sync failed; which parts of the files are on the disk is unknown.
    Unsynced {
        /// The batch of the command.
        batch: u64,
        /// Why.
        why: String,
    },
    /// Writing or syncing failed; the content of that file from the batch's offset on is unknown.
    Failed {
        /// Which batch.
        batch: u64,
        /// The records, to be written elsewhere.
        payload: Vec<u8>,
        /// Why.
        why: String,
    },
    /// The bytes of a [`StorageCommand::Clean`].
    Slice {
        /// The segment.
        segment: u32,
        /// From where.
        offset: u64,
        /// The bytes; fewer than asked for only at the end of the file.
        bytes: Vec<u8>,
    },
    /// The segment cannot be read.
    Unread {
        /// The segment.
        segment: u32,
        /// Why.
        why: String,
    },
    /// The bytes of a [`StorageCommand::Copy`], or why they cannot be read.
    Copied {
        /// The bytes.
        bytes: Result<Vec<u8>, String>,
    },
    /// The bytes of a [`StorageCommand::Read`], in the order of its spans.
    Bytes {
        /// The bytes of each span, or why it cannot be read.
        spans: Vec<Result<Vec<u8>, String>>,
    },
    /// The segment is gone; `Err` when it may still exist.
    Dropped {
        /// Which.
        segment: u32,
        /// Why it may still exist, in the error.
        outcome: Result<(), String>,
    },
}
