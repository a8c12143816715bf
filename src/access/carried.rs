//! How clients' own rules are written when they go to another process with their clients
//! ([`crate::upgrade`]).

use super::pattern::{Glob, PatternLevel, Piece, TopicPattern};
use super::rule::{Condition, Rule, RuleOrigin, RuleSet};
use crate::transport::network::{Network, Networks};
use crate::upgrade::code::{BodyReader, Code, fields};

/// Writes an enum as a number for the variant, followed by the variant's value if it has one.
macro_rules! choice {
    (
        $kind:ident
        { $($number:literal: $case:ident($value:ident)),* }
        { $($bare:literal: $alone:ident),* }
    ) => {
        impl Code for $kind {
            fn length(&self) -> usize {
                1 + match self {
                    $($kind::$case($value) => $value.length(),)*
                    $($kind::$alone => 0,)*
                }
            }

            fn put(&self, out: &mut Vec<u8>) {
                match self {
                    $($kind::$case($value) => {
                        out.push($number);
                        $value.put(out);
                    })*
                    $($kind::$alone => out.push($bare),)*
                }
            }

            fn get(from: &mut BodyReader<'_>) -> Option<Self> {
                match u8::get(from)? {
                    $($number => Code::get(from).map($kind::$case),)*
                    $($bare => Some($kind::$alone),)*
                    _ => None,
                }
            }
        }
    };
}

fields!(Glob { text, literal });
choice!(Piece { 0: Text(text), 1: Attribute(name) } { 2: ClientId, 3: Username });
choice!(PatternLevel { 0: Text(text), 1: Pieces(pieces) } { 2: Plus, 3: Hash });
fields!(TopicPattern { levels, literal });
fields!(RuleOrigin { source, line });
fields!(Rule { allow, publish, subscribe, who, qos, retain, topics, written });

impl Code for Network {
    fn length(&self) -> usize {
        Box::<str>::from(self.to_string()).length()
    }

    fn put(&self, out: &mut Vec<u8>) {
        Box::<str>::from(self.to_string()).put(out);
    }

    fn get(from: &mut BodyReader<'_>) -> Option<Self> {
        Network::around(&Box::<str>::get(from)?).ok()
    }
}

fields!(Networks { 0 });

/// Written out, because the variant for an attribute has two fields.
impl Code for Condition {
    fn length(&self) -> usize {
        1 + match self {
            Condition::User(globs) | Condition::ClientId(globs) | Condition::Certificate(globs) => {
                globs.length()
            }
            Condition::Address(networks) => networks.length(),
            Condition::Listener(names) => names.length(),
            Condition::Attribute(name, glob) => name.length() + glob.length(),
            Condition::Anonymous => 0,
        }
    }

    fn put(&self, out: &mut Vec<u8>) {
        out.push(match self {
            Condition::User(_) => 0,
            Condition::ClientId(_) => 1,
            Condition::Address(_) => 2,
            Condition::Listener(_) => 3,
            Condition::Certificate(_) => 4,
            Condition::Attribute(..) => 5,
            Condition::Anonymous => 6,
        });
        match self {
            Condition::User(globs) | Condition::ClientId(globs) | Condition::Certificate(globs) => {
                globs.put(out);
            }
            Condition::Address(networks) => networks.put(out),
            Condition::Listener(names) => names.put(out),
            Condition::Attribute(name, glob) => {
                name.put(out);
                glob.put(out);
            }
            Condition::Anonymous => {}
        }
    }

    fn get(from: &mut BodyReader<'_>) -> Option<Self> {
        match u8::get(from)? {
            0 => Code::get(from).map(Condition::User),
            1 => Code::get(from).map(Condition::ClientId),
            2 => Code::get(from).map(Condition::Address),
            3 => Code::get(from).map(Condition::Listener),
            4 => Code::get(from).map(Condition::Certificate),
            5 => Some(Condition::Attribute(Code::get(from)?, Code::get(from)?)),
            6 => Some(Condition::Anonymous),
            _ => None,
        }
    }
}

impl Code for RuleSet {
    fn length(&self) -> usize {
        let (sources, rules) = self.parts();
        sources.length() + rules.length()
    }

    fn put(&self, out: &mut Vec<u8>) {
        let (sources, rules) = self.parts();
        sources.put(out);
        rules.put(out);
    }

    fn get(from: &mut BodyReader<'_>) -> Option<Self> {
        let mut set = RuleSet::default();
        for source in Vec::<Box<str>>::get(from)? {
            set.add_source(&source);
        }
        Vec::<Rule>::get(from)?.into_iter().for_each(|rule| set.push(rule));
        set.file();
        Some(set)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::claims;
    use crate::access::pattern::Notation;

    #[test]
    fn rules_are_read_as_they_were_written() {
        let list = r#"[
            {"permission": "allow", "action": "publish", "topic": "a/${clientid}/+/x${username}y",
             "qos": [1, 2], "retain": true},
            {"permission": "deny", "action": "all", "topic": "eq a/#"}
        ]"#;
        let mut set = claims::rules(&serde_json::from_str(list).unwrap()).unwrap();
        let globs = || vec![Glob::new("*"), Glob::literal("a*")];
        let pattern = TopicPattern::new("${attribute.site}/#", Notation::Braces).unwrap();
        set.push(Rule {
            allow: false,
            publish: true,
            subscribe: false,
            who: vec![
                Condition::User(globs()),
                Condition::Anonymous,
                Condition::ClientId(vec![Glob::literal("me")]),
                Condition::Address(Networks(vec!["10.0.0.0/8".parse().unwrap()])),
                Condition::Listener(vec!["l".into()]),
                Condition::Certificate(globs()),
                Condition::Attribute("site".into(), Glob::new("s*")),
            ],
            qos: 3,
            retain: None,
            topics: vec![pattern],
            written: RuleOrigin { source: 0, line: 9 },
        });
        let mut bytes = Vec::new();
        set.put(&mut bytes);
        assert_eq!(bytes.len(), set.length());
        let read = RuleSet::get(&mut BodyReader::new(&bytes)).expect("it is whole");
        assert_eq!(format!("{:?}", read.parts()), format!("{:?}", set.parts()));
        for end in 0..bytes.len() {
            assert!(RuleSet::get(&mut BodyReader::new(&bytes[..end])).is_none(), "cut at {end}");
        }
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 0xff;
            // Anything but a panic.
            let _ = RuleSet::get(&mut BodyReader::new(&changed));
        }
    }
}
