//! A checkpoint: a folder of `model.safetensors` (torch's names, for use elsewhere), `training.safetensors` (what else is made of
//! tensors) and `record.json` (what is done).

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::header::{MODEL_FILE, ModelHeader, bad, model_header, read_header};
use super::record::{Best, Position, RECORD_FILE, Record};
use crate::Result;
use crate::engine::graph::{StateDecl, StateId};
use crate::engine::latent_state::LatentStates;
use crate::io::checkpoint;

/// Everything but weights that is made of tensors.
pub const TRAINING_FILE: &str = "training.safetensors";

/// What a training file says beside its tensors.
#[derive(Serialize, Deserialize)]
pub(crate) struct TrainingHeader {
    /// Of earlier versions, which kept no [`Record`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub position: Option<OldPosition>,
    pub state_resets: u64,
    pub optimizer_steps: u64,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct OldPosition {
    #[serde(flatten)]
    position: Position,
    #[serde(default)]
    best: Option<Best>,
}

/// Whether all of a checkpoint is in `folder`: its files get their names when they are complete.
pub(super) fn is_whole(folder: &Path) -> bool {
    let has = |name| folder.join(name).is_file();
    let old = || {
        let training = checkpoint::File::open(&folder.join(TRAINING_FILE));
        training.and_then(|file| old_record(&file)).is_ok_and(|record| record.is_some())
    };
    has(MODEL_FILE) && has(TRAINING_FILE) && (has(RECORD_FILE) || old())
}

/// What a training file of an earlier version says of the run.
fn old_record(training: &checkpoint::File) -> Result<Option<Record>> {
    let header: TrainingHeader = read_header(training.path(), &training.metadata)?;
    let record = header.position.map(|OldPosition { position, best }| Record { position, best, ..Record::default() });
    if let Some(record) = &record {
        record.check().map_err(|reason| bad(training.path(), reason))?;
    }
    Ok(record)
}

/// A checkpoint that has been read, and not yet put into a trainer.
pub struct Saved {
    pub(crate) model: checkpoint::File,
    pub(crate) training: checkpoint::File,
    /// What the model says of itself.
    pub header: ModelHeader,
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

/// Fills `states` from the training file beside a model; a missing file leaves them empty.
///
/// # Errors
/// The file is broken.
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
/// The file is broken, or of a model with other slots.
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
    Ok(())
}
