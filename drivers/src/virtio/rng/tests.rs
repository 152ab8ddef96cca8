//! The source of randomness against an emulated device.

use super::*;
use crate::emulated::{Description, Emulated, Misbehaviour};
use alloc::rc::Rc;
use alloc::vec;
use core::cell::Cell;
use kernel_io::emulated::{faults, microseconds, on_delay};

fn device() -> (Emulated, Rng) {
    let features = feature::VERSION_1;
    let device = Emulated::new(Description {
        kind: 4,
        features,
        configuration: vec![],
        queues: vec![8],
        legacy: false,
    });
    let rng = Rng::new(device.device().expect("vectors")).expect("an honest device");
    (device, rng)
}

/// The device answers each request, when the driver waits, with `length` bytes that count up.
fn answering(device: &Emulated, length: usize) {
    let (device, next) = (device.clone(), Rc::new(Cell::new(0_u8)));
    on_delay(move || {
        while device.is_running()
            && let Some(chain) = device.take(0)
        {
            let bytes: Vec<u8> = (0..length).map(|_| next.replace(next.get().wrapping_add(1))).collect();
            let written = chain.write(&bytes);
            device.put(0, &chain, written);
        }
    });
}

#[test]
fn bytes_come_in_the_devices_own_portions() {
    for portion in [1, 7, 64] {
        let (device, mut rng) = device();
        answering(&device, portion);
        let mut bytes = [0; 200];
        assert_eq!(rng.fill(&mut bytes), Ok(()));
        // What is left of a portion at the end is thrown away.
        let expected: Vec<u8> = (0..200).map(|value| value as u8).collect();
        assert_eq!(bytes[..], expected[..]);
        assert_eq!(faults().len(), 0);
    }
}

#[test]
fn a_silent_device_is_not_waited_for_for_ever() {
    let (device, mut rng) = device();
    let (before, mut bytes) = (microseconds(), [0; 8]);
    assert_eq!(rng.fill(&mut bytes), Err(RngError::Silent));
    assert!(microseconds() - before < 2_000_000);
    answering(&device, 64);
    assert_eq!(rng.fill(&mut bytes), Ok(()), "it may go better later");
}

#[test]
fn an_empty_answer_is_no_randomness() {
    let (device, mut rng) = device();
    answering(&device, 0);
    assert_eq!(rng.fill(&mut [0; 8]), Err(RngError::Empty));
}

#[test]
fn a_lie_resets_it() {
    let (device, mut rng) = device();
    device.lie(0, 99, 8, 1);
    assert_eq!(rng.fill(&mut [0; 8]), Err(RngError::Lie(Lie::Id)));
    answering(&device, 64);
    assert_eq!(rng.fill(&mut [0; 8]), Ok(()));
    device.misbehave(Misbehaviour { stuck: true, ..Misbehaviour::default() });
    on_delay(|| {});
    assert_eq!(rng.fill(&mut [0; 8]), Err(RngError::Device(Error::Reset)));
    assert_eq!(rng.fill(&mut [0; 8]), Err(RngError::Device(Error::Reset)));
    assert_eq!(faults().len(), 0);
}
