//! Texts with placeholders that a client's values are filled into: claims that a token must have,
//! parts of a request. Topic patterns are not here; their values have rules of their own
//! (`pattern`).

/// A text with placeholders.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Template(Vec<(Box<str>, Option<Box<str>>)>);

impl Template {
    /// Parses a template: `${name}` is a placeholder, everything else stands for itself.
    pub fn new(text: &str) -> Template {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((before, (name, after))) =
            rest.split_once("${").and_then(|(before, rest)| Some((before, rest.split_once('}')?)))
        {
            parts.push((before.into(), Some(name.into())));
            rest = after;
        }
        parts.push((rest.into(), None));
        Template(parts)
    }

    /// Each text of the template, and the placeholder behind it.
    pub fn parts(&self) -> impl Iterator<Item = (&str, Option<&str>)> {
        self.0.iter().map(|(before, name)| (&**before, name.as_deref()))
    }

    /// The names of the placeholders.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(|(_, name)| name.as_deref())
    }

    /// The text with each placeholder replaced by its `value`; an unknown one is left out.
    pub fn fill(&self, value: impl Fn(&str) -> Option<String>) -> String {
        let mut out = String::new();
        for (before, name) in &self.0 {
            out.push_str(before);
            if let Some(value) = name.as_deref().and_then(&value) {
                out.push_str(&value);
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders_are_filled_in_once() {
        let template = Template::new("a${x}b${y}${");
        assert_eq!(template.names().collect::<Vec<_>>(), ["x", "y"]);
        let value = |name: &str| (name == "x").then(|| "${y}".to_owned());
        assert_eq!(template.fill(value), "a${y}b${");
    }
}
