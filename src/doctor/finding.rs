//! One thing the doctor looked at: how bad, what was found, what is needed, and how to change it.
//! Plain values; the text of the report is made in `report`.

/// How bad a finding is, from good to bad.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Severity {
    /// As it should be.
    Fine,
    /// Worth knowing; needs no action for the clients asked for.
    Note,
    /// The broker works, but less well or for fewer clients than it could.
    Warning,
    /// The broker cannot start, or cannot hold the clients asked for.
    Blocker,
}

impl Severity {
    /// One word, as in the report and in JSON.
    pub fn word(self) -> &'static str {
        match self {
            Severity::Fine => "ok",
            Severity::Note => "note",
            Severity::Warning => "warning",
            Severity::Blocker => "BLOCKER",
        }
    }
}

/// The result of one check.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding {
    /// The check's name; stable, for scripts.
    pub check: &'static str,
    /// How bad.
    pub severity: Severity,
    /// What was found.
    pub found: String,
    /// What is needed, or what follows from what was found.
    pub needed: String,
    /// What to change; `None` where nothing needs to be.
    pub fix: Option<Fix>,
}

impl Finding {
    /// A finding without a fix.
    pub fn new(
        check: &'static str,
        severity: Severity,
        found: impl Into<String>,
        needed: impl Into<String>,
    ) -> Finding {
        Finding { check, severity, found: found.into(), needed: needed.into(), fix: None }
    }

    /// Adds the fix.
    pub fn fixed_by(mut self, fix: Fix) -> Finding {
        self.fix = Some(fix);
        self
    }
}

/// How to change what was found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fix {
    /// The command or file on the host.
    pub host: String,
    /// What to give the container engine; `None` where it is a matter of the host alone.
    pub container: Option<String>,
    /// Whether it can be changed from inside a running container.
    pub inside: bool,
}

impl Fix {
    /// Only on the host, for every container there.
    pub fn host(how: impl Into<String>) -> Fix {
        Fix { host: how.into(), container: None, inside: false }
    }

    /// On the host, or when the container is made.
    pub fn either(host: impl Into<String>, container: impl Into<String>) -> Fix {
        Fix { host: host.into(), container: Some(container.into()), inside: false }
    }

    /// In RingMQ's own configuration: the same everywhere.
    pub fn configuration(how: impl Into<String>) -> Fix {
        Fix { host: how.into(), container: None, inside: true }
    }
}
