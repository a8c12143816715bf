//! Parsers of option values. Each function reads one kind of value and says what is wrong with it;
//! clap puts the name of the option before that message.

use crate::broker::{BrokerKind, Candidate};
use crate::mqtt::Version;
use crate::plot;
use crate::scenario::traffic;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4, ToSocketAddrs};
use std::path::PathBuf;

/// A measured interval in seconds, 0.1 to 3600.
pub fn seconds(text: &str) -> Result<f64, String> {
    within(text, 0.1, 3600.0)
}

/// A factor for clients and rates, 0.0001 to 20.
pub fn scale(text: &str) -> Result<f64, String> {
    within(text, 0.0001, 20.0)
}

/// A factor for the frequency of messages, 0.01 to 100.
pub fn speed(text: &str) -> Result<f64, String> {
    within(text, 0.01, 100.0)
}

fn within(text: &str, least: f64, most: f64) -> Result<f64, String> {
    let number: f64 = text.parse().map_err(|_| "this is not a number".to_string())?;
    if (least..=most).contains(&number) {
        Ok(number)
    } else {
        Err(format!("the number must be {least} to {most}"))
    }
}

/// A whole number of at least 1.
pub fn positive(text: &str) -> Result<u32, String> {
    whole(text, 1, u64::from(u32::MAX)).map(|number| number as u32)
}

/// A whole number from `least` to `most`.
pub fn whole(text: &str, least: u64, most: u64) -> Result<u64, String> {
    let number: u64 = text.parse().map_err(|_| "this is not a whole number".to_string())?;
    if (least..=most).contains(&number) {
        Ok(number)
    } else if most >= u64::from(u32::MAX) {
        Err(format!("the number must be at least {least}"))
    } else {
        Err(format!("the number must be {least} to {most}"))
    }
}

/// Bytes of a scenario's payload, which begins with a header of `traffic::HEADER` bytes.
pub fn payload(text: &str) -> Result<usize, String> {
    whole(text, traffic::HEADER as u64, 1 << 20).map(|bytes| bytes as usize)
}

/// How the storm scenario ends connections; `true` stands for a reset.
pub fn reset(text: &str) -> Result<bool, String> {
    match text {
        "reset" | "rst" => Ok(true),
        "close" => Ok(false),
        _ => Err("connections drop by `reset` or `close`".into()),
    }
}

/// The protocol version of a scenario.
pub fn version(text: &str) -> Result<Version, String> {
    match text {
        "3.1.1" | "4" => Ok(Version::V311),
        "5" | "5.0" => Ok(Version::V5),
        _ => Err("the protocol is 3.1.1 or 5".into()),
    }
}

/// The protocol version as emqtt-bench writes it.
pub fn level(text: &str) -> Result<Version, String> {
    match text {
        "3" | "3.1" => Ok(Version::V31),
        _ => version(text).map_err(|_| "the version is 3 (3.1), 4 (3.1.1) or 5".into()),
    }
}

/// `HOST:PORT`, resolved to the first IPv4 address.
pub fn address(text: &str) -> Result<SocketAddrV4, String> {
    let all = text.to_socket_addrs().map_err(|error| error.to_string())?;
    let v4 = all.filter_map(|address| match address {
        SocketAddr::V4(v4) => Some(v4),
        SocketAddr::V6(_) => None,
    });
    v4.into_iter().next().ok_or_else(|| "this has no IPv4 address".into())
}

