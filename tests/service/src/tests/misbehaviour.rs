//! Orders that are obeyed.

use super::client::Client;
use super::{SIZE, Service};
use crate::record::Record;
use crate::testing::Folder;
use std::time::{Duration, Instant};
use storage_nbd::wire::{command, error};

#[test]
fn a_failed_flush_may_take_the_data_with_it() {
    let folder = Folder::new();
    let service = Service::start(&folder, "control", |_| {});
    let mut client = Client::connect(&service, "").unwrap();
    client.write(0, 1).unwrap().unwrap();
    service.order("fail flush 1 EIO");
    assert_eq!((client.flush(), client.read(0)), (Some(Err(error::EIO)), Some(Ok(1))));
    service.order("fail flush 1 EIO drop");
    assert_eq!(
        (client.flush(), client.flush(), client.read(0)),
        (Some(Err(error::EIO)), Some(Ok(())), Some(Ok(0)))
    );
    service.order("fail read 2 ENOMEM after 1");
    let outcomes: Vec<_> = (0..4).map(|_| client.read(0).unwrap()).collect();
    assert_eq!(outcomes, [Ok(0), Err(error::ENOMEM), Err(error::ENOMEM), Ok(0)]);
}

#[test]
fn requests_of_a_dead_connection_are_executed_late_and_over_newer_data() {
    let folder = Folder::new();
    let service = Service::start(&folder, "control", |options| options.knows_writers = false);
    service.order("late 200");
    service.order("delay write 60000");
    let mut dying = Client::connect(&service, "").unwrap();
    dying.begin(command::WRITE, 0, 0, 4096, &[1; 4096]);
    while service.figure("waiting") != "1" {}
    service.order("delay write 0");
    service.order("drop");
    assert_eq!(dying.reply(), None);
    let mut client = Client::connect(&service, "").unwrap();
    client.write(0, 2).unwrap().unwrap();
    while service.figure("late") != "1" {}
    assert_eq!(client.read(0), Some(Ok(1)), "the ghost");
}

#[test]
fn a_hang_is_silence_and_a_stall_only_waits() {
    let folder = Folder::new();
    let service = Service::start(&folder, "control", |_| {});
    let mut client = Client::connect(&service, "").unwrap();
    for order in ["hang 300", "stall 300", "delay read 300"] {
        service.order(order);
        let start = Instant::now();
        assert_eq!(client.read(0), Some(Ok(0)));
        assert!(start.elapsed() >= Duration::from_millis(290), "{order}: {:?}", start.elapsed());
    }
    service.order("stall 60000");
    let _ = Client::connect(&service, "").unwrap();
    service.order("heal");
    assert_eq!(client.read(0), Some(Ok(0)));
}

#[test]
fn replies_lie_as_ordered() {
    let folder = Folder::new();
    let service = Service::start(&folder, "control", |_| {});
    let connect = || Client::connect(&service, "").unwrap();
    let mut client = connect();
    client.write(4096, 9).unwrap().unwrap();
    service.order("lie read misdirected");
    assert_eq!((client.read(0), client.read(0)), (Some(Ok(9)), Some(Ok(0))));
    service.order("lie read flipped");
    let flipped = client.any(command::READ, 0, (0, 4096)).unwrap().unwrap();
    assert_eq!(flipped.iter().filter(|byte| **byte != 0).count(), 1);
    service.order("lie write cookie");
    let cookie = client.begin(command::WRITE, 0, 0, 512, &[0; 512]);
    assert_ne!(client.reply().unwrap().0, cookie);
    service.order("lie any extra");
    let cookie = client.begin(command::FLUSH, 0, 0, 0, &[]);
    assert_eq!((client.reply().unwrap().0, client.reply().unwrap().0), (cookie, cookie));
    service.order("lie read short");
    assert_eq!(client.read(0), None);
}

#[test]
fn the_export_changes_for_those_who_come_later() {
    let folder = Folder::new();
    let service = Service::start(&folder, "control", |_| {});
    let mut old = Client::connect(&service, "").unwrap();
    let token = old.incarnation();
    service.order(&format!("size {}", 2 * SIZE));
    service.order("readonly on");
    let mut new = Client::connect(&service, "").unwrap();
    assert_eq!((old.size, new.size, new.flags & 2, old.flags & 2), (SIZE, 2 * SIZE, 2, 0));
    assert_eq!(new.read(SIZE), Some(Ok(0)));
    assert_eq!(new.write(0, 1), Some(Err(error::EPERM)));
    service.order("readonly off");
    service.order(&format!("size {}", SIZE / 2));
    assert_eq!(old.read(SIZE / 2), Some(Err(error::EINVAL)));
    assert_eq!(old.write(SIZE / 2, 1), Some(Err(error::ENOSPC)));
    service.order("pretend 4096");
    assert_eq!(
        (Client::connect(&service, "").unwrap().size, old.read(4096)),
        (4096, Some(Err(error::EINVAL)))
    );
    service.order(&format!("pretend {}", SIZE / 2));
    assert_eq!(old.read(4096), Some(Ok(0)));
    service.order("lose");
    assert_ne!(Client::connect(&service, "").unwrap().incarnation(), token);
    assert!(service.try_order("size much").starts_with("error not a number"));
}

#[test]
fn everything_that_changed_the_medium_is_in_the_log_in_its_order() {
    let folder = Folder::new();
    {
        let service = Service::start(&folder, "control", |_| {});
        let mut client = Client::connect(&service, "").unwrap();
        client.write(4096, 0xab).unwrap().unwrap();
        client.write_durably(0, 0xcd).unwrap().unwrap();
        client.any(command::WRITE_ZEROES, 0, (8192, 4096)).unwrap().unwrap();
        client.flush().unwrap().unwrap();
        client.write(0, 1).unwrap().unwrap();
        service.order("lose");
    }
    let text = std::fs::read_to_string(folder.file("log")).unwrap();
    let records: Vec<_> = text.lines().map(|line| Record::parse(line).unwrap()).collect();
    let seen: Vec<_> =
        records.iter().map(|record| (record.what.as_str(), record.offset, record.durable)).collect();
    let expected = [
        ("start", 0, true),
        ("write", 4096, false),
        ("write", 0, true),
        ("zeroes", 8192, false),
        ("flush", 0, true),
        ("write", 0, false),
        ("lost", 0, false),
    ];
    assert_eq!(seen, expected);
    assert_eq!((records[1].head[0], records[6].length), (0xab, 1));
}
