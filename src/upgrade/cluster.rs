//! What a node of a cluster hands over to the process that takes its place in an upgrade: under the
//! same name and incarnation, the new process goes on with every stream to and from every other
//! node where the old one has stopped. Times are on the clock that both processes share.
//!
//! `cluster::node` says what is handed over and how the new process takes it in.

use super::code::{BodyReader, ByteString, Code, record};
use crate::message::Message;
use crate::time::Instant;

record! {
    /// A node.
    #[derive(Default)]
    pub struct MovedNode {
        /// Its name.
        pub name: Box<str>,
        /// Its incarnation, which goes on.
        pub incarnation: u64,
        /// The number of the last stream that it has begun.
        pub streams: u32,
        /// The last stamp of claims that it has given or seen.
        pub claim_stamp: u64,
        /// The last stamp of retained messages that it has given or seen.
        pub retained_stamp: u64,
        /// The number of its last question whether others know its filters.
        pub asked: u64,
        /// The newest format of frames that it has told the others it reads.
        pub newest: u8,
        /// The level that it has told.
        pub level: u8,
        /// Its filters, by their numbers.
        pub filters: Vec<Option<Box<str>>>,
        /// ClientIds that were accepted without every node's answer, with their claims' stamps.
        pub unanswered: Vec<(Box<str>, u64)>,
        /// Claims of other nodes that wait for their turn.
        pub waiting: Vec<MovedClaim>,
        /// Records for other nodes, by their numbers, that go behind the filters that those are
        /// still to be told.
        pub behind_filters: Vec<(u8, ByteString)>,
        /// Messages of share groups that are to go to another member, each with the number of the
        /// node that had not acknowledged it.
        pub unpassed: Vec<(u8, ByteString)>,
        /// The other nodes.
        pub peers: Vec<MovedPeer>,
        /// Will messages of runs that are over, of nodes that were given up or have restarted.
        pub ended: Vec<MovedRun>,
        /// Stored will messages that are no more their node's to publish.
        pub settled: Vec<MovedSettled>,
        /// With `durable`: what it knows of adoptions.
        pub adoption: Option<MovedAdoption>,
        /// What it has counted that only grows, by name.
        pub counted: Vec<(Box<str>, u64)>,
    }
}

record! {
    /// What a node with `durable` knows of lost nodes and of their sessions.
    #[derive(PartialEq, Eq, Default, Debug)]
    pub struct MovedAdoption {
        /// The incarnation under which its sessions can be adopted.
        pub incarnation: u64,
        /// Nodes that have been there.
        pub heard: Vec<Box<str>>,
        /// Until then, members that were not heard yet are not missing.
        pub late: Instant,
        /// Since when members are missing.
        pub missing: Vec<(Box<str>, Instant)>,
        /// Up to which incarnation nothing is left to adopt, by node.
        pub done: Vec<(Box<str>, u64)>,
        /// What is to be removed from this node's journals when that may be: shards, and the
        /// sequence number before which nothing is needed.
        pub held: Vec<(u8, u64)>,
        /// The sequence number of this node's lock when it was last read.
        pub lock_seen: u64,
        /// Nodes, by their numbers, that are down and whose sessions no node has adopted.
        pub lost: u32,
        /// The claims of late, from the oldest on.
        pub recent: Vec<MovedRecent>,
    }
}

record! {
    /// The last claim of a ClientId.
    #[derive(PartialEq, Eq, Debug)]
    pub struct MovedRecent {
        /// The ClientId.
        pub name: Box<str>,
        /// The claiming node.
        pub by: Box<str>,
        /// When it was made.
        pub at: Instant,
        /// Whether the client began anew at that node.
        pub anew: bool,
    }
}

record! {
    /// A stored will message that is no more its node's to publish.
    #[derive(PartialEq, Eq, Debug)]
    pub struct MovedSettled {
        /// The node's name.
        pub node: Box<str>,
        /// Its incarnation in the run that the will message is of.
        pub incarnation: u64,
        /// The ClientId.
        pub client: Box<str>,
        /// Since when it is so, while the node seems to be there.
        pub unsure: Option<Instant>,
    }
}

