//! Fuzzes the files of a run, which somebody may have changed.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use ptl::base::stats::Bootstrap;
use ptl::config::{Config, Overrides};
use ptl::io::checkpoint::File;
use ptl::model::{Position, TrainedModel};
use ptl::nn::DEFAULT_ARCH;
use ptl::run_dir::RunDir;
use ptl::study::runs::{Options, compare};
use ptl::study::{StudyFile, StudyKind};
use ptl::train::{Trainer, curves, state};
use safetensors::SafeTensors;

use super::{fuzz, written};
use crate::small_run::Task;

/// Returns the newest checkpoint of a finished run.
fn checkpoint() -> PathBuf {
    ptl::model::checkpoints::newest(&Task::Classify.whole().join("checkpoints")).unwrap()
}

/// Returns the description in a file of tensors.
fn description(file: &[u8]) -> Vec<u8> {
    let (_, metadata) = SafeTensors::read_metadata(file).unwrap();
    metadata.metadata().as_ref().unwrap()["ptl"].clone().into_bytes()
}

/// Returns the file with another description and the same tensors.
fn described(file: &[u8], description: &[u8]) -> Vec<u8> {
    let tensors = SafeTensors::deserialize(file).unwrap().tensors();
    let metadata = HashMap::from([("ptl".to_string(), String::from_utf8_lossy(description).into_owned())]);
    safetensors::serialize(tensors, Some(metadata)).unwrap()
}

#[test]
fn descriptions_of_models() {
    let file = fs::read(checkpoint().join(ptl::model::MODEL_FILE)).unwrap();
    fuzz("model-header", &[description(&file)], |folder, bytes| {
        let path = written(folder, ptl::model::MODEL_FILE, described(&file, bytes));
        let model = TrainedModel::open(&path, &Overrides::default())?;
        assert!(model.store.values.iter().all(|value| value.is_finite()));
        Ok(())
    });
}

#[test]
fn states_of_training() {
    let seed = checkpoint();
    let model = File::open(&seed.join(ptl::model::MODEL_FILE)).unwrap();
    let header = ptl::model::model_header(model.path(), &model).unwrap();
    let trainer = RefCell::new(Trainer::new(&header.config, header.classes, |_, _| Ok(())).unwrap());
    let restore = |folder: &Path, changed: &str, bytes: &[u8]| {
        for name in [ptl::model::MODEL_FILE, ptl::model::TRAINING_FILE, ptl::model::RECORD_FILE] {
            if name == changed {
                written(folder, name, bytes);
            } else if !folder.join(name).exists() {
                fs::copy(seed.join(name), folder.join(name)).unwrap();
            }
        }
        let saved = ptl::model::Saved::open(folder)?;
        let Position { batch, batches, .. } = saved.record.position;
        assert!(batch == 0 || batch < batches);
        state::restore(&saved, &mut trainer.borrow_mut())
    };
    for (reader, name) in [("training-state", ptl::model::TRAINING_FILE), ("training-record", ptl::model::RECORD_FILE)]
    {
        fuzz(reader, &[fs::read(seed.join(name)).unwrap()], |folder, bytes| restore(folder, name, bytes));
    }
    let file = fs::read(seed.join(ptl::model::TRAINING_FILE)).unwrap();
    fuzz("training-header", &[description(&file)], |folder, bytes| {
        restore(folder, ptl::model::TRAINING_FILE, &described(&file, bytes))
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
fn studies() {
    let mut config = Config::default();
    config.data.target = Some("/target".into());
    let ablation = StudyFile {
        kind: StudyKind::Ablate,
        seeds: vec![1, 2],
        quick: false,
        init: Some("/weights.pth".into()),
        pretraining: None,
        config,
    };
    let comparison = StudyFile {
        kind: StudyKind::Compare,
        init: None,
        pretraining: Some(ablation.config.clone()),
        ..ablation.clone()
    };
    let seeds = [&ablation, &comparison].map(|study| toml::to_string(study).unwrap().into_bytes());
    fuzz("study", &seeds, |folder, bytes| {
        written(folder, "study.toml", bytes);
        let flags = Overrides::default();
        let (_, study) = match StudyFile::resume(folder, StudyKind::Compare, &flags) {
            Err(error) if error.to_string().contains("it is a study of ablate") => {
                StudyFile::resume(folder, StudyKind::Ablate, &flags)?
            }
            read => read?,
        };
        assert!(!study.seeds.is_empty());
        if study.kind == StudyKind::Compare {
            assert!(study.pretraining.is_some() && study.config.data.target.is_some());
        }
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
        drop(run.metrics(None, |line| line["step"].as_u64().is_some_and(|step| step < 5))?);
        curves::per_epoch(&run, ["loss", "accuracy"])?;
        Ok(())
    });
}

#[test]
fn items() {
    let runs = [Task::Classify, Task::Reid].map(Task::whole);
    let options = Options { bootstrap: Bootstrap { resamples: 20, seed: 0 }, baseline: None };
    let read = |folder: &Path, bytes: &[u8]| -> ptl::Result<()> {
        for (name, config) in [("a", runs[0]), ("b", runs[1])] {
            written(folder, &format!("{name}/items.csv"), bytes);
            fs::copy(config.join("config.toml"), folder.join(name).join("config.toml")).unwrap();
        }
        let comparison = compare(&["a", "b"].map(|name| folder.join(name)), &options)?;
        assert!(comparison.arms.iter().flat_map(|arm| arm.mean.values()).all(|mean| mean.is_finite()));
        Ok(())
    };
    let seeds = runs.map(|run| fs::read(run.join("items.csv")).unwrap());
    fuzz("items", &seeds, read);
    // A finite number that was never computed in f32.
    let huge = b"image,label,predicted,confidence,top1,top5,nll\na.png,cat,cat,0.5e300,1,1,0.5\n";
    let error = read(tempfile::tempdir().unwrap().path(), huge).unwrap_err().to_string();
    assert!(error.ends_with("a figure is not a finite float32 number"), "{error}");
}
