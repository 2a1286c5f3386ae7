//! How a training of several processes ends: by errors, signals and the death of a process; and how it goes on.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::{SMALL, alone, mpirun, path, program, run, succeeds, text, train};

/// Returns the command line of a training of the data set of these tests.
fn line<'a>(data: &'a str, out: &'a str, flags: &[&'a str]) -> Vec<&'a str> {
    [&SMALL[..], &["--arch", "resnet18-ptl", "--data", data, "--out", out], flags].concat()
}

/// Returns the step of the newest checkpoint of a run.
fn newest_step(run: &str) -> u64 {
    let names = fs::read_dir(format!("{run}/checkpoints")).unwrap().map(|entry| entry.unwrap().file_name());
    names.filter_map(|name| name.to_str()?.strip_prefix("step-")?.parse().ok()).max().expect("a checkpoint")
}

/// Returns the newest checkpoint's files of a run.
fn newest(run: &str) -> [Vec<u8>; 2] {
    let steps = fs::read_dir(format!("{run}/checkpoints")).unwrap().map(|entry| entry.unwrap().path());
    let newest =
        steps.max_by_key(|path| path.to_string_lossy().rsplit('-').next().unwrap().parse::<u64>().ok()).unwrap();
    ["model", "training"].map(|name| fs::read(newest.join(format!("{name}.safetensors"))).unwrap())
}

#[test]
fn the_same_number_of_processes_gives_the_same_bits_also_after_a_stop() {
    let _alone = alone();
    let [data, whole, again, stopped] = ["people", "whole", "again", "stopped"].map(path);
    let flags = ["--max-steps", "6", "--state-init", "normal"];
    for out in [&whole, &again] {
        succeeds(2, &line(&data, out, &flags));
    }
    assert!(newest(&whole) == newest(&again));
    // Features and results that several processes compute are those of one.
    let results = |ranks: usize| {
        let [report, features] = [path(&format!("report-{ranks}.json")), path(&format!("features-{ranks}.npy"))];
        run(ranks, &["evaluate", "--checkpoint", &whole, "--out", &report, "--eval-batch", "4"]);
        let by = format!("--ranks={ranks}");
        run(1, &["extract", &by, "--checkpoint", &whole, "--out", &features, "--eval-batch", "4"]);
        [report, features].map(|file| fs::read(file).unwrap())
    };
    assert!(results(1) == results(4));
    succeeds(2, &line(&data, &stopped, &["--max-steps", "3", "--state-init", "normal"]));
    for (ranks, name) in [(1, "by-one"), (2, "by-two"), (4, "by-four")] {
        let copy = path(name);
        assert!(Command::new("cp").args(["-r", &stopped, &copy]).status().unwrap().success());
        let said = succeeds(ranks, &["--resume", &copy, "--max-steps", "6"]);
        assert!(said.contains("resuming after step 3"), "{said}");
        // Without synchronised batch normalisation, another number of processes is another training.
        assert_eq!(newest(&copy) == newest(&whole), ranks == 2, "{ranks}");
        assert!(fs::metadata(format!("{copy}/summary.json")).is_ok());
    }
}

#[test]
fn what_processes_cannot_share_is_refused_in_one_sentence() {
    let _alone = alone();
    let data = path("people");
    let cases: [(usize, &[&str], &str); 4] = [
        (2, &["--ids", "3", "--images", "3"], "2 processes share a batch equally: choose a multiple of 2"),
        (4, &["--ids", "2", "--local-mining"], "each of 4 processes needs whole identities"),
        (2, &["--state-steps", "2"], "2 processes have theirs at the same time: choose 1"),
        (2, &["--ranks", "3"], "a launcher has started 2 processes: leave it out"),
    ];
    for (ranks, flags, part) in cases {
        let out = path("refused");
        let output = train(ranks, &line(&data, &out, flags));
        let said = text(&output);
        assert!(!output.status.success() && said.contains(part), "{said}");
        assert_eq!(said.matches("error: ").count(), 1, "{said}");
        assert!(!Path::new(&out).exists(), "{said}");
    }
    let output = mpirun(2).arg(program()).args(["info"]).output().unwrap();
    assert!(output.status.success());
    let output = mpirun(2)
        .arg(program())
        .args(["predict", "--checkpoint", "none", "--images", "none", "--out", "none"])
        .output()
        .unwrap();
    assert!(
        !output.status.success() && text(&output).contains("is the work of one: start it without mpirun or torchrun")
    );
}

