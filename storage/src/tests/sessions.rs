//! Initiators beside each other.

mod copy;
mod cut_through;
mod figures;
mod functions;
mod greedy;
mod notices;
mod proof;
mod reservations;
mod several;
mod straight;

use super::*;
use storage_iscsi::wire::{
    self, DataOut, Digests, Header, LoginRequest, LoginResponse, NopIn, NopOut, ReadyToTransfer, ScsiCommand,
    ScsiResponse, TaskManagementRequest, opcode,
};

const GOOD: u8 = 0;
const BUSY: u8 = 8;
const TASK_ABORTED: u8 = 0x40;
/// What stands for a task in functions that are about none.
const NO_TASK: (u32, u32) = (wire::RESERVED_TAG, 0);
/// The iSCSI port.
const PORT: u16 = 3260;

struct Initiator {
    stream: Stream,
    input: Vec<u8>,
    cmd_sn: u32,
    tag: u32,
}

impl Initiator {
    async fn log_in(stream: Stream, name: &str, target: &str) -> Self {
        let mut initiator = Self::log_in_untold(stream, name, target).await;
        // The unit attention of a beginning.
        initiator.test_unit_ready().await;
        initiator.hear().await;
        initiator
    }

    /// The same, without taking note of the unit attention.
    async fn log_in_untold(stream: Stream, name: &str, target: &str) -> Self {
        let request = LoginRequest { isid: [0x80, 0, 0, 0, 0, 1], cmd_sn: 1, ..LoginRequest::default() };
        let (initiator, response) = Self::try_log_in(stream, name, target, request).await;
        assert_eq!((response.status_class, response.transit), (0, true));
        initiator
    }

    /// Log in by a request with these names and numbers; answers how that went.
    async fn try_log_in(
        mut stream: Stream,
        name: &str,
        target: &str,
        request: LoginRequest,
    ) -> (Self, LoginResponse) {
        stream.connect(format!("10.78.0.1:{PORT}").parse().expect("address")).await.expect("connected");
        let mut initiator = Self { stream, input: Vec::new(), cmd_sn: request.cmd_sn, tag: 0 };
        let request =
            LoginRequest { immediate: true, transit: true, current_stage: 1, next_stage: 3, ..request };
        let mut keys =
            format!("InitiatorName=iqn.2026-01.test:{name}\0TargetName=iqn.2026-01.test:{target}\0");
        // What holds for a session is said once.
        if request.tsih == 0 {
            keys.push_str(
                "InitialR2T=No\0FirstBurstLength=65536\0MaxBurstLength=262144\0MaxOutstandingR2T=8\0\
                 iSCSIProtocolLevel=2\0",
            );
        }
        // Who has several connections gives them numbers.
        if request.cid != 0 {
            keys.push_str("MaxConnections=4\0");
        }
        initiator.say(request.header(), keys.as_bytes()).await;
        let response = LoginResponse::read(&initiator.hear().await);
        (initiator, response)
    }

    /// Log in to look for targets.
    async fn discover(mut stream: Stream, name: &str, request: LoginRequest) -> Self {
        stream.connect(format!("10.78.0.1:{PORT}").parse().expect("address")).await.expect("connected");
        let mut initiator = Self { stream, input: Vec::new(), cmd_sn: request.cmd_sn, tag: 0 };
        let request =
            LoginRequest { immediate: true, transit: true, current_stage: 1, next_stage: 3, ..request };
        let keys = format!("InitiatorName=iqn.2026-01.test:{name}\0SessionType=Discovery\0");
        initiator.say(request.header(), keys.as_bytes()).await;
        let response = LoginResponse::read(&initiator.hear().await);
        assert_eq!((response.status_class, response.next_stage), (0, 3), "{response:?}");
        initiator
    }

    async fn say(&mut self, header: Header, data: &[u8]) {
        let mut bytes = Vec::new();
        Digests::default().write(header, &[], data, &mut bytes);
        self.stream.write_all(&bytes).await.expect("sent");
    }

    async fn hear(&mut self) -> Header {
        self.hear_all().await.0
    }

