//! What a run needs to continue bit for bit: weights, optimiser state, latent states, and the place in the data.
//!
//! A checkpoint is a folder: `model.safetensors` (torch's names, for use elsewhere), `training.safetensors` (what else is made of
//! tensors) and `record.json` (what is done).

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub use super::checkpoints::{newest, newest_or_best};
pub use super::record::{Best, Position, RECORD_FILE, Record};
use super::{Trainer, checkpoints, record};
use crate::checkpoint::{self, Tensor};
use crate::config::Config;
use crate::graph::{StateDecl, StateId};
use crate::latent_state::LatentStates;
use crate::store::Store;
use crate::text::shortened;
use crate::{Error, Result};

/// Weights, under torch's names.
pub const MODEL_FILE: &str = "model.safetensors";
/// Everything else that is made of tensors.
pub const TRAINING_FILE: &str = "training.safetensors";

/// Prefix of the weights that training goes on with, where the model's are their moving average; `values` in one piece.
const TRAINED: &str = "trained.";
const TRAINED_VALUES: &str = "trained.values";

#[derive(Serialize, Deserialize)]
struct Header {
    /// Of earlier versions, which kept no [`Record`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    position: Option<OldPosition>,
    state_resets: u64,
    optimizer_steps: u64,
}

#[derive(Serialize, Deserialize)]
struct OldPosition {
    #[serde(flatten)]
    position: Position,
    #[serde(default)]
    best: Option<Best>,
}

/// What a model file says of itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ModelHeader {
    /// Number of training identities, or classes.
    pub classes: usize,
    /// Names of the classes or identities by label; earlier versions stored no identities.
    #[serde(default)]
    pub class_names: Vec<String>,
    /// The run's settings.
    pub config: Config,
}

impl ModelHeader {
    /// Whether its labels have these names, as far as it says.
    pub fn names_fit(&self, names: &[String]) -> bool {
        self.class_names.is_empty() || self.class_names == names
    }
}

/// What a checkpoint says of the classes.
#[derive(Clone, Copy, Debug)]
pub struct ModelInfo<'a> {
    pub classes: usize,
    pub class_names: &'a [String],
}

/// Writes the checkpoint of the step that `record` stands at into `folder` (of checkpoints). The model is the moving average of the
/// weights, where there is one.
///
/// # Errors
/// The disk is full or not writable, or the device was lost: nothing that was there before is touched.
pub fn save(folder: &Path, trainer: &mut Trainer, info: ModelInfo<'_>, record: &Record) -> Result<PathBuf> {
    trainer.fetch()?;
    checkpoints::place(folder, &checkpoints::name(record.position.step), |folder| {
        write_files(folder, trainer, info)?;
        record.write(folder)
    })
}

fn write_files(folder: &Path, trainer: &mut Trainer, info: ModelInfo<'_>) -> Result<()> {
    let ModelInfo { classes, class_names } = info;
    let header = ModelHeader { classes, class_names: class_names.to_vec(), config: trainer.config().clone() };
    let metadata = HashMap::from([
        ("format".to_string(), "pt".to_string()),
        ("ptl".to_string(), serde_json::to_string(&header).expect("settings are plain data")),
    ]);
    trainer.swap_average();
    let written = checkpoint::write(&folder.join(MODEL_FILE), &checkpoint::state_dict(&trainer.store), metadata);
    trainer.swap_average();
    written?;

    let mut tensors = Vec::new();
    if trainer.averages() {
        // What training goes on with.
        let store = &trainer.store;
        tensors.push(Tensor::f32(TRAINED_VALUES, &[store.values.len()], store.values.to_vec()));
        for buffer in &store.buffers {
            tensors.push(Tensor::f32(
                format!("{TRAINED}{}", buffer.name),
                &[buffer.values.len()],
                buffer.values.to_vec(),
            ));
        }
    }
    for (name, values) in trainer.optimizer.state() {
        tensors.push(Tensor::f32(format!("optimizer.{name}"), &[values.len()], values.to_vec()));
    }
    for (name, shape, values) in trainer.states.export(trainer.state_decls()) {
        tensors.push(Tensor::f32(name, &shape, values.to_vec()));
    }
    let (state_resets, optimizer_steps) = (trainer.states.resets(), trainer.optimizer.steps());
    let header = Header { position: None, state_resets, optimizer_steps };
    let header = serde_json::to_string(&header).expect("numbers are plain data");
    checkpoint::write(&folder.join(TRAINING_FILE), &tensors, HashMap::from([("ptl".to_string(), header)]))
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
    let header: Header = read_header(training.path(), &training.metadata)?;
    let record = header.position.map(|OldPosition { position, best }| Record { position, best, ..Record::default() });
    if let Some(record) = &record {
        record.check().map_err(|reason| bad(training.path(), reason))?;
    }
    Ok(record)
}

