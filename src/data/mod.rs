//! Data sets, augmentation, sampling, loading, and the synthetic pedestrians.
