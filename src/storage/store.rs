//! A store on disk: its directory, the lock on it, and what all its logs have in common.
//!
//! `FORMAT` is a small text file with the version of the format, the number of shards, and a secret
//! by which ClientIds and topics are assigned to shards; no client may learn the secret. `LOCK` is
//! locked while a process uses the store. Each shard has a directory `shard-NNN`, or `shard-NNN.G`
//! after the store was rewritten G times: see [`super::rewrite`].

use super::files::LogFiles;
use super::image::Image;
use super::log::{Log, LogBounds};
use super::record::{Record, StoreSecret};
use super::recovery::{self, LogActivity, LogReading, Recovered, RecoveryTrouble};
use super::salvage::{self, LostPart};
use std::fmt;
use std::fs::{File, TryLockError};
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The version of the format that this build writes, and the only one so far.
const VERSION: u32 = 1;

/// Why a store cannot be used, in one or two sentences.
#[derive(Debug)]
pub struct UnusableStore(String);

impl UnusableStore {
    /// With this text.
    pub fn new(what: impl fmt::Display) -> UnusableStore {
        UnusableStore(what.to_string())
    }
}

impl fmt::Display for UnusableStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for UnusableStore {}

fn unusable<E: fmt::Display>(path: &Path, what: &str) -> impl FnOnce(E) -> UnusableStore {
    let place = format!("storage.path: {}: {what}", path.display());
    move |error| UnusableStore(format!("{place}: {error}"))
}

/// A store that this process has locked.
pub struct Store {
    path: PathBuf,
    /// How many shards it has.
    pub shards: u8,
    /// How often it was rewritten.
    generation: u32,
    secret: [u64; 2],
    lock: File,
}

/// A shard's part of a store, after it was read.
pub struct StorePart {
    /// Its log, which goes on.
    pub log: Log,
    /// Its files.
    pub files: LogFiles,
    /// What was stored.
    pub image: Image,
    /// The segment and the byte where the last batch was torn, if it was.
    pub torn: Option<(u32, u64)>,
}

/// What was read of a shard's log while another process writes to it.
pub struct EarlyPart {
    reading: LogReading,
    image: Image,
}

