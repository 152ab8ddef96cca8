//! Copies between disks.

use super::*;

const EXTENDED_COPY: u8 = 0x83;

/// A target of two disks, the first with something on it.
fn two() -> (World, [Rc<RefCell<Service>>; 2]) {
    let mut world = world();
    let services =
        [(10809, "from"), (10810, "to")].map(|(port, name)| world.service(port, name, Manner::Serve));
    for (lun, id) in [(0, "from"), (1, "to")] {
        let volume = format!("nbd://10.78.0.2:{}/{id}", 10809 + lun);
        let iqn = "iqn.2026-01.test:both".into();
        world.control().expose(Exposure { iqn, lun, ..exposure(id, &volume) }).expect("exposed");
    }
    world.run(Duration::from_secs(1));
    (world, services)
}

/// EXTENDED COPY of so many blocks from the beginning of the unit it is for to that of the second disk, and its list.
fn copy(blocks: u16) -> ([u8; 16], Vec<u8>) {
    let second = Exposure { lun: 1, iqn: "iqn.2026-01.test:both".into(), ..exposure("to", "") };
    let name = storage_scsi::Identity::new(crate::control::uuid(&second)).naa();
    let mut list = vec![7, 0, 0, 32, 0, 0, 0, 0, 0, 0, 0, 28, 0, 0, 0, 0];
    list.extend([0xe4, 0, 0, 0, 1, 3, 0, 16]);
    list.extend(name);
    list.extend([0, 0, 0, 0, 0, 0, 2, 0]);
    list.extend([2, 0, 0, 24, 0xff, 0xff, 0, 0, 0, 0]);
    list.extend(blocks.to_be_bytes());
    list.extend([0; 16]);
    let mut cdb = [0; 16];
    (cdb[0], cdb[13]) = (EXTENDED_COPY, list.len() as u8);
    (cdb, list)
}

/// A write of 4 KiB to the second disk.
async fn write_second(initiator: &mut Initiator, index: u8) -> u32 {
    let command = ScsiCommand { write: true, lun: [0, 1, 0, 0, 0, 0, 0, 0], ..ScsiCommand::default() };
    let cdb = [0x2a, 0, 0, 0, 0, index * 8, 0, 0, 8, 0];
    initiator.command_over(command, &cdb, 4096, &[0xee; 4096]).await
}

/// Fill the first disk's beginning, and take the second unit's unit attention.
async fn prepare(stream: Stream) -> Initiator {
    let mut initiator = Initiator::log_in(stream, "one", "both").await;
    for index in 1..20 {
        initiator.write(index).await;
        assert_eq!(ScsiResponse::read(&initiator.hear().await).status, GOOD);
    }
    let command = ScsiCommand { lun: [0, 1, 0, 0, 0, 0, 0, 0], ..ScsiCommand::default() };
    initiator.command_over(command, &[0; 6], 0, &[]).await;
    initiator.hear().await;
    initiator
}

#[test]
fn bytes_go_from_disk_to_disk_and_who_waits_for_them_goes_on() {
    let (mut world, services) = two();
    let stream = world.host.stream(65536, 65536);
    let [from, to] = services.clone();
    let clock = world.executor.clock();
    finish(&mut world, Duration::from_secs(10), async move {
        let mut initiator = prepare(stream).await;
        let (cdb, list) = copy(1_000);
        to.borrow_mut().manner = Manner::Hang;
        let copying = initiator.command(&cdb, &list).await;
        let before = from.borrow().disk.content().to_vec();
        // They overlap the source and the destination, and wait for the copy.
        let here = initiator.write(30).await;
        let there = write_second(&mut initiator, 2).await;
        clock.sleep(Duration::from_millis(200)).await;
        assert_eq!(from.borrow().disk.content(), before, "nothing overtakes it");
        to.borrow_mut().manner = Manner::Serve;
        let mut ended = Vec::new();
        for _ in 0..3 {
            let response = ScsiResponse::read(&initiator.hear_answer().await);
            assert_eq!(response.status, GOOD);
            ended.push(response.initiator_task_tag);
        }
        ended.sort_unstable();
        assert_eq!(ended, [copying, here, there]);
    });
    let [from, to] = services.each_ref().map(|service| service.borrow().disk.content().to_vec());
    let mut expected = from[..512_000].to_vec();
    expected[2 * 4096..3 * 4096].fill(0xee);
    expected[30 * 4096..31 * 4096].fill(0);
    assert!(to[..512_000] == expected);
    assert_eq!((world.borrowed(0), world.borrowed(1)), (0, 0));
}

#[test]
fn an_ordered_write_behind_a_copy_that_waits_for_its_list_has_its_turn_before_it() {
    let (mut world, services) = two();
    let stream = world.host.stream(65536, 65536);
    let [_, to] = services;
    let clock = world.executor.clock();
    finish(&mut world, Duration::from_secs(10), async move {
        let mut initiator = prepare(stream).await;
        let (cdb, list) = copy(1_000);
        let command = ScsiCommand { write: true, ..ScsiCommand::default() };
        let copying = initiator.command_over(command, &cdb, list.len(), &[]).await;
        let r2t = ReadyToTransfer::read(&initiator.hear_answer().await);
        let command = ScsiCommand { write: true, attribute: 2, ..ScsiCommand::default() };
        let cdb = [0x2a, 0, 0, 0, 0, 0, 0, 0, 8, 0];
        let ordered = initiator.command_over(command, &cdb, 4096, &[]).await;
        clock.sleep(Duration::from_millis(200)).await;
        let data = DataOut {
            last: true,
            data_segment: r2t.desired_data_transfer_length,
            initiator_task_tag: copying,
            target_transfer_tag: r2t.target_transfer_tag,
            ..DataOut::default()
        };
        initiator.say(data.header(), &list).await;
        for tag in [ordered, copying] {
            // It is asked for its data when its turn has come.
            let response = initiator.hear_response(4096).await;
            assert_eq!((response.initiator_task_tag, response.status), (tag, GOOD));
        }
        assert!(to.borrow().disk.content()[..4096] == [1; 4096]);
    });
    assert_eq!((world.borrowed(0), world.borrowed(1)), (0, 0));
}

