//! The commands for an operator's look at a store: `ringmq storage check` and `show`, which change
//! nothing, and `check --repair` and `compact`, which change it while no broker uses it.

use super::image::Image;
use super::rewrite::{Placed, rewrite};
use super::store::{Store, UnusableStore};
use serde_json::json;
use std::io::Write;

fn written(outcome: std::io::Result<()>) -> Result<(), UnusableStore> {
    match outcome {
        // A reader that has closed the pipe (`| head`) is not a failure.
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(UnusableStore::new(format!("cannot write to standard output: {error}")))
        }
        _ => Ok(()),
    }
}

/// Reads every shard's log and prints what is in it; for a damaged one, what is lost and which
/// sessions lack something.
///
/// # Errors
/// When a log cannot be read or is damaged. The others are checked nevertheless.
pub fn check(store: &Store, out: &mut dyn Write) -> Result<(), UnusableStore> {
    let mut wrong = None;
    for shard in 0..store.shards {
        let line = match store.read(shard) {
            Ok((recovered, mut image, _)) => {
                let alive = image.finish(store.secret()).live();
                let used: u64 = recovered.found.segments.iter().map(|segment| segment.end).sum();
                let torn = recovered.torn.map_or(String::new(), |(segment, byte)| {
                    format!("; the last batch was torn by a crash (segment {segment}, byte {byte})")
                });
                format!(
                    "shard {shard}: whole; {} sessions, {} messages, {} retained, {} batches; {} \
                     segments of {used} bytes, {alive} alive{torn}",
                    image.count(),
                    image.messages.len(),
                    image.retained.len(),
                    recovered.found.last_batch,
                    recovered.found.segments.len(),
                )
            }
            Err(unusable) => {
                let line = format!("shard {shard}: {unusable}");
                wrong = wrong.or(Some(shard));
                let told = tell_lost(store, shard, out).map(drop);
                match told {
                    Ok(()) => line,
                    Err(more) => format!("{line}; {more}"),
                }
            }
        };
        written(writeln!(out, "{line}"))?;
    }
    match wrong {
        Some(shard) => Err(UnusableStore::new(format!("the log of shard {shard} cannot be used"))),
        None => written(out.flush()),
    }
}

/// Prints what is lost of a shard's log; returns the content that is whole.
fn tell_lost(store: &Store, shard: u8, out: &mut dyn Write) -> Result<Image, UnusableStore> {
    let (mut image, lost) = store.salvage(shard)?;
    for lost in &lost {
        written(writeln!(out, "shard {shard}: {lost}"))?;
    }
    for (number, name, what) in image.incomplete() {
        let name = name.map_or(String::new(), |name| format!(" of `{name}`"));
        written(writeln!(out, "shard {shard}: session {number}{name}: {what}"))?;
    }
    image.finish(store.secret());
    Ok(image)
}

/// Leaves everything on its shard.
fn as_it_is(_: Placed<'_>, source: u8) -> u8 {
    source
}

/// Rewrites a damaged store from the content that is whole, and prints what is lost. The old logs
/// stay under names that begin with `damaged-`. A store that is whole is left alone.
///
/// # Errors
/// When it cannot be read or written.
pub fn repair(store: &mut Store, out: &mut dyn Write) -> Result<(), UnusableStore> {
    let (mut images, mut damaged) = (Vec::new(), false);
    for shard in 0..store.shards {
        images.push(match store.read(shard) {
            Ok((_, mut image, _)) => {
                image.finish(store.secret());
                image
            }
            Err(unusable) => {
                damaged = true;
                written(writeln!(out, "shard {shard}: {unusable}"))?;
                tell_lost(store, shard, out)?
            }
        });
    }
    if damaged {
        let shards = store.shards;
        rewrite(store, &images, shards, &as_it_is, true)?;
        written(writeln!(out, "written anew; the damaged logs are in damaged-shard-*"))?;
    }
    check(store, out)
}

/// Rewrites the store without dead records.
///
/// # Errors
/// When it is damaged, or cannot be written.
pub fn compact(store: &mut Store, out: &mut dyn Write) -> Result<(), UnusableStore> {
    let (images, shards) = (store.images()?, store.shards);
    rewrite(store, &images, shards, &as_it_is, false)?;
    check(store, out)
}

/// Prints each session and retained message as a line of JSON, without payloads.
///
/// # Errors
/// When a log cannot be read or is damaged.
pub fn show(store: &Store, out: &mut dyn Write) -> Result<(), UnusableStore> {
    for shard in 0..store.shards {
        let (_, mut image, _) = store.read(shard)?;
        image.finish(store.secret());
        for (number, stored) in image.sessions() {
            let Some(head) = &stored.head else { continue };
            let subscriptions: Vec<&str> =
                stored.subscriptions.iter().map(|(filter, _)| &**filter).collect();
            let line = json!({
                "shard": shard, "session": number, "client_id": head.client_id,
                "mountpoint": head.mountpoint, "expiry_seconds": head.expiry,
                "ends_unix_millis": head.ends, "level": head.level,
                "subscriptions": subscriptions, "messages": stored.waiting.len(),
                "inbound": stored.inbound,
            });
            written(writeln!(out, "{line}"))?;
        }
        let mut topics: Vec<_> = image.retained.iter().collect();
        topics.sort_by_key(|(topic, _)| (*topic).clone());
        for (topic, body) in topics {
            let line = json!({
                "shard": shard, "retained": topic, "bytes": body.stored().payload.len(),
                "qos": body.flags & 3, "expires_unix_millis": body.expires,
            });
            written(writeln!(out, "{line}"))?;
        }
    }
    written(out.flush())
}