/// A checkpoint that has been read, and not yet put into a trainer.
pub struct Saved {
    model: checkpoint::File,
    training: checkpoint::File,
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

    /// Restores a trainer that was built with the same settings.
    ///
    /// # Errors
    /// The checkpoint is broken or of another model.
    pub fn restore(&self, trainer: &mut Trainer) -> Result<()> {
        let Saved { model, training, .. } = self;
        // Of a run with a moving average: that.
        checkpoint::load_exact(&mut trainer.store, model, None)?;
        trainer.start_average();
        let header: Header = read_header(training.path(), &training.metadata)?;
        if training.shape(TRAINED_VALUES).is_some() {
            let Store { values, buffers, .. } = &mut trainer.store;
            *values = same_length(training, TRAINED_VALUES, values.len())?.into();
            for buffer in buffers {
                let name = format!("{TRAINED}{}", buffer.name);
                buffer.values = same_length(training, &name, buffer.values.len())?.into();
            }
        }
        let names: Vec<&str> = trainer.optimizer.state().map(|(name, _)| name).collect();
        let values =
            names.iter().map(|name| training.finite(&format!("optimizer.{name}"))).collect::<Result<Vec<_>>>()?;
        let state: Vec<(&str, &[f32])> = names.into_iter().zip(values.iter().map(Vec::as_slice)).collect();
        if header.optimizer_steps.max(header.state_resets) > record::MOST {
            return Err(bad(training.path(), "it counts steps that no run can have done".into()));
        }
        trainer.optimizer.restore(header.optimizer_steps, &state)?;
        restore_latent_states(training, trainer.state_decls().to_vec(), &mut trainer.states)?;
        trainer.states.set_resets(header.state_resets);
        Ok(())
    }
}

fn same_length(file: &checkpoint::File, name: &str, len: usize) -> Result<Vec<f32>> {
    let values = file.finite(name)?;
    if values.len() != len {
        return Err(bad(file.path(), format!("{name} has {} numbers, the model {len}", values.len())));
    }
    Ok(values)
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

fn restore_latent_states(file: &checkpoint::File, decls: Vec<StateDecl>, states: &mut LatentStates) -> Result<()> {
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

/// Whether the file says of itself what it is; files from elsewhere do not.
pub fn has_header(file: &checkpoint::File) -> bool {
    file.metadata.contains_key("ptl")
}

/// Reads what a model file says of itself.
///
/// # Errors
/// The file was not written by this program.
pub fn model_header(path: &Path, file: &checkpoint::File) -> Result<ModelHeader> {
    let header: ModelHeader = read_header(path, &file.metadata)?;
    header.config.not_finite().map_err(|reason| bad(path, format!("its description cannot be used: {reason}")))?;
    Ok(header)
}

fn read_header<T: for<'de> Deserialize<'de>>(path: &Path, metadata: &HashMap<String, String>) -> Result<T> {
    let Some(text) = metadata.get("ptl") else {
        return Err(bad(
            path,
            "it was not written by ptl-train: give the model's settings and load it with --init".into(),
        ));
    };
    serde_json::from_str(text)
        .map_err(|e| bad(path, format!("its description cannot be read ({})", shortened(&e.to_string()))))
}

fn bad(path: &Path, reason: String) -> Error {
    Error::Checkpoint { path: path.to_path_buf(), reason }
}
