//! Changes lines of password files as text: all other lines stay as they are.

/// Checks that a name can be a user of a password file; the error says why it cannot.
pub fn check_user(user: &str) -> Result<(), &'static str> {
    if user.is_empty() || user.len() > 65_535 {
        return Err("a user name has 1 to 65535 bytes");
    }
    if user.contains([':', '\0']) || user.chars().any(char::is_control) {
        return Err("a user name has neither `:` nor control characters in this file");
    }
    if user.starts_with('#') || user.trim() != user {
        return Err("a user name neither begins with `#` nor begins or ends with a space here");
    }
    Ok(())
}

/// The text with `user:hash` in place of the user's line, or added at the end. True when the user
/// was there before.
pub fn set(text: &str, user: &str, hash: &str) -> (String, bool) {
    let (mut out, known) = without(text, user, Some(hash));
    if !known {
        if !out.is_empty() && !out.ends_with('\n') {
            out.push('\n');
        }
        out.push_str(&format!("{user}:{hash}\n"));
    }
    (out, known)
}

/// The text without the user's line. True when there was one.
pub fn delete(text: &str, user: &str) -> (String, bool) {
    without(text, user, None)
}

fn without(text: &str, user: &str, hash: Option<&str>) -> (String, bool) {
    let (mut out, mut known) = (String::with_capacity(text.len()), false);
    for line in text.split_inclusive('\n') {
        let is_theirs = line.split_once(':').is_some_and(|(name, _)| name.trim_start() == user);
        match (is_theirs, hash) {
            (true, Some(hash)) if !known => out.push_str(&format!("{user}:{hash}\n")),
            (true, _) => {}
            (false, _) => out.push_str(line),
        }
        known |= is_theirs;
    }
    (out, known)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_lines_stay_as_they_are() {
        let text = "# mine\nann:x\n\nbob:y";
        assert_eq!(set(text, "ann", "z"), ("# mine\nann:z\n\nbob:y".to_owned(), true));
        assert_eq!(set(text, "eve", "z"), ("# mine\nann:x\n\nbob:y\neve:z\n".to_owned(), false));
        assert_eq!(delete(text, "bob"), ("# mine\nann:x\n\n".to_owned(), true));
        assert_eq!(delete(text, "eve"), (text.to_owned(), false));
        assert_eq!(set("ann:1\nann:2\n", "ann", "3"), ("ann:3\n".to_owned(), true));
        assert_eq!(set("", "ann", "3"), ("ann:3\n".to_owned(), false));
    }

    #[test]
    fn names_that_a_file_cannot_hold_are_refused() {
        for user in ["", "a:b", "a\nb", "#a", " a", "a "] {
            assert!(check_user(user).is_err(), "{user:?}");
        }
        assert!(check_user("a b#c").is_ok());
    }
}
