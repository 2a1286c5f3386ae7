//! Training: a step ([`Trainer`]), the loop over epochs ([`run()`]), and saving and restoring ([`state`]).

mod begin;
mod classify;
pub mod cost;
pub mod curves;
mod evaluation;
mod labels;
mod reid;
mod resume;
mod run;
pub mod state;
mod task;
mod trainer;
mod weights;

pub use classify::Classify;
pub use reid::Reid;
pub use run::{Job, Outcome, Start, run, run_ranks};
pub use task::{Report, Task};
pub use trainer::Trainer;
