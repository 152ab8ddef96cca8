//! Asking a metadata service for the configuration, before the networks have addresses: on each NIC that it may be reached by,
//! from an address of the link (RFC 3927), bounded in time and size. Whoever has a document there first is believed: it was the
//! operator who said that there is one. What makes no sense ends the asking on its own NIC alone.

use crate::{Mac, Shown, list};
use alloc::format;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::cell::RefCell;
use core::fmt::Write;
use core::net::{Ipv4Addr, SocketAddrV4};
use core::time::Duration;
use image_channels::mmds::{self, Answer, Malformed};
use kernel_runtime::{Clock, Executor, Instant, Profile};
use network::{Addressing, Attachment, Cidr, Measured, Settings, Side, Stream};
use network_nic::Nic;

/// How long it may take until there is a document, which may be put there after the machine was started.
const LIMIT: Duration = Duration::from_secs(15);
/// Before it is asked again for what it does not have.
const PAUSE: Duration = Duration::from_millis(500);
/// Before a connection is tried again that was refused, and how often it is.
const SOON: Duration = Duration::from_millis(50);
const TRIES: u32 = 4;
/// Buffers of a connection.
const RECEIVE: usize = 16 << 10;
const SEND: usize = 1 << 10;
/// The network of the link.
const PREFIX: u8 = 16;
/// Statuses: here it is; it is not there yet.
const GOOD: u16 = 200;
const NOT_FOUND: u16 = 404;

/// What came of the asking so far.
#[derive(Default)]
struct Outcome {
    document: Option<Vec<u8>>,
    /// The NICs on which something answers that is no metadata service, and what that is.
    refused: Vec<(Mac, Malformed)>,
}

type Shared = Rc<RefCell<Outcome>>;

/// Why a question has no answer.
enum Trouble {
    /// No connection, or it ended in the middle.
    Gone,
    Malformed(Malformed),
}

/// The document that the service at `address` has, by whichever it is reached of the NICs that `is_asked` says yes to; `rest`
/// is as for [`find`](crate::find). All NICs come back, in their order.
pub fn fetch<N: Nic>(
    nics: Vec<N>,
    address: Ipv4Addr,
    is_asked: &dyn Fn(Mac) -> bool,
    seed: u64,
    now: &dyn Fn() -> Instant,
    rest: &mut dyn FnMut(Option<Instant>),
) -> (Vec<N>, Result<Vec<u8>, String>) {
    let macs: Vec<Mac> = nics.iter().map(Nic::mac).collect();
    let mut executor = Executor::new(nics.len().max(1));
    let outcome = Shared::default();
    let (mut attachments, mut asked, mut all) = (Vec::new(), Vec::new(), Vec::new());
    for (index, nic) in nics.into_iter().enumerate() {
        let mac = macs[index];
        if !is_asked(mac) {
            all.push((index, nic));
            continue;
        }
        let seed = seed.wrapping_add(index as u64);
        let addressing = Addressing::Static { cidr: own(address, seed), gateway: None };
        let settings = Settings { side: Side::Link, addressing, foreign: None, seed };
        let attachment = Attachment::new(&settings, Measured::new(nic, Profile::off()), now());
        let stream = attachment.stack().stream(RECEIVE, SEND);
        executor.add("metadata", ask(stream, (address, mac), executor.clock(), outcome.clone()));
        attachments.push(attachment);
        asked.push(index);
    }
    let fail = |refused: &[(Mac, Malformed)]| {
        let nobody = format!("nobody at {address} had a document");
        let mut text = match asked.len() {
            0 => format!("of these NICs none is one to ask {address} on; {}", list(&macs)),
            count if count == macs.len() => format!("{nobody}; {}", list(&macs)),
            _ => {
                let asked: Vec<Mac> = asked.iter().map(|index| macs[*index]).collect();
                format!("{nobody} on the NICs that were asked; {}", list(&asked))
            }
        };
        for (mac, malformed) in refused {
            // Writing to a string does not fail.
            let _ = write!(text, "; by {}: {malformed}", Shown(mac));
        }
        text
    };
    let limit = now() + LIMIT;
    let result = loop {
        let time = now();
        for nic in &mut attachments {
            nic.receive(time);
        }
        executor.run_ready(time);
        let more = attachments.iter_mut().fold(false, |more, nic| nic.transmit(time) | more);
        let mut outcome = outcome.borrow_mut();
        if let Some(document) = outcome.document.take() {
            break Ok(document);
        }
        if time >= limit || outcome.refused.len() == asked.len() {
            break Err(fail(&outcome.refused));
        }
        drop(outcome);
        let is_busy = more || executor.has_ready();
        if is_busy || attachments.iter_mut().fold(false, |waits, nic| nic.arm() | waits) {
            rest(None);
            continue;
        }
        let deadlines = attachments.iter_mut().filter_map(|nic| nic.next_deadline(time));
        rest(Some(deadlines.chain(executor.next_deadline()).fold(limit, Instant::min)));
    };
    drop(executor);
    let used = attachments.into_iter().map(|nic| nic.into_nic().into_inner());
    all.extend(asked.into_iter().zip(used));
    all.sort_by_key(|(index, _)| *index);
    (all.into_iter().map(|(_, nic)| nic).collect(), result)
}

