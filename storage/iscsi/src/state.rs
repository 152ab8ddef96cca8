//! The state machines of RFC 7143, section 8, and of its login phase (6.3), each as one table of arrows.
//!
//! The code goes from state to state by [`State::after`] and its like only, which are made of the tables, so nothing can
//! happen that is not drawn. `STATES.txt` in this package's folder shows all tables; a test compares it with them, and
//! writes it anew when `CORBEL_WRITE_STATES` is set.

mod session;

pub use session::{SessionState, SessionTrigger};

/// States of a connection at the target (8.1.1), and of its cleanup (8.2.1). S2 exists for initiators only; R3 is S1.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// S1: there is no connection.
    Free,
    /// S3: the TCP connection stands, nothing was said.
    TransportUp,
    /// S4: the login goes on.
    InLogin,
    /// S5: full feature phase.
    LoggedIn,
    /// S6: a logout request was received and is not answered yet.
    InLogout,
    /// S7: we asked the initiator to log out.
    LogoutRequested,
    /// S8 and R1: the TCP connection was lost and the tasks of the connection wait to be cleaned up.
    CleanupWait,
    /// R2: a logout by way of another connection cleans them up.
    InCleanup,
}

/// What moves a connection from one state to another (8.1.2, 8.2.2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Trigger {
    /// The TCP connection came to stand.
    TransportUp,
    /// The first login request was received.
    LoginRequest,
    /// The last login response, with status class 0, was sent.
    LoginAccepted,
    /// A login response with another status class was sent, or the login took too long.
    LoginFailed,
    /// The TCP connection was lost, or has to be given up.
    TransportDown,
    /// A logout request was received.
    LogoutRequest,
    /// The logout response was sent.
    LogoutResponse,
    /// We asked for a logout by an asynchronous message.
    AskLogout,
    /// The session was closed or reinstated by way of another connection.
    SessionEnded,
    /// Nobody will clean up by way of another connection: what is left of the tasks is given up.
    StateTimeout,
    /// Another connection logs this one out, by a request or by a login in its place.
    CleanupBegun,
    /// That came to nothing.
    #[cfg_attr(
        not(test),
        expect(dead_code, reason = "here a cleanup is done in one step, which cannot fail")
    )]
    CleanupFailed,
    /// Nothing of the connection's tasks is left.
    CleanedUp,
}

storage_block::arrows! {
    pub(crate) State by Trigger;
    "T3"  Free            --TransportUp-->    TransportUp;
    "T4"  TransportUp     --LoginRequest-->   InLogin;
    "T5"  InLogin         --LoginAccepted-->  LoggedIn;
    "T6"  TransportUp     --TransportDown-->  Free;
    "T6"  TransportUp     --LoginFailed-->    Free;
    "T7"  InLogin         --LoginFailed-->    Free;
    "T7"  InLogin         --TransportDown-->  Free;
    "T8"  LoggedIn        --SessionEnded-->   Free;
    "T9"  LoggedIn        --LogoutRequest-->  InLogout;
    "T10" LogoutRequested --LogoutRequest-->  InLogout;
    "T11" LoggedIn        --AskLogout-->      LogoutRequested;
    "T12" LogoutRequested --AskLogout-->      LogoutRequested;
    "T13" InLogout        --LogoutResponse--> Free;
    "T13" InLogout        --SessionEnded-->   Free;
    "T15" LoggedIn        --TransportDown-->  CleanupWait;
    "T16" LogoutRequested --TransportDown-->  CleanupWait;
    "T17" InLogout        --TransportDown-->  CleanupWait;
    "T18" LogoutRequested --SessionEnded-->   Free;
    "M1"  CleanupWait     --StateTimeout-->   Free;
    "M2"  CleanupWait     --CleanupBegun-->   InCleanup;
    "M3"  InCleanup       --CleanupFailed-->  CleanupWait;
    "M4"  InCleanup       --CleanedUp-->      Free;
}

impl State {
    /// Whether commands may be received now.
    pub const fn is_full_feature(self) -> bool {
        matches!(self, Self::LoggedIn | Self::LogoutRequested)
    }

    /// Whether the login is still to be done.
    pub const fn is_before_full_feature(self) -> bool {
        matches!(self, Self::TransportUp | Self::InLogin)
    }
}

#[cfg(test)]
mod tests;
