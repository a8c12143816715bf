//! Reading a configuration takes time in proportion to its size, whatever it contains.

use std::time::{Duration, Instant};

use super::read::SUGGESTED;
use super::sources::TOLD;
use super::*;

/// The problems of a text, and the shortest time of three readings.
fn read_in_time(text: &str) -> (Vec<String>, Duration) {
    let mut least = Duration::MAX;
    let mut problems = Vec::new();
    for _ in 0..3 {
        let began = Instant::now();
        let found = Sources::default().load_from("f.yaml", text.as_bytes());
        least = least.min(began.elapsed());
        problems = found.err().map_or(Vec::new(), |Problems(list)| list);
    }
    (problems.iter().map(ToString::to_string).collect(), least)
}

/// Makes one kind of flood, with this many lines.
type Flood = fn(usize) -> String;

#[test]
fn a_flood_of_problems_costs_in_proportion_to_its_size() {
    let floods: [(&str, Flood); 9] = [
        ("unknown keys", |n| (0..n).map(|i| format!("kye{i}: 1\n")).collect()),
        ("unknown keys of a section", |n| {
            (0..n).fold("mqtt:\n".to_owned(), |text, i| text + &format!("  max_qo{i}: 1\n"))
        }),
        ("one key again and again", |n| "cores: auto\n".repeat(n)),
        ("listeners", |n| {
            let bind = |i: usize| format!("127.{}.{}.1:1883", i / 250, i % 250);
            let listener = |i| format!("- {{name: l{i}, bind: \"{}\"}}\n", bind(i));
            "listeners:\n".to_owned() + &(0..n / 4).map(listener).collect::<String>()
        }),
        ("equal listeners with wrong keys", |n| {
            "listeners:\n".to_owned() + &"- {name: a, bnid: 1, backlog: x}\n".repeat(n / 4)
        }),
        ("wrong values of many listeners", |n| {
            let wrong = "- {name: [], type: x, bind: y, max_connections: z, backlog: [], tls: 1}\n";
            "listeners:\n".to_owned() + &wrong.repeat(n / 4)
        }),
        ("elements without keys", |n| "listeners:\n".to_owned() + &"-\n".repeat(n)),
        ("one long value", |n| format!("mqtt: {{max_qos: {}}}\n", "x".repeat(16 * n))),
        ("cores", |n| format!("cores: [{}]\n", "0, ".repeat(n) + "0")),
    ];
    for (what, flood) in floods {
        let ((_, some), (problems, many)) =
            (read_in_time(&flood(10_000)), read_in_time(&flood(40_000)));
        // Four times the lines take four times as long, or sixteen times where something is
        // quadratic. Times below a second are too short to compare, and do no harm.
        let bound = (some * 9).max(Duration::from_millis(800));
        assert!(many <= bound, "{what}: {some:?} for 10,000 lines, {many:?} for 40,000");
        assert!(problems.len() <= TOLD + 1, "{what}: {} problems are told", problems.len());
        if what.contains("unknown") {
            let suggestions = problems.iter().filter(|problem| problem.contains("did you mean"));
            let suggestions = suggestions.count();
            assert!(suggestions <= SUGGESTED, "{what}: {suggestions} suggestions");
            let last = problems.last().unwrap();
            let more = 40_000 - TOLD;
            assert!(last.contains(&format!("{more} more problems are not listed")), "{last}");
        }
    }
}
