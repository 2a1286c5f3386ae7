//! Trainings whose triplet loss remembers embeddings of earlier batches.

use ptl::base::stop::StopFlag;
use ptl::config::Config;
use ptl::run_dir::RunDir;
use ptl::train::Start;

use crate::support::{self, assert_same, datasets, everything, finish, try_job};

/// Sixteen embeddings of batches of six, from the third update on.
fn config(accumulate: usize) -> Config {
    let mut config = support::config();
    (config.loss.memory, config.loss.memory_from, config.train.accumulate) = (16, 2, accumulate);
    config
}

/// Returns the shapes of the remembered embeddings in the newest checkpoint.
fn remembered(run: &RunDir) -> Vec<Vec<usize>> {
    let all = everything(run).into_iter();
    all.filter(|(name, ..)| name.starts_with("memory.")).map(|(_, shape, _)| shape).collect()
}

#[test]
fn a_run_with_a_memory_resumes_bit_for_bit() {
    for accumulate in [1, 2] {
        let (config, folder) = (config(accumulate), tempfile::tempdir().unwrap());
        let whole = RunDir::create(&folder.path().join("whole")).unwrap();
        finish(&config, Start::Scratch, &whole);
        // Stops before anything is remembered, with places that are empty, and with all places full.
        let parts = RunDir::create(&folder.path().join("parts")).unwrap();
        for (steps, held) in [(1, 0), (3, 6 * accumulate), (6, 16)] {
            let mut part = config.clone();
            part.train.max_steps = Some(steps);
            finish(&part, if steps == 1 { Start::Scratch } else { Start::Resume }, &parts);
            let shapes = remembered(&parts);
            assert_eq!(shapes.iter().map(|shape| shape[0]).sum::<usize>(), held, "{shapes:?}");
        }
        finish(&config, Start::Resume, &parts);
        assert_same(&whole, &parts, &format!("groups of {accumulate}"));
    }
}

#[test]
fn a_memory_changes_the_training_only_once_it_is_filled() {
    let folder = tempfile::tempdir().unwrap();
    let trained = |name: &str, change: &dyn Fn(&mut Config)| {
        let mut config = support::config();
        change(&mut config);
        let run = RunDir::create(&folder.path().join(name)).unwrap();
        finish(&config, Start::Scratch, &run);
        run
    };
    let plain = trained("plain", &|_| {});
    let empty = trained("empty", &|config| (config.loss.memory, config.loss.memory_from) = (16, 1000));
    assert_same(&plain, &empty, "an empty memory");
    let filled = trained("filled", &|config| (config.loss.memory, config.loss.memory_from) = (16, 0));
    let weights = |run: &RunDir| everything(run).into_iter().filter(|(name, ..)| name.ends_with(".weight"));
    assert!(weights(&plain).zip(weights(&filled)).all(|(a, b)| a != b));
}

#[test]
fn a_run_does_not_continue_with_a_memory_of_another_size() {
    let (mut config, folder) = (config(1), tempfile::tempdir().unwrap());
    let run = RunDir::create(&folder.path().join("run")).unwrap();
    config.train.max_steps = Some(4);
    finish(&config, Start::Scratch, &run);
    config.train.max_steps = None;
    for (memory, shown) in [(24, "`loss.memory` = 24"), (0, "`loss.memory` = 0")] {
        config.loss.memory = memory;
        let outcome = try_job(&config, &datasets()[0], Start::Resume, &run, &StopFlag::default());
        let error = outcome.err().expect("another size").to_string();
        assert!(error.contains(shown) && error.contains("the run has begun with 16"), "{error}");
    }
}
