//! Where things are written: tables or JSON to standard output, all else to standard error, colours only on a terminal.

use crate::plain;
use serde_json::Value;
use std::cell::Cell;
use std::io::{self, IsTerminal, Write};

/// What a piece of text is, and so how it is coloured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tint {
    /// As it is.
    Plain,
    /// A head or a label.
    Head,
    /// As it should be.
    Good,
    /// On its way, or to be looked at.
    Warn,
    /// Not as it should be.
    Bad,
    /// Of less interest.
    Faint,
}

impl Tint {
    /// The parameters of SGR (ECMA-48 section 8.3.117).
    const fn code(self) -> &'static str {
        match self {
            Self::Plain => "",
            Self::Head => "1",
            Self::Good => "32",
            Self::Warn => "33",
            Self::Bad => "31",
            Self::Faint => "2",
        }
    }
}

/// Whether to colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Colour {
    /// On a terminal, unless NO_COLOR is set
    Auto,
    /// Always
    Always,
    /// Never
    Never,
}

/// Both ways out.
pub(crate) struct Screen {
    json: bool,
    verbose: bool,
    colour: bool,
    colour_errors: bool,
    width: Option<usize>,
    progress: bool,
    /// Nobody reads standard output any more.
    gone: Cell<bool>,
}

impl Screen {
    pub(crate) fn new(json: bool, verbose: bool, colour: Colour) -> Self {
        let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        let on = |terminal: bool| match colour {
            Colour::Always => true,
            Colour::Never => false,
            Colour::Auto => terminal && !set("NO_COLOR") && !dumb,
        };
        let (out, err) = (io::stdout().is_terminal(), io::stderr().is_terminal());
        Self {
            json,
            verbose,
            colour: on(out),
            colour_errors: on(err),
            width: width(out),
            progress: err && !dumb && !verbose,
            gone: Cell::new(false),
        }
    }

    /// One without colours, of a fixed width.
    #[cfg(test)]
    pub(crate) fn fixed(width: Option<usize>) -> Self {
        Self {
            json: false,
            verbose: false,
            colour: false,
            colour_errors: false,
            width,
            progress: false,
            gone: Cell::new(false),
        }
    }

    /// Whether JSON was asked for.
    pub(crate) fn is_json(&self) -> bool {
        self.json
    }

    /// Whether a line on standard error may be drawn again and again.
    pub(crate) fn shows_progress(&self) -> bool {
        self.progress
    }

    /// Whether standard output is a terminal that can be drawn anew.
    pub(crate) fn can_redraw(&self) -> bool {
        io::stdout().is_terminal() && !self.json
    }

    /// Whether whoever read standard output has left, as `head` does.
    pub(crate) fn is_gone(&self) -> bool {
        self.gone.get()
    }

    /// Columns of the terminal; without one lines are as long as they are.
    pub(crate) fn width(&self) -> Option<usize> {
        self.width
    }

    pub(crate) fn tint(&self, tint: Tint, text: &str) -> String {
        painted(self.colour, tint, text)
    }

    /// A line to standard output.
    pub(crate) fn say(&self, line: &str) {
        self.put(&format!("{line}\n"));
    }

    /// Bytes to standard output, as they are.
    pub(crate) fn put(&self, text: &str) {
        let mut out = io::stdout().lock();
        if out.write_all(text.as_bytes()).and_then(|()| out.flush()).is_err() {
            self.gone.set(true);
        }
    }

    /// A document of its own to standard output.
    pub(crate) fn document(&self, value: &Value) {
        self.say(&plain::json(&format!("{value:#}")));
    }

    /// One document of many, on one line.
    pub(crate) fn record(&self, value: &Value) {
        self.say(&plain::json(&value.to_string()));
    }

    /// A remark to standard error.
    pub(crate) fn note(&self, text: &str) {
        eprint_line(&painted(self.colour_errors, Tint::Faint, &plain::lines(text)));
    }

    /// A remark that was asked for by `--verbose`.
    pub(crate) fn detail(&self, text: &str) {
        if self.verbose {
            self.note(text);
        }
    }

    /// A warning to standard error.
    pub(crate) fn warn(&self, text: &str) {
        let label = painted(self.colour_errors, Tint::Warn, "warning:");
        eprint_line(&format!("corbelctl: {label} {}", plain::lines(text)));
    }

    /// What went wrong, and what to do about it.
    pub(crate) fn error(&self, what: &str, advice: Option<&str>) {
        let label = painted(self.colour_errors, Tint::Bad, &plain::lines(what));
        eprint_line(&format!("corbelctl: {label}"));
        if let Some(advice) = advice {
            eprint_line(&format!("  {}", plain::lines(advice)));
        }
    }
}

/// A line to standard error; nobody reading it is no reason to fail.
pub(crate) fn eprint_line(line: &str) {
    let _nobody_reads = writeln!(io::stderr().lock(), "{line}");
}

fn painted(colour: bool, tint: Tint, text: &str) -> String {
    if !colour || tint == Tint::Plain || text.is_empty() {
        return text.into();
    }
    format!("\x1b[{}m{text}\x1b[0m", tint.code())
}

/// Columns: those of the terminal, or what `COLUMNS` says.
fn width(terminal: bool) -> Option<usize> {
    let told = std::env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok());
    let asked = || {
        let size = rustix::termios::tcgetwinsize(io::stdout()).ok()?;
        Some(usize::from(size.ws_col)).filter(|columns| *columns > 0)
    };
    told.filter(|columns| *columns > 0).or_else(|| if terminal { asked() } else { None })
}
