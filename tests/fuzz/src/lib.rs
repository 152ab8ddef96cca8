//! One target per parser, and the runner that feeds them bent examples.
#![forbid(unsafe_code)]

mod examples;
mod lists;
pub mod mutate;
mod sessions;
mod targets;

use mutate::Random;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

/// A parser, what it is fed, and what it must survive.
pub struct Target {
    /// Its name on the command line.
    pub name: &'static str,
    /// Inputs as a well-behaved peer would send them.
    pub examples: fn() -> Vec<Vec<u8>>,
    /// Parses its input. A panic is a find.
    pub run: fn(&[u8]),
}

/// All targets.
pub const TARGETS: &[Target] = &[
    Target { name: "iscsi", examples: examples::iscsi, run: targets::iscsi },
    Target { name: "iscsi-text", examples: examples::text, run: targets::text },
    Target { name: "scsi", examples: examples::scsi, run: targets::scsi },
    Target { name: "scsi-lists", examples: examples::lists, run: lists::lists },
    Target { name: "iscsi-sessions", examples: examples::sessions, run: sessions::sessions },
    Target { name: "nbd", examples: examples::nbd, run: targets::nbd },
    Target { name: "nbd-uri", examples: examples::uri, run: targets::uri },
    Target { name: "http-server", examples: examples::http, run: targets::http_server },
    Target { name: "http-client", examples: examples::http_answers, run: targets::http_client },
    Target { name: "json", examples: examples::json, run: targets::json },
    Target { name: "agent-protocol", examples: examples::json, run: targets::agent_protocol },
    Target { name: "configuration", examples: examples::configuration, run: targets::configuration },
    Target { name: "cidata", examples: examples::cidata, run: targets::cidata },
    Target { name: "smbios", examples: examples::smbios, run: targets::smbios },
    Target { name: "metadata", examples: examples::metadata, run: targets::metadata },
    Target { name: "nic-probe", examples: examples::nic_probe, run: targets::nic_probe },
    Target { name: "frame", examples: examples::frame, run: targets::frame },
    Target { name: "virtio-net", examples: examples::virtio_net, run: targets::virtio_net },
    Target { name: "hostile-virtio-net", examples: examples::chance, run: targets::hostile::virtio_net },
    Target {
        name: "hostile-virtio-legacy",
        examples: examples::chance,
        run: targets::hostile::virtio_legacy,
    },
    Target { name: "hostile-vmxnet3", examples: examples::chance, run: targets::hostile::vmxnet3 },
    Target { name: "hostile-intel", examples: examples::chance, run: targets::hostile::intel },
    Target { name: "hostile-rtl8139", examples: examples::chance, run: targets::hostile::rtl8139 },
    Target { name: "hostile-netvsc", examples: examples::chance, run: targets::hostile::netvsc },
    Target { name: "hostile-netfront", examples: examples::chance, run: targets::hostile::netfront },
];

/// What a target did not survive.
#[derive(Debug)]
pub struct Find {
    /// The input's seed.
    pub seed: u64,
    /// The input.
    pub input: Vec<u8>,
}

/// Feed `target` with the inputs of consecutive seeds until the time is up and there were so many. Answers how many there
/// were.
///
/// # Errors
/// The first input that made it panic.
pub fn run(target: &Target, first_seed: u64, time: Duration, least: u64) -> Result<u64, Find> {
    let examples = (target.examples)();
    for example in &examples {
        (target.run)(example);
    }
    let start = Instant::now();
    let mut count = 0;
    while count < least || start.elapsed() < time {
        let seed = first_seed.wrapping_add(count);
        let input = mutate::input(&mut Random::new(seed), &examples);
        catch_unwind(AssertUnwindSafe(|| (target.run)(&input))).map_err(|_| Find { seed, input })?;
        count += 1;
    }
    Ok(count)
}

#[cfg(test)]
mod tests;
