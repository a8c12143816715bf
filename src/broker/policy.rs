//! Limits, overload and bans as the control thread sees to them: the ban file, what a reload goes
//! on with, and how much memory of the host is in use.

use super::Broker;
use crate::config::Config;
use crate::doctor::Facts;
use crate::overload::level::FULL;
use crate::overload::{BanFile, Policy, Thresholds};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often memory is looked at.
pub(super) const LOOK: Duration = Duration::from_millis(500);
/// A host has other processes: its memory never counts for more than level 2.
const HOST_LEVEL: u64 = 2 * FULL;

/// When memory was looked at last.
#[derive(Default)]
pub(super) struct HostMemory(Option<Instant>);

/// What the configuration says, with the ban file; what clients use of `old` goes on.
///
/// # Errors
/// A sentence about the ban file, when it cannot be read.
pub(super) fn of(config: &Config, old: Option<&Policy>) -> Result<Arc<Policy>, String> {
    let mut policy = config.policy();
    if let Some(old) = old {
        policy.limits.adopt(&old.limits);
    }
    let path = &*config.bans.file;
    if !path.is_empty() {
        let banned = read_bans(path)?;
        let [addresses, client_ids, users] = banned.count();
        tracing::info!(path, addresses, client_ids, users, "bans read");
        policy.banned = Arc::new(banned);
    }
    Ok(Arc::new(policy))
}

fn read_bans(path: &str) -> Result<BanFile, String> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| format!("bans.file: {path} cannot be read: {error}"))?;
    BanFile::parse(&text).map_err(|no| format!("{path}:{}: {}", no.line, no.what))
}

/// What is wrong with the ban file, if there is one; for those who only look.
pub fn ban_file_problem(config: &Config) -> Option<String> {
    let path = &*config.bans.file;
    if path.is_empty() { None } else { read_bans(path).err() }
}

impl Broker {
    /// Now and then: how much memory of the control group, or of the host, is in use.
    pub(super) fn look_at_host_memory(&mut self) {
        let now = Instant::now();
        let looked = &mut self.host_memory.0;
        if looked.is_some_and(|looked| now.duration_since(looked) < LOOK) {
            return;
        }
        *looked = Some(now);
        let thresholds = self.policy.overload;
        let reading = match Facts::memory_in_use(Path::new("/")) {
            Some(used) if thresholds.enabled => reading(used, &thresholds),
            _ => 0,
        };
        self.shared.host_memory.set(reading);
    }
}

/// Memory in use as a reading; `used` of `all`, and whether that is a control group's.
fn reading((used, all, group): (u64, u64, bool), thresholds: &Thresholds) -> u64 {
    let used = used.saturating_mul(1000) / all.max(1);
    if group {
        return thresholds.memory_reading(used);
    }
    Thresholds { memory: thresholds.host_memory, ..*thresholds }
        .memory_reading(used)
        .min(HOST_LEVEL)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_counts_later_and_less_than_a_control_group() {
        let on = Thresholds { enabled: true, ..Thresholds::default() };
        let of = |used, group| reading((used, 1000, group), &on);
        assert!(of(849, true) < FULL && of(850, true) == FULL && of(970, true) == 5 * FULL);
        assert!(of(940, false) < FULL && of(950, false) == FULL && of(1000, false) == HOST_LEVEL);
    }
}
