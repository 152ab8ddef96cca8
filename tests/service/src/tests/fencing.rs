//! Writers, generations, gateways.

use super::Service;
use super::client::Client;
use crate::medium::Cache;
use crate::testing::Folder;
use std::time::Duration;
use storage_nbd::wire::{command, error, option_reply};

fn claim(generation: u64, owner: &str, session: u64, connection: u32, alive: &str) -> String {
    format!("x-corbel:writer:{generation:x}:{owner}:{session:x}:{connection:x}{alive}")
}

#[test]
fn a_higher_generation_takes_over_and_a_lower_one_never_comes_back() {
    let folder = Folder::new();
    let service = Service::start(&folder, "control", |_| {});
    let mut old = Client::connect(&service, &claim(1, "a", 7, 0, "")).unwrap();
    old.write(0, 1).unwrap().unwrap();
    let mut new = Client::connect(&service, &claim(2, "b", 9, 0, "")).unwrap();
    assert_eq!(old.write(0, 2), None);
    assert_eq!(new.read(0), Some(Ok(1)));
    let refused = |claim: &str| Client::connect(&service, claim).err();
    assert_eq!(refused(&claim(1, "a", 7, 1, "")), Some(option_reply::ERR_POLICY));
    assert_eq!(refused(&claim(2, "a", 7, 1, "")), Some(option_reply::ERR_POLICY));
    assert_eq!(refused("x-corbel:writer:2:b:9"), Some(option_reply::ERR_INVALID));
    new.write(0, 3).unwrap().unwrap();
    drop(service);
    // What was admitted is known to the next life of the service.
    let service = Service::start(&folder, "control", |_| {});
    assert_eq!(Client::connect(&service, &claim(1, "a", 7, 2, "")).err(), Some(option_reply::ERR_POLICY));
    assert_eq!(Client::connect(&service, &claim(2, "b", 10, 0, "")).unwrap().read(0), Some(Ok(3)));
}

#[test]
fn the_answer_to_a_claim_is_the_end_of_what_older_connections_brought() {
    let folder = Folder::new();
    let service = Service::start(&folder, "control", |_| {});
    service.order("delay write 300");
    service.order("late 300");
    let mut old = Client::connect(&service, &claim(1, "a", 7, 0, "")).unwrap();
    old.begin(command::WRITE, 0, 0, 4096, &[1; 4096]);
    let mut dying = Client::connect(&service, &claim(1, "a", 7, 1, ":0")).unwrap();
    dying.begin(command::WRITE, 0, 4096, 4096, &[1; 4096]);
    while service.figure("waiting") != "2" {}
    // One dies first, and what it brought would be executed late; the other is cut by the claim.
    drop(dying);
    while service.figure("alive") != "1" {}
    let mut new = Client::connect(&service, &claim(1, "a", 8, 0, "")).unwrap();
    assert!(new.contexts.contains(&claim(1, "a", 8, 0, "")));
    service.order("delay write 0");
    new.write(0, 2).unwrap().unwrap();
    std::thread::sleep(Duration::from_millis(700));
    assert_eq!((new.read(0), new.read(4096)), (Some(Ok(2)), Some(Ok(0))));
    assert_eq!((service.figure("late"), service.figure("discarded")), ("0".into(), "2".into()));
}

#[test]
fn a_connection_that_joins_cuts_those_that_are_not_counted_on() {
    let folder = Folder::new();
    let service = Service::start(&folder, "control", |_| {});
    let mut clients: Vec<Client> = Vec::new();
    for (connection, alive) in [(0, ""), (1, ":0"), (2, ":0,1")] {
        clients.push(Client::connect(&service, &claim(1, "a", 7, connection, alive)).unwrap());
    }
    assert!(clients.iter_mut().all(|client| client.write(0, 1).is_some()));
    clients.push(Client::connect(&service, &claim(1, "a", 7, 3, ":1")).unwrap());
    let alive: Vec<bool> = clients.iter_mut().map(|client| client.write(0, 1).is_some()).collect();
    assert_eq!(alive, [false, true, false, true]);
}

