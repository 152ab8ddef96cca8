//! A file system that every firmware reads: FAT16 (Microsoft, FAT32 File System Specification 1.03), the same bytes each
//! time: nothing in it says when or where it was made.

/// Bytes of a sector.
pub(crate) const SECTOR: usize = 512;
/// Sectors of a cluster.
const CLUSTER: usize = 4;
/// Sectors before the first table.
const RESERVED: usize = 1;
/// Entries of the root folder, and bytes of one.
const ROOT: usize = 512;
const ENTRY: usize = 32;
/// A file system of fewer clusters would be taken for FAT12, one of more for FAT32.
const CLUSTERS: std::ops::Range<usize> = 4085..65525;
/// The last cluster of a file.
const LAST: u16 = 0xffff;
/// Attributes.
const FOLDER: u8 = 0x10;
const FILE: u8 = 0x20;
/// The name is shown in small letters, as Windows NT has it.
const SMALL: u8 = 0x18;
/// The first day there is, 1 January 1980.
const DAY: u16 = 0x21;

/// What lies in a folder: its name, as FAT has it in eight and three capital letters, and what it is.
pub(crate) struct Entry<'a> {
    pub(crate) name: &'a [u8; 11],
    pub(crate) content: Content<'a>,
}

/// What an entry is.
pub(crate) enum Content<'a> {
    File(&'a [u8]),
    Folder(&'a [Entry<'a>]),
}

/// Where the parts of a file system lie, by sectors from its beginning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    /// Sectors of one of the two tables; the first begins at sector [`RESERVED`].
    pub(crate) table: usize,
    /// The first sector of the root folder.
    pub(crate) root: usize,
    /// The first sector of cluster 2.
    pub(crate) data: usize,
    clusters: usize,
}

impl Layout {
    /// Of a file system of so many sectors.
    pub(crate) fn new(sectors: usize) -> Self {
        let fixed = RESERVED + ROOT * ENTRY / SECTOR;
        // Two bytes in each of two tables for each cluster, rounded to leave room rather than lack it.
        let table = ((sectors - fixed) / CLUSTER + 2).div_ceil(SECTOR / 2);
        let root = RESERVED + 2 * table;
        let data = fixed + 2 * table;
        Self { table, root, data, clusters: (sectors - data) / CLUSTER }
    }
}

/// The file system being made.
struct Volume {
    bytes: Vec<u8>,
    table: Vec<u16>,
    layout: Layout,
}

