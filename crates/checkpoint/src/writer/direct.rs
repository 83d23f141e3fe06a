//! How a file of several pieces of memory is written past the page cache, which takes whole blocks at aligned
//! addresses only.
//!
//! In: the pieces, and an alignment of addresses. Out: writes that follow one another from byte 0 to the end:
//! straight from a piece where its address fits to the file's offset, else of bytes that were gathered in a small
//! buffer. The last block is filled up with zeroes and cut off again.

use super::files::BLOCK;

/// One write.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Write<'a> {
    /// Bytes as they lie.
    Straight(&'a [u8]),
    /// So many bytes of the buffer; a multiple of a block. So many of them belong to the file.
    Gathered { padded: usize, bytes: usize },
}

/// Walks through the pieces of a file.
pub(super) struct Walk<'a> {
    pieces: Vec<&'a [u8]>,
    /// Alignment of addresses; none: anything goes.
    address: Option<usize>,
    /// Bytes of a write at most.
    most: usize,
    piece: usize,
    inside: usize,
}

impl<'a> Walk<'a> {
    /// `most` is a multiple of a block, and so is the buffer for what is gathered.
    pub fn new(pieces: Vec<&'a [u8]>, address: Option<usize>, most: usize) -> Self {
        Self {
            pieces,
            address,
            most,
            piece: 0,
            inside: 0,
        }
    }

    /// The next write, which begins at a block (or anywhere, where anything goes). None at the end.
    pub fn next(&mut self, buffer: &mut [u8]) -> Option<Write<'a>> {
        self.skip_ended();
        let rest = self.rest()?;
        let Some(address) = self.address else {
            let bytes = rest.len().min(self.most);
            self.inside += bytes;
            return Some(Write::Straight(&rest[..bytes]));
        };
        if fits(rest, address) {
            let bytes = rest.len().min(self.most) / BLOCK * BLOCK;
            self.inside += bytes;
            return Some(Write::Straight(&rest[..bytes]));
        }
        Some(self.gather(address, buffer))
    }

    fn rest(&self) -> Option<&'a [u8]> {
        self.pieces.get(self.piece).map(|piece| &piece[self.inside..])
    }

    fn skip_ended(&mut self) {
        while self.rest().is_some_and(<[u8]>::is_empty) {
            self.piece += 1;
            self.inside = 0;
        }
    }

    /// Copies until the buffer is full, the file ends, or a block begins that can be written as it lies.
    fn gather(&mut self, address: usize, buffer: &mut [u8]) -> Write<'a> {
        let mut bytes = 0;
        while let Some(rest) = self.rest().filter(|_| bytes < buffer.len()) {
            let to_block = bytes.next_multiple_of(BLOCK) - bytes;
            let straight = rest.get(to_block..).is_some_and(|from| fits(from, address));
            if straight && to_block == 0 && bytes > 0 {
                break;
            }
            let take = if straight { to_block } else { rest.len() };
            let take = take.min(buffer.len() - bytes);
            buffer[bytes..bytes + take].copy_from_slice(&rest[..take]);
            bytes += take;
            self.inside += take;
            self.skip_ended();
        }
        let padded = bytes.next_multiple_of(BLOCK);
        buffer[bytes..padded].fill(0);
        Write::Gathered { padded, bytes }
    }
}

