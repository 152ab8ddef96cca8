//! What guests write to their consoles, over the wire.

use crate::host::{build_guest, until};
use crate::world::World;
use agent_protocol::{Action, CONSOLE_BYTES_MAX, ConsolePage, Outcome, decode, path};
use management_http::Method;

#[test]
fn what_a_guest_has_written_is_told_from_any_place_on_and_of_no_other_machine() {
    let mut world = World::new("console");
    build_guest(&world.directory);
    world.stop_agent();
    let file = world.directory.join("images.json");
    let drive = format!("file={}/boot.img,format=raw,if=ide,readonly=off", world.directory.display());
    let speaks = format!(
        r#""speaks":{{"arguments":["-machine","pc,accel=tcg","-m","16","-drive","{drive}"]}},"none":"#
    );
    let images = std::fs::read_to_string(&file).unwrap().replacen(r#""none":"#, &speaks, 1);
    std::fs::write(&file, images).unwrap();
    world.start_agent();

    let ask =
        |id: &str, query: &str| world.request(Method::Get, &format!("{}/{id}{query}", path::CONSOLE), None);
    let page = |query: &str| -> ConsolePage {
        let (status, body) = ask("a", query);
        assert_eq!(status, 200, "{}", String::from_utf8_lossy(&body));
        decode(&body).unwrap()
    };
    assert_eq!(ask("a", "").0, 404);
    let create = |image: &str| Action::Create {
        image: image.parse().unwrap(),
        start: true,
        size: agent_protocol::Size::default(),
    };
    assert!(matches!(world.send(&world.command("a", create("speaks"))), Outcome::Done { .. }));
    until("the guest says R", || page("").data.text().ends_with('R'));
    let whole = page("?after=0");
    assert_eq!((whole.from, whole.next), (0, whole.data.0.len() as u64));
    assert!(whole.data.0.len() <= CONSOLE_BYTES_MAX);
    let last = page(&format!("?after={}", whole.next - 1));
    assert_eq!((last.from, last.data.text()), (whole.next - 1, "R".to_owned()));
    let beyond = page("?after=1000000");
    assert_eq!((beyond.from, beyond.next, beyond.data.0.len()), (whole.next, whole.next, 0));
    for query in ["?after=-1", "?after=x", "?before=1", "?after=1&after=2"] {
        assert_eq!(ask("a", query).0, 400, "{query}");
    }
    assert_eq!(world.request(Method::Post, &format!("{}/a", path::CONSOLE), None).0, 405);
    // The machine without a board has no serial port.
    assert!(matches!(world.send(&world.command("bare", create("none"))), Outcome::Done { .. }));
    let (status, body) = ask("bare", "");
    assert!(status == 422 || status == 200, "{}", String::from_utf8_lossy(&body));
    for id in ["a", "bare"] {
        assert!(matches!(world.send(&world.command(id, Action::Terminate {})), Outcome::Done { .. }));
        assert_eq!(ask(id, "").0, 409, "{id}");
    }
}
