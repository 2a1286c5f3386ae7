//! The basis of all layers: errors, text, files, memory, random numbers, settings, reports.

pub mod atomic;
pub mod csv_out;
pub mod error;
pub mod input;
pub mod memory;
pub mod placeholder;
pub(crate) mod process;
pub mod profile;
pub mod progress;
pub mod report;
pub mod rng;
pub mod settings;
pub mod stats;
pub mod stop;
pub mod text;
pub(crate) mod text_table;
pub mod utc;
pub mod write_guard;
