//! The other side of Xen, inside a host test: the hypervisor's events and grants, the store, and backends of NICs. It does what the test
//! says, lies included, and is strict with the guest as long as it is honest itself.

mod nic;
mod store;

#[cfg_attr(not(test), allow(unused_imports, reason = "the tests of the driver use the rest"))]
pub(crate) use nic::{Backend, Sent, Slot};

use alloc::collections::BTreeSet;
use alloc::format;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::cell::RefCell;
use kernel_io::emulated::{Registers, Xen, attach_ports, attach_registers, attach_xen, on_delay, raise};
use kernel_io::emulated::{read_memory, write_memory};
use kernel_io::xen::{Event, Parameter};
use kernel_io::{Message, PAGE};
use store::Tree;

/// The page of the store, and its port.
const STORE: u64 = 0xfeffc;
const STORE_PORT: u32 = 1;
/// Flags of a grant: access, for reading only; that the page is being read, and written.
const PERMIT: u16 = 1;
const READ_ONLY: u16 = 4;
const IN_USE: u16 = 8 | 16;

/// What the host may do wrong besides its rings.
#[derive(Clone, Debug, Default)]
pub(crate) struct Misbehaviour {
    /// The store answers nothing.
    pub(crate) silent: bool,
    /// It takes no request out of its ring.
    pub(crate) full: bool,
    /// It refuses what it is asked to write.
    pub(crate) refuses: bool,
    /// The index of the store's answers jumps by so much.
    pub(crate) jump: Option<u32>,
    /// Messages that are put in front of each answer.
    pub(crate) before: Vec<Vec<u8>>,
    /// The type of each answer.
    pub(crate) kind: Option<u32>,
    /// The length that each answer says it has.
    pub(crate) length: Option<u32>,
    /// It answers whoever reads that there is an error.
    pub(crate) error: Option<&'static str>,
    /// Backends stay in the state in which they are.
    pub(crate) stuck: bool,
    /// Pages of the grant table that there are, where not enough.
    pub(crate) frames: Option<usize>,
    /// There are no event channels.
    pub(crate) no_events: bool,
}

/// A host. Clones are the same one.
#[derive(Clone)]
pub(crate) struct Host(Rc<RefCell<Model>>);

struct Model {
    interrupt: Option<Message>,
    /// An event has come that was not cleared yet, so that another raises no interrupt.
    raised: bool,
    next_port: u32,
    ports: BTreeSet<u32>,
    grants: Option<(u64, usize)>,
    page: Vec<u8>,
    incoming: Vec<u8>,
    tree: Tree,
    backends: Vec<Backend>,
    misbehaviour: Misbehaviour,
    /// It has lied, so that the guest's view may differ with right.
    lied: bool,
    notified: u64,
    /// Requests to the store.
    asked: u64,
    unplugged: Vec<(u64, u64)>,
}

struct Page(Host);

impl Registers for Page {
    fn read(&self, offset: u64, width: usize) -> u64 {
        let (mut bytes, offset, model) = ([0; 8], offset as usize, self.0.0.borrow());
        // Messages are read byte by byte.
        if width == 1 {
            return model.page[offset].into();
        }
        bytes[..width].copy_from_slice(&model.page[offset..offset + width]);
        u64::from_le_bytes(bytes)
    }

    fn write(&self, offset: u64, width: usize, value: u64) {
        let (offset, page) = (offset as usize, &mut self.0.0.borrow_mut().page);
        if width == 1 {
            page[offset] = value as u8;
        } else {
            page[offset..offset + width].copy_from_slice(&value.to_le_bytes()[..width]);
        }
    }
}

/// The ports by which emulated devices are let go of, what they read as, and their version.
struct Unplug(Host, u16, u8);

impl Registers for Unplug {
    fn read(&self, offset: u64, width: usize) -> u64 {
        match (offset, width) {
            (0, 2) => self.1.into(),
            (2, 1) => self.2.into(),
            _ => panic!("{width} bytes at {offset} are not to be read"),
        }
    }

    fn write(&self, offset: u64, width: usize, value: u64) {
        let unplugged = &mut self.0.0.borrow_mut().unplugged;
        let expected = if self.2 == 0 { &[(0, 2)][..] } else { &[(2, 2), (0, 4), (0, 2)] };
        assert_eq!(expected.get(unplugged.len()), Some(&(offset, width)), "out of order");
        unplugged.push((offset, value));
    }
}

impl Xen for Host {
    fn start_events(&self, interrupt: Message) {
        let mut model = self.0.borrow_mut();
        (model.interrupt, model.raised) = (Some(interrupt), false);
    }

    fn clear_events(&self) {
        self.0.borrow_mut().raised = false;
    }

