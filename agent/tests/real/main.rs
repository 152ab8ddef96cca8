//! The agent with real QEMU processes, driven over real TCP.

#[cfg(test)]
mod hostile;
#[cfg(test)]
mod lifecycle;
#[cfg(test)]
mod program;
#[cfg(test)]
mod world;
