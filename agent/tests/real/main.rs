//! The agent with real QEMU processes, driven over real TCP.

#[cfg(test)]
mod consoles;
#[cfg(test)]
mod devices;
#[cfg(test)]
mod host;
#[cfg(test)]
mod hostile;
#[cfg(test)]
mod keys;
#[cfg(test)]
mod lifecycle;
#[cfg(test)]
mod memory;
#[cfg(test)]
mod migration;
#[cfg(test)]
mod networks;
#[cfg(test)]
mod program;
#[cfg(test)]
mod world;