    /// What is said next, with its data.
    async fn hear_all(&mut self) -> (Header, Vec<u8>) {
        loop {
            if let Some(pdu) = Digests::default().read(&self.input).expect("no digests") {
                let (header, data, length) = (pdu.header, pdu.data.to_vec(), pdu.length);
                self.input.drain(..length);
                return (header, data);
            }
            let mut bytes = [0; 4096];
            let count = self.stream.read(&mut bytes).await.expect("no reset");
            assert_ne!(count, 0, "the end");
            self.input.extend_from_slice(&bytes[..count]);
        }
    }

    /// Send a command; answers its tag.
    async fn command(&mut self, cdb: &[u8], data: &[u8]) -> u32 {
        let command = ScsiCommand { write: !data.is_empty(), ..ScsiCommand::default() };
        self.command_over(command, cdb, data.len(), data).await
    }

    /// Send a command that is to transfer so many bytes, with what of these goes along with it; answers its tag.
    async fn command_over(&mut self, command: ScsiCommand, cdb: &[u8], length: usize, first: &[u8]) -> u32 {
        let mut padded = [0; 16];
        padded[..cdb.len()].copy_from_slice(cdb);
        self.tag += 1;
        let command = ScsiCommand {
            last: true,
            attribute: command.attribute.max(1),
            data_segment: u32::try_from(first.len()).expect("short"),
            initiator_task_tag: self.tag,
            expected_data_transfer_length: u32::try_from(length).expect("short"),
            cmd_sn: self.cmd_sn,
            cdb: padded,
            ..command
        };
        self.cmd_sn += 1;
        self.say(command.header(), first).await;
        self.tag
    }

    async fn test_unit_ready(&mut self) -> u32 {
        self.command(&[0; 6], &[]).await
    }

    /// Write 4 KiB at the `index`th 4 KiB.
    async fn write(&mut self, index: u8) -> u32 {
        self.command(&[0x2a, 0, 0, 0, 0, index * 8, 0, 0, 8, 0], &[index; 4096]).await
    }

    /// Write so many bytes at the `index`th place for as many, and send the first of them with the command.
    async fn write_long(&mut self, index: u8, length: usize, first: usize) {
        let blocks = (length / 512) as u8;
        let [high, low] = (u16::from(index) * u16::from(blocks)).to_be_bytes();
        let command = ScsiCommand { write: true, ..ScsiCommand::default() };
        let cdb = [0x2a, 0, 0, 0, high, low, 0, 0, blocks, 0];
        self.command_over(command, &cdb, length, &vec![index; first]).await;
    }

    /// The next response. Data that is asked for before it is given.
    async fn hear_response(&mut self, segment: usize) -> ScsiResponse {
        loop {
            let header = self.hear_answer().await;
            if header.opcode() != opcode::READY_TO_TRANSFER {
                return ScsiResponse::read(&header);
            }
            let r2t = ReadyToTransfer::read(&header);
            let (begin, length) = (r2t.buffer_offset, r2t.desired_data_transfer_length);
            for (number, offset) in (0..length).step_by(segment).enumerate() {
                let count = (length - offset).min(segment as u32);
                let data = DataOut {
                    last: offset + count == length,
                    data_segment: count,
                    initiator_task_tag: r2t.initiator_task_tag,
                    target_transfer_tag: r2t.target_transfer_tag,
                    data_sn: number as u32,
                    buffer_offset: begin + offset,
                    ..DataOut::default()
                };
                self.say(data.header(), &vec![1; count as usize]).await;
            }
        }
    }

    /// What is said next, but for the target's pings, which are answered.
    async fn hear_answer(&mut self) -> Header {
        loop {
            let header = self.hear().await;
            if header.opcode() != opcode::NOP_IN {
                return header;
            }
            self.pong(&header).await;
        }
    }

    /// Answer the target's ping.
    async fn pong(&mut self, ping: &Header) {
        let pong = NopOut {
            immediate: true,
            initiator_task_tag: wire::RESERVED_TAG,
            target_transfer_tag: NopIn::read(ping).target_transfer_tag,
            cmd_sn: self.cmd_sn,
            ..NopOut::default()
        };
        self.say(pong.header(), &[]).await;
    }

