//! The table in front of an arena: who it belongs to, and up to two steps with the places of their pieces.
//!
//! ```text
//!   0        magic, length and digest of the identity, the identity as JSON
//!   8 KiB    slot 0: digest (0: not valid), step, number of entries, where further bytes lie, entries
//!   136 KiB  slot 1
//!   264 KiB  the state
//! ```
//!
//! A slot is written with digest 0, then made valid by storing the digest of the rest. A process that dies in between
//! leaves it not valid.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering, fence};

use bytemuck::{Pod, Zeroable};
use rekindle_types::{LayerId, StateKind, layer_code};
use xxhash_rust::xxh3::xxh3_64;

/// Bytes in front of the state.
pub(crate) const HEADER: usize = 264 << 10;
/// Where the slots begin.
pub(crate) const SLOTS: [usize; 2] = [8 << 10, 136 << 10];
/// Bytes of a slot.
const SLOT: usize = 128 << 10;
/// Bytes of the identity at most.
pub(crate) const IDENTITY: usize = (8 << 10) - 32;
/// Entries of a slot at most: three for each of more than a thousand layers.
pub(crate) const MOST_ENTRIES: usize = (SLOT - size_of::<Head>()) / size_of::<Raw>();

/// What a slot says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Listed {
    pub(crate) step: u64,
    pub(crate) entries: Vec<Entry>,
    /// Bytes of the file that belong to the step and are no state.
    pub(crate) more: Range<u64>,
}

/// A piece of a step's state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The layer.
    pub layer: LayerId,
    /// What of it.
    pub kind: StateKind,
    /// Which elements of the layer's flat buffer.
    pub elements: Range<u64>,
    /// Where they lie in the file, bytes.
    pub bytes: Range<u64>,
}

/// A slot's beginning; `digest` comes first and is written last.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct Head {
    digest: u64,
    step: u64,
    count: u64,
    more_start: u64,
    more_end: u64,
}

#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct Raw {
    layer: u32,
    kind: u32,
    first: u64,
    end: u64,
    start_byte: u64,
    end_byte: u64,
}

impl Raw {
    fn of(entry: &Entry) -> Self {
        Self {
            layer: layer_code(entry.layer),
            kind: entry.kind as u32,
            first: entry.elements.start,
            end: entry.elements.end,
            start_byte: entry.bytes.start,
            end_byte: entry.bytes.end,
        }
    }

    fn entry(&self, file: u64) -> Option<Entry> {
        let kind = *StateKind::ALL.get(self.kind as usize)?;
        let layer = match self.layer {
            0 => LayerId::Embed,
            0xFF_FFFF => LayerId::Head,
            n => LayerId::Block(n - 1),
        };
        let whole = self.first <= self.end && inside(&(self.start_byte..self.end_byte), file);
        whole.then_some(Entry {
            layer,
            kind,
            elements: self.first..self.end,
            bytes: self.start_byte..self.end_byte,
        })
    }
}

/// Whether bytes lie in a file of `file` bytes, behind the table.
fn inside(bytes: &Range<u64>, file: u64) -> bool {
    bytes.start >= HEADER as u64 && bytes.start <= bytes.end && bytes.end <= file
}

/// Writes a slot and makes it valid. `slot` is the slot's memory, which is not valid now, and the entries fit.
pub(crate) fn publish(slot: &mut [u8], listed: &Listed) {
    let raw: Vec<Raw> = listed.entries.iter().map(Raw::of).collect();
    let head = Head {
        digest: 0,
        step: listed.step,
        count: raw.len() as u64,
        more_start: listed.more.start,
        more_end: listed.more.end,
    };
    let size = size_of::<Head>();
    slot[..size].copy_from_slice(bytemuck::bytes_of(&head));
    let body: &[u8] = bytemuck::cast_slice(&raw);
    slot[size..size + body.len()].copy_from_slice(body);
    let digest = digest(&slot[8..size + body.len()]);
    store(slot, digest);
}

/// Makes a slot not valid.
pub(crate) fn retire(slot: &mut [u8]) {
    store(slot, 0);
}

/// Stores the digest after everything written before, and before everything written after.
fn store(slot: &mut [u8], digest: u64) {
    fence(Ordering::SeqCst);
    // SAFETY: a slot starts at a multiple of 8 inside a mapping and has room for the digest; atomic access to memory
    // that this process borrows uniquely is fine.
    let cell = unsafe { AtomicU64::from_ptr(slot.as_mut_ptr().cast()) };
    cell.store(digest, Ordering::SeqCst);
    fence(Ordering::SeqCst);
}

/// What a slot says, if it is valid and names only bytes inside a file of `file` bytes.
pub(crate) fn read(slot: &[u8], file: u64) -> Option<Listed> {
    let size = size_of::<Head>();
    let head: Head = *bytemuck::try_from_bytes(slot.get(..size)?).ok()?;
    let count = usize::try_from(head.count).ok().filter(|n| *n <= MOST_ENTRIES)?;
    let end = size + count * size_of::<Raw>();
    if head.digest == 0 || digest(slot.get(8..end)?) != head.digest {
        return None;
    }
    let raw: &[Raw] = bytemuck::try_cast_slice(&slot[size..end]).ok()?;
    let entries = raw
        .iter()
        .map(|raw| raw.entry(file))
        .collect::<Option<Vec<_>>>()?;
    let (step, more) = (head.step, head.more_start..head.more_end);
    let whole = more.is_empty() || inside(&more, file);
    whole.then_some(Listed { step, entries, more })
}

/// Never 0, which means not valid.
fn digest(bytes: &[u8]) -> u64 {
    xxh3_64(bytes).max(1)
}

/// The memory of slot `number` in a header.
pub(crate) fn slot(header: &[u8], number: usize) -> &[u8] {
    &header[SLOTS[number]..SLOTS[number] + SLOT]
}

/// The same, to be written.
pub(crate) fn slot_mut(header: &mut [u8], number: usize) -> &mut [u8] {
    &mut header[SLOTS[number]..SLOTS[number] + SLOT]
}
