//! A client of QEMU's machine protocol (QMP): one JSON object a line over a Unix socket.

use crate::{Context, Error, Result, wait};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// A connection that has left capability negotiation.
#[derive(Debug)]
pub struct Qmp {
    stream: UnixStream,
    lines: BufReader<UnixStream>,
    /// Events that came while an answer was waited for.
    events: Vec<Value>,
}

impl Qmp {
    /// Connects to the socket QEMU makes at its start.
    ///
    /// # Errors
    /// When there is no answer after `limit`.
    pub fn connect(socket: &Path, limit: Duration) -> Result<Self> {
        let stream = wait::until("QEMU's QMP socket", limit, || Ok(UnixStream::connect(socket).ok()))?;
        stream.set_read_timeout(Some(limit)).context("QMP")?;
        let lines = BufReader::new(stream.try_clone().context("QMP")?);
        let mut qmp = Self { stream, lines, events: Vec::new() };
        qmp.message()?;
        qmp.execute("qmp_capabilities", &json!({}))?;
        Ok(qmp)
    }

    /// Runs one command and returns what it returned.
    ///
    /// # Errors
    /// When QEMU refuses it (its description is in the sentence) or the connection ends.
    pub fn execute(&mut self, command: &str, arguments: &Value) -> Result<Value> {
        let line = json!({ "execute": command, "arguments": arguments });
        writeln!(self.stream, "{line}").context(format!("QMP {command}"))?;
        loop {
            let mut message = self.message()?;
            if let Some(error) = message.get("error") {
                return Error::because(format!("QMP {command}: {error}"));
            }
            if let Some(answer) = message.get_mut("return") {
                return Ok(answer.take());
            }
            self.events.push(message);
        }
    }

    /// Waits for an event of that name.
    ///
    /// # Errors
    /// When QEMU ends without one, or there is none for long.
    pub fn event(&mut self, name: &str) -> Result<Value> {
        if let Some(place) = self.events.iter().position(|event| event["event"] == name) {
            return Ok(self.events.remove(place));
        }
        loop {
            let message = self.message()?;
            if message["event"] == name {
                return Ok(message);
            }
        }
    }

    fn message(&mut self) -> Result<Value> {
        let mut line = String::new();
        match self.lines.read_line(&mut line).context("QMP")? {
            0 => Error::because("QMP: QEMU closed the connection"),
            _ => serde_json::from_str(&line).context("QMP"),
        }
    }
}