    /// Ask for a task management function of logical unit 0, and of a task by its tag and number; answers its own tag.
    async fn manage(&mut self, function: u8, (referenced, number): (u32, u32)) -> u32 {
        self.tag += 1;
        let request = TaskManagementRequest {
            immediate: true,
            function,
            initiator_task_tag: self.tag,
            referenced_task_tag: referenced,
            cmd_sn: self.cmd_sn,
            ref_cmd_sn: number,
            ..TaskManagementRequest::default()
        };
        self.say(request.header(), &[]).await;
        self.tag
    }

    async fn ping(&mut self) -> u32 {
        self.tag += 1;
        let ping = NopOut {
            immediate: true,
            initiator_task_tag: self.tag,
            target_transfer_tag: wire::RESERVED_TAG,
            cmd_sn: self.cmd_sn,
            ..NopOut::default()
        };
        self.say(ping.header(), &[]).await;
        self.tag
    }
}

fn world() -> World {
    world_within(&limits())
}

fn world_within(limits: &Limits) -> World {
    let mut world = World::within(limits, None);
    for index in 0..limits.connections {
        let stream = world.ends[2].stack().stream(65536, 65536);
        world.executor.add("portal", world.storage.serve_initiators(index, PORT, stream));
    }
    world
}

/// Run `task` to its end, which must come within `limit`.
fn finish(world: &mut World, limit: Duration, task: impl Future<Output = ()> + 'static) {
    let done = Rc::new(RefCell::new(false));
    let told = done.clone();
    world.executor.add("test", async move {
        task.await;
        *told.borrow_mut() = true;
    });
    let end = world.now + limit;
    while !*done.borrow() {
        assert!(world.now < end, "it takes too long");
        world.run(Duration::from_millis(1));
    }
}

#[test]
fn a_ping_gets_through_a_window_of_writes_to_a_disk_that_hangs_beside_a_busy_one() {
    let mut world = world();
    let hanging = world.service(10809, "hanging", Manner::Serve);
    world.service(10810, "busy", Manner::Serve);
    world.expose("hanging", "nbd://10.78.0.2:10809/hanging");
    world.expose("busy", "nbd://10.78.0.2:10810/busy");
    world.run(Duration::from_secs(1));
    hanging.borrow_mut().manner = Manner::Hang;
    let stream = world.host.stream(65536, 65536);
    world.executor.add("busy", async move {
        let mut busy = Initiator::log_in(stream, "busy", "busy").await;
        loop {
            busy.write(0).await;
            assert_eq!(ScsiResponse::read(&busy.hear().await).status, GOOD);
        }
    });
    let stream = world.host.stream(65536, 65536);
    finish(&mut world, Duration::from_secs(3), async move {
        let mut initiator = Initiator::log_in(stream, "patient", "hanging").await;
        // The share of a disk is sixteen such buffers.
        for index in 0..30 {
            initiator.write(index).await;
        }
        let ping = initiator.ping().await;
        // Which of them is said first is the engine's to choose.
        let (mut answered, mut turned_away) = (false, 0);
        while !answered || turned_away < 14 {
            let header = initiator.hear().await;
            if header.opcode() == opcode::NOP_IN {
                assert_eq!(header.initiator_task_tag(), ping);
                answered = true;
            } else {
                assert_eq!(ScsiResponse::read(&header).status, BUSY);
                turned_away += 1;
            }
        }
    });
}

