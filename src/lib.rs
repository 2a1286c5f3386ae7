//! Progressive Transfer Learning (PTL): fine-tune person re-identification models with BConv-Cells.
//!
//! image file → [`data`] (decode, resize, augment) → batch → session (forward, backward) → `optim` →
//! checkpoint → features → [`eval`] (CMC, mAP, mINP) → report.

pub mod app;
pub mod base;
pub mod config;
pub mod data;
pub mod engine;
pub mod eval;
pub mod io;
pub mod model;
pub mod nn;
pub mod run_dir;
pub mod study;
pub mod train;

pub use base::error::{Error, Result};
