//! What a run needs to continue bit for bit, written and restored: weights, optimiser state, latent states, and the place in the data.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::Trainer;
use crate::Result;
use crate::engine::store::Store;
use crate::io::checkpoint::{self, Tensor};
use crate::model::{
    MODEL_FILE, MOST, ModelHeader, Record, Saved, TRAINING_FILE, TrainingHeader, bad, checkpoints, read_header,
    restore_latent_states,
};

/// Prefix of the weights that training goes on with, where the model's are their moving average; `values` in one piece.
const TRAINED: &str = "trained.";
const TRAINED_VALUES: &str = "trained.values";

/// What a checkpoint says of the classes.
#[derive(Clone, Copy, Debug)]
pub struct ModelInfo<'a> {
    pub classes: usize,
    pub class_names: &'a [String],
}

impl ModelInfo<'_> {
    /// For labels with these names.
    pub fn of(class_names: &[String]) -> ModelInfo<'_> {
        ModelInfo { classes: class_names.len(), class_names }
    }
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
    let header = TrainingHeader { position: None, state_resets, optimizer_steps };
    let header = serde_json::to_string(&header).expect("numbers are plain data");
    checkpoint::write(&folder.join(TRAINING_FILE), &tensors, HashMap::from([("ptl".to_string(), header)]))
}

/// Restores a trainer that was built with the same settings as that of `saved`.
///
/// # Errors
/// The checkpoint is broken or of another model.
pub fn restore(saved: &Saved, trainer: &mut Trainer) -> Result<()> {
    let Saved { model, training, .. } = saved;
    // Of a run with a moving average: that.
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
    Ok(())
}

fn same_length(file: &checkpoint::File, name: &str, len: usize) -> Result<Vec<f32>> {
    let values = file.finite(name)?;
    if values.len() != len {
        return Err(bad(file.path(), format!("{name} has {} numbers, the model {len}", values.len())));
    }
    Ok(values)
}
