//! Patterns of ClientIds, user names and topics: `bench/%i`, `%c/state`, `dev/%rand_100`.
//!
//! The variables are those of emqtt-bench and may stand anywhere in the text; `%%` is a percent
//! sign.

use std::fmt::Write;

/// A text with variables.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pattern(Vec<PatternPart>);

#[derive(Clone, PartialEq, Eq, Debug)]
enum PatternPart {
    Text(String),
    Variable(Variable),
    /// A random number from 1 to this one.
    Random(u64),
}

/// A placeholder for a value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Variable {
    /// `%i`: the number of the client.
    Number,
    /// `%c`: the ClientId.
    ClientId,
    /// `%u`: the user name.
    Username,
    /// `%s`: the number of the client's message, from 1 on.
    Message,
}

impl Variable {
    fn sign(self) -> char {
        match self {
            Variable::Number => 'i',
            Variable::ClientId => 'c',
            Variable::Username => 'u',
            Variable::Message => 's',
        }
    }
}

/// The values of variables.
#[derive(Clone, Copy, Debug, Default)]
pub struct Scope<'a> {
    /// `%i`
    pub number: u64,
    /// `%c`
    pub client_id: &'a str,
    /// `%u`
    pub username: &'a str,
    /// `%s`
    pub message: u64,
}

/// A random number generator (xorshift64*), which repeats its numbers for the same seed; not for
/// secrets.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The generator of client number `stream` in a run with this seed.
    pub fn new(seed: u64, stream: u64) -> Random {
        let mut random = Random((seed ^ stream.wrapping_mul(0x9e37_79b9_7f4a_7c15)) | 1);
        random.next();
        random
    }

    /// The next 64 bits.
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number from 0 to `most` inclusive.
    pub fn up_to(&mut self, most: u64) -> u64 {
        ((u128::from(self.next()) * (u128::from(most) + 1)) >> 64) as u64
    }
}

impl Pattern {
    /// Reads a pattern in which the variables `allowed` and `%rand_N` may be.
    pub fn parse(text: &str, allowed: &[Variable]) -> Result<Pattern, String> {
        let mut parts = Vec::new();
        let mut plain = String::new();
        let mut rest = text;
        while let Some(at) = rest.find('%') {
            plain.push_str(&rest[..at]);
            let after = &rest[at + 1..];
            if let Some(number) = after.strip_prefix("rand_") {
                let digits = number.find(|c: char| !c.is_ascii_digit()).unwrap_or(number.len());
                let most = number[..digits].parse().ok().filter(|most| *most > 0);
                let most = most.ok_or("%rand_ needs a number from 1 on behind it")?;
                flush(&mut plain, &mut parts);
                parts.push(PatternPart::Random(most));
                rest = &number[digits..];
                continue;
            }
            let sign = after.chars().next();
            match allowed.iter().find(|variable| Some(variable.sign()) == sign) {
                Some(variable) => {
                    flush(&mut plain, &mut parts);
                    parts.push(PatternPart::Variable(*variable));
                }
                None if sign == Some('%') => plain.push('%'),
                None => return Err(unknown(sign, allowed)),
            }
            rest = &after[1..];
        }
        plain.push_str(rest);
        flush(&mut plain, &mut parts);
        Ok(Pattern(parts))
    }

    /// The pattern with `text` before it.
    pub fn after(mut self, text: &str) -> Pattern {
        self.0.insert(0, PatternPart::Text(text.to_string()));
        self
    }

    /// The pattern of one client: its values are filled in, and only parts that differ from message
    /// to message remain.
    pub fn bound(&self, scope: &Scope<'_>) -> Pattern {
        let mut parts = Vec::new();
        let mut plain = String::new();
        for part in &self.0 {
            match part {
                PatternPart::Random(_) | PatternPart::Variable(Variable::Message) => {
                    flush(&mut plain, &mut parts);
                    parts.push(part.clone());
                }
                fixed => {
                    let fixed = Pattern(vec![fixed.clone()]);
                    fixed.write(&mut plain, scope, &mut Random::new(0, 0));
                }
            }
        }
        flush(&mut plain, &mut parts);
        Pattern(parts)
    }

    /// Whether the text differs from message to message.
    pub fn varies(&self) -> bool {
        let per_message = |part: &PatternPart| {
            matches!(part, PatternPart::Random(_) | PatternPart::Variable(Variable::Message))
        };
        self.0.iter().any(per_message)
    }

    /// Whether the pattern contains `variable`.
    pub fn has(&self, variable: Variable) -> bool {
        self.0.contains(&PatternPart::Variable(variable))
    }

