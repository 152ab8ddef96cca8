//! Tests of whole commands against a disk in memory.

mod basics;
