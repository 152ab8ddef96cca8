//! That a read and a write allocate nothing on their way through the driver, with its journal, and the NBD engine.

mod peer;

use allocation_counter::measure;
use peer::Memory;
use storage_block::Operation;

#[test]
fn a_read_and_a_write_allocate_nothing() {
    for structured in [false, true] {
        let mut memory = Memory::new(structured);
        for operation in [
            Operation::Read,
            Operation::Write { fua: false },
            Operation::Write { fua: true },
            Operation::Read,
        ] {
            // Buffers are touched when they are first used, those of the journal until it is flushed.
            for _ in 0..40 {
                memory.round(operation, |_| ());
            }
            let measured = measure(|| {
                for _ in 0..200 {
                    memory.round(operation, |_| ());
                }
            });
            assert_eq!(measured.count_total, 0, "{operation:?}");
        }
    }
}
