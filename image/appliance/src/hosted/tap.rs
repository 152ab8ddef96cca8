//! A Linux TAP as a NIC.

use network_nic::offload::{self, HEADER_LEN, Header};
use network_nic::{
    Checksum, Counters, Device, DeviceCapabilities, Medium, Nic, PacketMeta, RxToken,
    SegmentationCapabilities, TxToken,
};
use rustix::ioctl::{self, IntegerSetter, Setter, Updater, ioctl};
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::num::{NonZeroU16, NonZeroUsize};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// The largest frame a device with segmentation offload carries: 64 KiB of IP packet and its Ethernet header.
const LARGEST_FRAME: usize = 65535 + 14;

// From linux/if_tun.h and linux/if.h.
const TUNSETIFF: ioctl::Opcode = ioctl::opcode::write::<i32>(b'T', 202);
const TUNSETOFFLOAD: ioctl::Opcode = ioctl::opcode::write::<u32>(b'T', 208);
const TUNSETVNETHDRSZ: ioctl::Opcode = ioctl::opcode::write::<i32>(b'T', 216);
const IFF_TAP: u16 = 0x0002;
const IFF_NO_PI: u16 = 0x1000;
const IFF_VNET_HDR: u16 = 0x4000;
const TUN_F_CSUM: usize = 1;
const TUN_F_TSO4: usize = 2;
const IFNAMSIZ: usize = 16;

/// `struct ifreq` as TUNSETIFF takes it.
#[repr(C)]
struct InterfaceRequest {
    name: [u8; IFNAMSIZ],
    flags: u16,
    /// The rest of its union.
    rest: [u8; 22],
}

/// A TAP device, attached with virtio's header in front of each frame.
pub(super) struct Tap {
    file: File,
    mac: [u8; 6],
    mtu: usize,
    receive: Box<[u8]>,
    transmit: Box<[u8]>,
    counters: Counters,
}

impl Tap {
    /// Attach to the existing TAP device `name`.
    pub(super) fn open(name: &str) -> io::Result<Self> {
        let nonblocking = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
        let file =
            OpenOptions::new().read(true).write(true).custom_flags(nonblocking).open("/dev/net/tun")?;
        let mut request = request(name)?;
        // SAFETY: TUNSETIFF reads and writes one ifreq, which `request` is laid out as.
        let attach = unsafe { Updater::<TUNSETIFF, _>::new(&mut request) };
        // SAFETY: the file is a tun device, and the operation is described rightly.
        unsafe { ioctl(&file, attach) }?;
        let header = i32::try_from(HEADER_LEN).map_err(io::Error::other)?;
        // SAFETY: TUNSETVNETHDRSZ reads one int.
        let set_header = unsafe { Setter::<TUNSETVNETHDRSZ, i32>::new(header) };
        // SAFETY: as above.
        unsafe { ioctl(&file, set_header) }?;
        // SAFETY: TUNSETOFFLOAD takes its argument by value.
        let set_offload = unsafe { IntegerSetter::<TUNSETOFFLOAD>::new_usize(TUN_F_CSUM | TUN_F_TSO4) };
        // SAFETY: as above.
        unsafe { ioctl(&file, set_offload) }?;
        let sys = Path::new("/sys/class/net").join(name);
        let mtu = std::fs::read_to_string(sys.join("mtu"))?.trim().parse().map_err(io::Error::other)?;
        Ok(Self {
            file,
            mac: own_mac(name),
            mtu,
            receive: vec![0; HEADER_LEN + LARGEST_FRAME].into(),
            transmit: vec![0; HEADER_LEN + LARGEST_FRAME].into(),
            counters: Counters::default(),
        })
    }
}

/// An address for our end of the TAP: the kernel's end has the device's own. The same name gives the same address.
fn own_mac(name: &str) -> [u8; 6] {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in name.bytes() {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    let [a, b, c, d, ..] = hash.to_be_bytes();
    [0x02, 0x43, a, b, c, d]
}

fn request(name: &str) -> io::Result<InterfaceRequest> {
    let flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR;
    let mut request = InterfaceRequest { name: [0; IFNAMSIZ], flags, rest: [0; 22] };
    if name.is_empty() || name.len() >= IFNAMSIZ {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not the name of a network device"));
    }
    request.name[..name.len()].copy_from_slice(name.as_bytes());
    Ok(request)
}

impl AsFd for Tap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// A received frame, already checked.
pub(super) struct Rx<'a>(&'a [u8]);

/// Room for one frame to send.
pub(super) struct Tx<'a> {
    file: &'a File,
    buffer: &'a mut [u8],
    segment: Option<NonZeroU16>,
    counters: &'a mut Counters,
}

impl RxToken for Rx<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(self.0)
    }
}

impl TxToken for Tx<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(mut self, len: usize, f: F) -> R {
        let (header, frame) = self.buffer[..HEADER_LEN + len].split_at_mut(HEADER_LEN);
        let result = f(frame);
        header.copy_from_slice(&offload::prepare_transmit(frame, self.segment).emit());
        // A full queue or a device that is down loses the frame, as a wire would; TCP sends it again.
        match self.file.write(&self.buffer[..HEADER_LEN + len]) {
            Ok(_) => self.counters.sent += 1,
            Err(_) => self.counters.dropped += 1,
        }
        result
    }

    fn set_meta(&mut self, meta: PacketMeta) {
        self.segment = meta.segmentation_offload_size;
    }
}

impl Device for Tap {
    type RxToken<'a> = Rx<'a>;
    type TxToken<'a> = Tx<'a>;

    fn receive(&mut self, _: network_nic::Instant) -> Option<(Rx<'_>, Tx<'_>)> {
        let length = loop {
            let count = self.file.read(&mut self.receive).ok()?;
            let Some(header) = Header::parse(&self.receive[..count]).filter(|_| count >= HEADER_LEN) else {
                self.counters.dropped += 1;
                continue;
            };
            if offload::check_received(&header, &mut self.receive[HEADER_LEN..count]).is_ok() {
                break count;
            }
            self.counters.dropped += 1;
        };
        self.counters.received += 1;
        let Self { file, receive, transmit, counters, .. } = self;
        let reply = Tx { file, buffer: transmit, segment: None, counters };
        Some((Rx(&receive[HEADER_LEN..length]), reply))
    }

    fn transmit(&mut self, _: network_nic::Instant) -> Option<Tx<'_>> {
        let Self { file, transmit, counters, .. } = self;
        Some(Tx { file, buffer: transmit, segment: None, counters })
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = self.mtu + 14;
        capabilities.checksum.tcp = Checksum::None;
        capabilities.segmentation = SegmentationCapabilities::default();
        capabilities.segmentation.tcpv4 = NonZeroUsize::new(LARGEST_FRAME);
        capabilities
    }
}

impl Nic for Tap {
    fn mac(&self) -> [u8; 6] {
        self.mac
    }

    /// Each frame was handed over as it was written.
    fn flush(&mut self) {}

    /// `poll(2)` sees a frame that is there already.
    fn arm(&mut self) -> bool {
        false
    }

    fn counters(&self) -> Counters {
        self.counters
    }
}