#[test]
fn who_is_reset_by_another_hears_of_it_and_goes_on() {
    let mut world = world();
    let service = world.service(10809, "disk", Manner::Serve);
    world.expose("disk", "nbd://10.78.0.2:10809/disk");
    world.run(Duration::from_secs(1));
    service.borrow_mut().manner = Manner::Hang;
    let [one, two] = [(), ()].map(|()| world.host.stream(65536, 65536));
    let clock = world.executor.clock();
    let disk = service.clone();
    finish(&mut world, Duration::from_secs(5), async move {
        let mut one = Initiator::log_in(one, "one", "disk").await;
        let mut two = Initiator::log_in(two, "two", "disk").await;
        one.write(1).await;
        clock.sleep(Duration::from_millis(100)).await;
        // CLEAR TASK SET.
        two.manage(4, NO_TASK).await;
        // The aborted write is still under way: one that overlaps it waits for its end, and so does the answer.
        two.write(1).await;
        clock.sleep(Duration::from_millis(100)).await;
        two.ping().await;
        assert_eq!(two.hear().await.opcode(), opcode::NOP_IN);
        assert_eq!(disk.borrow().writes, 0, "the service looks at nothing while it hangs");
        disk.borrow_mut().manner = Manner::Serve;
        let mut opcodes = [two.hear().await.opcode(), two.hear().await.opcode()];
        opcodes.sort_unstable();
        assert_eq!(opcodes, [opcode::SCSI_RESPONSE, opcode::TASK_MANAGEMENT_RESPONSE]);
        assert_eq!(ScsiResponse::read(&one.hear().await).status, TASK_ABORTED);
        one.write(2).await;
        assert_eq!(ScsiResponse::read(&one.hear().await).status, GOOD);
    });
    assert_eq!(service.borrow().writes, 3);
}

#[test]
fn a_write_acknowledged_with_the_last_bytes_of_a_service_that_dies_is_there_after_the_flush() {
    let mut world = world();
    let service = world.service(10809, "disk", Manner::Serve);
    world.expose("disk", "nbd://10.78.0.2:10809/disk");
    world.run(Duration::from_secs(1));
    service.borrow_mut().manner = Manner::ServeAndClose;
    let stream = world.host.stream(65536, 65536);
    let disk = service.clone();
    finish(&mut world, Duration::from_secs(10), async move {
        let mut initiator = Initiator::log_in(stream, "one", "disk").await;
        initiator.write(1).await;
        assert_eq!(ScsiResponse::read(&initiator.hear().await).status, GOOD);
        disk.borrow_mut().manner = Manner::Serve;
        disk.borrow_mut().disk.crash();
        initiator.command(&[0x35, 0, 0, 0, 0, 0, 0, 0, 0, 0], &[]).await;
        assert_eq!(ScsiResponse::read(&initiator.hear().await).status, GOOD);
    });
    assert!(service.borrow().disk.durable()[4096..8192].iter().all(|&byte| byte == 1));
}

#[test]
fn a_command_for_a_disk_that_hangs_ends_with_busy_before_its_initiator_would_abort_it() {
    let mut world = world();
    let service = world.service(10809, "disk", Manner::Serve);
    world.expose("disk", "nbd://10.78.0.2:10809/disk");
    world.run(Duration::from_secs(1));
    service.borrow_mut().manner = Manner::Hang;
    let stream = world.host.stream(65536, 65536);
    let clock = world.executor.clock();
    finish(&mut world, Duration::from_secs(90), async move {
        let mut initiator = Initiator::log_in(stream, "one", "disk").await;
        for _ in 0..3 {
            let begun = clock.now();
            initiator.write(1).await;
            assert_eq!(ScsiResponse::read(&initiator.hear_answer().await).status, BUSY);
            let waited = clock.now().since(begun);
            assert!((24..29).contains(&waited.as_secs()), "{waited:?}");
        }
    });
    service.borrow_mut().manner = Manner::Serve;
    world.run(Duration::from_secs(6));
    assert_eq!(world.state("disk"), VolumeState::Ready);
}

