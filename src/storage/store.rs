//! A store on disk: its directory, who may use it, and what all its logs have in common.
//!
//! `FORMAT` is a small text file: the version of the format, how many shards there are, and a
//! secret that places ClientIds and topics and that no client may learn. `LOCK` is locked while a
//! process uses the store. Each shard has a directory `shard-NNN`.

use super::files::Files;
use super::image::Image;
use super::log::{Bounds, Log};
use super::record::Secret;
use super::recovery::{self, Recovered, Trouble};
use std::fmt;
use std::fs::{File, TryLockError};
use std::io::Write;
use std::path::{Path, PathBuf};

/// The version of the format that this build writes, and the only one so far.
const VERSION: u32 = 1;

/// Why a store cannot be used, in one or two sentences.
#[derive(Debug)]
pub struct Unusable(String);

impl Unusable {
    /// With that text.
    pub fn new(what: impl fmt::Display) -> Unusable {
        Unusable(what.to_string())
    }
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Unusable {}

fn unusable<E: fmt::Display>(path: &Path, what: &str) -> impl FnOnce(E) -> Unusable {
    let place = format!("storage.path: {}: {what}", path.display());
    move |error| Unusable(format!("{place}: {error}"))
}

/// A store that this process has for itself.
pub struct Store {
    path: PathBuf,
    /// How many shards it has.
    pub shards: u8,
    secret: [u64; 2],
    _lock: File,
}

/// A shard's part of a store, read back.
pub struct Part {
    /// Its log, which goes on.
    pub log: Log,
    /// Its files.
    pub files: Files,
    /// What was stored.
    pub image: Image,
    /// Where the last batch was torn, if it was.
    pub torn: Option<(u32, u64)>,
}

impl Store {
    /// Opens the store at `path`, or makes one for so many shards when nothing is there.
    ///
    /// # Errors
    /// When the directory cannot be used, another process uses it, it was made for another number
    /// of shards, or by a later version.
    pub fn open(path: &Path, shards: u8, fresh: [u64; 2]) -> Result<Store, Unusable> {
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
        let (stored, secret) = parse(&text).map_err(unusable(&format, "is damaged"))?;
        if stored != shards {
            return Err(Unusable(format!(
                "storage.path: {} was made for {stored} shards and there are {shards} now; run \
                 with `cores` of {stored} entries",
                path.display()
            )));
        }
        Ok(Store { path: path.to_owned(), shards, secret, _lock: lock })
    }

    /// Opens a store that is there, to look at it.
    ///
    /// # Errors
    /// When there is none, or another process uses it.
    pub fn existing(path: &Path) -> Result<Store, Unusable> {
        let format = path.join("FORMAT");
        let text = std::fs::read_to_string(&format).map_err(unusable(&format, "cannot be read"))?;
        let lock = lock(path)?;
        let (shards, secret) = parse(&text).map_err(unusable(&format, "is damaged"))?;
        Ok(Store { path: path.to_owned(), shards, secret, _lock: lock })
    }

    /// The secret under which ClientIds and topics are placed.
    pub fn placement(&self) -> [u64; 2] {
        self.secret
    }

    /// The secret of keys.
    pub fn secret(&self) -> Secret {
        Secret([self.secret[0].rotate_left(17), !self.secret[1]])
    }

    fn log(&self, shard: u8) -> u64 {
        self.secret[0] ^ self.secret[1].rotate_left(32) ^ u64::from(shard) << 56
    }

    /// The directory of a shard.
    pub fn directory(&self, shard: u8) -> PathBuf {
        directory_of(&self.path, shard)
    }

    /// Reads a shard's log. Nothing is changed.
    ///
    /// # Errors
    /// When it cannot be read, or is damaged: which file, where, and what.
    pub fn read(&self, shard: u8) -> Result<(Recovered, Image, Files), Unusable> {
        let directory = self.directory(shard);
        if !directory.is_dir() {
            return Err(Unusable(format!(
                "storage.path: {} is missing, which was made with the store; restore it",
                directory.display()
            )));
        }
        let mut files = Files::open(&directory).map_err(unusable(&directory, "cannot be used"))?;
        let segments = files.segments().map_err(unusable(&directory, "cannot be read"))?;
        let (mut image, secret) = (Image::default(), self.secret());
        let mut read = |segment, offset, length| {
            files.read(segment, offset, length).map_err(|error| error.to_string())
        };
        let recovered =
            recovery::recover(self.log(shard), &segments, &mut read, &mut |record, at| {
                image.take(record, at, secret);
            })
            .map_err(|trouble| Unusable(describe(&directory, &trouble)))?;
        Ok((recovered, image, files))
    }