/// Without GPUs, nothing connects the processes of torchrun.
#[test]
fn processes_of_torchrun_without_gpus_are_refused_in_one_sentence() {
    let data = path("people");
    let as_rank = |command: &[&str], rank: &str| {
        let mut process = Command::new(program());
        process.args(command).env("CUDA_VISIBLE_DEVICES", "").env("RANK", rank).env("LOCAL_RANK", rank);
        process.env("WORLD_SIZE", "2").env("LOCAL_WORLD_SIZE", "2").env("MASTER_PORT", "29500");
        process
    };
    let out = path("torchrun");
    for rank in ["0", "1"] {
        let output = as_rank(&["train", "--data", &data, "--out", &out], rank).output().unwrap();
        let said = text(&output);
        assert!(said.contains("2 processes that torchrun has started exchange numbers by NCCL between GPUs"), "{said}");
        assert!(said.contains("(cuda: ") && said.contains("and unset WORLD_SIZE to run alone"), "{said}");
        assert_eq!((said.matches("error: ").count(), output.status.code()), (1, Some(1)), "{said}");
        assert!(!Path::new(&out).exists());
    }
    let said = text(&as_rank(&["train", "--data", &data, "--device", "cpu"], "0").output().unwrap());
    assert!(said.contains("by NCCL between GPUs (--device is cpu): without GPUs, start processes by"), "{said}");
    let said = text(&as_rank(&["synth", "--out", &out], "0").output().unwrap());
    assert!(said.contains("`synth` is the work of one: start it without mpirun or torchrun"), "{said}");

    let refused = as_rank(&["train", "--data", &data, "--ranks", "4"], "0").output().unwrap();
    assert!(text(&refused).contains("a launcher has started 2 processes: leave it out"));
    let refused = as_rank(&["train", "--data", &data], "2").output().unwrap();
    assert!(text(&refused).contains("WORLD_SIZE = 2: RANK, which counts from 0, is too large"), "{}", text(&refused));
    for (size, part) in [("2", "RANK, which says the number of this process, is missing"), ("two", "it is no number")] {
        let refused =
            Command::new(program()).args(["train", "--data", &data]).env("WORLD_SIZE", size).output().unwrap();
        assert!(text(&refused).contains(part) && !refused.status.success(), "{}", text(&refused));
    }
    let too_many = 8 * std::thread::available_parallelism().unwrap().get() + 1;
    if too_many <= 1024 {
        let line = ["train", "--data", &data, "--ranks", &too_many.to_string()];
        let said = text(&Command::new(program()).args(line).output().unwrap());
        assert!(said.contains(&format!("--ranks = {too_many}: this machine has cores for")), "{said}");
    }
    // Started with these variables, but not to train together.
    let alone = [&["train", "--ranks", "1"], &line(&data, &out, &["--max-steps", "1"])[..]].concat();
    assert!(as_rank(&alone, "1").output().unwrap().status.success());
}

#[test]
fn an_image_that_one_process_cannot_read_ends_all_with_its_name() {
    let _alone = alone();
    let [data, out] = ["broken", "broken-run"].map(path);
    assert!(Command::new("cp").args(["-r", &path("people"), &data]).status().unwrap().success());
    let mut child = mpirun(2);
    child.arg(program()).arg("train").args(line(&data, &out, &["--epochs", "2000", "--data.cache_mb", "0"]));
    let child = child.stdout(Stdio::null()).stderr(Stdio::piped()).process_group(0).spawn().unwrap();
    wait_for(&out, 3);
    for image in fs::read_dir(format!("{data}/bounding_box_train")).unwrap() {
        fs::write(image.unwrap().path(), "no image").unwrap();
    }
    let output = child.wait_with_output().unwrap();
    let said = text(&output);
    assert!(!output.status.success(), "{said}");
    assert!(said.contains("error: process ") && said.contains("bounding_box_train"), "{said}");
}

/// Waits until a run has done so many steps.
fn wait_for(run: &str, steps: usize) {
    let begun = Instant::now();
    while fs::read_to_string(format!("{run}/metrics.jsonl")).map_or(0, |text| text.matches("\"step\"").count()) < steps
    {
        assert!(begun.elapsed() < Duration::from_secs(120), "the training goes on");
        sleep(Duration::from_millis(50));
    }
}

/// Returns the processes that train into the folder `run`.
fn processes(run: &str) -> Vec<i32> {
    let all = fs::read_dir("/proc").unwrap().filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok());
    let trains = |pid: &i32| {
        let line = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.starts_with(program()) && line.split('\0').any(|word| word == run)
    };
    all.filter(trains).collect()
}

