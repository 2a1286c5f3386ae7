//! Where an item falls among a query's matches: looked up in a table, because a search for each item of a gallery takes longer than
//! its distance.

/// Cells of the table for each match: most cells then hold no match.
const CELLS_PER_MATCH: usize = 128;
/// A larger table is slower to fill than it saves.
const MAX_CELLS: usize = 1 << 13;
/// Distances that are all the same are taken to lie in so small a range.
const SMALLEST_RANGE: f32 = 1e-32;
/// From here on to its double, numbers of f32 are whole.
const WHOLE: f32 = (1 << 23) as f32;
/// What a cell says where the table does not suffice.
const UNDECIDED: u32 = u32::MAX;

/// For equal steps of distance, how many matches are nearer. All below the first step, and all above the last, have a cell, too.
pub(super) struct Places {
    /// Where the first step begins.
    from: f32,
    /// Steps per unit of distance.
    steps: f32,
    /// The last cell.
    last: f32,
    cells: Vec<u32>,
}

impl Places {
    /// Of the bounds of matches, at least one: lower bounds ascend, and so do upper bounds.
    pub fn new(bounds: &[[f32; 2]]) -> Places {
        let steps = (bounds.len() * CELLS_PER_MATCH).min(MAX_CELLS);
        let (from, to) = (bounds[0][0], bounds[bounds.len() - 1][1]);
        let range = (to - from).max(f32::EPSILON * to.abs()).max(SMALLEST_RANGE);
        let per_unit = if range.is_finite() { (steps - 1) as f32 / range } else { 0.0 };
        let mut places = Places { from, steps: per_unit, last: (steps + 1) as f32, cells: vec![0; steps + 2] };
        if per_unit == 0.0 {
            places.cells.fill(UNDECIDED);
            return places;
        }
        let mut filled = 0;
        for (nearer, [least, most]) in bounds.iter().enumerate() {
            let [first, last] = [places.cell(*least), places.cell(*most)];
            // The cells up to this match, and those that its bounds lie in or between.
            if first >= filled {
                places.cells[filled..first].fill(nearer as u32);
            }
            places.cells[first..=last].fill(UNDECIDED);
            filled = filled.max(last + 1);
        }
        places.cells[filled..].fill(bounds.len() as u32);
        places
    }

    /// Larger distances do not have smaller cells.
    #[inline(always)]
    fn cell(&self, distance: f32) -> usize {
        let step = (distance - self.from) * self.steps + 1.0;
        let step = if step > 0.0 { step } else { 0.0 };
        let step = if step < self.last { step } else { self.last };
        // Adding it rounds to a whole number, which then is in the last bits: faster than a conversion.
        ((step + WHOLE).to_bits() - WHOLE.to_bits()) as usize
    }

    /// How many matches are certainly nearer than an item between these bounds, if all others are certainly farther. `None` where
    /// that is not so, or the table is too coarse to tell.
    #[inline(always)]
    pub fn nearer(&self, least: f32, most: f32) -> Option<usize> {
        let [first, last] = [self.cells[self.cell(least)], self.cells[self.cell(most)]];
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
            let mut least: Vec<f32> = (0..matches).map(|_| value()).collect();
            least.sort_by(f32::total_cmp);
            let mut most = 0f32;
            let bounds: Vec<[f32; 2]> = least
                .into_iter()
                .map(|least| {
                    most = most.max(least * (1.0 + width));
                    [least, most]
                })
                .collect();
            let places = Places::new(&bounds);
            let (items, mut decided) = (2000, 0);
            for _ in 0..items {
                let least = 1.2 * value() - 0.2 * scale;
                let most = least * (1.0 + width);
                let Some(nearer) = places.nearer(least, most) else { continue };
                decided += 1;
                assert!(bounds[..nearer].iter().all(|b| b[1] < least), "{matches} {scale}");
                assert!(bounds[nearer..].iter().all(|b| b[0] > most), "{matches} {scale}");
            }
            assert!(scale == 0.0 || decided > items / 4, "{matches} {scale}: {decided} of {items} decided");
        }
    }

    #[test]
    fn bounds_without_end_decide_nothing() {
        let places = Places::new(&[[0.5, 0.6], [1.0, f32::INFINITY]]);
        for value in [0.0, 0.7, 2.0, f32::INFINITY] {
            assert_eq!(places.nearer(value, value), None);
        }
        let places = Places::new(&[[0.5, 0.6], [1.0, 1.1]]);
        assert_eq!(places.nearer(2.0, f32::INFINITY), Some(2));
        assert_eq!(places.nearer(0.1, f32::INFINITY), None);
        assert_eq!([places.nearer(0.1, 0.2), places.nearer(0.7, 0.8)], [Some(0), Some(1)]);
    }
}
