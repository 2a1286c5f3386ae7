//! A model that was trained before: from a checkpoint, with the settings that it carries.

use std::path::{Path, PathBuf};

use crate::checkpoint::{self, LoadMode};
use crate::config::{Config, Overrides};
use crate::graph::{Graph, Mode};
use crate::latent_state::LatentStates;
use crate::nn::ReidModel;
use crate::run_dir::RunDir;
use crate::shape::Shape;
use crate::store::Store;
use crate::train::{model_config, state};
use crate::{Error, Result};

/// A network with its weights, the latent states of its training, and its settings.
pub struct TrainedModel {
    pub config: Config,
    pub model: ReidModel,
    pub store: Store,
    pub states: LatentStates,
    /// The data set of its training.
    pub trained_on: PathBuf,
}

impl TrainedModel {
    /// Loads what [`model_file`] finds at `path`; `flags` win over the settings that stand in the file.
    ///
    /// # Errors
    /// There is no checkpoint, it is broken or not from this program, or the flags make another network.
    pub fn open(path: &Path, flags: &Overrides) -> Result<TrainedModel> {
        let path = model_file(path)?;
        let file = checkpoint::File::open(&path)?;
        let header = state::model_header(&path, &file)?;
        let trained_on = header.config.data.root.clone();
        let config = Config::load(&header.config, None, flags)?;
        let mut store = Store::new();
        let model = ReidModel::new(&mut store, &model_config(&config, header.classes)?, config.seed)?;
        checkpoint::load(&mut store, &file, LoadMode::Exact, ReidModel::is_identity_head)?;
        let mut graph = Graph::new(Mode::Eval);
        let images = graph.input(Shape::new(config.eval.batch, config.model.height, config.model.image_width, 3));
        model.forward(&mut graph, &store, images)?;
        let mut states = LatentStates::new(config.ptl.state_init, config.seed);
        state::load_latent_states(&path, graph.states(), &mut states)?;
        Ok(TrainedModel { config, model, store, states, trained_on })
    }
}

/// The file of weights that `path` means: a file itself, a checkpoint's, or that of a run's newest checkpoint.
///
/// # Errors
/// There is none.
pub fn model_file(path: &Path) -> Result<PathBuf> {
    let reason = if path.is_file() {
        return Ok(path.into());
    } else if path.join(state::MODEL_FILE).is_file() {
        return Ok(path.join(state::MODEL_FILE));
    } else if !path.exists() {
        "there is nothing of that name".into()
    } else if let Ok(run) = RunDir::open(path) {
        match state::newest(&run.checkpoints()) {
            Some(newest) => return Ok(newest.join(state::MODEL_FILE)),
            None => "the run has no checkpoint yet".into(),
        }
    } else {
        format!("the folder is no run and has no {}", state::MODEL_FILE)
    };
    Err(Error::Checkpoint { path: path.into(), reason })
}
