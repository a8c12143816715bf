//! Mistakes in where messages go, and in which order.

macro_rules! routing {
    ([$($rest:ident)*] $($before:tt)*) => {
        mutants! { [$($rest)*] $($before)*
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
        // mesh, topic, time
        /// A shard that loses interest in a filter takes the other shards' bits with it.
        InterestClearsOthers,
        /// Control mail for a full mailbox is lost.
        ControlLostOnFull,
        /// A mailbox that a step has not emptied is not looked at again.
        MailboxForgotten,
        /// Of two mailboxes that were made to a shard since its last look, it gets only one.
        MailboxNotReceived,
        /// A wildcard shape goes out of use with one filter left.
        ShapeDroppedEarly,
        /// A replay's next slice begins with the last message of the one before.
        ReplayRepeatsCursor,
        /// Timers fire in the tick before their deadline.
        WheelEarly,
        /// A client that does not keep up loses what is newest.
        ShedsNewest,
        }
    };
}
