//! Records: what the lanes between two nodes carry.
//!
//! A filter is told with its number at the node that has it, so that the number alone suffices to
//! take the filter back. A record about a number replaces the earlier one about that number, so
//! telling everything again leaves no moment without a filter. Times are on the sender's clock
//! ([`super::clock`]).

mod messages;
mod wills;

use super::frame::is_name;
use super::lane::{Lane, Malformed};
use crate::limits::{CLUSTER_FILTERS, MAX_TOPIC_LEVELS};
use crate::mesh::mail::PassedFor;
use crate::mesh::moves::{SessionDemand, WillDue};
use crate::message::MessageRef;
use crate::topic;
use messages::{read_message, read_passed, read_stamped, write_message};
use wills::{read_will, read_wills, write_will};

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
            NodeRecord::Message(message) => put_message(&message, out),
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

/// Appends the record [`NodeRecord::Message`].
#[inline]
pub fn put_message(message: &MessageRef<'_>, out: &mut Vec<u8>) {
    out.push(MESSAGE);
    write_message(message, out);
}

/// The message of a record, if it is [`NodeRecord::Message`].
///
/// # Errors
/// Fails as [`NodeRecord::read`] does.
#[inline]
pub fn message_of(bytes: &[u8]) -> Result<Option<MessageRef<'_>>, Malformed> {
    match bytes.split_first() {
        Some((&MESSAGE, body)) => read_message(body).map(Some),
        _ => Ok(None),
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

fn check_filter(filter: &str) -> Result<(), Malformed> {
    let ours = topic::valid_filter(filter) && !filter.starts_with("$SYS/");
    if ours && topic::levels(filter) <= MAX_TOPIC_LEVELS { Ok(()) } else { Err(Malformed) }
}

fn number(bytes: &[u8]) -> Result<(u32, &[u8]), Malformed> {
    let (number, rest) = bytes.split_first_chunk::<4>().ok_or(Malformed)?;
    Ok((u32::from_le_bytes(*number), rest))
}

fn below(number: u32) -> Result<u32, Malformed> {
    if (number as usize) < CLUSTER_FILTERS { Ok(number) } else { Err(Malformed) }
}

#[cfg(test)]
mod tests;
