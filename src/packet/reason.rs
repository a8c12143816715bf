//! Reason codes (MQTT 5.0 section 2.4), and the return codes of MQTT 3 that stand for them.

macro_rules! reason_codes {
    ($($(#[$doc:meta])* $name:ident = $value:literal,)*) => {
        /// Why something ended as it did (MQTT 5.0 section 2.4). From 0x80 on it is a failure.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
        #[repr(u8)]
        pub enum ReasonCode {
            $($(#[$doc])* $name = $value,)*
        }

        impl ReasonCode {
            /// The code for a byte on the wire; `None` when section 2.4 does not list it.
            #[inline]
            pub const fn from_u8(value: u8) -> Option<ReasonCode> {
                match value {
                    $($value => Some(ReasonCode::$name),)*
                    _ => None,
                }
            }

            /// Every code, lowest first.
            pub const ALL: &'static [ReasonCode] = &[$(ReasonCode::$name,)*];

            /// The code's name, for log fields and metric labels.
            pub const fn name(self) -> &'static str {
                match self {
                    $(ReasonCode::$name => stringify!($name),)*
                }
            }
        }
    };
}

reason_codes! {
    /// Success; also Normal disconnection and Granted QoS 0.
    Success = 0x00,
    /// The subscription was accepted with at most QoS 1.
    GrantedQos1 = 0x01,
    /// The subscription was accepted with at most QoS 2.
    GrantedQos2 = 0x02,
    /// The client disconnects and wants its will message published.
    DisconnectWithWill = 0x04,
    /// The message was accepted and nobody subscribes to it.
    NoMatchingSubscribers = 0x10,
    /// There was no such subscription to end.
    NoSubscriptionExisted = 0x11,
    /// Go on with the authentication exchange.
    ContinueAuthentication = 0x18,
    /// Start a re-authentication.
    ReAuthenticate = 0x19,
    /// The sender does not say why.
    UnspecifiedError = 0x80,
    /// A packet cannot be parsed according to the specification.
    MalformedPacket = 0x81,
    /// A packet, or a value in it, is not allowed here.
    ProtocolError = 0x82,
    /// Valid, but not accepted by this implementation.
    ImplementationSpecificError = 0x83,
    /// The protocol level is not one this server speaks.
    UnsupportedProtocolVersion = 0x84,
    /// The ClientId is valid UTF-8 and not allowed.
    ClientIdentifierNotValid = 0x85,
    /// User name or password not accepted.
    BadUserNameOrPassword = 0x86,
    /// The client may not do this.
    NotAuthorized = 0x87,
    /// The server is not available.
    ServerUnavailable = 0x88,
    /// The server is busy; try again later.
    ServerBusy = 0x89,
    /// Banned by an administrator.
    Banned = 0x8A,
    /// The server is shutting down.
    ServerShuttingDown = 0x8B,
    /// The authentication method is not supported, or not the current one.
    BadAuthenticationMethod = 0x8C,
    /// Nothing was received for one and a half times the keep alive time.
    KeepAliveTimeout = 0x8D,
    /// Another connection with the same ClientId took the session over.
    SessionTakenOver = 0x8E,
    /// The topic filter is not accepted.
    TopicFilterInvalid = 0x8F,
    /// The topic name is not accepted.
    TopicNameInvalid = 0x90,
    /// The packet identifier is already in use.
    PacketIdentifierInUse = 0x91,
    /// The packet identifier is not known.
    PacketIdentifierNotFound = 0x92,
    /// More unacknowledged QoS 1 and 2 messages than the Receive Maximum.
    ReceiveMaximumExceeded = 0x93,
    /// A topic alias of 0, above the maximum, or not yet set.
    TopicAliasInvalid = 0x94,
    /// The packet is larger than the receiver's Maximum Packet Size.
    PacketTooLarge = 0x95,
    /// Messages arrive too fast.
    MessageRateTooHigh = 0x96,
    /// An implementation's or an administrator's limit is exceeded.
    QuotaExceeded = 0x97,
    /// An administrator did it.
    AdministrativeAction = 0x98,
    /// The payload does not match its Payload Format Indicator.
    PayloadFormatInvalid = 0x99,
    /// The server does not keep retained messages.
    RetainNotSupported = 0x9A,
    /// The QoS is above the server's Maximum QoS.
    QosNotSupported = 0x9B,
    /// Use another server for now.
    UseAnotherServer = 0x9C,
    /// Use another server from now on.
    ServerMoved = 0x9D,
    /// The server does not support shared subscriptions here.
    SharedSubscriptionsNotSupported = 0x9E,
    /// Connections are being made too fast.
    ConnectionRateExceeded = 0x9F,
    /// The connection has lived as long as it may.
    MaximumConnectTime = 0xA0,
    /// The server does not support subscription identifiers.
    SubscriptionIdentifiersNotSupported = 0xA1,
    /// The server does not support wildcard subscriptions.
    WildcardSubscriptionsNotSupported = 0xA2,
}

impl ReasonCode {
    /// True from 0x80 on.
    #[inline]
    pub const fn is_failure(self) -> bool {
        self as u8 >= 0x80
    }

    /// The CONNACK return code of MQTT 3.1 and 3.1.1 (3.1.1 section 3.2.2.3) that comes nearest: 0
    /// for success, otherwise 1 to 5. Reasons for which version 3 has no code become 3, "Server
    /// unavailable", because that is the one refusal after which a client should try again.
    pub const fn connect_return_code_v3(self) -> u8 {
        match self {
            code if !code.is_failure() => 0,
            ReasonCode::UnsupportedProtocolVersion => 1,
            ReasonCode::ClientIdentifierNotValid => 2,
            ReasonCode::BadUserNameOrPassword | ReasonCode::BadAuthenticationMethod => 4,
            ReasonCode::NotAuthorized | ReasonCode::Banned => 5,
            _ => 3,
        }
    }

    /// The reason code for a CONNACK return code of version 3; `None` above 5.
    pub const fn from_connect_return_code_v3(code: u8) -> Option<ReasonCode> {
        Some(match code {
            0 => ReasonCode::Success,
            1 => ReasonCode::UnsupportedProtocolVersion,
            2 => ReasonCode::ClientIdentifierNotValid,
            3 => ReasonCode::ServerUnavailable,
            4 => ReasonCode::BadUserNameOrPassword,
            5 => ReasonCode::NotAuthorized,
            _ => return None,
        })
    }
}
