//! The console against an emulated device.

use super::*;
use crate::emulated::{Description, Emulated, Misbehaviour};
use alloc::vec;
use kernel_io::emulated::faults;

fn device() -> (Emulated, Console) {
    let device = Emulated::new(Description {
        kind: 3,
        features: feature::VERSION_1,
        configuration: vec![0; 12],
        queues: vec![16, 16],
        legacy: false,
    });
    let console = Console::new(device.device().expect("vectors")).expect("an honest device");
    (device, console)
}

/// Text that is taken piece by piece.
fn from(text: &mut Vec<u8>) -> impl FnMut(&mut [u8]) -> usize + '_ {
    |room| {
        let length = room.len().min(text.len());
        room[..length].copy_from_slice(&text[..length]);
        text.drain(..length);
        length
    }
}

fn said(device: &Emulated) -> Vec<u8> {
    core::iter::from_fn(|| device.sent()).flatten().collect()
}

#[test]
fn text_goes_out_whole_and_in_order_and_nothing_is_given_to_be_written_to() {
    let (device, mut console) = device();
    let text: Vec<u8> = (0..=250).cycle().take(20_000).collect();
    let (mut left, mut heard) = (text.clone(), Vec::new());
    for _ in 0..20 {
        console.carry(from(&mut left));
        heard.extend(said(&device));
    }
    assert!(left.is_empty() && heard == text);
    assert!(console.carry(from(&mut left)), "all of it was taken");
    assert_eq!((device.available(0), faults().len()), (0, 0));
}

#[test]
fn a_reader_that_is_gone_is_not_waited_for() {
    let (device, mut console) = device();
    let mut text = vec![b'x'; 50_000];
    for _ in 0..if cfg!(miri) { 20 } else { 1000 } {
        assert!(!console.carry(from(&mut text)));
    }
    assert_eq!(text.len(), 50_000 - usize::from(BUFFERS) * LENGTH, "what has no place stays");
    assert_eq!(said(&device).len(), usize::from(BUFFERS) * LENGTH);
    console.carry(from(&mut text));
    assert_eq!(said(&device).len(), usize::from(BUFFERS) * LENGTH, "it goes on");
}

#[test]
fn a_source_that_says_too_much_of_itself_reaches_no_other_memory() {
    let (device, mut console) = device();
    let mut once = Some(usize::MAX);
    console.carry(|_| once.take().unwrap_or(0));
    assert_eq!(said(&device).len(), LENGTH);
}

#[test]
fn lies_reset_it_and_after_eight_it_is_left_alone() {
    let (device, mut console) = device();
    for lies in 1..=u32::from(PATIENCE) {
        let resets = device.resets();
        console.carry(from(&mut b"some".to_vec()));
        match lies % 3 {
            0 => device.lie(1, 99, 0, 1),
            1 => device.lie(1, 3, 0, 1),
            _ => device.lie(1, 0, 0, 5),
        }
        assert!(console.carry(from(&mut b"more".to_vec())));
        assert!(device.resets() > resets, "{lies}");
    }
    let mut text = b"no more".to_vec();
    assert!(console.carry(from(&mut text)));
    assert_eq!((text.len(), faults().len()), (7, 0));
}

#[test]
fn one_that_does_not_come_back_is_given_up_and_its_memory_never_used_again() {
    let (device, mut console) = device();
    console.carry(from(&mut b"some".to_vec()));
    device.misbehave(Misbehaviour { stuck: true, ..Misbehaviour::default() });
    device.lie(1, 99, 0, 1);
    assert!(console.carry(from(&mut b"more".to_vec())));
    let mut text = b"no more".to_vec();
    assert!(console.carry(from(&mut text)) && text.len() == 7);
    drop(console);
    assert_eq!(faults().len(), 0);
}

#[test]
fn whatever_a_device_does_the_console_lives() {
    let (device, mut console) = device();
    let mut random = 3_u64;
    let mut below = |limit: u64| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) % limit
    };
    for _ in 0..if cfg!(miri) { 100 } else { 5000 } {
        // Patience is for a device; the test has more.
        console.patience = console.patience.max(2);
        let mut text = vec![b'y'; below(3000) as usize];
        console.carry(from(&mut text));
        match below(4) {
            0 if device.is_running() => {
                device.lie(1, below(20) as u32, below(1 << 20) as u32, below(12) as u16);
            }
            1 if device.is_running() => drop(device.sent()),
            _ => {}
        }
    }
    assert_eq!(faults().len(), 0);
}
