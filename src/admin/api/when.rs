//! Times as the API writes and reads them: RFC 3339 in UTC. Shards count milliseconds from a zero
//! of their own.

use crate::time::Instant;
use std::time::{Duration, SystemTime};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// A time of the shards' clock as text, to the second. `zero` is the wall-clock time at its zero.
pub(super) fn shown(zero: SystemTime, at: Instant) -> Option<String> {
    let at = OffsetDateTime::from(zero.checked_add(Duration::from_millis(at.0))?);
    at.replace_nanosecond(0).ok()?.format(&Rfc3339).ok()
}

/// Reads a time, in RFC 3339 or milliseconds since 1970, as a time of the shards' clock. A time
/// before the zero of that clock becomes its zero.
///
/// # Errors
/// The text is neither, or too far away.
pub(super) fn read(zero: SystemTime, text: &str) -> Result<Instant, String> {
    let at: SystemTime = if let Ok(millis) = text.parse::<u64>() {
        SystemTime::UNIX_EPOCH
            .checked_add(Duration::from_millis(millis))
            .ok_or_else(|| format!("`{text}` is too far away"))?
    } else {
        OffsetDateTime::parse(text, &Rfc3339)
            .map_err(|_| format!("`{text}` is no time such as 2026-01-31T12:00:00Z"))?
            .into()
    };
    Ok(Instant(at.duration_since(zero).unwrap_or_default().as_millis() as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_they_are_written() {
        let zero = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let at = Instant(86_400_000);
        let text = shown(zero, at).unwrap();
        assert_eq!(text, "2023-11-15T22:13:20Z");
        assert_eq!(read(zero, &text), Ok(at));
        assert_eq!(read(zero, "1700086400000"), Ok(at));
        assert_eq!(read(zero, "1999-01-01T00:00:00Z"), Ok(Instant(0)));
        assert!(read(zero, "yesterday").is_err());
    }
}
