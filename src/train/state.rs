//! Saves and restores what a run needs to continue bit for bit: weights, state of the optimiser, latent states,
//! remembered embeddings, centres, position.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::Trainer;
use super::trainer::Remembered;
use crate::Result;
use crate::engine::latent_state::LatentStates;
use crate::engine::store::Store;
use crate::io::checkpoint::{self, Tensor};
use crate::model::{
    MODEL_FILE, MOST, MemoryHeader, ModelHeader, Record, Saved, TRAINING_FILE, TrainingHeader, bad, checkpoints,
    read_header, restore_latent_states,
};

/// Prefix of the running statistics that training continues with, if the model file holds moving averages.
const TRAINED: &str = "trained.";
/// All parameters that training continues with, as one tensor.
const TRAINED_VALUES: &str = "trained.values";

/// Returns the name of the remembered embeddings number `index`: a network may have several embeddings of an image.
fn memory_name(index: usize) -> String {
    format!("memory.{index}")
}

/// Returns the name of the centres of the embeddings number `index`.
fn centers_name(index: usize) -> String {
    format!("centers.{index}")
}

/// The classes of a model, for its header.
#[derive(Clone, Copy, Debug)]
pub struct ModelInfo<'a> {
    /// Number of classes or identities.
    pub classes: usize,
    /// Their names by label.
    pub class_names: &'a [String],
}

impl ModelInfo<'_> {
    /// Returns the info for labels with these names.
    pub fn of(class_names: &[String]) -> ModelInfo<'_> {
        ModelInfo { classes: class_names.len(), class_names }
    }
}

/// Writes the checkpoint for the step of `record` into the folder of checkpoints `folder`, and returns its path. The model file holds
/// the moving average of the weights, if there is one.
///
/// Of several processes, rank 0 writes, and the others wait for it.
///
/// # Errors
/// The disk is full or not writable, or the device was lost. Existing checkpoints are not touched.
pub fn save(folder: &Path, trainer: &mut Trainer, info: ModelInfo<'_>, record: &Record) -> Result<PathBuf> {
    trainer.fetch()?;
    // In one process the trainer's own states are written, without a copy.
    let gathered = if trainer.ranks.has_others() { Some(trainer.states.gathered()?.into_owned()) } else { None };
    let name = checkpoints::name(record.position.step);
    let path = if trainer.ranks.is_first() {
        place(folder, &name, trainer, gathered.as_ref(), info, record)?
    } else {
        folder.join(name)
    };
    trainer.ranks.barrier();
    Ok(path)
}

/// Writes the checkpoint `name`. `gathered` are the latent states of all ranks, where there are several.
fn place(
    folder: &Path,
    name: &str,
    trainer: &mut Trainer,
    gathered: Option<&LatentStates>,
    info: ModelInfo<'_>,
    record: &Record,
) -> Result<PathBuf> {
    let remembered = trainer.remembered()?.filter(|memory| !memory.labels.is_empty());
    let centers = trainer.centers()?;
    checkpoints::place(folder, name, |folder| {
        write_files(folder, trainer, gathered, remembered.as_ref(), &centers, info)?;
        record.write(folder)
    })
}

/// Writes the model file and the training file of a checkpoint.
fn write_files(
    folder: &Path,
    trainer: &mut Trainer,
    gathered: Option<&LatentStates>,
    remembered: Option<&Remembered>,
    centers: &[Vec<f32>],
    info: ModelInfo<'_>,
) -> Result<()> {
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
        // The weights that training continues with.
        let store = &trainer.store;
        tensors.push(Tensor::f32(TRAINED_VALUES, &[store.values.len()], &store.values[..]));
        for buffer in &store.buffers {
            tensors.push(Tensor::f32(format!("{TRAINED}{}", buffer.name), &[buffer.values.len()], &buffer.values[..]));
        }
    }
    for (name, values) in trainer.optimizer.state() {
        tensors.push(Tensor::f32(format!("optimizer.{name}"), &[values.len()], values));
    }
    let states = gathered.unwrap_or(&trainer.states);
    for (name, shape, values) in states.export(trainer.state_decls()) {
        tensors.push(Tensor::f32(name, &shape, values));
    }
    for (i, values) in remembered.iter().flat_map(|memory| memory.features.iter().enumerate()) {
        let held = remembered.map_or(0, |memory| memory.labels.len());
        tensors.push(Tensor::f32(memory_name(i), &[held, values.len() / held], &values[..]));
    }
    for (i, (values, size)) in centers.iter().zip(trainer.center_sizes()).enumerate() {
        tensors.push(Tensor::f32(centers_name(i), &size, &values[..]));
    }
    let (state_resets, optimizer_steps) = (states.resets(), trainer.optimizer.steps());
    let state_collected = states.collected().to_vec();
    let memory = remembered.map(|memory| MemoryHeader { labels: memory.labels.clone(), added: memory.added });
    let header = TrainingHeader { position: None, state_resets, state_collected, optimizer_steps, memory };
    let header = serde_json::to_string(&header).expect("numbers are plain data");
    checkpoint::write(&folder.join(TRAINING_FILE), &tensors, HashMap::from([("ptl".to_string(), header)]))
}