    fn event(&self, event: Event) -> Result<u32, i32> {
        let mut model = self.0.borrow_mut();
        match event {
            Event::Open(_) if model.misbehaviour.no_events => Err(-28),
            Event::Open(domain) => {
                assert_eq!(domain, 1, "there are backends in domain 1 only");
                let port = model.next_port;
                model.next_port += 1;
                model.ports.insert(port);
                Ok(port)
            }
            Event::Close(port) => {
                assert!(model.ports.remove(&port), "port {port} is not open");
                Ok(0)
            }
            Event::Notify(STORE_PORT) => {
                drop(model);
                self.serve();
                Ok(0)
            }
            Event::Notify(port) => {
                assert!(model.ports.contains(&port), "port {port} is not open");
                model.notified += 1;
                Ok(0)
            }
        }
    }

    fn parameter(&self, parameter: Parameter) -> Option<u64> {
        match parameter {
            Parameter::StorePage => Some(STORE),
            Parameter::StorePort => Some(STORE_PORT.into()),
        }
    }

    fn map_grants(&self, address: u64, frames: usize) -> bool {
        let mut model = self.0.borrow_mut();
        let fits = model.misbehaviour.frames.is_none_or(|most| frames <= most);
        if fits {
            model.grants = Some((address, frames));
        }
        fits
    }

    fn rest(&self) {}
}

impl Host {
    /// Make a host with so many NICs, and let it answer in this thread's machine.
    pub(crate) fn new(nics: usize) -> Self {
        let mut tree = Tree::default();
        let backends = (0..nics as u32).map(|number| Backend::new(&mut tree, number)).collect();
        tree.write("control/shutdown", "");
        let host = Self(Rc::new(RefCell::new(Model {
            interrupt: None,
            raised: false,
            next_port: 5,
            ports: BTreeSet::new(),
            grants: None,
            page: vec![0; PAGE],
            incoming: Vec::new(),
            tree,
            backends,
            misbehaviour: Misbehaviour::default(),
            lied: false,
            notified: 0,
            asked: 0,
            unplugged: Vec::new(),
        })));
        attach_registers(STORE * PAGE as u64, PAGE as u64, Rc::new(Page(host.clone())));
        attach_xen(Rc::new(host.clone()));
        // A driver that waits gives it time.
        let slow = host.clone();
        on_delay(move || slow.serve());
        host
    }

    /// Have the ports by which emulated devices are let go of, with what they read as, and their version.
    pub(crate) fn emulates(&self, magic: u16, version: u8) {
        attach_ports(0x10, 4, Rc::new(Unplug(self.clone(), magic, version)));
    }

    /// What was written to them.
    pub(crate) fn unplugged(&self) -> Vec<(u64, u64)> {
        self.0.borrow().unplugged.clone()
    }

    /// Change how it behaves.
    pub(crate) fn misbehave(&self, change: impl FnOnce(&mut Misbehaviour)) {
        change(&mut self.0.borrow_mut().misbehaviour);
    }

    /// Let a path of the store hold something, and tell whoever watches it.
    pub(crate) fn write(&self, path: &str, value: &str) {
        self.0.borrow_mut().tree.write(path, value);
        self.serve();
    }

    /// What a path of the store holds.
    pub(crate) fn read(&self, path: &str) -> Option<String> {
        self.0.borrow().tree.read(path).map(Into::into)
    }

    /// Remove a path, and what is below.
    pub(crate) fn remove(&self, path: &str) {
        self.0.borrow_mut().tree.remove(path);
        self.serve();
    }

    /// Send bytes to the guest, whatever they are.
    pub(crate) fn say(&self, bytes: &[u8]) {
        self.0.borrow_mut().tree.outgoing.extend(bytes);
        self.serve();
    }

    /// The state of a NIC's backend.
    pub(crate) fn state(&self, nic: u32) -> u32 {
        self.read(&format!("{}/state", nic::backend(nic))).map_or(0, |state| state.parse().expect("a number"))
    }

    /// Ports that are open.
    pub(crate) fn ports(&self) -> usize {
        self.0.borrow().ports.len()
    }

    /// How often backends were told of something since the last call.
    pub(crate) fn notified(&self) -> u64 {
        core::mem::take(&mut self.0.borrow_mut().notified)
    }

    /// How often the store was asked for something since the last call.
    pub(crate) fn asked(&self) -> u64 {
        core::mem::take(&mut self.0.borrow_mut().asked)
    }

    /// Entries of the grant table that allow something.
    pub(crate) fn granted(&self) -> usize {
        let Some((table, frames)) = self.0.borrow().grants else { return 0 };
        let mut entries = vec![0; frames * PAGE];
        read_memory(table, &mut entries).expect("the table");
        entries.as_chunks::<8>().0.iter().filter(|entry| entry[..2] != [0, 0]).count()
    }

    /// Tell the guest of something.
    pub(crate) fn interrupt(&self) {
        self.0.borrow_mut().interrupt();
    }

    /// A backend, and all that it needs.
    fn with<R>(&self, nic: u32, f: impl FnOnce(&mut Backend, &mut Model) -> R) -> R {
        let mut model = self.0.borrow_mut();
        let mut backend = core::mem::take(&mut model.backends[nic as usize]);
        let result = f(&mut backend, &mut model);
        model.backends[nic as usize] = backend;
        result
    }

