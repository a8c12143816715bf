//! The PROXY protocol's header, versions 1 and 2: the address of the client behind a load balancer.
//! Owns which headers are accepted. Which hosts may send one is checked before: see
//! [`super::network`].

use super::{Exchange, Fault, Layer};
use crate::ids::Peer;
use crate::limits::{PROXY_HEAD, cost};
use proxy_header::{ParseConfig, Protocol, ProxyHeader, SslInfo};

/// Which versions a listener accepts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Versions {
    /// Version 1, a line of text.
    V1,
    /// Version 2, binary.
    V2,
    /// Both.
    Any,
}

/// The first bytes of each version.
const FIRST: &[u8] = b"PROXY ";
const SECOND: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// Bytes of the longest header of version 1, its line end included.
const LONGEST_LINE: usize = 107;
/// Bytes of a header of version 2 up to its length, which is the last two of them.
const FIXED: usize = 16;

/// The command, in the low half of its byte, of a connection that the proxy makes for itself.
const LOCAL: u8 = 0;
/// Bytes of a TLV's head: its type, and a length of two bytes.
const TLV: usize = 3;
/// The TLV type of a checksum of the whole header, computed with the checksum's own bytes as 0.
const CRC32C: u8 = 0x03;
/// The TLV type of what the proxy knows of the client's TLS.
const SSL: u8 = 0x20;

const fn fault(what: &'static str) -> Fault {
    Fault { layer: Layer::Proxy, what }
}

/// The length of a header in bytes, and the name in the client's certificate if the proxy has
/// verified one.
type TakenHeader = (usize, Option<Box<str>>);

/// Looks at the beginning of a connection for a header; `None` while it is not complete.
///
/// # Errors
/// A [`Fault`], when the bytes are not a header of these versions.
pub(super) fn take(
    head: &[u8],
    versions: Versions,
    exchange: &mut Exchange,
) -> Result<Option<TakenHeader>, Fault> {
    exchange.work += cost::PACKET;
    let (allow_v1, allow_v2) = (versions != Versions::V2, versions != Versions::V1);
    let begins = |with: &[u8]| head.iter().zip(with).all(|(one, other)| one == other);
    let most = match head.first() {
        None => return Ok(None),
        Some(b'P') if allow_v1 && begins(FIRST) => LONGEST_LINE,
        Some(b'\r') if allow_v2 && begins(SECOND) => match head.get(FIXED - 2..FIXED) {
            Some(length) => FIXED + usize::from(u16::from_be_bytes([length[0], length[1]])),
            None => return Ok(None),
        },
        Some(_) => return Err(fault("no PROXY header of a version that the listener takes")),
    };
    if most > PROXY_HEAD {
        return Err(fault("the PROXY header is too large"));
    }
    let config = ParseConfig { include_tlvs: true, allow_v1, allow_v2 };
    let (header, used) = match ProxyHeader::parse(head, config) {
        Ok((header, used)) if used <= most && !has_inner_line(head, used) => (header, used),
        // The crate reports some headers whose length field is too short for their content as
        // incomplete, so its word counts only while fewer than `most` bytes are here.
        Err(proxy_header::Error::BufferTooShort)
            if head.len() < most && !(head[0] == b'P' && head.contains(&b'\n')) =>
        {
            return Ok(None);
        }
        _ => return Err(fault("a PROXY header that is malformed")),
    };
    if let Some(address) = header.proxied_address() {
        if address.protocol != Protocol::Stream {
            return Err(fault("a PROXY header of a datagram"));
        }
        exchange.peer = Some(Peer::from(address.source));
    }
    let binary = head[0] != b'P';
    // What a proxy says in the header of its own connection, such as a health check, must be
    // ignored.
    if binary && head[FIXED - 4] & 0x0F == LOCAL {
        return Ok(Some((used, None)));
    }
    if binary {
        check_tlvs(&head[..used])?;
    }
    let name = header.ssl().filter(is_verified).and_then(|ssl| ssl.cn().map(Box::from));
    Ok(Some((used, name)))
}

/// Checks what follows the addresses in a whole header of version 2.
///
/// # Errors
/// A [`Fault`], when a length or the checksum (section 2.2.3 of the protocol) is wrong.
fn check_tlvs(header: &[u8]) -> Result<(), Fault> {
    const LENGTHS: Fault = fault("a PROXY header with wrong lengths");
    let addresses = match header[FIXED - 3] >> 4 {
        0 => 0,
        1 => 2 * (4 + 2),
        2 => 2 * (16 + 2),
        _ => 2 * 108,
    };
    let mut at = FIXED + addresses;
    let mut checksum = None;
    while at < header.len() {
        let &[kind, high, low] = header.get(at..at + TLV).ok_or(LENGTHS)? else {
            return Err(LENGTHS);
        };
        let end = at + TLV + usize::from(u16::from_be_bytes([high, low]));
        let value = header.get(at + TLV..end).ok_or(LENGTHS)?;
        match (kind, checksum) {
            (CRC32C, None) if value.len() == 4 => checksum = Some((at + TLV, value)),
            (CRC32C, _) => return Err(fault("a PROXY header with no or several checksums")),
            (SSL, _) => check_ssl(value).ok_or(LENGTHS)?,
            _ => {}
        }
        at = end;
    }
    let Some((at, said)) = checksum else { return Ok(()) };
    let (before, after) = (&header[..at], &header[at + 4..]);
    let found = crc32c::crc32c_append(crc32c::crc32c(before), &[0; 4]);
    if crc32c::crc32c_append(found, after).to_be_bytes() != said {
        return Err(fault("a PROXY header whose checksum is wrong"));
    }
    Ok(())
}

/// Checks the lengths in an SSL value: flags, the verdict, then parts with lengths. `None` when one
/// is wrong.
fn check_ssl(value: &[u8]) -> Option<()> {
    let mut rest = value.get(5..)?;
    while let [_, high, low, parts @ ..] = rest {
        rest = parts.get(usize::from(u16::from_be_bytes([*high, *low]))..)?;
    }
    rest.is_empty().then_some(())
}

/// True when a header of version 1 has a line end before its own.
fn has_inner_line(head: &[u8], used: usize) -> bool {
    head[0] == b'P' && head[..used - 1].contains(&b'\n')
}

/// True when the client showed a certificate that the proxy has verified successfully.
fn is_verified(ssl: &SslInfo<'_>) -> bool {
    ssl.verify() == 0 && (ssl.client_cert_conn() || ssl.client_cert_sess())
}

#[cfg(test)]
#[path = "proxy_tests.rs"]
mod tests;
