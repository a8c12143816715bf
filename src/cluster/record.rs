//! Records: what the lanes between two nodes carry.
//!
//! A filter is told with its number at the node that has it, so that the number alone suffices to
//! take the filter back. A record about a number replaces the earlier one about that number, so
//! telling everything again leaves no moment without a filter. Times are on the sender's clock
//! ([`super::clock`]).

use super::frame::is_name;
use super::lane::{Lane, Malformed};
use crate::limits::{CLUSTER_FILTERS, CLUSTER_HOPS, MAX_TOPIC_LEVELS};
use crate::mesh::mail::PassedFor;
use crate::mesh::moves::{SessionDemand, WillDue};
use crate::message::{MessageRef, Retain};
use crate::packet::{PublishProperties, Qos};
use crate::time::Instant;
use crate::topic;

const MESSAGE: u8 = 1;
const FILTER: u8 = 2;
const NO_FILTER: u8 = 3;
const ALL_FILTERS: u8 = 4;
const CLAIM: u8 = 5;
const ANSWER: u8 = 6;
const SESSION: u8 = 7;
const PART: u8 = 8;
const FENCE: u8 = 9;
const FENCED: u8 = 10;
const SETTLED: u8 = 11;
const STAMPED: u8 = 12;
const RETAINED: u8 = 13;
const ASK: u8 = 14;
const KNOWN: u8 = 15;
const PASSED: u8 = 16;
const WILL: u8 = 17;
const NO_WILL: u8 = 18;
const NO_WILLS: u8 = 19;
const WILL_SENT: u8 = 20;
const ADOPTED: u8 = 21;
const STORED_WILL: u8 = 22;
const OWED: u8 = 23;

const RETAIN: u8 = 4;
const EXPIRES: u8 = 8;
const UNKNOWN: u8 = !(3 | RETAIN | EXPIRES);