    /// Appends the text with the values of `scope`.
    pub fn write(&self, out: &mut String, scope: &Scope<'_>, random: &mut Random) {
        for part in &self.0 {
            let number = match part {
                PatternPart::Text(text) => {
                    out.push_str(text);
                    continue;
                }
                PatternPart::Variable(Variable::ClientId) => {
                    out.push_str(scope.client_id);
                    continue;
                }
                PatternPart::Variable(Variable::Username) => {
                    out.push_str(scope.username);
                    continue;
                }
                PatternPart::Variable(Variable::Number) => scope.number,
                PatternPart::Variable(Variable::Message) => scope.message,
                PatternPart::Random(most) => random.up_to(most - 1) + 1,
            };
            // Writing to a String does not fail.
            let _ = write!(out, "{number}");
        }
    }

    /// The text with the values of `scope`.
    pub fn text(&self, scope: &Scope<'_>, random: &mut Random) -> String {
        let mut text = String::new();
        self.write(&mut text, scope, random);
        text
    }
}

fn flush(plain: &mut String, parts: &mut Vec<PatternPart>) {
    if !plain.is_empty() {
        parts.push(PatternPart::Text(std::mem::take(plain)));
    }
}

fn unknown(sign: Option<char>, allowed: &[Variable]) -> String {
    let all: Vec<String> = allowed.iter().map(|v| format!("%{}", v.sign())).collect();
    format!(
        "%{} is no variable here; there are {} and %rand_N, and %% is a percent sign",
        sign.map(String::from).unwrap_or_default(),
        all.join(" ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Variable; 4] =
        [Variable::Number, Variable::ClientId, Variable::Username, Variable::Message];

    fn made(pattern: &str) -> String {
        let scope = Scope { number: 7, client_id: "c1", username: "me", message: 42 };
        Pattern::parse(pattern, &ALL).unwrap().text(&scope, &mut Random::new(1, 7))
    }

    #[test]
    fn variables_are_replaced_anywhere() {
        for (pattern, text) in [
            ("", ""),
            ("plain/topic", "plain/topic"),
            ("bench/%i", "bench/7"),
            ("%c/%u/%i-%s", "c1/me/7-42"),
            ("100%%/x%iy", "100%/x7y"),
            ("%%i", "%i"),
            ("ü%i/é", "ü7/é"),
            ("%rand_1/x", "1/x"),
        ] {
            assert_eq!(made(pattern), text, "{pattern}");
        }
    }

    #[test]
    fn random_numbers_have_their_bounds_and_all_occur() {
        let pattern = Pattern::parse("%rand_4", &[]).unwrap();
        let mut random = Random::new(9, 0);
        let mut seen = [0; 5];
        for _ in 0..400 {
            let number: usize = pattern.text(&Scope::default(), &mut random).parse().unwrap();
            seen[number] += 1;
        }
        assert!(seen[0] == 0 && seen[1..].iter().all(|count| *count > 50), "{seen:?}");
        assert_eq!(Random::new(1, 2).next(), Random::new(1, 2).next());
        assert_ne!(Random::new(1, 2).next(), Random::new(1, 3).next());
    }

    #[test]
    fn a_bound_pattern_makes_the_same_texts() {
        let scope = Scope { number: 7, client_id: "c1", username: "me", message: 0 };
        let pattern = Pattern::parse("a/%i/%c/%s/%u/%rand_1", &ALL).unwrap();
        let bound = pattern.bound(&scope);
        assert_eq!(bound, Pattern::parse("a/7/c1/%s/me/%rand_1", &ALL).unwrap());
        assert!(!Pattern::parse("%i%c", &ALL).unwrap().bound(&scope).varies());
    }

    #[test]
    fn what_is_no_variable_is_named() {
        for text in ["%", "a%", "%x", "%rand_", "%rand_0", "%rand_x", "%rand_99999999999999999999"]
        {
            let error = Pattern::parse(text, &ALL).unwrap_err();
            assert!(error.contains('%'), "{error}");
        }
        let error = Pattern::parse("%s", &[Variable::Number]).unwrap_err();
        assert!(error.contains("%s is no variable here; there are %i and"), "{error}");
        assert!(Pattern::parse("%ü", &ALL).is_err());
    }

    #[test]
    fn it_is_known_whether_each_message_has_its_own() {
        let varies = |text: &str| Pattern::parse(text, &ALL).unwrap().varies();
        assert!(varies("a/%s") && varies("%rand_9") && !varies("a/%i/%c/%u"));
    }
}
