//! The backend of a NIC: its states, and both rings.

use super::store::Tree;
use super::{Host, Model};
use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;
use kernel_io::PAGE;
use kernel_io::emulated::{held, read_memory, write_memory};

/// Entries of a ring, and where they begin.
const SIZE: u32 = 256;
const ENTRIES: u64 = 64;
/// Bytes of an entry of each ring: that of frames the guest sends, and that of frames it receives.
const STRIDES: [u64; 2] = [12, 8];
/// Indices: requests, when to tell of them, responses, when to tell of them.
const REQUESTS: u64 = 0;
const REQUEST_EVENT: u64 = 4;
const RESPONSES: u64 = 8;
const RESPONSE_EVENT: u64 = 12;

/// A backend.
#[derive(Default)]
pub(crate) struct Backend {
    number: u32,
    /// Its rings, while it is connected: by their grants.
    rings: Option<[u32; 2]>,
    /// For each ring how many requests were taken, and how many responses written.
    taken: [u32; 2],
    answered: [u32; 2],
    /// Requests to receive that were taken, by identifier and grant.
    pages: Vec<(u16, u32)>,
    /// Requests to send that were taken and have no response, by identifier and grant.
    unanswered: Vec<(Option<u16>, u32)>,
}

/// A frame that the guest has sent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sent {
    /// Its bytes.
    pub(crate) frame: Vec<u8>,
    /// What the first request says.
    pub(crate) flags: u16,
    /// What the segments are to be cut to; zero for a frame that stays as it is.
    pub(crate) segment: u16,
}

/// A response that the guest is given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Slot {
    /// Bytes in a page, from an offset on; flags.
    Data(u16, Vec<u8>, u16),
    /// Any words.
    Raw([u32; 2]),
}

/// Where a NIC's backend is in the store.
pub(super) fn backend(number: u32) -> String {
    format!("/local/domain/1/backend/vif/7/{number}")
}

fn frontend(number: u32) -> String {
    format!("device/vif/{number}")
}

fn read(address: u64) -> u32 {
    let mut bytes = [0; 4];
    read_memory(address, &mut bytes).expect("a ring");
    u32::from_le_bytes(bytes)
}

fn write(address: u64, value: u32) {
    write_memory(address, &value.to_le_bytes()).expect("a ring");
}

impl Backend {
    pub(super) fn new(tree: &mut Tree, number: u32) -> Self {
        let (front, back) = (frontend(number), backend(number));
        tree.write(&format!("{front}/backend"), &back);
        tree.write(&format!("{front}/backend-id"), "1");
        tree.write(&format!("{front}/mac"), &format!("00:16:3e:00:00:{number:02x}"));
        tree.write(&format!("{front}/state"), "1");
        tree.write(&format!("{back}/state"), "2");
        for feature in ["feature-sg", "feature-gso-tcpv4", "feature-rx-copy"] {
            tree.write(&format!("{back}/{feature}"), "1");
        }
        Self { number, ..Self::default() }
    }

    fn enter(&self, model: &mut Model, state: u32) {
        model.tree.write(&format!("{}/state", backend(self.number)), &format!("{state}"));
    }

    /// Follow the frontend into its state, as Linux's backend does.
    pub(super) fn follow(&mut self, model: &mut Model) {
        let path = |key: &str| format!("{}/{key}", frontend(self.number));
        let number = |key: &str| model.tree.read(&path(key)).and_then(|value| value.parse::<u32>().ok());
        let of_ours = model.tree.read(&format!("{}/state", backend(self.number)));
        let Some(ours) = of_ours.and_then(|state| state.parse::<u32>().ok()) else { return };
        match (number("state").unwrap_or(0), ours) {
            (1, 6) => self.enter(model, 2),
            (4, 2) => {
                let rings = ["tx-ring-ref", "rx-ring-ref"].map(|key| number(key).expect("a ring"));
                let port = number("event-channel").expect("a port");
                assert!(model.ports.contains(&port), "a port that is not open");
                assert_eq!((number("request-rx-copy"), number("feature-rx-notify")), (Some(1), Some(1)));
                assert!(rings.iter().all(|ring| model.page_of(*ring, 1, true).is_some()), "rings of ours");
                *self = Self { number: self.number, rings: Some(rings), ..Self::default() };
                self.enter(model, 4);
            }
            (5, 2 | 4) => {
                self.rings = None;
                self.enter(model, 5);
            }
            (6, 2..6) => {
                self.rings = None;
                self.enter(model, 6);
            }
            _ => {}
        }
    }

