//! One file for each command. A command first checks settings and data, then creates its folder, then works.

mod ablate;
mod calibrate;
mod check;
mod compare;
mod compare_images;
mod compare_runs;
mod convert;
mod evaluate;
mod extract;
mod info;
mod predict;
mod profile;
mod rank;
mod report;
mod search;
mod selftest;
mod shared;
mod synth;
mod train;

pub(super) use ablate::ablate;
pub(super) use calibrate::calibrate;
pub(super) use check::check;
pub(super) use compare::{compare, demo};
pub(super) use compare_images::compare_images;
pub(super) use convert::convert;
pub(super) use evaluate::evaluate;
pub(super) use extract::extract;
pub(super) use info::info;
pub(super) use predict::predict;
pub(super) use profile::profile;
pub(super) use rank::rank;
pub(super) use search::search;
pub(super) use selftest::selftest;
pub(super) use synth::synth;
pub(super) use train::train;
