//! Received frames: pages that the backend may write to until it says that it has, the same page always for the same place in the ring.

use super::super::bus::Bus;
use super::super::grants::{Access, Grants};
use super::super::ring::{Front, Lie, SIZE};
use super::ETHERNET;
use crate::nic::vouch;
use crate::{Error, Received};
use alloc::boxed::Box;
use alloc::rc::Rc;
use alloc::vec;
use alloc::vec::Vec;
use core::fmt;
use core::ops::Range;
use kernel_io::{Buffer, Direction, Lent, PAGE};

/// Pages: at least, for Linux' backend of before 4.5 gives nothing as long as it has fewer than 18; and from how many on frames may come in
/// several.
const LEAST: usize = 32;
const FOR_PIECES: usize = 64;
/// Pages of a frame, at most.
const PIECES: u32 = 18;
/// Frames that are thrown away before the rest of the machine has its turn.
const ROUND: usize = 256;
/// Bytes of a request and of a response.
const STRIDE: usize = 8;

/// Flags of a response: the checksum is right; it is still to be made; the frame goes on; something is said about it in the next response.
const VALIDATED: u16 = 1;
const BLANK: u16 = 2;
const MORE: u16 = 4;
const EXTRA: u16 = 8;
/// Additional information: how many kinds there are, and the flag that more of it follows.
const KINDS: u8 = 5;
const MORE_EXTRA: u8 = 1;

/// A page.
#[derive(Debug)]
enum Page {
    Ours(Buffer),
    Granted(Lent),
    /// On its way from one to the other.
    Nobodys,
}

/// Pages, and the frame that the stack looks at.
#[derive(Debug)]
pub(super) struct Receive {
    pub(super) ring: Front,
    bus: Rc<Bus>,
    domain: u16,
    /// A power of two.
    pages: Vec<Page>,
    /// The entry of the grant table for each.
    pub(super) entries: Vec<u16>,
    /// Where a frame in several pages is copied together; empty where there are none.
    whole: Box<[u8]>,
    /// The frame: in a page, or copied together.
    frame: (Option<usize>, Range<usize>),
}

impl fmt::Display for Receive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} pages{}",
            self.pages.len(),
            if self.takes_pieces() { ", frames in several" } else { "" }
        )
    }
}

/// A response.
#[derive(Clone, Copy)]
struct Response {
    id: u16,
    offset: usize,
    flags: u16,
    /// A length, or less than zero.
    status: i16,
}

impl Receive {
    pub(super) fn new(bus: &Rc<Bus>, domain: u16, memory: usize) -> Result<Self, Error> {
        let count = (memory / PAGE).clamp(LEAST, SIZE as usize);
        let count = 1 << count.ilog2();
        let whole = if count >= FOR_PIECES { PIECES as usize * PAGE } else { 0 };
        let mut pages = Buffer::allocate(count, PAGE)?;
        // Who may write to them may read them, and they hold what was there before.
        pages.iter_mut().for_each(|page| page.fill(0));
        Ok(Self {
            ring: Front::new(STRIDE)?,
            bus: bus.clone(),
            domain,
            entries: Vec::new(),
            pages: pages.into_iter().map(Page::Ours).collect(),
            whole: vec![0; whole].into_boxed_slice(),
            frame: (None, 0..0),
        })
    }

    /// Whether a frame may come in several pages.
    pub(super) fn takes_pieces(&self) -> bool {
        !self.whole.is_empty()
    }

    /// How many entries of the grant table it takes.
    pub(super) fn needs(&self) -> usize {
        self.pages.len()
    }

    /// The page of a place in the ring.
    fn page_of(&self, place: u32) -> usize {
        place as usize & (self.pages.len() - 1)
    }

    /// Let the backend have all pages that nobody looks at. It sees them once they are announced.
    pub(super) fn offer(&mut self) {
        while (self.ring.under_way() as usize) < self.pages.len() {
            let page = self.page_of(self.ring.next());
            let entry = self.entries[page];
            let lent = match core::mem::replace(&mut self.pages[page], Page::Nobodys) {
                Page::Ours(buffer) => buffer.lend(Direction::FromDevice),
                other => {
                    // One that is held has the connection closed, which is taken up no more.
                    self.pages[page] = other;
                    return;
                }
            };
            self.bus.grants.allow(entry, self.domain, lent.address(), Access::Write);
            self.pages[page] = Page::Granted(lent);
            self.ring.push(&[page as u32, entry.into()]);
        }
    }

    /// All pages back, after the connection was closed. Answers whether they are.
    pub(super) fn recover(&mut self) -> bool {
        let mut is_ours = true;
        for (page, entry) in self.pages.iter_mut().zip(&self.entries) {
            is_ours &= take_back(&self.bus.grants, *entry, page);
        }
        is_ours
    }

