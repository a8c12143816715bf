//! Converts configurations of other brokers into ours: mosquitto.conf, and that of FlashMQ. A line
//! is carried over where one of our keys means the same. Every other line becomes a comment that
//! says why it was not carried over. Reads nothing but the text that it is given.

mod flashmq;
mod mosquitto;
mod mosquitto_bridge;
mod mosquitto_options;
mod plan;

use std::fmt;

/// The longest text that is converted, in bytes.
const LONGEST: usize = 4 << 20;

/// The broker to which a configuration belongs.
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

/// The result of a conversion.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Converted {
    /// The broker to which the original belongs.
    pub from: SourceFormat,
    /// Our configuration file.
    pub yaml: String,
    /// The number of lines that are in the file as comments only.
    pub left: usize,
}

/// The broker to which a configuration belongs; `None` when it is none of the two. In YAML the
/// first word is followed by a `:`, in these files by a space.
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

/// Converts `text` into our configuration. `name` is the name of its file, for comments.
///
/// # Errors
/// The text is not a configuration of another broker.
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
