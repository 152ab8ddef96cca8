//! What a read brings is offered where it lies, and goes into the buffer if nobody has a use for it.

use super::*;
use crate::testing::chunk_bytes;
use crate::wire::chunk;
use storage_block::{Arrived, Delivery, Recipient};

/// Hears what is delivered, and uses of it what it is told to.
struct Listener {
    /// Cookie, offset, bytes there were, bytes that came, and whether they were the last.
    heard: Vec<(u64, u32, usize, usize, bool)>,
    bytes: Vec<u8>,
    answer: fn(&Arrived<'_>) -> Delivery,
}

impl Listener {
    fn new(answer: fn(&Arrived<'_>) -> Delivery) -> Self {
        Self { heard: Vec::new(), bytes: Vec::new(), answer }
    }
}

impl Recipient for Listener {
    fn deliver(&mut self, cookie: u64, arrived: &Arrived<'_>) -> Delivery {
        let Arrived { offset, had, come, is_last } = *arrived;
        self.heard.push((cookie, offset, had.len(), come.len(), is_last));
        let delivery = (self.answer)(arrived);
        let used = match delivery {
            Delivery::Used(count) => count as usize,
            Delivery::Ended => had.len() + come.len(),
        };
        self.bytes.extend([had, come].concat().iter().take(used));
        delivery
    }
}

/// All of it, at its end.
fn all(arrived: &Arrived<'_>) -> Delivery {
    if arrived.is_last { Delivery::Ended } else { Delivery::Used(arrived.length()) }
}

/// A client that has asked for 12 KiB of a disk with content, and the answer to that.
fn asked(settings: &Settings, shape: Shape) -> (Pair, Vec<u8>, Vec<u8>) {
    let mut pair = Pair::new(settings, 1 << 16);
    let content: Vec<u8> = (0..12_288).map(|at| (at % 251 + 1) as u8).collect();
    for (at, part) in content.chunks(4096).enumerate() {
        let mut request = pair.request(7, Operation::Write { fua: false }, 4096 * at as u64, 4096);
        request.buffer.as_deref_mut().expect("a buffer").copy_from_slice(part);
        pair.client.submit(Instant::ZERO, request).expect("a free slot");
        pair.send();
        pair.session.execute(&mut pair.disk, 0, Shape::Plain);
        pair.deliver().expect("a sound server");
        pair.completion().expect("an end");
    }
    pair.submit(9, Operation::Read, 0, 12_288);
    pair.send();
    pair.session.execute(&mut pair.disk, 0, shape);
    let answer = core::mem::take(&mut pair.session.output);
    (pair, content, answer)
}

#[test]
fn a_read_that_is_used_where_it_lies_has_no_completion_and_gives_its_slot_and_its_buffer_back() {
    for structured in [false, true] {
        let settings = Settings { structured, ..Settings::default() };
        let (mut pair, content, answer) = asked(&settings, Shape::Plain);
        let free = pair.client.free_slots();
        let mut listener = Listener::new(all);
        let taken = pair.client.take(Instant::ZERO, &answer, &mut listener);
        assert_eq!(taken, Ok(answer.len()));
        assert_eq!((listener.heard, listener.bytes), (vec![(9, 0, 0, 12_288, true)], content));
        assert!(pair.completion().is_none());
        assert_eq!((pair.client.free_slots(), pair.client.outstanding()), (free + 1, 0));
        assert_eq!(pair.share.used(), 0);
        pair.run(Operation::Read, 0, 4096, Shape::Plain).expect("and the next goes on");
    }
}

#[test]
fn what_is_not_used_is_in_the_buffer_and_shown_again_before_what_follows() {
    let (mut pair, content, answer) = asked(&Settings::default(), Shape::Plain);
    // What comes alone is not worth it; then so much at a time, but never the last.
    let mut listener = Listener::new(|arrived| {
        let length = arrived.length();
        Delivery::Used(if arrived.is_last || length < 3000 { 0 } else { length - length % 1000 })
    });
    for piece in answer.chunks(2000) {
        assert_eq!(pair.client.take(Instant::ZERO, piece, &mut listener), Ok(piece.len()));
    }
    let used = listener.bytes.len();
    assert!(used >= 6000 && listener.heard.iter().any(|(_, offset, had, ..)| *offset > 0 && *had > 0));
    assert_eq!(listener.bytes, content[..used]);
    let completion = pair.completion().expect("it has not ended for its recipient");
    assert_eq!(completion.buffer.expect("a buffer")[used..], content[used..]);
    let last = listener.heard.last().expect("something was heard");
    assert_eq!((last.1 as usize, last.2 + last.3, last.4), (used, 12_288 - used, true));
}

#[test]
fn nothing_is_delivered_that_the_server_could_still_take_back() {
    // In several chunks, and as zeroes.
    for seed in 0..20 {
        let (mut pair, content, answer) = asked(&Settings::default(), Shape::Pieces(seed));
        let mut listener = Listener::new(all);
        assert_eq!(pair.client.take(Instant::ZERO, &answer, &mut listener), Ok(answer.len()));
        match pair.completion() {
            Some(completion) => assert_eq!(*completion.buffer.expect("a buffer"), content),
            None => assert_eq!((listener.heard.len(), listener.bytes), (1, content), "it was one chunk"),
        }
    }
    // All of the data, and then an error.
    let mut pair = Pair::new(&Settings::default(), 1 << 16);
    pair.submit(9, Operation::Read, 0, 512);
    let cookie = pair.send()[0].cookie;
    let data = [&[0; 8][..], &[5; 512]].concat();
    let failure = [&5_u32.to_be_bytes()[..], &[0; 2]].concat();
    let mut answer = chunk_bytes(0, chunk::OFFSET_DATA, cookie, &data);
    answer.extend(chunk_bytes(chunk::FLAG_DONE, chunk::ERROR_BIT | 1, cookie, &failure));
    let mut listener = Listener::new(all);
    assert_eq!(pair.client.take(Instant::ZERO, &answer, &mut listener), Ok(answer.len()));
    assert!(listener.heard.is_empty());
    assert_eq!(pair.completion().expect("an end").result, Err(Error::Io));
    // Without structured replies a server that fails half way can but break off.
    let settings = Settings { structured: false, ..Settings::default() };
    let (mut pair, content, answer) = asked(&settings, Shape::Plain);
    for piece in answer.chunks(5000) {
        assert_eq!(pair.client.take(Instant::ZERO, piece, &mut listener), Ok(piece.len()));
    }
    assert!(listener.heard.is_empty());
    assert_eq!(*pair.completion().expect("an end").buffer.expect("a buffer"), content);
}

#[test]
fn a_read_that_is_made_anew_is_delivered_from_its_beginning() {
    let (mut pair, content, answer) = asked(&Settings::default(), Shape::Plain);
    let mut listener = Listener::new(all);
    assert_eq!(pair.client.take(Instant::ZERO, &answer[..6000], &mut listener), Ok(6000));
    pair.client.disconnected(Instant::ZERO);
    let request = pair.client.take_unfinished().expect("it has no outcome").request;
    pair.connect(&Settings::default());
    pair.client.submit(Instant::ZERO, request).expect("a free slot");
    pair.send();
    pair.session.execute(&mut pair.disk, 0, Shape::Plain);
    let answer = core::mem::take(&mut pair.session.output);
    let mut listener = Listener::new(all);
    assert_eq!(pair.client.take(Instant::ZERO, &answer, &mut listener), Ok(answer.len()));
    assert_eq!((listener.heard, listener.bytes), (vec![(9, 0, 0, 12_288, true)], content));
}
