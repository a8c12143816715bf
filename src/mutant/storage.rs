//! Mistakes in what survives a restart.

macro_rules! storage {
    ([$($rest:ident)*] $($before:tt)*) => {
        mutants! { [$($rest)*] $($before)*
        /// A segment that took no commit takes the same one again.
        StorageSyncsAgain,
        /// The oldest segment is removed before what says that it is not needed is durable.
        StorageDropsEarly,
        /// What is alive in a segment that is cleaned is not copied.
        StorageLiveNotCopied,
        /// What is dead in a segment that is cleaned is copied.
        StorageDeadCopied,
        /// A batch that says what is needed names too late a one.
        StorageNeedsTooMuch,
        /// A batch written while a segment is being removed says that the segment is needed.
        StorageNeedsDropped,
        /// A batch larger than what cleaning reads at a time is never read.
        StorageCleanerWedged,
        /// Recovery takes damage for the end of the log.
        StorageDamageTolerated,
        /// A client is told before what it is told is durable.
        StorageToldEarly,
        /// A client is told of what it said last when what it said before is durable.
        StoragePartEarly,
        /// A client is told nothing before all that it has said is durable.
        StorageAnsweredTogether,
        /// A publisher does not wait for what other shards have to store of its message.
        StorageRemoteUnwaited,
        /// Messages that wait for a client are not stored.
        StorageQueueForgotten,
        /// That PUBREC came for a message is not stored.
        StorageReleaseForgotten,
        /// The end of a session is not stored.
        StorageEndForgotten,
        /// What a session subscribes to is not stored.
        StorageSubscriptionForgotten,
        /// A file that a commit or a sync failed on is used again.
        StorageBadReused,
        /// A batch does not say how many before it are not synced yet.
        StorageUnsyncedUntold,
        /// With async, nothing is ever synced.
        StorageNeverSynced,
        /// What a failed sync may have lost is not written again.
        StorageUnsyncedLost,
        /// With async, a client is told before what it is told is written.
        StorageWrittenEarly,
        /// With degrade, publishers wait for a disk that fails.
        StorageNeverDegraded,
        /// What is acknowledged while degraded is not written when the disk works again.
        StorageDegradedLost,
        /// Messages are taken while the disk fails.
        StorageDownTaken,
        /// Wills are not stored.
        StorageWillForgotten,
        /// That a will was sent is not stored.
        StorageWillKept,
        /// Publishers that waited for storage never go on.
        StorageWaitersForgotten,
        /// With async, nothing says that the last batches of a log at rest are durable.
        StorageMarkForgotten,
        /// With degrade, messages are refused until the log has its next turn.
        StorageDegradedLate,
        /// A publisher does not wait for a fan-out that goes on in later steps.
        StorageFanOutUnwaited,
        /// What a share group takes back from a session that ended is stored no more.
        StorageReturnForgotten,
        /// What comes to a queue with a tail on disk goes before that.
        StorageAwayOvertaken,
        /// However many clients are offline, the first messages for each stay in memory.
        StorageHeadsUnbounded,
        /// A message on disk that several sessions wait for is gone with the first.
        StorageAwayForgotten,
        /// What is read for a client is not compared with what was stored.
        StorageReadUnchecked,
        /// A read for a client that has failed is not tried again.
        StorageReadGivenUp,
        /// Subscriptions of a session that ended are stored for ever.
        StorageLeftKept,
        /// Listeners open while some shards are still putting back what was stored.
        StorageListensEarly,
        /// Listeners open before share groups on other shards have their members again.
        StorageRejoiningUnawaited,
        /// Wills and messages of share groups go out while other shards put back what was stored.
        StorageSentEarly,
        }
    };
}
