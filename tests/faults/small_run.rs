//! Trainings that take about a second and use all that a run stores: the average of the weights, groups of batches, a memory of
//! embeddings, patience, and checkpoints and evaluations after every epoch.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;

use tempfile::TempDir;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    Reid,
    Classify,
}

/// Returns the folder with both tasks' data, which is generated once.
fn data() -> &'static Path {
    static DATA: OnceLock<TempDir> = OnceLock::new();
    let folder = DATA.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let pedestrians = folder.path().join("reid");
        succeeds(program().arg("synth").arg("--out").arg(pedestrians).args(["--ids", "16", "--cams", "2"]));
        for class in ["bars", "blank", "stripes"] {
            let classes = folder.path().join("classify").join(class);
            fs::create_dir_all(&classes).unwrap();
            for i in 0..10u32 {
                let image = image::RgbImage::from_fn(16, 16, |x, y| {
                    let at = if class == "bars" {
                        x
                    } else if class == "stripes" {
                        y
                    } else {
                        0
                    };
                    let value = if (at + i) / 3 % 2 == 0 { 90 + 16 * i as u8 } else { 20 };
                    image::Rgb([value, value / 2, 255 - value])
                });
                image.save(classes.join(format!("{i}.png"))).unwrap();
            }
        }
        folder
    });
    folder.path()
}

fn program() -> Command {
    Command::new(env!("CARGO_BIN_EXE_ptl-train"))
}

/// Runs a command that must succeed.
pub fn succeeds(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

impl Task {
    /// Returns the command that trains in the new folder `out`.
    pub fn train(self, out: &Path) -> Command {
        let (data, settings) = match self {
            Task::Reid => (
                "reid",
                "--arch resnet18-ptl --width 0.125 --height 32 --image-width 16 --ids 2 --images 2 \
                      --triplet-memory 10 --triplet-memory-from 1",
            ),
            Task::Classify => (
                "classify",
                "--task classify --arch cifar-resnet20-ptl --width 0.25 --height 16 --image-width 16 --batch 4",
            ),
        };
        let shared = "--epochs 6 --warmup-epochs 0 --lr 1e-2 --accumulate 2 --ema 0.5 --patience 2 --eval-every 1 \
                      --train.checkpoint-every 1 --train.log-every 1 --train.workers 1 --threads 1";
        let mut command = program();
        command.arg("train").arg("--data").arg(crate::small_run::data().join(data)).arg("--out").arg(out);
        command.args(settings.split_whitespace()).args(shared.split_whitespace());
        command
    }

    /// Returns the folder of a run that nothing interrupted.
    pub fn whole(self) -> &'static Path {
        static RUNS: [OnceLock<TempDir>; 2] = [OnceLock::new(), OnceLock::new()];
        let folder = RUNS[self as usize].get_or_init(|| {
            let folder = tempfile::tempdir().unwrap();
            succeeds(&mut self.train(&folder.path().join("run")));
            folder
        });
        static NAMES: [OnceLock<std::path::PathBuf>; 2] = [OnceLock::new(), OnceLock::new()];
        NAMES[self as usize].get_or_init(|| folder.path().join("run"))
    }
}

/// Returns the command that continues the run `out`.
pub fn resume(out: &Path) -> Command {
    let mut command = program();
    command.arg("train").arg("--resume").arg(out);
    command
}
