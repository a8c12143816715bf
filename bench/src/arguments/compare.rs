//! The options of `compare` and `floor`.

use super::values;
use crate::broker::Candidate;
use crate::plot;
use crate::scenario::{self, Scenario, find};
use crate::threshold::Threshold;
use clap::parser::ValueSource;
use clap::{ArgMatches, Args};
use std::path::PathBuf;

/// What may be given.
#[derive(Args)]
pub struct CompareOptions {
    /// Short intervals and fewer idle clients
    #[arg(long)]
    quick: bool,
    /// Rounds; figures are medians, faults the worst of them
    #[arg(long, value_parser = values::positive, default_value = "1", value_name = "K")]
    repeat: u32,
    /// Only this scenario (repeat)
    #[arg(long, value_name = "NAME", value_parser = find)]
    scenario: Vec<&'static Scenario>,
    /// Measured seconds [default: 5; floor 3; --quick 2]
    #[arg(long, value_parser = values::seconds, value_name = "N")]
    seconds: Option<f64>,
    /// Seconds of traffic before them [default: 1; --quick 0.5]
    #[arg(long, value_parser = values::seconds, value_name = "N")]
    warmup: Option<f64>,
    /// Write the result to this file [default: bench/out/DATE.json]
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Draw the comparison as FILE.svg or FILE.png
    #[arg(long, value_name = "FILE", value_parser = values::target)]
    plot: Option<plot::Target>,
    /// End with exit code 3 when this holds, such as 'fanin.ringmq-1.p99>20ms' (repeat or separate
    /// by commas)
    #[arg(long, value_name = "CONDITION", value_delimiter = ',')]
    fail_if: Vec<Threshold>,
    /// The ringmq program [default: $RINGMQ]
    #[arg(long, value_name = "PATH")]
    ringmq: Option<PathBuf>,
    /// Leave out ringmq or mosquitto (repeat)
    #[arg(long, value_name = "NAME", value_parser = ["ringmq", "mosquitto"])]
    skip: Vec<String>,
    /// The row that ratios refer to [default: mosquitto; floor floor]
    #[arg(long, value_name = "NAME")]
    reference: Option<String>,
    /// Use what is built already (read by scripts/bench)
    #[arg(long)]
    no_build: bool,
    /// MQTT 3.1.1 or 5
    #[arg(long, value_name = "VERSION", value_parser = values::version)]
    protocol: Option<crate::mqtt::Version>,
    /// Bytes of a message, at least 24
    #[arg(long, value_parser = values::payload, value_name = "BYTES")]
    payload: Option<usize>,
    /// ClientIds and topics begin with this
    #[arg(long, value_name = "TEXT")]
    salt: Option<String>,
    /// Connections under way at once
    #[arg(long, value_parser = values::positive, value_name = "N")]
    joining: Option<u32>,
    /// Clients instead of each scenario's
    #[arg(long, value_parser = values::positive, value_name = "N")]
    clients: Option<u32>,
    /// Messages per second instead of each scenario's, 0 as fast as they go
    #[arg(long, value_name = "N")]
    rate: Option<u32>,
    /// Messages that are due at the same moment
    #[arg(long, value_parser = values::positive, value_name = "N")]
    burst: Option<u32>,
    /// Further brokers: NAME=COMMAND with {port} in the command
    #[arg(value_name = "BROKER", value_parser = values::candidate)]
    others: Vec<Candidate>,
}

/// Options that are passed on to each generator unchanged, if its scenario uses them.
const PASSED_ON: [&str; 7] = ["protocol", "payload", "salt", "joining", "clients", "rate", "burst"];

/// What `compare` and `floor` were asked to do.
pub struct Comparing {
    /// Scenarios to run; when none is named, those that `compare` runs by default.
    pub scenarios: Vec<&'static Scenario>,
    /// Whether idle scenarios have fewer clients.
    pub quick: bool,
    /// Rounds of measurement.
    pub repeat: u32,
    /// Measured seconds.
    pub seconds: f64,
    /// Warm-up seconds.
    pub warmup: f64,
    /// Path of the result file.
    pub json: Option<PathBuf>,
    /// Where the comparison is drawn.
    pub plot: Option<plot::Target>,
    /// Conditions that make the run fail.
    pub fail_if: Vec<Threshold>,
    /// Path of the `ringmq` program.
    pub ringmq: Option<PathBuf>,
    /// The brokers `ringmq` and `mosquitto` that are not measured.
    pub skip: Vec<String>,
    /// Further brokers, each given as NAME=COMMAND.
    pub others: Vec<Candidate>,
    /// The row that ratios refer to.
    pub reference: Option<String>,
    passed_on: Vec<(&'static str, String)>,
}

impl CompareOptions {
    /// The comparison, with `interval` measured seconds unless other ones are asked for.
    pub fn comparing(self, matches: &ArgMatches, interval: f64) -> Result<Comparing, String> {
        let given = PASSED_ON.into_iter().filter_map(|option| {
            let given = matches.value_source(option) == Some(ValueSource::CommandLine);
            let value = matches.get_raw(option).filter(|_| given)?.next_back()?;
            Some((option, value.to_string_lossy().into_owned()))
        });
        let (seconds, warmup) = if self.quick { (2.0, 0.5) } else { (interval, 1.0) };
        Ok(Comparing {
            passed_on: given.collect(),
            scenarios: self.scenario,
            quick: self.quick,
            repeat: self.repeat,
            seconds: self.seconds.unwrap_or(seconds),
            warmup: self.warmup.unwrap_or(warmup),
            json: self.json,
            plot: self.plot,
            fail_if: self.fail_if,
            ringmq: self.ringmq,
            skip: self.skip,
            others: self.others,
            reference: self.reference,
        })
    }
}

impl Comparing {
    /// Options of the generator that runs `scenario`: those given that the scenario uses.
    pub fn arguments(&self, scenario: &Scenario) -> Vec<String> {
        let used = self
            .passed_on
            .iter()
            .filter(|(option, _)| super::scenario::uses(&scenario.kind, option));
        let mut arguments: Vec<String> =
            used.map(|(option, value)| format!("--{option}={value}")).collect();
        let idle = matches!(scenario.kind, scenario::ScenarioKind::Idle { .. });
        if self.quick && idle && !self.passed_on.iter().any(|(option, _)| *option == "clients") {
            arguments.push("--clients=3000".into());
        }
        arguments
    }
}
