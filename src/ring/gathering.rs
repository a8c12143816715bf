//! How long a core that sleeps lets events gather before it turns: `runtime.coalesce`.
//!
//! A wake-up costs more than handling a small message, so under steady light traffic a core that
//! waits some hundred microseconds after it went to sleep handles several events per wake-up. That
//! is no use where events come together anyway, and it is harmful where clients wait for an answer
//! before they send again (a *closed loop*): they then send less. Which of these a core sees cannot
//! be told from one event, but from what happens when it waits and when it does not.
//!
//! [`Gathering`] decides this for one core, by experiment. Time is divided into *slots* of some
//! milliseconds. Nearly all slots use the mode that has proved better; now and then one slot in
//! between tries the other mode (a *probe*) and is compared with its two neighbours. The difference
//! of the packet rates, with its standard error over many such comparisons, says whether waiting
//! slows anybody down; the events that are handled at a time say whether it saves anything. Events
//! do not say who is slowed down: while a core waits, several packets for one client become one
//! send, and their acknowledgements one receive, so that there are fewer events for the same
//! packets. Each verdict that confirms the mode doubles the time until the next probe, up to a
//! bound. While a core gathers, traffic that has changed starts the experiment anew. While little
//! happens nothing is tried, for there is nothing to save.
//!
//! Pure: time, events and packets are arguments. Not here: the waiting itself (`idle`, `uring`).

use std::time::Duration;

/// How long `auto` gathers.
pub(super) const WAIT: Duration = Duration::from_micros(300);
/// A slot lasts at least this long, nanoseconds.
const SLOT: u64 = 4_000_000;
/// And so long that about so many packets are to be expected, for its rate to mean something,
const SLOT_PACKETS: f64 = 64.0;
/// but not longer than this. A slot does not end with an event: the rate would seem too high.
const LONGEST_SLOT: u64 = 50_000_000;
/// When the mode has changed, nothing is counted for so long, nanoseconds: an acknowledgement that
/// comes later because its message did would be missing in one slot and one too many in the next.
const SETTLING: u64 = 1_500_000;
/// Sleeps per second below which there is nothing to save.
const WORTH: f64 = 1000.0;
/// Events per second below which a core that gathers stops.
const FEW: f64 = 500.0;
/// So many slots without traffic, or with other traffic than before, and what was learnt is void.
const CHANGED: u32 = 4;
/// Rates that differ by more than this factor are another traffic.
const OTHER: f64 = 2.0;
/// The first time between probes after a verdict, nanoseconds; doubled with each further one.
const SHORTEST_PAUSE: u64 = 8_000_000;
/// The longest one while the core does not gather: a probe may slow clients down.
const LONGEST_PAUSE: u64 = 1_000_000_000;
/// The longest one while it gathers: a probe only costs CPU time, and clients that it slows down by
/// now have to be noticed.
const LONGEST_GATHERING_PAUSE: u64 = 250_000_000;
/// Comparisons that are remembered: each counts this much less than the next.
const MEMORY: f64 = 128.0;
/// Comparisons before any verdict.
const LEAST: f64 = 4.0;
/// With so many comparisons and no verdict the estimate decides.
const MANY: f64 = 100.0;
/// A loss of packet rate that is acceptable.
const ACCEPTABLE: f64 = 0.02;
/// While it is estimated to be smaller than that, it may be so large within [`SURE`] standard
/// errors.
const POSSIBLE: f64 = 0.1;
/// A loss that is no accident even if there were only a few comparisons.
const PLAIN: f64 = 0.2;
/// Gathering has to save this part of the times that an event needs the core,
const SAVING: f64 = 0.2;
/// and there must be more of them than this without it: else most of the CPU time goes elsewhere.
const TOGETHER: f64 = 1.0 / 8.0;
/// Standard errors that a loss must be away from zero, and from [`POSSIBLE`]. A verdict is looked
/// for after each comparison, so by chance alone two are exceeded sooner or later.
const SURE: f64 = 3.0;

/// What the configuration says.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Coalesce {
    /// Wake for each event.
    #[default]
    Off,
    /// Gather while that helps.
    Auto,
    /// Always gather for this long.
    For(Duration),
}

/// Decides for one core.
pub(super) struct Gathering {
    coalesce: Coalesce,
    /// The mode that has proved better.
    gathers: bool,
    /// The slot under way tries the other mode.
    probing: bool,
    slot: GatheringSlot,
    /// How long it is to last, nanoseconds.
    length: u64,
    /// It has not begun yet: the mode has just changed.
    settling: bool,
    /// Packets that clients have sent and were sent, since the start.
    packets: u64,
    /// The last slot of the better mode, if it can be compared with a probe.
    before: Option<Measured>,
    /// The probe after it.
    probe: Option<Measured>,
    /// When the next probe is due.
    due: u64,
    pause: u64,
    evidence: Evidence,
    usual: Option<Measured>,
    /// Slots in a row that were unusual.
    unusual: u32,
    quiet: u32,
    pub(super) probes: u64,
    pub(super) switches: u64,
}

