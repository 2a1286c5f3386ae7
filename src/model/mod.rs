//! Trained models on disk: the files of a checkpoint, the best and the newest checkpoint of a run, and a network with its weights.

mod alike;
pub mod checkpoints;
pub(crate) mod cost;
mod header;
mod images;
mod record;
mod saved;
pub mod states;
mod trained;

pub(crate) use alike::check_alike;
pub use header::{MODEL_FILE, ModelHeader, model_header};

pub(crate) use header::has_header;
pub(crate) use header::{bad, read_header};
pub use images::TrainingImages;
pub(crate) use record::MOST;
pub use record::{Best, Position, RECORD_FILE, Record, StepReport, Sums};
pub(crate) use saved::{MemoryHeader, TrainingHeader, restore_latent_states};
pub use saved::{Saved, TRAINING_FILE, load_latent_states};
pub use trained::{TrainedModel, model_file};
