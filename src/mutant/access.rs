//! Mistakes in access control, and in the layers below MQTT.

macro_rules! access {
    ([$($rest:ident)*] $($before:tt)*) => {
        mutants! { [$($rest)*] $($before)*
        // access
        /// Any number of clients may prove themselves at a time.
        AdmissionsUnbounded,
        /// The verdict about a client that gave up is taken for the next one with its socket.
        StaleVerdictTaken,
        /// A client whose proof is never looked at waits for ever.
        AdmissionForever,
        /// More is retained for some clients than their bound.
        AccountUnbounded,
        /// What is retained no more counts for its publishers' bound still.
        AccountKept,
        /// A will that is retained counts for nobody's bound.
        AccountOfWillLost,
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
        }
    };
}
