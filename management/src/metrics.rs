//! Counters, and their text for Prometheus (exposition format 0.0.4).

use crate::ask::LinkState;
use crate::operations::Stage;
use alloc::string::String;
use core::cell::Cell;
use core::fmt::{self, Display, Write};
use core::time::Duration;
use kernel_runtime::Profile;
use storage::{Connected, Exposed, Histogram, Status, VolumeState};

/// What the machine tells of itself, whoever it is: the kernel, or the operating system of a process.
#[derive(Clone, Copy, Debug)]
pub struct Gauges {
    /// By how much the counter of the profile grows in a second.
    pub hertz: fn() -> u64,
    /// How often memory was allocated since the start, where that is counted.
    pub allocations: Option<fn() -> u64>,
    /// Bytes of memory that are free, where that is known.
    pub free: Option<fn() -> u64>,
}

impl Gauges {
    /// Of a machine that tells nothing.
    pub const NONE: Self = Self { hertz: || 0, allocations: None, free: None };
}

/// How the whole fares at the moment.
pub(crate) struct Machine<'a> {
    pub(crate) uptime: Duration,
    pub(crate) link: LinkState,
    pub(crate) profile: &'a Profile,
    pub(crate) gauges: Gauges,
}

/// What is counted.
#[derive(Default)]
pub(crate) struct Metrics {
    /// Responses by the first digit of their status, 2 to 5.
    responses: [Cell<u64>; 4],
    /// Operations that ended, by how.
    succeeded: Cell<u64>,
    refused: Cell<u64>,
    failed: Cell<u64>,
    indeterminate: Cell<u64>,
    pub(crate) connections: Cell<u64>,
}

fn count(cell: &Cell<u64>) {
    cell.set(cell.get().saturating_add(1));
}

impl Metrics {
    pub(crate) fn response(&self, status: u16) {
        if let Some(cell) =
            (status / 100).checked_sub(2).and_then(|class| self.responses.get(usize::from(class)))
        {
            count(cell);
        }
    }

    /// An operation is in this stage since, if that is news.
    pub(crate) fn ended(&self, stage: Option<Stage>) {
        match stage {
            Some(Stage::Succeeded) => count(&self.succeeded),
            Some(Stage::Refused) => count(&self.refused),
            Some(Stage::Failed) => count(&self.failed),
            Some(Stage::Indeterminate) => count(&self.indeterminate),
            Some(Stage::Accepted | Stage::Sent | Stage::Running) | None => {}
        }
    }

    pub(crate) fn connection(&self) {
        count(&self.connections);
    }

    pub(crate) fn text(
        &self,
        machine: &Machine<'_>,
        targets: &[Exposed],
        connections: &[Connected],
    ) -> String {
        let mut text = String::new();
        let _ = self.write(&mut text, machine, targets, connections);
        text
    }

    fn write(
        &self,
        text: &mut String,
        machine: &Machine<'_>,
        targets: &[Exposed],
        connections: &[Connected],
    ) -> fmt::Result {
        let uptime = machine.uptime.as_secs();
        writeln!(text, "# TYPE corbel_uptime_seconds gauge\ncorbel_uptime_seconds {uptime}")?;
        cycles(text, machine)?;
        let up = u8::from(machine.link == LinkState::Up);
        writeln!(text, "# TYPE corbel_agent_up gauge\ncorbel_agent_up {up}")?;
        let accepted = self.connections.get();
        writeln!(
            text,
            "# TYPE corbel_http_connections_total counter\ncorbel_http_connections_total {accepted}"
        )?;
        writeln!(text, "# TYPE corbel_http_responses_total counter")?;
        for (class, cell) in self.responses.iter().enumerate() {
            writeln!(text, "corbel_http_responses_total{{class=\"{}xx\"}} {}", class + 2, cell.get())?;
        }
        writeln!(text, "# TYPE corbel_operations_total counter")?;
        let ends = [
            ("succeeded", &self.succeeded),
            ("refused", &self.refused),
            ("failed", &self.failed),
            ("indeterminate", &self.indeterminate),
        ];
        for (end, cell) in ends {
            writeln!(text, "corbel_operations_total{{outcome=\"{end}\"}} {}", cell.get())?;
        }
        let ready = |target: &Exposed| u8::from(target.state == VolumeState::Ready);
        each(text, ("corbel_target_ready", "gauge"), targets, Id, ready)?;
        each(text, ("corbel_target_sessions", "gauge"), targets, Id, |target| target.sessions)?;
        disks(text, targets)?;
        latency(text, targets)?;
        initiators(text, connections)
    }
}

