//! A copy of a store while a broker uses it: `ringmq storage backup`.
//!
//! Segments only grow at the end of the newest, so copies made in the order of their numbers are
//! the log as it was at some moment, with a torn tail at most. What changes meanwhile besides is
//! that old segments go and their files are used again: then a copy does not read as a whole log,
//! and is made again.

use super::store::{Store, Unusable};
use std::fs::File;
use std::io;
use std::path::Path;

/// How often a shard's log is copied at most.
const TRIES: usize = 5;

/// Copies the store at `from` to a new directory `to`.
///
/// # Errors
/// When `to` is there, something cannot be read or written, or no copy was whole.
pub fn backup(from: &Path, to: &Path) -> Result<(), Unusable> {
    let cannot = |error: io::Error| {
        let (from, to) = (from.display(), to.display());
        Unusable::new(format!("{from} cannot be copied to {to}: {error}"))
    };
    std::fs::create_dir(to).map_err(cannot)?;
    std::fs::copy(from.join("FORMAT"), to.join("FORMAT")).map_err(cannot)?;
    let shards = Store::existing(to)?.shards;
    for shard in 0..shards {
        let mut outcome = Err(Unusable::new("not copied"));
        for _ in 0..TRIES {
            // Anew each time, so that its lock is not held while it is copied.
            let directory = Store::existing(to)?.directory(shard);
            let Some(name) = directory.file_name() else { continue };
            let copied = copy(&from.join(name), &directory);
            outcome = match copied {
                Ok(()) => Store::existing(to)?.read(shard).map(drop),
                // A segment that was listed is gone: it was removed meanwhile.
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
        return Err(Unusable::new(format!("{from} was written anew meanwhile; copy it again")));
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
