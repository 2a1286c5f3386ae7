//! Matrix products on tiles: packing of the right matrix, blocking for the caches, and the split into tasks.
//!
//! Every task computes its part of the result alone, in an order that depends on shapes only, so the result has the same bits for
//! any number of threads.

use std::ops::Range;

use rayon::prelude::*;

use super::microkernel::{Bf16Kernels, Kernels, Left, MAX_NR, MR, NormalizedTile, Tile};
use super::normalize::Normalization;
use super::scratch::with_scratch;
use super::simd::prefetch;

/// Rows of a task. A task goes through its columns in blocks of [`NC`], through the inner dimension in blocks of [`KC`], through groups of
/// [`MR`] rows, and through the panels of the block.
pub(super) const MC: usize = 32 * MR;
/// Depth of a block. A group of rows with so many columns stays in the first-level cache while it goes through the panels of a block.
pub(super) const KC: usize = 256;
/// Columns of a block, twice as many in bf16, which take the same memory. A block of the right matrix, [`KC`] by this, and the columns of the
/// result stay in the second-level cache while the task goes through its rows.
const NC: usize = 128;
/// Numbers of a cache line.
const LINE: usize = 16;
/// A product is split into at least this many tasks if it has the panels for it, by columns too if its rows give fewer.
const MIN_TASKS: usize = 16;

/// A pointer that tasks share. Each task writes a part of its own.
#[derive(Clone, Copy)]
pub(super) struct Shared(pub *mut f32);
// SAFETY: only given to tasks that write disjoint rows or columns.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl Shared {
    /// Returns the pointer. A method, so that closures capture the wrapper and not the pointer.
    pub(super) fn get(self) -> *mut f32 {
        self.0
    }
}

/// Calls `f(rows, columns)` in a task for each block of `block` rows. If these give too few tasks, the columns are split too.
pub(super) fn for_each_block(rows: usize, block: usize, columns: usize, f: impl Fn(Range<usize>, Range<usize>) + Sync) {
    let row_blocks = rows.div_ceil(block);
    let each = columns.div_ceil(MIN_TASKS.div_ceil(row_blocks.max(1)).min(columns));
    let column_blocks = columns.div_ceil(each);
    (0..row_blocks * column_blocks).into_par_iter().for_each(|task| {
        let (row, column) = (task / column_blocks * block, task % column_blocks * each);
        f(row..(row + block).min(rows), column..(column + each).min(columns));
    });
}

/// The right matrix `[taps · depth, n]`, whose elements are at `data[tap_offsets[t] + k·k_stride + column·n_stride]`.
pub(super) struct RightMatrix<'a> {
    pub data: &'a [f32],
    pub tap_offsets: &'a [usize],
    pub depth: usize,
    pub n: usize,
    pub k_stride: usize,
    pub n_stride: usize,
    /// Set if the columns are gates `[4][n / 4]`: panels then have vectors of gates of the same channels (see [`gate_column`]).
    pub gates: Option<Kernels>,
}

/// Returns the source of column `column` of all panels, for a matrix of four gates with `channels` each, or `None` in the padding. Four
/// vectors of columns, in one panel or several, are the four gates of the same channels.
pub(super) fn gate_column(kernels: Kernels, column: usize, channels: usize) -> Option<usize> {
    let (group, column) = (column / (4 * kernels.lanes), column % (4 * kernels.lanes));
    let channel = group * kernels.lanes + column % kernels.lanes;
    (channel < channels).then_some(column / kernels.lanes * channels + channel)
}

/// Columns that are packed together: the shortest vector.
const PACKED: usize = 8;
/// Rows that a task packs. Reads are in the order of memory, and what is written to a panel is a few whole cache lines.
const PACKED_ROWS: usize = 32;