    fn ring(&self, model: &Model, which: usize) -> u64 {
        model.page_of(self.rings.expect("a connection")[which], 1, true).expect("the ring is granted")
    }

    /// The next request of a ring: its place.
    fn take(&mut self, model: &Model, which: usize) -> Option<u64> {
        let (page, taken) = (self.ring(model, which), self.taken[which]);
        let there = read(page + REQUESTS);
        let outstanding = there.wrapping_sub(self.answered[which]);
        assert!(outstanding <= SIZE || model.lied, "more requests than the ring has room for");
        if there == taken || (model.lied && there.wrapping_sub(taken) > SIZE) {
            // It would sleep now.
            write(page + REQUEST_EVENT, taken.wrapping_add(1));
            return None;
        }
        self.taken[which] = taken.wrapping_add(1);
        Some(page + ENTRIES + u64::from(taken % SIZE) * STRIDES[which])
    }

    /// Take a whole frame that the guest has sent.
    fn take_frame(&mut self, model: &Model) -> Option<Sent> {
        let (mut sent, mut left) = (Sent::default(), None);
        loop {
            let place = match (self.take(model, 0), left) {
                (Some(place), _) => place,
                (None, None) => return None,
                (None, Some(_)) => {
                    assert!(model.lied, "a frame without its end");
                    return None;
                }
            };
            let [entry, middle, last] = [0, 4, 8].map(|offset| read(place + offset));
            let (offset, flags, id) = (middle as u16, (middle >> 16) as u16, last as u16);
            let size = (last >> 16) as usize;
            self.unanswered.push((Some(id), entry));
            let is_first = left.is_none();
            if is_first {
                sent.flags = flags;
                if flags & 8 != 0 {
                    let place = self.take(model, 0)?;
                    let [what, how] = [0, 4].map(|offset| read(place + offset));
                    assert!(model.lied || (what & 0xffff, how) == (1, 1), "TCP over IPv4 is to be cut");
                    sent.segment = (what >> 16) as u16;
                    self.unanswered.push((None, 0));
                }
            }
            // The first says the size of all of it, and the pages before the last are full.
            let size = if is_first && flags & 4 != 0 { PAGE } else { size };
            let rest = left.unwrap_or((last >> 16) as usize);
            let address = model.page_of(entry, 1, false)?;
            if model.lied && usize::from(offset) + size > PAGE {
                return None;
            }
            assert!(usize::from(offset) + size <= PAGE, "a piece in two pages");
            let mut piece = vec![0; size];
            read_memory(address + u64::from(offset), &mut piece).expect("a page that is lent");
            sent.frame.extend(piece);
            assert!(size <= rest || model.lied, "more than the whole");
            let rest = rest.saturating_sub(size);
            if flags & 4 == 0 {
                assert!(rest == 0 || model.lied, "the pieces are not the whole");
                return Some(sent);
            }
            left = Some(rest);
        }
    }

    /// Write a response into a ring, unseen.
    fn respond(&mut self, model: &Model, which: usize, words: &[u32]) {
        let place =
            self.ring(model, which) + ENTRIES + u64::from(self.answered[which] % SIZE) * STRIDES[which];
        self.answered[which] = self.answered[which].wrapping_add(1);
        (0..).zip(words).for_each(|(number, word): (u64, _)| write(place + 4 * number, *word));
    }

    /// Let the guest see responses, and tell it if it wants that.
    fn show(&mut self, model: &mut Model, which: usize, jump: u32) {
        let page = self.ring(model, which);
        let (old, new) = (read(page + RESPONSES), self.answered[which].wrapping_add(jump));
        write(page + RESPONSES, new);
        if new.wrapping_sub(read(page + RESPONSE_EVENT)) < new.wrapping_sub(old) {
            model.interrupt();
        }
    }
}

impl Host {
    /// Whether a NIC's rings are in use.
    pub(crate) fn is_connected(&self, nic: u32) -> bool {
        self.with(nic, |backend, _| backend.rings.is_some())
    }

    /// The next frame that the guest has sent; it is not answered yet.
    pub(crate) fn take_sent(&self, nic: u32) -> Option<Sent> {
        self.with(nic, |backend, model| backend.take_frame(model))
    }

