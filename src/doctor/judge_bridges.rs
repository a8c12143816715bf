//! Judgement of the buffers of bridges: whether there is room for what may wait, on disk and in
//! memory.

use super::finding::{Finding, Fix, Severity};
use super::judge_storage::Disk;
use super::report::bytes;
use crate::bridge::buffer::directory;
use crate::config::{Bridge, BridgePuback, BufferMode, Config, Get, OnBufferFull};
use std::path::Path;

const CHECK: &str = "bridges";

/// What is wanted of a disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DiskDemand {
    device: u64,
    free: u64,
    wanted: u64,
}

impl DiskDemand {
    /// So many free bytes of this disk.
    pub fn of(disk: &Disk, wanted: u64) -> DiskDemand {
        DiskDemand { device: disk.device, free: disk.free, wanted }
    }
}

/// Judges all buffers. `left` is the number of bytes of memory that are free. `store` is what the
/// store wants of its disk. `look` tells about a directory: its disk, and the bytes it already has.
pub fn judge(
    config: &Config,
    left: Option<u64>,
    store: Option<DiskDemand>,
    look: &dyn Fn(&Path) -> (Disk, u64),
) -> Vec<Finding> {
    let mut findings = Vec::new();
    let (mut in_memory, mut number, mut threads) = (0_u64, 0, 0);
    let mut claims: Vec<DiskDemand> = store.into_iter().collect();
    for bridge in config.bridges.iter() {
        let most = bridge.buffer.max_bytes.get();
        threads += bridge.connections();
        if let Some(kafka) = bridge.kafka.as_ref() {
            // The Kafka client has a copy of the messages that are on their way, and a thread that
            // takes its reports.
            in_memory = in_memory.saturating_add(kafka.max_inflight_bytes.get());
            threads += 1;
        }
        if bridge.puback == BridgePuback::Delivered {
            findings.push(of_waiting(bridge));
        }
        if bridge.buffer.mode == BufferMode::Memory {
            (in_memory, number) = (in_memory.saturating_add(most), number + 1);
            continue;
        }
        let directory = directory(bridge, Path::new(&*config.storage.path));
        let (disk, used) = look(&directory);
        // A segment is deleted only when nothing in it waits any more.
        let wanted = most.saturating_add(bridge.buffer.segment.get()).saturating_sub(used);
        claims.push(DiskDemand::of(&disk, wanted));
        findings.push(on_disk(bridge, &directory, &disk, wanted));
    }
    findings.extend(of_shared_disks(&claims));
    if in_memory > 0 {
        findings.push(of_memory(in_memory, number, left));
    }
    if threads > 0 {
        findings.push(of_threads(threads));
    }
    findings
}

/// Says which threads run beside those of the cores.
fn of_threads(threads: u64) -> Finding {
    let found = format!("{threads} threads of bridges, and those of Kafka's client");
    let needed = "processors that `cores` leaves free, where bridges carry much: they share those \
                  of the cores otherwise";
    Finding::new(CHECK, Severity::Note, found, needed)
}

/// Says how long publishers that wait for the other end may have to wait.
fn of_waiting(bridge: &Bridge) -> Finding {
    let name = &*bridge.name;
    let time = match bridge.puback_timeout.get() {
        None => "for as long as its other end is away".to_owned(),
        Some(time) => format!("at most {} s with MQTT 5, longer with MQTT 3", time.as_secs()),
    };
    let found = format!("publishers of what bridge {name} takes wait for PUBACK {time}");
    let needed = "clients that go on without: each PUBACK takes a round trip to the other end, \
                  and what waits for it takes some 100 bytes; who has receive_maximum (MQTT 5), or \
                  1024, without an answer sends no more";
    let needed = match bridge.buffer.on_full {
        OnBufferFull::Pause => needed.to_owned(),
        OnBufferFull::DropOldest | OnBufferFull::DropNew => format!(
            "{needed}; with MQTT 3 buffer.on_full: pause besides, or each message that finds no \
             room ends the connection of its publisher"
        ),
    };
    Finding::new(CHECK, Severity::Note, found, needed)
}

fn on_disk(bridge: &Bridge, directory: &Path, disk: &Disk, wanted: u64) -> Finding {
    let (name, place) = (&*bridge.name, directory.display());
    if let Err(why) = &disk.sync {
        let needed = format!("a directory for bridge {name} that the broker may write to");
        return Finding::new(CHECK, Severity::Blocker, format!("{place}: {why}"), needed)
            .fixed_by(Fix::host(format!("give the broker's user {place}")));
    }
    let found = format!("{place}: {}, {} free", disk.kind, bytes(disk.free));
    let needed = format!("{} free for what waits for bridge {name}", bytes(wanted));
    if disk.free >= wanted {
        return Finding::new(CHECK, Severity::Fine, found, needed);
    }
    Finding::new(CHECK, Severity::Warning, found, needed)
        .fixed_by(Fix::configuration("make room, or lower buffer.max_bytes of the bridge"))
}

/// Says of each disk that has room for each of several claims but not for all of them together.
fn of_shared_disks(claims: &[DiskDemand]) -> Vec<Finding> {
    let mut devices: Vec<u64> = claims.iter().map(|claim| claim.device).collect();
    devices.sort_unstable();
    devices.dedup();
    let short = |device: u64| {
        let here = claims.iter().filter(|claim| claim.device == device);
        let number = here.clone().count();
        let free = here.clone().map(|claim| claim.free).min()?;
        let wanted = here.clone().fold(0, |sum: u64, claim| sum.saturating_add(claim.wanted));
        let each = here.clone().all(|claim| claim.wanted <= free);
        (each && wanted > free).then(|| {
            let found = format!("{} free on a disk of {number} of store and bridges", bytes(free));
            let needed = format!("{} for all of them together", bytes(wanted));
            Finding::new(CHECK, Severity::Warning, found, needed)
                .fixed_by(Fix::configuration("make room, or lower buffer.max_bytes of the bridges"))
        })
    };
    // Where the device is not known, nothing can be said.
    devices.into_iter().filter(|device| *device != 0).filter_map(short).collect()
}

