//! Will messages in records.

use super::messages::{read_message, write_message};
use super::{NO_WILL, NO_WILLS, NodeRecord, WILL, WILL_SENT, WillRef, client, number};
use crate::cluster::frame::is_name;
use crate::cluster::lane::Malformed;
use crate::mesh::moves::WillDue;
use crate::time::Instant;

pub(super) fn write_will(kind: u8, will: &WillRef<'_>, out: &mut Vec<u8>) {
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

pub(super) fn read_wills(kind: u8, body: &[u8]) -> Result<NodeRecord<'_>, Malformed> {
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

pub(super) fn read_will(body: &[u8]) -> Result<WillRef<'_>, Malformed> {
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
