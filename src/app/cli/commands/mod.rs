//! One file for each command. A command first checks settings and data, then creates its folder, then works.

mod ablate;
mod compare;
mod compare_runs;
mod convert;
mod evaluate;
mod extract;
mod info;
mod predict;
mod rank;
mod report;
mod selftest;
mod shared;
mod synth;
mod train;

pub use ablate::ablate;
pub use compare::{compare, demo};
pub use convert::convert;
pub use evaluate::evaluate;
pub use extract::extract;
pub use info::info;
pub use predict::predict;
pub use rank::rank;
pub use selftest::selftest;
pub use synth::synth;
pub use train::train;
