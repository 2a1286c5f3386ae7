//! Vectors of f32: AVX-512, AVX2 with FMA, and arrays that the compiler vectorises (NEON, others).

/// Asks the processor to load the cache line at `address`. Does nothing where it does not matter; any address is allowed.
#[inline(always)]
pub(super) fn prefetch(address: *const f32) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a hint, which reads nothing that the program sees.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(address.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}

/// Makes what [`Simd::stream`] stored visible to other threads, as ordinary stores are.
#[inline(always)]
pub(in crate::engine) fn end_stream() {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a fence, which every x86-64 processor has.
    unsafe {
        std::arch::x86_64::_mm_sfence();
    }
}

/// A SIMD register of f32 lanes.
///
/// # Safety
/// The functions of an implementation may only run where its instruction set is present; pointers must be valid for
/// `LANES` elements, of any alignment but for [`Simd::stream`].
pub(in crate::engine) trait Simd: Copy {
    const LANES: usize;
    unsafe fn splat(value: f32) -> Self;
    unsafe fn load(from: *const f32) -> Self;
    unsafe fn store(self, to: *mut f32);
    /// Stores past the caches, where the machine can; `to` is aligned to the vector. [`end_stream`] must follow before another thread reads.
    unsafe fn stream(self, to: *mut f32);
    /// Returns `self * b + c`, rounded once if the machine can.
    unsafe fn mul_add(self, b: Self, c: Self) -> Self;
    unsafe fn add(self, other: Self) -> Self;
    unsafe fn sub(self, other: Self) -> Self;
    unsafe fn mul(self, other: Self) -> Self;
    unsafe fn div(self, other: Self) -> Self;
    /// Returns the larger one, or `self` where it is NaN.
    unsafe fn at_least(self, limit: Self) -> Self;
    unsafe fn abs(self) -> Self;
    /// Returns `self`, which is not negative, with the sign of `sign`.
    unsafe fn with_sign(self, sign: Self) -> Self;
    /// Returns `then` where `self` is less than `limit`, and `otherwise` elsewhere and for NaN.
    unsafe fn select_less(self, limit: Self, then: Self, otherwise: Self) -> Self;
    /// Returns 2 to the power of `self`, whole numbers from -126 to 127.
    unsafe fn exp2(self) -> Self;

    /// Loads `count` numbers, at most `LANES`, and zeros.
    #[inline(always)]
    unsafe fn load_part(from: *const f32, count: usize) -> Self {
        // SAFETY: the caller's promise, for `count` numbers.
        unsafe {
            if count == Self::LANES {
                return Self::load(from);
            }
            const { assert!(Self::LANES <= 16) };
            let mut values = [0.0f32; 16];
            std::ptr::copy_nonoverlapping(from, values.as_mut_ptr(), count);
            Self::load(values.as_ptr())
        }
    }

    /// Stores the first `count` numbers, at most `LANES`. If `stream`, a whole vector goes past the caches; then `to` must be aligned to it.
    #[inline(always)]
    unsafe fn put(self, to: *mut f32, count: usize, stream: bool) {
        // SAFETY: the caller's promise.
        unsafe { if stream && count == Self::LANES { self.stream(to) } else { self.store_part(to, count) } }
    }