/// Our own address on the link.
fn own(other: Ipv4Addr, seed: u64) -> Cidr {
    let [third, fourth] = [seed as u8, (seed >> 8) as u8].map(|byte| byte % 254 + 1);
    let address = Ipv4Addr::new(169, 254, third, fourth);
    let address = if address == other { Ipv4Addr::new(169, 254, third, fourth % 254 + 1) } else { address };
    Cidr { address, prefix: PREFIX }
}

/// Ask by one NIC, again as long as there is nothing.
async fn ask(mut stream: Stream, (address, by): (Ipv4Addr, Mac), clock: Clock, outcome: Shared) {
    let to = SocketAddrV4::new(address, mmds::PORT);
    let mut buffer = vec![0; mmds::LONGEST_ANSWER];
    loop {
        match document(&mut stream, to, &mut buffer, &clock).await {
            Ok(Some(document)) => {
                outcome.borrow_mut().document.get_or_insert(document);
                return;
            }
            Ok(None) | Err(Trouble::Gone) => {}
            Err(Trouble::Malformed(malformed)) => {
                log::warn!("metadata service at {address}: by {}: {malformed}", Shown(&by));
                outcome.borrow_mut().refused.push((by, malformed));
                return;
            }
        }
        clock.sleep(PAUSE).await;
    }
}

/// The document; `None` while there is none.
async fn document(
    stream: &mut Stream,
    to: SocketAddrV4,
    buffer: &mut [u8],
    clock: &Clock,
) -> Result<Option<Vec<u8>>, Trouble> {
    let answer = exchange(stream, to, &[mmds::TOKEN_QUESTION], buffer, clock).await?;
    // Version 1 has no tokens, and answers in some other way.
    let token = answer.token().map(<[u8]>::to_vec);
    let by_token = [mmds::QUESTION, mmds::TOKEN, token.as_deref().unwrap_or_default(), mmds::END, mmds::END];
    let question = if token.is_some() { &by_token[..] } else { &[mmds::QUESTION, mmds::END] };
    let answer = exchange(stream, to, question, buffer, clock).await?;
    match answer.status {
        GOOD => Ok(Some(answer.body.to_vec())),
        status => {
            if status != NOT_FOUND {
                log::warn!("metadata service at {}: status {status}", to.ip());
            }
            Ok(None)
        }
    }
}

/// A question on a connection of its own, and its answer.
async fn exchange<'a>(
    stream: &mut Stream,
    to: SocketAddrV4,
    question: &[&[u8]],
    buffer: &'a mut [u8],
    clock: &Clock,
) -> Result<Answer<'a>, Trouble> {
    let mut tries = TRIES;
    // One that serves a client at a time may still be busy with our last question.
    while stream.connect(to).await.is_err() {
        if tries == 0 {
            return Err(Trouble::Gone);
        }
        tries -= 1;
        clock.sleep(SOON).await;
    }
    for part in question {
        stream.write_all(part).await.map_err(|_| Trouble::Gone)?;
    }
    let mut length = 0;
    while Answer::parse(&buffer[..length]).map_err(Trouble::Malformed)?.is_none() {
        // A whole answer fits, or it is refused before.
        let count = stream.read(&mut buffer[length..]).await.map_err(|_| Trouble::Gone)?;
        if count == 0 {
            return Err(Trouble::Gone);
        }
        length += count;
    }
    stream.abort();
    Answer::parse(&buffer[..length]).map_err(Trouble::Malformed)?.ok_or(Trouble::Gone)
}

#[cfg(test)]
mod tests;
