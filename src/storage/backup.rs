//! A copy of a store while a broker uses it: `ringmq storage backup`.
//!
//! Only the end of the newest segment grows, so copies that are made in the order of segment
//! numbers are the log as it was at some moment, with a torn tail at most. Meanwhile old segments
//! may also be dropped and their files reused. Then the copy cannot be read as a whole log, and is
//! made again.

use super::store::{Store, UnusableStore};
use std::fs::File;
use std::io;
use std::path::Path;

/// How often the copy of a shard's log is tried.
const TRIES: usize = 5;

/// Copies the store at `from` to a new directory `to`.
///
/// # Errors
/// When `to` exists, something cannot be read or written, or no try gave a whole copy.
pub fn backup(from: &Path, to: &Path) -> Result<(), UnusableStore> {
    let cannot = |error: io::Error| {
        let (from, to) = (from.display(), to.display());
        UnusableStore::new(format!("{from} cannot be copied to {to}: {error}"))
    };
    std::fs::create_dir(to).map_err(cannot)?;
    std::fs::copy(from.join("FORMAT"), to.join("FORMAT")).map_err(cannot)?;
    let shards = Store::existing(to)?.shards;
    for shard in 0..shards {
        let mut outcome = Err(UnusableStore::new("not copied"));
        for _ in 0..TRIES {
            // Opened anew each time, so that the lock of the copy is not held while it is made.
            let directory = Store::existing(to)?.directory(shard);
            let Some(name) = directory.file_name() else { continue };
            let copied = copy(&from.join(name), &directory);
            outcome = match copied {
                Ok(()) => Store::existing(to)?.read(shard).map(drop),
                // A segment was dropped after the directory was listed: the copy is tried again.
                Err(error) if error.kind() == io::ErrorKind::NotFound => Err(cannot(error)),
                Err(error) => return Err(cannot(error)),
            };
            if outcome.is_ok() {
                break;
            }
        }
        outcome?;
    }
    if std::fs::read(from.join("FORMAT")).ok() != std::fs::read(to.join("FORMAT")).ok() {
        let from = from.display();
        return Err(UnusableStore::new(format!(
            "{from} was written anew meanwhile; copy it again"
        )));
    }
    File::open(to).and_then(|directory| directory.sync_all()).map_err(cannot)
}

/// Copies the segments of a directory, in the order of their numbers.
fn copy(from: &Path, to: &Path) -> io::Result<()> {
    if to.exists() {
        std::fs::remove_dir_all(to)?;
    }
    std::fs::create_dir(to)?;
    let mut names = Vec::new();
    for entry in std::fs::read_dir(from)? {
        let name = entry?.file_name();
        if Path::new(&name).extension().is_some_and(|extension| extension == "seg") {
            names.push(name);
        }
    }
    names.sort();
    for name in names {
        std::fs::copy(from.join(&name), to.join(&name))?;
        File::open(to.join(&name))?.sync_all()?;
    }
    File::open(to)?.sync_all()
}
