//! What survives a restart: one log per shard, in segments that are files.
//!
//! [`log::Log`] is a shard's part: it takes records, gathers them into batches, says where they go,
//! and knows what of them is alive. It does no I/O: it says [`StorageCommand`]s, and is told
//! [`Answer`]s. Whoever carries them out owns the files; in the broker a thread beside the shards,
//! in tests a disk that loses and breaks what a disk may. [`recovery`] reads what is there back.
//!
//! # The rules
//! 1. One batch is on its way at a time, in one write and one sync; another one is filled
//!    meanwhile. So only the newest batch can be torn by a crash, and it is dropped whole. With
//!    `durability: async` syncs come apart from writes: then a power cut may tear any of the
//!    batches that were written since the last sync, and the log is cut before the first of them.
//!    Each batch says up to which one the log was durable when it was written, and a log at rest
//!    ends with one that says it of all: so damage is known from what was torn.
//! 2. A file is never synced again after an error: the batch, which is still in memory, is written
//!    to a fresh segment. When that fails too, storage is down, and says so, until a later try
//!    with another fresh segment succeeds.
//! 3. Segments are dropped oldest first, each after what is alive of it was copied behind the
//!    newest batch and that copy is durable, and after a durable batch says that it is not
//!    needed. So a record that takes a value out is never missing while one that put it in is
//!    still there.
//! 4. A batch that is broken and has a later one after it is damage: recovery names it and guesses
//!    nothing.
//! 5. Two segments are kept in reserve: on a full disk no new values are taken, but what takes
//!    values out and what makes room by copying still has somewhere to go.

#[cfg(feature = "runtime")]
pub mod backup;
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
pub mod key;
mod kind;
pub mod log;
pub mod places;
#[cfg(feature = "runtime")]
pub mod portable;
pub mod record;
pub mod recovery;
#[cfg(feature = "runtime")]
pub mod rewrite;
pub mod salvage;
#[cfg(feature = "runtime")]
pub mod store;
mod unsynced;
#[cfg(feature = "runtime")]
pub mod writer;

use places::Span;

/// What the log wants from whoever owns the files. Each is answered once, in order.
#[derive(Debug)]
pub enum StorageCommand {
    /// Make a segment of that many bytes ready, by allocating or reusing a file, so that writing to
    /// it needs no further room: [`Answer::SegmentReady`] or [`Answer::NoSegment`].
    Create {
        /// Its number.
        segment: u32,
        /// Its bytes.
        size: u64,
    },
    /// Write a batch at `offset` of its segment, and sync as `sync` says: [`Answer::Durable`], or
    /// [`Answer::Written`] if nothing is synced, or [`Answer::Failed`].
    Commit {
        /// The batch and its segment.
        stamp: frame::Stamp,
        /// Where in the segment, in bytes.
        offset: u64,
        /// The records.
        payload: Vec<u8>,
        /// What to sync.
        sync: Extent,
    },
    /// Sync what was written, while further commands are carried out: [`Answer::Synced`] or
    /// [`Answer::Unsynced`].
    Sync {
        /// The last batch that was written.
        batch: u64,
    },
    /// Read so many bytes of a segment to be cleaned: [`Answer::Slice`] or [`Answer::Unread`].
    Clean {
        /// The segment.
        segment: u32,
        /// From where, in bytes.
        offset: u64,
        /// How many, at most.
        length: usize,
    },
    /// Read records back that clients are to be sent: [`Answer::Bytes`].
    Read {
        /// Where they are, headers of frames in between included.
        spans: Vec<Span>,
    },
    /// Remove a segment, or keep its file for reuse, durably: [`Answer::Dropped`].
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
    /// Its own segment.
    Segment,
    /// First what older segments have that is not synced, then its own segment.
    Everything,
}

/// What became of a [`StorageCommand`]. In their order, but for those to [`StorageCommand::Sync`].
#[derive(Debug)]
pub enum Answer {
    /// The segment can be written.
    SegmentReady {
        /// Which.
        segment: u32,
    },
    /// It cannot be made: no room, or an error.
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
    /// Everything up to that batch survives a power cut.
    Synced {
        /// Which.
        batch: u64,
    },
    /// The sync failed; what of the files is on the disk is unknown.
    Unsynced {
        /// The batch of the command.
        batch: u64,
        /// Why.
        why: String,
    },
    /// Writing or syncing failed; what is in that file from its offset on is unknown.
    Failed {
        /// Which batch.
        batch: u64,
        /// The records, to be written elsewhere.
        payload: Vec<u8>,
        /// Why.
        why: String,
    },
    /// What was to be read.
    Slice {
        /// The segment.
        segment: u32,
        /// From where.
        offset: u64,
        /// The bytes; fewer than asked for only at the end of the file.
        bytes: Vec<u8>,
    },
    /// It cannot be read.
    Unread {
        /// The segment.
        segment: u32,
        /// Why.
        why: String,
    },
    /// What records were to be read back for; each as it was asked for.
    Bytes {
        /// The bytes of each span, or why it cannot be read.
        spans: Vec<Result<Vec<u8>, String>>,
    },
    /// The segment is gone; `Err` when it may not be.
    Dropped {
        /// Which.
        segment: u32,
        /// Why not, maybe.
        outcome: Result<(), String>,
    },
}
