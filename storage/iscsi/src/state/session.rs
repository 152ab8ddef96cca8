//! The states of a session at the target (RFC 7143, 8.3).

/// States of a session at the target (8.3.3).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SessionState {
    /// Q1: there is no session.
    Free,
    /// Q2: the leading connection logs in.
    Active,
    /// Q3: a connection is in full feature phase.
    LoggedIn,
    /// Q4: the last connection was lost, and the session waits to be continued or recovered.
    Failed,
    /// Q5: a connection logs in to continue it.
    InContinue,
}

/// What moves a session from one state to another (8.3.4).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SessionTrigger {
    /// The leading connection began to log in.
    LoginBegan,
    /// A connection reached full feature phase, the first one or one that continues the session.
    LoginAccepted,
    /// The login came to nothing.
    LoginFailed,
    /// The session was closed by a logout, or another login took its place.
    Closed,
    /// The last connection was lost.
    Failed,
    /// The time to continue it is over.
    StateTimeout,
    /// A connection of a failed session began to log in.
    ContinuationBegan,
}

storage_block::arrows! {
    pub SessionState by SessionTrigger;
    "N1"  Free       --LoginBegan-->        Active;
    "N2"  Active     --LoginAccepted-->     LoggedIn;
    "N3"  LoggedIn   --Closed-->            Free;
    "N5"  LoggedIn   --Failed-->            Failed;
    "N6"  Failed     --StateTimeout-->      Free;
    "N6"  Failed     --Closed-->            Free;
    "N7"  Failed     --ContinuationBegan--> InContinue;
    "N8"  InContinue --LoginFailed-->       Failed;
    "N9"  Active     --LoginFailed-->       Free;
    "N9"  Active     --Failed-->            Free;
    "N9"  Active     --Closed-->            Free;
    "N10" InContinue --LoginAccepted-->     LoggedIn;
    "N11" InContinue --Closed-->            Free;
}

impl SessionState {
    /// Whether commands may be under way, and another connection may join (6.3.1).
    pub const fn is_logged_in(self) -> bool {
        matches!(self, Self::LoggedIn)
    }
}