record! {
    /// A claim of another node that waits.
    pub struct MovedClaim {
        /// The number of the node.
        pub node: u8,
        /// The number of the claim.
        pub claim: u64,
        /// The ClientId.
        pub name: Box<str>,
        /// What the client wants of its session: 0 to 3, as in records between nodes.
        pub wanted: u8,
    }
}

record! {
    /// Another node as the node sees it.
    pub struct MovedPeer {
        /// Its number here.
        pub number: u8,
        /// Its name.
        pub name: Box<str>,
        /// Its incarnation.
        pub incarnation: u64,
        /// The newest format of frames that it has told that it reads.
        pub newest: u8,
        /// The level that it has told.
        pub level: u8,
        /// Since when it is down, if it is.
        pub down: Option<Instant>,
        /// It is down because it has ended.
        pub has_ended: bool,
        /// The number of the stream to it.
        pub stream: u32,
        /// The number of the stream from it.
        pub back: u32,
        /// Both ends of each lane.
        pub lanes: Vec<MovedLane>,
        /// How far it has been told the filters.
        pub telling: MovedTelling,
        /// The filters of its clients, by their numbers.
        pub filters: Vec<Option<Box<str>>>,
        /// The number of the snapshot of filters that is wanted of it.
        pub snapshot: u32,
        /// That snapshot has come.
        pub is_whole: bool,
        /// How far its clock is from this one, in milliseconds as a signed number.
        pub offset: Option<u64>,
        /// It may lack some retained messages.
        pub lacks_retained: bool,
        /// It has been told all will messages.
        pub knows_wills: bool,
        /// The will messages of its clients.
        pub wills: Option<MovedRun>,
        /// What was counted about it, by name.
        pub counted: Vec<(Box<str>, u64)>,
    }
}

record! {
    /// Both ends of a lane.
    pub struct MovedLane {
        /// The number of the first segment that the other node has not acknowledged.
        pub first: u64,
        /// The other node takes segments with numbers below this.
        pub until: u64,
        /// Segments that it has not acknowledged; the last one is open.
        pub segments: Vec<MovedSegment>,
        /// The number of the next segment from it.
        pub next: u64,
        /// What has come of it and was not taken yet.
        pub arrived: ByteString,
    }
}

record! {
    /// A segment.
    pub struct MovedSegment {
        /// Its bytes.
        pub bytes: ByteString,
        /// The number of records that end in it.
        pub records: u32,
        /// The number of bytes at its front that belong to a record of earlier segments.
        pub rest: u32,
    }
}

record! {
    /// How far another node has been told the filters.
    pub struct MovedTelling {
        /// The number of the snapshot, as the other node counts.
        pub snapshot: u32,
        /// Numbers below this have been told.
        pub next: u32,
        /// The end of the snapshot has been told.
        pub ended: bool,
        /// Told numbers that have changed since.
        pub changes: Vec<u32>,
    }
}

record! {
    /// The will messages of a run of another node.
    pub struct MovedRun {
        /// The node's name.
        pub node: Box<str>,
        /// Its incarnation in that run.
        pub incarnation: u64,
        /// Since when the run is over, if it is.
        pub over: Option<Instant>,
        /// The will messages.
        pub wills: Vec<MovedFarWill>,
    }
}

record! {
    /// A will message of another node's client.
    pub struct MovedFarWill {
        /// The ClientId.
        pub client: Box<str>,
        /// The stamp with which it was told.
        pub stamp: u64,
        /// The message.
        pub message: Message,
        /// Its delay in seconds after the end of the connection, where that is not known.
        pub after: u32,
        /// When it is due, where that is known.
        pub at: Option<Instant>,
        /// Its Message Expiry Interval in seconds.
        pub message_expiry: Option<u32>,
        /// Whether its node has stored it.
        pub stored: bool,
    }
}