#[test]
fn answers_that_need_no_disk_are_given_although_no_buffer_is_left() {
    let mut world = world();
    world.service(10809, "disk", Manner::Serve);
    world.expose("disk", "nbd://10.78.0.2:10809/disk");
    world.run(Duration::from_secs(1));
    let all = world.shared().pool.share(usize::MAX / 2);
    let held: Vec<_> = std::iter::from_fn(|| all.take(1)).collect();
    let stream = world.host.stream(65536, 65536);
    finish(&mut world, Duration::from_secs(1), async move {
        let mut initiator = Initiator::log_in(stream, "one", "disk").await;
        let inquiry = ScsiCommand {
            last: true,
            read: true,
            initiator_task_tag: 77,
            expected_data_transfer_length: 255,
            cmd_sn: initiator.cmd_sn,
            cdb: [0x12, 0, 0, 0, 255, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            ..ScsiCommand::default()
        };
        initiator.say(inquiry.header(), &[]).await;
        assert_eq!(initiator.hear().await.opcode(), opcode::DATA_IN);
    });
    assert!(!held.is_empty());
}

/// Keep `depth` commands outstanding, and count those that are answered.
async fn keep_busy(
    stream: Stream,
    (name, depth, cid): (&'static str, usize, u16),
    answered: Rc<RefCell<usize>>,
) {
    let request = LoginRequest { cid, cmd_sn: 1, ..LoginRequest::default() };
    let (mut initiator, _) = Initiator::try_log_in(stream, name, name, request).await;
    initiator.test_unit_ready().await;
    initiator.hear().await;
    for _ in 0..depth {
        initiator.test_unit_ready().await;
    }
    loop {
        let header = initiator.hear_answer().await;
        assert_eq!(ScsiResponse::read(&header).status, GOOD);
        *answered.borrow_mut() += 1;
        initiator.test_unit_ready().await;
    }
}

#[test]
fn a_session_with_many_commands_outstanding_gets_no_more_than_one_with_few() {
    // Also where it may have several connections, and its commands are taken one by one.
    for cid in [0, 1] {
        share_with(cid);
    }
}

fn share_with(cid: u16) {
    let mut world = world();
    for (port, name) in [(10809, "greedy"), (10810, "modest")] {
        world.service(port, name, Manner::Serve);
        world.expose(name, &format!("nbd://10.78.0.2:{port}/{name}"));
    }
    world.run(Duration::from_secs(1));
    let answered = [("greedy", 60), ("modest", 8)].map(|(name, depth)| {
        let (stream, answered) = (world.host.stream(65536, 65536), Rc::new(RefCell::new(0)));
        world.executor.add(name, keep_busy(stream, (name, depth, cid), answered.clone()));
        answered
    });
    world.run(Duration::from_secs(2));
    let [greedy, modest] = answered.map(|answered| *answered.borrow());
    assert!(modest > 10_000 && greedy < modest + modest / 10, "{greedy} beside {modest}");
}

#[test]
fn long_writes_that_are_sent_before_anything_is_heard_all_end_well() {
    const FIRST: usize = 4096;
    const LONG: usize = 4 * FIRST;
    let iscsi = crate::IscsiLimits {
        max_recv_data_segment_length: FIRST as u32,
        first_burst_length: FIRST as u32,
        max_burst_length: LONG as u32,
        ..limits().iscsi
    };
    // As a machine of 64 MiB has it, at a scale of 1 to 64.
    let limits = Limits {
        iscsi,
        pool: [(512, 64), (1024, 64), (FIRST, 40)],
        journal: [(512, 64), (1024, 64), (FIRST, 16)],
        share: 20 * FIRST,
        ..limits()
    };
    let mut world = World::within(&limits, None);
    let stream = world.ends[2].stack().stream(FIRST, 2 * FIRST);
    world.executor.add("portal", world.storage.serve_initiators(0, PORT, stream));
    let service = world.service(10809, "disk", Manner::Serve);
    world.expose("disk", "nbd://10.78.0.2:10809/disk");
    world.run(Duration::from_secs(1));
    let stream = world.host.stream(65536, 65536);
    let clock = world.executor.clock();
    finish(&mut world, Duration::from_secs(5), async move {
        let mut initiator = Initiator::log_in(stream, "deaf", "disk").await;
        // It does nothing for as long as nobody should have to wait for it.
        service.borrow_mut().manner = Manner::Hang;
        let sleep = clock.sleep(Duration::from_millis(700));
        for index in 0..16 {
            initiator.write_long(index, LONG, FIRST).await;
        }
        sleep.await;
        service.borrow_mut().manner = Manner::Serve;
        for _ in 0..16 {
            let response = initiator.hear_response(FIRST).await;
            assert_eq!(response.status, GOOD, "{response:?}");
        }
    });
}
