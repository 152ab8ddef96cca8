//! An initiator that says what it is told to, right or wrong.

use image_launch::net::{ISCSI, Wire};
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};
use storage_iscsi::wire::text::{Writer, number, pairs};
use storage_iscsi::wire::{Digests, Header, LoginRequest, LoginResponse, opcode};
use tests_negative::Received;

/// How long an answer may take on a busy machine.
pub(crate) const SOON: Duration = Duration::from_secs(5);
/// Long enough to believe that nothing will come.
pub(crate) const BRIEF: Duration = Duration::from_millis(150);

/// Who logs in, and to what.
#[derive(Clone)]
pub(crate) struct Who {
    pub(crate) initiator: String,
    pub(crate) isid: [u8; 6],
    pub(crate) iqn: String,
    /// The numbers that its commands and the answers to them begin with: CmdSN and StatSN.
    pub(crate) first: (u32, u32),
}

impl Who {
    /// An initiator of that name that wants disk `n`.
    pub(crate) fn new(name: &str, n: usize) -> Self {
        let iqn = format!("{}:disk{n}", image_launch::stage::IQN);
        // One ISID for all: the name tells them apart.
        Self {
            initiator: format!("iqn.2026-11.example.peer:{name}"),
            isid: [0x80, 0, 0, 1, 0, 1],
            iqn,
            first: (1, 0),
        }
    }

    /// The keys that every login begins with.
    pub(crate) fn declares(&self) -> Vec<u8> {
        text(&[("InitiatorName", &self.initiator), ("TargetName", &self.iqn), ("SessionType", "Normal")])
    }
}

/// Keys and values as they travel.
pub(crate) fn text(pairs: &[(&str, &str)]) -> Vec<u8> {
    let mut bytes = vec![0; 16 << 10];
    let mut writer = Writer::new(&mut bytes);
    for (key, value) in pairs {
        writer.pair(key, value).unwrap();
    }
    let length = writer.length();
    bytes.truncate(length);
    bytes
}

/// What came, or did not.
#[derive(Debug)]
pub(crate) enum Heard {
    /// A whole PDU.
    Pdu(Header, Vec<u8>),
    /// The target has closed or reset the connection.
    Closed,
    /// Nothing, all the time.
    Nothing,
}

/// One TCP connection to the portal.
pub(crate) struct Peer {
    stream: TcpStream,
    input: Vec<u8>,
    pub(crate) digests: Digests,
}

impl Peer {
    /// Connects. All connection slots may be on their way back, so a refusal is not the last word for some seconds.
    pub(crate) fn connect() -> Self {
        Self::connect_within(SOON).unwrap()
    }

    pub(crate) fn connect_within(limit: Duration) -> std::io::Result<Self> {
        let portal = SocketAddr::from((Wire::Host.appliance(), ISCSI));
        let start = Instant::now();
        let stream = loop {
            match TcpStream::connect_timeout(&portal, limit) {
                Err(_) if start.elapsed() < limit => std::thread::sleep(Duration::from_millis(5)),
                outcome => break outcome?,
            }
        };
        stream.set_nodelay(true)?;
        Ok(Self { stream, input: Vec::new(), digests: Digests::default() })
    }

    /// The local port, which a forger on the same network may know.
    pub(crate) fn port(&self) -> u16 {
        self.stream.local_addr().unwrap().port()
    }

    /// Sends bytes as they are. That the target has had enough of us already is no error.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        let _ = self.stream.set_write_timeout(Some(SOON));
        let _ = self.stream.write_all(bytes);
    }

    /// Sends a PDU with its lengths, padding and digests.
    pub(crate) fn say(&mut self, header: Header, data: &[u8]) {
        let mut bytes = Vec::new();
        self.digests.write(header, &[], data, &mut bytes);
        self.bytes(&bytes);
    }

    /// Says that nothing more will be said.
    pub(crate) fn finish(&mut self) {
        let _ = self.stream.shutdown(Shutdown::Write);
    }

    /// What comes next, whatever it is.
    pub(crate) fn receive(&mut self, limit: Duration) -> Received {
        self.stream.set_read_timeout(Some(limit)).unwrap();
        let mut chunk = [0; 65536];
        match self.stream.read(&mut chunk) {
            Ok(0) => Received::Closed,
            Ok(count) => Received::Bytes(chunk[..count].to_vec()),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                Received::Nothing
            }
            Err(_) => Received::Closed,
        }
    }

    /// The next PDU.
    pub(crate) fn hear(&mut self, limit: Duration) -> Heard {
        let end = Instant::now() + limit;
        loop {
            let pdu = self.digests.read(&self.input).expect("a target's digests match");
            if let Some(pdu) = pdu {
                let (header, data, length) = (pdu.header, pdu.data.to_vec(), pdu.length);
                self.input.drain(..length);
                return Heard::Pdu(header, data);
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Heard::Nothing;
            }
            match self.receive(left) {
                Received::Bytes(bytes) => self.input.extend(bytes),
                Received::Closed => return Heard::Closed,
                Received::Nothing => {}
            }
        }
    }

    /// All PDUs until the target closes, which it must.
    pub(crate) fn ends(&mut self, limit: Duration) -> Result<Vec<(Header, Vec<u8>)>, String> {
        let end = Instant::now() + limit;
        let mut heard = Vec::new();
        loop {
            match self.hear(end.saturating_duration_since(Instant::now())) {
                Heard::Pdu(header, data) => heard.push((header, data)),
                Heard::Closed => return Ok(heard),
                Heard::Nothing => {
                    return Err(format!("still open after {limit:?}, {} PDUs heard", heard.len()));
                }
            }
        }
    }

    /// A login of one request. Answers the response, and the longest data segment that the target takes.
    pub(crate) fn log_in(
        &mut self,
        who: &Who,
        keys: &[(&str, &str)],
    ) -> Result<(LoginResponse, usize), String> {
        let mut data = who.declares();
        data.extend(text(keys));
        self.say(login(who).header(), &data);
        match self.hear(SOON) {
            Heard::Pdu(header, data) if header.opcode() == opcode::LOGIN_RESPONSE => {
                let response = LoginResponse::read(&header);
                let status = (response.status_class, response.status_detail);
                match (status, response.transit) {
                    ((0, _), true) => Ok((response, declared_segment(&data))),
                    _ => Err(format!("the login ended with {status:?}")),
                }
            }
            other => Err(format!("no login response: {other:?}")),
        }
    }
}

/// The longest data segment that these keys allow: 8192 bytes where they say nothing (RFC 7143 section 13.12).
pub(crate) fn declared_segment(keys: &[u8]) -> usize {
    let mut pairs = pairs(keys).filter_map(Result::ok);
    let found = pairs.find(|(key, _)| *key == "MaxRecvDataSegmentLength");
    found.and_then(|(_, value)| number(value)).map_or(8192, |length| usize::try_from(length).unwrap())
}

/// The request of a login that goes from the operational stage straight to full feature phase.
pub(crate) fn login(who: &Who) -> LoginRequest {
    LoginRequest {
        immediate: true,
        transit: true,
        current_stage: 1,
        next_stage: 3,
        isid: who.isid,
        initiator_task_tag: 1,
        cmd_sn: who.first.0,
        exp_stat_sn: who.first.1,
        ..LoginRequest::default()
    }
}
