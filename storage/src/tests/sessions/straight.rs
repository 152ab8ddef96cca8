//! What a service sends for a READ goes to the initiator in one step, and by the long way where it cannot.

use super::*;
use storage_iscsi::wire::DataIn;
use storage_nbd::testing::Medium as _;

/// Bytes of the disk that are read.
const LENGTH: usize = 128 << 10;

fn content(range: std::ops::Range<usize>) -> Vec<u8> {
    range.map(|at| (at / 512) as u8 ^ (at % 251) as u8).collect()
}

impl Initiator {
    /// Ask for so many bytes from this place on.
    async fn ask(&mut self, at: usize, length: usize) -> u32 {
        let [a, b] = ((at / 512) as u16).to_be_bytes();
        let [high, low] = ((length / 512) as u16).to_be_bytes();
        let command = ScsiCommand { read: true, ..ScsiCommand::default() };
        self.command_over(command, &[0x28, 0, 0, 0, a, b, 0, high, low, 0], length, &[]).await
    }

    /// What comes for a READ, which ends with GOOD in its last Data-In.
    async fn answer(&mut self, tag: u32) -> Vec<u8> {
        let mut bytes = Vec::new();
        loop {
            let (header, data) = self.hear_all().await;
            assert_eq!(header.opcode(), opcode::DATA_IN);
            let data_in = DataIn::read(&header);
            assert_eq!((data_in.initiator_task_tag, data_in.buffer_offset as usize), (tag, bytes.len()));
            bytes.extend(data);
            if data_in.has_status {
                assert_eq!((data_in.status, data_in.residual_count), (GOOD, 0));
                return bytes;
            }
        }
    }
}

/// A world with a disk that has content.
fn world_with_content() -> (World, Rc<RefCell<Service>>) {
    let mut world = world();
    let service = world.service(10809, "disk", Manner::Serve);
    service.borrow_mut().disk.write(0, &content(0..LENGTH), true).expect("room");
    world.expose("disk", "nbd://10.78.0.2:10809/disk");
    world.run(Duration::from_secs(1));
    (world, service)
}

fn straight(control: &Control) -> u64 {
    control.get("disk").expect("exposed").status.straight
}

#[test]
fn reads_go_straight_and_what_comes_after_them_finds_no_trace_of_them() {
    let (mut world, _) = world_with_content();
    let (stream, control) = (world.host.stream(65536, 65536), world.control());
    finish(&mut world, Duration::from_secs(10), async move {
        let mut initiator = Initiator::log_in(stream, "one", "disk").await;
        let (before, mut read) = (straight(&control), 0);
        // Often enough for both connections' memory to be gone round.
        for round in 0..60 {
            let at = round % 16 * 4096;
            let tag = initiator.ask(at, 4096).await;
            assert_eq!(initiator.answer(tag).await, content(at..at + 4096));
            read += 4096;
        }
        let gone = straight(&control) - before;
        // What is cut where the connection's memory ends goes with what follows.
        assert!(gone >= read * 9 / 10, "{gone} of {read}");
        // Nothing waits for a range that one of them has had.
        for round in 0..8 {
            let tag = initiator.ask(round * 4096, 4096).await;
            assert_eq!(initiator.answer(tag).await, content(round * 4096..round * 4096 + 4096));
            initiator.write(30).await;
            assert_eq!(ScsiResponse::read(&initiator.hear().await).status, GOOD);
        }
    });
    assert_eq!(world.borrowed(0), 0, "all buffers are back");
    assert_eq!(world.control().get("disk").expect("exposed").status.under_way, 0);
}

#[test]
fn a_long_read_goes_straight_in_pieces() {
    let (mut world, _) = world_with_content();
    let (stream, control) = (world.host.stream(1 << 18, 65536), world.control());
    finish(&mut world, Duration::from_secs(10), async move {
        let mut initiator = Initiator::log_in(stream, "one", "disk").await;
        let before = straight(&control);
        for length in [LENGTH, 32_768, 12_288, LENGTH] {
            let tag = initiator.ask(0, length).await;
            assert_eq!(initiator.answer(tag).await, content(0..length));
        }
        assert!(straight(&control) - before >= LENGTH as u64, "the better part of it");
    });
    assert_eq!(world.borrowed(0), 0, "all buffers are back");
}

#[test]
fn who_takes_no_data_holds_nobody_up_and_gets_it_by_the_long_way() {
    let (mut world, _) = world_with_content();
    let [deaf, other] = [(), ()].map(|()| world.host.stream(16_384, 65536));
    let control = world.control();
    finish(&mut world, Duration::from_secs(10), async move {
        let mut deaf = Initiator::log_in(deaf, "deaf", "disk").await;
        let mut other = Initiator::log_in(other, "other", "disk").await;
        let before = straight(&control);
        let tag = deaf.ask(0, LENGTH).await;
        for round in 0..20 {
            let asked = other.ask(round * 4096, 4096).await;
            assert_eq!(other.answer(asked).await, content(round * 4096..round * 4096 + 4096));
        }
        let gone = straight(&control) - before;
        assert!(gone < LENGTH as u64 + 20 * 4096, "{gone}: there is no room for that");
        assert_eq!(deaf.answer(tag).await, content(0..LENGTH));
    });
    assert_eq!(world.borrowed(0), 0, "all buffers are back");
}

#[test]
fn a_session_that_is_gone_gets_nothing_and_its_reads_come_to_their_end() {
    let (mut world, service) = world_with_content();
    let [one, two] = [(), ()].map(|()| world.host.stream(65536, 65536));
    let (control, clock) = (world.control(), world.executor.clock());
    finish(&mut world, Duration::from_secs(10), async move {
        let mut gone = Initiator::log_in(one, "gone", "disk").await;
        service.borrow_mut().manner = Manner::Hang;
        for at in 0..8 {
            gone.ask(at * 4096, 4096).await;
        }
        clock.sleep(Duration::from_millis(20)).await;
        gone.stream.abort();
        clock.sleep(Duration::from_millis(20)).await;
        let before = straight(&control);
        service.borrow_mut().manner = Manner::Serve;
        clock.sleep(Duration::from_millis(50)).await;
        assert_eq!(straight(&control), before);
        assert_eq!(control.get("disk").expect("exposed").status.under_way, 0);
        let mut next = Initiator::log_in(two, "next", "disk").await;
        let tag = next.ask(0, 4096).await;
        assert_eq!(next.answer(tag).await, content(0..4096));
    });
    assert_eq!(world.borrowed(0), 0, "all buffers are back");
}