#[test]
fn a_reset_of_either_unit_ends_a_copy_and_is_answered_when_it_can_change_nothing_any_more() {
    for lun in [0, 1] {
        let (mut world, services) = two();
        let stream = world.host.stream(65536, 65536);
        let [_, to] = services.clone();
        let clock = world.executor.clock();
        finish(&mut world, Duration::from_secs(15), async move {
            let mut initiator = prepare(stream).await;
            let (cdb, list) = copy(1_000);
            to.borrow_mut().manner = Manner::Hang;
            initiator.command(&cdb, &list).await;
            clock.sleep(Duration::from_millis(200)).await;
            initiator.tag += 1;
            // LOGICAL UNIT RESET.
            let request = TaskManagementRequest {
                immediate: true,
                function: 5,
                lun: [0, lun, 0, 0, 0, 0, 0, 0],
                initiator_task_tag: initiator.tag,
                referenced_task_tag: wire::RESERVED_TAG,
                cmd_sn: initiator.cmd_sn,
                ..TaskManagementRequest::default()
            };
            initiator.say(request.header(), &[]).await;
            initiator.ping().await;
            assert_eq!(initiator.hear().await.opcode(), opcode::NOP_IN, "what is under way is waited for");
            to.borrow_mut().manner = Manner::Serve;
            assert_eq!(initiator.hear().await.opcode(), opcode::TASK_MANAGEMENT_RESPONSE);
            let written = to.borrow().writes;
            clock.sleep(Duration::from_secs(1)).await;
            assert_eq!(to.borrow().writes, written, "nothing more is written");
            assert!(written * 32_768 < 512_000, "{written} writes");
            write_second(&mut initiator, 2).await;
            initiator.hear_answer().await;
        });
        assert_eq!((world.borrowed(0), world.borrowed(1)), (0, 0));
    }
}

#[test]
fn a_copy_to_a_disk_whose_service_is_away_ends_in_time() {
    let (mut world, services) = two();
    let stream = world.host.stream(65536, 65536);
    let [_, to] = services;
    let clock = world.executor.clock();
    finish(&mut world, Duration::from_secs(40), async move {
        let mut initiator = prepare(stream).await;
        let (cdb, list) = copy(1_000);
        to.borrow_mut().manner = Manner::Close;
        let began = clock.now();
        initiator.command(&cdb, &list).await;
        let response = ScsiResponse::read(&initiator.hear_answer().await);
        assert_eq!(response.status, TASK_ABORTED, "a part may be done: it is not to be repeated blindly");
        assert!(clock.now().since(began) < Duration::from_secs(30));
    });
}

#[test]
fn a_token_made_at_one_disk_is_written_to_another() {
    let (mut world, services) = two();
    world.storage.make_tokens_of([1, 2, 3, 4]);
    let stream = world.host.stream(65536, 65536);
    finish(&mut world, Duration::from_secs(10), async move {
        let mut initiator = prepare(stream).await;
        let range =
            |first: u64, count: u32| [&first.to_be_bytes()[..], &count.to_be_bytes(), &[0; 4]].concat();
        let cdb = |opcode: u8, action: u8, id: usize, length: u8| {
            let mut cdb = [0; 16];
            (cdb[0], cdb[1], cdb[id + 3], cdb[13]) = (opcode, action, 5, length);
            cdb
        };
        let mut list = [&[0, 30][..], &[0; 13], &[16]].concat();
        list.extend(range(8, 800));
        initiator.command(&cdb(EXTENDED_COPY, 0x10, 6, 32), &list).await;
        assert_eq!(ScsiResponse::read(&initiator.hear_answer().await).status, GOOD);
        let command = ScsiCommand { read: true, ..ScsiCommand::default() };
        let mut information = cdb(0x84, 7, 2, 0);
        information[12] = 4;
        initiator.command_over(command, &information, 1024, &[]).await;
        let (_, data) = initiator.hear_all().await;
        assert_eq!((data.len(), data[5]), (550, 1));
        let mut list = [&[2, 38][..], &[0; 14], &data[38..], &[0; 7], &[16]].concat();
        list[0..2].copy_from_slice(&550_u16.to_be_bytes());
        list.extend(range(16, 800));
        let mut write = cdb(EXTENDED_COPY, 0x11, 6, 0);
        write[12..14].copy_from_slice(&(list.len() as u16).to_be_bytes());
        let command = ScsiCommand { write: true, lun: [0, 1, 0, 0, 0, 0, 0, 0], ..ScsiCommand::default() };
        initiator.command_over(command, &write, list.len(), &list).await;
        let answer = initiator.hear_answer().await;
        assert_eq!(ScsiResponse::read(&answer).status, GOOD);
    });
    let [from, to] = services.each_ref().map(|service| service.borrow().disk.content().to_vec());
    assert!(to[16 * 512..816 * 512] == from[8 * 512..808 * 512]);
    let tokens: Vec<_> = (0..3).map(|_| world.shared().token().expect("a secret")).collect();
    assert!(tokens[0] != tokens[1] && tokens[1] != tokens[2]);
}