/// What happens in a slot.
#[derive(Default)]
struct GatheringSlot {
    began: u64,
    /// [`Gathering::packets`] when it began.
    packets_before: u64,
    events: u64,
    /// Times that events were handled.
    turns: u64,
    sleeps: u64,
}

/// A slot that is over.
#[derive(Clone, Copy)]
struct Measured {
    /// Per second.
    packets: f64,
    /// Per second.
    events: f64,
    /// Per second.
    turns: f64,
    /// Per second.
    sleeps: f64,
}

impl Measured {
    fn per_event(&self) -> f64 {
        self.turns / self.events.max(1.0)
    }

    /// Whether this is other traffic, or the clients behave otherwise.
    fn differs(&self, usual: &Measured) -> bool {
        let far = |a: f64, b: f64| a > OTHER * b || b > OTHER * a;
        far(self.events, usual.events) || far(self.per_event(), usual.per_event())
    }

    fn drift(&mut self, latest: &Measured) {
        self.events += (latest.events - self.events) / 32.0;
        self.turns += (latest.turns - self.turns) / 32.0;
    }
}

/// Sums over comparisons, later ones counting more.
#[derive(Default)]
struct Evidence {
    comparisons: f64,
    /// How much lower the packet rate is with gathering, as a part of the higher one: between -1
    /// and 1, so that a moment in which the core did not run does not count for more than others.
    loss: f64,
    squares: f64,
    /// Wake-ups per event without and with it.
    awake: f64,
    gathered: f64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum GatherVerdict {
    Gather,
    DoNot,
    Unknown,
}

impl Evidence {
    fn add(&mut self, without: Measured, with: Measured) {
        let keep = 1.0 - 1.0 / MEMORY;
        let loss = (without.packets - with.packets) / without.packets.max(with.packets).max(1.0);
        if self.comparisons >= LEAST && self.estimate() > PLAIN && loss < ACCEPTABLE {
            *self = Evidence::default(); // that was other traffic
        }
        let add = |sum: &mut f64, value: f64| *sum = *sum * keep + value;
        add(&mut self.comparisons, 1.0);
        add(&mut self.loss, loss);
        add(&mut self.squares, loss * loss);
        add(&mut self.awake, without.per_event());
        add(&mut self.gathered, with.per_event());
    }

    /// How much less is handled with gathering, as a part of the whole.
    fn estimate(&self) -> f64 {
        self.loss / self.comparisons.max(1.0)
    }

    /// From here on the half counts, but enough for a verdict.
    fn fade(&mut self) {
        let keep = (LEAST / self.comparisons).clamp(0.5, 1.0);
        let Evidence { comparisons, loss, squares, awake, gathered } = self;
        for sum in [comparisons, loss, squares, awake, gathered] {
            *sum *= keep;
        }
    }

    fn verdict(&self) -> GatherVerdict {
        let n = self.comparisons;
        if n < LEAST {
            return GatherVerdict::Unknown;
        }
        if self.gathered > (1.0 - SAVING) * self.awake || self.awake < TOGETHER * n {
            return GatherVerdict::DoNot;
        }
        let mean = self.loss / n;
        let variance = (self.squares / n - mean * mean).max(0.0);
        // Of few comparisons the variance is uncertain itself.
        let error = SURE * (1.0 + 2.0 / (n - 1.0)) * (variance / (n - 1.0)).sqrt();
        let loss = self.estimate();
        if loss > PLAIN || loss > ACCEPTABLE && loss > error {
            GatherVerdict::DoNot
        } else if loss < ACCEPTABLE && loss + error < POSSIBLE {
            GatherVerdict::Gather
        } else {
            GatherVerdict::Unknown
        }
    }
}

impl Gathering {
    pub(super) fn new(coalesce: Coalesce) -> Self {
        Gathering {
            coalesce,
            gathers: false,
            probing: false,
            slot: GatheringSlot::default(),
            length: SLOT,
            settling: false,
            packets: 0,
            before: None,
            probe: None,
            due: 0,
            pause: 0,
            evidence: Evidence::default(),
            usual: None,
            unusual: 0,
            quiet: 0,
            probes: 0,
            switches: 0,
        }
    }

    /// So many events were handled.
    #[inline]
    pub(super) fn handled(&mut self, events: usize) {
        self.slot.events += events as u64;
        self.slot.turns += u64::from(events > 0);
    }

    /// Clients have sent and were sent so many packets since the start. To be told before
    /// [`Gathering::before_sleep`].
    #[inline]
    pub(super) fn exchanged(&mut self, packets: u64) {
        self.packets = packets;
    }