fn signal(pid: i32, signal: &str) {
    assert!(Command::new("kill").args([signal, &pid.to_string()]).status().unwrap().success());
}

#[test]
#[cfg(target_os = "linux")]
fn when_a_process_is_killed_the_others_end_and_the_run_goes_on_by_any_number() {
    let _alone = alone();
    let [data, out] = ["people", "killed"].map(path);
    let flags = ["--epochs", "2000", "--train.checkpoint_every", "1"];
    let mut child = mpirun(2);
    child.arg(program()).arg("train").args(line(&data, &out, &flags));
    let child = child.stdout(Stdio::null()).stderr(Stdio::piped()).process_group(0).spawn().unwrap();
    wait_for(&out, 6);
    let all = processes(&out);
    assert_eq!(all.len(), 2);
    signal(all[1], "-KILL");
    let begun = Instant::now();
    let output = child.wait_with_output().unwrap();
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    let said = text(&output);
    assert!(!output.status.success() && said.contains("exited on signal 9"), "{said}");
    let gone = Instant::now();
    while !processes(&out).is_empty() {
        assert!(gone.elapsed() < Duration::from_secs(20), "{:?} are left", processes(&out));
        sleep(Duration::from_millis(50));
    }
    for ranks in [4, 1, 2] {
        let steps = newest_step(&out) + 2;
        let said = succeeds(ranks, &["--resume", &out, "--max-steps", &steps.to_string()]);
        assert!(said.contains("resuming after step"), "{said}");
        assert_eq!(newest_step(&out), steps);
    }
}

#[test]
#[cfg(target_os = "linux")]
fn started_by_ranks_a_signal_stops_all_with_a_checkpoint_and_none_outlives_the_first() {
    let _alone = alone();
    let data = path("people");
    for (asked, code) in [("-INT", 130), ("-USR1", 138)] {
        let out = path(&format!("signalled{asked}"));
        let mut child = Command::new(program());
        child.args(["train", "--ranks=2"]).args(line(&data, &out, &["--epochs", "2000"]));
        let child = child.stdout(Stdio::null()).stderr(Stdio::piped()).process_group(0).spawn().unwrap();
        wait_for(&out, 3);
        signal(child.id() as i32, asked);
        let output = child.wait_with_output().unwrap();
        let said = text(&output);
        assert!(said.contains("stopped after step") && said.contains("--resume"), "{said}");
        assert_eq!(output.status.code(), Some(code), "{said}");
        assert!(newest_step(&out) >= 2);
    }
    // A request to one of the processes stops all, too, and is no error.
    let out = path("asked");
    let mut child = Command::new(program());
    child.args(["train", "--ranks=2"]).args(line(&data, &out, &["--epochs", "2000"]));
    let child = child.stdout(Stdio::null()).stderr(Stdio::piped()).process_group(0).spawn().unwrap();
    wait_for(&out, 3);
    let one = processes(&out).into_iter().find(|&pid| pid != child.id() as i32).unwrap();
    signal(one, "-TERM");
    let output = child.wait_with_output().unwrap();
    let said = text(&output);
    assert!(said.contains("stopped after step") && !said.contains("error") && !output.status.success(), "{said}");
    // The death of one process is reported, with a way to go on.
    let out = path("died");
    let mut child = Command::new(program());
    child.args(["train", "--ranks=2"]).args(line(&data, &out, &["--epochs", "2000"]));
    let child = child.stdout(Stdio::null()).stderr(Stdio::piped()).process_group(0).spawn().unwrap();
    wait_for(&out, 3);
    let one = processes(&out).into_iter().find(|&pid| pid != child.id() as i32).unwrap();
    signal(one, "-KILL");
    let output = child.wait_with_output().unwrap();
    let said = text(&output);
    assert!(said.contains("error: signal 9 has ended one of the processes: go on from the last checkpoint"), "{said}");
    assert_eq!(output.status.code(), Some(137), "{said}");
    // The processes end with the one that started them.
    let out = path("orphans");
    let mut child = Command::new(program());
    child.args(["train", "--ranks=2"]).args(line(&data, &out, &["--epochs", "2000"]));
    let child = child.stdout(Stdio::null()).stderr(Stdio::null()).process_group(0).spawn().unwrap();
    wait_for(&out, 3);
    let (parent, begun) = (child.id() as i32, Instant::now());
    signal(parent, "-KILL");
    drop(child.wait_with_output().unwrap());
    while !processes(&out).is_empty() {
        assert!(begun.elapsed() < Duration::from_secs(20), "{:?} are left", processes(&out));
        sleep(Duration::from_millis(50));
    }
}