    /// Answer all that was sent and taken, from the last to the first if `backwards`.
    pub(crate) fn answer_sent(&self, nic: u32, backwards: bool) {
        self.with(nic, |backend, model| {
            let mut unanswered = core::mem::take(&mut backend.unanswered);
            if backwards {
                unanswered.reverse();
            }
            for (id, _) in unanswered {
                backend.respond(model, 0, &[id.map_or(1 << 16, u32::from)]);
            }
            backend.show(model, 0, 0);
        });
    }

    /// The next frame that the guest has sent; it is answered.
    pub(crate) fn sent(&self, nic: u32) -> Option<Sent> {
        let sent = self.take_sent(nic)?;
        self.answer_sent(nic, false);
        Some(sent)
    }

    /// Take all pages that the guest offers; answers how many there are.
    pub(crate) fn offered(&self, nic: u32) -> usize {
        self.with(nic, |backend, model| {
            while let Some(place) = backend.take(model, 1) {
                backend.pages.push((read(place) as u16, read(place + 4)));
            }
            backend.pages.len()
        })
    }

    /// What was in the pages that the guest offers.
    pub(crate) fn pages(&self, nic: u32) -> Vec<Vec<u8>> {
        self.offered(nic);
        self.with(nic, |backend, model| {
            let address = |entry| model.page_of(entry, 1, true).expect("a grant");
            backend
                .pages
                .iter()
                .map(|(_, entry)| held(address(*entry)).expect("a page that is lent"))
                .collect()
        })
    }

    /// Give the guest responses, and show them. Answers `false` when it offers too few pages.
    pub(crate) fn give(&self, nic: u32, slots: &[Slot]) -> bool {
        if self.offered(nic) < slots.len() {
            return false;
        }
        self.with(nic, |backend, model| {
            for slot in slots {
                let (id, entry) = backend.pages.remove(0);
                let words = match slot {
                    Slot::Raw(words) => *words,
                    Slot::Data(offset, bytes, flags) => {
                        if let Some(page) = model.page_of(entry, 1, true) {
                            write_memory(page + u64::from(*offset), bytes).expect("a page that is lent");
                        }
                        let length = bytes.len() as u32;
                        [u32::from(id) | u32::from(*offset) << 16, u32::from(*flags) | length << 16]
                    }
                };
                backend.respond(model, 1, &words);
            }
            backend.show(model, 1, 0);
        });
        true
    }

    /// Give the guest a frame in as many pages as it takes. Answers `false` when it offers too few.
    pub(crate) fn deliver(&self, nic: u32, frame: &[u8], flags: u16) -> bool {
        let pieces: Vec<&[u8]> = frame.chunks(PAGE).collect();
        let slots = pieces.iter().enumerate().map(|(index, piece)| {
            let more = if index + 1 < pieces.len() { 4 } else { 0 };
            Slot::Data(0, piece.to_vec(), more | if index == 0 { flags } else { 0 })
        });
        self.give(nic, &slots.collect::<Vec<_>>())
    }

    /// Write any response into a ring, and let the index jump.
    pub(crate) fn lie(&self, nic: u32, which: usize, words: &[u32], jump: u32) {
        self.with(nic, |backend, model| {
            model.lied = true;
            backend.respond(model, which, words);
            backend.show(model, which, jump);
        });
    }

    /// Write words into a ring's page.
    pub(crate) fn scribble(&self, nic: u32, which: usize, range: Range<u64>, value: u32) {
        self.with(nic, |backend, model| {
            model.lied = true;
            let page = backend.ring(model, which);
            range.step_by(4).for_each(|offset| write(page + offset, value));
        });
    }

    /// Hold the next page that is offered, or that of the first frame that has no answer.
    pub(crate) fn hold(&self, nic: u32, which: usize) {
        self.offered(nic);
        self.with(nic, |backend, model| {
            let entry = if which == 0 { backend.unanswered[0].1 } else { backend.pages[0].1 };
            model.hold(entry, true);
        });
    }

    /// There is a backend again, for a frontend that is new to it.
    pub(crate) fn plug(&self, nic: u32) {
        self.with(nic, |backend, model| *backend = Backend::new(&mut model.tree, nic));
        self.serve();
    }

    /// The backend goes away by itself.
    pub(crate) fn close(&self, nic: u32) {
        self.write(&format!("{}/state", backend(nic)), "5");
    }
}
