//! A table that tells how many matches of a query are nearer than an item. It replaces a binary search for each gallery item, which would
//! take longer than computing the item's distance.

/// Cells of the table for each match. With so many, most cells contain no match.
const CELLS_PER_MATCH: usize = 128;
/// Largest number of steps: filling a larger table takes more time than it saves.
const MAX_CELLS: usize = 1 << 13;
/// Smallest range that the steps cover, even if all distances are equal.
const SMALLEST_RANGE: f32 = 1e-32;
/// From this number to its double, every f32 is a whole number.
const WHOLE: f32 = (1 << 23) as f32;
/// Marks a cell in which the table does not suffice.
const UNDECIDED: u32 = u32::MAX;

/// The number of nearer matches, for equal steps of distance. All distances below the first step share a cell, and so do all above the
/// last.
pub(super) struct MatchTable {
    /// Distance at which the first step begins.
    from: f32,
    /// Steps per unit of distance.
    steps: f32,
    /// Number of the last cell.
    last: f32,
    cells: Vec<u32>,
}

impl MatchTable {
    /// Builds the table from the bounds of at least one match. Lower bounds must ascend, and so must upper bounds.
    pub(super) fn new(bounds: &[[f32; 2]]) -> MatchTable {
        let steps = (bounds.len() * CELLS_PER_MATCH).min(MAX_CELLS);
        let (from, to) = (bounds[0][0], bounds[bounds.len() - 1][1]);
        let range = (to - from).max(f32::EPSILON * to.abs()).max(SMALLEST_RANGE);
        let per_unit = if range.is_finite() { (steps - 1) as f32 / range } else { 0.0 };
        let mut table = MatchTable { from, steps: per_unit, last: (steps + 1) as f32, cells: vec![0; steps + 2] };
        if per_unit == 0.0 {
            table.cells.fill(UNDECIDED);
            return table;
        }
        let mut filled = 0;
        for (nearer, [lower, upper]) in bounds.iter().enumerate() {
            let [first, last] = [table.cell(*lower), table.cell(*upper)];
            // The cells before this match, then those from its lower to its upper bound.
            if first >= filled {
                table.cells[filled..first].fill(nearer as u32);
            }
            table.cells[first..=last].fill(UNDECIDED);
            filled = filled.max(last + 1);
        }
        table.cells[filled..].fill(bounds.len() as u32);
        table
    }

    /// Returns the cell of a distance, which never decreases with the distance.
    #[inline(always)]
    fn cell(&self, distance: f32) -> usize {
        let step = (distance - self.from) * self.steps + 1.0;
        let step = if step > 0.0 { step } else { 0.0 };
        let step = if step < self.last { step } else { self.last };
        // The sum is rounded to a whole number, which is in its last bits: this is faster than a conversion.
        ((step + WHOLE).to_bits() - WHOLE.to_bits()) as usize
    }

    /// Returns how many matches are nearer than an item whose distance lies between these bounds. `None` if that is not certain for
    /// some match, or the table is too coarse to tell.
    #[inline(always)]
    pub(crate) fn nearer(&self, lower: f32, upper: f32) -> Option<usize> {
        let [first, last] = [self.cells[self.cell(lower)], self.cells[self.cell(upper)]];
        (first == last && first != UNDECIDED).then_some(first as usize)
    }
}

#[cfg(test)]
mod tests {
    use rand::RngExt;

    use super::*;
    use crate::base::rng::{Purpose, stream};

    #[test]
    fn what_the_table_decides_is_so() {
        let mut rng = stream(1, Purpose::Test, 0, 0);
        for (matches, scale, width) in
            [(1, 1.0, 0.01), (1, 1.0, 0.0), (30, 1e-30, 1e-4), (30, 1e30, 1e-4), (2000, 1.0, 1e-5), (5, 0.0, 0.0)]
        {
            let mut value = || scale * rng.random_range(0.5f32..1.5);
            let mut lower: Vec<f32> = (0..matches).map(|_| value()).collect();
            lower.sort_by(f32::total_cmp);
            let mut upper = 0f32;
            let bounds: Vec<[f32; 2]> = lower
                .into_iter()
                .map(|lower| {
                    upper = upper.max(lower * (1.0 + width));
                    [lower, upper]
                })
                .collect();
            let table = MatchTable::new(&bounds);
            let (items, mut decided) = (2000, 0);
            for _ in 0..items {
                let lower = 1.2 * value() - 0.2 * scale;
                let upper = lower * (1.0 + width);
                let Some(nearer) = table.nearer(lower, upper) else { continue };
                decided += 1;
                assert!(bounds[..nearer].iter().all(|b| b[1] < lower), "{matches} {scale}");
                assert!(bounds[nearer..].iter().all(|b| b[0] > upper), "{matches} {scale}");
            }
            assert!(scale == 0.0 || decided > items / 4, "{matches} {scale}: {decided} of {items} decided");
        }
    }

    #[test]
    fn bounds_without_end_decide_nothing() {
        let table = MatchTable::new(&[[0.5, 0.6], [1.0, f32::INFINITY]]);
        for value in [0.0, 0.7, 2.0, f32::INFINITY] {
            assert_eq!(table.nearer(value, value), None);
        }
        let table = MatchTable::new(&[[0.5, 0.6], [1.0, 1.1]]);
        assert_eq!(table.nearer(2.0, f32::INFINITY), Some(2));
        assert_eq!(table.nearer(0.1, f32::INFINITY), None);
        assert_eq!([table.nearer(0.1, 0.2), table.nearer(0.7, 0.8)], [Some(0), Some(1)]);
    }
}