impl Store {
    /// Opens the store at `path`, or makes one with `shards` shards and the secret `fresh` when
    /// nothing is there.
    ///
    /// # Errors
    /// When the directory cannot be used, another process uses it, or it was made by a later
    /// version.
    pub fn open(path: &Path, shards: u8, fresh: [u64; 2]) -> Result<Store, UnusableStore> {
        std::fs::create_dir_all(path).map_err(unusable(path, "cannot be made"))?;
        let lock = lock(path)?;
        let format = path.join("FORMAT");
        let text = match std::fs::read_to_string(&format) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                begin(path, shards, fresh).map_err(unusable(path, "cannot be written"))?
            }
            Err(error) => return Err(unusable(&format, "cannot be read")(error)),
        };
        let format = parse(&text).map_err(unusable(&format, "is damaged"))?;
        let store = Store::new(path, format, lock);
        store.tidy_up().map_err(unusable(path, "cannot be changed"))?;
        Ok(store)
    }

    /// Opens the store of a process that has locked it and hands its lock over.
    ///
    /// # Errors
    /// When the store cannot be read, or `lock` is that of another store.
    pub fn handed_over(path: &Path, lock: File) -> Result<Store, UnusableStore> {
        let format = path.join("FORMAT");
        let text = std::fs::read_to_string(&format).map_err(unusable(&format, "cannot be read"))?;
        let format = parse(&text).map_err(unusable(&format, "is damaged"))?;
        let is_it = |named: std::fs::Metadata| -> std::io::Result<bool> {
            let locked = lock.metadata()?;
            Ok((named.dev(), named.ino()) == (locked.dev(), locked.ino()))
        };
        let name = path.join("LOCK");
        let same = std::fs::metadata(&name).and_then(is_it);
        match same.map_err(unusable(&name, "cannot be looked at"))? {
            true => Ok(Store::new(path, format, lock)),
            false => Err(UnusableStore(format!(
                "storage.path: {} is another store than that of the running broker; an upgrade \
                 keeps the store",
                path.display()
            ))),
        }
    }

    /// Another descriptor of the lock, for the process that takes the store over. The store is
    /// locked as long as either process has one.
    ///
    /// # Errors
    /// When no descriptor can be made.
    pub fn share_lock(&self) -> std::io::Result<File> {
        self.lock.try_clone()
    }

    /// The directory of the store.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Opens an existing store for inspection.
    ///
    /// # Errors
    /// When there is none, or another process uses it.
    pub fn existing(path: &Path) -> Result<Store, UnusableStore> {
        let format = path.join("FORMAT");
        let text = std::fs::read_to_string(&format).map_err(unusable(&format, "cannot be read"))?;
        let lock = lock(path)?;
        let format = parse(&text).map_err(unusable(&format, "is damaged"))?;
        Ok(Store::new(path, format, lock))
    }

    /// Whether there is a store at `path`.
    pub fn is_at(path: &Path) -> bool {
        path.join("FORMAT").exists()
    }

    fn new(path: &Path, format: StoreFormat, lock: File) -> Store {
        let StoreFormat { shards, generation, secret } = format;
        Store { path: path.to_owned(), shards, generation, secret, lock }
    }

    /// Removes the logs that `FORMAT` does not name. They are left when a rewrite crashed before
    /// the switch to the new logs, or before the old ones were removed.
    fn tidy_up(&self) -> std::io::Result<()> {
        let current: Vec<PathBuf> = (0..self.shards).map(|shard| self.directory(shard)).collect();
        for entry in std::fs::read_dir(&self.path)? {
            let path = entry?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if name.starts_with("shard-") && !current.contains(&path) {
                std::fs::remove_dir_all(&path)?;
            }
        }
        Ok(())
    }

    /// Makes an empty directory for a shard's log of the next generation; returns the log's secret
    /// number, and its files.
    pub(super) fn begin_anew(&self, shard: u8) -> Result<(u64, LogFiles), UnusableStore> {
        let next = self.generation + 1;
        let directory = directory_of(&self.path, next, shard);
        let make = || {
            if directory.exists() {
                std::fs::remove_dir_all(&directory)?;
            }
            std::fs::create_dir(&directory)?;
            LogFiles::open(&directory)
        };
        let files = make().map_err(unusable(&directory, "cannot be made"))?;
        Ok((log_of(self.secret, next, shard), files))
    }

    /// Makes the logs of the next generation the store's. The old ones are removed; if `kept`,
    /// their files stay under names that begin with `damaged-`.
    pub(super) fn switch(&mut self, shards: u8, kept: bool) -> Result<(), UnusableStore> {
        let old: Vec<PathBuf> = (0..self.shards).map(|shard| self.directory(shard)).collect();
        let next = StoreFormat { shards, generation: self.generation + 1, secret: self.secret };
        let cannot = || unusable(&self.path, "cannot be changed");
        if kept {
            // Before the switch, after which whoever opens the store removes what it does not name.
            for directory in &old {
                keep(directory).map_err(cannot())?;
            }
        }
        write_format(&self.path, &next).map_err(cannot())?;
        (self.shards, self.generation) = (next.shards, next.generation);
        for directory in old {
            // The store is another one already. What stays is removed when it is opened again.
            let _ = std::fs::remove_dir_all(&directory);
        }
        Ok(())
    }

    /// The secret by which ClientIds and topics are assigned to shards.
    pub fn placement(&self) -> [u64; 2] {
        self.secret
    }

    /// The secret that keys are hashed under.
    pub fn secret(&self) -> StoreSecret {
        StoreSecret([self.secret[0].rotate_left(17), !self.secret[1]])
    }

    fn log(&self, shard: u8) -> u64 {
        log_of(self.secret, self.generation, shard)
    }

    /// The directory of a shard.
    pub fn directory(&self, shard: u8) -> PathBuf {
        directory_of(&self.path, self.generation, shard)
    }

    /// Reads a shard's log without changing anything.
    ///
    /// # Errors
    /// When the log cannot be read, or is damaged: names the file, the place and the damage.
    pub fn read(&self, shard: u8) -> Result<(Recovered, Image, LogFiles), UnusableStore> {
        self.read_within(shard, None)
    }

    /// Reads a shard's log with at most `room` bytes of messages' bodies in memory; `None` for all.
    fn read_within(
        &self,
        shard: u8,
        room: Option<usize>,
    ) -> Result<(Recovered, Image, LogFiles), UnusableStore> {
        let mut early = self.nothing_read(shard, room);
        let files = self.read_on(shard, &mut early, LogActivity::Rests)?;
        Ok((early.reading.end(), early.image, files))
    }

    fn nothing_read(&self, shard: u8, room: Option<usize>) -> EarlyPart {
        EarlyPart { reading: LogReading::new(self.log(shard)), image: Image::within(room) }
    }

    /// Reads what was written to a shard's log since it was read last; returns its files.
    fn read_on(
        &self,
        shard: u8,
        early: &mut EarlyPart,
        activity: LogActivity,
    ) -> Result<LogFiles, UnusableStore> {
        let directory = self.directory(shard);
        if !directory.is_dir() {
            return Err(UnusableStore(format!(
                "storage.path: {} is missing, which was made with the store; restore it",
                directory.display()
            )));
        }
        let files = LogFiles::open(&directory).map_err(unusable(&directory, "cannot be used"))?;
        let segments = files.segments().map_err(unusable(&directory, "cannot be read"))?;
        {
            let mut read = files.reader();
            let told = |trouble| UnusableStore(describe(&directory, &trouble));
            if !early.reading.is_valid(&segments, &mut read).map_err(told)? {
                return Err(UnusableStore(format!("the log of shard {shard} was written anew")));
            }
            let (reading, image, secret) = (&mut early.reading, &mut early.image, self.secret());
            let mut take = |record: &Record<'_>, at| image.take(record, at, secret);
            reading.read_on(activity, &segments, &mut read, &mut take).map_err(told)?;
        }
        Ok(files)
    }

    /// Reads what is whole of a shard's damaged log, and returns what is lost. [`Image::finish`] is
    /// left to the caller.
    ///
    /// # Errors
    /// When the log's directory cannot be read.
    pub fn salvage(&self, shard: u8) -> Result<(Image, Vec<LostPart>), UnusableStore> {
        let directory = self.directory(shard);
        let files = LogFiles::open(&directory).map_err(unusable(&directory, "cannot be used"))?;
        let segments = files.segments().map_err(unusable(&directory, "cannot be read"))?;
        let (mut image, secret) = (Image::default(), self.secret());
        let lost =
            salvage::salvage(self.log(shard), &segments, &mut files.reader(), &mut |record, at| {
                image.take(record, at, secret);
            });
        Ok((image, lost))
    }

    /// Reads the content of all shards.
    ///
    /// # Errors
    /// As [`Store::read`].
    pub fn images(&self) -> Result<Vec<Image>, UnusableStore> {
        let image = |shard| {
            let (_, mut image, _) = self.read(shard)?;
            image.finish(self.secret());
            Ok(image)
        };
        (0..self.shards).map(image).collect()
    }

    /// Reads a shard's log, and prepares it to go on.
    ///
    /// # Errors
    /// As [`Store::read`], and when a segment cannot be synced, or an unused one cannot be removed.
    pub fn resume(&self, shard: u8, bounds: LogBounds) -> Result<StorePart, UnusableStore> {
        let (recovered, mut image, mut files) = self.read_within(shard, Some(0))?;
        let directory = self.directory(shard);
        // A process that was killed may have written batches without syncing them. From now on they
        // count as durable.
        for segment in &recovered.found.segments {
            let synced = files.sync(segment.number);
            synced.map_err(unusable(&directory, "cannot be synced"))?;
        }
        for segment in recovered.unused {
            files.drop_segment(segment, true).map_err(unusable(&directory, "cannot be changed"))?;
        }
        let mut log = Log::new(self.log(shard), self.secret(), bounds, recovered.found);
        log.adopt(image.finish(self.secret()));
        recovery::fill(&log, &mut image, &mut files.reader())
            .map_err(|trouble| UnusableStore(describe(&directory, &trouble)))?;
        Ok(StorePart { log, files, image, torn: recovered.torn })
    }
}

