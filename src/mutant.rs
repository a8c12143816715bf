//! Deliberate mistakes, one at a time, to show that the simulation catches mistakes of their kind.
//!
//! Exists for the feature `mutants`, which only `tests/simulation` asks for. Without it
//! [`Mutant::is_on`] is a constant, and nothing of this reaches a binary. With it one number for
//! the whole process says which mistake is made: all threads of a simulation make the same one.
//! What catches each, and how soon, stands in `tests/simulation/mutants.tsv`.
#![allow(clippy::disallowed_types, reason = "one mistake for all threads of a simulation")]

macro_rules! mutants {
    ($(#[doc = $what:literal] $name:ident,)*) => {
        /// A mistake that the pure core can be told to make.
        #[derive(Clone, Copy, PartialEq, Eq)]
        #[repr(u16)]
        pub enum Mutant {
            $(#[doc = $what] $name,)*
        }

        #[cfg(feature = "mutants")]
        impl Mutant {
            /// Every mutant with its name and what it breaks.
            pub const ALL: &'static [(Mutant, &'static str, &'static str)] =
                &[$((Mutant::$name, stringify!($name), $what.trim_ascii()),)*];
        }
    };
}

mutants! {
    /// What was sent to another node and not acknowledged is not sent again.
    ClusterResendSkipped,
    /// A segment after a gap is taken as if it were the next one.
    ClusterGapTaken,
    /// A segment that comes again is taken again.
    ClusterDoubleTaken,
    /// A segment that is lacking is acknowledged.
    ClusterAcknowledgedEarly,
    /// A filter that changes after the snapshot is not told.
    ClusterChangeUntold,
    /// The window to a node that does not acknowledge grows without bound.
    ClusterWindowUnbounded,
    /// What came from one node is sent on to another.
    ClusterSentOn,
    /// A ClientId is not claimed from the other nodes.
    ClusterClaimUntold,
    /// A session is sent on before all nodes know of its new place.
    ClusterFenceSkipped,
    /// The holder of a session keeps it though it has arrived elsewhere.
    ClusterSessionKept,
    /// The queue of a session is sent twice.
    ClusterSessionTwice,
    // session
    /// The inflight window takes one message more than Receive Maximum.
    WindowTooWide,
    /// A QoS 2 identifier is free again at PUBREC instead of PUBCOMP.
    ReleasedAtPubRec,
    /// What was unacknowledged is sent again newest first.
    RedeliveryReversed,
    /// A reconnected client is not sent the PUBREL again.
    PubRelNotRepeated,
    /// A repeated QoS 2 PUBLISH is routed again.
    InboundTwice,
    /// PUBREL does not free the identifier of a received QoS 2 message.
    InboundKept,
    /// Flow state counts as idle while a QoS 2 message awaits PUBREL.
    FlowForgetsInbound,
    /// The pending queue holds one message more than its bound.
    PendingOverBound,
    /// Messages dropped as the oldest of a full queue are not counted.
    PendingDropUncounted,
    /// A client whose queue is full stays connected where the policy is to disconnect it.
    FullQueueTolerated,
    // shard: publishing and routing
    /// No PUBACK for a message that nobody subscribes to.
    PubAckSkipped,
    /// A message for a full mailbox is acknowledged and dropped; its publisher is not parked.
    DroppedOnFullMailbox,
    /// A topic alias keeps its first topic when it is set again.
    AliasKept,
    /// PUBCOMP only for identifiers that are known.
    PubCompSkipped,
    /// No Local is ignored where several filters match.
    NoLocalInOverlap,
    /// Only one Subscription Identifier where several filters match.
    OverlapLosesIdentifier,
    /// Where several filters match, the last one's QoS counts instead of the highest.
    OverlapLastQos,
    /// RETAIN stays set on live messages without Retain As Published.
    RetainAlwaysAsPublished,
    /// A large message overtakes the small ones batched for the same shard.
    LargeOvertakesBatch,
    /// Messages are accepted for mailboxes without room.
    RoomIgnored,
    // shard: delivery
    /// A redelivery is sent without DUP.
    DupForgotten,
    /// A message is sent past those that wait in the pending queue.
    OvertakesPending,
    /// QoS 0 is sent past the QoS 0 that waits in the pending queue.
    Qos0Overtakes,
    /// A queued message is sent although it exceeds the client's Maximum Packet Size.
    TooLargeFromQueue,
    /// A message too large for its client is counted as expired.
    WrongDropReason,
    /// QoS 0 that is shed for a slow client is not counted.
    ShedUncounted,
    /// QoS 0 for a client that is offline is not counted as dropped.
    OfflineUncounted,
    /// A queued message is sent after its Message Expiry Interval.
    ExpiredSent,
    /// Message Expiry Interval is not passed on from the queue.
    ExpiryNotPassedOn,
    /// A packet with a topic alias is kept as the encoding for other subscribers.
    AliasInSharedEncoding,
    /// A packet with a Subscription Identifier is kept as the encoding for other subscribers.
    IdentifierInSharedEncoding,
    /// Sending from the queue stops at a message that was dropped.
    StallAfterDrop,
    /// A client that has caught up reading its answers is not read again.
    UnreadNotWoken,
    /// Publishers of another shard are not told that their subscriber has caught up.
    ParkedNotWoken,
    /// The acknowledgements of a client that is parked wait behind what it has published.
    HeldAnswersUnread,
    /// A publisher waits for every crowded subscriber, not only for its main reader.
    MainReaderIgnored,
    /// What a publisher has waited in vain is not taken from any budget.
    VainWaitsFree,
    /// A publisher waits as long as its main reader is crowded, also when that reads nothing.
    WaitsNeverEnd,
    /// Only one of the connections that wait for room in a mailbox is woken.
    MailWaitersForgotten,
    // shard: subscriptions, share groups, retained messages
    /// SUBACK before the share group's home shard routes.
    SubAckBeforeJoined,
    /// A share group's answer to an earlier connection completes the SUBACK of a later one.
    JoinTicketIgnored,
    /// A repeated SUBSCRIBE does not replace the subscription.
    ResubscribeIgnored,
    /// UNSUBSCRIBE leaves the entry in the index.
    RouteLeftBehind,
    /// The last subscriber's shard stays in the interest table.
    InterestNotWithdrawn,
    /// Other shards are not told of a share group's filter.
    InterestNotAnnounced,
    /// The subscriber that takes over a position in a filter's list is not told.
    PlaceNotMoved,
    /// Retain Handling 1 sends retained messages again for a known subscription.
    SendIfNewAlways,
    /// A message for a share group goes to its local member twice.
    ShareTwice,
    /// A session that ends stays a member of its share groups.
    ShareDeadMember,
    /// A message that a member refused goes to nobody.
    ShareUndeliveredLost,
    /// What a session leaves to its share groups is lost.
    ShareReturnedLost,
    /// What a session leaves to its share groups comes back to them twice.
    ShareReturnedTwice,
    /// QoS 2 that a session was sent goes to another member when the session ends.
    ShareQos2Moves,
    /// A member whose queue is full keeps messages that others could take.
    ShareFullKeeps,
    /// A member that connects again still counts as disconnected in its share groups.
    PresenceStale,
    /// An empty payload does not clear the retained message.
    RetainedNotCleared,
    /// An older retained message stays when a newer one comes.
    RetainedNotReplaced,
    /// A replay ends after its first slice.
    ReplayTruncated,
    /// A replay does not wait for data mail that was there before it.
    ReplayOvertakesMail,
    /// A replay brings a message that is older than one sent live meanwhile.
    ReplayStale,
    /// A replay does not wait for a message that is still being delivered to many.
    ReplayOvertakesFanout,
    // order between shards
    /// Input is handled before the mail that was there earlier.
    MailAfterInput,
    /// Mail is looked at before the kernel has reported what clients have sent.
    MailBeforeHarvest,
    /// Acknowledgements go out before the mail is in the mailboxes.
    ActsBeforeCarry,
    /// Mail is taken from one mailbox after the other, whatever is older.
    MergeByNumber,
    /// SUBSCRIBE does not wait for mail that a step had no time for.
    SubscribeOvertakesMail,
    /// A batch that was too much for one step is gone on with after what came later.
    ResumedOutOfOrder,
    // shard: connections, wills, time
    /// The will is sent after an orderly DISCONNECT.
    WillAfterDisconnect,
    /// A takeover loses the will.
    WillLostOnTakeover,
    /// A will is sent when the connection ends and again when the session does.
    WillTwice,
    /// Will Delay Interval is ignored.
    WillDelayIgnored,
    /// A client that is back within the will's delay keeps it.
    WillNotCancelled,
    /// Sessions do not expire.
    SessionNeverExpires,
    /// Sessions expire after half of their time.
    SessionExpiresEarly,
    /// Session Expiry Interval in DISCONNECT is ignored.
    DisconnectExpiryIgnored,
    /// A client that leaves on its way between shards stays counted.
    EntranceLeaked,
    /// A client whose socket cannot be moved to its home at once is closed without an answer.
    HandOverGivenUp,
    /// A client that has waited too long for its home is closed without an answer.
    BusyUntold,
    /// A client that gave up while it waited for its home still takes its session over.
    LeftStillHandedOver,
    /// What waits for a socket that never arrives waits for ever.
    LostHandOverKept,
    /// A socket that never arrives is not counted as lost.
    LostHandOverUncounted,
    /// A client beyond a limit is closed before its CONNECT.
    DeniedUntold,
    /// Input before CONNECT may grow without bound.
    ConnectUnbounded,
    /// The place of a closed connection is not given back.
    SlotLeaked,
    /// Identifiers begin anew although messages are repeated on the connection.
    RetryForgetsIdentifiers,
    /// A takeover drops what was in flight and pending.
    PendingLostOnTakeover,
    /// A client whose session is taken over is not told.
    TakeoverUntold,
    /// A takeover leaves the old connection open.
    TakeoverKeepsOld,
    /// A clean start resumes the old session.
    CleanStartResumes,
    /// The client's own Receive Maximum is ignored.
    ReceiveMaximumIgnored,
    /// A silent client stays connected.
    KeepAliveIgnored,
    /// A silent client is disconnected at one Keep Alive instead of one and a half.
    KeepAliveHasty,
    /// Single bytes of an unfinished packet keep a connection alive.
    BytesKeepAlive,
    /// A large packet over a slow link does not count as being heard before all of it has come.
    ProgressNotCounted,
    /// The subscriptions of a mosquitto bridge get its own messages back.
    BridgeBitIgnored,
    /// Expired messages hold their places in a full pending queue.
    ExpiredHoldPlaces,
    /// Expired messages stay in the queue of a client that is away.
    ExpiredNotSwept,
    /// A replay of retained messages ends with the connection.
    ReplayNotInherited,
    /// Clients count as silent although what they sent lies unread in the kernel.
    UnheardJudged,
    /// No client counts as silent while more is sent than the shard takes in.
    UnheardForEver,
    /// Clients count as silent while what they sent waits for somebody else.
    HeldJudged,
    /// MQTT 3.1.1 clients stay on the shard that accepted them.
    PlacementIgnored,
    // work in slices
    /// A fan-out ends with the step that it began in.
    FanoutForgetsRest,
    /// A fan-out delivered out of turn is delivered again with the next one.
    FanoutTwice,
    /// Something newer is delivered to a session before the fan-outs that are on their way to it.
    FanoutOvertaken,
    /// A session counts as caught up with a fan-out that has not begun.
    FanoutCaughtEarly,
    /// A request of many filters ends with its first slice.
    TaskForgetsRest,
    /// A step goes on until nothing is left to do, whatever it costs.
    BudgetIgnored,
    /// Mail has its whole share of the step at each of the step's looks at it.
    MailShareFresh,
    /// A shard is sent messages however much work it has ahead of it.
    MailAheadIgnored,
    /// A shard is sent costly messages however many are on their way.
    CostlyMailUnbounded,
    /// What is reserved for a costly message stays reserved when it is done.
    CostlyMailKept,
    // memory
    /// No limit on memory changes anything.
    MemoryLimitIgnored,
    /// Pending queues get longer although memory is short.
    MemoryQueuesGrow,
    /// QoS 0 goes to clients that do not read although memory is short.
    MemoryOutputGrows,
    /// New clients are let in although memory is short.
    MemoryConnectTaken,
    /// Messages are retained although memory is short.
    MemoryRetainedTaken,
    /// Subscriptions are granted although memory is short.
    MemorySubscribeTaken,
    /// Messages are taken although memory is full.
    MemoryPublishTaken,
    /// Messages are lost as soon as memory is full: publishers do not wait for it.
    MemoryFullAtOnce,
    /// Publishers that wait for memory never go on.
    MemoryWaitersForgotten,
    /// Clients that do not read are not ended although memory is short.
    MemoryStalledKept,
    /// Unfinished CONNECTs are kept although memory is short.
    MemoryUnfinishedKept,
    /// A publisher is told of success although nobody could take its message for want of memory.
    MemoryLossUntold,
    /// What ends a shortage of memory is what begins it.
    MemoryHysteresisMissing,
    /// What a shard holds is told to the others twice.
    MemoryToldTwice,
    /// The input of a connection that ends stays counted.
    MemoryInputLeaked,
    /// Windows and queues that are given back stay counted.
    MemoryFlowsLeaked,
    /// The names of topic aliases may take any memory.
    AliasesUnbounded,
    /// Who asks for little waits behind everybody who asks for much.
    FreshBehindServed,
    /// Who has had a turn has no other while anybody comes for a first one.
    ServedStarve,
    // access
    /// Any number of clients may prove themselves at a time.
    AdmissionsUnbounded,
    /// The verdict about a client that gave up is taken for the next one with its socket.
    StaleVerdictTaken,
    /// A client whose proof is never looked at waits for ever.
    AdmissionForever,
    /// The will is not asked about.
    WillUnchecked,
    /// An admission that has expired goes on.
    ExpiryIgnored,
    /// Decisions are remembered across a change of the rules.
    DecisionsKept,
    /// Subscriptions that a reload does not allow any more go on.
    ReloadNotApplied,
    /// A message that may not be published is published.
    DeniedPublished,
    /// A message is published while a service is still asked whether it may be.
    UnansweredPublished,
    /// A service is not asked about the filters of a long SUBSCRIBE.
    LongSubscribeUnasked,
    /// A user whose password a reload has changed stays connected.
    ChangedUserStays,
    /// A subscription that is not allowed is made.
    DeniedSubscribed,
    /// What a client may not read is delivered to it.
    DeniedDelivered,
    /// Logins are remembered across a reload.
    LoginsKept,
    /// Who has shown a right password lately is let in with any.
    LoginOfAnyPassword,
    // storage
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
    /// A message on disk that several sessions wait for is gone with the first.
    StorageAwayForgotten,
    /// What is read for a client is not compared with what was stored.
    StorageReadUnchecked,
    /// A read for a client that has failed is not tried again.
    StorageReadGivenUp,
    // mesh, topic, time
    /// A shard that loses interest in a filter takes the other shards' bits with it.
    InterestClearsOthers,
    /// Control mail for a full mailbox is lost.
    ControlLostOnFull,
    /// A wildcard shape goes out of use with one filter left.
    ShapeDroppedEarly,
    /// A replay's next slice begins with the last message of the one before.
    ReplayRepeatsCursor,
    /// Timers fire in the tick before their deadline.
    WheelEarly,
    /// A client that does not keep up loses what is newest.
    ShedsNewest,
    // overload, limits and bans
    /// A level of overload ends as soon as its signal is below what begins it.
    OverloadHysteresisMissing,
    /// Connections are accepted faster than the pace that was found.
    OverloadPaceIgnored,
    /// Accepts that were held do not go on.
    OverloadAcceptsHeld,
    /// New clients are taken in at a level that refuses them.
    OverloadConnectTaken,
    /// QoS 1 is dropped at the level that drops QoS 0.
    OverloadShedsAcknowledged,
    /// Subscriptions and retained messages are taken at the level that refuses them.
    OverloadStores,
    /// A client's rate is not looked at.
    RateIgnored,
    /// Who waits for its rate never goes on.
    RateWaitersForgotten,
    /// Limits stay in the table when their session has ended.
    LimitsForgotten,
    /// A connection that ends still counts for its user.
    UserNotLeft,
    /// A connection that ends still counts for its address.
    AddressNotLeft,
    /// Who is banned may connect.
    BanIgnored,
    /// A ban does not end.
    BanForever,
    /// What leads to a ban is counted without a window.
    BanWindowForever,
    // transport
    /// The mask of a frame begins anew with each piece of its payload.
    MaskBeginsAnew,
    /// A socket goes to its home while a send is in flight on it.
    MovedWhileSending,
    /// What carries a client's MQTT is forgotten on its way to its home.
    LayersLeftBehind,
    /// The memory of layers is not counted down when their connection ends.
    LayersLeaked,
    /// Two records have one number under one key.
    TlsSequenceKept,
    /// A client's KeyUpdate does not change the key of what comes after it.
    TlsUpdateIgnored,
    /// The part of a record that has come is forgotten.
    TlsPartForgotten,
    /// A connection ends without close_notify.
    TlsCloseUnsaid,
    /// What comes glued to the end of a handshake is lost.
    TlsRestLost,
    /// A ticket is good whatever its listener trusts by now.
    TicketForAll,
    /// Live clients whose certificates are revoked go on.
    RevokedKept,
    /// Any number of handshakes may be under way.
    HandshakesUnbounded,
    /// A handshake that stands still keeps its place while others wait.
    StillNotShed,
    /// What layers have still to send is lost on the way to the home shard.
    WireLeftBehind,
    /// What comes behind a PROXY header in one piece is lost.
    ProxyRestLost,
    /// The bytes of a header that was not whole are not counted down when it is.
    HeaderLeaked,
    // inquiries
    /// A slice of a list of clients leaves out the one that the next begins with.
    InquirySliceSkips,
    /// What a bridge brings does not wait for mail that was there before it.
    SubmissionOvertakesMail,
    /// A client that is to be ended is only disconnected.
    KickKeepsSession,
    /// What is explained forgets No Local.
    ExplainForgetsNoLocal,
    // those who watch
    /// A message that several clients get is traced for none of them.
    TraceForgetsFanOut,
    /// Events of one step come the newest first.
    EventsReversed,
    /// A trace that begins here is not told to who gets the message.
    TraceNotPassedOn,
    /// A sampled message that is dropped leaves no span.
    SpansForgetDrops,
    /// A sampled message that is held begins anew when it is tried again.
    SpanForgetsWait,
    /// What is dropped is counted for no client.
    DropsOfNobody,
    // links
    /// A link gives its newest messages first.
    LinkReorders,
    /// What a full link loses is not counted.
    LinkLossUncounted,
    /// A link takes in any amount.
    LinkUnbounded,
    /// A link takes what its owner has published.
    LinkTakesOwn,
    // upgrade
    /// A client that is handed over loses what was received of it and not processed.
    UpgradeInputLost,
    /// A client that is handed over loses what was not sent to it.
    UpgradeOutputLost,
    /// A client that is handed over loses its inflight window.
    UpgradeWindowLost,
    /// The part of a send that was withdrawn is lost.
    UpgradeRestLost,
    /// Bans are not handed over.
    UpgradeBansLost,
    /// A client that is handed over loses its will.
    UpgradeWillLost,
    /// Nobody looks any more whether a client that is handed over is alive.
    UpgradeKeepAliveLost,
    /// A client that is handed over is in its share groups no more.
    UpgradeShareLost,
    /// Subscriptions that are handed over lose their options and identifiers.
    UpgradeOptionsLost,
    /// Retained messages are not handed over.
    UpgradeRetainedLost,
    /// Sessions without a connection are not handed over.
    UpgradeOfflineLost,
    /// A session without a connection that is handed over does not expire.
    UpgradeExpiryLost,
    /// Which QoS 2 messages a client has sent and not released is not handed over.
    UpgradeInboundLost,
    /// Messages that wait for a client are not handed over.
    UpgradePendingLost,
    /// Topic aliases are not handed over.
    UpgradeAliasLost,
    /// Records of TLS are numbered anew after a hand-over.
    UpgradeSequenceLost,
    /// A stored session that is handed over is not known to be stored.
    UpgradeStoredLost,
    /// Stored messages that are handed over are not known to be stored.
    UpgradeSlotLost,
    /// Messages that are in the store only are not handed over.
    UpgradeAwayLost,
    /// A store is changed by the process that takes it over before that serves.
    StorageHeldChanges,
}

#[cfg(not(feature = "mutants"))]
impl Mutant {
    /// Whether this mistake is being made.
    #[inline(always)]
    pub const fn is_on(self) -> bool {
        false
    }
}

// Known to the compiler, so that the branches are gone.
#[cfg(not(feature = "mutants"))]
const _: () = assert!(!Mutant::WheelEarly.is_on());

#[cfg(feature = "mutants")]
mod active {
    use super::Mutant;
    use std::sync::atomic::{AtomicU16, Ordering};

    /// The mutant's number and one; 0 for none.
    static ACTIVE: AtomicU16 = AtomicU16::new(0);

    impl Mutant {
        /// Whether this mistake is being made.
        #[inline]
        pub fn is_on(self) -> bool {
            ACTIVE.load(Ordering::Relaxed) == self as u16 + 1
        }

        /// Makes the whole process make this mistake, or none, from now on.
        pub fn activate(mutant: Option<Mutant>) {
            ACTIVE.store(mutant.map_or(0, |mutant| mutant as u16 + 1), Ordering::SeqCst);
        }
    }
}