/// A file system of `sectors` sectors that holds `root`, for a partition that begins at sector `first`. What is behind its
/// last byte is zero.
///
/// # Errors
/// A sentence, when it is too small for that or has no size that FAT16 can have.
pub(crate) fn volume(
    sectors: usize,
    first: u32,
    label: &[u8; 11],
    root: &[Entry<'_>],
) -> Result<Vec<u8>, String> {
    let layout = Layout::new(sectors);
    if !CLUSTERS.contains(&layout.clusters) {
        return Err(format!("a file system of {} clusters is no FAT16", layout.clusters));
    }
    let mut volume = Volume { bytes: vec![0; layout.data * SECTOR], table: vec![0xfff8, LAST], layout };
    let mut entries = vec![entry(label, 8, 0, 0)];
    entries.extend(volume.put_all(root, 0)?);
    let entries = entries.concat();
    if entries.len() > ROOT * ENTRY {
        return Err("the root folder is full".into());
    }
    volume.bytes[layout.root * SECTOR..][..entries.len()].copy_from_slice(&entries);
    let table: Vec<u8> = volume.table.iter().flat_map(|cluster| cluster.to_le_bytes()).collect();
    for copy in 0..2 {
        volume.bytes[(RESERVED + copy * layout.table) * SECTOR..][..table.len()].copy_from_slice(&table);
    }
    volume.bytes[..SECTOR].copy_from_slice(&boot_sector(sectors as u32, first, label, layout));
    Ok(volume.bytes)
}

impl Volume {
    /// Put what lies in a folder whose own first cluster is `parent`; answers their entries.
    fn put_all(&mut self, entries: &[Entry<'_>], parent: u16) -> Result<Vec<[u8; ENTRY]>, String> {
        entries
            .iter()
            .map(|Entry { name, content }| match content {
                Content::File(bytes) => {
                    let first = self.put(bytes)?;
                    Ok(entry(name, FILE, first, bytes.len() as u32))
                }
                Content::Folder(inside) => {
                    // Its cluster first: those inside name it.
                    let first = self.put(&[0; CLUSTER * SECTOR])?;
                    let mut all = vec![entry(b".          ", FOLDER, first, 0)];
                    all.push(entry(b"..         ", FOLDER, parent, 0));
                    all.extend(self.put_all(inside, first)?);
                    let all = all.concat();
                    if all.len() > CLUSTER * SECTOR {
                        return Err("a folder is full".into());
                    }
                    let at = (self.layout.data + (usize::from(first) - 2) * CLUSTER) * SECTOR;
                    self.bytes[at..at + all.len()].copy_from_slice(&all);
                    Ok(entry(name, FOLDER, first, 0))
                }
            })
            .collect()
    }

    /// Put the clusters of a file, one behind the other; answers the first, or zero for no bytes.
    fn put(&mut self, bytes: &[u8]) -> Result<u16, String> {
        let count = bytes.len().div_ceil(CLUSTER * SECTOR);
        let first = self.table.len();
        if first + count > self.layout.clusters + 2 {
            return Err("the file system is full".into());
        }
        if count == 0 {
            return Ok(0);
        }
        self.table.extend((first + 1..first + count).map(|next| next as u16));
        self.table.push(LAST);
        let end = self.bytes.len() + count * CLUSTER * SECTOR;
        self.bytes.extend(bytes);
        self.bytes.resize(end, 0);
        Ok(first as u16)
    }
}

fn entry(name: &[u8; 11], attributes: u8, first: u16, length: u32) -> [u8; ENTRY] {
    let mut entry = [0; ENTRY];
    entry[..11].copy_from_slice(name);
    entry[11] = attributes;
    entry[12] = if attributes == FILE { SMALL } else { 0 };
    for at in [16, 18, 24] {
        entry[at..at + 2].copy_from_slice(&DAY.to_le_bytes());
    }
    entry[26..28].copy_from_slice(&first.to_le_bytes());
    entry[28..].copy_from_slice(&length.to_le_bytes());
    entry
}

fn boot_sector(sectors: u32, first: u32, label: &[u8; 11], layout: Layout) -> [u8; SECTOR] {
    let mut sector = [0; SECTOR];
    let mut set = |at: usize, bytes: &[u8]| sector[at..at + bytes.len()].copy_from_slice(bytes);
    // No program: an endless loop.
    set(0, &[0xeb, 0xfe, 0x90]);
    set(3, b"CORBEL  ");
    set(11, &(SECTOR as u16).to_le_bytes());
    set(13, &[CLUSTER as u8]);
    set(14, &(RESERVED as u16).to_le_bytes());
    set(16, &[2]);
    set(17, &(ROOT as u16).to_le_bytes());
    match u16::try_from(sectors) {
        Ok(few) => set(19, &few.to_le_bytes()),
        Err(_) => set(32, &sectors.to_le_bytes()),
    }
    set(21, &[0xf8]);
    set(22, &(layout.table as u16).to_le_bytes());
    set(24, &63_u16.to_le_bytes());
    set(26, &255_u16.to_le_bytes());
    set(28, &first.to_le_bytes());
    set(36, &[0x80, 0, 0x29]);
    set(39, &0x434f_5242_u32.to_le_bytes());
    set(43, label);
    set(54, b"FAT16   ");
    set(510, &[0x55, 0xaa]);
    sector
}
