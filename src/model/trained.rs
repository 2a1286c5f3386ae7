//! A trained model: a network with its weights and settings, from a checkpoint or a file of another program.

use std::path::{Path, PathBuf};

use flate2::Crc;

use super::saved::state_decls;
use super::{MODEL_FILE, TRAINING_FILE, check_alike, checkpoints, cost, has_header, load_latent_states, model_header};
use crate::base::progress::Reporter;
use crate::base::stop::StopFlag;
use crate::base::text::Shown;
use crate::config::{Config, Overrides, Setting};
use crate::data::{DataOptions, DatasetKind};
use crate::engine::collective::Collective;
use crate::engine::device::{Device, DeviceOptions};
use crate::engine::latent_state::{EvalState, LatentStates};
use crate::engine::store::Store;
use crate::eval::Model;
use crate::eval::features_file::FeatureOrigin;
use crate::io::checkpoint::{self, Place, TensorNames};
use crate::nn::{DEFAULT_ARCH, Network};
use crate::run_dir::RunDir;
use crate::{Error, Result};

/// Settings that change features, beside those of the network. The device and its precision change them by rounding only.
const FEATURE_SETTINGS: [&str; 8] = [
    "model.height",
    "model.image_width",
    "augment.interpolation",
    "augment.crop",
    "data.exif_orientation",
    "eval.flip",
    "eval.crop_share",
    "ptl.eval_state",
];

/// A network with its weights, the latent states of its training, and its settings.
pub struct TrainedModel {
    /// Settings: those of the file, changed by flags.
    pub config: Config,
    /// The network.
    pub network: Box<dyn Network>,
    /// Parameters and running statistics.
    pub store: Store,
    /// Latent states at the end of its training.
    pub states: LatentStates,
    /// The device that computes.
    pub device: Device,
    /// The processes that share the images of an evaluation.
    pub ranks: Collective,
    /// The data set of its training; `None` if the file does not name it.
    pub trained_on: Option<String>,
    /// Settings of that data set.
    pub trained_data: Option<DataOptions>,
    /// Number of training identities, or classes.
    pub classes: usize,
    /// Names of the classes or identities; empty if the file has none.
    pub class_names: Vec<String>,
    /// A message about which of several dictionaries of weights was taken from the file; empty if the file has only one.
    choice: String,
}

impl TrainedModel {
    /// Loads the weights that [`model_file`] finds at `path`; `flags` override the settings in the file. A file of another program has
    /// no settings: `flags` describe the network, and its classifier gives the number of identities or classes.
    ///
    /// # Errors
    /// There is no checkpoint; it is broken or contradicts the flags; nothing names its network; a flag has no effect on it;
    /// [`Error::OutOfMemory`].
    pub fn open(path: &Path, flags: &Overrides) -> Result<TrainedModel> {
        TrainedModel::open_ranks(path, flags, &Collective::single())
    }

    /// Does as [`TrainedModel::open`] for one of several processes, which share the images of an evaluation.
    ///
    /// # Errors
    /// As there; [`Error::Ranks`] if the processes have different settings or weights.
    pub fn open_ranks(path: &Path, flags: &Overrides, ranks: &Collective) -> Result<TrainedModel> {
        let path = model_file(path)?;
        let file = checkpoint::File::open_dictionary(&path, flags.text("train.weights_dict"))?;
        let (about, place) = if has_header(&file) { (described(&file, flags)?, None) } else { foreign(&file, flags)? };
        let About { mut config, classes, class_names, trained_on, trained_data } = about;
        // A trained model is measured on the test of a data set, also where its training was on held-out identities.
        if !flags.has("data.val_ids") {
            config.data.val_ids = 0;
        }
        // How the images of the training tell identities does not hold for other data.
        if flags.has("data.root") {
            let given = config.data;
            let defaults = DataOptions::default();
            config.data = DataOptions {
                name_pattern: if flags.has("data.name_pattern") { given.name_pattern } else { defaults.name_pattern },
                same_camera: if flags.has("data.same_camera") { given.same_camera } else { defaults.same_camera },
                ..given
            };
        }
        flags.refuse_without_effect(&evaluation_settings(&config, flags), true)?;
        check_alike(ranks, &config)?;
        // A damaged header may describe a huge network, so it is compared with the tensors before anything is allocated.
        let mut store = Store::of_shapes();
        let network = config.network(classes).and_then(|network| network.build(&mut store, config.seed));
        let network = if place.is_none() { network.map_err(|error| of_header(&path, error))? } else { network? };
        let names: &dyn TensorNames = &*network;
        let foreign = place.as_ref().map(|place| (names, place));
        checkpoint::fits_exactly(&store, &file, foreign)?;
        let device = Device::open(&DeviceOptions { local_rank: ranks.local_rank(), ..config.device_options() })?;
        cost::ensure_evaluation(&config, classes, &device)?;
        store.allocate()?;
        checkpoint::load_exact(&mut store, &file, foreign)?;
        let decls = state_decls(&*network, &store, &config)?;
        let mut states = config.latent_states(classes);
        // A training file next to a file of another program does not belong to it.
        let loaded = match trained_on {
            Some(_) => load_latent_states(&path, &decls, &mut states),
            None => Ok(()),
        };
        // The states may not fit, for example if the image size was changed. Only an evaluation that starts from them needs them.
        if loaded.is_err() && config.ptl.eval_state != EvalState::Mean {
            states = config.latent_states(classes);
        } else {
            loaded?;
        }
        let choice = place.unwrap_or_default().choice(&file);
        let trained = TrainedModel {
            config,
            network,
            store,
            states,
            device,
            ranks: ranks.clone(),
            trained_on,
            trained_data,
            classes,
            class_names,
            choice,
        };
        if ranks.has_others()
            && let Some((rank, _)) = ranks.first_difference(&trained.feature_origin()?.weights)
        {
            let reason = format!("process {rank} has other weights than process 0: name the same checkpoint for all");
            return Err(Error::Ranks { reason });
        }
        Ok(trained)
    }