/// Whether a block can be written from the start of `from`.
fn fits(from: &[u8], address: usize) -> bool {
    from.len() >= BLOCK && from.as_ptr().addr().is_multiple_of(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Memory that starts at a page.
    fn pages(count: usize) -> (Vec<u8>, usize) {
        let memory: Vec<u8> = (0..(count + 1) * BLOCK).map(|i| (i * 31 % 251) as u8).collect();
        let start = memory.as_ptr().addr().next_multiple_of(BLOCK) - memory.as_ptr().addr();
        (memory, start)
    }

    /// Writes a file into memory, checking what a disk would refuse; returns it, and the bytes that were copied.
    fn written(pieces: &[&[u8]], address: usize, most: usize) -> (Vec<u8>, usize) {
        let mut walk = Walk::new(pieces.to_vec(), Some(address), most);
        let mut buffer = vec![0xAA; (most / 2).next_multiple_of(BLOCK)];
        let (mut file, mut copied, mut cut) = (Vec::new(), 0, 0);
        while let Some(write) = walk.next(&mut buffer) {
            assert_eq!(cut, 0, "only the last write is filled up");
            assert!(file.len().is_multiple_of(BLOCK));
            match write {
                Write::Straight(bytes) => {
                    assert!(bytes.len().is_multiple_of(BLOCK) && bytes.len() <= most);
                    assert!(bytes.as_ptr().addr().is_multiple_of(address) && !bytes.is_empty());
                    file.extend_from_slice(bytes);
                }
                Write::Gathered { padded, bytes } => {
                    assert!(padded.is_multiple_of(BLOCK) && padded <= buffer.len() && bytes > 0);
                    assert!(padded - bytes < BLOCK);
                    file.extend_from_slice(&buffer[..padded]);
                    copied += bytes;
                    cut = padded - bytes;
                }
            }
        }
        file.truncate(file.len() - cut);
        (file, copied)
    }

    #[test]
    fn files_of_any_pieces_come_out_whole() {
        let (memory, start) = pages(40);
        let mut random = 7_u64;
        let mut size = |most: usize| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (random >> 33) as usize % (most + 1)
        };
        for round in 0..2000 {
            let count = size(6);
            let grain = [1, 4, 512, BLOCK][size(3)];
            let pieces: Vec<&[u8]> = (0..count)
                .map(|_| {
                    let from = start + size(10 * BLOCK) / grain * grain;
                    &memory[from..from + size(20 * BLOCK) / grain * grain]
                })
                .collect();
            let address = [4, 512, BLOCK][size(2)];
            let most = BLOCK * (1 + size(8));
            assert_eq!(
                written(&pieces, address, most).0,
                pieces.concat(),
                "round {round}, {count} pieces, grain {grain}, address {address}, most {most}"
            );
        }
    }

    #[test]
    fn only_heads_and_tails_are_copied_where_addresses_fit() {
        let (memory, start) = pages(40);
        let page = |from: usize, to: usize| &memory[start + from * BLOCK..start + to * BLOCK];
        let most = 8 * BLOCK;
        // A header of odd address, then whole pages.
        assert_eq!(
            written(&[&memory[start + 1..][..BLOCK], page(0, 20)], BLOCK, most).1,
            BLOCK
        );
        // A tail of less than a block.
        let tail = &memory[start..start + 5 * BLOCK + 12];
        assert_eq!(written(&[page(0, 3), tail], BLOCK, most).1, 12);
        // A section that begins in the middle of a block, at an address that fits every 512 bytes.
        let half = &memory[start..start + 3 * BLOCK + 512];
        let copied = written(&[half, page(0, 10)], 512, most).1;
        assert_eq!(copied, BLOCK + 512, "512 bytes, then 3584, at last 512");
        // The same, at an address that doesn't: all of it goes through the buffer.
        assert_eq!(written(&[half, page(0, 10)], BLOCK, most).1, 512 + 10 * BLOCK);
    }

    #[test]
    fn where_anything_goes_nothing_is_copied() {
        let (memory, start) = pages(9);
        let pieces = [&memory[start + 1..start + 5000], &memory[3..20_000], &[]];
        let mut walk = Walk::new(pieces.to_vec(), None, BLOCK);
        let mut file = Vec::new();
        while let Some(write) = walk.next(&mut []) {
            let Write::Straight(bytes) = write else {
                panic!("{write:?}")
            };
            file.extend_from_slice(bytes);
        }
        assert_eq!(file, pieces.concat());
    }
}
