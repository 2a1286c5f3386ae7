//! Formula numbers: an endless sequence u(key) in [-1, 1) that is easily computed, with equal results, in any programming language.

/// Computes the hash FNV-1a of 64 bits.
pub fn fnv1a64(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |h, byte| (h ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
}

/// Returns u(key): SplitMix64 from the hash of `salt:key`, its upper 24 bits scaled to [-1, 1); each number is exact in f32.
pub fn formula(salt: &str, key: &str) -> impl Iterator<Item = f64> + use<> {
    let mut state = fnv1a64(&format!("{salt}:{key}"));
    std::iter::repeat_with(move || {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^= z >> 31;
        (z >> 40) as f64 / 8_388_608.0 - 1.0
    })
}

/// Returns the first `n` numbers f32(shift + scale * u(key)), rounded once.
pub fn formula_tensor(salt: &str, key: &str, n: usize, shift: f64, scale: f64) -> Vec<f32> {
    formula(salt, key).take(n).map(|u| (shift + scale * u) as f32).collect()
}
