//! `ringmq storage …`: examines, repairs, compacts, moves and copies a store. The work itself is in
//! `ringmq::storage`.

use crate::arguments::{Given, Look};
use crate::{FAILED, MISUSED, complain, load};
use ringmq::storage::store::{Store, UnusableStore};
use ringmq::storage::{backup, inspect, portable};
use std::hash::BuildHasher;
use std::io::{self, BufWriter, Write};
use std::path::PathBuf;
use std::process::ExitCode;

/// Does what was asked for.
pub fn run(work: Look) -> ExitCode {
    match work {
        Look::Check { given, path, repair: false } => look(given, path, inspect::check),
        Look::Check { given, path, repair: true } => change(given, path, inspect::repair),
        Look::Show { given, path } => look(given, path, inspect::show),
        Look::Compact { given, path } => change(given, path, inspect::compact),
        Look::Export { given, path } => look(given, path, portable::export),
        Look::Import { path } => {
            let random = std::hash::RandomState::new();
            let fresh = [random.hash_one(1), random.hash_one(2)];
            outcome(portable::import(&path, &mut io::stdin().lock(), fresh))
        }
        Look::Backup { path, to } => outcome(backup::backup(&path, &to)),
    }
}

fn outcome(outcome: Result<(), UnusableStore>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(unusable) => {
            complain(&unusable);
            ExitCode::from(FAILED)
        }
    }
}

fn look(
    given: Given,
    path: Option<PathBuf>,
    look: impl Fn(&Store, &mut dyn Write) -> Result<(), UnusableStore>,
) -> ExitCode {
    change(given, path, |store, out| look(store, out))
}

fn change(
    given: Given,
    path: Option<PathBuf>,
    change: impl Fn(&mut Store, &mut dyn Write) -> Result<(), UnusableStore>,
) -> ExitCode {
    let path = match path {
        Some(path) => path,
        None => match load(given) {
            Err(code) => return code,
            Ok((_, config)) if config.storage.path.is_empty() => {
                complain(&"storage.path is not set; write `ringmq storage check PATH`");
                return ExitCode::from(MISUSED);
            }
            Ok((_, config)) => PathBuf::from(&*config.storage.path),
        },
    };
    let mut out = BufWriter::new(io::stdout().lock());
    let done = Store::existing(&path).and_then(|mut store| change(&mut store, &mut out));
    let flushed = out.flush();
    match (done, flushed) {
        (Ok(()), Err(error)) if error.kind() != io::ErrorKind::BrokenPipe => {
            complain(&format!("cannot write to standard output: {error}"));
            ExitCode::from(FAILED)
        }
        (done, _) => outcome(done),
    }
}