/// What one node tells another node.
#[derive(Clone, Copy, Debug)]
pub enum NodeRecord<'a> {
    /// A publication for the subscribers at the receiver. Its expiry is on the sender's clock.
    Message(MessageRef<'a>),
    /// A publication with its stamp that all nodes retain, unless they have a newer one.
    Stamped(u64, MessageRef<'a>),
    /// A retained message of the sender with its stamp, not for present subscribers. Without a
    /// payload, its topic was cleared.
    Retained(u64, MessageRef<'a>),
    /// A publication for one share group.
    Passed(PassedRef<'a>),
    /// A filter that a client of the sender wants, with its number. With `$share/GROUP/` before the
    /// filter, the share group has members at the sender.
    Filter(u32, &'a str),
    /// The filter with this number is wanted no more.
    NoFilter(u32),
    /// All filters with numbers below the first value have been told, and there are none from it
    /// on: the end of the snapshot with the second number.
    AllFilters(u32, u32),
    /// A client has connected to the sender. The claim's number, its stamp, what is wanted of the
    /// session, and the ClientId.
    Claim(u64, u64, SessionDemand, &'a str),
    /// The sender's answer to the claim with this number.
    Answer(u64, ClaimVerdict),
    /// The subscriptions of the session that the claim with this number is for.
    Session(u64, &'a [u8]),
    /// Filters of the session whose retained messages its client is still owed.
    Owed(u64, &'a [u8]),
    /// A part of the session's in-flight window and queue; true for the last part.
    Part(u64, bool, &'a [u8]),
    /// The subscriptions that came with the sender's claim are among the filters that the sender
    /// has told. The named node, which has the session, is to be told when the receiver's messages
    /// that match them go to the sender, too.
    Fence(u64, &'a str),
    /// From here on the sender's messages also go to the named node, if the session of that node's
    /// claim with this number wants them.
    Fenced(u64, &'a str),
    /// The sender has the session, or does not want it.
    Settled(u64),
    /// A question: the receiver is to answer when it knows everything that was told before.
    Ask(u64),
    /// An answer: everything that was told before the question with this number is known.
    Known(u64),
    /// The will message of a client of the sender.
    Will(WillRef<'a>),
    /// The same, of a session that the sender has stored, with its will message.
    StoredWill(WillRef<'a>),
    /// The client with this ClientId has no will message any more.
    NoWill(&'a str),
    /// All will messages that were told before are void; those that still apply follow.
    NoWills,
    /// The sender has published a will message: the incarnation and the name of the client's node,
    /// and the ClientId.
    WillSent(u64, &'a str, &'a str),
    /// The sender has adopted the sessions of the lost node with this name, or cannot.
    Adopted(&'a str),
}

/// The will message of a client. The message has no expiry yet, as that begins with its
/// publication.
#[derive(Clone, Copy, Debug)]
pub struct WillRef<'a> {
    /// The stamp of when it was told, by the clock of claims: a claim with a later stamp takes it
    /// back.
    pub stamp: u64,
    /// When it is due; a moment is on the sender's clock.
    pub due: WillDue,
    /// Message Expiry Interval of the will message in seconds.
    pub message_expiry: Option<u32>,
    /// The ClientId.
    pub client: &'a str,
    /// The message.
    pub message: MessageRef<'a>,
}

/// A message for a share group; see [`crate::mesh::mail::Passed`].
#[derive(Clone, Copy, Debug)]
pub struct PassedRef<'a> {
    /// What the receiver is to do with the message.
    pub asks: PassedFor,
    /// How often the message has gone from one node to another.
    pub hops: u8,
    /// The share group as a whole filter.
    pub name: &'a str,
    /// The message.
    pub message: MessageRef<'a>,
}

/// A node's answer to the claim of another node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ClaimVerdict {
    /// There is no session here that could move.
    Nothing,
    /// There is a newer claim here.
    Newer,
    /// There is a session here, or will be. It follows, or [`ClaimVerdict::Nothing`] does.
    Holds,
}

/// What a claim may want of a session, by the numbers in records.
pub(super) const WANTED: [SessionDemand; 4] =
    [SessionDemand::Moved, SessionDemand::Ended, SessionDemand::Left, SessionDemand::Here];
const VERDICTS: [ClaimVerdict; 3] =
    [ClaimVerdict::Nothing, ClaimVerdict::Newer, ClaimVerdict::Holds];

impl<'a> NodeRecord<'a> {
    /// Appends the record.
    pub fn write(&self, out: &mut Vec<u8>) {
        match *self {
            NodeRecord::Message(message) => {
                out.push(MESSAGE);
                write_message(&message, out);
            }
            NodeRecord::Stamped(stamp, message) | NodeRecord::Retained(stamp, message) => {
                let live = matches!(self, NodeRecord::Stamped(..));
                out.push(if live { STAMPED } else { RETAINED });
                out.extend_from_slice(&stamp.to_le_bytes());
                write_message(&message, out);
            }
            NodeRecord::Passed(PassedRef { asks, hops, name, message }) => {
                out.extend_from_slice(&[PASSED, asks as u8, hops]);
                out.extend_from_slice(&(name.len() as u32).to_le_bytes());
                out.extend_from_slice(name.as_bytes());
                write_message(&message, out);
            }
            NodeRecord::Filter(number, filter) => {
                out.push(FILTER);
                out.extend_from_slice(&number.to_le_bytes());
                out.extend_from_slice(filter.as_bytes());
            }
            NodeRecord::NoFilter(number) => {
                out.push(NO_FILTER);
                out.extend_from_slice(&number.to_le_bytes());
            }
            NodeRecord::AllFilters(end, snapshot) => {
                out.push(ALL_FILTERS);
                out.extend_from_slice(&end.to_le_bytes());
                out.extend_from_slice(&snapshot.to_le_bytes());
            }
            NodeRecord::Will(will) => write_will(WILL, &will, out),
            NodeRecord::StoredWill(will) => write_will(STORED_WILL, &will, out),
            NodeRecord::NoWill(client) => {
                out.push(NO_WILL);
                out.extend_from_slice(client.as_bytes());
            }
            NodeRecord::NoWills => out.push(NO_WILLS),
            NodeRecord::Adopted(node) => {
                out.push(ADOPTED);
                out.extend_from_slice(node.as_bytes());
            }
            NodeRecord::WillSent(incarnation, node, client) => {
                out.push(WILL_SENT);
                out.extend_from_slice(&incarnation.to_le_bytes());
                out.push(node.len() as u8);
                out.extend_from_slice(node.as_bytes());
                out.extend_from_slice(client.as_bytes());
            }
            _ => self.write_claiming(out),
        }
    }

    /// Appends a record about a ClientId or its session.
    fn write_claiming(&self, out: &mut Vec<u8>) {
        let mut begin = |kind: u8, claim: u64| {
            out.push(kind);
            out.extend_from_slice(&claim.to_le_bytes());
        };
        match *self {
            NodeRecord::Claim(claim, stamp, wanted, name) => {
                begin(CLAIM, claim);
                out.extend_from_slice(&stamp.to_le_bytes());
                out.push(wanted as u8);
                out.extend_from_slice(name.as_bytes());
            }
            NodeRecord::Answer(claim, verdict) => {
                begin(ANSWER, claim);
                out.push(verdict as u8);
            }
            NodeRecord::Session(claim, bytes) => {
                begin(SESSION, claim);
                out.extend_from_slice(bytes);
            }
            NodeRecord::Owed(claim, bytes) => {
                begin(OWED, claim);
                out.extend_from_slice(bytes);
            }
            NodeRecord::Part(claim, last, bytes) => {
                begin(PART, claim);
                out.push(u8::from(last));
                out.extend_from_slice(bytes);
            }
            NodeRecord::Fence(claim, holder) => {
                begin(FENCE, claim);
                out.extend_from_slice(holder.as_bytes());
            }
            NodeRecord::Fenced(claim, claimant) => {
                begin(FENCED, claim);
                out.extend_from_slice(claimant.as_bytes());
            }
            NodeRecord::Settled(claim) => begin(SETTLED, claim),
            NodeRecord::Ask(number) => begin(ASK, number),
            NodeRecord::Known(number) => begin(KNOWN, number),
            NodeRecord::Message(_)
            | NodeRecord::Stamped(..)
            | NodeRecord::Retained(..)
            | NodeRecord::Passed(_)
            | NodeRecord::Filter(..)
            | NodeRecord::NoFilter(_)
            | NodeRecord::AllFilters(..)
            | NodeRecord::Will(_)
            | NodeRecord::StoredWill(_)
            | NodeRecord::NoWill(_)
            | NodeRecord::NoWills
            | NodeRecord::Adopted(_)
            | NodeRecord::WillSent(..) => {}
        }
    }

    /// The lane that carries the record.
    pub fn lane(&self) -> Lane {
        match self {
            NodeRecord::Message(_)
            | NodeRecord::Stamped(..)
            | NodeRecord::Passed(_)
            | NodeRecord::Fenced(..) => Lane::Messages,
            NodeRecord::Session(..)
            | NodeRecord::Owed(..)
            | NodeRecord::Part(..)
            | NodeRecord::Retained(..)
            | NodeRecord::Will(_)
            | NodeRecord::StoredWill(_)
            | NodeRecord::NoWill(_)
            | NodeRecord::NoWills
            | NodeRecord::WillSent(..) => Lane::Bulk,
            _ => Lane::Control,
        }
    }

    /// The level from which on nodes read such records.
    pub fn level(&self) -> u8 {
        match self {
            NodeRecord::Adopted(_) | NodeRecord::StoredWill(_) | NodeRecord::Owed(..) => 1,
            _ => 0,
        }
    }

    /// The level from which on nodes read a record that was written.
    pub fn level_of(bytes: &[u8]) -> u8 {
        u8::from(matches!(bytes.first(), Some(&(ADOPTED | STORED_WILL | OWED))))
    }

    /// Reads a record.
    ///
    /// # Errors
    /// Fails when `bytes` are no record, or say what no node may say.
    pub fn read(bytes: &'a [u8]) -> Result<NodeRecord<'a>, Malformed> {
        let (&kind, body) = bytes.split_first().ok_or(Malformed)?;
        match kind {
            MESSAGE => Ok(NodeRecord::Message(read_message(body)?)),
            FILTER => {
                let (number, text) = number(body)?;
                let text = str::from_utf8(text).map_err(|_| Malformed)?;
                let filter = match topic::parse_share(text) {
                    Some(share) => share.map_err(|()| Malformed)?.filter,
                    None => text,
                };
                check_filter(filter)?;
                Ok(NodeRecord::Filter(below(number)?, text))
            }
            NO_FILTER => match number(body)? {
                (number, []) => Ok(NodeRecord::NoFilter(below(number)?)),
                _ => Err(Malformed),
            },
            ALL_FILTERS => {
                let (end, rest) = number(body)?;
                match number(rest)? {
                    (snapshot, []) if end as usize <= CLUSTER_FILTERS => {
                        Ok(NodeRecord::AllFilters(end, snapshot))
                    }
                    _ => Err(Malformed),
                }
            }
            CLAIM..=SETTLED | ASK | KNOWN | OWED => read_claiming(kind, body),
            STAMPED => {
                read_stamped(body).map(|(stamp, message)| NodeRecord::Stamped(stamp, message))
            }
            RETAINED => {
                read_stamped(body).map(|(stamp, message)| NodeRecord::Retained(stamp, message))
            }
            PASSED => read_passed(body).map(NodeRecord::Passed),
            WILL..=WILL_SENT => read_wills(kind, body),
            ADOPTED => {
                let name = str::from_utf8(body).map_err(|_| Malformed)?;
                is_name(name).then_some(NodeRecord::Adopted(name)).ok_or(Malformed)
            }
            STORED_WILL => read_will(body).map(NodeRecord::StoredWill),
            _ => Err(Malformed),
        }
    }
}

fn read_claiming(kind: u8, body: &[u8]) -> Result<NodeRecord<'_>, Malformed> {
    let (claim, body) = body.split_first_chunk::<8>().ok_or(Malformed)?;
    let claim = u64::from_le_bytes(*claim);
    let text = |bytes| str::from_utf8(bytes).map_err(|_| Malformed);
    let node = |bytes| text(bytes).and_then(|name| is_name(name).then_some(name).ok_or(Malformed));
    match (kind, body) {
        (CLAIM, body) => {
            let (stamp, body) = body.split_first_chunk::<8>().ok_or(Malformed)?;
            let (&wanted, name) = body.split_first().ok_or(Malformed)?;
            let wanted = *WANTED.get(usize::from(wanted)).ok_or(Malformed)?;
            Ok(NodeRecord::Claim(claim, u64::from_le_bytes(*stamp), wanted, client(name)?))
        }
        (ANSWER, &[verdict]) => {
            let verdict = VERDICTS.get(usize::from(verdict)).ok_or(Malformed)?;
            Ok(NodeRecord::Answer(claim, *verdict))
        }
        (SESSION, bytes) => Ok(NodeRecord::Session(claim, bytes)),
        (OWED, bytes) => Ok(NodeRecord::Owed(claim, bytes)),
        (PART, [last @ (0 | 1), bytes @ ..]) => Ok(NodeRecord::Part(claim, *last == 1, bytes)),
        (FENCE, holder) => Ok(NodeRecord::Fence(claim, node(holder)?)),
        (FENCED, claimant) => Ok(NodeRecord::Fenced(claim, node(claimant)?)),
        (SETTLED, []) => Ok(NodeRecord::Settled(claim)),
        (ASK, []) => Ok(NodeRecord::Ask(claim)),
        (KNOWN, []) => Ok(NodeRecord::Known(claim)),
        _ => Err(Malformed),
    }
}

/// Reads a ClientId.
fn client(bytes: &[u8]) -> Result<&str, Malformed> {
    if bytes.is_empty() || bytes.len() > usize::from(u16::MAX) {
        return Err(Malformed);
    }
    str::from_utf8(bytes).map_err(|_| Malformed)
}

fn write_will(kind: u8, will: &WillRef<'_>, out: &mut Vec<u8>) {
    let (is_moment, due) = match will.due {
        WillDue::After(seconds) => (0, u64::from(seconds)),
        WillDue::At(at) => (1, at.0),
    };
    out.push(kind);
    out.extend_from_slice(&will.stamp.to_le_bytes());
    out.push(is_moment);
    out.extend_from_slice(&due.to_le_bytes());
    // The longest interval has no effect, so its value stands for none.
    out.extend_from_slice(&will.message_expiry.unwrap_or(u32::MAX).to_le_bytes());
    out.extend_from_slice(&(will.client.len() as u16).to_le_bytes());
    out.extend_from_slice(will.client.as_bytes());
    write_message(&will.message, out);
}

fn read_wills(kind: u8, body: &[u8]) -> Result<NodeRecord<'_>, Malformed> {
    match (kind, body) {
        (WILL, body) => read_will(body).map(NodeRecord::Will),
        (NO_WILL, name) => Ok(NodeRecord::NoWill(client(name)?)),
        (NO_WILLS, []) => Ok(NodeRecord::NoWills),
        (WILL_SENT, body) => {
            let (incarnation, body) = body.split_first_chunk::<8>().ok_or(Malformed)?;
            let (&length, body) = body.split_first().ok_or(Malformed)?;
            let (node, name) = body.split_at_checked(length.into()).ok_or(Malformed)?;
            let node = str::from_utf8(node).map_err(|_| Malformed)?;
            if !is_name(node) {
                return Err(Malformed);
            }
            Ok(NodeRecord::WillSent(u64::from_le_bytes(*incarnation), node, client(name)?))
        }
        _ => Err(Malformed),
    }
}

fn read_will(body: &[u8]) -> Result<WillRef<'_>, Malformed> {
    let (stamp, body) = body.split_first_chunk::<8>().ok_or(Malformed)?;
    let (&is_moment, body) = body.split_first().ok_or(Malformed)?;
    let (due, body) = body.split_first_chunk::<8>().ok_or(Malformed)?;
    let due = u64::from_le_bytes(*due);
    let due = match is_moment {
        0 => WillDue::After(u32::try_from(due).map_err(|_| Malformed)?),
        1 => WillDue::At(Instant(due)),
        _ => return Err(Malformed),
    };
    let (expiry, body) = number(body)?;
    let (length, body) = body.split_first_chunk::<2>().ok_or(Malformed)?;
    let length = usize::from(u16::from_le_bytes(*length));
    let (name, body) = body.split_at_checked(length).ok_or(Malformed)?;
    let message = read_message(body)?;
    if message.expires.is_some() {
        return Err(Malformed);
    }
    Ok(WillRef {
        stamp: u64::from_le_bytes(*stamp),
        due,
        message_expiry: Some(expiry).filter(|&seconds| seconds != u32::MAX),
        client: client(name)?,
        message,
    })
}

fn check_filter(filter: &str) -> Result<(), Malformed> {
    let ours = topic::valid_filter(filter) && !filter.starts_with("$SYS/");
    if ours && topic::levels(filter) <= MAX_TOPIC_LEVELS { Ok(()) } else { Err(Malformed) }
}

fn read_passed(body: &[u8]) -> Result<PassedRef<'_>, Malformed> {
    let (&[asks, hops], body) = body.split_first_chunk::<2>().ok_or(Malformed)?;
    let asks = *PassedFor::ALL.get(usize::from(asks)).ok_or(Malformed)?;
    let (length, body) = number(body)?;
    let (name, body) = body.split_at_checked(length as usize).ok_or(Malformed)?;
    let name = str::from_utf8(name).map_err(|_| Malformed)?;
    let share = topic::parse_share(name).ok_or(Malformed)?.map_err(|()| Malformed)?;
    check_filter(share.filter)?;
    if hops > CLUSTER_HOPS + 1 {
        return Err(Malformed);
    }
    Ok(PassedRef { asks, hops, name, message: read_message(body)? })
}

fn number(bytes: &[u8]) -> Result<(u32, &[u8]), Malformed> {
    let (number, rest) = bytes.split_first_chunk::<4>().ok_or(Malformed)?;
    Ok((u32::from_le_bytes(*number), rest))
}

fn below(number: u32) -> Result<u32, Malformed> {
    if (number as usize) < CLUSTER_FILTERS { Ok(number) } else { Err(Malformed) }
}

fn write_message(message: &MessageRef<'_>, out: &mut Vec<u8>) {
    let flags = message.qos as u8
        | if message.retain { RETAIN } else { 0 }
        | if message.expires.is_some() { EXPIRES } else { 0 };
    out.push(flags);
    if let Some(at) = message.expires {
        out.extend_from_slice(&at.0.to_le_bytes());
    }
    out.extend_from_slice(&(message.topic.len() as u16).to_le_bytes());
    out.extend_from_slice(&(message.properties.len() as u32).to_le_bytes());
    out.extend_from_slice(message.topic.as_bytes());
    out.extend_from_slice(message.properties);
    out.extend_from_slice(message.payload);
}

fn read_stamped(body: &[u8]) -> Result<(u64, MessageRef<'_>), Malformed> {
    let (stamp, body) = body.split_first_chunk::<8>().ok_or(Malformed)?;
    let (stamp, message) = (u64::from_le_bytes(*stamp), read_message(body)?);
    let sound = (Retain::OLDEST..=Retain::NEWEST).contains(&stamp) && message.retain;
    if sound { Ok((stamp, message)) } else { Err(Malformed) }
}

fn read_message(body: &[u8]) -> Result<MessageRef<'_>, Malformed> {
    let (&flags, body) = body.split_first().ok_or(Malformed)?;
    if flags & UNKNOWN != 0 {
        return Err(Malformed);
    }
    let (expires, body) = match flags & EXPIRES {
        0 => (None, body),
        _ => {
            let (at, body) = body.split_first_chunk::<8>().ok_or(Malformed)?;
            (Some(Instant(u64::from_le_bytes(*at))), body)
        }
    };
    let (length, body) = body.split_first_chunk::<2>().ok_or(Malformed)?;
    let (properties, body) = number(body)?;
    let topic = usize::from(u16::from_le_bytes(*length));
    let (topic, body) = body.split_at_checked(topic).ok_or(Malformed)?;
    let (properties, payload) = body.split_at_checked(properties as usize).ok_or(Malformed)?;
    let topic = str::from_utf8(topic).map_err(|_| Malformed)?;
    if !topic::valid_name(topic)
        || topic.starts_with("$SYS/")
        || topic::levels(topic) > MAX_TOPIC_LEVELS
        || !is_forwardable(properties)
    {
        return Err(Malformed);
    }
    Ok(MessageRef {
        topic,
        properties,
        payload,
        qos: Qos::from_u8(flags & 3).ok_or(Malformed)?,
        retain: flags & RETAIN != 0,
        expires,
        publisher: None,
    })
}

/// Whether `properties` may be forwarded to subscribers unchanged.
fn is_forwardable(properties: &[u8]) -> bool {
    properties.is_empty()
        || PublishProperties::parse(properties).is_ok_and(|parsed| parsed.is_forwardable_raw())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn message() -> MessageRef<'static> {
        MessageRef {
            topic: "a/b",
            properties: &[1, 1],
            payload: b"hello",
            qos: Qos::ExactlyOnce,
            retain: true,
            expires: Some(Instant(7000)),
            publisher: None,
        }
    }

    fn passed() -> PassedRef<'static> {
        let (asks, hops) = (PassedFor::Any, CLUSTER_HOPS + 1);
        PassedRef { asks, hops, name: "$share/g/a/#", message: message() }
    }

    fn will() -> WillRef<'static> {
        let message = MessageRef { expires: None, ..message() };
        let due = WillDue::After(u32::MAX);
        WillRef { stamp: 3, due, message_expiry: None, client: "client", message }
    }

    fn written(record: NodeRecord<'_>) -> Vec<u8> {
        let mut bytes = Vec::new();
        record.write(&mut bytes);
        bytes
    }

    #[test]
    fn records_come_back_as_they_were_written() {
        for record in [
            NodeRecord::Message(message()),
            NodeRecord::Message(MessageRef { expires: None, payload: b"", ..message() }),
            NodeRecord::Stamped(Retain::NEWEST, message()),
            NodeRecord::Retained(Retain::OLDEST, MessageRef { payload: b"", ..message() }),
            NodeRecord::Passed(passed()),
            NodeRecord::Passed(PassedRef { asks: PassedFor::Back, hops: 0, ..passed() }),
            NodeRecord::Filter(7, "a/+/#"),
            NodeRecord::Filter(8, "$share/g/a/+"),
            NodeRecord::NoFilter(0),
            NodeRecord::AllFilters(CLUSTER_FILTERS as u32, 3),
            NodeRecord::Claim(1 << 60, 9, SessionDemand::Left, "client"),
            NodeRecord::Answer(3, ClaimVerdict::Holds),
            NodeRecord::Session(3, b"session"),
            NodeRecord::Owed(3, b"filters"),
            NodeRecord::Part(3, true, b""),
            NodeRecord::Fence(u64::MAX, "node-1"),
            NodeRecord::Fenced(4, "node-2"),
            NodeRecord::Settled(5),
            NodeRecord::Ask(6),
            NodeRecord::Known(7),
            NodeRecord::Will(will()),
            NodeRecord::Will(WillRef {
                due: WillDue::At(Instant(5)),
                message_expiry: Some(9),
                ..will()
            }),
            NodeRecord::StoredWill(will()),
            NodeRecord::Adopted("node-3"),
            NodeRecord::NoWill("client"),
            NodeRecord::NoWills,
            NodeRecord::WillSent(8, "node-2", "client"),
        ] {
            let bytes = written(record);
            let read = NodeRecord::read(&bytes).unwrap();
            assert_eq!(format!("{read:?}"), format!("{record:?}"));
            assert_eq!(NodeRecord::level_of(&bytes), record.level());
        }
    }

    #[test]
    fn what_no_node_may_say_is_malformed() {
        let deep = "a/".repeat(MAX_TOPIC_LEVELS);
        for record in [
            NodeRecord::Message(MessageRef { topic: "", ..message() }),
            NodeRecord::Message(MessageRef { topic: "a/#", ..message() }),
            NodeRecord::Message(MessageRef { topic: "$SYS/broker/uptime", ..message() }),
            NodeRecord::Message(MessageRef { topic: &deep, ..message() }),
            // A Topic Alias is valid between a client and its broker only; the second example is
            // cut short.
            NodeRecord::Message(MessageRef { properties: &[35, 0, 1], ..message() }),
            NodeRecord::Message(MessageRef { properties: &[1], ..message() }),
            NodeRecord::Stamped(Retain::NEWEST + 1, message()),
            NodeRecord::Stamped(7, MessageRef { retain: false, ..message() }),
            NodeRecord::Retained(1, message()),
            NodeRecord::Filter(1, "a/#/b"),
            NodeRecord::Filter(1, "$SYS/#"),
            NodeRecord::Filter(1, "$share/g/$SYS/#"),
            NodeRecord::Filter(1, "$share/g"),
            NodeRecord::Filter(1, "$share//a"),
            NodeRecord::Passed(PassedRef { name: "a/#", ..passed() }),
            NodeRecord::Passed(PassedRef { name: "$share/g+/a", ..passed() }),
            NodeRecord::Passed(PassedRef { hops: CLUSTER_HOPS + 2, ..passed() }),
            NodeRecord::Passed(PassedRef {
                message: MessageRef { topic: "a/#", ..message() },
                ..passed()
            }),
            NodeRecord::Filter(1, &deep),
            NodeRecord::Filter(CLUSTER_FILTERS as u32, "a"),
            NodeRecord::NoFilter(u32::MAX),
            NodeRecord::AllFilters(CLUSTER_FILTERS as u32 + 1, 0),
            NodeRecord::Claim(1, 1, SessionDemand::Moved, ""),
            NodeRecord::Fence(1, "no.name"),
            NodeRecord::Fenced(1, ""),
            NodeRecord::Will(WillRef { client: "", ..will() }),
            NodeRecord::Will(WillRef { message: message(), ..will() }),
            NodeRecord::Will(WillRef {
                message: MessageRef { topic: "$SYS/a", ..will().message },
                ..will()
            }),
            NodeRecord::StoredWill(WillRef { client: "", ..will() }),
            NodeRecord::Adopted("no.name"),
            NodeRecord::NoWill(""),
            NodeRecord::WillSent(1, "no.name", "client"),
            NodeRecord::WillSent(1, "node-1", ""),
        ] {
            assert!(NodeRecord::read(&written(record)).is_err(), "{record:?}");
        }
        let mut flags = written(NodeRecord::Message(message()));
        flags[1] = 3;
        assert!(NodeRecord::read(&flags).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_harm(
            kind in 0..25u8,
            bytes in prop::collection::vec(any::<u8>(), 0..80),
        ) {
            let bytes = [&[kind], &bytes[..]].concat();
            if let Ok(record) = NodeRecord::read(&bytes) {
                prop_assert_eq!(written(record), bytes);
            }
        }
    }
}
