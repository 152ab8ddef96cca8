//! A way to the agent as the appliance has it: in TLS 1.3 with both keys known beforehand, or in clear where that is wanted.

use crate::parent::LIMIT;
use image_launch::keys;
use management_http::{Client, Limits, Method};
use network_tls::{Buffers, ClientConfig, Connection, Fatal, Pin, PrivateKey};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

/// As many as the appliance gives a connection.
const BUFFERS: Buffers = Buffers { receive: 20 << 10, transmit: 20 << 10 };

/// Why there is no answer.
#[derive(Debug)]
pub(crate) enum Lost {
    /// The agent went away, or was not there.
    Away,
    /// The agent closed the connection before there was a request. It does so when all are taken: in TLS it could not say so.
    NoRoom,
    /// The two do not trust each other; why, in words.
    Refused(String),
}

/// The keys of both ends of the link.
pub(crate) struct Keys {
    pub(crate) agent: PrivateKey,
    pub(crate) appliance: PrivateKey,
}

impl Keys {
    pub(crate) fn make() -> Self {
        Self { agent: keys::make().unwrap(), appliance: keys::make().unwrap() }
    }

    /// How the agent is dialled with the appliance's key.
    pub(crate) fn dialling(&self) -> ClientConfig {
        dialling(self.agent.pin(), &self.appliance)
    }
}

/// How an agent with the key `agent` is dialled by whoever has `own`.
pub(crate) fn dialling(agent: Pin, own: &PrivateKey) -> ClientConfig {
    let identity = own.self_signed("corbel appliance").unwrap();
    ClientConfig::pinned(&keys::crypto().unwrap(), &[agent], identity).unwrap()
}

/// One request on a connection of its own through the relay at `socket`: the status, and the body.
pub(crate) fn ask(
    socket: &Path,
    dialling: Option<&ClientConfig>,
    (method, path, body): (Method, &str, Option<&[u8]>),
) -> Result<(u16, Vec<u8>), Lost> {
    let mut way = Way::open(socket, dialling)?;
    let mut client = Client::new(Limits::CLIENT, "agent");
    client.request(method, path, body);
    while !client.transmit().is_empty() {
        let count = way.write(client.transmit())?;
        client.transmitted(count);
    }
    loop {
        let count = way.read(client.space())?;
        client.received(count).unwrap();
        if let Some(reply) = client.reply() {
            return Ok((reply.status, reply.body.to_vec()));
        }
    }
}

struct Way {
    stream: UnixStream,
    tls: Option<Connection>,
}

impl Way {
    fn open(socket: &Path, dialling: Option<&ClientConfig>) -> Result<Self, Lost> {
        let stream = UnixStream::connect(socket).map_err(|_| Lost::Away)?;
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        let tls = dialling.map(|config| Connection::client(config, "10.77.0.1", None, BUFFERS).unwrap());
        let mut way = Self { stream, tls };
        while way.tls.as_ref().is_some_and(|tls| !tls.is_established()) {
            way.flush().and_then(|()| way.fill()).map_err(|lost| match lost {
                Lost::Away => Lost::NoRoom,
                lost => lost,
            })?;
        }
        Ok(way)
    }

    /// Sends what TLS has to send.
    fn flush(&mut self) -> Result<(), Lost> {
        let Some(tls) = &mut self.tls else { return Ok(()) };
        while let bytes @ [_, ..] = tls.poll_transmit() {
            let count = self.stream.write(bytes).map_err(|_| Lost::Away)?;
            tls.transmitted(count);
        }
        Ok(())
    }

    /// Gives TLS what arrives next.
    fn fill(&mut self) -> Result<(), Lost> {
        let Some(tls) = &mut self.tls else { return Ok(()) };
        let count = received(&mut self.stream, tls.space())?;
        tls.received(count).map_err(|fatal| {
            let _ = self.stream.write(tls.poll_transmit());
            refused(fatal)
        })
    }

    fn write(&mut self, bytes: &[u8]) -> Result<usize, Lost> {
        let Some(tls) = &mut self.tls else { return self.stream.write(bytes).map_err(|_| Lost::Away) };
        let count = tls.write(bytes).map_err(refused)?;
        self.flush()?;
        Ok(count)
    }

    fn read(&mut self, into: &mut [u8]) -> Result<usize, Lost> {
        loop {
            let Some(tls) = &mut self.tls else { return received(&mut self.stream, into) };
            match tls.read(into).map_err(refused)? {
                0 if tls.peer_closed() => return Err(Lost::Away),
                0 => {}
                count => return Ok(count),
            }
            self.flush()?;
            self.fill()?;
        }
    }
}

fn refused(fatal: Fatal) -> Lost {
    Lost::Refused(fatal.to_string())
}

/// At least one byte.
fn received(stream: &mut UnixStream, into: &mut [u8]) -> Result<usize, Lost> {
    loop {
        match stream.read(into) {
            Ok(0) => return Err(Lost::Away),
            Ok(count) => return Ok(count),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return Err(Lost::Away),
            Err(error) => panic!("the agent does not answer: {error}"),
        }
    }
}
