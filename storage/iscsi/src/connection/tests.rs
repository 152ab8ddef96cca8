//! Scripts in the manner of send and expect: what an initiator says, and what it hears.

mod batches;
mod bench;
mod chap;
mod data_in;
mod data_out;
mod hostile;
mod liveness;
mod login;
mod logout;
mod sequence;
mod several;
mod straight;
mod task_management;
mod text;
mod wraps;
