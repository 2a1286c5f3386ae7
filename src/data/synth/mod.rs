//! Synthetic pedestrians in Market-1501 layout: training, tests and examples without a download.
//!
//! An identity has clothes, build, hair and a bag; a camera has a direction, light, a colour cast, optics and a background. The cameras'
//! casts and tone curves change absolute colours, and there are few colours, so people have to be distinguished by what they wear. The
//! two domains have the same kinds of clothes but different cameras and colours, so a model of one has to be fine-tuned for the other.
//! A [`Gap`] lets the target differ in something else, such as light alone.

mod camera;
mod draw;
mod figure;
mod gap;
mod identity;
#[cfg(test)]
mod tests;

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::atomic::{AtomicUsize, Ordering};

use image::codecs::jpeg::JpegEncoder;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use self::camera::Camera;
pub use self::gap::Gap;
use self::identity::Identity;
use crate::base::error::IoContext;
use crate::base::rng::{Purpose, stream};
use crate::base::stop::StopFlag;
use crate::{Error, Result};

const JPEG_QUALITY: u8 = 90;
/// Test images for each false detection in the gallery.
const IMAGES_PER_DISTRACTOR: usize = 8;
/// Smallest image that shows anything, `[height, width]`.
const SMALLEST: [usize; 2] = [16, 8];

/// Which people and which cameras.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Domain {
    /// Bright, sharp, mild colour casts, vivid clothes: for pre-training.
    #[default]
    Source,
    /// For fine-tuning: differs from the source in what [`Gap`] says, by default dark, blurred, strong colour casts, muted clothes, more
    /// clutter.
    Target,
}

impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Domain::Source => "source",
            Domain::Target => "target",
        })
    }
}

impl FromStr for Domain {
    type Err = Error;

    fn from_str(text: &str) -> Result<Domain> {
        match text {
            "source" => Ok(Domain::Source),
            "target" => Ok(Domain::Target),
            _ => Err(Error::Setting {
                setting: "domain".into(),
                value: text.into(),
                reason: "the domains are source and target".into(),
            }),
        }
    }
}

/// What to generate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SynthConfig {
    /// Which people and which cameras.
    pub domain: Domain,
    /// In what the target differs from the source; without effect on the source.
    pub gap: Gap,
    /// Number of training identities, which are 1 to `train_ids`.
    pub train_ids: usize,
    /// Number of test identities, which follow those of training; they are in query and gallery.
    pub test_ids: usize,
    /// Number of cameras, at least 2: a query needs a match from another one.
    pub cams: usize,
    /// Number of images of each identity by each camera.
    pub images_per_cam: usize,
    /// Seed of all random numbers.
    pub seed: u64,
    /// Height of an image, pixels.
    pub height: usize,
    /// Width of an image, pixels.
    pub width: usize,
}

impl Default for SynthConfig {
    fn default() -> Self {
        Self {
            domain: Domain::Source,
            gap: Gap::default(),
            train_ids: 100,
            test_ids: 100,
            cams: 6,
            images_per_cam: 2,
            seed: 0,
            height: 128,
            width: 64,
        }
    }
}

impl SynthConfig {
    fn check(&self) -> Result<()> {
        let least = [
            ("train_ids", self.train_ids, 1),
            ("test_ids", self.test_ids, 1),
            ("cams", self.cams, 2),
            ("images_per_cam", self.images_per_cam, 1),
            ("height", self.height, SMALLEST[0]),
            ("width", self.width, SMALLEST[1]),
        ];
        match least.into_iter().find(|&(_, value, least)| value < least) {
            Some((setting, value, least)) => Err(Error::Setting {
                setting: setting.into(),
                value: value.to_string(),
                reason: format!("at least {least} is needed"),
            }),
            None => Ok(()),
        }
    }

    /// Returns the number of images that [`generate`] writes.
    pub fn images(&self) -> usize {
        self.jobs().len()
    }

    /// Returns all images in a fixed order. The position of an image selects its random numbers.
    fn jobs(&self) -> Vec<Job> {
        let mut jobs = Vec::new();
        for pid in 1..=self.train_ids + self.test_ids {
            for cam in 0..self.cams {
                for number in 0..self.images_per_cam {
                    // Half of the cameras give their first image as a query, others for each identity. The rest see
                    // the gallery only, so there is a match from another camera.
                    let turn = (cam + pid) % self.cams;
                    let folder = if pid <= self.train_ids {
                        TRAIN
                    } else if number == 0 && turn < self.cams / 2 {
                        QUERY
                    } else {
                        GALLERY
                    };
                    jobs.push(Job { folder, pid, cam });
                }
            }
        }
        let test = self.test_ids * self.cams * self.images_per_cam;
        let distractors =
            (0..test.div_ceil(IMAGES_PER_DISTRACTOR)).map(|i| Job { folder: GALLERY, pid: 0, cam: i % self.cams });
        jobs.extend(distractors);
        jobs
    }
}

