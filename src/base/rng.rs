//! Counter-based random numbers: a stream is a pure function of (seed, purpose, epoch, item), so a run does not depend on the number of
//! threads, and can be resumed anywhere without storing the state of a generator.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

/// What a stream is used for; different purposes have different random numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Purpose {
    /// Initial values of parameters.
    Init = 1,
    /// Which images form which batch.
    Sampler = 2,
    /// Shift, mirroring and erasing of training images.
    Augment = 3,
    /// Initial values of latent states.
    LatentState = 4,
    /// In which order slots get the states of others.
    StateOrder = 7,
    /// Images of generated data sets.
    Synth = 5,
    /// Numbers of tests, self-tests, profiles and benches.
    Test = 6,
    /// Gallery images of the single-shot protocol.
    SingleShot = 16,
    /// Random crops that are resized.
    Crop = 18,
    /// Changes of colour.
    Colour = 19,
    /// Mixing of the images of a batch: Mixup and CutMix.
    Mix = 20,
    /// Resamples of the bootstrap.
    Bootstrap = 24,
    /// Which images of a class are held out.
    Split = 17,
    /// Which identities are held out, and which of their images are queries.
    HeldOutIds = 21,
}

/// Returns the generator of one stream. `epoch` and `item` number the streams of a purpose, for example by epoch and sample.
pub fn stream(seed: u64, purpose: Purpose, epoch: u64, item: u64) -> ChaCha8Rng {
    let mut key = [0u8; 32];
    for (chunk, word) in key.chunks_exact_mut(8).zip([seed, purpose as u64, epoch, item]) {
        chunk.copy_from_slice(&word.to_le_bytes());
    }
    ChaCha8Rng::from_seed(key)
}
