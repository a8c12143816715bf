//! The cost of a publisher and a subscriber that live on different shards: the same pairs, once
//! with a common home shard and once with two, alternate on one broker.

use super::{RunSettings, TrafficPlan, traffic};
use crate::clients::join::Names;
use crate::placement::{self, Placement};
use crate::report;
use serde_json::{Map, Value, json};

const ROUNDS: u32 = 3;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Homes {
    Common,
    Apart,
}

/// Runs pairs at full speed (`full`) and at a low rate (`paced`), each with both kinds of homes, on
/// a broker of `settings.shards` shards.
pub fn run(full: TrafficPlan, paced: TrafficPlan, settings: &RunSettings) -> Result<Value, String> {
    let shards = settings.shards;
    if !(2..=64).contains(&shards) {
        return Err("crossshard needs a broker with 2 to 64 shards (--shards)".into());
    }
    let admin = settings.admin.ok_or("crossshard needs the broker's admin server (--admin)")?;
    let mut result = Map::new();
    for (speed, plan) in [("full", full), ("paced", paced)] {
        let (mut common, mut apart) = (Vec::new(), Vec::new());
        for round in 0..settings.repeat.unwrap_or(ROUNDS) {
            for homes in [Homes::Common, Homes::Apart] {
                let kind = if homes == Homes::Common { "same" } else { "other" };
                let salt = format!("{}-{speed}-{kind}-{round}", settings.salt);
                let mut placement = Placement::of(admin)?;
                let names = names(&plan, &salt, homes, shards, |id| placement.home_of(id))?;
                drop(placement);
                let mut settings = settings.clone();
                settings.salt = salt;
                let report = traffic::run(plan, names, &settings)?;
                match homes {
                    Homes::Common => common.push(report),
                    Homes::Apart => apart.push(report),
                }
            }
        }
        let (common, apart) = (report::median(&common), report::median(&apart));
        let cost = |report: &Value| report::number(report, "cpu_us");
        let ratio = cost(&apart).zip(cost(&common)).map(|(a, c)| a / c);
        result.insert(speed.into(), json!({"same": common, "other": apart, "cpu_ratio": ratio}));
    }
    result.insert("shards".into(), shards.into());
    result.insert("rounds".into(), settings.repeat.unwrap_or(ROUNDS).into());
    Ok(Value::Object(result))
}

/// ClientIds such that subscriber n lives on shard n modulo the number of shards, and its publisher
/// on the same or on the next shard: the load of the shards is the same either way.
fn names(
    plan: &TrafficPlan,
    salt: &str,
    homes: Homes,
    shards: u8,
    mut home_of: impl FnMut(&str) -> Result<u8, String>,
) -> Result<Names, String> {
    let home = |pair: u32| (pair % u32::from(shards)) as u8;
    let mut names = Vec::new();
    for n in 0..plan.subscribers {
        names.push(placement::named(&format!("{salt}-s{n}"), home(n), &mut home_of)?);
    }
    for n in 0..plan.publishers {
        let home = match homes {
            Homes::Common => home(n),
            Homes::Apart => (home(n) + 1) % shards,
        };
        names.push(placement::named(&format!("{salt}-p{n}"), home, &mut home_of)?);
    }
    Ok(Names::Listed(names))
}

/// The result as tables.
pub fn table(report: &Value) -> String {
    let mut text = String::new();
    for (speed, title) in [("full", "as fast as they go"), ("paced", "paced")] {
        let part = &report[speed];
        let row = |key: &str| report::Row { name: key.into(), result: Ok(part[key].clone()) };
        let plan = &part["same"]["plan"];
        let title = format!(
            "crossshard: {} pairs on {} shards, QoS {}, {title} ({} messages/s), median of {}",
            plan["publishers"], report["shards"], plan["qos"], plan["rate"], report["rounds"],
        );
        text.push_str(&report::table(&title, &[row("same"), row("other")], "same"));
        if let Some(ratio) = part["cpu_ratio"].as_f64() {
            text.push_str(&format!("  CPU per message, other / same home: {ratio:.2}\n"));
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::pairs;

    #[test]
    fn pairs_share_a_home_or_do_not() {
        let plan = pairs(10, 0, 0);
        let home_of = |id: &str| Ok(id.bytes().fold(0, |sum, byte| sum ^ byte) & 1);
        for homes in [Homes::Common, Homes::Apart] {
            let Ok(Names::Listed(names)) = names(&plan, "x", homes, 2, home_of) else {
                panic!("listed")
            };
            assert_eq!(names.len(), 20);
            for pair in 0..10 {
                let same = home_of(&names[pair]) == home_of(&names[10 + pair]);
                assert_eq!(same, homes == Homes::Common);
            }
        }
    }
}
