//! The result of one check: how bad it is, what was found, what is needed, and how to change it.
//! Plain values. `report` makes the text.

/// How bad a finding is, from good to bad.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Severity {
    /// It is as it should be.
    Fine,
    /// It is worth knowing, but needs no action for the number of clients that was asked for.
    Note,
    /// The broker works, but less well or for fewer clients than it could.
    Warning,
    /// The broker cannot start, or cannot hold the number of clients that was asked for.
    Blocker,
}

impl Severity {
    /// The severity as one word, for the report and for JSON.
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
    /// The name of the check. It is stable, so that scripts can use it.
    pub check: &'static str,
    /// How bad.
    pub severity: Severity,
    /// What was found on the host.
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

    /// The same finding with a fix.
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
    /// The argument for the container engine; `None` when only the host can be changed.
    pub container: Option<String>,
    /// Whether it can be changed from inside a running container.
    pub inside: bool,
}

impl Fix {
    /// A fix on the host only, for every container there.
    pub fn host(how: impl Into<String>) -> Fix {
        Fix { host: how.into(), container: None, inside: false }
    }

    /// A fix on the host, or when the container is made.
    pub fn either(host: impl Into<String>, container: impl Into<String>) -> Fix {
        Fix { host: host.into(), container: Some(container.into()), inside: false }
    }

    /// A fix in RingMQ's own configuration, which is the same everywhere.
    pub fn configuration(how: impl Into<String>) -> Fix {
        Fix { host: how.into(), container: None, inside: true }
    }
}