fn of_memory(wanted: u64, number: u32, left: Option<u64>) -> Finding {
    let all = bytes(wanted);
    let needed = format!(
        "{all} when {number} buffers in memory are full and as much as may be is under way to \
         Kafka, beside limits.memory"
    );
    let Some(left) = left else {
        return Finding::new(CHECK, Severity::Note, "free memory is unreadable", needed);
    };
    let found = format!("{} of memory free", bytes(left));
    // `limits.memory: auto` takes three quarters.
    if wanted <= left / 4 {
        return Finding::new(CHECK, Severity::Fine, found, needed);
    }
    Finding::new(CHECK, Severity::Warning, found, needed)
        .fixed_by(Fix::configuration("lower buffer.max_bytes, or set buffer.mode: hybrid"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Sources;
    use std::time::Duration;

    const MIB: u64 = 1 << 20;

    fn severities(left: u64, free: u64, used: u64) -> Vec<Severity> {
        let text = "bridges:\n\
            - {name: a, mqtt: {addresses: ['h:1'], topics: [{filter: a}]}}\n\
            - {name: b, mqtt: {addresses: ['h:1'], topics: [{filter: a}]}, \
               buffer: {mode: disk, max_bytes: 100MiB, path: /var/b}}\n";
        let loaded = Sources::default().load_from("f.yaml", text.as_bytes());
        let config = loaded.unwrap_or_else(|problems| panic!("{problems:?}"));
        let look = |path: &Path| {
            assert_eq!(path, Path::new("/var/b"));
            let sync = Ok((Duration::ZERO, Duration::ZERO));
            (Disk { kind: "ext4".into(), careless: None, device: 7, free, used: 0, sync }, used)
        };
        judge(&config, Some(left), None, &look).iter().map(|finding| finding.severity).collect()
    }

    #[test]
    fn what_it_costs_to_wait_for_the_other_end_is_said() {
        let text = "bridges: [{name: a, puback: delivered, \
                    mqtt: {addresses: ['h:1'], topics: [{filter: a, qos: 1}]}}]";
        let found = |text: &str| {
            let config =
                Sources::default().load_from("f.yaml", text.as_bytes()).expect("it is fine");
            let findings =
                judge(&config, Some(1024 * MIB), None, &|_| unreachable!("nothing on disk"));
            assert_eq!((findings.len(), findings[0].severity), (3, Severity::Note));
            assert_eq!(findings[0].needed.contains("on_full: pause"), !text.contains("pause"));
            findings[0].found.clone()
        };
        let never = "publishers of what bridge a takes wait for PUBACK for as long as its other \
                     end is away";
        assert_eq!(found(text), never);
        let text = text.replace("delivered", "delivered, puback_timeout: 30s");
        assert!(found(&text).ends_with("at most 30 s with MQTT 5, longer with MQTT 3"));
        found(&text.replace("puback:", "buffer: {on_full: pause}, puback:"));
    }

    #[test]
    fn buffers_need_room_where_they_are() {
        use Severity::{Fine, Note, Warning};
        assert_eq!(severities(1024 * MIB, 110 * MIB, 0), [Fine, Fine, Note]);
        assert_eq!(severities(1023 * MIB, 109 * MIB, 0), [Warning, Warning, Note]);
        assert_eq!(severities(1024 * MIB, 10 * MIB, 100 * MIB), [Fine, Fine, Note]);
    }

    #[test]
    fn a_disk_has_room_for_all_that_share_it() {
        let claim = |device, wanted| DiskDemand { device, free: 100, wanted };
        let short = |claims: &[DiskDemand]| of_shared_disks(claims).len();
        assert_eq!(short(&[claim(1, 60), claim(2, 60), claim(1, 40)]), 0);
        assert_eq!(short(&[claim(1, 60), claim(2, 60), claim(1, 41)]), 1);
        // What each of them alone has no room for is said of it alone.
        assert_eq!(short(&[claim(1, 60), claim(1, 101)]), 0);
        assert_eq!(short(&[claim(0, 60), claim(0, 60)]), 0);
    }

    /// The example has a line for each thing that it needs: for publishers that wait, three disks,
    /// the memory of Kafka's client, and threads.
    #[cfg(feature = "kafka")]
    #[test]
    fn each_kind_of_bridge_is_judged() {
        let text = include_str!("../../tuning/bridges.yaml");
        let loaded = Sources::default().load_from("bridges.yaml", text.as_bytes());
        let config = loaded.unwrap_or_else(|problems| panic!("{problems:?}"));
        let sync = Ok((Duration::ZERO, Duration::ZERO));
        let look = |_: &Path| {
            let free = 33 << 30;
            (
                Disk {
                    kind: "ext4".into(),
                    careless: None,
                    device: 7,
                    free,
                    used: 0,
                    sync: sync.clone(),
                },
                0,
            )
        };
        let findings = judge(&config, Some(1024 * MIB), None, &look);
        let found: Vec<&str> = findings.iter().map(|finding| finding.found.as_str()).collect();
        assert_eq!(findings.len(), 6, "{found:?}");
        assert!(found[1].contains("wait for PUBACK at most 30 s"), "{found:?}");
        assert!(found[5].starts_with("4 threads of bridges"), "{found:?}");
        assert!(findings.iter().all(|finding| finding.severity < Severity::Warning), "{found:?}");
    }
}
