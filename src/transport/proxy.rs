//! The PROXY protocol's header, versions 1 and 2: who the client of a load balancer is. Owns which
//! headers are accepted. Whose headers, is checked before: see [`super::network`].

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

/// What the versions begin with.
const FIRST: &[u8] = b"PROXY ";
const SECOND: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// Bytes of the longest header of version 1, its line end included.
const LONGEST_LINE: usize = 107;
/// Bytes of a header of version 2 up to its length, which is the last two of them.
const FIXED: usize = 16;

fn fault(what: &'static str) -> Fault {
    Fault { layer: Layer::Proxy, what }
}

/// The length of a header in bytes, and the name in the client's certificate if the proxy has
/// verified one.
type Taken = (usize, Option<Box<str>>);

/// Looks at the beginning of a connection for a header; `None` while it is not complete.
///
/// # Errors
/// When it is no header of these versions.
pub(super) fn take(
    head: &[u8],
    versions: Versions,
    exchange: &mut Exchange,
) -> Result<Option<Taken>, Fault> {
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
        // The crate takes some lengths that are too short for what is said to be there for more
        // that is to come.
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
    let name = header.ssl().filter(is_verified).and_then(|ssl| ssl.cn().map(Box::from));
    Ok(Some((used, name)))
}

/// True when a header of version 1 has a line end before its own.
fn has_inner_line(head: &[u8], used: usize) -> bool {
    head[0] == b'P' && head[..used - 1].contains(&b'\n')
}

/// True when the client showed a certificate that the proxy has found good.
fn is_verified(ssl: &SslInfo<'_>) -> bool {
    ssl.verify() == 0 && (ssl.client_cert_conn() || ssl.client_cert_sess())
}

#[cfg(test)]
#[path = "proxy_tests.rs"]
mod tests;
