//! The agent with real QEMU processes, driven over real TCP.

mod hostile;
mod lifecycle;
mod world;
