//! Initiators that take all there is, within their windows, beside others that want little.

use super::*;
use std::cell::Cell;

/// Blocks of a long transfer, and its bytes.
const BLOCKS: u16 = 512;
const LONG: usize = BLOCKS as usize * 512;
/// Commands of a window.
const WINDOW: u16 = 64;
/// A ping is answered in a few turns, whatever stands before it.
const AT_ONCE: Duration = Duration::from_millis(2);
/// READ (10) and WRITE (10).
const READ: u8 = 0x28;
const WRITE: u8 = 0x2a;

/// As a machine of 32 MiB has it.
fn small() -> Limits {
    let iscsi = crate::IscsiLimits {
        max_connections: 2,
        commands: WINDOW,
        immediate: 8,
        buffers: 2 * WINDOW + 8,
        max_recv_data_segment_length: LONG as u32,
        max_burst_length: 4 * LONG as u32,
        first_burst_length: LONG as u32,
        ..limits().iscsi
    };
    Limits {
        connections: 8,
        commands: 192,
        pool: [(4096, 256), (65536, 24), (LONG, 12)],
        share: 1536 << 10,
        control: 96 << 10,
        iscsi,
        scsi: crate::ScsiLimits { units: 2, nexuses: 64, commands: 192 },
        nbd: crate::NbdLimits { slots: 128, ..limits().nbd },
        journal: [(4096, 256), (65536, 16), (LONG, 4)],
        entries: 512,
        ..limits()
    }
}

/// A world with a disk of 16 MiB, the ends of connections to it, and who works on it all the time.
fn stage(limits: &Limits) -> (World, Vec<Stream>, Rc<RefCell<Seen>>) {
    let mut world = world_within(limits);
    let service = world.service(10809, "disk", Manner::Serve);
    service.borrow_mut().disk.resize(16 << 20);
    world.expose("disk", "nbd://10.78.0.2:10809/disk");
    world.run(Duration::from_secs(1));
    let seen = Rc::new(RefCell::new(Seen::default()));
    let stream = world.host.stream(65536, 65536);
    world.executor.add("steady", write_steadily(stream, world.executor.clock(), seen.clone()));
    world.run(Duration::from_millis(100));
    let streams = (1..limits.connections).map(|_| world.host.stream(65536, 65536)).collect();
    (world, streams, seen)
}

/// How many writes were done, and the longest that one took.
#[derive(Default)]
struct Seen {
    writes: usize,
    longest: Duration,
}

/// Write one thing after the other where nobody else does.
async fn write_steadily(stream: Stream, clock: Clock, seen: Rc<RefCell<Seen>>) {
    let mut initiator = Initiator::log_in(stream, "steady", "disk").await;
    loop {
        let start = clock.now();
        initiator.write(0).await;
        assert_eq!(ScsiResponse::read(&initiator.hear_answer().await).status, GOOD);
        let seen = &mut *seen.borrow_mut();
        seen.writes += 1;
        seen.longest = seen.longest.max(clock.now().since(start));
    }
}

/// What an initiator has heard while it waited for its ping.
#[derive(Default)]
struct Heard {
    /// Commands that were to be tried again.
    turned_away: usize,
    r2ts: usize,
    /// How long it waited.
    took: Duration,
}

/// An initiator that keeps its window full and gives and takes no data.
struct Greedy {
    initiator: Initiator,
    clock: Clock,
    code: u8,
    max_cmd_sn: u32,
    sent: u32,
}

impl Greedy {
    async fn log_in(stream: Stream, clock: &Clock, name: &str, code: u8) -> Self {
        let initiator = Initiator::log_in(stream, name, "disk").await;
        let max_cmd_sn = initiator.cmd_sn + u32::from(WINDOW) - 1;
        Self { initiator, clock: clock.clone(), code, max_cmd_sn, sent: 0 }
    }

