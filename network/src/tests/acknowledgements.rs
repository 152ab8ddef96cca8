//! How soon a peer hears that its data have arrived.

use super::{Attachment, Duration, Instant, Rc, Wire, World, settings, wire};
use std::cell::Cell;

/// What a NIC that merges segments shows as one.
const LONG: usize = 65_549;

/// Two ends whose NICs cut and merge segments.
fn merging() -> World {
    let [mut a, mut b] = wire();
    for end in [&mut a, &mut b] {
        end.longest = LONG;
    }
    let ends = [("10.77.0.1/24", 1, a), ("10.77.0.2/24", 2, b)];
    let attach =
        |(address, seed, end): (_, _, Wire)| Attachment::new(&settings(address, seed), end, Instant::ZERO);
    World { ends: ends.map(attach), ..World::new() }
}

/// So often it is sent: the peer's last word may come soon for another reason, as it ends the connection.
const ROUNDS: usize = 3;

/// How long it takes at worst until `length` bytes that were sent in one frame are acknowledged by a peer that has nothing
/// to say.
fn acknowledged_after(length: usize) -> Duration {
    let mut world = merging();
    let [client, server] = world.stacks();
    let (clock, took) = (world.executor.clock(), Rc::new(Cell::new(Duration::ZERO)));
    let mut listener = server.stream(256 << 10, 4096);
    world.executor.add("server", async move {
        listener.accept(80).await;
        let mut left = ROUNDS * length;
        while left > 0 {
            left -= listener.read(&mut [0; 8192]).await.expect("no reset");
        }
        listener.finish().await;
    });
    let mut stream = client.stream(4096, 256 << 10);
    let at = took.clone();
    world.executor.add("client", async move {
        stream.connect("10.77.0.2:80".parse().expect("address")).await.expect("connected");
        for _ in 0..ROUNDS {
            let begun = clock.now();
            stream.write_all(&vec![7; length]).await.expect("written");
            std::future::poll_fn(|cx| {
                stream.register(cx);
                if stream.is_drained() { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
            })
            .await;
            at.set(at.get().max(clock.now().since(begun)));
        }
        stream.finish().await;
    });
    world.run(Duration::from_secs(60));
    took.get()
}

#[test]
fn what_came_as_one_frame_is_acknowledged_at_once_if_a_peer_may_wait_for_that() {
    for length in [4 * 1460, 20_000, 64_240] {
        let took = acknowledged_after(length);
        assert!(took < Duration::from_micros(500), "{length} bytes: only after {took:?}");
    }
}

#[test]
fn a_few_segments_are_acknowledged_before_a_peer_would_send_them_again() {
    for length in [1, 1460, 4112] {
        let took = acknowledged_after(length);
        assert!(took < Duration::from_millis(2), "{length} bytes: only after {took:?}");
    }
}

#[test]
fn an_answer_within_a_millisecond_brings_the_acknowledgement_along() {
    const QUESTIONS: u64 = 100;
    let mut world = merging();
    let [client, server] = world.stacks();
    let clock = world.executor.clock();
    let mut listener = server.stream(64 << 10, 64 << 10);
    world.executor.add("server", async move {
        listener.accept(80).await;
        for _ in 0..QUESTIONS {
            assert_eq!(listener.read(&mut [0; 4112]).await, Ok(4112));
            clock.sleep(Duration::from_micros(300)).await;
            listener.write_all(&[7; 48]).await.expect("written");
        }
    });
    let mut stream = client.stream(64 << 10, 64 << 10);
    world.executor.add("client", async move {
        stream.connect("10.77.0.2:80".parse().expect("address")).await.expect("connected");
        for _ in 0..QUESTIONS {
            stream.write_all(&[7; 4112]).await.expect("written");
            assert_eq!(stream.read(&mut [0; 48]).await, Ok(48));
        }
    });
    world.run(Duration::from_secs(60));
    let received = world.ends[1].counters().received;
    assert!(received < QUESTIONS + 5, "{received} frames for {QUESTIONS} questions");
}
