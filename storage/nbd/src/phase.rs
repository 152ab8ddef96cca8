//! What a connection is at, as a table; `STATES.txt` in this package's folder shows it. A test compares the two, and writes
//! the text anew when `CORBEL_WRITE_STATES` is set.

/// What the connection is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// There is no connection.
    Idle,
    /// Negotiating.
    Handshake,
    /// Requests are taken.
    Open,
    /// No more requests are taken; those there are come to an end.
    Closing,
    /// The farewell was sent.
    Closed,
    /// The connection is of no more use.
    Broken,
}

/// What moves a connection from one phase to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trigger {
    /// A connection stands.
    Connected,
    /// The negotiation has come to its end.
    Negotiated,
    /// The caller wants no more of it.
    Disconnect,
    /// The server is shutting down.
    ShuttingDown,
    /// The farewell was sent.
    Farewell,
    /// The server has said what it must not, or nothing for too long.
    Failed,
    /// The connection is gone, whoever ended it.
    Gone,
}

storage_block::arrows! {
    pub(crate) Phase by Trigger;
    "C1" Idle      --Connected-->    Handshake;
    "C2" Handshake --Negotiated-->   Open;
    "C3" Handshake --Disconnect-->   Closed;
    "C4" Open      --Disconnect-->   Closing;
    "C5" Open      --ShuttingDown--> Closing;
    "C6" Closing   --Farewell-->     Closed;
    "C7" Handshake --Failed-->       Broken;
    "C7" Open      --Failed-->       Broken;
    "C7" Closing   --Failed-->       Broken;
    "C8" Handshake --Gone-->         Idle;
    "C8" Open      --Gone-->         Idle;
    "C8" Closing   --Gone-->         Idle;
    "C8" Closed    --Gone-->         Idle;
    "C8" Broken    --Gone-->         Idle;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_shows_the_table() {
        let states = [
            (Phase::Idle, "Idle"),
            (Phase::Handshake, "Handshake"),
            (Phase::Open, "Open"),
            (Phase::Closing, "Closing"),
            (Phase::Closed, "Closed"),
            (Phase::Broken, "Broken"),
        ];
        let drawn = storage_block::draw(
            "A connection to a storage service, as src/phase.rs has it",
            &states,
            Phase::ARROWS,
        );
        storage_block::assert_states_shown!(drawn);
    }
}
