//! The engine against the servers of the distribution.

mod support;

use storage_nbd::{Client, Limits};
use support::model::Model;
use support::server::{self, Server};
use support::{Driver, Socket};

const SIZE: u64 = 16 << 20;

fn opened(socket: Socket, export: &str) -> Driver {
    let mut driver = Driver::new(Client::new(&Limits::DEFAULT, export).expect("a client"));
    driver.open(socket).expect("an export");
    driver
}

/// Random requests over the whole export, then all of it read back over a second connection.
fn carries_everything(server: &Server, export: &str, seed: u64) -> Driver {
    let mut driver = opened(server.socket(), export);
    let mut model = Model::new(&driver, seed);
    model.exercise(&mut driver, 1500);
    driver.close();
    driver.open(server.socket()).expect("the export again");
    model.verify(&mut driver);
    driver
}

#[test]
fn nbdkit_memory_carries_random_requests() {
    let Some(server) = server::nbdkit(&["memory", "16M"]) else { return };
    let driver = carries_everything(&server, "", 1);
    let export = driver.client.export().expect("an export");
    assert!(export.structured && export.allocation.is_some());
    assert_eq!(export.geometry.size, SIZE);
    assert!(driver.client.counters().chunks > 0);
}
