//! The profile of a step on the CPU: what takes the time, and how near it is to what the machine can do.

mod machine;
mod measure;
mod report;

pub(super) use machine::Machine;
pub(super) use measure::{LR, evaluation, generated, training};
use measure::{Piece, Profile};
pub(super) use report::{steps, table, to_json};
