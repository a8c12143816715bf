//! Judgement of the place of the store: the file system, its room, and how long a sync takes. The
//! time is measured with a file that is removed again.

use super::finding::{Finding, Fix, Severity};
use super::report::bytes;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The number of syncs that are timed.
const SYNCS: usize = 8;
/// A sync that takes longer than this delays every acknowledgement of something stored.
const SLOW: Duration = Duration::from_millis(20);
/// The number of segments that each shard has at least: one in use, three ready, one to clean.
const SEGMENTS: u64 = 5;
/// File systems that do not keep what is written to them, or that other hosts may change.
const UNFIT: [&str; 7] = ["tmpfs", "ramfs", "overlay", "nfs", "nfs4", "cifs", "9p"];

/// Mount options with which the disk is not told to make synced data permanent, so that a power cut
/// loses it.
const CARELESS: [&str; 2] = ["nobarrier", "barrier=0"];

/// What is known about the place of the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disk {
    /// The type of the file system.
    pub kind: String,
    /// A mount option that endangers what is synced, if there is one.
    pub careless: Option<&'static str>,
    /// The number of the device, as `stat` tells it; 0 when it is not known.
    pub device: u64,
    /// The number of free bytes.
    pub free: u64,
    /// The number of bytes that the store has already.
    pub used: u64,
    /// The median and the longest time that a write of 4 KiB and its sync took, or why it failed.
    pub sync: Result<(Duration, Duration), String>,
}

/// Examines the directory, or the nearest existing one above it.
pub fn look(path: &Path) -> Disk {
    let there = path.ancestors().find(|path| path.is_dir()).unwrap_or(Path::new("."));
    let free = nix::sys::statvfs::statvfs(there)
        .map_or(0, |stat| stat.blocks_available().saturating_mul(stat.fragment_size()));
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let whole = there.canonicalize().unwrap_or_else(|_| there.to_owned());
    let sync = time_syncs(there).map_err(|error| error.to_string());
    let (kind, options) = mount_of(&mounts, &whole);
    let careless =
        CARELESS.into_iter().find(|&careless| options.split(',').any(|option| option == careless));
    let device = std::fs::metadata(there).map_or(0, |found| found.dev());
    Disk { kind, careless, device, free, used: size(path), sync }
}

/// The bytes of the segments of a store.
fn size(path: &Path) -> u64 {
    let shards = std::fs::read_dir(path).into_iter().flatten().flatten();
    shards.map(|shard| bytes_in(&shard.path())).sum()
}

/// The bytes of the files in a directory.
pub fn bytes_in(path: &Path) -> u64 {
    let files = std::fs::read_dir(path).into_iter().flatten().flatten();
    files.filter_map(|file| file.metadata().ok()).map(|metadata| metadata.len()).sum()
}

/// The type and the mount options of the file system that `path` is on: that of the longest mount
/// point above it.
fn mount_of(mounts: &str, path: &Path) -> (String, String) {
    let fields = |line: &str| {
        let mut fields = line.split_ascii_whitespace().skip(1);
        let (point, kind) = (PathBuf::from(fields.next()?), fields.next()?.to_owned());
        Some((point, (kind, fields.next().unwrap_or_default().to_owned())))
    };
    let all = mounts.lines().filter_map(fields).filter(|(point, _)| path.starts_with(point));
    all.max_by_key(|(point, _)| point.as_os_str().len())
        .map_or(("unknown".to_owned(), String::new()), |(_, of)| of)
}

fn time_syncs(directory: &Path) -> io::Result<(Duration, Duration)> {
    let path = directory.join(format!(".ringmq-doctor-{}", std::process::id()));
    let file = OpenOptions::new().write(true).create_new(true).open(&path)?;
    let times = time_syncs_of(&file);
    let removed = std::fs::remove_file(&path);
    let mut times = times?;
    removed?;
    times.sort();
    let middle = times.get(times.len() / 2).copied().unwrap_or_default();
    Ok((middle, times.last().copied().unwrap_or_default()))
}

fn time_syncs_of(file: &File) -> io::Result<Vec<Duration>> {
    let block = [0x5a; 4096];
    file.set_len((SYNCS * block.len()) as u64)?;
    file.sync_all()?;
    let mut times = Vec::with_capacity(SYNCS);
    for at in 0..SYNCS {
        let began = Instant::now();
        file.write_all_at(&block, (at * block.len()) as u64)?;
        file.sync_data()?;
        times.push(began.elapsed());
    }
    Ok(times)
}

