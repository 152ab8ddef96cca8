//! Messages through the door, as VMware's open-vm-tools has them: a channel is opened, a request goes out and an answer comes
//! back, four bytes with each call.

use alloc::format;
use alloc::vec::Vec;

/// The port.
pub(super) const PORT: u16 = 0x5658;
/// What every call has in EAX, and the answer of a door in EBX when it is asked for its version.
const MAGIC: u32 = 0x564d_5868;
/// Commands: what version it is, and messages.
const VERSION: u32 = 10;
const MESSAGE: u32 = 30;
/// Steps of a message, in the upper half of ECX.
const OPEN: u32 = 0;
const SEND_SIZE: u32 = 1;
const SEND: u32 = 2;
const RECEIVE_SIZE: u32 = 3;
const RECEIVE: u32 = 4;
const RECEIVED: u32 = 5;
const CLOSE: u32 = 6;
/// The protocol of requests, and that the channel is to have a cookie.
const REQUESTS: u32 = 0x4943_5052;
const WITH_COOKIE: u32 = 1 << 31;
/// What an answer says in the upper half of ECX: it went well; there is something to receive; the machine was moved or
/// resumed meanwhile, and all is to be done anew.
const WELL: u32 = 1;
const THERE_IS: u32 = 2;
const ANEW: u32 = 0x40;
/// How often all is done anew.
const TRIES: u32 = 4;
/// What an answer begins with, when there is a value, and when there is none.
const VALUE: &[u8] = b"1 ";
const NONE: &[u8] = b"0";
const NOTHING: &[u8] = b"0 No value found";
/// The longest answer that gives a reason instead of a value.
const REASON: usize = 128;

/// Why it cannot be said whether there is a value, or which.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// No door is at the port, or it opens no channel.
    Closed,
    /// The answer is longer than may be.
    TooLong,
    /// The answer makes no sense.
    Broken,
}

impl core::fmt::Display for Error {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::Closed => "VMware opens no channel for it",
            Self::TooLong => "the value is too long",
            Self::Broken => "VMware's answer makes no sense",
        })
    }
}

impl core::error::Error for Error {}

/// The registers of a call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Registers {
    pub(super) a: u32,
    pub(super) b: u32,
    pub(super) c: u32,
    pub(super) d: u32,
    pub(super) source: u32,
    pub(super) destination: u32,
}

/// The way through.
pub(super) trait Door {
    /// One call: registers in, registers out.
    fn call(&mut self, registers: Registers) -> Registers;
}

/// What kept a try from its end.
enum Stop {
    Anew,
    Fail(Error),
}

/// A channel that is open.
struct Channel<'a, D: Door> {
    door: &'a mut D,
    number: u32,
    cookie: (u32, u32),
}

/// The value of `key`.
pub(super) fn guestinfo(door: &mut impl Door, key: &str, longest: usize) -> Result<Option<Vec<u8>>, Error> {
    let version = Registers { a: MAGIC, b: !MAGIC, c: VERSION, d: PORT.into(), ..Registers::default() };
    if door.call(version).b != MAGIC {
        return Err(Error::Closed);
    }
    let request = format!("info-get {key}");
    let most = longest.saturating_add(VALUE.len()).max(REASON);
    let mut tries = (0..TRIES).map(|_| exchange(door, request.as_bytes(), most));
    let answer = tries.find_map(|result| match result {
        Ok(answer) => Some(Ok(answer)),
        Err(Stop::Fail(error)) => Some(Err(error)),
        Err(Stop::Anew) => None,
    });
    let mut answer = answer.unwrap_or(Err(Error::Broken))?;
    if answer.starts_with(VALUE) {
        answer.drain(..VALUE.len());
        return if answer.len() > longest { Err(Error::TooLong) } else { Ok(Some(answer)) };
    }
    if !answer.starts_with(NONE) {
        return Err(Error::Broken);
    }
    if !answer.starts_with(NOTHING) {
        log::info!("VMware: {key}: {}", answer.escape_ascii());
    }
    Ok(None)
}

/// One request and its answer, of at most `most` bytes.
fn exchange(door: &mut impl Door, request: &[u8], most: usize) -> Result<Vec<u8>, Stop> {
    let mut channel = Channel::open(door)?;
    let answer = channel.send(request).and_then(|()| channel.receive(most));
    channel.step(CLOSE, 0);
    answer
}

impl<'a, D: Door> Channel<'a, D> {
    /// Open one, with a cookie if the door has such.
    fn open(door: &'a mut D) -> Result<Self, Stop> {
        let mut channel = Self { door, number: 0, cookie: (0, 0) };
        let mut opened = channel.step(OPEN, REQUESTS | WITH_COOKIE);
        if opened.c >> 16 & WELL == 0 {
            opened = channel.step(OPEN, REQUESTS);
        }
        if opened.c >> 16 & WELL == 0 {
            return Err(Stop::Fail(Error::Closed));
        }
        channel.number = opened.d & 0xffff_0000;
        channel.cookie = (opened.source, opened.destination);
        Ok(channel)
    }

