//! Rounding to bf16. Two numbers share a word of 4 bytes, the first one in the low half, as dot products of bf16 take them. Words are stored
//! as f32, whose bits they are. The processor's instructions take subnormal numbers for zero.

/// How numbers are rounded to words.
#[derive(Clone, Copy)]
pub(super) struct Rounding {
    along: unsafe fn(*const f32, usize, *mut f32),
    across: unsafe fn([*const f32; 2], usize, *mut f32),
}

impl Rounding {
    /// The rounding that every processor can do, for tests.
    #[cfg(test)]
    pub(super) const PORTABLE: Rounding = Rounding { along: portable::along, across: portable::across };
    /// The rounding of processors with AVX-512 BF16.
    #[cfg(target_arch = "x86_64")]
    pub(super) const AVX512_BF16: Rounding = Rounding { along: avx512_bf16::along, across: avx512_bf16::across };

    /// Writes `len` numbers, two neighbours to a word; the last one alone gets a zero.
    ///
    /// # Safety
    /// `from` is valid for reads of `len` numbers, `to` for writes of half as many words, rounded up, which are other memory. The processor has
    /// the instructions.
    #[inline(always)]
    pub(super) unsafe fn along(self, from: *const f32, len: usize, to: *mut f32) {
        // SAFETY: the caller's promise.
        unsafe { (self.along)(from, len, to) }
    }

    /// Writes words of two rows of `len` numbers each: word `i` has number `i` of the first and of the second row.
    ///
    /// # Safety
    /// The rows are valid for reads of `len` numbers, `to` for writes of as many words. It is other memory, or that of the first row. The
    /// processor has the instructions.
    #[inline(always)]
    pub(super) unsafe fn across(self, rows: [*const f32; 2], len: usize, to: *mut f32) {
        // SAFETY: the caller's promise.
        unsafe { (self.across)(rows, len, to) }
    }

    /// Writes words of two rows of equal length, and zeros in the rest of `to`.
    pub(super) fn rows(self, [first, second]: [&[f32]; 2], to: &mut [f32]) {
        assert_eq!(first.len(), second.len(), "rows of equal length");
        let (words, rest) = to.split_at_mut(first.len());
        // SAFETY: three slices of equal length; the rounding is one of this processor.
        unsafe { self.across([first.as_ptr(), second.as_ptr()], words.len(), words.as_mut_ptr()) };
        rest.fill(0.0);
    }
}

#[cfg(test)]
mod portable {
    use half::bf16;

    fn word(first: f32, second: f32) -> f32 {
        let [low, high] = [first, second].map(|value| u32::from(bf16::from_f32(value).to_bits()));
        f32::from_bits(low | high << 16)
    }

    /// # Safety
    /// As for [`super::Rounding::along`].
    pub(super) unsafe fn along(from: *const f32, len: usize, to: *mut f32) {
        for i in 0..len.div_ceil(2) {
            // SAFETY: the caller's promise.
            unsafe {
                let second = if 2 * i + 1 < len { *from.add(2 * i + 1) } else { 0.0 };
                *to.add(i) = word(*from.add(2 * i), second);
            }
        }
    }

