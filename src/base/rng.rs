//! Counter-based random numbers: a stream is a pure function of (seed, purpose, epoch, item), so a run does not depend on the number of
//! threads, and can be resumed anywhere without storing the state of a generator.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

/// What a stream is used for; different purposes have different random numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Purpose {
    Init = 1,
    Sampler = 2,
    Augment = 3,
    LatentState = 4,
    Synth = 5,
    Test = 6,
    SingleShot = 16,
    Crop = 18,
    Colour = 19,
    Mix = 20,
    Bootstrap = 24,
    Split = 17,
}

/// Returns the generator for one item: `item` is the index of a sample, a parameter, an image ...
pub fn stream(seed: u64, purpose: Purpose, epoch: u64, item: u64) -> ChaCha8Rng {
    let mut key = [0u8; 32];
    for (chunk, word) in key.chunks_exact_mut(8).zip([seed, purpose as u64, epoch, item]) {
        chunk.copy_from_slice(&word.to_le_bytes());
    }
    ChaCha8Rng::from_seed(key)
}