impl Store {
    /// Reads what is there of a shard's log that another process of the broker writes to, behind
    /// what was `read` of it before. `None` when that cannot be told apart from what is being
    /// written: then nothing is known of the log.
    pub fn read_early(&self, shard: u8, read: Option<EarlyPart>) -> Option<EarlyPart> {
        let mut early = read.unwrap_or_else(|| self.nothing_read(shard, Some(0)));
        self.read_on(shard, &mut early, LogActivity::Written).ok()?;
        Some(early)
    }

    /// Reads a shard's log that another process of the broker has written and now holds at rest:
    /// the part behind what was `read` of it before. That process may still go on with the log, so
    /// nothing is changed before [`Log::go_on`]. The bodies of messages are not read, because the
    /// other process hands them over.
    ///
    /// # Errors
    /// As [`Store::read`], and when the log does not end with a whole batch.
    pub fn resume_beside(
        &self,
        shard: u8,
        bounds: LogBounds,
        read: Option<EarlyPart>,
    ) -> Result<StorePart, UnusableStore> {
        let known = read.and_then(|mut early| {
            let files = self.read_on(shard, &mut early, LogActivity::Rests).ok()?;
            Some((early.reading.end(), early.image, files))
        });
        // What cannot be read on is read anew, which tells what is wrong, if anything is.
        let (recovered, mut image, files) = match known {
            Some(known) => known,
            None => self.read_within(shard, Some(0))?,
        };
        if recovered.torn.is_some() {
            return Err(UnusableStore(format!("the log of shard {shard} is still being written")));
        }
        let mut log = Log::new(self.log(shard), self.secret(), bounds, recovered.found);
        log.adopt(image.finish(self.secret()));
        log.leave(recovered.unused);
        log.hold();
        Ok(StorePart { log, files, image, torn: None })
    }
}

