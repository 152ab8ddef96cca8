//! The connection's state as RFC 7143, 8.1 has it for targets, as one table.

/// States of a connection at the target. S2 exists for initiators only.
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
    /// S8: the TCP connection was lost and the tasks of the connection wait to be cleaned up.
    CleanupWait,
}

/// What moves a connection from one state to another.
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
    /// Nothing of the connection's tasks is left.
    CleanedUp,
}

macro_rules! transitions {
    ($($number:literal $from:ident --$trigger:ident--> $to:ident;)*) => {
        impl State {
            /// The state after `trigger`, or `None` where the standard has no such arrow.
            pub(crate) const fn after(self, trigger: Trigger) -> Option<Self> {
                match (self, trigger) {
                    $((Self::$from, Trigger::$trigger) => Some(Self::$to),)*
                    _ => None,
                }
            }
        }

        #[cfg(test)]
        const ARROWS: &[(&str, State, Trigger, State)] =
            &[$(($number, State::$from, Trigger::$trigger, State::$to),)*];
    };
}

transitions! {
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
    "T16" InLogout        --TransportDown-->  CleanupWait;
    "T17" LogoutRequested --TransportDown-->  CleanupWait;
    "T18" LogoutRequested --SessionEnded-->   Free;
    "M1"  CleanupWait     --CleanedUp-->      Free;
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
mod tests {
    use super::*;

    const STATES: [State; 7] = [
        State::Free,
        State::TransportUp,
        State::InLogin,
        State::LoggedIn,
        State::InLogout,
        State::LogoutRequested,
        State::CleanupWait,
    ];
    const TRIGGERS: [Trigger; 10] = [
        Trigger::TransportUp,
        Trigger::LoginRequest,
        Trigger::LoginAccepted,
        Trigger::LoginFailed,
        Trigger::TransportDown,
        Trigger::LogoutRequest,
        Trigger::LogoutResponse,
        Trigger::AskLogout,
        Trigger::SessionEnded,
        Trigger::CleanedUp,
    ];

    /// Rows are states, columns triggers, in the order of the enums; a change here is a change of the protocol.
    #[test]
    fn the_table_is_the_one_of_section_8_1() {
        let snapshot = "\
            S3  -   -   -   -   -   -   -   -   -   Free
            -   S4  -   S1  S1  -   -   -   -   -   TransportUp
            -   -   S5  S1  S1  -   -   -   -   -   InLogin
            -   -   -   -   S8  S6  -   S7  S1  -   LoggedIn
            -   -   -   -   S8  -   S1  -   S1  -   InLogout
            -   -   -   -   S8  S6  -   S7  S1  -   LogoutRequested
            -   -   -   -   -   -   -   -   -   S1  CleanupWait";
        let expected: Vec<String> =
            snapshot.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        let drawn: Vec<String> = STATES.iter().map(|&from| row(from)).collect();
        assert_eq!(drawn, expected);
    }

    fn row(from: State) -> String {
        let cells = TRIGGERS.iter().map(|&trigger| match from.after(trigger) {
            None => "-",
            Some(State::Free) => "S1",
            Some(State::TransportUp) => "S3",
            Some(State::InLogin) => "S4",
            Some(State::LoggedIn) => "S5",
            Some(State::InLogout) => "S6",
            Some(State::LogoutRequested) => "S7",
            Some(State::CleanupWait) => "S8",
        });
        format!("{} {from:?}", cells.collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn every_transition_number_of_the_target_is_drawn() {
        let mut numbers: Vec<_> = ARROWS.iter().map(|arrow| arrow.0).collect();
        numbers.dedup();
        assert_eq!(
            numbers,
            [
                "T3", "T4", "T5", "T6", "T7", "T8", "T9", "T10", "T11", "T12", "T13", "T15", "T16", "T17",
                "T18", "M1"
            ]
        );
        assert!(ARROWS.iter().all(|&(_, from, trigger, to)| from.after(trigger) == Some(to)));
    }
}