#[test]
fn who_claims_nothing_may_write_until_the_first_writer_comes_and_read_for_ever() {
    let folder = Folder::new();
    let service = Service::start(&folder, "control", |_| {});
    let mut plain = Client::connect(&service, "").unwrap();
    plain.write(0, 1).unwrap().unwrap();
    let mut writer = Client::connect(&service, &claim(0, "a", 7, 0, "")).unwrap();
    assert_eq!(plain.read(0), None);
    let mut plain = Client::connect(&service, "").unwrap();
    assert_eq!(plain.read(0), Some(Ok(1)));
    assert_eq!(plain.write(0, 2), Some(Err(error::EPERM)));
    assert_eq!(plain.any(command::TRIM, 0, (0, 4096)), Some(Err(error::EPERM)));
    // A second connection of the same session leaves the reader alone.
    let _second = Client::connect(&service, &claim(0, "a", 7, 1, ":0")).unwrap();
    assert_eq!(plain.read(0), Some(Ok(1)));
    assert_eq!(writer.write(0, 3), Some(Ok(())));
}

#[test]
fn a_writer_that_goes_to_another_gateway_leaves_nothing_behind_at_the_first() {
    let folder = Folder::new();
    let (a, b) = (Service::start(&folder, "a", |_| {}), Service::start(&folder, "b", |_| {}));
    let mut at_a = Client::connect(&a, &claim(1, "x", 7, 0, "")).unwrap();
    at_a.write(0, 1).unwrap().unwrap();
    at_a.flush().unwrap().unwrap();
    at_a.write(0, 2).unwrap().unwrap();
    let before = at_a.incarnation();
    let mut at_b = Client::connect(&b, &claim(1, "x", 7, 1, ":0")).unwrap();
    // What only the cache of the first has is gone, and the token says so.
    assert_ne!(at_b.incarnation(), before);
    assert_eq!(at_b.read(0), Some(Ok(1)));
    at_b.write(0, 3).unwrap().unwrap();
    assert_eq!(at_a.flush(), None, "a fenced gateway must not write its cache back");
    assert_eq!(at_b.read(0), Some(Ok(3)));
    // And back again: what the first has in its cache is of another time.
    at_b.flush().unwrap().unwrap();
    let mut back = Client::connect(&a, &claim(1, "x", 7, 2, "")).unwrap();
    assert_eq!(back.read(0), Some(Ok(3)));
    assert_ne!(back.incarnation(), before);
    assert_eq!(at_b.write(0, 4), None);
    // An older generation finds no gateway that takes it.
    let mut newer = Client::connect(&b, &claim(2, "y", 1, 0, "")).unwrap();
    assert_eq!(Client::connect(&a, &claim(1, "x", 7, 3, "")).err(), Some(option_reply::ERR_POLICY));
    assert_eq!(newer.read(0), Some(Ok(3)));
}

#[test]
fn gateways_without_a_cache_are_one_incarnation() {
    let folder = Folder::new();
    let open = |name| Service::start(&folder, name, |options| options.cache = Cache::None);
    let (a, b) = (open("a"), open("b"));
    let mut at_a = Client::connect(&a, &claim(1, "x", 7, 0, "")).unwrap();
    at_a.write(0, 5).unwrap().unwrap();
    let mut at_b = Client::connect(&b, &claim(1, "x", 7, 1, "")).unwrap();
    assert_eq!(at_b.incarnation(), at_a.incarnation());
    assert_eq!(at_b.read(0), Some(Ok(5)));
    assert_eq!(at_a.write(0, 6), None);
}

#[test]
fn a_service_that_knows_no_contexts_leaves_them_out() {
    let folder = Folder::new();
    let service = Service::start(&folder, "control", |options| {
        options.knows_writers = false;
        options.tells_incarnation = false;
    });
    let mut first = Client::connect(&service, &claim(5, "a", 7, 0, "")).unwrap();
    assert_eq!(first.contexts, ["base:allocation"]);
    let mut second = Client::connect(&service, &claim(1, "b", 7, 0, "")).unwrap();
    assert_eq!((first.write(0, 1), second.write(0, 2)), (Some(Ok(())), Some(Ok(()))));
}