/// The number of free bytes that a store on this disk needs.
pub fn wanted(disk: &Disk, shards: u64) -> u64 {
    let segment = crate::storage::log::LogBounds::BROKER.segment;
    (shards * SEGMENTS * segment).saturating_sub(disk.used) + (64 << 20)
}

/// Judges the place for this number of shards.
pub fn judge(disk: &Disk, shards: u64) -> Finding {
    let wanted = wanted(disk, shards);
    let (middle, most) = match &disk.sync {
        Ok(times) => *times,
        Err(why) => {
            let needed = "a directory that the broker may write to";
            return Finding::new("storage", Severity::Blocker, why, needed)
                .fixed_by(Fix::host("give the broker's user the directory of storage.path"));
        }
    };
    let millis = |time: Duration| format!("{:.1}", time.as_secs_f64() * 1000.0);
    let found = format!(
        "{}, {} free, a sync takes {} ms (longest {} ms)",
        disk.kind,
        bytes(disk.free),
        millis(middle),
        millis(most)
    );
    if disk.free < wanted {
        return Finding::new(
            "storage",
            Severity::Blocker,
            found,
            format!("{} free", bytes(wanted)),
        )
        .fixed_by(Fix::host("make room, or set storage.path to another file system"));
    }
    if UNFIT.contains(&disk.kind.as_str()) {
        return Finding::new("storage", Severity::Warning, found, "a disk of this host's own")
            .fixed_by(Fix::host("set storage.path to a directory on ext4 or xfs"));
    }
    if let Some(option) = disk.careless {
        let found = format!("{found}, mounted with {option}");
        return Finding::new("storage", Severity::Warning, found, "syncs that reach the disk")
            .fixed_by(Fix::host(format!("mount the file system without {option}")));
    }
    if middle > SLOW {
        let needed = "less than 20 ms, or acknowledgements are late by that much";
        return Finding::new("storage", Severity::Warning, found, needed)
            .fixed_by(Fix::host("set storage.path to a faster disk"));
    }
    Finding::new("storage", Severity::Fine, found, format!("{} free", bytes(wanted)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    fn disk() -> Disk {
        let sync = Ok((Duration::from_millis(2), Duration::from_millis(9)));
        Disk { kind: "ext4".into(), careless: None, device: 7, free: 10 * GIB, used: 0, sync }
    }

    #[test]
    fn a_place_is_judged_by_room_kind_and_speed() {
        let severity = |disk: &Disk| judge(disk, 2).severity;
        assert_eq!(severity(&disk()), Severity::Fine);
        assert_eq!(severity(&Disk { free: GIB / 2, ..disk() }), Severity::Blocker);
        assert_eq!(severity(&Disk { free: GIB / 2, used: GIB, ..disk() }), Severity::Fine);
        assert_eq!(severity(&Disk { kind: "tmpfs".into(), ..disk() }), Severity::Warning);
        let careless = Disk { careless: Some("nobarrier"), ..disk() };
        assert_eq!(severity(&careless), Severity::Warning);
        let slow = Ok((Duration::from_millis(30), Duration::from_millis(400)));
        assert_eq!(severity(&Disk { sync: slow, ..disk() }), Severity::Warning);
        let finding = judge(&Disk { sync: Err("Permission denied".into()), ..disk() }, 2);
        assert_eq!((finding.severity, &*finding.found), (Severity::Blocker, "Permission denied"));
    }

    #[test]
    fn the_file_system_is_that_of_the_longest_mount_point() {
        let mounts = "/dev/vda / ext4 rw 0 0\ntmpfs /run tmpfs rw 0 0\nx /run/db xfs rw 0 0\n";
        for (path, kind) in [("/var/lib", "ext4"), ("/run/user", "tmpfs"), ("/run/db/a", "xfs")] {
            assert_eq!(mount_of(mounts, Path::new(path)), (kind.to_owned(), "rw".to_owned()));
        }
        assert_eq!(mount_of("", Path::new("/a")).0, "unknown");
    }

    #[test]
    fn a_real_directory_is_measured_and_left_as_it_was() {
        let place = std::env::temp_dir();
        let disk = look(&place.join("not-there/store"));
        assert!(disk.sync.is_ok() && disk.free > 0, "{disk:?}");
        let left = std::fs::read_dir(&place).expect("readable").flatten().any(|entry| {
            let own = format!(".ringmq-doctor-{}", std::process::id());
            entry.file_name().to_str() == Some(&own)
        });
        assert!(!left);
    }
}