const TRAIN: &str = "bounding_box_train";
const QUERY: &str = "query";
const GALLERY: &str = "bounding_box_test";
const FOLDERS: [&str; 3] = [TRAIN, QUERY, GALLERY];
/// Added to a folder's name while it is being filled: what an interrupted run leaves does not load as a data set.
const UNFINISHED: &str = "-unfinished";

/// One image.
#[derive(Clone, Copy, Debug)]
struct Job {
    folder: &'static str,
    /// 0 for a false detection.
    pid: usize,
    cam: usize,
}

/// What random numbers are for, within a domain: the `epoch` of [`stream`].
#[derive(Clone, Copy)]
enum Draw {
    Identity,
    Camera,
    Image,
    Passerby,
}

fn draws(config: &SynthConfig, what: Draw, item: usize) -> rand_chacha::ChaCha8Rng {
    stream(config.seed, Purpose::Synth, (config.domain as u64) << 8 | what as u64, item as u64)
}

/// How drawing ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All images are written.
    Finished,
    /// It was stopped on request, and left nothing.
    Stopped,
}

/// Writes a data set in Market-1501 layout into `dir`, which is created if need be.
///
/// The files are JPEG named `PPPP_cCs1_FFFFFF_00.jpg`; the bytes depend on `config` alone. `progress` is told the number
/// of images done and of all, from any thread and in any order. Folders get their names when all are complete; after an error or
/// a request to stop, what is unfinished is removed.
///
/// # Errors
/// [`Error::Setting`] for a setting that cannot work, [`Error::FolderNotEmpty`], or a file that cannot be written.
pub fn generate(
    dir: &Path,
    config: &SynthConfig,
    stop: &StopFlag,
    progress: &(dyn Fn(usize, usize) + Sync),
) -> Result<Outcome> {
    config.check()?;
    let existed = dir.exists();
    fs::create_dir_all(dir).at("create", dir)?;
    if fs::read_dir(dir).at("read", dir)?.next().is_some() {
        return Err(Error::FolderNotEmpty { path: dir.to_path_buf() });
    }
    let drawn = draw(dir, config, stop, progress);
    if !matches!(drawn, Ok(Outcome::Finished)) {
        // The first error is the one to report; what can be removed is removed.
        FOLDERS.iter().for_each(|name| drop(fs::remove_dir_all(unfinished(dir, name))));
        if !existed {
            let _ = fs::remove_dir(dir);
        }
    }
    drawn
}

/// Returns whether [`generate`] has written all of a data set into `dir`.
pub(crate) fn is_complete(dir: &Path) -> bool {
    FOLDERS.iter().all(|name| dir.join(name).is_dir())
}

fn unfinished(dir: &Path, name: &str) -> PathBuf {
    dir.join(format!("{name}{UNFINISHED}"))
}

fn draw(
    dir: &Path,
    config: &SynthConfig,
    stop: &StopFlag,
    progress: &(dyn Fn(usize, usize) + Sync),
) -> Result<Outcome> {
    for name in FOLDERS {
        fs::create_dir(unfinished(dir, name)).at("create", unfinished(dir, name))?;
    }
    let (cameras, jobs) = (cameras(config), config.jobs());
    let done = AtomicUsize::new(0);
    jobs.par_iter().enumerate().try_for_each(|(index, job)| {
        if stop.requested() {
            return Ok(());
        }
        let pixels = render(config, &cameras, job, index);
        let mut bytes = Vec::new();
        let name = format!("{:04}_c{}s1_{index:06}_00.jpg", job.pid, job.cam + 1);
        let path = unfinished(dir, job.folder).join(name);
        JpegEncoder::new_with_quality(&mut bytes, JPEG_QUALITY)
            .encode(&pixels, config.width as u32, config.height as u32, image::ExtendedColorType::Rgb8)
            .map_err(|error| Error::Image { path: path.clone(), reason: error.to_string() })?;
        fs::write(&path, bytes).at("write", path)?;
        progress(done.fetch_add(1, Ordering::Relaxed) + 1, jobs.len());
        Ok::<(), Error>(())
    })?;
    if done.into_inner() < jobs.len() {
        return Ok(Outcome::Stopped);
    }
    for name in FOLDERS {
        fs::rename(unfinished(dir, name), dir.join(name)).at("rename", unfinished(dir, name))?;
    }
    Ok(Outcome::Finished)
}

fn cameras(config: &SynthConfig) -> Vec<Camera> {
    let camera = |c| Camera::random(config.domain, config.gap, c, &mut draws(config, Draw::Camera, c));
    (0..config.cams).map(camera).collect()
}

/// Returns the pixels of image number `index`, `[height, width, 3]`.
fn render(config: &SynthConfig, cameras: &[Camera], job: &Job, index: usize) -> Vec<u8> {
    let camera = &cameras[job.cam];
    let clothes = config.gap.clothes(config.domain);
    let mut rng = draws(config, Draw::Image, index);
    if job.pid == 0 {
        let passerby = Identity::random(clothes, &mut draws(config, Draw::Passerby, index));
        return camera.false_detection(&passerby, config.width, config.height, &mut rng);
    }
    let who = Identity::random(clothes, &mut draws(config, Draw::Identity, job.pid));
    camera.photograph(&who, config.width, config.height, &mut rng)
}
