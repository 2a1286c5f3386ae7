//! What a run leaves behind, and a user or a stranger may have changed.

use std::cell::RefCell;
use std::fs;
use std::path::{Path, PathBuf};

use ptl::checkpoint::{self, File, Tensor};
use ptl::config::{Config, DEFAULT_ARCH, Overrides};
use ptl::eval::TrainedModel;
use ptl::run_dir::RunDir;
use ptl::stats::Bootstrap;
use ptl::study::runs::{Options, compare};
use ptl::train::{Trainer, curves, state};

use super::{fuzz, written};
use crate::small_run::Task;

/// The newest checkpoint of a finished run.
fn checkpoint() -> PathBuf {
    state::newest(&Task::Classify.whole().join("checkpoints")).unwrap()
}

/// The file with another description; its tensors stay.
fn described(file: &File, description: &[u8], folder: &Path) -> PathBuf {
    let tensor = |name: &String| {
        let shape = file.shape(name).unwrap();
        file.f32(name).map_or_else(
            |_| Tensor::i64(name, &shape, file.i64(name).unwrap()),
            |values| Tensor::f32(name, &shape, values),
        )
    };
    let path = folder.join(file.path().file_name().unwrap());
    let tensors: Vec<Tensor> = file.names().iter().map(tensor).collect();
    checkpoint::write(&path, &tensors, [("ptl".to_string(), String::from_utf8_lossy(description).into_owned())])
        .unwrap();
    path
}

#[test]
fn descriptions_of_models() {
    let file = File::open(&checkpoint().join(state::MODEL_FILE)).unwrap();
    fuzz("model-header", &[file.metadata["ptl"].clone().into()], |folder, bytes| {
        let model = TrainedModel::open(&described(&file, bytes, folder), &Overrides::default())?;
        assert!(model.store.values.iter().all(|value| value.is_finite()));
        Ok(())
    });
}

#[test]
fn states_of_training() {
    let seed = checkpoint();
    let model = File::open(&seed.join(state::MODEL_FILE)).unwrap();
    let header = state::model_header(model.path(), &model).unwrap();
    let trainer = RefCell::new(Trainer::new(&header.config, header.classes, |_, _| Ok(())).unwrap());
    let path = seed.join(state::TRAINING_FILE);
    let restore = |folder: &Path| {
        fs::copy(model.path(), folder.join(state::MODEL_FILE)).unwrap();
        state::restore(folder, &mut trainer.borrow_mut()).map(drop)
    };
    fuzz("training-state", &[fs::read(&path).unwrap()], |folder, bytes| {
        written(folder, state::TRAINING_FILE, bytes);
        restore(folder)
    });
    let file = File::open(&path).unwrap();
    fuzz("training-header", &[file.metadata["ptl"].clone().into()], |folder, bytes| {
        described(&file, bytes, folder);
        restore(folder)
    });
}

#[test]
fn settings() {
    let seeds = [Task::Classify, Task::Reid].map(|task| fs::read(task.whole().join("config.toml")).unwrap());
    fuzz("config", &seeds, |folder, bytes| {
        let flags = Overrides::default();
        let config = Config::load_recipe(DEFAULT_ARCH, Some(&written(folder, "config.toml", bytes)), &flags)?;
        let again = written(folder, "again.toml", config.to_toml());
        assert_eq!(Config::load_recipe(DEFAULT_ARCH, Some(&again), &flags)?, config);
        Ok(())
    });
}

#[test]
fn metrics() {
    let run = Task::Reid.whole();
    let config = fs::read(run.join("config.toml")).unwrap();
    fuzz("metrics", &[fs::read(run.join("metrics.jsonl")).unwrap()], |folder, bytes| {
        written(folder, "config.toml", &config);
        written(folder, "metrics.jsonl", bytes);
        let run = RunDir::open(folder)?;
        curves::per_epoch(&run, ["loss", "accuracy"])?;
        drop(run.metrics(|line| line["step"].as_u64().is_some_and(|step| step < 5))?);
        curves::per_epoch(&run, ["loss", "accuracy"])?;
        Ok(())
    });
}

#[test]
fn items() {
    let runs = [Task::Classify, Task::Reid].map(Task::whole);
    let options = Options { bootstrap: Bootstrap { resamples: 20, seed: 0 }, baseline: None };
    fuzz("items", &runs.map(|run| fs::read(run.join("items.csv")).unwrap()), |folder, bytes| {
        for (name, config) in [("a", runs[0]), ("b", runs[1])] {
            written(folder, &format!("{name}/items.csv"), bytes);
            fs::copy(config.join("config.toml"), folder.join(name).join("config.toml")).unwrap();
        }
        let comparison = compare(&["a", "b"].map(|name| folder.join(name)), &options)?;
        assert!(comparison.arms.iter().flat_map(|arm| arm.mean.values()).all(|mean| mean.is_finite()));
        Ok(())
    });
}