fn describe(directory: &Path, trouble: &RecoveryTrouble) -> String {
    let segment = match trouble {
        RecoveryTrouble::Unreadable { segment, .. }
        | RecoveryTrouble::Newer { segment, .. }
        | RecoveryTrouble::Damaged { segment, .. } => *segment,
    };
    let file = directory.join(format!("{segment:010}.seg"));
    let advice = match trouble {
        RecoveryTrouble::Damaged { .. } => {
            "; nothing was changed: restore a copy of storage.path, or keep what is whole with \
             `ringmq storage check --repair`, which names the sessions that lack something"
        }
        RecoveryTrouble::Unreadable { .. } | RecoveryTrouble::Newer { .. } => "",
    };
    format!("storage.path: {}: {trouble}{advice}", file.display())
}

/// Locks the store, so that no other process uses it.
fn lock(path: &Path) -> Result<File, UnusableStore> {
    let name = path.join("LOCK");
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&name)
        .map_err(unusable(&name, "cannot be opened"))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(UnusableStore(format!(
            "storage.path: {} is used by another process; each broker needs a path of its own",
            path.display()
        ))),
        Err(TryLockError::Error(error)) => Err(unusable(&name, "cannot be locked")(error)),
    }
}

fn directory_of(path: &Path, generation: u32, shard: u8) -> PathBuf {
    match generation {
        0 => path.join(format!("shard-{shard:03}")),
        _ => path.join(format!("shard-{shard:03}.{generation}")),
    }
}

/// The secret number of a log.
fn log_of(secret: [u64; 2], generation: u32, shard: u8) -> u64 {
    let which = u64::from(shard) << 56 ^ u64::from(generation) << 24;
    secret[0] ^ secret[1].rotate_left(32) ^ which
}

/// The content of `FORMAT`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct StoreFormat {
    shards: u8,
    generation: u32,
    secret: [u64; 2],
}

impl StoreFormat {
    fn text(&self) -> String {
        let StoreFormat { shards, generation, secret } = self;
        let [one, other] = secret;
        let text = format!(
            "ringmq-storage {VERSION}\nshards {shards}\nwriting {generation}\n\
             secret {one:016x}{other:016x}\n"
        );
        let checksum = crc32c::crc32c(text.as_bytes());
        format!("{text}checksum {checksum:08x}\n")
    }
}

fn begin(path: &Path, shards: u8, secret: [u64; 2]) -> std::io::Result<String> {
    // The directories are made before the file that names them.
    for shard in 0..shards {
        std::fs::create_dir_all(directory_of(path, 0, shard))?;
    }
    write_format(path, &StoreFormat { shards, generation: 0, secret })
}

/// Replaces `FORMAT`, durably and atomically.
/// Gives the files of a directory second names, in a directory beside it whose name begins with
/// `damaged-`.
fn keep(directory: &Path) -> std::io::Result<()> {
    let name = directory.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let kept = directory.with_file_name(format!("damaged-{name}"));
    if kept.exists() {
        // An earlier attempt ended before the switch.
        std::fs::remove_dir_all(&kept)?;
    }
    std::fs::create_dir(&kept)?;
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        std::fs::hard_link(entry.path(), kept.join(entry.file_name()))?;
    }
    File::open(&kept)?.sync_all()
}

fn write_format(path: &Path, format: &StoreFormat) -> std::io::Result<String> {
    let text = format.text();
    let (fresh, format) = (path.join("FORMAT.new"), path.join("FORMAT"));
    // The directories that `FORMAT` names have to be durable first.
    File::open(path)?.sync_all()?;
    let mut file = File::create(&fresh)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&fresh, &format)?;
    File::open(path)?.sync_all()?;
    Ok(text)
}

fn parse(text: &str) -> Result<StoreFormat, String> {
    let mut words = text.split_ascii_whitespace();
    let mut value = |name: &str| match (words.next(), words.next()) {
        (Some(word), Some(value)) if word == name => Ok(value),
        _ => Err(format!("there is no `{name}`")),
    };
    let version: u32 = value("ringmq-storage")?.parse().map_err(|_| "no version".to_owned())?;
    if version != VERSION {
        return Err(format!("it has version {version} of the format, this build knows {VERSION}"));
    }
    let shards = value("shards")?.parse().map_err(|_| "no number of shards".to_owned())?;
    let generation = value("writing")?.parse().map_err(|_| "no number of writings".to_owned())?;
    let secret = value("secret")?;
    let half = |range| secret.get(range).and_then(|half| u64::from_str_radix(half, 16).ok());
    let secret = match (half(0..16), half(16..32)) {
        (Some(one), Some(other)) => [one, other],
        _ => return Err("the secret is not 32 hexadecimal digits".to_owned()),
    };
    let format = StoreFormat { shards, generation, secret };
    if text != format.text() {
        return Err("the checksum is wrong".to_owned());
    }
    Ok(format)
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
