//! A file of access rules: a YAML list that is read in the same way as
//! `access.authorization.N.rules.list`. Messages name the lines of the file itself.

use serde_json::{Value, json};

use super::access::AccessRule;
use super::document::Document;
use super::problem::{Problem, Problems};
use super::read;

/// The position of the list in the document that is made of the file.
const LIST: &str = "/access/authorization/0/rules/list";
/// The same position in the form that problems use.
const KEY: &str = "access.authorization.0.rules.list.";

/// Reads the rules of a file, each with its line.
///
/// # Errors
/// All problems of the file.
pub fn rules_file(name: &str, text: String) -> Result<Vec<(usize, AccessRule)>, Problems> {
    let mut problems = Vec::new();
    let mut document = Document::of_file(name, text.into_bytes(), &mut problems);
    let list = match std::mem::take(&mut document.tree) {
        Value::Null => json!([]),
        other => other,
    };
    let rules = json!({"rules": {"list": list}});
    document.tree = json!({"access": {"authorization": [rules]}});
    document.move_below(LIST);
    let config = read::read(&mut document, &mut problems);
    let rules = config.access.authorization.0.into_iter().next();
    let rules = rules.and_then(|source| source.rules.0).map(|rules| rules.list.0);
    let mut lined = Vec::new();
    for (at, rule) in rules.unwrap_or_default().into_iter().enumerate() {
        let origin = document.key_origin(&format!("{LIST}/{at}"));
        if let Err((field, what, fix)) = rule.check() {
            let key = format!("{at}{field}");
            let fix = fix.to_owned();
            problems.push(Problem { origin: origin.clone(), key, what, fix });
        }
        lined.push((origin.line_number().unwrap_or(1), rule));
    }
    for problem in &mut problems {
        if let Some(rest) = problem.key.strip_prefix(KEY) {
            problem.key = rest.to_owned();
        }
    }
    if problems.is_empty() { Ok(lined) } else { Err(Problems(problems)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_rule_has_its_line_and_each_problem_too() {
        let text = "# rules\n- allow: all\n  user: ann\n- deny: publish\n  topics: ['#', a]\n";
        let rules = rules_file("r.yaml", text.to_owned()).expect("it can be read");
        let lines: Vec<usize> = rules.iter().map(|(line, _)| *line).collect();
        assert_eq!(lines, [2, 4]);
        assert_eq!(&*rules[0].1.user[0], "ann");
        let wrong = "- allow: al\n- user: x\n- allow: all\n  usr: y\n";
        let problems = rules_file("r.yaml", wrong.to_owned()).expect_err("it cannot be read").0;
        let told: Vec<String> = problems.iter().map(ToString::to_string).collect();
        let all = told.join("\n");
        assert!(all.contains("r.yaml:1: 0.allow: `al` is not a choice"), "{all}");
        assert!(all.contains("r.yaml:2: 1: the rule neither allows nor denies"), "{all}");
        assert!(all.contains("r.yaml:4: 2.usr: unknown key; did you mean `user`?"), "{all}");
    }
}
