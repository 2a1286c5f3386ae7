//! What every layer stands on: errors, text, memory, random numbers, reports.

pub mod atomic;
pub mod csv_out;
pub mod error;
pub mod input;
pub mod memory;
pub mod placeholder;
pub mod plot;
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