/// Where the machine's cycles and memory have gone.
fn cycles(text: &mut String, machine: &Machine<'_>) -> fmt::Result {
    let Machine { profile, gauges, .. } = machine;
    writeln!(text, "# TYPE corbel_cycles_hertz gauge\ncorbel_cycles_hertz {}", (gauges.hertz)())?;
    writeln!(text, "# TYPE corbel_stage_cycles_total counter")?;
    for stage in kernel_runtime::Stage::ALL {
        let cycles = profile.spent(stage).cycles;
        writeln!(text, "corbel_stage_cycles_total{{stage=\"{}\"}} {cycles}", stage.name())?;
    }
    writeln!(text, "# TYPE corbel_stage_entries_total counter")?;
    for stage in kernel_runtime::Stage::ALL {
        let entries = profile.spent(stage).entries;
        writeln!(text, "corbel_stage_entries_total{{stage=\"{}\"}} {entries}", stage.name())?;
    }
    if let Some(allocations) = gauges.allocations {
        let count = allocations();
        writeln!(
            text,
            "# TYPE corbel_heap_allocations_total counter\ncorbel_heap_allocations_total {count}"
        )?;
    }
    if let Some(free) = gauges.free {
        let free = free();
        writeln!(text, "# TYPE corbel_memory_free_bytes gauge\ncorbel_memory_free_bytes {free}")?;
    }
    Ok(())
}

/// The figures of each disk's way to its bytes.
fn disks(text: &mut String, targets: &[Exposed]) -> fmt::Result {
    type Figure = fn(&Status) -> u64;
    let figures: [(&str, &str, Figure); 9] = [
        ("corbel_target_connections", "gauge", |status| status.connections as u64),
        ("corbel_target_waiting_requests", "gauge", |status| status.waiting as u64),
        ("corbel_target_requests_under_way", "gauge", |status| status.under_way as u64),
        ("corbel_target_journal_entries", "gauge", |status| status.entries as u64),
        ("corbel_target_journal_bytes", "gauge", |status| status.journal as u64),
        ("corbel_target_replays_total", "counter", |status| status.replays),
        ("corbel_target_repairs_total", "counter", |status| status.repairs),
        ("corbel_target_ghosts_total", "counter", |status| status.ghosts),
        ("corbel_target_straight_bytes_total", "counter", |status| status.straight),
    ];
    for (name, kind, figure) in figures {
        each(text, (name, kind), targets, Id, |target| figure(&target.status))?;
    }
    Ok(())
}

/// How long the storage service takes for the requests of each disk: the time from one power of four to the next.
fn latency(text: &mut String, targets: &[Exposed]) -> fmt::Result {
    const NAME: &str = "corbel_target_request_seconds";
    /// Bounds, as powers of two in microseconds: 64 us to 17 s.
    const BOUNDS: core::ops::RangeInclusive<usize> = 6..=24;
    type Kind = fn(&Status) -> &Histogram;
    let kinds: [(&str, Kind); 4] = [
        ("read", |status| &status.latency.read),
        ("write", |status| &status.latency.write),
        ("flush", |status| &status.latency.flush),
        ("other", |status| &status.latency.other),
    ];
    writeln!(text, "# TYPE {NAME} histogram")?;
    for target in targets {
        for (operation, kind) in kinds {
            let (histogram, target) = (kind(&target.status), Id(target));
            let count = histogram.count();
            if count == 0 {
                continue;
            }
            let labels = format_args!("{target},operation=\"{operation}\"");
            for exponent in BOUNDS.step_by(2) {
                let (bound, below) = (Seconds(1 << exponent), histogram.below(exponent));
                writeln!(text, "{NAME}_bucket{{{labels},le=\"{bound}\"}} {below}")?;
            }
            writeln!(text, "{NAME}_bucket{{{labels},le=\"+Inf\"}} {count}")?;
            writeln!(text, "{NAME}_sum{{{labels}}} {}", Seconds(histogram.micros))?;
            writeln!(text, "{NAME}_count{{{labels}}} {count}")?;
        }
    }
    Ok(())
}

