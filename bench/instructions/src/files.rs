//! The owner of a log's files, without a disk: what is written is kept in memory. Every command is
//! answered at once, so that the log's batches are durable at the next step. It does as little as
//! it can, because what it does is counted, too: nothing is framed, checksummed or copied when it
//! is written.

use ringmq::ids::ShardId;
use ringmq::shard::Storing;
use ringmq::storage::frame::HEADER;
use ringmq::storage::log::{Log, LogBounds, RecoveredLog};
use ringmq::storage::places::SegmentRange;
use ringmq::storage::record::StoreSecret;
use ringmq::storage::{StorageAnswer, StorageCommand};
use std::collections::BTreeMap;

const SECRET: StoreSecret = StoreSecret([3, 4]);
/// One segment takes everything, and nothing is cleaned. What waits for clients that are not
/// connected is on the disk only, as on a broker that has many of them.
const BOUNDS: LogBounds = LogBounds { segment: 1 << 30, heads: 0, ..LogBounds::BROKER };

#[derive(Default)]
pub struct Files {
    /// The batches, by segment and first byte.
    batches: BTreeMap<(u32, u64), Vec<u8>>,
    pub answers: Vec<StorageAnswer>,
}

/// What a shard needs that stores.
pub fn storing(own: ShardId, shards: u8) -> Storing {
    let log = Log::new(7, SECRET, BOUNDS, RecoveredLog::default());
    Storing::new(log, SECRET, (own, shards), 1_000_000, (0, 0))
}

impl Files {
    pub fn obey(&mut self, command: StorageCommand) {
        self.answers.push(match command {
            StorageCommand::Create { segment, .. } => StorageAnswer::SegmentReady { segment },
            StorageCommand::Commit { stamp, offset, payload, .. } => {
                // The log gets a buffer back, as from a thread.
                let buffer = Vec::with_capacity(payload.capacity());
                self.batches.insert((stamp.segment, offset), payload);
                StorageAnswer::Durable { batch: stamp.batch, payload: buffer }
            }
            StorageCommand::Read { spans } => {
                let spans = spans.into_iter().map(|span| Ok(self.read(span))).collect();
                StorageAnswer::Bytes { spans }
            }
            other => panic!("a log of one segment asks for {other:?}"),
        });
    }

    fn read(&self, SegmentRange { segment, offset, length }: SegmentRange) -> Vec<u8> {
        let before = self.batches.range(..=(segment, offset)).next_back();
        let (&(_, start), payload) = before.expect("it was written");
        let from = (offset - start) as usize - HEADER;
        payload[from..from + length].to_vec()
    }
}