    /// Go on to the next frame that is believed, and have it ready. Others are counted and given back.
    pub(super) fn next_frame(&mut self, dropped: &mut u64) -> Result<bool, Lie> {
        for _ in 0..ROUND {
            self.offer();
            let there = self.ring.responses()?;
            if there == 0 {
                return Ok(false);
            }
            if self.take(there)? {
                return Ok(true);
            }
            *dropped += 1;
        }
        Ok(false)
    }

    /// Take the next response, and the page with it.
    fn response(&mut self) -> Result<(usize, [u32; 2]), Lie> {
        let page = self.page_of(self.ring.next_response());
        let words = [self.ring.response(0), self.ring.response(1)];
        self.ring.advance();
        if !take_back(&self.bus.grants, self.entries[page], &mut self.pages[page]) {
            return Err(Lie::Held);
        }
        Ok((page, words))
    }

    /// Take a frame, of which the first response is there. Answers whether it is one for the stack.
    fn take(&mut self, mut there: u32) -> Result<bool, Lie> {
        let mut next = |receive: &mut Self| {
            there = there.checked_sub(1).ok_or(Lie::Index)?;
            receive.response()
        };
        let (mut page, words) = next(self)?;
        let first = Response::new(words);
        let mut more_extra = first.flags & EXTRA != 0;
        while more_extra {
            // It has no number: that place is where the information is.
            let (_, words) = next(self)?;
            let [kind, flags, ..] = words[0].to_le_bytes();
            if !(1..=KINDS).contains(&kind) {
                return Err(Lie::Kind);
            }
            more_extra = flags & MORE_EXTRA != 0;
        }
        let (mut response, mut whole, mut is_good) = (first, 0, true);
        for piece in 0..PIECES {
            if usize::from(response.id) != page {
                return Err(Lie::Id);
            }
            match response.place()? {
                None => is_good = false,
                Some(place) if piece == 0 && response.flags & MORE == 0 => {
                    self.frame = (Some(page), place);
                    return Ok(self.is_believed(first.flags));
                }
                Some(place) => {
                    let room = self.whole.get_mut(whole..whole + place.len()).ok_or(Lie::Length)?;
                    let Page::Ours(buffer) = &self.pages[page] else { return Err(Lie::Held) };
                    room.copy_from_slice(&buffer[place.clone()]);
                    whole += place.len();
                }
            }
            if response.flags & MORE == 0 {
                self.frame = (None, 0..whole);
                return Ok(is_good && self.is_believed(first.flags));
            }
            let words;
            (page, words) = next(self)?;
            response = Response::new(words);
        }
        Err(Lie::Length)
    }

    /// Whether the frame may be given to the stack, by what the backend says of it.
    fn is_believed(&mut self, flags: u16) -> bool {
        let (page, place) = self.frame.clone();
        let bytes = match page.map(|page| &mut self.pages[page]) {
            None => &mut self.whole[place],
            Some(Page::Ours(buffer)) => &mut buffer[place],
            Some(_) => return false,
        };
        // Whoever says that a checksum is still to be made has the frame from the same machine.
        let is_right = flags & (VALIDATED | BLANK) != 0;
        bytes.len() >= ETHERNET && vouch(bytes, is_right, is_right)
    }
}

/// Revoke the grant of a page. Answers whether it is ours then.
fn take_back(grants: &Grants, entry: u16, page: &mut Page) -> bool {
    match core::mem::replace(page, Page::Nobodys) {
        Page::Granted(lent) if grants.revoke(entry, Access::Write) => {
            // SAFETY: the grant was all by which the backend can access the page, and it cannot be revoked as long as the backend has the
            // page mapped or something copies to it.
            *page = Page::Ours(unsafe { lent.reclaim() });
            true
        }
        Page::Ours(buffer) => {
            *page = Page::Ours(buffer);
            true
        }
        other => {
            *page = other;
            false
        }
    }
}

impl Response {
    fn new([first, second]: [u32; 2]) -> Self {
        Self {
            id: first as u16,
            offset: (first >> 16) as usize,
            flags: second as u16,
            status: (second >> 16) as i16,
        }
    }

    /// Where in its page the frame lies; `None` for a frame that was lost on the way.
    fn place(self) -> Result<Option<Range<usize>>, Lie> {
        let Ok(length) = usize::try_from(self.status) else { return Ok(None) };
        let end = self.offset + length;
        if end > PAGE { Err(Lie::Length) } else { Ok(Some(self.offset..end)) }
    }
}

/// A received frame.
#[derive(Debug)]
pub struct Rx<'a>(&'a [u8]);

impl<'a> Rx<'a> {
    pub(super) fn new(receive: &'a Receive) -> Self {
        let (page, place) = receive.frame.clone();
        match page.map(|page| &receive.pages[page]) {
            None => Self(&receive.whole[place]),
            Some(Page::Ours(buffer)) => Self(&buffer[place]),
            // Nobody is given a frame that is not ours.
            Some(_) => Self(&[]),
        }
    }
}

impl Received for Rx<'_> {
    #[inline]
    fn frame(&self) -> &[u8] {
        self.0
    }
}
