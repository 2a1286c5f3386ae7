//! Functions that commands share: threads, data sets, run folders.

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::{fs, io};

use crate::app::cli::ranks::threads;
use crate::base::error::IoContext;
use crate::base::progress::Reporter;
use crate::base::stop::StopFlag;
use crate::base::text::{Shown, listed};
use crate::config::{Config, Overrides};
use crate::data::synth::{self, Domain, SynthConfig};
use crate::data::{
    self, ClassDataset, ClassOptions, Dataset, DatasetKind, ImageList, ImageRecord, Subsets, ValidationImages,
    list_images,
};
use crate::engine::collective::Collective;
use crate::engine::device::{Device, DeviceOptions};
use crate::eval::ITEMS_FILE;
use crate::eval::calibration::{Calibration, WantedRate};
use crate::eval::classification::{CONFUSION_FILE, PER_CLASS_FILE};
use crate::model::{MODEL_FILE, RECORD_FILE, TrainedModel};
use crate::nn::TaskKind;
use crate::run_dir::{RUNS, RunDir};
use crate::study::StudyKind;
use crate::{Error, Result};

/// Files that a run or a checkpoint has, with the endings of reports.
const OF_RUNS: [&str; 5] = [RECORD_FILE, "summary.json", ITEMS_FILE, CONFUSION_FILE, PER_CLASS_FILE];

/// Draws a data set of pedestrians into `folder`, and shows the progress.
pub(super) fn synthesise(
    folder: &Path,
    config: &SynthConfig,
    stop: &StopFlag,
    reporter: &Reporter,
) -> Result<synth::Outcome> {
    let what = match config.domain {
        Domain::Source => "drawing source".into(),
        Domain::Target => format!("drawing target, gap {}", config.gap),
    };
    let task = Mutex::new(reporter.start(&what, config.images() as u64, "images"));
    let advance = |_, _| task.lock().expect("no panic while drawing").advance(1, "");
    let outcome = synth::generate(folder, config, stop, &advance)?;
    if outcome == synth::Outcome::Finished {
        task.into_inner().expect("no panic while drawing").finish("");
    }
    Ok(outcome)
}

/// Reports how to continue an interrupted study.
pub(super) fn say_stopped(reporter: &Reporter, kind: StudyKind, run: &RunDir) {
    let root = run.root().shown();
    reporter.message(&format!("stopped; continue with: ptl-train {kind} --resume {root}"));
}

/// Refuses a device that cannot be used, before anything is written.
pub(super) fn check_device(config: &Config) -> Result<()> {
    check_device_of(config, &Collective::single())
}

/// Does as [`check_device`] for a process that may have others beside it.
pub(super) fn check_device_of(config: &Config, ranks: &Collective) -> Result<()> {
    Device::open(&DeviceOptions { local_rank: ranks.local_rank(), ..config.device_options() }).map(|_| ())
}

/// Sets the number of compute threads, before anything computes. The calling thread is one of them, so that a parallel loop begins at once: from a
/// thread that is not, each loop would wake another one and wait for it, which takes longer than a small loop itself. No thread that the caller
/// waits for may run parallel loops, because with one compute thread they would wait for the caller.
pub(super) fn set_threads(config: &Config) -> Result<()> {
    set_threads_of(config, &Collective::single())
}

/// Does as [`set_threads`] for a process that may have others beside it.
pub(super) fn set_threads_of(config: &Config, ranks: &Collective) -> Result<()> {
    // All processes exchange what they need for this, also those that are told a number.
    let shared = ranks.has_others().then(|| threads(ranks));
    let threads = if config.threads == 0 { shared.unwrap_or(0) } else { config.threads };
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).use_current_thread().build_global();
    pool.map_err(io::Error::other).at("start", "the compute threads")
}

/// Loads `subsets` of a data set and checks their images.
pub(super) fn open_dataset(
    root: &Path,
    kind: DatasetKind,
    subsets: Subsets,
    config: &Config,
    reporter: &Reporter,
) -> Result<Dataset> {
    let mut options = config.data.load_options(subsets);
    // The pattern is for names of the data set itself, not of another one that is measured.
    options.name_pattern = options.name_pattern.filter(|_| root == config.data.root);
    let mut dataset = data::load(root, kind, &options)?;
    // This check comes first, because decoding takes long.
    if subsets == Subsets::All {
        dataset.check_for_training(config.sampler.ids)?;
    }
    check_images(&mut dataset, config, reporter)?;
    Ok(dataset)
}