    /// Returns the model, ready for an evaluation with its settings.
    pub fn model<'a>(&'a mut self, reporter: &'a Reporter) -> Model<'a> {
        let TrainedModel { config, network, store, states, device, ranks, .. } = self;
        Model {
            network: &**network,
            store,
            states,
            options: config.inference(),
            device,
            ranks: ranks.clone(),
            reporter,
            stop: StopFlag::default(),
        }
    }

    /// Reports which dictionary of weights was taken, if the file has several.
    pub(crate) fn say_choice(&self, reporter: &Reporter) {
        if !self.choice.is_empty() {
            reporter.message(&format!("weights:{}", self.choice));
        }
    }

    /// Returns what the model's features are made by: its weights and the settings that change features.
    ///
    /// # Errors
    /// The device fails.
    pub fn feature_origin(&self) -> Result<FeatureOrigin> {
        let TrainedModel { config, store, states, .. } = self;
        store.fetch()?;
        let mut crc = Crc::new();
        let mut add = |values: &[f32]| crc.update(bytemuck::cast_slice(values));
        add(&store.values);
        store.buffers.iter().for_each(|buffer| add(&buffer.values));
        if config.ptl.eval_state == EvalState::Mean {
            states.fetch()?;
            states.held_values().for_each(add);
        }
        let is_drawn = config.ptl.eval_state == EvalState::Normal;
        let counts = |setting: &&Setting| {
            setting.is_of_network || FEATURE_SETTINGS.contains(&setting.path) || (is_drawn && setting.path == "seed")
        };
        let value = |setting: &'static Setting| (setting.path.to_string(), config.shown(setting));
        let settings = Config::settings().filter(counts).map(value).collect();
        Ok(FeatureOrigin { weights: format!("{:08x}", crc.sum()), settings })
    }

    /// Returns `trained on A, ` for messages, or an empty text if the data set is not known.
    pub fn origin(&self) -> String {
        self.trained_on.as_ref().map_or_else(String::new, |trained_on| format!("trained on {trained_on}, "))
    }
}

/// Returns the settings of an evaluation. The `data.kind` of the training does not apply to a folder that a flag names.
fn evaluation_settings(config: &Config, flags: &Overrides) -> Config {
    let mut config = config.clone();
    if flags.has("data.root") {
        if !flags.has("data.kind") {
            config.data.kind = DatasetKind::Auto;
        }
        config.data.target_kind = config.data.kind;
    }
    config
}

/// Settings and classes of a file of weights.
struct About {
    config: Config,
    classes: usize,
    class_names: Vec<String>,
    /// `None` for a file of another program.
    trained_on: Option<String>,
    trained_data: Option<DataOptions>,
}

/// Reads settings and classes from the header of a file.
fn described(file: &checkpoint::File, flags: &Overrides) -> Result<About> {
    let header = model_header(file.path(), file)?;
    // The settings of the device that trained the model do not apply here.
    let Config { device, precision, gpu, .. } = Config::default();
    let stored = Config { device, precision, gpu, ..header.config.clone() };
    stored.validate().map_err(|error| of_header(file.path(), error))?;
    // Other settings would be checked for the wrong task first.
    if let Some(task) = flags.text("task").filter(|task| *task != header.config.task.to_string()) {
        let reason = format!("the checkpoint was trained with {}: omit this flag", header.config.task);
        return Err(Error::Setting { setting: "task".into(), value: task.into(), reason });
    }
    let config = Config::load(&stored, None, flags)?;
    // A flag that changes no shape, such as a stride, would silently build another network from the same weights.
    let named = |setting: &Setting| setting.is_of_network && flags.has(setting.path);
    if let Some(setting) = config.first_difference(&header.config, named) {
        return Err(Error::Setting {
            setting: setting.path.into(),
            value: config.shown(setting),
            reason: format!("the checkpoint was trained with {}: omit this flag", header.config.said(setting)),
        });
    }
    let DataOptions { root, kind, .. } = &header.config.data;
    let root = root.shown();
    let trained_on = if *kind == DatasetKind::Auto { root.to_string() } else { format!("{root} ({kind})") };
    let (classes, class_names) = (header.classes, header.class_names);
    let trained_data = Some(header.config.data.clone());
    Ok(About { config, classes, class_names, trained_on: Some(trained_on), trained_data })
}

