//! The trace context of a message: the W3C recommendation "Trace Context", carried by a user
//! property named `traceparent`, as OpenTelemetry's instrumentation of MQTT 5 clients writes it.

use std::fmt;

/// The name of the user property.
pub const TRACEPARENT: &str = "traceparent";
/// The number of characters of a value of version 00.
const LENGTH: usize = 55;
/// The flag that says that the caller records the trace.
const SAMPLED: u8 = 1;

/// The identifier of a trace. Never zero.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
pub struct TraceId(pub u128);

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// The identifier of a span. Never zero.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
pub struct SpanId(pub u64);

impl SpanId {
    /// Makes an identifier from any number.
    pub fn new(number: u64) -> SpanId {
        SpanId(number.max(1))
    }
}

impl fmt::Display for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// The position of a message in a trace.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct TraceContext {
    /// The trace.
    pub trace: TraceId,
    /// The span in which the message was published.
    pub parent: SpanId,
    /// True when that span is recorded. Then the broker records its own spans, too.
    pub sampled: bool,
}

impl TraceContext {
    /// Reads a value. `None` for an invalid one, which has to be ignored (section 3.2.2).
    pub fn parse(text: &str) -> Option<TraceContext> {
        let (known, rest) = text.as_bytes().split_at_checked(LENGTH)?;
        let version = hex(known.get(..2)?)?;
        // A later version may append parts, each after a dash.
        let ends = rest.is_empty() || version > 0 && rest.first() == Some(&b'-');
        let dashes = [2, 35, 52].iter().all(|&at| known.get(at) == Some(&b'-'));
        if version == 0xFF || !ends || !dashes {
            return None;
        }
        let (trace, parent) = (hex(known.get(3..35)?)?, hex(known.get(36..52)?)? as u64);
        let flags = hex(known.get(53..55)?)? as u8;
        let valid = trace != 0 && parent != 0;
        let (trace, parent) = (TraceId(trace), SpanId(parent));
        valid.then_some(TraceContext { trace, parent, sampled: flags & SAMPLED != 0 })
    }

    /// The value of the property.
    pub fn written(&self) -> String {
        format!("00-{}-{}-{:02x}", self.trace, self.parent, u8::from(self.sampled))
    }

    /// The span of the routing of the message. It is made from the message alone, so that a shard
    /// which has only the message names it in the same way as the shard that received the message
    /// from its publisher. Two messages with the same topic and payload that were published in the
    /// same span have the same routing span.
    pub fn routing(&self, topic: &str, payload: &[u8]) -> SpanId {
        let content =
            u64::from(crc32c::crc32c(topic.as_bytes())) << 32 | u64::from(crc32c::crc32c(payload));
        let trace = self.trace.0 as u64 ^ mixed((self.trace.0 >> 64) as u64);
        SpanId::new(mixed(mixed(trace ^ self.parent.0) ^ content))
    }
}

/// Reads hexadecimal digits, which must be in lower case (section 3.2.2.1).
fn hex(digits: &[u8]) -> Option<u128> {
    digits.iter().try_fold(0, |number: u128, &digit| {
        let value = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(number << 4 | u128::from(value))
    })
}

/// The finalizer of SplitMix64: each bit of the result depends on all bits of `number`.
fn mixed(number: u64) -> u64 {
    let once = (number ^ number >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let twice = (once ^ once >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
    twice ^ twice >> 31
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn a_context_comes_back_as_it_was_written() {
        let context = TraceContext::parse(GOOD).unwrap();
        assert_eq!(context.trace.to_string(), "0af7651916cd43dd8448eb211c80319c");
        assert_eq!(context.parent.to_string(), "b7ad6b7169203331");
        assert!(context.sampled);
        assert_eq!(context.written(), GOOD);
        let unsampled = TraceContext::parse(&GOOD.replace("-01", "-02")).unwrap();
        assert!(!unsampled.sampled);
        let later = format!("cc{}-what-comes", &GOOD[2..]);
        assert_eq!(TraceContext::parse(&later).unwrap().trace, context.trace);
    }

    #[test]
    fn what_is_not_valid_is_no_context() {
        for wrong in [
            "",
            "00",
            &GOOD[..54],
            &format!("{GOOD}-"),
            &format!("{GOOD}0"),
            &format!("cc{}.later", &GOOD[2..]),
            &format!("ff{}", &GOOD[2..]),
            &GOOD.to_uppercase(),
            &GOOD.replace("b7ad6b7169203331", "0000000000000000"),
            &GOOD.replace("0af7651916cd43dd8448eb211c80319c", &"0".repeat(32)),
            &GOOD.replace('-', "_"),
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-é1",
        ] {
            assert_eq!(TraceContext::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn the_span_of_the_routing_depends_on_context_topic_and_payload() {
        let one = TraceContext::parse(GOOD).unwrap();
        let other = TraceContext { parent: SpanId(one.parent.0 + 1), ..one };
        let third = TraceContext { trace: TraceId(one.trace.0 ^ 1 << 100), ..one };
        let mut all = vec![
            one.routing("a", b"x"),
            one.routing("a", b"y"),
            one.routing("b", b"x"),
            other.routing("a", b"x"),
            third.routing("a", b"x"),
        ];
        assert_eq!(all[0], one.routing("a", b"x"));
        all.sort_unstable_by_key(|id| id.0);
        all.dedup();
        assert_eq!(all.len(), 5);
    }
}