impl RightMatrix<'_> {
    fn k(&self) -> usize {
        self.tap_offsets.len() * self.depth
    }

    /// Returns the number of elements of the packed panels.
    pub(crate) fn packed_len(k: usize, n: usize, nr: usize) -> usize {
        k * n.div_ceil(nr) * nr
    }

    /// Packs the matrix into panels `[n / nr][k][nr]`, with zeros beyond the last column.
    pub(crate) fn pack(&self, nr: usize, packed: &mut [f32]) {
        assert!(nr.is_multiple_of(PACKED) && packed.len().is_multiple_of(self.k() * nr), "whole panels");
        if self.n_stride == 1 {
            return self.pack_rows(nr, packed);
        }
        assert!(self.gates.is_none(), "gates are packed from rows");
        packed.par_chunks_mut(self.k() * nr).enumerate().for_each(|(p, panel)| {
            let columns = p * nr..((p + 1) * nr).min(self.n);
            for (tap, &start) in self.tap_offsets.iter().enumerate() {
                let block = &mut panel[tap * self.depth * nr..(tap + 1) * self.depth * nr];
                self.pack_transposed(block, nr, columns.clone(), start);
            }
        });
    }

    /// Packs the matrix for products with `left`. If these have factors in bf16, rows `2i` and `2i + 1` of a panel become row `i` of words,
    /// and the second half of the panel is arbitrary.
    pub(crate) fn pack_for(&self, kernels: Kernels, left: &impl LeftRows, nr: usize, packed: &mut [f32]) {
        self.pack(nr, packed);
        let Some(bf16) = bf16_for(kernels, left) else { return };
        let (k, zeros) = (self.k(), [0.0; MAX_NR]);
        packed.par_chunks_mut(k * nr).for_each(|panel| {
            let start = panel.as_mut_ptr();
            for row in 0..k.div_ceil(2) {
                // SAFETY: rows of `nr` numbers inside the panel. The first words take the place of the first row, later ones come before both
                // rows. The rounding is one of this processor.
                unsafe {
                    let even = start.add(2 * row * nr).cast_const();
                    let odd = if 2 * row + 1 < k { start.add((2 * row + 1) * nr).cast_const() } else { zeros.as_ptr() };
                    bf16.rounding.across([even, odd], nr, start.add(row * nr));
                }
            }
        });
    }

    /// Packs a matrix whose rows are rows in memory.
    fn pack_rows(&self, nr: usize, packed: &mut [f32]) {
        let k = self.k();
        // For each vector of columns: the first one, how many there are, and where row 0 of them goes.
        let vectors: Vec<(usize, usize, usize)> = (0..packed.len() / k)
            .step_by(PACKED)
            .map(|column| {
                let (first, end) = match self.gates {
                    None => (column, self.n),
                    Some(kernels) => {
                        let first = gate_column(kernels, column, self.n / 4).unwrap_or(self.n);
                        (first, ((first / (self.n / 4) + 1) * (self.n / 4)).min(self.n))
                    }
                };
                let live = end.saturating_sub(first).min(PACKED);
                (first.min(self.n), live, column / nr * k * nr + column % nr)
            })
            .collect();
        let to = Shared(packed.as_mut_ptr());
        (0..k.div_ceil(PACKED_ROWS)).into_par_iter().for_each(|block| {
            for row in block * PACKED_ROWS..((block + 1) * PACKED_ROWS).min(k) {
                let source = &self.data[self.tap_offsets[row / self.depth] + row % self.depth * self.k_stride..];
                for &(first, live, at) in &vectors {
                    // SAFETY: row `row` of the panel, `PACKED` columns of it, which only this task writes.
                    let to = unsafe { std::slice::from_raw_parts_mut(to.get().add(at + row * nr), PACKED) };
                    if live == PACKED {
                        to.copy_from_slice(&source[first..first + PACKED]);
                    } else {
                        to[..live].copy_from_slice(&source[first..first + live]);
                        to[live..].fill(0.0);
                    }
                }
            }
        });
    }

    /// Packs a panel of a matrix whose columns are rows in memory. Takes sixteen columns at a time, so that whole cache lines are written.
    fn pack_transposed(&self, block: &mut [f32], nr: usize, columns: Range<usize>, start: usize) {
        for group in (0..nr).step_by(16) {
            let width = 16.min(nr - group);
            let live = columns.len().saturating_sub(group).min(width);
            let from = start + (columns.start + group) * self.n_stride;
            for k in 0..self.depth {
                let row = &mut block[k * nr + group..][..width];
                for (c, v) in row[..live].iter_mut().enumerate() {
                    *v = self.data[from + k * self.k_stride + c * self.n_stride];
                }
                row[live..].fill(0.0);
            }
        }
    }
}

/// The rows of the left matrix: for each row and tap a pointer to `depth` contiguous elements.
///
/// # Safety
/// `taps` and `depth` never change. `pointers` adds a group of pointers for each tap of every [`MR`] rows; all of them must be valid for
/// reads of `depth` elements as long as the matrix and `scratch` are borrowed.
pub(super) unsafe trait LeftRows: Sync {
    /// Returns the number of pieces of each row.
    fn taps(&self) -> usize;

