//! Progressive Transfer Learning (PTL): fine-tune person re-identification models with BConv-Cells.
//!
//! image file → [`data`] (decode, resize, augment) → batch → session (forward, backward) → `optim` →
//! checkpoint → features → [`eval`] (CMC, mAP, mINP) → report.

pub mod checkpoint;
pub mod cli;
pub mod config;
pub mod convert;
pub mod cpu;
pub mod data;
pub mod device;
pub mod error;
pub mod eval;
pub mod graph;
pub mod input;
pub mod latent_state;
pub mod memory;
pub mod nn;
pub mod op;
pub mod optim;
mod pickle;
pub mod plan;
pub mod plot;
pub mod profile;
pub mod progress;
pub mod report;
pub mod rng;
pub mod run_dir;
pub mod schedule;
pub mod selftest;
pub mod session;
pub mod shape;
pub mod stats;
pub mod stop;
pub mod store;
pub mod study;
pub mod text;
mod text_table;
pub mod train;

pub use error::{Error, Result};
