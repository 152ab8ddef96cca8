//! The libvirt backend on a real libvirtd with real guests, without the agent around it. They need root: libvirtd runs
//! domains for nobody else.

#[cfg(test)]
mod devices;
#[cfg(test)]
mod guest;
#[cfg(test)]
mod life;
#[cfg(test)]
mod target;
#[cfg(test)]
mod world;