/// The address to listen on: `ADDRESS:PORT`, or a port alone for the loopback address.
pub fn listen(text: &str) -> Result<SocketAddr, String> {
    if let Ok(port) = text.parse::<u16>() {
        return Ok(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    }
    text.parse().map_err(|_| "this is neither ADDRESS:PORT nor a port".into())
}

/// One address, or a range with its first and last address, such as `10.0.0.1-10.0.0.20`.
pub fn sources(text: &str) -> Result<Vec<IpAddr>, String> {
    /// The most addresses of a range; each address provides thousands of ports.
    const MOST: u32 = 4096;
    let one = |text: &str| {
        text.trim().parse::<IpAddr>().map_err(|_| format!("{text:?} is no IP address"))
    };
    let Some((first, last)) = text.split_once('-') else { return Ok(vec![one(text)?]) };
    match (one(first)?, one(last)?) {
        (IpAddr::V4(first), IpAddr::V4(last)) => {
            let (from, to) = (u32::from(first), u32::from(last));
            if to < from || to - from >= MOST {
                return Err(format!("a range goes upwards and has at most {MOST} addresses"));
            }
            Ok((from..=to).map(|bits| IpAddr::V4(Ipv4Addr::from(bits))).collect())
        }
        _ => Err("a range is one of IPv4 addresses".into()),
    }
}

/// A time in nanoseconds, from `us`, `ms`, `s`, `m` or `h`; a number without a unit means
/// milliseconds, as in emqtt-bench.
pub fn milliseconds(text: &str) -> Result<u64, String> {
    time(text, 1e6)
}

/// A time in nanoseconds, with the same units; a number without a unit means seconds.
pub fn duration(text: &str) -> Result<u64, String> {
    time(text, 1e9)
}

/// A year in nanoseconds: no option needs more, and sums of two of them do not overflow.
const LONGEST: f64 = 3.2e16;

fn time(text: &str, unit: f64) -> Result<u64, String> {
    let at = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
    let (number, suffix) = text.split_at(at);
    let unit = match suffix {
        "" => unit,
        "us" | "µs" => 1e3,
        "ms" => 1e6,
        "s" => 1e9,
        "m" => 6e10,
        "h" => 3.6e12,
        _ => return Err(format!("{suffix:?} is no unit; there are us, ms, s, m and h")),
    };
    let number: f64 = number.parse().map_err(|_| "this is not a time".to_string())?;
    let nanos = number * unit;
    if nanos > LONGEST { Err("a year is the longest time".into()) } else { Ok(nanos as u64) }
}

/// A broker that `compare` starts: `NAME=COMMAND` with `{port}` in the command.
pub fn candidate(text: &str) -> Result<Candidate, String> {
    let pair = text.split_once('=').filter(|(name, command)| {
        !name.is_empty() && !name.contains(char::is_whitespace) && command.contains("{port}")
    });
    let (name, command) = pair.ok_or("a broker is NAME=COMMAND with {port} in the command")?;
    Ok(Candidate { name: name.into(), kind: BrokerKind::Shell { command: command.into() } })
}

/// The file that a drawing is written to.
pub fn target(text: &str) -> Result<plot::Target, String> {
    plot::Target::new(PathBuf::from(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_units_and_bounds() {
        let good = [("10", 10_000_000), ("0.5", 500_000), ("20us", 20_000), ("2s", 2_000_000_000)];
        for (text, nanos) in good {
            assert_eq!(milliseconds(text), Ok(nanos), "{text}");
        }
        assert_eq!(duration("1.5"), Ok(1_500_000_000));
        assert_eq!(duration("1m"), Ok(60_000_000_000));
        for text in ["", "s", "-1", "1 s", "1d", "1e9", "99999999h", "1.2.3", "NaN"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sources_are_addresses_and_ranges() {
        assert_eq!(sources("10.0.0.9").unwrap().len(), 1);
        assert_eq!(sources("::1").unwrap().len(), 1);
        let range = sources("10.0.0.254-10.0.1.2").unwrap();
        assert_eq!(range.len(), 5);
        assert_eq!(range[2], IpAddr::V4(Ipv4Addr::new(10, 0, 1, 0)));
        for text in ["", "eth0", "10.0.0.2-10.0.0.1", "10.0.0.0-10.1.0.0", "::1-::2", "1.2.3.4-"] {
            assert!(sources(text).is_err(), "{text}");
        }
    }

    #[test]
    fn numbers_have_bounds() {
        assert!(
            positive("0").is_err() && positive("x").is_err() && positive("4294967296").is_err()
        );
        assert_eq!(positive("7"), Ok(7));
        assert!(payload("23").is_err() && payload("24").is_ok());
        for bad in ["NaN", "inf", "0", "21"] {
            assert!(scale(bad).is_err(), "{bad}");
        }
        assert_eq!(listen("9100").unwrap().to_string(), "127.0.0.1:9100");
        assert!(listen("host").is_err());
    }
}