/// Returns whether `root` is the data set that the model was trained on, named by its table or by the folder of that.
pub(super) fn is_of_training(trained: &TrainedModel, root: &Path) -> bool {
    let Some(data) = &trained.trained_data else { return false };
    let folder =
        |path: &Path| if path.is_file() { path.parent().unwrap_or(path).to_path_buf() } else { path.to_path_buf() };
    let both_files = root.is_file() && data.root.is_file();
    same_path(root, &data.root) || (!both_files && same_path(&folder(root), &folder(&data.root)))
}

/// Returns whether both paths are the same, or exist and are the same file or folder.
pub(super) fn same_path(a: &Path, b: &Path) -> bool {
    a == b || fs::canonicalize(a).ok().zip(fs::canonicalize(b).ok()).is_some_and(|(a, b)| a == b)
}

/// Refuses to measure identities that the model was trained on as held out, or because its data do not say which are for the test. Warns where
/// this cannot be known.
pub(super) fn refuse_trained(
    trained: &TrainedModel,
    root: &Path,
    dataset: &Dataset,
    flags: &Overrides,
    reporter: &Reporter,
) -> Result<()> {
    let given = &trained.config.data;
    let refuse =
        |value: String, reason: String| Err(Error::Setting { setting: "`data.val_ids`".into(), value, reason });
    let own = trained.trained_data.as_ref().filter(|_| is_of_training(trained, root));
    match (own, flags.has("data.val_ids") && given.val_ids > 0) {
        (Some(own), true) if (own.val_ids, own.split) != (given.val_ids, given.split) => {
            let held_out = match own.val_ids {
                0 => "none of these identities were held out of the training".to_string(),
                n => format!("the training on these data held out {n}, with `data.split` {}", own.split),
            };
            refuse(
                given.val_ids.to_string(),
                format!("{held_out}, so trained ones would be measured: name the same, or other data"),
            )
        }
        (Some(own), false) if dataset.has_no_split => {
            let way_out = match own.val_ids {
                0 => "all of it, so name other data".to_string(),
                n => format!(
                    "it: add `data.val_ids` {n} `data.split` {}, to measure the identities that it held out",
                    own.split
                ),
            };
            refuse("(none)".into(), format!("{} has no split, and the model was trained on {way_out}", dataset.name))
        }
        (None, false) if dataset.has_no_split => {
            reporter.warn(
                "all images of these data are measured; if the model was trained on some of them, the results include what was memorised",
            );
            Ok(())
        }
        _ => Ok(()),
    }
}

/// Measures the identities that the training held out, if there are any and no flag names other images.
pub(super) fn measure_held_out(trained: &mut TrainedModel, flags: &mut Overrides) -> Result<()> {
    if let Some(own) = trained.trained_data.as_ref().filter(|own| own.val_ids > 0)
        && !["data.root", "data.val_ids"].iter().any(|path| flags.has(path))
    {
        flags.add("data.val_ids", &own.val_ids.to_string())?;
        trained.config.data.val_ids = own.val_ids;
        if !flags.has("data.split") {
            trained.config.data.split = own.split;
        }
    }
    Ok(())
}

/// Loads a data set to train on, and checks its images. Leaves out queries and gallery if another data set is measured.
pub(super) fn open_training(config: &Config, reporter: &Reporter) -> Result<Dataset> {
    let options = config.data.load_options(Subsets::All);
    if config.data.target.is_some() && options.val_ids > 0 {
        return Err(Error::Setting {
            setting: "`data.val_ids`".into(),
            value: options.val_ids.to_string(),
            reason: "a run measures the held-out identities or `data.target`: leave one of the two out".into(),
        });
    }
    let mut dataset = data::load(data_root(config)?, config.data.kind, &options)?;
    if config.data.target.is_some() {
        (dataset.query, dataset.gallery) = (Vec::new(), Vec::new());
    }
    dataset.check_for_training(config.sampler.ids)?;
    check_images(&mut dataset, config, reporter)?;
    Ok(dataset)
}