/// Restores `trainer` from `saved`. The trainer must have been built with the same settings.
///
/// # Errors
/// The checkpoint is broken or of another model.
pub fn restore(saved: &Saved, trainer: &mut Trainer) -> Result<()> {
    let Saved { model, training, .. } = saved;
    // If there is a moving average, the model file holds it, and the training file the weights themselves.
    checkpoint::load_exact(&mut trainer.store, model, None)?;
    trainer.start_average();
    let header: TrainingHeader = read_header(training.path(), &training.metadata)?;
    if training.shape(TRAINED_VALUES).is_some() {
        let Store { values, buffers, .. } = &mut trainer.store;
        *values = same_length(training, TRAINED_VALUES, values.len())?.into();
        for buffer in buffers {
            let name = format!("{TRAINED}{}", buffer.name);
            buffer.values = same_length(training, &name, buffer.values.len())?.into();
        }
    }
    let names: Vec<&str> = trainer.optimizer.state().map(|(name, _)| name).collect();
    let values = names.iter().map(|name| training.finite(&format!("optimizer.{name}"))).collect::<Result<Vec<_>>>()?;
    let state: Vec<(&str, &[f32])> = names.into_iter().zip(values.iter().map(Vec::as_slice)).collect();
    if header.optimizer_steps.max(header.state_resets) > MOST {
        return Err(bad(training.path(), "it counts steps that no run can have done".into()));
    }
    trainer.optimizer.restore(header.optimizer_steps, &state)?;
    restore_latent_states(training, trainer.state_decls().to_vec(), &mut trainer.states)?;
    trainer.states.set_resets(header.state_resets);
    restore_centers(training, trainer)?;
    restore_memory(training, header.memory.unwrap_or_default(), trainer)
}

/// Restores the centres of the centre loss. Those of a run that had no such loss before stay where they start from.
fn restore_centers(training: &checkpoint::File, trainer: &mut Trainer) -> Result<()> {
    let sizes = trainer.center_sizes();
    if training.shape(&centers_name(0)).is_none() {
        return Ok(());
    }
    let read = |(i, [classes, dim]): (usize, [usize; 2])| same_length(training, &centers_name(i), classes * dim);
    let content: Vec<Vec<f32>> = sizes.into_iter().enumerate().map(read).collect::<Result<_>>()?;
    trainer.restore_centers(&content)
}

/// Restores the embeddings that the triplet loss remembers, if it does.
fn restore_memory(training: &checkpoint::File, memory: MemoryHeader, trainer: &mut Trainer) -> Result<()> {
    let Some((places, dims)) = trainer.memory_size() else { return Ok(()) };
    let MemoryHeader { labels, added } = memory;
    if added > MOST || labels.len() as u64 != added.min(places as u64) {
        let reason = format!("it has {} of {added} embeddings, in a memory of {places}", labels.len());
        return Err(bad(training.path(), reason));
    }
    let mut features = Vec::new();
    if !labels.is_empty() {
        for (i, dim) in dims.into_iter().enumerate() {
            features.push(same_length(training, &memory_name(i), labels.len() * dim)?);
        }
    }
    trainer.remember(Remembered { labels, added, features })
}

/// Reads a tensor of `len` numbers.
fn same_length(file: &checkpoint::File, name: &str, len: usize) -> Result<Vec<f32>> {
    let values = file.finite(name)?;
    if values.len() != len {
        return Err(bad(file.path(), format!("{name} has {} numbers, the model {len}", values.len())));
    }
    Ok(values)
}
