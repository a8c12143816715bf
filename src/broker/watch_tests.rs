//! Lateness, on a clock of the test's own.

use super::*;

const ONE: ShardId = ShardId(1);

struct Scene {
    start: Instant,
    watch: Watch,
}

impl Scene {
    fn new() -> Scene {
        let start = Instant::now();
        Scene { start, watch: Watch::new(3, start) }
    }

    fn at(&self, millis: u64) -> Instant {
        self.start + Duration::from_millis(millis)
    }

    /// Looks every 500 ms; returns when (in ms) and who began to be late.
    fn look(&mut self, from: u64, to: u64) -> Vec<(u64, ShardId)> {
        let mut begun = Vec::new();
        for millis in (from..=to).step_by(500) {
            let now = self.at(millis);
            begun.extend(self.watch.look(now).into_iter().map(|(shard, _)| (millis, shard)));
        }
        begun
    }
}

#[test]
fn who_leaves_a_command_unanswered_is_late_once_until_it_answers() {
    let mut scene = Scene::new();
    scene.watch.asked(ONE, scene.start);
    assert_eq!(scene.look(0, 5_500), []);
    assert_eq!(scene.look(6_000, 60_000), [(6_000, ONE)], "said once");
    let late: Vec<_> = scene.watch.late().collect();
    assert_eq!(late, [(ONE, scene.start)]);
    let for_how_long = scene.watch.answered(ONE, scene.at(61_000));
    assert_eq!(for_how_long, Some(Duration::from_secs(61)));
    assert_eq!(scene.watch.late().count(), 0);
    // It can be late again.
    scene.watch.asked(ONE, scene.at(62_000));
    assert_eq!(scene.look(62_000, 70_000), [(68_000, ONE)]);
}

#[test]
fn who_answers_in_time_is_never_late() {
    let mut scene = Scene::new();
    for beat in 0..100 {
        let now = beat * 2000;
        scene.watch.asked(ONE, scene.at(now));
        assert_eq!(scene.look(now, now + 1999), []);
        // Each answer comes one beat late: there is always something open.
        if beat > 0 {
            assert_eq!(scene.watch.answered(ONE, scene.at(now + 1999)), None);
        }
    }
}

#[test]
fn who_answers_one_of_many_old_commands_is_still_late() {
    let mut scene = Scene::new();
    for at in [0, 1000, 9000] {
        scene.watch.asked(ONE, scene.at(at));
    }
    assert_eq!(scene.look(0, 10_000), [(6_000, ONE)]);
    assert_eq!(scene.watch.answered(ONE, scene.at(10_000)), None, "the second is 9 s old");
    let for_how_long = scene.watch.answered(ONE, scene.at(10_000));
    assert_eq!(for_how_long, Some(Duration::from_secs(10)));
    assert!(!scene.watch.is_quiet(ONE));
}

#[test]
fn time_in_which_the_whole_process_stood_still_is_nobodys_fault() {
    let mut scene = Scene::new();
    scene.watch.asked(ONE, scene.start);
    assert_eq!(scene.look(0, 1000), []);
    // SIGSTOP for a minute; then the control thread runs before the shard does.
    assert_eq!(scene.look(61_000, 61_000), []);
    assert_eq!(scene.watch.answered(ONE, scene.at(61_001)), None);
    // Who does not answer after it either is late in time.
    scene.watch.asked(ONE, scene.at(61_000));
    assert_eq!(scene.look(61_000, 90_000), [(67_000, ONE)]);
}

#[test]
fn a_round_is_done_when_everybody_has_answered_what_came_before_it() {
    let mut scene = Scene::new();
    let now = scene.start;
    assert!(scene.watch.is_done(&scene.watch.round()));
    for shard in 0..3 {
        scene.watch.asked(ShardId(shard), now);
    }
    let round = scene.watch.round();
    for shard in 0..3 {
        scene.watch.asked(ShardId(shard), now);
    }
    scene.watch.answered(ShardId(2), now);
    scene.watch.answered(ShardId(0), now);
    assert_eq!(scene.watch.missing(&round).collect::<Vec<_>>(), [ONE]);
    assert!(!scene.watch.is_done_by_all_in_time(&round));
    assert_eq!(scene.look(0, 6_000).len(), 3, "each has left the second command unanswered");
    assert!(scene.watch.is_done_by_all_in_time(&round));
    scene.watch.answered(ONE, now);
    assert!(scene.watch.is_done(&round) && !scene.watch.is_done(&scene.watch.round()));
}