/// Decodes every image, before the work that needs them.
pub(super) fn check_images(dataset: &mut Dataset, config: &Config, reporter: &Reporter) -> Result<()> {
    let images = dataset.train.len() + dataset.query.len() + dataset.gallery.len();
    let name = dataset.name.clone();
    checking(&name, images, reporter, |each| dataset.drop_or_refuse_broken(config.data.skip_broken, each))
}

/// Lists the image `path`, or the images of the folder `path`, and decodes each. They have no identities.
pub(super) fn open_images(path: &Path, config: &Config, reporter: &Reporter) -> Result<Vec<ImageRecord>> {
    open_some_images(path, usize::MAX, config, reporter).map(|(records, _)| records)
}

/// Opens images as [`open_images`] does, but at most `limit` of them, at even distances in the list. Returns also how many there are.
pub(super) fn open_some_images(
    path: &Path,
    limit: usize,
    config: &Config,
    reporter: &Reporter,
) -> Result<(Vec<ImageRecord>, usize)> {
    let one = || ImageList { images: vec![path.into()], warnings: Vec::new() };
    let ImageList { images, warnings } = if path.is_file() { one() } else { list_images(path)? };
    let (all, count) = (images.len(), images.len().min(limit));
    let chosen = (0..count).map(|i| images[i * all / count].clone());
    let records = chosen.map(|path| ImageRecord { path, pid: -1, camid: -1 });
    let name = path.shown().to_string();
    let mut dataset = Dataset { name, gallery: records.collect(), warnings, ..Dataset::default() };
    check_images(&mut dataset, config, reporter)?;
    dataset.warnings.iter().for_each(|warning| reporter.warn(warning));
    if dataset.gallery.is_empty() {
        return Err(Error::NoImages { subset: "readable", dataset: dataset.name });
    }
    Ok((dataset.gallery, all))
}

/// Opens an image or a folder of images as [`open_images`] does, for a command that takes a data set instead. Refuses the flags of a data set.
pub(super) fn open_images_alone(
    path: &Path,
    config: &Config,
    flags: &Overrides,
    reporter: &Reporter,
) -> Result<Vec<ImageRecord>> {
    let of_data_sets = [
        "data.root",
        "data.kind",
        "data.msmt17_val",
        "data.split",
        "data.val_ids",
        "data.name_pattern",
        "data.same_camera",
        "data.val_share",
    ];
    refuse_unused(flags, &of_data_sets)?;
    open_images(path, config, reporter)
}

/// Opens and describes the test of the data set that [`evaluated`] finds. Refuses identities that the model was trained on.
pub(super) fn open_test(trained: &TrainedModel, flags: &Overrides, reporter: &Reporter) -> Result<Dataset> {
    let (root, kind) = evaluated(&trained.config, flags)?;
    let dataset = open_dataset(root, kind, Subsets::Test, &trained.config, reporter)?;
    refuse_trained(trained, root, &dataset, flags, reporter)?;
    describe_datasets(reporter, [Some(&dataset), None]);
    Ok(dataset)
}

/// Checks the reports that a command will write, each with its option, and makes their folders. Refuses a folder, the same file twice, a file that
/// the command reads, one of a run or a checkpoint, one that exists and does not end in `.json`, `.csv` or `.html`, and one that cannot be written.
pub(super) fn check_outputs(outputs: &[(&str, Option<&Path>)], inputs: &[&Path]) -> Result<()> {
    let given = || outputs.iter().filter_map(|(option, path)| Some((*option, (*path)?)));
    for (number, (option, path)) in given().enumerate() {
        let refuse =
            |reason: String| Err(Error::Setting { setting: option.into(), value: path.shown().to_string(), reason });
        if path.is_dir() {
            return refuse("it is a folder: name a file in it".into());
        }
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).at("create", folder)?;
        }
        if inputs.iter().any(|input| same_path(input, path)) {
            return refuse("this file is read: name another one to write".into());
        }
        // A wrong name must not cost an image or weights.
        let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
        if path.exists() && !["json", "csv", "html"].contains(&ending) {
            return refuse("this file exists and is no report: name another one to write".into());
        }
        // Runs and checkpoints have JSON files of their own.
        let is_run = path.parent().is_some_and(|folder| RunDir::view(folder).is_ok());
        let is_own = path.file_name().is_some_and(|name| OF_RUNS.iter().any(|own| name == *own));
        if path.exists() && is_own && (is_run || path.with_file_name(MODEL_FILE).exists()) {
            return refuse("this file belongs to a run: name another one to write".into());
        }
        if !path.exists() || path.is_file() {
            let is_new = !path.exists();
            fs::File::options().append(true).create(true).open(path).at("write", path)?;
            if is_new {
                fs::remove_file(path).at("remove", path)?;
            }
        }
        if let Some((other, _)) = given().take(number).find(|(_, other)| same_path(other, path)) {
            return refuse(format!("it is the file of {other}, too: name another one"));
        }
    }
    Ok(())
}

