//! A long read: what has come of it is on its way to the initiator before the service has sent, or even read, the rest.

use super::*;
use storage_iscsi::wire::DataIn;
use storage_nbd::testing::Medium as _;

/// A segment of a transfer: the largest buffer there is.
const SEGMENT: usize = 32768;
/// What is read.
const LENGTH: usize = 4 * SEGMENT;
/// CHECK CONDITION.
const CHECK: u8 = 2;
/// How long nothing has to come until nothing is believed to come.
const SILENCE: Duration = Duration::from_millis(200);

/// A byte of the disk, for each generation of its content.
fn content(offset: usize, generation: u8) -> u8 {
    (offset / 512) as u8 ^ (offset % 251) as u8 ^ generation
}

fn fill(service: &RefCell<Service>, generation: u8) {
    let bytes: Vec<_> = (0..LENGTH).map(|offset| content(offset, generation)).collect();
    service.borrow_mut().disk.write(0, &bytes, true).expect("room");
}

impl Initiator {
    async fn read(&mut self, length: usize) {
        let [high, low] = ((length / 512) as u16).to_be_bytes();
        let command = ScsiCommand { read: true, ..ScsiCommand::default() };
        self.command_over(command, &[0x28, 0, 0, 0, 0, 0, 0, high, low, 0], length, &[]).await;
    }

    /// Hear Data-In up to `end`, which has to go on at `start`. Answers whether it carried a status, with the bytes.
    async fn hear_data(&mut self, start: usize, end: usize) -> (bool, Vec<u8>) {
        let (mut bytes, mut has_status) = (Vec::new(), false);
        while start + bytes.len() < end {
            assert!(!has_status, "the status is the last that is said");
            let (header, data) = self.hear_all().await;
            assert_eq!(header.opcode(), opcode::DATA_IN);
            let data_in = DataIn::read(&header);
            assert_eq!(
                data_in.buffer_offset as usize,
                start + bytes.len(),
                "no byte twice and none left out"
            );
            has_status = data_in.has_status;
            bytes.extend(data);
        }
        assert_eq!(start + bytes.len(), end);
        (has_status, bytes)
    }

    /// Whether nothing is said for a while.
    async fn hears_nothing(&mut self, clock: &Clock) -> bool {
        clock.sleep(SILENCE).await;
        self.input.is_empty() && self.stream.try_read(&mut [0; 1]) == Ok(TryRead::Empty)
    }
}

/// Let an initiator talk to a disk with content, whose service may change its manner.
fn talk<T: Future<Output = ()> + 'static>(test: fn(Initiator, Rc<RefCell<Service>>, Clock) -> T) {
    let mut world = world();
    let service = world.service(10809, "disk", Manner::Serve);
    fill(&service, 0);
    world.expose("disk", "nbd://10.78.0.2:10809/disk");
    world.run(Duration::from_secs(1));
    let (stream, clock) = (world.host.stream(1 << 18, 65536), world.executor.clock());
    finish(&mut world, Duration::from_secs(10), async move {
        test(Initiator::log_in(stream, "one", "disk").await, service, clock).await;
    });
}

fn expected(range: std::ops::Range<usize>, generation: u8) -> Vec<u8> {
    range.map(|offset| content(offset, generation)).collect()
}

#[test]
fn data_that_has_come_is_sent_before_the_service_has_the_rest() {
    talk(|mut initiator, service, clock| async move {
        for parts in 1..4 {
            service.borrow_mut().manner = Manner::Answer(parts);
            initiator.read(LENGTH).await;
            let first = parts * SEGMENT;
            let (has_status, bytes) = initiator.hear_data(0, first).await;
            assert!(!has_status && bytes == expected(0..first, 0));
            assert!(initiator.hears_nothing(&clock).await);
            service.borrow_mut().manner = Manner::Serve;
            let (has_status, bytes) = initiator.hear_data(first, LENGTH).await;
            assert!(has_status && bytes == expected(first..LENGTH, 0));
        }
    });
}

#[test]
fn an_error_behind_data_that_was_sent_ends_the_command_with_its_sense() {
    talk(|mut initiator, service, clock| async move {
        service.borrow_mut().manner = Manner::Answer(2);
        initiator.read(LENGTH).await;
        let (_, bytes) = initiator.hear_data(0, 2 * SEGMENT).await;
        assert_eq!(bytes, expected(0..2 * SEGMENT, 0));
        service.borrow_mut().manner = Manner::Fail;
        let (header, sense) = initiator.hear_all().await;
        assert_eq!(header.opcode(), opcode::SCSI_RESPONSE);
        let response = ScsiResponse::read(&header);
        assert_eq!((response.status, response.residual_count as usize), (CHECK, 2 * SEGMENT));
        // Length of the sense data; then fixed or descriptor format, MEDIUM ERROR, UNRECOVERED READ ERROR.
        let key = if sense[2] & 0x7f < 0x72 { sense[4] & 15 } else { sense[3] & 15 };
        assert_eq!(key, 3);
        assert!(initiator.hears_nothing(&clock).await);
    });
}

#[test]
fn a_read_whose_connection_is_lost_half_way_goes_on_where_it_was() {
    talk(|mut initiator, service, clock| async move {
        service.borrow_mut().manner = Manner::Answer(1);
        initiator.read(LENGTH).await;
        let (_, bytes) = initiator.hear_data(0, SEGMENT).await;
        assert_eq!(bytes, expected(0..SEGMENT, 0));
        // The next answer breaks off in its middle, and whoever answers then has other bytes.
        service.borrow_mut().manner = Manner::BreakOff;
        clock.sleep(Duration::from_millis(20)).await;
        fill(&service, 0xff);
        service.borrow_mut().manner = Manner::Serve;
        let (has_status, bytes) = initiator.hear_data(SEGMENT, LENGTH).await;
        // What of the broken answer was on its way by then is not asked for again, and no block is of both.
        let old = expected(SEGMENT..LENGTH, 0);
        let blocks = bytes.chunks(4096).zip(old.chunks(4096));
        let kept = 4096 * blocks.take_while(|(is, was)| is == was).count();
        assert!(has_status && kept <= SEGMENT / 2 && bytes[kept..] == expected(SEGMENT + kept..LENGTH, 0xff));
    });
}
