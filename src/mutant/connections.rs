//! Mistakes in connections, wills and timers, and in the limits of clients.

macro_rules! connections {
    ([$($rest:ident)*] $($before:tt)*) => {
        mutants! { [$($rest)*] $($before)*
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
        }
    };
}