/// Returns the files that are read with a file of features: itself, and labels beside it, also where there are none yet.
pub(super) fn feature_inputs(features: &Path) -> [PathBuf; 3] {
    [features.to_path_buf(), features.with_extension("csv"), features.with_extension("txt")]
}

/// Returns the threshold for the rate that the user wants, or else for the usual one, or else for the smallest one that the calibration has; says
/// if it is that. Returns `None` without a calibration, if no rate is wanted.
pub(super) fn find_threshold(
    calibration: Option<&Calibration>,
    wanted: Option<WantedRate>,
    usual: WantedRate,
    reporter: &Reporter,
) -> Result<Option<(f64, WantedRate)>> {
    let Some(calibration) = calibration else {
        let (setting, rate) = match wanted {
            None => return Ok(None),
            Some(WantedRate::Fmr(rate)) => ("--fmr", rate),
            Some(WantedRate::Fpir(rate)) => ("--fpir", rate),
        };
        let reason =
            "there is no calibration: write one with ptl-train calibrate, and name it with --calibration".into();
        return Err(Error::Setting { setting: setting.into(), value: rate.to_string(), reason });
    };
    let rate = match wanted {
        Some(wanted) => wanted,
        None => calibration.nearest_to(usual)?,
    };
    if wanted.is_none() && rate != usual {
        reporter.message(&format!("the calibration has no threshold for {usual}: that for {rate} is taken"));
    }
    Ok(Some((calibration.threshold(rate)?, rate)))
}

/// Refuses a classifier where identities are compared.
pub(super) fn refuse_classifier(trained: &TrainedModel, checkpoint: &Path) -> Result<()> {
    match trained.config.task {
        TaskKind::Reid => Ok(()),
        TaskKind::Classify => Err(Error::Checkpoint {
            path: checkpoint.into(),
            reason: "it is a classifier, which tells classes and not identities: see ptl-train predict".into(),
        }),
    }
}

/// Shows the progress of `check`, which calls its argument after each image.
fn checking(
    name: &str,
    images: usize,
    reporter: &Reporter,
    check: impl FnOnce(&(dyn Fn() + Sync)) -> Result<()>,
) -> Result<()> {
    let task = Mutex::new(reporter.start(&format!("checking {name}"), images as u64, "images"));
    check(&|| task.lock().expect("no panic while checking").advance(1, ""))?;
    task.into_inner().expect("no panic while checking").finish("");
    Ok(())
}

/// Loads `subsets` of images with classes and checks them; `val_share` is that of [`ClassOptions`].
pub(super) fn open_classes(
    root: &Path,
    kind: DatasetKind,
    subsets: Subsets,
    val_share: Option<f32>,
    config: &Config,
    reporter: &Reporter,
) -> Result<ClassDataset> {
    let options = ClassOptions { val_share, seed: config.data.split as u64, subsets };
    let mut dataset = data::load_classes(root, kind, &options)?;
    if subsets == Subsets::All {
        dataset.check_for_training(config.sampler.batch)?;
    }
    check_classes(&mut dataset, config, reporter)?;
    Ok(dataset)
}

