//! The byte streams that the tasks run on. A TCP stream of either network is one; what encrypts it is another
//! ([`crate::secure`]).

use alloc::string::String;
use core::net::SocketAddrV4;
use network::{ConnectError, Reset, Stream};

/// One connection at a time, in a slot. Every future may be dropped while it waits without a byte being lost.
#[expect(async_fn_in_trait, reason = "all tasks of an executor are on one thread")]
pub trait Wire {
    /// Wait for a peer on `port`.
    async fn accept(&mut self, port: u16);
    /// Connect to `to`.
    async fn connect(&mut self, to: SocketAddrV4) -> Result<(), ConnectError>;
    /// Read at least one byte; zero when the peer has finished.
    async fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Reset>;
    /// Write some of it, at least one byte unless there is none.
    async fn write(&mut self, bytes: &[u8]) -> Result<usize, Reset>;
    /// Write all of it.
    async fn write_all(&mut self, mut bytes: &[u8]) -> Result<(), Reset> {
        while !bytes.is_empty() {
            let count = self.write(bytes).await?;
            bytes = bytes.get(count..).unwrap_or_default();
        }
        Ok(())
    }
    /// Close in order.
    async fn finish(&mut self);
    /// Close at once.
    fn abort(&mut self);
    /// The peer's address, where it has one.
    fn peer(&self) -> Option<SocketAddrV4> {
        None
    }
    /// Why the last connection came to nothing, where more is known than that.
    fn words(&mut self) -> Option<String> {
        None
    }
}

impl Wire for Stream {
    async fn accept(&mut self, port: u16) {
        Self::accept(self, port).await;
    }

    async fn connect(&mut self, to: SocketAddrV4) -> Result<(), ConnectError> {
        Self::connect(self, to).await
    }

    async fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Reset> {
        Self::read(self, buffer).await
    }

    async fn write(&mut self, bytes: &[u8]) -> Result<usize, Reset> {
        Self::write(self, bytes).await
    }

    async fn finish(&mut self) {
        Self::finish(self).await;
    }

    fn abort(&mut self) {
        Self::abort(self);
    }

    fn peer(&self) -> Option<SocketAddrV4> {
        Self::peer(self)
    }
}