    /// Returns the number of contiguous elements of each piece.
    fn depth(&self) -> usize;

    /// Returns the length of a task's scratch memory (an im2col tile, or nothing).
    fn scratch_len(&self) -> usize {
        0
    }

    /// Writes the pointers `[group][tap][MR]` of `rows`. Spare rows of the last group point at any valid row.
    ///
    /// # Safety
    /// `scratch` must outlive the use of the pointers.
    unsafe fn pointers(&self, rows: Range<usize>, scratch: &mut [f32], out: &mut Vec<[*const f32; MR]>);
}

/// Returns the kernels for factors in bf16 if a product uses them: two numbers of a word must belong to the same tap.
fn bf16_for(kernels: Kernels, left: &impl LeftRows) -> Option<Bf16Kernels> {
    kernels.bf16.filter(|_| left.taps() == 1 || left.depth().is_multiple_of(2))
}

/// What is done with a product besides writing it.
#[derive(Clone, Copy)]
pub(super) enum Then<'a> {
    Nothing,
    /// Adds `[n]` to each row.
    AddBias(&'a [f32]),
    /// Normalises the result, whose columns are channels; a residual is `[rows, n]`.
    Normalize(&'a Normalization<'a>),
}

/// A product `[rows, k] · [k, n]`, computed in blocks.
pub(super) struct Product<'a, L> {
    pub kernels: Kernels,
    pub left: &'a L,
    pub rows: usize,
    pub n: usize,
    /// Panels from [`RightMatrix::pack_for`] of the width `kernels.nr(n)`, or that of the gates.
    pub packed: &'a [f32],
    pub nr: usize,
}

/// A block of the inner dimension: first tap, taps, first element within each tap, elements.
type DepthBlock = (usize, usize, usize, usize);

/// Room for a group of rows that are rounded to bf16.
struct RoundedRows {
    words: [[f32; KC / 2]; MR],
    rows: [*const f32; MR],
}

impl RoundedRows {
    fn new() -> RoundedRows {
        RoundedRows { words: [[0.0; KC / 2]; MR], rows: [std::ptr::null(); MR] }
    }
}

/// Returns the blocks of the inner dimension. Where a tap is divided, all its blocks but the last have an even length.
pub(super) fn depth_blocks(taps: usize, depth: usize) -> Vec<DepthBlock> {
    if depth >= KC {
        let parts = depth.div_ceil(KC);
        let len = depth.div_ceil(parts).next_multiple_of(2);
        let split = |tap| (0..parts).map(move |i| (tap, 1, i * len, len.min(depth - i * len)));
        (0..taps).flat_map(split).collect()
    } else {
        // Equal blocks.
        let together = taps.div_ceil(taps.div_ceil((KC / depth).max(1)));
        (0..taps).step_by(together).map(|tap| (tap, together.min(taps - tap), 0, depth)).collect()
    }
}