    /// Stores the first `count` numbers, at most `LANES`.
    #[inline(always)]
    unsafe fn store_part(self, to: *mut f32, count: usize) {
        // SAFETY: the caller's promise, for `count` numbers.
        unsafe {
            if count == Self::LANES {
                return self.store(to);
            }
            const { assert!(Self::LANES <= 16) };
            let mut values = [0.0f32; 16];
            self.store(values.as_mut_ptr());
            std::ptr::copy_nonoverlapping(values.as_ptr(), to, count);
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::Simd;

    /// 16 lanes.
    #[derive(Clone, Copy)]
    pub(in crate::engine) struct Avx512(__m512);

    // SAFETY of all bodies: the trait's contract: the instructions exist, and the pointers are valid.
    impl Simd for Avx512 {
        const LANES: usize = 16;
        #[inline(always)]
        unsafe fn splat(value: f32) -> Self {
            Avx512(unsafe { _mm512_set1_ps(value) })
        }
        #[inline(always)]
        unsafe fn load(from: *const f32) -> Self {
            Avx512(unsafe { _mm512_loadu_ps(from) })
        }
        #[inline(always)]
        unsafe fn store(self, to: *mut f32) {
            unsafe { _mm512_storeu_ps(to, self.0) }
        }
        #[inline(always)]
        unsafe fn stream(self, to: *mut f32) {
            unsafe { _mm512_stream_ps(to, self.0) }
        }
        #[inline(always)]
        unsafe fn mul_add(self, b: Self, c: Self) -> Self {
            Avx512(unsafe { _mm512_fmadd_ps(self.0, b.0, c.0) })
        }
        #[inline(always)]
        unsafe fn add(self, other: Self) -> Self {
            Avx512(unsafe { _mm512_add_ps(self.0, other.0) })
        }
        #[inline(always)]
        unsafe fn sub(self, other: Self) -> Self {
            Avx512(unsafe { _mm512_sub_ps(self.0, other.0) })
        }
        #[inline(always)]
        unsafe fn mul(self, other: Self) -> Self {
            Avx512(unsafe { _mm512_mul_ps(self.0, other.0) })
        }
        #[inline(always)]
        unsafe fn div(self, other: Self) -> Self {
            Avx512(unsafe { _mm512_div_ps(self.0, other.0) })
        }
        #[inline(always)]
        unsafe fn at_least(self, limit: Self) -> Self {
            // The second operand is the result if one is NaN.
            Avx512(unsafe { _mm512_max_ps(limit.0, self.0) })
        }
        #[inline(always)]
        unsafe fn abs(self) -> Self {
            Avx512(unsafe { _mm512_abs_ps(self.0) })
        }
        #[inline(always)]
        unsafe fn with_sign(self, sign: Self) -> Self {
            unsafe {
                let sign = _mm512_and_epi32(_mm512_castps_si512(sign.0), _mm512_set1_epi32(i32::MIN));
                Avx512(_mm512_castsi512_ps(_mm512_or_epi32(_mm512_castps_si512(self.0), sign)))
            }
        }
        #[inline(always)]
        unsafe fn select_less(self, limit: Self, then: Self, otherwise: Self) -> Self {
            unsafe {
                let less = _mm512_cmp_ps_mask::<_CMP_LT_OQ>(self.0, limit.0);
                Avx512(_mm512_mask_blend_ps(less, otherwise.0, then.0))
            }
        }
        #[inline(always)]
        unsafe fn exp2(self) -> Self {
            unsafe {
                let biased = _mm512_add_epi32(_mm512_cvtps_epi32(self.0), _mm512_set1_epi32(127));
                Avx512(_mm512_castsi512_ps(_mm512_slli_epi32::<23>(biased)))
            }
        }
    }

    impl Avx512 {
        /// Adds the dot products of lanes that hold two bf16 each to `sums`.
        ///
        /// # Safety
        /// The processor has AVX-512 BF16.
        #[inline(always)]
        pub(in crate::engine) unsafe fn dot_pairs(self, other: Self, sums: Self) -> Self {
            // SAFETY: the types have the same bits; the caller promises the instruction.
            unsafe {
                let [a, b] = [self.0, other.0].map(|words| std::mem::transmute::<__m512, __m512bh>(words));
                Avx512(_mm512_dpbf16_ps(sums.0, a, b))
            }
        }
    }

    /// 8 lanes.
    #[derive(Clone, Copy)]
    pub(in crate::engine) struct Avx2(__m256);

    // SAFETY of all bodies: the trait's contract: the instructions exist, and the pointers are valid.
    impl Simd for Avx2 {
        const LANES: usize = 8;
        #[inline(always)]
        unsafe fn splat(value: f32) -> Self {
            Avx2(unsafe { _mm256_set1_ps(value) })
        }
        #[inline(always)]
        unsafe fn load(from: *const f32) -> Self {
            Avx2(unsafe { _mm256_loadu_ps(from) })
        }
        #[inline(always)]
        unsafe fn store(self, to: *mut f32) {
            unsafe { _mm256_storeu_ps(to, self.0) }
        }
        #[inline(always)]
        unsafe fn stream(self, to: *mut f32) {
            unsafe { _mm256_stream_ps(to, self.0) }
        }
        #[inline(always)]
        unsafe fn mul_add(self, b: Self, c: Self) -> Self {
            Avx2(unsafe { _mm256_fmadd_ps(self.0, b.0, c.0) })
        }
        #[inline(always)]
        unsafe fn add(self, other: Self) -> Self {
            Avx2(unsafe { _mm256_add_ps(self.0, other.0) })
        }
        #[inline(always)]
        unsafe fn sub(self, other: Self) -> Self {
            Avx2(unsafe { _mm256_sub_ps(self.0, other.0) })
        }
        #[inline(always)]
        unsafe fn mul(self, other: Self) -> Self {
            Avx2(unsafe { _mm256_mul_ps(self.0, other.0) })
        }
        #[inline(always)]
        unsafe fn div(self, other: Self) -> Self {
            Avx2(unsafe { _mm256_div_ps(self.0, other.0) })
        }
        #[inline(always)]
        unsafe fn at_least(self, limit: Self) -> Self {
            // The second operand is the result if one is NaN.
            Avx2(unsafe { _mm256_max_ps(limit.0, self.0) })
        }
        #[inline(always)]
        unsafe fn abs(self) -> Self {
            Avx2(unsafe { _mm256_andnot_ps(_mm256_set1_ps(-0.0), self.0) })
        }
        #[inline(always)]
        unsafe fn with_sign(self, sign: Self) -> Self {
            Avx2(unsafe { _mm256_or_ps(self.0, _mm256_and_ps(sign.0, _mm256_set1_ps(-0.0))) })
        }
        #[inline(always)]
        unsafe fn select_less(self, limit: Self, then: Self, otherwise: Self) -> Self {
            unsafe {
                let less = _mm256_cmp_ps::<_CMP_LT_OQ>(self.0, limit.0);
                Avx2(_mm256_blendv_ps(otherwise.0, then.0, less))
            }
        }
        #[inline(always)]
        unsafe fn exp2(self) -> Self {
            unsafe {
                let biased = _mm256_add_epi32(_mm256_cvtps_epi32(self.0), _mm256_set1_epi32(127));
                Avx2(_mm256_castsi256_ps(_mm256_slli_epi32::<23>(biased)))
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
pub(in crate::engine) use x86::{Avx2, Avx512};

/// 8 lanes without intrinsics.
#[derive(Clone, Copy)]
pub(in crate::engine) struct Portable([f32; 8]);

impl Simd for Portable {
    const LANES: usize = 8;
    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        Portable([value; 8])
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller's pointer is valid for 8 elements; read_unaligned needs no alignment.
        Portable(unsafe { from.cast::<[f32; 8]>().read_unaligned() })
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: as in `load`.
        unsafe { to.cast::<[f32; 8]>().write_unaligned(self.0) }
    }
    #[inline(always)]
    unsafe fn stream(self, to: *mut f32) {
        // SAFETY: as in `load`.
        unsafe { self.store(to) }
    }
    #[inline(always)]
    unsafe fn mul_add(self, b: Self, c: Self) -> Self {
        Portable(std::array::from_fn(|i| {
            if cfg!(target_feature = "fma") || cfg!(target_arch = "aarch64") {
                self.0[i].mul_add(b.0[i], c.0[i])
            } else {
                self.0[i] * b.0[i] + c.0[i]
            }
        }))
    }
    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        Portable(std::array::from_fn(|i| self.0[i] + other.0[i]))
    }
    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        Portable(std::array::from_fn(|i| self.0[i] - other.0[i]))
    }
    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        Portable(std::array::from_fn(|i| self.0[i] * other.0[i]))
    }
    #[inline(always)]
    unsafe fn div(self, other: Self) -> Self {
        Portable(std::array::from_fn(|i| self.0[i] / other.0[i]))
    }
    #[inline(always)]
    unsafe fn at_least(self, limit: Self) -> Self {
        Portable(std::array::from_fn(|i| if self.0[i] < limit.0[i] { limit.0[i] } else { self.0[i] }))
    }
    #[inline(always)]
    unsafe fn abs(self) -> Self {
        Portable(self.0.map(f32::abs))
    }
    #[inline(always)]
    unsafe fn with_sign(self, sign: Self) -> Self {
        Portable(std::array::from_fn(|i| self.0[i].copysign(sign.0[i])))
    }
    #[inline(always)]
    unsafe fn select_less(self, limit: Self, then: Self, otherwise: Self) -> Self {
        Portable(std::array::from_fn(|i| if self.0[i] < limit.0[i] { then.0[i] } else { otherwise.0[i] }))
    }
    #[inline(always)]
    unsafe fn exp2(self) -> Self {
        Portable(self.0.map(|n| f32::from_bits(((n as i32 + 127) as u32) << 23)))
    }
}

/// Defines functions over vectors of a type `S`, compiled for each instruction set. The first argument of the defined function, which the
/// definition does not list, is the instruction set; the machine must have it.
macro_rules! for_each_vector {
    ($(
        $(#[$meta:meta])*
        $vis:vis unsafe fn $name:ident<$vector:ident>($($arg:ident: $type:ty),* $(,)?) $body:block
    )+) => {$(
        $(#[$meta])*
        #[allow(clippy::too_many_arguments, reason = "operands of one loop")]
        $vis unsafe fn $name(set: $crate::engine::cpu::InstructionSet, $($arg: $type),*) {
            #[cfg(target_arch = "x86_64")]
            use $crate::engine::cpu::{Avx2, Avx512};
            use $crate::engine::cpu::{Portable, Simd};

            #[inline(always)]
            unsafe fn body<$vector: Simd>($($arg: $type),*) $body

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx2,fma")]
            unsafe fn avx512($($arg: $type),*) {
                // SAFETY: the caller's promise; the instruction set is enabled here.
                unsafe { body::<Avx512>($($arg),*) }
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            unsafe fn avx2($($arg: $type),*) {
                // SAFETY: as above.
                unsafe { body::<Avx2>($($arg),*) }
            }
            // SAFETY: the caller's promise.
            unsafe {
                match set {
                    #[cfg(target_arch = "x86_64")]
                    $crate::engine::cpu::InstructionSet::Avx512 => avx512($($arg),*),
                    #[cfg(target_arch = "x86_64")]
                    $crate::engine::cpu::InstructionSet::Avx2 => avx2($($arg),*),
                    #[cfg(not(target_arch = "x86_64"))]
                    $crate::engine::cpu::InstructionSet::Avx2 | $crate::engine::cpu::InstructionSet::Avx512 => unreachable!("not detected"),
                    $crate::engine::cpu::InstructionSet::Portable => body::<Portable>($($arg),*),
                }
            }
        }
    )+};
}
pub(in crate::engine) use for_each_vector;
