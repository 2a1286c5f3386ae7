//! What convolutions compute in.

use crate::base::settings::choice;

choice! {
    /// What convolutions, cells and fully connected layers compute in; weights, moments, statistics, latent states and losses are always f32.
    pub enum Precision {
        /// 32-bit arithmetic everywhere.
        #[default]
        F32 = "f32",
        /// On a GPU: activations in f32; products on tensor cores with 10-bit mantissas.
        Tf32 = "tf32",
        /// On a GPU: activations and products in bf16, sums in f32. On a CPU with dot products of bf16: activations in f32; the factors of
        /// convolutions that Winograd's method does not compute are rounded to bf16, sums are f32.
        Bf16 = "bf16",
    }
}
