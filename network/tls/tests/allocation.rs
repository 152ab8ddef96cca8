//! Between the handshake and the end nothing is allocated, however much data goes by.
#![allow(clippy::unwrap_used, reason = "only tests come here")]

mod pki;

use network_tls::{Anchors, Buffers, ClientConfig, Clients, Connection, Dates, ServerConfig};
use pki::{Authority, Kind, Leaf, NOW, crypto};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

struct Counting;

thread_local! {
    static COUNT: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: everything is handed on to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        COUNT.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller's promises are those that the system's allocator asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

fn carry(from: &mut Connection, to: &mut Connection) {
    loop {
        let bytes = from.poll_transmit();
        let space = to.space();
        let count = bytes.len().min(space.len());
        if count == 0 {
            return;
        }
        space[..count].copy_from_slice(&bytes[..count]);
        from.transmitted(count);
        to.received(count).unwrap();
    }
}

#[test]
fn data_costs_no_allocation() {
    let authority = Authority::new("authority", Kind::P256);
    let issued = authority.issue(&Leaf::server(&["storage.example"]));
    let anchors = Anchors::from_der([authority.der.clone()]).unwrap();
    let client = ClientConfig::new(crypto(), &anchors, None, Dates::MustBeChecked).unwrap();
    let server =
        ServerConfig::new(crypto(), issued.identity(), &Clients::Anybody, Dates::MustBeChecked).unwrap();
    let mut client = Connection::client(&client, "storage.example", Some(NOW), Buffers::default()).unwrap();
    let mut server = Connection::server(&server, None, Buffers::default()).unwrap();
    while !client.is_established() || !server.is_established() {
        carry(&mut client, &mut server);
        carry(&mut server, &mut client);
    }
    let (request, mut reply, mut out) = ([7; 28], vec![1; 60_000], vec![0; 60_000]);
    let before = COUNT.with(Cell::get);
    for round in 0..1000 {
        reply[0] = round as u8;
        assert_eq!(client.write(&request).unwrap(), request.len());
        carry(&mut client, &mut server);
        assert_eq!(server.read(&mut out).unwrap(), request.len());
        let (mut sent, mut got) = (0, 0);
        while got < reply.len() {
            sent += server.write(&reply[sent..]).unwrap();
            carry(&mut server, &mut client);
            got += client.read(&mut out[got..]).unwrap();
        }
        assert_eq!(out[0], round as u8);
    }
    assert_eq!(COUNT.with(Cell::get), before);
}
