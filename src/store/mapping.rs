//! A read-only shared mapping of one extent's file.
//!
//! Mapped bytes are handed to the kernel (`sendmsg`) and never dereferenced by this program: a page
//! that cannot be had (the file was cut by someone else, the disk failed) is then an `EFAULT` from
//! the send, and not a SIGBUS. The mapping may be longer than the file; only bytes below the tail
//! are ever asked for. This is one of the named places where `unsafe` may stand.

use std::fs::File;
use std::io;

/// One `mmap(PROT_READ, MAP_SHARED)` of a file's first `len` bytes, unmapped on drop.
pub(super) struct Mapping {
    raw: memmap2::MmapRaw,
}

const PAGE_BYTES: usize = 4096;

/// Pages asked about in one `mincore` call; its answer lives on the stack.
const RESIDENT_PAGES_MAX: usize = 512;
/// Bytes that one look can tell about.
pub(super) const RESIDENT_BYTES_MAX: usize = RESIDENT_PAGES_MAX * PAGE_BYTES;

impl Mapping {
    pub(super) fn new(file: &File, len: usize) -> io::Result<Mapping> {
        let raw = memmap2::MmapOptions::new().len(len).map_raw_read_only(file)?;
        Ok(Mapping { raw })
    }

    /// The bytes `[start, start + len)`, for the kernel to read.
    pub(super) fn slice(&self, start: usize, len: usize) -> &[u8] {
        assert!(start.checked_add(len).is_some_and(|end| end <= self.raw.len()));
        // SAFETY: the range lies inside the mapping (asserted), which lives as long as `self`.
        // Bytes below an object's tail are written once, before the tail moves, and never again,
        // so nothing is changed under a shared reference by us. That nobody else changes the file
        // is the promise asked of the operator (docs/OPERATIONS.md); since only the kernel reads
        // through the slice, a broken promise gives wrong bytes or EFAULT, not undefined reads here.
        unsafe { std::slice::from_raw_parts(self.raw.as_ptr().wrapping_add(start), len) }
    }

    /// True if the first pages of `[start, start + len)` (at most 2 MiB of them) are in the page
    /// cache, so that sending them will not wait for the disk. A hint: false on any doubt.
    pub(super) fn is_resident(&self, start: usize, len: usize) -> bool {
        let first = start / PAGE_BYTES * PAGE_BYTES;
        let end = (start + len).min(self.raw.len());
        let pages = end.saturating_sub(first).div_ceil(PAGE_BYTES).min(RESIDENT_PAGES_MAX);
        let mut seen = [0u8; RESIDENT_PAGES_MAX];
        // SAFETY: `first` is page-aligned from a page-aligned base and `pages` pages lie within the
        // mapping; `seen` has room for one byte per page.
        let answer = unsafe {
            libc::mincore(
                self.raw.as_mut_ptr().wrapping_add(first).cast(),
                pages * PAGE_BYTES,
                seen.as_mut_ptr(),
            )
        };
        answer == 0 && seen[..pages].iter().all(|page| page & 1 == 1)
    }
}
