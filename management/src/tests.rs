//! The plane as a function, its two tasks on wires in memory, and the whole path down to a real hypervisor.

mod crowds;
mod desired;
mod desk;
mod door;
mod held;
mod keys;
mod networks;
mod peers;
mod plane;
mod policy;
mod provider;
mod relay;
mod requests;
mod resets;
mod signatures;
mod tasks;
mod whole;
