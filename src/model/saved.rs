//! The files of a checkpoint: `model.safetensors` (weights under PyTorch's names, for any program), `training.safetensors` (all other
//! tensors) and `record.json` (progress).

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::header::{MODEL_FILE, ModelHeader, bad, model_header, read_header};
use super::record::{Best, Position, RECORD_FILE, Record};
use crate::Result;
use crate::config::Config;
use crate::engine::graph::{Graph, Mode, StateDecl, StateId};
use crate::engine::latent_state::LatentStates;
use crate::engine::shape::Shape;
use crate::engine::store::Store;
use crate::io::checkpoint;
use crate::nn::Network;

/// File of a checkpoint that holds all tensors but the weights of the model: optimiser, latent states, and the
/// embeddings that the triplet loss remembers.
pub const TRAINING_FILE: &str = "training.safetensors";

/// The header of a training file.
#[derive(Serialize, Deserialize)]
pub(crate) struct TrainingHeader {
    /// Only in files of earlier versions, which have no [`Record`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub position: Option<OldPosition>,
    /// Number of resets of the latent states.
    pub state_resets: u64,
    /// How often each row of the latent states' memories was collected since the last reset; empty without memories.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub state_collected: Vec<u32>,
    /// Number of updates.
    pub optimizer_steps: u64,
    /// The memory of embeddings, if the run has one that is not empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<MemoryHeader>,
}

/// What the training file says about the embeddings that the triplet loss remembers. They are tensors of that file.
#[derive(Clone, Default, Serialize, Deserialize)]
pub(crate) struct MemoryHeader {
    /// The label of each embedding.
    pub labels: Vec<u32>,
    /// Number of embeddings that were added so far; all but the last ones were replaced.
    pub added: u64,
}

/// Position and best evaluation, as earlier versions stored them.
#[derive(Serialize, Deserialize)]
pub(crate) struct OldPosition {
    #[serde(flatten)]
    position: Position,
    #[serde(default)]
    best: Option<Best>,
}

/// Returns whether `folder` holds all files of a checkpoint. A file gets its name only when it is complete.
pub(super) fn is_whole(folder: &Path) -> bool {
    let has = |name| folder.join(name).is_file();
    let old = || {
        let training = checkpoint::File::open(&folder.join(TRAINING_FILE));
        training.and_then(|file| old_record(&file)).is_ok_and(|record| record.is_some())
    };
    has(MODEL_FILE) && has(TRAINING_FILE) && (has(RECORD_FILE) || old())
}

/// Reads the record from the training file of an earlier version.
fn old_record(training: &checkpoint::File) -> Result<Option<Record>> {
    let header: TrainingHeader = read_header(training.path(), &training.metadata)?;
    let record = header.position.map(|OldPosition { position, best }| Record { position, best, ..Record::default() });
    if let Some(record) = &record {
        record.check().map_err(|reason| bad(training.path(), reason))?;
    }
    Ok(record)
}

/// A checkpoint that has been read, but not yet restored into a trainer.
pub struct Saved {
    pub(crate) model: checkpoint::File,
    pub(crate) training: checkpoint::File,
    /// Header of the model file.
    pub header: ModelHeader,
    /// Progress of the run.
    pub record: Record,
}

impl Saved {
    /// Reads the checkpoint `folder`.
    ///
    /// # Errors
    /// A file is missing or broken.
    pub fn open(folder: &Path) -> Result<Saved> {
        let path = folder.join(MODEL_FILE);
        let model = checkpoint::File::open(&path)?;
        let header = model_header(&path, &model)?;
        let training = checkpoint::File::open(&folder.join(TRAINING_FILE))?;
        let record = match Record::read(folder)? {
            Some(record) => Some(record),
            None => old_record(&training)?,
        };
        let record = record.ok_or_else(|| bad(folder, format!("it has no {RECORD_FILE}")))?;
        Ok(Saved { model, training, header, record })
    }
}

/// Returns the latent states that `network` declares for the image size of `config`.
///
/// # Errors
/// The network cannot take this size.
pub(super) fn state_decls(network: &dyn Network, store: &Store, config: &Config) -> Result<Vec<StateDecl>> {
    let mut graph = Graph::new(Mode::Eval);
    let images = graph.input(Shape::new(1, config.model.height, config.model.image_width, 3));
    network.forward(&mut graph, store, images)?;
    Ok(graph.states().to_vec())
}

/// Fills `states`, which `decls` declare, from the training file next to the file `model`; leaves them empty if there is none.
///
/// # Errors
/// The file is broken, or its states have other shapes.
pub fn load_latent_states(model: &Path, decls: &[StateDecl], states: &mut LatentStates) -> Result<()> {
    let path = model.with_file_name(TRAINING_FILE);
    if path.exists() {
        restore_latent_states(&checkpoint::File::open(&path)?, decls.to_vec(), states)?;
    }
    Ok(())
}

/// Fills `states` from a training file.
///
/// # Errors
/// The file is broken, or its states have other shapes.
pub(crate) fn restore_latent_states(
    file: &checkpoint::File,
    decls: Vec<StateDecl>,
    states: &mut LatentStates,
) -> Result<()> {
    for (i, decl) in decls.iter().enumerate() {
        if let Some(shape) = file.shape(&decl.name) {
            let slot = decl.slot;
            if shape.len() != 4 || shape[1..] != [slot.h, slot.w, slot.c] {
                let reason = format!(
                    "{} has the shape {shape:?}, the model has slots of {}x{}x{}: keep the run's image size",
                    decl.name, slot.h, slot.w, slot.c
                );
                return Err(bad(file.path(), reason));
            }
            states.set_current(StateId::from_index(i), file.finite(&decl.name)?);
        }
    }
    let header: TrainingHeader = read_header(file.path(), &file.metadata)?;
    states.set_collected(header.state_collected);
    Ok(())
}
