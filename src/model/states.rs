//! The latent states of checkpoints: what they hold, and moving them to another model.

use std::collections::HashMap;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use super::header::{ModelHeader, bad, model_header, read_header};
use super::record::RECORD_FILE;
use super::saved::{TRAINING_FILE, TrainingHeader, restore_latent_states, state_decls};
use super::{MODEL_FILE, model_file};
use crate::base::error::IoContext;
use crate::base::text::Shown;
use crate::base::write_guard::WriteGuard;
use crate::engine::graph::StateDecl;
use crate::engine::latent_state::{StateForm, StateStatistics};
use crate::engine::store::Store;
use crate::io::checkpoint::{self, Tensor};
use crate::{Error, Result};

/// The latent states of a checkpoint.
pub struct StoredStates {
    /// The file that holds them.
    training: checkpoint::File,
    header: ModelHeader,
    progress: TrainingHeader,
    /// The states of the network, in order.
    decls: Vec<StateDecl>,
}

impl StoredStates {
    /// Opens the checkpoint, run or model file that [`model_file`] finds at `path`.
    ///
    /// # Errors
    /// There is none; it has no latent states; a file is broken.
    pub fn open(path: &Path) -> Result<StoredStates> {
        let model = model_file(path)?;
        let file = checkpoint::File::open(&model)?;
        let header = model_header(&model, &file)?;
        let mut store = Store::of_shapes();
        let network = header.config.network(header.classes)?.build(&mut store, 0)?;
        let decls = state_decls(&*network, &store, &header.config)?;
        if decls.is_empty() {
            let reason = format!("its network, {}, has no latent states", header.config.model.arch);
            return Err(bad(&model, reason));
        }
        let training = model.with_file_name(TRAINING_FILE);
        if !training.is_file() {
            return Err(bad(&model, format!("there is no {TRAINING_FILE} beside it, which would hold latent states")));
        }
        let training = checkpoint::File::open(&training)?;
        let progress = read_header(training.path(), &training.metadata)?;
        Ok(StoredStates { training, header, progress, decls })
    }

    /// Returns the folder of the checkpoint.
    pub fn folder(&self) -> &Path {
        self.training.path().parent().expect("a file is in a folder")
    }

    /// Returns the name of each cell, height, width and channels of its slots, and figures about its state.
    ///
    /// # Errors
    /// A tensor is broken or has another shape than the network's state.
    pub fn cells(&self) -> Result<Vec<(&str, [usize; 3], StateStatistics)>> {
        let mut states = self.header.config.latent_states(self.header.classes);
        restore_latent_states(&self.training, self.decls.clone(), &mut states)?;
        let cells = self.decls.iter().zip(states.statistics(&self.decls)?);
        Ok(cells.map(|(decl, state)| (&decl.name[..], [decl.slot.h, decl.slot.w, decl.slot.c], state)).collect())
    }

    fn form(&self) -> StateForm {
        self.header.config.ptl.state_form
    }
}

/// Writes the checkpoint `to` with the latent states of the checkpoint `from` into the new folder `out`. All else is that of `to`.
///
/// # Errors
/// The two differ in the cells, the shapes or the form of their states, or, where each identity has a state, in the identities; `from` has empty
/// states; `out` exists; [`Error::Io`].
pub fn transfer(from: &StoredStates, to: &StoredStates, out: &Path) -> Result<()> {
    let (there, here) = (from.folder().shown().to_string(), to.folder());
    let differ = |what: String| Err(bad(here, format!("{what}: its latent states cannot be those of {there}")));
    if from.form() != to.form() {
        return differ(format!("`ptl.state_form` is {}, there it is {}", to.form(), from.form()));
    }
    if from.decls != to.decls {
        let shapes = |states: &StoredStates| {
            let shape = |decl: &StateDecl| format!("{} {}x{}x{}", decl.name, decl.slot.h, decl.slot.w, decl.slot.c);
            states.decls.iter().map(shape).collect::<Vec<_>>().join(", ")
        };
        return differ(format!("it has the states {}, there are {}", shapes(to), shapes(from)));
    }
    if from.form() == StateForm::Class && from.header.class_names != to.header.class_names {
        return differ("it was trained on other identities, and each of them has a state".into());
    }
    if from.cells()?.iter().all(|(.., state)| state.slots == 0) {
        return Err(bad(from.folder(), "its latent states are empty, as after a reset".into()));
    }
    let mut tensors = Vec::new();
    for (states, is_state) in [(from, true), (to, false)] {
        for name in states.training.names() {
            if to.decls.iter().any(|decl| decl.name == name) == is_state {
                let shape = states.training.shape(&name).expect("a name of the file");
                tensors.push(Tensor::f32(name.clone(), &shape, states.training.f32(&name)?));
            }
        }
    }
    let header = TrainingHeader {
        position: None,
        state_resets: from.progress.state_resets,
        state_collected: from.progress.state_collected.clone(),
        optimizer_steps: to.progress.optimizer_steps,
        memory: to.progress.memory.clone(),
    };
    let header = serde_json::to_string(&header).expect("numbers are plain data");
    let _guard = WriteGuard::begin();
    if let Some(parent) = out.parent() {
        fs::create_dir_all(parent).at("create", parent)?;
    }
    match fs::create_dir(out) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            let (setting, value) = ("`out`".into(), out.shown().to_string());
            return Err(Error::Setting { setting, value, reason: "it exists already: choose another name".into() });
        }
        created => created.at("create", out)?,
    }
    let write = || {
        for file in [MODEL_FILE, RECORD_FILE] {
            let source = here.join(file);
            if source.is_file() {
                fs::copy(&source, out.join(file)).at("copy", &source)?;
            }
        }
        checkpoint::write(&out.join(TRAINING_FILE), &tensors, HashMap::from([("ptl".to_string(), header)]))
    };
    let written = write();
    if written.is_err() {
        // The first error is the one that matters.
        let _ = fs::remove_dir_all(out);
    }
    written
}
