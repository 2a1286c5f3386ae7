//! What a run needs to continue bit for bit: weights, optimiser state, latent states, and the place in the data.
//!
//! A checkpoint is a folder: `model.safetensors` (torch's names, for use elsewhere) and `training.safetensors` (the rest). It
//! is written beside its final place and renamed, so a run that dies while writing keeps its last good one.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::Trainer;
use crate::checkpoint::{self, Tensor};
use crate::config::Config;
use crate::error::IoContext;
use crate::graph::{StateDecl, StateId};
use crate::latent_state::LatentStates;
use crate::store::Store;
use crate::{Error, Result};

/// Weights, under torch's names.
pub const MODEL_FILE: &str = "model.safetensors";
/// Everything else.
pub const TRAINING_FILE: &str = "training.safetensors";
/// The checkpoint of the best evaluation, where the run looks for one (`--patience`).
pub const BEST: &str = "best";

/// Prefix of the weights that training goes on with, where the model's are their moving average; `values` in one piece.
const TRAINED: &str = "trained.";
const TRAINED_VALUES: &str = "trained.values";

/// Where a run stands: the next batch to be trained.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Position {
    /// 0-based.
    pub epoch: usize,
    /// Batches of this epoch that are done.
    pub batch: usize,
    /// Updates of the weights in all.
    pub step: u64,
    /// Batches of a whole epoch.
    pub batches: usize,
    /// The best evaluation so far, where the run looks for one.
    #[serde(default)]
    pub best: Option<Best>,
}

/// The best evaluation of a run.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Best {
    pub score: f64,
    /// Epochs that were done.
    pub epoch: usize,
    /// Later evaluations, none of which was better.
    pub evaluations_since: usize,
}

#[derive(Serialize, Deserialize)]
struct Header {
    position: Position,
    state_resets: u64,
    optimizer_steps: u64,
}

/// What a model file says of itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ModelHeader {
    /// Number of training identities, or classes.
    pub classes: usize,
    /// Names of the classes; empty for identities.
    #[serde(default)]
    pub class_names: Vec<String>,
    /// The run's settings.
    pub config: Config,
}

/// What a checkpoint says of the classes.
#[derive(Clone, Copy, Debug)]
pub struct ModelInfo<'a> {
    pub classes: usize,
    /// Empty for identities.
    pub class_names: &'a [String],
}

/// Writes checkpoint `name` into `folder` (of checkpoints). The model is the moving average of the weights, where there is one.
///
/// # Errors
/// The disk is full or not writable: nothing that was there before is touched.
pub fn save(
    folder: &Path,
    name: &str,
    trainer: &mut Trainer,
    info: ModelInfo<'_>,
    position: Position,
) -> Result<PathBuf> {
    let temporary = folder.join(format!(".{name}.tmp"));
    let target = folder.join(name);
    if temporary.exists() {
        fs::remove_dir_all(&temporary).at("remove", &temporary)?;
    }
    fs::create_dir_all(&temporary).at("create", &temporary)?;
    let written = write_files(&temporary, trainer, info, position);
    if let Err(error) = written {
        // Frees the space again; the error that matters is the first one.
        let _ = fs::remove_dir_all(&temporary);
        return Err(error);
    }
    // One of that name steps aside until the new one is in its place.
    let old = folder.join(format!(".{name}.old"));
    if old.exists() {
        fs::remove_dir_all(&old).at("remove", &old)?;
    }
    if target.exists() {
        fs::rename(&target, &old).at("create", &old)?;
    }
    fs::rename(&temporary, &target).at("create", &target)?;
    if old.exists() {
        fs::remove_dir_all(&old).at("remove", &old)?;
    }
    Ok(target)
}

fn write_files(folder: &Path, trainer: &mut Trainer, info: ModelInfo<'_>, position: Position) -> Result<()> {
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
    let header = Header { position, state_resets: trainer.states.resets(), optimizer_steps: trainer.optimizer.steps() };
    let header = serde_json::to_string(&header).expect("numbers are plain data");
    checkpoint::write(&folder.join(TRAINING_FILE), &tensors, HashMap::from([("ptl".to_string(), header)]))
}

/// Restores a trainer that was built with the same settings.
///
/// # Errors
/// The checkpoint is broken or of another model.
pub fn restore(folder: &Path, trainer: &mut Trainer) -> Result<Position> {
    let model = checkpoint::File::open(&folder.join(MODEL_FILE))?;
    // Of a run with a moving average: that.
    checkpoint::load_exact(&mut trainer.store, &model, None)?;
    trainer.start_average();
    let path = folder.join(TRAINING_FILE);
    let file = checkpoint::File::open(&path)?;
    let header: Header = read_header(&path, &file.metadata)?;
    if file.shape(TRAINED_VALUES).is_some() {
        let Store { values, buffers, .. } = &mut trainer.store;
        *values = same_length(&file, TRAINED_VALUES, values.len())?.into();
        for buffer in buffers {
            let name = format!("{TRAINED}{}", buffer.name);
            buffer.values = same_length(&file, &name, buffer.values.len())?.into();
        }
    }
    let names: Vec<&str> = trainer.optimizer.state().map(|(name, _)| name).collect();
    let values = names.iter().map(|name| file.finite(&format!("optimizer.{name}"))).collect::<Result<Vec<_>>>()?;
    let state: Vec<(&str, &[f32])> = names.into_iter().zip(values.iter().map(Vec::as_slice)).collect();
    trainer.optimizer.restore(header.optimizer_steps, &state)?;
    restore_latent_states(&file, trainer.state_decls().to_vec(), &mut trainer.states)?;
    trainer.states.set_resets(header.state_resets);
    Ok(header.position)
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
    read_header(path, &file.metadata)
}

fn read_header<T: for<'de> Deserialize<'de>>(path: &Path, metadata: &HashMap<String, String>) -> Result<T> {
    let Some(text) = metadata.get("ptl") else {
        return Err(bad(
            path,
            "it was not written by ptl-train: give the model's settings and load it with --init".into(),
        ));
    };
    serde_json::from_str(text).map_err(|e| bad(path, format!("its description cannot be read ({e})")))
}

fn bad(path: &Path, reason: String) -> Error {
    Error::Checkpoint { path: path.to_path_buf(), reason }
}

/// The newest checkpoint in `folder`, by steps: names are `step-N`.
pub fn newest(folder: &Path) -> Option<PathBuf> {
    checkpoints(folder).pop().map(|(_, path)| path)
}

/// Removes checkpoint `name`, if it is there.
///
/// # Errors
/// It cannot be removed.
pub fn discard(folder: &Path, name: &str) -> Result<()> {
    let path = folder.join(name);
    if path.exists() { fs::remove_dir_all(&path).at("remove", &path) } else { Ok(()) }
}

/// Removes all but the newest `keep` checkpoints.
///
/// # Errors
/// One cannot be removed.
pub fn prune(folder: &Path, keep: usize) -> Result<()> {
    let all = checkpoints(folder);
    for (_, path) in &all[..all.len().saturating_sub(keep)] {
        fs::remove_dir_all(path).at("remove", path)?;
    }
    Ok(())
}

/// Checkpoints by ascending step.
fn checkpoints(folder: &Path) -> Vec<(u64, PathBuf)> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut found: Vec<(u64, PathBuf)> = entries
        .flatten()
        .filter_map(|e| Some((e.file_name().to_str()?.strip_prefix("step-")?.parse().ok()?, e.path())))
        .collect();
    found.sort();
    found
}