impl<L: LeftRows> Product<'_, L> {
    /// Computes all rows, and writes them or adds them to what is there. `destination(row)` points at `n` elements.
    ///
    /// # Safety
    /// The `n` elements of each row's destination are valid for reads and writes, and nothing else uses them, not even another row.
    pub(super) unsafe fn run(&self, accumulate: bool, then: Then<'_>, destination: impl Fn(usize) -> *mut f32 + Sync) {
        if let Then::Normalize(norm) = then {
            assert!(norm.fits(self.rows, self.n), "sizes of a normalisation");
        }
        let panels = self.n.div_ceil(self.nr);
        for_each_block(self.rows, MC, panels, |rows, panels| {
            with_scratch(self.left.scratch_len(), |scratch| {
                let mut pointers = Vec::new();
                // SAFETY: `scratch` outlives the use of the pointers.
                unsafe { self.left.pointers(rows.clone(), scratch, &mut pointers) };
                // SAFETY: the caller's promise; the pointers are those of these rows.
                unsafe { self.tiles(rows, panels, &pointers, accumulate, then, &destination) };
            });
        });
    }

    /// Computes the tiles of a block.
    ///
    /// # Safety
    /// As for [`Product::run`] and [`Product::panel_tiles`].
    unsafe fn tiles(
        &self,
        rows: Range<usize>,
        panels: Range<usize>,
        pointers: &[[*const f32; MR]],
        accumulate: bool,
        then: Then<'_>,
        destination: &impl Fn(usize) -> *mut f32,
    ) {
        let starts: Vec<*mut f32> = rows.clone().map(destination).collect();
        let mut edge = [0.0f32; MR * MAX_NR];
        let edge = edge.as_mut_ptr();
        let blocks = depth_blocks(self.left.taps(), self.left.depth()).len();
        let tile = |block, part, p, group, left: &Left| {
            let (row, width) = (rows.start + group * MR, self.nr.min(self.n - p * self.nr));
            let live = MR.min(rows.end - row);
            let starts = &starts[group * MR..][..live];
            let (first, last) = (block == 0, block + 1 == blocks);
            let add = accumulate || !first;
            let whole = width == self.nr && live == MR;
            let c = if whole {
                // SAFETY: `destination` points at rows of `n` elements, and the columns from `p * nr` on are inside.
                std::array::from_fn(|r| unsafe { starts[r].add(p * self.nr) })
            } else {
                // SAFETY: MR rows of at most MAX_NR elements.
                std::array::from_fn(|r| unsafe { edge.add(r * self.nr) })
            };
            let normalize = match then {
                Then::Normalize(norm) if last && whole => Some(norm.tile(row, p * self.nr..(p + 1) * self.nr)),
                _ => None,
            };
            // SAFETY: the caller's promise; `c` are rows of the destination or of `edge`.
            unsafe { self.tile(left, part, p, c, add && whole, normalize) };
            if !whole {
                for (r, start) in starts.iter().enumerate() {
                    // SAFETY: as above, only the `width` columns that exist.
                    let c = unsafe { std::slice::from_raw_parts_mut(start.add(p * self.nr), width) };
                    // SAFETY: row r of the tile just computed.
                    let tile = unsafe { std::slice::from_raw_parts(edge.add(r * self.nr), width) };
                    c.iter_mut().zip(tile).for_each(|(c, t)| *c = if add { *c + t } else { *t });
                }
            }
            for (r, start) in starts.iter().enumerate() {
                // SAFETY: as above.
                let c = || unsafe { std::slice::from_raw_parts_mut(start.add(p * self.nr), width) };
                match then {
                    Then::AddBias(bias) if first => {
                        c().iter_mut().zip(&bias[p * self.nr..]).for_each(|(c, b)| *c += b);
                    }
                    Then::Normalize(norm) if last && !whole => {
                        norm.part((row + r) * self.n + p * self.nr, p * self.nr, c());
                    }
                    _ => {}
                }
            }
        };
        // SAFETY: the caller's promise.
        unsafe { self.for_each_tile(pointers, panels, tile) };
    }

    /// Calls `tile(number of the block, block, panel, group of rows, left side)` for everything: for each block of columns, block by block of
    /// the inner dimension. A group goes through all panels of a block, and stays in the first-level cache meanwhile; the next group is asked
    /// for.
    ///
    /// # Safety
    /// As for [`Product::panel_tiles`].
    unsafe fn for_each_tile(
        &self,
        pointers: &[[*const f32; MR]],
        panels: Range<usize>,
        mut tile: impl FnMut(usize, DepthBlock, usize, usize, &Left),
    ) {
        let groups = pointers.len() / self.left.taps();
        let blocks = depth_blocks(self.left.taps(), self.left.depth());
        let columns = if bf16_for(self.kernels, self.left).is_some() { 2 * NC } else { NC };
        let at_once = (columns / self.nr).max(1);
        let mut rounded = RoundedRows::new();
        for first in panels.clone().step_by(at_once) {
            let own = first..(first + at_once).min(panels.end);
            for (b, &block) in blocks.iter().enumerate() {
                for group in 0..groups {
                    let next =
                        if group + 1 < groups { (group + 1, block) } else { (0, blocks[(b + 1) % blocks.len()]) };
                    // SAFETY: the caller's promise.
                    let left = unsafe { self.left_tile(pointers, group, block, &mut rounded) };
                    for (i, p) in own.clone().enumerate() {
                        self.prefetch(pointers, next.0, next.1, (i, own.len()));
                        tile(b, block, p, group, &left);
                    }
                }
            }
        }
    }

    /// Returns a group of rows in a block of the inner dimension: in place, or rounded to bf16.
    ///
    /// # Safety
    /// As for [`Product::panel_tiles`].
    unsafe fn left_tile(
        &self,
        pointers: &[[*const f32; MR]],
        group: usize,
        (tap, taps, from, len): DepthBlock,
        rounded: &mut RoundedRows,
    ) -> Left {
        let segments = &pointers[group * self.left.taps() + tap..][..taps];
        let Some(bf16) = bf16_for(self.kernels, self.left) else {
            return Left { segments: segments.as_ptr(), segment_count: taps, segment_len: len, offset: from };
        };
        // Where there are several segments, each has an even number of numbers, so that it begins with a new word.
        let segment_words = len.div_ceil(2);
        for (s, segment) in segments.iter().enumerate() {
            for (row, pointer) in rounded.words.iter_mut().zip(segment) {
                let to = row[s * segment_words..][..segment_words].as_mut_ptr();
                // SAFETY: row pointers are valid for `depth` elements (`LeftRows`); a block has at most `KC` numbers, of which two share a word;
                // the rounding is one of this processor.
                unsafe { bf16.rounding.along(pointer.add(from), len, to) };
            }
        }
        rounded.rows = rounded.words.each_ref().map(|row| row.as_ptr());
        Left { segments: &raw const rounded.rows, segment_count: 1, segment_len: taps * segment_words, offset: 0 }
    }

    /// Asks for part `i` of `parts` of a group's rows in a block of the inner dimension.
    fn prefetch(
        &self,
        pointers: &[[*const f32; MR]],
        group: usize,
        (tap, taps, from, len): DepthBlock,
        (i, parts): (usize, usize),
    ) {
        let lines = len.div_ceil(LINE);
        for line in i * taps * lines / parts..(i + 1) * taps * lines / parts {
            let Some(rows) = pointers.get(group * self.left.taps() + tap + line / lines) else { return };
            rows.iter().for_each(|row| prefetch(row.wrapping_add(from + line % lines * LINE)));
        }
    }

    /// Runs the kernel on one tile and one block of the inner dimension.
    ///
    /// # Safety
    /// `left` is from [`Product::left_tile`], for the same block, and what it points at is unchanged; `c` points at rows of `nr` elements that
    /// nothing else uses.
    unsafe fn tile(
        &self,
        left: &Left,
        (tap, taps, from, len): DepthBlock,
        panel: usize,
        c: [*mut f32; MR],
        accumulate: bool,
        normalize: Option<NormalizedTile>,
    ) {
        let depth = self.left.depth();
        let (k, first) = (self.left.taps() * depth, tap * depth + from);
        let panel = &self.packed[panel * k * self.nr..][..k * self.nr];
        // In bf16, a row of words has two rows of numbers.
        let (tiles, first, rows) = match bf16_for(self.kernels, self.left) {
            None => (self.kernels.tiles, first, taps * len),
            Some(bf16) => (bf16.tiles, first / 2, taps * len.div_ceil(2)),
        };
        let b = panel[first * self.nr..][..rows * self.nr].as_ptr();
        let tile = Tile { left: *left, b, c, accumulate, normalize };
        // SAFETY: the rows of `left` are valid for the block, `b` holds it (sliced above), `c` is the caller's promise; the instruction set was
        // detected.
        unsafe { tiles.rows(self.nr)(&tile) }
    }

    /// Computes the tiles of some panels over all of the inner dimension, for callers that use them while they are in the cache. `tiles` is
    /// `[panels][rows][nr]`, with whole groups of [`MR`] rows; `rows` is at most [`MC`].
    ///
    /// # Safety
    /// `pointers` are those of the left matrix for these rows, and what they point at is still borrowed.
    pub(crate) unsafe fn panel_tiles(
        &self,
        pointers: &[[*const f32; MR]],
        rows: usize,
        panels: Range<usize>,
        tiles: &mut [f32],
    ) {
        let groups = rows.div_ceil(MR);
        assert!(tiles.len() >= panels.len() * groups * MR * self.nr);
        let tiles = tiles.as_mut_ptr();
        let tile = |block, part, p, group, left: &Left| {
            let row = ((p - panels.start) * groups + group) * MR;
            // SAFETY: inside `tiles`, asserted above.
            let c = std::array::from_fn(|r| unsafe { tiles.add((row + r) * self.nr) });
            // SAFETY: the caller's promise; rows of `tiles`.
            unsafe { self.tile(left, part, p, c, block > 0, None) };
        };
        // SAFETY: the caller's promise.
        unsafe { self.for_each_tile(pointers, panels.clone(), tile) };
    }
}