    fn step(&mut self, step: u32, value: u32) -> Registers {
        let (source, destination) = self.cookie;
        let d = self.number | u32::from(PORT);
        self.door.call(Registers { a: MAGIC, b: value, c: step << 16 | MESSAGE, d, source, destination })
    }

    /// A step that has to go well.
    fn go(&mut self, step: u32, value: u32) -> Result<Registers, Stop> {
        let answer = self.step(step, value);
        match answer.c >> 16 {
            status if status & ANEW != 0 => Err(Stop::Anew),
            status if status & WELL == 0 => Err(Stop::Fail(Error::Broken)),
            _ => Ok(answer),
        }
    }

    fn send(&mut self, request: &[u8]) -> Result<(), Stop> {
        self.go(SEND_SIZE, request.len() as u32)?;
        for piece in request.chunks(4) {
            let mut word = [0; 4];
            word[..piece.len()].copy_from_slice(piece);
            self.go(SEND, u32::from_le_bytes(word))?;
        }
        Ok(())
    }

    fn receive(&mut self, most: usize) -> Result<Vec<u8>, Stop> {
        let size = self.go(RECEIVE_SIZE, 0)?;
        if size.c >> 16 & THERE_IS == 0 || size.d >> 16 != SEND_SIZE {
            return Err(Stop::Fail(Error::Broken));
        }
        let size = size.b as usize;
        if size > most {
            return Err(Stop::Fail(Error::TooLong));
        }
        let mut answer = Vec::with_capacity(size);
        while answer.len() < size {
            let piece = self.go(RECEIVE, WELL)?;
            if piece.d >> 16 != SEND {
                return Err(Stop::Fail(Error::Broken));
            }
            let bytes = piece.b.to_le_bytes();
            answer.extend_from_slice(&bytes[..bytes.len().min(size - answer.len())]);
        }
        self.go(RECEIVED, WELL)?;
        Ok(answer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    /// The hypervisor's side. It is strict with the machine, and does what the test says.
    #[derive(Default)]
    struct Emulated {
        value: Option<Vec<u8>>,
        /// The version is none; there are no channels, or none with cookies.
        no_door: bool,
        no_channels: bool,
        no_cookies: bool,
        /// Answer this in place of what would be right, at the call of that number.
        lie: Option<(u32, Registers)>,
        /// So often the machine is moved in the middle of an answer.
        moved: u32,
        calls: u32,
        open: bool,
        request: Vec<u8>,
        left: usize,
        answer: Vec<u8>,
        sent: usize,
    }

    const NUMBER: u32 = 5 << 16;
    const COOKIE: (u32, u32) = (0xdead_0001, 0xbeef_0002);

    impl Emulated {
        fn with(value: &[u8]) -> Self {
            Self { value: Some(value.to_vec()), ..Self::default() }
        }

        fn message(&mut self, registers: Registers) -> Registers {
            let step = registers.c >> 16;
            let well = |mut registers: Registers, more: u32| {
                registers.c = (WELL | more) << 16;
                registers
            };
            if step == OPEN {
                let with_cookie = registers.b & WITH_COOKIE != 0;
                assert_eq!((registers.b & !WITH_COOKIE, self.open), (REQUESTS, false));
                if self.no_channels || with_cookie && self.no_cookies {
                    return Registers { c: 0, ..registers };
                }
                (self.open, self.request, self.sent) = (true, Vec::new(), 0);
                let (source, destination) = if with_cookie { COOKIE } else { (0, 0) };
                return well(Registers { d: NUMBER, source, destination, ..registers }, 0);
            }
            assert!(self.open && registers.d >> 16 == NUMBER >> 16);
            let cookie = if self.no_cookies { (0, 0) } else { COOKIE };
            assert_eq!((registers.source, registers.destination), cookie);
            match step {
                SEND_SIZE => self.left = registers.b as usize,
                SEND => {
                    assert!(self.left > 0);
                    let bytes = registers.b.to_le_bytes();
                    let count = self.left.min(4);
                    self.request.extend_from_slice(&bytes[..count]);
                    self.left -= count;
                }
                RECEIVE_SIZE => {
                    assert_eq!((self.left, &*self.request), (0, &b"info-get guestinfo.corbel.config"[..]));
                    self.answer = match &self.value {
                        Some(value) => [b"1 ", &**value].concat(),
                        None => b"0 No value found".to_vec(),
                    };
                    let b = self.answer.len() as u32;
                    return well(Registers { b, d: SEND_SIZE << 16, ..registers }, THERE_IS);
                }
                RECEIVE => {
                    if self.moved > 0 {
                        self.moved -= 1;
                        return Registers { c: ANEW << 16, ..registers };
                    }
                    let mut word = [0xee; 4];
                    let rest = &self.answer[self.sent..];
                    let count = rest.len().min(4);
                    word[..count].copy_from_slice(&rest[..count]);
                    self.sent += count;
                    let b = u32::from_le_bytes(word);
                    return well(Registers { b, d: SEND << 16, ..registers }, 0);
                }
                RECEIVED => assert!(self.sent == self.answer.len() || self.lie.is_some()),
                CLOSE => self.open = false,
                _ => panic!("step {step}"),
            }
            well(registers, 0)
        }
    }

    impl Door for Emulated {
        fn call(&mut self, registers: Registers) -> Registers {
            assert_eq!((registers.a, registers.d & 0xffff), (MAGIC, u32::from(PORT)));
            self.calls += 1;
            match registers.c & 0xffff {
                VERSION if self.no_door => Registers { a: u32::MAX, b: u32::MAX, ..registers },
                VERSION => Registers { b: MAGIC, ..registers },
                MESSAGE => {
                    let answer = self.message(registers);
                    match self.lie {
                        Some((call, lie)) if call == self.calls => lie,
                        _ => answer,
                    }
                }
                command => panic!("command {command}"),
            }
        }
    }

    fn ask(door: &mut Emulated, longest: usize) -> Result<Option<Vec<u8>>, Error> {
        let answer = guestinfo(door, "guestinfo.corbel.config", longest);
        assert!(!door.open, "the channel is closed whatever happens");
        answer
    }

    #[test]
    fn a_value_of_any_length_comes_whole() {
        for length in (0..70).chain([1000, 4096, 65536]) {
            let value: Vec<u8> = (0..length).map(|byte| byte as u8).collect();
            assert_eq!(ask(&mut Emulated::with(&value), 65536), Ok(Some(value)));
        }
    }

    #[test]
    fn no_value_is_none_whatever_the_reason() {
        assert_eq!(ask(&mut Emulated::default(), 10), Ok(None));
        let mut denied = Emulated::with(b"");
        // The first bytes of the answer: "0 Pe".
        denied.lie =
            Some((13, Registers { b: 0x6550_2030, c: WELL << 16, d: SEND << 16, ..Registers::default() }));
        assert_eq!(ask(&mut denied, 10), Ok(None));
    }

    #[test]
    fn a_value_that_is_too_long_is_refused_before_it_is_received() {
        let mut door = Emulated::with(&[7; 200]);
        assert_eq!(ask(&mut door, 200), Ok(Some(vec![7; 200])));
        for longest in [199, 0] {
            let mut door = Emulated::with(&[7; 200]);
            assert_eq!(ask(&mut door, longest), Err(Error::TooLong));
        }
        let mut endless = Emulated::with(b"x");
        let size =
            Registers { b: u32::MAX, c: (WELL | THERE_IS) << 16, d: SEND_SIZE << 16, ..Registers::default() };
        endless.lie = Some((12, size));
        assert_eq!((ask(&mut endless, 100), endless.calls), (Err(Error::TooLong), 13));
    }

    #[test]
    fn a_door_that_does_not_open_is_closed_and_one_without_cookies_opens() {
        let closed = Err(Error::Closed);
        assert_eq!(ask(&mut Emulated { no_door: true, ..Emulated::default() }, 10), closed);
        assert_eq!(ask(&mut Emulated { no_channels: true, ..Emulated::default() }, 10), closed);
        let mut old = Emulated { no_cookies: true, ..Emulated::with(b"value") };
        assert_eq!(ask(&mut old, 10), Ok(Some(b"value".to_vec())));
    }

    #[test]
    fn a_machine_that_is_moved_asks_anew_but_not_for_ever() {
        let mut door = Emulated { moved: 3, ..Emulated::with(b"value") };
        assert_eq!(ask(&mut door, 10), Ok(Some(b"value".to_vec())));
        let mut door = Emulated { moved: u32::MAX, ..Emulated::with(b"value") };
        assert_eq!(ask(&mut door, 10), Err(Error::Broken));
    }

    #[test]
    fn whatever_it_answers_the_machine_neither_stops_nor_takes_more_than_it_asked_for() {
        let mut state = 1_u64;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 32) as u32
        };
        for round in 0..if cfg!(miri) { 40 } else { 2000 } {
            let mut door = Emulated::with(b"some value");
            let call = 2 + round % 20;
            let c = if next() & 1 == 0 { next() } else { (WELL | THERE_IS) << 16 };
            let lie = Registers {
                a: next(),
                b: next() % 200,
                c,
                d: if next() & 1 == 0 { next() } else { (next() % 4) << 16 },
                source: COOKIE.0,
                destination: COOKIE.1,
            };
            // What opens another channel than ours is not asked of it again.
            if call == 2 {
                continue;
            }
            door.lie = Some((call, lie));
            if let Ok(Some(value)) = guestinfo(&mut door, "guestinfo.corbel.config", 100) {
                assert!(value.len() <= 100);
            }
        }
    }
}
