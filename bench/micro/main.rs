//! Measurements of single parts of the broker: `cargo bench --bench micro` runs all of them; names
//! after `--` select some (`cargo bench --bench micro -- codec echo`).
//!
//! The measurements print figures and judge nothing. `scripts/bench` measures whole brokers under
//! load. `scripts/instructions` counts instructions, which do not depend on other work of the
//! machine.

mod codec;
mod echo;
mod interest;
mod matching;
mod records;
mod retained;
mod rules;
mod timing;
mod wire;

/// The broker's own allocator, as bytes per filter depend on its size classes.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The name, the function, and what it measures.
const MEASUREMENTS: [(&str, fn(), &str); 11] = [
    ("codec", codec::run, "a PUBLISH and a PUBACK framed, decoded and encoded: ns"),
    ("matching", matching::run, "a topic against up to a million filters: ns"),
    ("retained", retained::run, "a million retained messages set and replayed: ns, bytes each"),
    ("exact", interest::exact, "a million filters without wildcard, indexed and shared: ns, bytes"),
    ("wildcard", interest::wildcard, "the same with a wildcard: ns, bytes each"),
    ("rules", rules::run, "a topic against 10 to 10,000 rules of access: ns"),
    ("records", records::run, "records of TLS beside the bare AEAD, a handshake: ns, us"),
    ("echo", echo::run, "20 bytes there and back, io_uring driver against epoll: CPU time"),
    ("bare", wire::bare, "the kernel's part: wake-up, receive, send, accept and close: us of CPU"),
    ("sends", wire::large_sends, "SEND and SEND_ZC by size: us of CPU; as root over veth, too"),
    ("polling", wire::busy_polling, "a ring that polls its device (NAPI) and one that waits: us"),
];

fn main() {
    // cargo bench adds an option `--bench`, which is not for this program.
    let words: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    let known = |word: &String| MEASUREMENTS.iter().any(|(name, ..)| name == word);
    if !words.iter().all(known) {
        eprintln!("cargo bench --bench micro [-- NAME...]");
        for (name, _, what) in MEASUREMENTS {
            eprintln!("  {name:<9} {what}");
        }
        std::process::exit(2);
    }
    if let [word] = &words[..] {
        for (name, run, what) in MEASUREMENTS {
            if name == word {
                println!("{name}: {what}");
                run();
            }
        }
        return;
    }
    // Each measurement runs in a process of its own: memory that an earlier one has freed would
    // otherwise count for the next one.
    let program = std::env::current_exe().expect("it has just been started");
    let all = MEASUREMENTS.map(|(name, ..)| name.to_owned()).to_vec();
    for name in if words.is_empty() { all } else { words } {
        let ended = std::process::Command::new(&program).arg(name).status();
        if !ended.expect("it starts a second time too").success() {
            std::process::exit(1);
        }
    }
}
