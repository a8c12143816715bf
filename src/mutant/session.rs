//! Mistakes in windows, queues and deliveries.

macro_rules! session {
    ([$($rest:ident)*] $($before:tt)*) => {
        mutants! { [$($rest)*] $($before)*
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
        /// A queue that stands is waited for past its high-water mark only.
        StandingIgnored,
        /// Only one of the connections that wait for room in a mailbox is woken.
        MailWaitersForgotten,
        }
    };
}
