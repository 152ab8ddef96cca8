//! What is told of an initiator's connection.

use super::*;
use crate::Connected;

#[test]
fn how_long_commands_took_and_waited_for_their_data_is_told_of_each_connection() {
    let mut world = world();
    world.service(10809, "disk", Manner::Serve);
    world.expose("disk", "nbd://10.78.0.2:10809/disk");
    world.run(Duration::from_secs(1));
    let (control, clock, stream) = (world.control(), world.executor.clock(), world.host.stream(65536, 65536));
    assert_eq!(control.connections(), []);
    let told = control.clone();
    finish(&mut world, Duration::from_secs(2), async move {
        let mut initiator = Initiator::log_in(stream, "host", "disk").await;
        let Connected { ended, awaited, .. } = told.connections().remove(0);
        assert_eq!((ended, awaited), (1, Duration::ZERO), "TEST UNIT READY");
        initiator.write(0).await;
        initiator.hear_response(4096).await;
        let Connected { awaited, .. } = told.connections().remove(0);
        assert!(awaited < Duration::from_millis(2), "its data came along with it: {awaited:?}");

        // It is asked for the rest, and takes its time.
        initiator.write_long(1, 64 << 10, 4096).await;
        let header = initiator.hear_answer().await;
        assert_eq!(header.opcode(), opcode::READY_TO_TRANSFER);
        let Connected { commands, .. } = told.connections().remove(0);
        assert_eq!(commands, 1);
        clock.sleep(Duration::from_millis(200)).await;
        let r2t = ReadyToTransfer::read(&header);
        let data = DataOut {
            last: true,
            data_segment: r2t.desired_data_transfer_length,
            initiator_task_tag: r2t.initiator_task_tag,
            target_transfer_tag: r2t.target_transfer_tag,
            buffer_offset: r2t.buffer_offset,
            ..DataOut::default()
        };
        initiator.say(data.header(), &vec![1; r2t.desired_data_transfer_length as usize]).await;
        initiator.hear_response(4096).await;
        let query = initiator.manage(1, (7, 7)).await;
        assert_eq!(TaskManagementRequest::read(&initiator.hear_answer().await).initiator_task_tag, query);

        let told = told.connections().remove(0);
        assert_eq!(
            (told.initiator.as_str(), told.target.as_str()),
            ("iqn.2026-01.test:host", "iqn.2026-01.test:disk")
        );
        assert_eq!((told.commands, told.ended, told.functions), (0, 3, 1));
        assert!(told.awaited >= Duration::from_millis(200), "{:?}", told.awaited);
        assert!(told.took >= told.awaited && told.took < Duration::from_millis(300), "{:?}", told.took);
        initiator.stream.abort();
    });
    let status = control.get("disk").expect("it is exposed").status;
    assert!(status.latency.write.count() >= 2, "so long the service took");
    world.run(Duration::from_secs(1));
    assert_eq!(control.connections(), [], "nobody is told of who has gone");
}