    /// The core is about to sleep, at `now` in nanoseconds of any clock: how long events are to
    /// gather.
    pub(super) fn before_sleep(&mut self, now: u64) -> Duration {
        match self.coalesce {
            Coalesce::Off => return Duration::ZERO,
            Coalesce::For(wait) => return wait,
            Coalesce::Auto => {}
        }
        self.slot.sleeps += 1;
        let lasted = now.saturating_sub(self.slot.began);
        if self.settling {
            if lasted >= SETTLING {
                self.begin_slot(now);
                self.settling = false;
            }
        } else if lasted >= self.length {
            let slot = self.begin_slot(now);
            let per_second = |count: u64| count as f64 * 1e9 / lasted as f64;
            let (events, turns) = (per_second(slot.events), per_second(slot.turns));
            let packets = per_second(self.packets.saturating_sub(slot.packets_before));
            let measured = Measured { packets, events, turns, sleeps: per_second(slot.sleeps) };
            let before = self.wait();
            self.learn(measured, now);
            self.settling = self.wait() != before;
        }
        self.wait()
    }

    /// Begins a slot; returns the one before.
    fn begin_slot(&mut self, now: u64) -> GatheringSlot {
        let packets_before = self.packets;
        let slot = GatheringSlot { began: now, packets_before, ..GatheringSlot::default() };
        std::mem::replace(&mut self.slot, slot)
    }

    /// How long events gather in the slot under way.
    pub(super) fn wait(&self) -> Duration {
        match self.coalesce {
            Coalesce::Off => Duration::ZERO,
            Coalesce::For(wait) => wait,
            Coalesce::Auto if self.gathers != self.probing => WAIT,
            Coalesce::Auto => Duration::ZERO,
        }
    }

    /// A slot is over; says what the next one is.
    fn learn(&mut self, measured: Measured, now: u64) {
        let enough = if self.gathers { measured.events >= FEW } else { measured.sleeps >= WORTH };
        if std::mem::take(&mut self.probing) {
            self.probe = self.before.map(|_| measured);
            return;
        }
        if !enough {
            (self.before, self.probe) = (None, None);
            self.quiet += 1;
            // Without gathering there is nothing to end, and what was learnt may still hold.
            if self.quiet == CHANGED && self.gathers {
                self.start_anew(now);
                self.gathers = false;
            }
            return;
        }
        self.quiet = 0;
        if let (Some(before), Some(probe)) = (self.before, self.probe.take()) {
            let middle = Measured {
                packets: (before.packets + measured.packets) / 2.0,
                events: (before.events + measured.events) / 2.0,
                turns: (before.turns + measured.turns) / 2.0,
                sleeps: (before.sleeps + measured.sleeps) / 2.0,
            };
            let (without, with) = if self.gathers { (probe, middle) } else { (middle, probe) };
            self.evidence.add(without, with);
            if self.judge(now) {
                return;
            }
        }
        self.compare_with_usual(measured, now);
        let expected = (SLOT_PACKETS / measured.packets * 1e9) as u64;
        self.length = expected.clamp(SLOT, LONGEST_SLOT);
        self.before = Some(measured);
        if now >= self.due {
            (self.probing, self.probes) = (true, self.probes + 1);
        }
    }

    /// True when the mode has changed.
    fn judge(&mut self, now: u64) -> bool {
        let better = match self.evidence.verdict() {
            GatherVerdict::Gather => true,
            GatherVerdict::DoNot => false,
            GatherVerdict::Unknown if self.evidence.comparisons < MANY => return false,
            // A little more is needed for a change than for going on.
            GatherVerdict::Unknown => {
                let acceptable = if self.gathers { 2.0 * ACCEPTABLE } else { ACCEPTABLE };
                self.evidence.estimate() < acceptable
            }
        };
        if !better {
            self.evidence.fade();
        }
        let changes = better != self.gathers;
        if changes {
            (self.gathers, self.switches) = (better, self.switches + 1);
            self.pause = SHORTEST_PAUSE;
            (self.usual, self.before) = (None, None);
        } else {
            let longest = if better { LONGEST_GATHERING_PAUSE } else { LONGEST_PAUSE };
            self.pause = (self.pause * 2).clamp(SHORTEST_PAUSE, longest);
        }
        self.due = now + self.pause;
        changes
    }

    fn compare_with_usual(&mut self, measured: Measured, now: u64) {
        let Some(usual) = &mut self.usual else {
            self.usual = Some(measured);
            return;
        };
        if !measured.differs(usual) {
            usual.drift(&measured);
            self.unusual = 0;
            return;
        }
        self.unusual += 1;
        // Without gathering nobody is slowed down, and the next probe tells.
        if self.unusual == CHANGED && self.gathers {
            self.start_anew(now);
        }
    }

    /// What was learnt is about other traffic. The mode stays until there is a verdict.
    fn start_anew(&mut self, now: u64) {
        self.evidence = Evidence::default();
        (self.usual, self.before, self.probe) = (None, None, None);
        (self.unusual, self.quiet) = (0, 0);
        (self.pause, self.due) = (0, now);
    }
}

#[cfg(test)]
#[path = "gathering_tests.rs"]
mod tests;