    /// Take requests to the store, let backends see what has changed, and tell the guest.
    fn serve(&self) {
        let Ok(mut model) = self.0.try_borrow_mut() else { return };
        model.take_requests();
        if !model.misbehaviour.stuck && core::mem::take(&mut model.tree.is_news) {
            for nic in 0..model.backends.len() {
                let mut backend = core::mem::take(&mut model.backends[nic]);
                backend.follow(&mut model);
                model.backends[nic] = backend;
            }
        }
        model.put_answers();
    }
}

impl Model {
    fn interrupt(&mut self) {
        if let Some(message) = self.interrupt
            && !core::mem::replace(&mut self.raised, true)
        {
            raise(message);
        }
    }

    fn index(&self, offset: usize) -> u32 {
        u32::from_le_bytes(*self.page[offset..].first_chunk().expect("in the page"))
    }

    fn set_index(&mut self, offset: usize, value: u32) {
        self.page[offset..offset + 4].copy_from_slice(&value.to_le_bytes());
    }

    fn take_requests(&mut self) {
        if self.misbehaviour.full {
            return;
        }
        let (consumed, produced) = (self.index(2048), self.index(2052));
        let there = produced.wrapping_sub(consumed) as usize;
        assert!(there <= 1024, "the guest has written over its requests");
        let (before, behind) = self.page[..1024].split_at((consumed % 1024) as usize);
        let at_the_end = there.min(behind.len());
        self.incoming.extend_from_slice(&behind[..at_the_end]);
        self.incoming.extend_from_slice(&before[..there - at_the_end]);
        self.set_index(2048, produced);
        while let Some((header, rest)) = self.incoming.split_first_chunk::<16>() {
            let words = header.as_chunks::<4>().0;
            let [kind, number, transaction, length] =
                [0, 1, 2, 3].map(|index: usize| u32::from_le_bytes(words[index]));
            assert!(length <= 4096 && transaction == 0, "a request that no store takes");
            let Some(body) = rest.get(..length as usize) else { return };
            let body = body.to_vec();
            self.incoming.drain(..16 + length as usize);
            self.asked += 1;
            if !self.misbehaviour.silent {
                let misbehaviour = &self.misbehaviour;
                misbehaviour.before.iter().for_each(|bytes| self.tree.outgoing.extend(bytes));
                self.tree.answer(kind, number, &body, misbehaviour);
            }
        }
    }

    /// As much as there is room for.
    fn put_answers(&mut self) {
        let (consumed, mut produced) = (self.index(2056), self.index(2060));
        let unread = produced.wrapping_sub(consumed);
        assert!(unread <= 1024 || self.lied, "the guest has read what was not there");
        let room = 1024_usize.saturating_sub(unread as usize).min(self.tree.outgoing.len());
        if room == 0 {
            return;
        }
        let (before, behind) = self.page[1024..2048].split_at_mut((produced % 1024) as usize);
        let at_the_end = room.min(behind.len());
        behind[..at_the_end].copy_from_slice(&self.tree.outgoing[..at_the_end]);
        before[..room - at_the_end].copy_from_slice(&self.tree.outgoing[at_the_end..room]);
        self.tree.outgoing.drain(..room);
        produced = produced.wrapping_add(room as u32);
        if let Some(jump) = self.misbehaviour.jump {
            self.lied = true;
            produced = produced.wrapping_add(jump);
        }
        self.set_index(2060, produced);
        self.interrupt();
    }

    /// An entry of the grant table: flags, domain, address.
    fn grant(&self, entry: u32) -> Option<(u16, u16, u64)> {
        let (table, frames) = self.grants?;
        if entry as usize >= frames * PAGE / 8 {
            return None;
        }
        let mut bytes = [0; 8];
        read_memory(table + 8 * u64::from(entry), &mut bytes).expect("the table");
        let [a, b, c, d, page @ ..] = bytes;
        let address = u64::from(u32::from_le_bytes(page)) * PAGE as u64;
        Some((u16::from_le_bytes([a, b]), u16::from_le_bytes([c, d]), address))
    }

    /// The address of a page that the guest lets a domain write to, or read. Who has lied may have written over the guest's requests;
    /// then there may be none.
    fn page_of(&self, entry: u32, domain: u16, writes: bool) -> Option<u64> {
        let grant = self.grant(entry);
        let allows = |(flags, whose, _): &(u16, u16, u64)| {
            flags & PERMIT != 0 && *whose == domain && (flags & READ_ONLY == 0) == writes
        };
        let page = grant.filter(allows).map(|(_, _, address)| address);
        assert!(page.is_some() || self.lied, "entry {entry} does not allow that: {grant:x?}");
        page
    }

    /// Hold a page, so that the guest cannot take it back, or let go of it.
    fn hold(&mut self, entry: u32, holds: bool) {
        let (table, _) = self.grants.expect("a table");
        let (flags, ..) = self.grant(entry).expect("an entry");
        let flags = if holds { flags | IN_USE } else { flags & !IN_USE };
        write_memory(table + 8 * u64::from(entry), &flags.to_le_bytes()).expect("the table");
    }
}
