//! Configurations of other brokers into ours: mosquitto.conf, and that of FlashMQ. What a line says
//! is carried over where a key means the same; every other line becomes a comment that says why.
//! Reads no file but the text that it is given.

mod flashmq;
mod mosquitto;
mod mosquitto_bridge;
mod plan;

use std::fmt;

/// Longest text that is converted, bytes.
const LONGEST: usize = 4 << 20;

/// Whose configuration a text is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SourceFormat {
    /// mosquitto.conf(5).
    Mosquitto,
    /// flashmq.conf(5).
    FlashMq,
}

impl fmt::Display for SourceFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SourceFormat::Mosquitto => "mosquitto",
            SourceFormat::FlashMq => "FlashMQ",
        })
    }
}

/// A configuration of ours.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Converted {
    /// Whose it was.
    pub from: SourceFormat,
    /// The file.
    pub yaml: String,
    /// Lines that it only has as comments.
    pub left: usize,
}

/// Whose configuration a text is; `None` when it is neither's. What is YAML has a `:` behind its
/// first word, these have a space.
pub fn recognize(text: &str) -> Option<SourceFormat> {
    let lines = text.lines().map(str::trim);
    let mut lines = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
    let first = lines.next()?;
    if flashmq::is_block(first) {
        return Some(SourceFormat::FlashMq);
    }
    let word = first.split_whitespace().next()?;
    let flash = text.lines().any(|line| flashmq::is_block(line.trim()));
    match (mosquitto::is_option(word), flashmq::is_option(word)) {
        (_, true) if flash => Some(SourceFormat::FlashMq),
        (true, _) => Some(SourceFormat::Mosquitto),
        (false, true) => Some(SourceFormat::FlashMq),
        (false, false) => None,
    }
}

/// Our configuration for what a text says. `name`: of its file, for comments.
///
/// # Errors
/// When it is no configuration of another broker.
pub fn convert(name: &str, text: &str) -> Result<Converted, &'static str> {
    if text.len() > LONGEST {
        return Err("the file has more than 4 MiB");
    }
    let none = "this is neither a mosquitto.conf nor a configuration of FlashMQ";
    let from = recognize(text).ok_or(none)?;
    let plan = match from {
        SourceFormat::Mosquitto => mosquitto::read(text),
        SourceFormat::FlashMq => flashmq::read(text),
    };
    let left = plan.left();
    Ok(Converted { from, yaml: plan.render(name, from), left })
}

#[cfg(test)]
#[path = "../convert_tests.rs"]
mod tests;
