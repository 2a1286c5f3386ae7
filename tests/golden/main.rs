//! Comparison with the golden data: results stored in float64 precision for every family of computations.
//!
//! The full set is read from the folder that the environment variable `PTL_GOLDEN` names; a small part of it lies in
//! `tests/fixtures/golden` and is checked on every machine. Files are picked by name pattern, and salt, sizes and
//! hyper-parameters come from the files, so another set of the same form can be run.

mod bconv;
mod ckpt;
#[path = "../common/mod.rs"]
mod common;
mod cuhk03;
mod engine;
mod eval;
mod formula;
mod ibn;
mod identity_losses;
mod layers;
mod losses;
mod networks;
mod optim;
mod osnet;
mod schedules;
mod states;
mod support;
mod transforms;
mod trees;
mod xbm;
