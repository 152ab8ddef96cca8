//! What went wrong, as one sentence for the person at the terminal.

use std::fmt;

/// A failure of the launcher. `Debug` prints the sentence too, so that a test's `unwrap` is readable.
pub struct Error(String);

/// The result of anything the launcher does.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An error that says `what`.
    pub fn new(what: impl Into<String>) -> Self {
        Self(what.into())
    }

    /// `Err` with an error that says `what`.
    pub fn because<T>(what: impl Into<String>) -> Result<T> {
        Err(Self::new(what))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Error {}

/// Says what was being done when something below failed.
pub trait Context<T> {
    /// Puts `doing` in front of the cause.
    fn context(self, doing: impl fmt::Display) -> Result<T>;
}

impl<T, E: fmt::Display> Context<T> for std::result::Result<T, E> {
    fn context(self, doing: impl fmt::Display) -> Result<T> {
        self.map_err(|cause| Error(format!("{doing}: {cause}")))
    }
}
