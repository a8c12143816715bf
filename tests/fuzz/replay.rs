//! The corpus as tests: each file, then mutations of it from a fixed seed until the time is up.

use crate::rng::Rng;
use crate::{
    access, bridges, cluster, config, decode, filters, frames, layers, queues, session, storage,
    tls,
};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Longest mutated input, bytes.
const LONGEST: usize = 2048;

/// The files of one target's corpus, in the order of their names.
fn corpus(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(target);
    // A slow machine, such as an emulated one, asks for the first few.
    let most = std::env::var("FUZZ_FILES").ok().and_then(|most| most.parse().ok());
    let entries = std::fs::read_dir(&directory).expect("every target has a corpus");
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    assert!(paths.len() >= 10, "{}: {} files", directory.display(), paths.len());
    paths.truncate(most.unwrap_or(usize::MAX));
    paths.into_iter().map(|path| (path.clone(), std::fs::read(path).unwrap())).collect()
}

/// A few changes, as a fuzzer without feedback makes them.
fn mutate(rng: &mut Rng, mut bytes: Vec<u8>, other: &[u8]) -> Vec<u8> {
    for _ in 0..rng.range(1, 6) {
        let at = rng.below(bytes.len() + 1);
        match rng.below(6) {
            0 if at < bytes.len() => bytes[at] ^= 1 << rng.below(8),
            1 if at < bytes.len() => bytes[at] = rng.next() as u8,
            2 => bytes.insert(at, [0, 1, 0x7F, 0x80, 0xFF, rng.next() as u8][rng.below(6)]),
            3 => drop(bytes.drain(at..(at + rng.below(9)).min(bytes.len()))),
            4 if !other.is_empty() => {
                let from = rng.below(other.len());
                let piece = &other[from..(from + 1 + rng.below(64)).min(other.len())];
                bytes.splice(at..at, piece.iter().copied());
            }
            _ => bytes.truncate(at.max(2)),
        }
    }
    bytes.truncate(LONGEST);
    bytes
}

/// Replays, then mutates: at most `most` inputs, and no longer than a few seconds.
fn replay(target: &str, run: fn(&[u8]), most: usize) {
    let corpus = corpus(target);
    let mut failed = Vec::new();
    for (path, bytes) in &corpus {
        if catch_unwind(AssertUnwindSafe(|| run(bytes))).is_err() {
            failed.push(path.display().to_string());
        }
    }
    assert!(failed.is_empty(), "scripts/fuzz --replay these: {failed:#?}");
    let began = Instant::now();
    // Longer, and with other mutations, where the environment says so.
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seconds = number("FUZZ_SECONDS");
    let most = if seconds.is_some() { usize::MAX } else { most };
    let mut rng = Rng::new(number("FUZZ_SEED").unwrap_or(1));
    for round in 0..most {
        if began.elapsed() > Duration::from_secs(seconds.unwrap_or(4)) {
            break;
        }
        let (base, other) = (rng.below(corpus.len()), rng.below(corpus.len()));
        let bytes = mutate(&mut rng, corpus[base].1.clone(), &corpus[other].1);
        if catch_unwind(AssertUnwindSafe(|| run(&bytes))).is_err() {
            let name = format!("fuzz-{target}-{round}");
            let path = std::env::temp_dir().join(name);
            std::fs::write(&path, &bytes).unwrap();
            panic!("{target}, mutation {round}: scripts/fuzz --replay {target} {}", path.display());
        }
    }
}

#[test]
fn nodes_survive_the_corpus_and_its_neighbours() {
    replay("cluster", cluster::run, 20_000);
}

#[test]
fn decode_survives_the_corpus_and_its_neighbours() {
    replay("decode", decode::run, 100_000);
}

#[test]
fn session_survives_the_corpus_and_its_neighbours() {
    replay("session", session::run, 3000);
}

#[test]
fn filters_survive_the_corpus_and_its_neighbours() {
    replay("filters", filters::run, 10_000);
}

#[test]
fn config_survives_the_corpus_and_its_neighbours() {
    replay("config", config::run, 10_000);
}

#[test]
fn queues_survive_the_corpus_and_its_neighbours() {
    replay("queues", queues::run, 20_000);
}

#[test]
fn frames_survive_the_corpus_and_its_neighbours() {
    replay("frames", frames::run, 50_000);
}

#[test]
fn layers_survive_the_corpus_and_its_neighbours() {
    replay("layers", layers::run, 100_000);
}

#[test]
fn access_survives_the_corpus_and_its_neighbours() {
    replay("access", access::run, 20_000);
}

#[test]
fn bridges_survive_the_corpus_and_its_neighbours() {
    replay("bridges", bridges::run, 20_000);
}

#[test]
fn storage_survives_the_corpus_and_its_neighbours() {
    replay("storage", storage::run, 20_000);
}

#[test]
fn tls_survives_the_corpus_and_its_neighbours() {
    replay("tls", tls::run, 10_000);
}

#[test]
fn the_session_corpus_gets_clients_in_and_messages_through() {
    // Otherwise what it does not find says little.
    let (mut packets, mut connections) = (0, 0);
    for (_, bytes) in corpus("session") {
        let seen = session::play(&bytes);
        packets += seen.packets;
        connections += seen.connections;
    }
    if std::env::var_os("FUZZ_FILES").is_some() {
        return;
    }
    assert!(connections > 100 && packets > connections + 100, "{packets} to {connections}");
}