    /// Reads a shard's log and goes on with it.
    ///
    /// # Errors
    /// As [`Store::read`], and when what is of no use any more cannot be removed.
    pub fn resume(&self, shard: u8, bounds: Bounds) -> Result<Part, Unusable> {
        let (recovered, mut image, mut files) = self.read(shard)?;
        let directory = self.directory(shard);
        for segment in recovered.unused {
            files.drop_segment(segment).map_err(unusable(&directory, "cannot be changed"))?;
        }
        let mut log = Log::new(self.log(shard), self.secret(), bounds, recovered.found);
        image.finish().into_iter().for_each(|(key, value)| log.adopt(key, value));
        Ok(Part { log, files, image, torn: recovered.torn })
    }
}

fn describe(directory: &Path, trouble: &Trouble) -> String {
    let segment = match trouble {
        Trouble::Unreadable { segment, .. }
        | Trouble::Newer { segment, .. }
        | Trouble::Damaged { segment, .. } => *segment,
    };
    let file = directory.join(format!("{segment:010}.seg"));
    let advice = match trouble {
        Trouble::Damaged { .. } => {
            "; nothing was changed: restore a copy of storage.path, or move it away to begin anew"
        }
        Trouble::Unreadable { .. } | Trouble::Newer { .. } => "",
    };
    format!("storage.path: {}: {trouble}{advice}", file.display())
}

/// Makes sure that no other process uses the store.
fn lock(path: &Path) -> Result<File, Unusable> {
    let name = path.join("LOCK");
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&name)
        .map_err(unusable(&name, "cannot be opened"))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Unusable(format!(
            "storage.path: {} is used by another process; each broker needs a path of its own",
            path.display()
        ))),
        Err(TryLockError::Error(error)) => Err(unusable(&name, "cannot be locked")(error)),
    }
}

fn directory_of(path: &Path, shard: u8) -> PathBuf {
    path.join(format!("shard-{shard:03}"))
}

fn text_of(shards: u8, secret: [u64; 2]) -> String {
    let text = format!(
        "ringmq-storage {VERSION}\nshards {shards}\nsecret {:016x}{:016x}\n",
        secret[0], secret[1]
    );
    let checksum = crc32c::crc32c(text.as_bytes());
    format!("{text}checksum {checksum:08x}\n")
}

fn begin(path: &Path, shards: u8, secret: [u64; 2]) -> std::io::Result<String> {
    // Before the file that says that they are there.
    for shard in 0..shards {
        std::fs::create_dir_all(directory_of(path, shard))?;
    }
    let text = text_of(shards, secret);
    let (fresh, format) = (path.join("FORMAT.new"), path.join("FORMAT"));
    let mut file = File::create(&fresh)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&fresh, &format)?;
    File::open(path)?.sync_all()?;
    Ok(text)
}

fn parse(text: &str) -> Result<(u8, [u64; 2]), String> {
    let mut words = text.split_ascii_whitespace();
    let mut value = |name: &str| match (words.next(), words.next()) {
        (Some(word), Some(value)) if word == name => Ok(value),
        _ => Err(format!("there is no `{name}`")),
    };
    let version: u32 = value("ringmq-storage")?.parse().map_err(|_| "no version".to_owned())?;
    if version != VERSION {
        return Err(format!("it has version {version} of the format, this build knows {VERSION}"));
    }
    let shards: u8 = value("shards")?.parse().map_err(|_| "no number of shards".to_owned())?;
    let secret = value("secret")?;
    let half = |range| secret.get(range).and_then(|half| u64::from_str_radix(half, 16).ok());
    let secret = match (half(0..16), half(16..32)) {
        (Some(one), Some(other)) => [one, other],
        _ => return Err("the secret is not 32 hexadecimal digits".to_owned()),
    };
    if text != text_of(shards, secret) {
        return Err("the checksum is wrong".to_owned());
    }
    Ok((shards, secret))
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