    /// # Safety
    /// As for [`super::Rounding::across`].
    pub(super) unsafe fn across([first, second]: [*const f32; 2], len: usize, to: *mut f32) {
        for i in 0..len {
            // SAFETY: the caller's promise; both numbers are read before the word is written.
            unsafe { *to.add(i) = word(*first.add(i), *second.add(i)) };
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod avx512_bf16 {
    use std::arch::x86_64::*;

    /// # Safety
    /// As for [`super::Rounding::along`].
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    pub(super) unsafe fn along(from: *const f32, len: usize, to: *mut f32) {
        // SAFETY: the caller's promise. 32 numbers are 16 words; masks leave out what does not exist.
        unsafe {
            for at in (0..len).step_by(32) {
                let left = len - at;
                let load = |first: usize| {
                    let mask = if left >= first + 16 { !0 } else { ((1u32 << left.saturating_sub(first)) - 1) as u16 };
                    // What the mask leaves out may lie beyond the memory, so that `add` would not be allowed.
                    _mm512_maskz_loadu_ps(mask, from.wrapping_add(at + first))
                };
                let words = _mm512_cvtne2ps_pbh(load(16), load(0));
                let words = std::mem::transmute::<__m512bh, __m512>(words);
                let mask = if left >= 32 { !0 } else { ((1u32 << left.div_ceil(2)) - 1) as u16 };
                _mm512_mask_storeu_ps(to.add(at / 2), mask, words);
            }
        }
    }

    /// # Safety
    /// As for [`super::Rounding::across`].
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    pub(super) unsafe fn across(rows: [*const f32; 2], len: usize, to: *mut f32) {
        // SAFETY: the caller's promise; masks leave out what does not exist.
        unsafe {
            for at in (0..len).step_by(16) {
                let mask = if len - at >= 16 { !0 } else { ((1u32 << (len - at)) - 1) as u16 };
                let [first, second] = rows.map(|row| {
                    let rounded = _mm512_cvtneps_pbh(_mm512_maskz_loadu_ps(mask, row.add(at)));
                    _mm512_cvtepu16_epi32(std::mem::transmute::<__m256bh, __m256i>(rounded))
                });
                let words = _mm512_or_epi32(first, _mm512_slli_epi32::<16>(second));
                _mm512_mask_storeu_ps(to.add(at), mask, _mm512_castsi512_ps(words));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::*;
    use crate::engine::cpu::InstructionSet;

    /// Returns numbers that reach every case of rounding: ties to both sides, the largest numbers, infinities, NaN; not
    /// subnormal numbers, which the processor takes for zero.
    fn numbers() -> Vec<f32> {
        let bits = [
            0x3f80_8000u32,
            0x3f81_8000,
            0x3f80_8001,
            0x3f80_7fff,
            0x7f7f_ffff,
            0x7f80_0000,
            0xff80_0000,
            0x7fff_ffff,
            0x7f80_0001,
        ];
        let more = (0..60).map(|i| (i as f32 - 30.0) * 1.37e-3);
        bits.into_iter().map(f32::from_bits).chain([0.0, -0.0]).chain(more).collect()
    }

    fn roundings() -> Vec<Rounding> {
        let mut all = vec![Rounding::PORTABLE];
        #[cfg(target_arch = "x86_64")]
        if InstructionSet::has_bf16() {
            all.push(Rounding::AVX512_BF16);
        }
        all
    }

    fn halves(word: f32) -> [f32; 2] {
        let bits = word.to_bits();
        [bits as u16, (bits >> 16) as u16].map(|half| bf16::from_bits(half).to_f32())
    }

    fn same(found: f32, want: f32) -> bool {
        found.to_bits() == bf16::from_f32(want).to_f32().to_bits() || found.is_nan() && want.is_nan()
    }

    #[test]
    fn words_are_pairs_of_the_nearest_bf16() {
        let numbers = numbers();
        for rounding in roundings() {
            for len in 0..numbers.len() {
                let mut words = vec![f32::NAN; len.div_ceil(2) + 1];
                words[len.div_ceil(2)] = 7.0;
                // SAFETY: a word for every two numbers.
                unsafe { rounding.along(numbers.as_ptr(), len, words.as_mut_ptr()) };
                let found: Vec<f32> = words[..len.div_ceil(2)].iter().flat_map(|w| halves(*w)).collect();
                assert!(found.iter().zip(&numbers[..len]).all(|(f, n)| same(*f, *n)), "{len}: {found:?}");
                assert!(len % 2 == 0 || found[len] == 0.0);
                assert_eq!(words[len.div_ceil(2)], 7.0, "beyond the end");

                let second: Vec<f32> = numbers.iter().rev().copied().collect();
                let mut words = numbers[..len].to_vec();
                words.push(7.0);
                // SAFETY: in place of the first row.
                unsafe { rounding.across([words.as_ptr(), second.as_ptr()], len, words.as_mut_ptr()) };
                for i in 0..len {
                    let [a, b] = halves(words[i]);
                    assert!(same(a, numbers[i]) && same(b, second[i]), "{i} of {len}: {a} {b}");
                }
                assert_eq!(words[len], 7.0, "beyond the end");
            }
        }
    }
}
