//! Training: a step ([`Trainer`]), the loop over epochs ([`run()`]), and what a checkpoint holds ([`state`]).

pub mod curves;
mod recorded;
mod run;
pub mod state;
mod trainer;

pub use run::{Job, Outcome, Start, run};
pub use trainer::{StepReport, Trainer, network_config};