/// Opens the images that measure a classifier, of the data set that [`evaluated`] finds, with the model's labels. Of the data set of the training,
/// only held-out images are measured; of other data sets, all.
pub(super) fn open_class_test(trained: &TrainedModel, flags: &Overrides, reporter: &Reporter) -> Result<ClassDataset> {
    let (root, kind) = evaluated(&trained.config, flags)?;
    let held_out = flags.has("data.val_share") || is_of_training(trained, root);
    let share = held_out.then_some(trained.config.data.val_share);
    let mut dataset = open_classes(root, kind, Subsets::Test, share, &trained.config, reporter)?;
    if dataset.validation == ValidationImages::All && dataset.classes == trained.class_names {
        reporter.warn(
            "all images of these data are measured; if the model was trained on them, say which were held out with the \
             --val-share and --split of its training",
        );
    }
    dataset.take_labels_of(&trained.class_names, trained.classes)?;
    dataset.check_for_evaluation()?;
    describe_classes(reporter, &dataset);
    Ok(dataset)
}

/// Decodes every image, before the work that needs them.
pub(super) fn check_classes(dataset: &mut ClassDataset, config: &Config, reporter: &Reporter) -> Result<()> {
    let images = dataset.train.len() + dataset.val.len();
    let name = dataset.name.clone();
    checking(&name, images, reporter, |each| dataset.drop_or_refuse_broken(config.data.skip_broken, each))
}

/// Reports the label, the counts and the warnings of a data set of classes.
pub(super) fn describe_classes(reporter: &Reporter, dataset: &ClassDataset) {
    reporter.message(&format!("{}: {}\n{}", dataset.name, dataset.label, dataset.banner()));
    dataset.warnings.iter().for_each(|warning| reporter.warn(warning));
}

/// Reports the counts of data sets, whether these are the published ones, and warnings.
pub(super) fn describe_datasets(reporter: &Reporter, datasets: [Option<&Dataset>; 2]) {
    for dataset in datasets.into_iter().flatten() {
        let Dataset { name, label, .. } = dataset;
        reporter.message(&format!("{name}: {label}\n{}\n{}", dataset.banner(), dataset.verdict()));
        if !dataset.names.cameras.is_empty() {
            let cameras = dataset.names.cameras.iter().map(|(number, name)| format!("{number} {}", name.shown()));
            reporter.message(&format!("cameras by their numbers: {}", listed(cameras)));
        }
        dataset.warnings.iter().for_each(|warning| reporter.warn(warning));
    }
}

/// Returns the folder of the training data set.
///
/// # Errors
/// [`Error::Setting`]: none is named.
pub(super) fn data_root(config: &Config) -> Result<&Path> {
    if config.data.root.as_os_str().is_empty() {
        return Err(Error::Setting {
            setting: "`data.root`".into(),
            value: "(none)".into(),
            reason: "name the folder of a data set; ptl-train synth draws one".into(),
        });
    }
    Ok(&config.data.root)
}

/// Returns the data set to measure on: the folder that a flag names, else the target of the run, else its training data. `data.kind`
/// and `data.target_kind` of the run apply to its own folders only: the kind of another folder is given by `--dataset` or detected.
pub(super) fn evaluated<'a>(config: &'a Config, flags: &Overrides) -> Result<(&'a Path, DatasetKind)> {
    let data = &config.data;
    let named = flags.has("data.kind").then_some(data.kind);
    match &data.target {
        _ if flags.has("data.root") => Ok((data_root(config)?, named.unwrap_or_default())),
        Some(target) => Ok((target, named.unwrap_or(data.target_kind))),
        None => Ok((data_root(config)?, data.kind)),
    }
}

/// Creates the folder of a run: `out`, or one in the default folder.
pub(super) fn new_run(out: Option<&Path>, kind: &str) -> Result<RunDir> {
    match out {
        Some(path) => RunDir::create(path),
        None => RunDir::create_in(Path::new(RUNS), kind),
    }
}

/// Refuses flags of settings that the command does not use.
pub(super) fn refuse_unused(flags: &Overrides, unused: &[&str]) -> Result<()> {
    match unused.iter().find(|path| flags.has(path)) {
        Some(setting) => Err(Error::Setting {
            setting: format!("`{setting}`"),
            value: "(given)".into(),
            reason: "this command does not use it: see its own options in --help".into(),
        }),
        None => Ok(()),
    }
}
