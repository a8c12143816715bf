//! Every bound in the broker, in one place, with the assertions between them. Owns nothing.

/// Most shards one broker runs: the width of a [`crate::ids::ShardSet`].
pub const MAX_SHARDS: usize = 128;
/// Largest Remaining Length a packet can declare, in bytes (MQTT 5.0 section 2.1.4).
pub const MAX_REMAINING_LENGTH: u32 = 268_435_455;
/// Most distinct wildcard shapes searched by hash; filters of further shapes go to the trie.
pub const MAX_SHAPES: usize = 48;
/// Most levels of a wildcard filter that a hashed shape can describe.
pub const MAX_SHAPE_LEVELS: usize = 32;
/// Most levels that `mqtt.max_topic_levels` may allow in a topic name or filter.
pub const MAX_TOPIC_LEVELS: usize = 1024;
/// Longest topic name or filter in bytes (a two-byte length on the wire).
pub const MAX_TOPIC_LENGTH: usize = 65_535;
/// Most listeners of one broker.
pub const MAX_LISTENERS: usize = 256;

/// The oldest kernel whose io_uring has everything the broker uses (DEFER_TASKRUN with SEND_FD).
pub const MINIMUM_KERNEL: (u32, u32) = (6, 1);

const _: () = assert!(MAX_LISTENERS <= u16::MAX as usize);
/// Data mails per ordered pair of shards.
pub const DATA_MAILBOX: usize = 256;
/// Control mails per ordered pair of shards.
pub const CONTROL_MAILBOX: usize = 1024;
/// Data mails taken from one mailbox in one step.
pub const DATA_ROUND: usize = 64;
/// Control mails taken from one mailbox in one step.
pub const CONTROL_ROUND: usize = 4096;

/// Packets and deliveries of one step after which clients wait for the next one: a few
/// milliseconds' worth. One receive and one message's own fan-out may exceed it.
pub const STEP_WORK: u32 = 16_384;
/// Bytes that are read from a client while its PUBLISHes wait, to find the acknowledgements behind
/// them. Only of clients that are crowded themselves, and so hold as much already.
pub const HELD_INPUT: usize = 1 << 20;

const _: () = assert!(MAX_SHARDS == u128::BITS as usize);
const _: () = assert!(MAX_SHAPE_LEVELS <= u32::BITS as usize);