/// What the connections of initiators have done.
fn initiators(text: &mut String, connections: &[Connected]) -> fmt::Result {
    type Figure = fn(&Connected) -> u64;
    type Time = fn(&Connected) -> Duration;
    let figures: [(&str, &str, Figure); 5] = [
        ("corbel_connection_commands", "gauge", |connected| connected.commands as u64),
        ("corbel_connection_window", "gauge", |connected| connected.window as u64),
        ("corbel_connection_commands_total", "counter", |connected| connected.ended),
        ("corbel_connection_task_management_total", "counter", |connected| connected.functions),
        ("corbel_connection_kept_back_total", "counter", |connected| connected.kept_back),
    ];
    for (name, kind, figure) in figures {
        each(text, (name, kind), connections, Labels, figure)?;
    }
    let times: [(&str, Time); 2] = [
        ("corbel_connection_command_seconds_total", |connected| connected.took),
        ("corbel_connection_data_wait_seconds_total", |connected| connected.awaited),
    ];
    for (name, time) in times {
        let micros = |connected| u64::try_from(time(connected).as_micros()).unwrap_or(u64::MAX);
        each(text, (name, "counter"), connections, Labels, |connected| Seconds(micros(connected)))?;
    }
    Ok(())
}

/// One figure of each of several, told apart by their labels.
fn each<'a, T, L: Display, V: Display>(
    text: &mut String,
    (name, kind): (&str, &str),
    several: &'a [T],
    labels: impl Fn(&'a T) -> L,
    value: impl Fn(&'a T) -> V,
) -> fmt::Result {
    writeln!(text, "# TYPE {name} {kind}")?;
    several.iter().try_for_each(|one| writeln!(text, "{name}{{{}}} {}", labels(one), value(one)))
}

/// The label of a target. Its id is a name: it needs no escapes.
struct Id<'a>(&'a Exposed);

impl Display for Id<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "target=\"{}\"", self.0.exposure.id)
    }
}

/// The labels of a connection.
struct Labels<'a>(&'a Connected);

impl Display for Labels<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Connected { connection, initiator, target, .. } = self.0;
        let (initiator, target) = (Escaped(initiator), Escaped(target));
        write!(f, "connection=\"{connection}\",initiator=\"{initiator}\",target=\"{target}\"")
    }
}

/// A label's value: an iSCSI name has no line ends, but may have any other sign.
struct Escaped<'a>(&'a str);

impl Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for sign in self.0.chars() {
            if matches!(sign, '"' | '\\') {
                f.write_char('\\')?;
            }
            f.write_char(sign)?;
        }
        Ok(())
    }
}

/// Microseconds as seconds.
struct Seconds(u64);

impl Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:06}", self.0 / 1_000_000, self.0 % 1_000_000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn a_name_that_would_end_its_label_is_escaped() {
        assert_eq!(Escaped(r#"iqn.x:"} 1\n"#).to_string(), r#"iqn.x:\"} 1\\n"#);
    }

    #[test]
    fn a_histogram_counts_what_took_at_most_as_long() {
        let mut status = Status::default();
        (status.latency.read.buckets[5], status.latency.read.buckets[6]) = (3, 2);
        status.latency.read.buckets[27] = 1;
        status.latency.read.micros = 135_000_250;
        let exposure = storage::Exposure {
            id: "disk-1".into(),
            iqn: String::new(),
            lun: 0,
            volume: String::new(),
            initiators: alloc::vec::Vec::new(),
            chap: None,
            read_only: false,
            removable: false,
            access: storage::AccessState::Optimized,
            policy: storage::Policy::default(),
        };
        let exposed = Exposed { exposure, state: VolumeState::Ready, size: None, sessions: 0, status };
        let mut text = String::new();
        assert_eq!(latency(&mut text, &[exposed]), Ok(()));
        for line in [
            "corbel_target_request_seconds_bucket{target=\"disk-1\",operation=\"read\",le=\"0.000064\"} 3",
            "corbel_target_request_seconds_bucket{target=\"disk-1\",operation=\"read\",le=\"0.000256\"} 5",
            "corbel_target_request_seconds_bucket{target=\"disk-1\",operation=\"read\",le=\"16.777216\"} 5",
            "corbel_target_request_seconds_bucket{target=\"disk-1\",operation=\"read\",le=\"+Inf\"} 6",
            "corbel_target_request_seconds_sum{target=\"disk-1\",operation=\"read\"} 135.000250",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is missing in\n{text}");
        }
        assert!(!text.contains("write"), "what nobody asked for is not told");
    }
}