/// Turns an error about a setting into one about the file whose header has it.
fn of_header(path: &Path, error: Error) -> Error {
    match error {
        Error::Setting { .. } => Error::Checkpoint { path: path.into(), reason: format!("its header says {error}") },
        other => other,
    }
}

/// Returns settings and classes for a file of another program, and the place of the network in it.
fn foreign(file: &checkpoint::File, flags: &Overrides) -> Result<(About, Option<Place>)> {
    let bad = |reason: String| Error::Checkpoint { path: file.path().to_path_buf(), reason };
    if !flags.has("model.arch") {
        let reason = "it was not written by ptl-train and does not name its network: name it with `model.arch` (and `model.width`, \
                      `model.embedding` ... where they are not the defaults)";
        return Err(bad(reason.into()));
    }
    let config = Config::load_recipe(DEFAULT_ARCH, None, flags)?;
    let arch = config.arch()?;
    let mut shapes = Store::of_shapes();
    let network = config.network(1)?.build(&mut shapes, config.seed)?;
    let names: &dyn TensorNames = &*network;
    let place = Place::find(&shapes, file, names)?;
    // The rows of a classifier's weight.
    let heads = shapes.params.iter().filter(|param| arch.is_head(&param.name) && param.shape.len() >= 2);
    let weight = |name: String| file.shape(&name).filter(|shape| shape.len() >= 2).map(|shape| (name, shape[0]));
    let rows = heads.clone().filter_map(|param| place.sources(names, &param.name).into_iter().find_map(weight));
    let rows: Vec<(String, usize)> = rows.collect();
    match &rows[..] {
        [(_, classes), rest @ ..] if rest.iter().all(|(_, other)| other == classes) => {
            let classes = *classes;
            let about = About { config, classes, class_names: Vec::new(), trained_on: None, trained_data: None };
            Ok((about, Some(place)))
        }
        [] => {
            let wanted = heads.map(|param| &param.name[..]).next().unwrap_or("none");
            let backbone = place.has_backbone(&shapes, file, names);
            let reason = if backbone {
                format!(
                    "it has no classifier of {} ({wanted}): to start a training from these weights, pass it to train with `init`",
                    config.model.arch
                )
            } else {
                let first = file.all_names().next().unwrap_or("nothing").shown().to_string();
                format!(
                    "its names are not those of {} (it has {first}): name its network with `model.arch`",
                    config.model.arch
                )
            };
            Err(bad(reason))
        }
        several => {
            let sizes: Vec<String> =
                several.iter().map(|(name, classes)| format!("{} {classes}", name.shown())).collect();
            Err(bad(format!("its classifiers differ in their number of identities: {}", sizes.join(", "))))
        }
    }
}

/// Returns the file of weights for `path`: the file itself, the model of a checkpoint, or the model of a run's best checkpoint (of
/// its newest if the run looked for no best one).
///
/// # Errors
/// There is no such file.
pub fn model_file(path: &Path) -> Result<PathBuf> {
    // Opening the file refuses anything but a regular file.
    let of_training = path.file_name().is_some_and(|name| name == TRAINING_FILE);
    let reason = if of_training && path.with_file_name(MODEL_FILE).is_file() {
        format!("it holds the state of a training: name {MODEL_FILE} beside it")
    } else if path.exists() && !path.is_dir() {
        return Ok(path.into());
    } else if path.join(MODEL_FILE).is_file() {
        return Ok(path.join(MODEL_FILE));
    } else if !path.exists() {
        "it does not exist".into()
    } else if let Ok(run) = RunDir::view(path) {
        match checkpoints::newest_or_best(&run.checkpoints())? {
            Some(checkpoint) => return Ok(checkpoint.join(MODEL_FILE)),
            None => "the run has no checkpoint yet".into(),
        }
    } else {
        format!("the folder is no run and has no {}", MODEL_FILE)
    };
    Err(Error::Checkpoint { path: path.into(), reason })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::TaskKind;

    #[test]
    fn settings_that_change_features_exist() {
        assert!(FEATURE_SETTINGS.iter().all(|path| Config::setting(path).is_some()));
    }

    #[test]
    fn the_kind_of_the_training_does_not_apply_to_another_folder() {
        let mut config = Config::recipe(TaskKind::Classify, "cifar-resnet20");
        config.data.kind = DatasetKind::Cifar10;
        let mut flags = Overrides::default();
        let mut check = |path: &str, value: &str| {
            flags.add(path, value).unwrap();
            flags.refuse_without_effect(&evaluation_settings(&config, &flags), false)
        };
        assert!(check("data.val_share", "0.3").unwrap_err().to_string().contains("validation images of its own"));
        check("data.root", "photos").unwrap();
    }
}