    /// Begin as many long transfers as there is room for in the window, each a bit behind the one before.
    async fn fill(&mut self) {
        while self.initiator.cmd_sn <= self.max_cmd_sn {
            let [.., a, b, c] = (8192 + self.sent % 256 * 32).to_be_bytes();
            let [high, low] = BLOCKS.to_be_bytes();
            let (read, write) = (self.code == READ, self.code == WRITE);
            let command = ScsiCommand { read, write, ..ScsiCommand::default() };
            let cdb = [self.code, 0, 0, a, b, c, 0, high, low, 0];
            self.initiator.command_over(command, &cdb, LONG, &[]).await;
            self.sent += 1;
        }
    }

    /// Ping, and listen until the answer comes.
    async fn ping(&mut self) -> Heard {
        let start = self.clock.now();
        let tag = self.initiator.ping().await;
        let mut heard = Heard::default();
        loop {
            let header = self.initiator.hear().await;
            // It stands at the same place in all that a target says.
            self.max_cmd_sn = self.max_cmd_sn.max(NopIn::read(&header).max_cmd_sn);
            match header.opcode() {
                opcode::NOP_IN if header.initiator_task_tag() == tag => {
                    heard.took = self.clock.now().since(start);
                    return heard;
                }
                opcode::SCSI_RESPONSE => heard.turned_away += 1,
                opcode::READY_TO_TRANSFER => heard.r2ts += 1,
                other => assert_eq!(other, opcode::NOP_IN),
            }
        }
    }
}

#[test]
fn pings_of_those_who_promise_much_and_give_nothing_are_answered_at_once() {
    let (mut world, streams, seen) = stage(&small());
    let clock = world.executor.clock();
    finish(&mut world, Duration::from_secs(10), async move {
        let (mut takers, mut givers) = (Vec::new(), Vec::new());
        for (stream, name) in streams.into_iter().zip(["a", "b", "c", "d", "e", "f", "g"]) {
            let (code, list) = if takers.len() < 2 { (READ, &mut takers) } else { (WRITE, &mut givers) };
            list.push(Greedy::log_in(stream, &clock, name, code).await);
        }
        for greedy in takers.iter_mut().chain(&mut givers) {
            greedy.fill().await;
        }
        let mut all = Heard::default();
        for _ in 0..20 {
            for giver in &mut givers {
                let Heard { turned_away, r2ts, took } = giver.ping().await;
                all.turned_away += turned_away;
                all.r2ts += r2ts;
                all.took = all.took.max(took);
                giver.fill().await;
                clock.sleep(Duration::from_millis(10)).await;
            }
        }
        assert!(all.r2ts > 0 && all.turned_away > 0, "they hold what they can get, and are told so");
        assert!(all.took <= AT_ONCE, "{:?}", all.took);
    });
    let Seen { writes, longest } = *seen.borrow();
    assert!(writes > 500 && longest < Duration::from_millis(100), "{writes} writes, the longest {longest:?}");
}

#[test]
fn a_ping_waits_for_no_command_whose_turn_has_not_come() {
    for sharing in [crate::Sharing::WorkConserving, crate::Sharing::Equal] {
        let (mut world, mut streams, seen) = stage(&Limits { sharing, ..small() });
        let (stream, clock, shared) = (streams.remove(0), world.executor.clock(), world.storage.0.clone());
        finish(&mut world, Duration::from_secs(10), async move {
            let mut greedy = Greedy::log_in(stream, &clock, "greedy", WRITE).await;
            // Turns are counted from when both have wanted something.
            for _ in 0..2 {
                clock.sleep(Duration::from_millis(10)).await;
                greedy.initiator.test_unit_ready().await;
                greedy.initiator.hear().await;
                greedy.max_cmd_sn += 1;
            }
            greedy.fill().await;
            let begun = || shared.running.iter().map(Cell::get).sum::<usize>();
            for _ in 0..3 {
                let heard = greedy.ping().await;
                assert!(heard.took <= AT_ONCE, "{sharing:?}: {:?}", heard.took);
                assert!(begun() < 8, "they wait for their turns: {}", begun());
            }
            let before = seen.borrow().writes;
            while begun() < usize::from(WINDOW) {
                clock.sleep(AT_ONCE).await;
            }
            assert!(seen.borrow().writes > before + 20, "which they have beside the other's");
        });
    }
}
