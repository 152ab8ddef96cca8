//! A client of the protocol, as simple as it gets.

use super::Service;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;
use storage_nbd::wire::{self, Request, chunk, command, command_flag, option, option_reply};

/// One connection.
pub(crate) struct Client {
    pub(crate) stream: TcpStream,
    next: u64,
    /// Names of the contexts that were granted.
    pub(crate) contexts: Vec<String>,
    pub(crate) size: u64,
    pub(crate) flags: u16,
}

/// How an option ended.
pub(crate) type Granted = Result<Vec<Vec<u8>>, u32>;

impl Client {
    /// Connects, and agrees on structured replies.
    pub(crate) fn dial(service: &Service) -> Self {
        let mut stream = TcpStream::connect(service.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let mut greeting = [0; 18];
        stream.read_exact(&mut greeting).unwrap();
        stream.write_all(&3_u32.to_be_bytes()).unwrap();
        let mut client = Self { stream, next: 1, contexts: Vec::new(), size: 0, flags: 0 };
        client.option(option::STRUCTURED_REPLY, &[]).unwrap();
        client
    }

    /// Connects as a writer or, with an empty claim, as anybody.
    pub(crate) fn connect(service: &Service, claim: &str) -> Result<Self, u32> {
        let mut client = Self::dial(service);
        let mut queries = vec!["base:allocation", "x-corbel:incarnation:"];
        queries.extend((!claim.is_empty()).then_some(claim));
        client.select(&queries)?;
        client.go();
        Ok(client)
    }

    pub(crate) fn select(&mut self, queries: &[&str]) -> Result<(), u32> {
        let mut data = vec![0; 4];
        data.extend((queries.len() as u32).to_be_bytes());
        for query in queries {
            data.extend((query.len() as u32).to_be_bytes());
            data.extend(query.as_bytes());
        }
        let contexts = self.option(option::SET_META_CONTEXT, &data)?;
        self.contexts =
            contexts.iter().map(|context| String::from_utf8(context[4..].to_vec()).unwrap()).collect();
        Ok(())
    }

    pub(crate) fn go(&mut self) {
        let facts = self.option(option::GO, &[0; 6]).unwrap();
        let export = &facts[0];
        self.size = u64::from_be_bytes(export[2..10].try_into().unwrap());
        self.flags = u16::from_be_bytes(export[10..12].try_into().unwrap());
    }

    /// The token of the incarnation.
    pub(crate) fn incarnation(&self) -> String {
        let mut contexts = self.contexts.iter();
        contexts.find_map(|context| context.strip_prefix("x-corbel:incarnation:")).unwrap().to_string()
    }

    /// Sends an option, and takes its replies in.
    pub(crate) fn option(&mut self, code: u32, data: &[u8]) -> Granted {
        let mut bytes = wire::OPTION_MAGIC.to_be_bytes().to_vec();
        bytes.extend(code.to_be_bytes());
        bytes.extend((data.len() as u32).to_be_bytes());
        bytes.extend(data);
        self.stream.write_all(&bytes).unwrap();
        let mut granted = Vec::new();
        loop {
            let mut header = [0; 20];
            self.stream.read_exact(&mut header).unwrap();
            let word = |at: usize| u32::from_be_bytes(header[at..at + 4].try_into().unwrap());
            let mut payload = vec![0; word(16) as usize];
            self.stream.read_exact(&mut payload).unwrap();
            assert_eq!(word(8), code);
            match word(12) {
                option_reply::ACK => return Ok(granted),
                kind if kind & option_reply::ERROR != 0 => return Err(kind),
                _ => granted.push(payload),
            }
        }
    }

    /// Sends a command, and answers its cookie.
    pub(crate) fn begin(&mut self, command: u16, flags: u16, offset: u64, length: u32, data: &[u8]) -> u64 {
        let cookie = self.next;
        self.next += 1;
        let mut bytes = Request { flags, command, cookie, offset, length }.to_bytes().to_vec();
        bytes.extend(data);
        // That the service has closed shows when the reply is awaited.
        let _ = self.stream.write_all(&bytes);
        cookie
    }

    /// The next reply: its cookie, and what was read or the error. `None` when the service has closed.
    pub(crate) fn reply(&mut self) -> Option<(u64, Result<Vec<u8>, u32>)> {
        let mut magic = [0; 4];
        self.stream.read_exact(&mut magic).ok()?;
        let mut word = |length: usize| {
            let mut bytes = vec![0; length];
            self.stream.read_exact(&mut bytes).ok()?;
            Some(bytes)
        };
        let number = |bytes: &[u8]| bytes.iter().fold(0, |all, byte| all << 8 | u64::from(*byte));
        if u32::from_be_bytes(magic) == wire::SIMPLE_REPLY_MAGIC {
            let (error, cookie) = (number(&word(4)?), number(&word(8)?));
            return Some((cookie, if error == 0 { Ok(Vec::new()) } else { Err(error as u32) }));
        }
        assert_eq!(u32::from_be_bytes(magic), wire::STRUCTURED_REPLY_MAGIC);
        let (_flags, kind) = (word(2)?, number(&word(2)?) as u16);
        let (cookie, length) = (number(&word(8)?), number(&word(4)?));
        let payload = word(length as usize)?;
        let outcome = match kind {
            chunk::OFFSET_DATA => Ok(payload[8..].to_vec()),
            chunk::BLOCK_STATUS | chunk::NONE => Ok(payload),
            _ => Err(number(&payload[..4]) as u32),
        };
        Some((cookie, outcome))
    }

    fn run(
        &mut self,
        command: u16,
        flags: u16,
        range: (u64, u32),
        data: &[u8],
    ) -> Option<Result<Vec<u8>, u32>> {
        let cookie = self.begin(command, flags, range.0, range.1, data);
        let (other, outcome) = self.reply()?;
        assert_eq!(cookie, other);
        Some(outcome)
    }

    /// `None` when the service has closed.
    pub(crate) fn write(&mut self, offset: u64, byte: u8) -> Option<Result<(), u32>> {
        Some(self.run(command::WRITE, 0, (offset, 4096), &[byte; 4096])?.map(drop))
    }

    pub(crate) fn write_durably(&mut self, offset: u64, byte: u8) -> Option<Result<(), u32>> {
        Some(self.run(command::WRITE, command_flag::FUA, (offset, 4096), &[byte; 4096])?.map(drop))
    }

    /// The first byte of a block.
    pub(crate) fn read(&mut self, offset: u64) -> Option<Result<u8, u32>> {
        Some(self.run(command::READ, 0, (offset, 4096), &[])?.map(|data| data[0]))
    }

    pub(crate) fn flush(&mut self) -> Option<Result<(), u32>> {
        Some(self.run(command::FLUSH, 0, (0, 0), &[])?.map(drop))
    }

    pub(crate) fn any(&mut self, code: u16, flags: u16, range: (u64, u32)) -> Option<Result<Vec<u8>, u32>> {
        self.run(code, flags, range, &[])
    }
}
