//! Writes the folders, with one image in memory at a time.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use image::ExtendedColorType;
use image::codecs::jpeg::JpegEncoder;

use super::images::{ImageKey, Images, MatFile};
use super::protocol::NewProtocol;
use super::{BoxKind, PAIRS};
use crate::base::error::IoContext;
use crate::base::progress::Reporter;
use crate::base::stop::StopFlag;
use crate::base::text::plural;
use crate::data::{CLASSIC_FILE, ClassicSplits, Rgb};
use crate::{Error, Result};

/// High quality: fine quantisation, and the encoder does not subsample colours. It is OpenCV's default, too.
const JPEG_QUALITY: u8 = 95;
/// Added to the name of a folder while it is being filled, so that the rest of a killed conversion does not load as a data set.
const UNFINISHED: &str = "-unfinished";

/// People of the five pairs in the published file.
const PEOPLE: [usize; PAIRS] = [843, 440, 77, 58, 49];
/// (identities, images) of each folder in the published lists, for detected and for labeled boxes.
const LISTED: [(&str, (usize, usize), (usize, usize)); 3] = [
    ("bounding_box_train", (767, 7_365), (767, 7_368)),
    ("query", (700, 1_400), (700, 1_400)),
    ("bounding_box_test", (700, 5_332), (700, 5_328)),
];
/// Images with detected boxes of each pair, and with labeled boxes of all pairs.
const DETECTED_IMAGES: [usize; PAIRS] = [8_177, 4_337, 650, 510, 423];
const LABELED_IMAGES: usize = 14_096;
const SPLITS: usize = 20;

/// A conversion to run.
pub struct Job<'a> {
    /// `cuhk-03.mat`.
    pub mat: &'a Path,
    /// Lists of the new protocol for detected and labeled boxes. Without a list, its folder is not written.
    pub configs: [Option<&'a Path>; 2],
    /// Folder to write, new or empty.
    pub out: &'a Path,
    /// Receives messages and progress.
    pub reporter: &'a Reporter,
    /// Set to end the work early.
    pub stop: &'a StopFlag,
}

/// How a conversion ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Everything is written.
    Finished {
        /// Number of image files written.
        images: usize,
    },
    /// It was stopped on request, and left nothing.
    Stopped,
}

/// One kind of boxes, checked and ready to be written.
struct Plan {
    kind: BoxKind,
    images: Images,
    protocol: Option<NewProtocol>,
}

/// Runs a conversion. The input is checked before anything is written, and the same input gives the same bytes. Folders get their final
/// names when all are complete; on an error, unfinished ones are removed.
///
/// # Errors
/// The input is broken or does not belong together, the output folder is not empty, or a file cannot be written.
pub fn convert(job: &Job<'_>) -> Result<Outcome> {
    let mat = MatFile::open(job.mat)?;
    let test_sets = mat.test_sets()?;
    let mut plans = Vec::new();
    for (kind, config) in BoxKind::ALL.into_iter().zip(job.configs) {
        let images = mat.images(kind)?;
        let protocol = config.map(NewProtocol::read).transpose()?;
        if let Some(protocol) = &protocol {
            protocol.check(&images)?;
        }
        plans.push(Plan { kind, images, protocol });
    }
    let splits: Vec<ClassicSplits> =
        plans.iter().map(|plan| classic_splits(job.mat, plan, &test_sets)).collect::<Result<_>>()?;
    plans.iter().flat_map(oddities).for_each(|text| job.reporter.warn(&text));
    if test_sets.len() != SPLITS {
        job.reporter.warn(&format!("{} classic splits, the published file has {SPLITS}", test_sets.len()));
    }

    let existed = job.out.exists();
    fs::create_dir_all(job.out).at("create", job.out)?;
    if fs::read_dir(job.out).at("read", job.out)?.next().is_some() {
        return Err(Error::FolderNotEmpty { path: job.out.to_path_buf() });
    }
    let written = write_all(job, &plans, &splits);
    if !matches!(written, Ok(Outcome::Finished { .. })) {
        // Errors of removing are ignored: the first error is reported.
        top_folders(&plans).iter().for_each(|name| drop(fs::remove_dir_all(unfinished(job.out, name))));
        if !existed {
            let _ = fs::remove_dir(job.out);
        }
    }
    written
}

fn write_all(job: &Job<'_>, plans: &[Plan], splits: &[ClassicSplits]) -> Result<Outcome> {
    let mut files = 0;
    for (plan, splits) in plans.iter().zip(splits) {
        let keys = plan.images.keys();
        let name = plan.kind.name();
        let classic = unfinished(job.out, "classic").join(name);
        let listed: BTreeMap<ImageKey, &Path> =
            plan.protocol.iter().flat_map(|p| p.listed()).map(|l| (l.key, l.path.as_path())).collect();
        let mut task = job.reporter.start(&format!("converting {name}"), keys.len() as u64, "images");
        for key in keys {
            if job.stop.requested() {
                return Ok(Outcome::Stopped);
            }
            let place = listed.get(&key).map(|path| unfinished(job.out, name).join(path));
            let jpeg = encode(&plan.images.read(key)?, key)?;
            for path in place.into_iter().chain([classic.join(classic_path(key))]) {
                write(&path, &jpeg)?;
                files += 1;
            }
            task.advance(1, "");
        }
        write(&classic.join(CLASSIC_FILE), &serde_json::to_vec(splits).expect("plain lists serialise"))?;
        task.finish("");
    }
    for name in top_folders(plans) {
        let folder = unfinished(job.out, name);
        fs::rename(&folder, job.out.join(name)).at("rename", folder)?;
    }
    Ok(Outcome::Finished { images: files })
}

/// Returns the names of the folders directly in the output.
fn top_folders(plans: &[Plan]) -> Vec<&'static str> {
    let listed = plans.iter().filter(|plan| plan.protocol.is_some()).map(|plan| plan.kind.name());
    listed.chain(["classic"]).collect()
}

fn unfinished(out: &Path, name: &str) -> PathBuf {
    out.join(format!("{name}{UNFINISHED}"))
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let folder = path.parent().expect("a file in a folder");
    fs::create_dir_all(folder).at("create", folder)?;
    fs::write(path, bytes).at("write", path)
}

fn encode(image: &Rgb, key: ImageKey) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    JpegEncoder::new_with_quality(&mut bytes, JPEG_QUALITY)
        .encode(&image.pixels, image.width as u32, image.height as u32, ExtendedColorType::Rgb8)
        .map_err(|error| Error::Image { path: key.name().into(), reason: error.to_string() })?;
    Ok(bytes)
}

/// Returns a path like `images/1_001_1_01.jpg`.
fn classic_path(key: ImageKey) -> PathBuf {
    Path::new("images").join(key.name() + ".jpg")
}

/// Returns all images with one kind of boxes, and the test identities of each split.
fn classic_splits(mat: &Path, plan: &Plan, test_sets: &[Vec<[usize; 2]>]) -> Result<ClassicSplits> {
    let Plan { kind, images, .. } = plan;
    let people = images.people();
    let pid = |[pair, person]: [usize; 2]| match people.get(pair - 1) {
        Some(&count) if person <= count => Ok(images.pid(pair, person)),
        _ => Err(Error::MatFile {
            path: mat.to_path_buf(),
            reason: format!("/testsets names person {person} of pair {pair}, /{} has no such one", kind.name()),
        }),
    };
    let splits = test_sets.iter().map(|set| {
        let mut pids = set.iter().map(|&id| pid(id)).collect::<Result<Vec<i64>>>()?;
        pids.sort_unstable();
        Ok(pids)
    });
    let entry = |key: ImageKey| (classic_path(key), images.pid(key.pair, key.person), key.camera() as i64);
    Ok(ClassicSplits {
        dataset: kind.classic(),
        splits: splits.collect::<Result<_>>()?,
        images: images.keys().into_iter().map(entry).collect(),
    })
}

/// Returns the differences from the published files.
fn oddities(plan: &Plan) -> Vec<String> {
    let Plan { kind, images, protocol } = plan;
    let name = kind.name();
    let mut found = Vec::new();
    let mut compare = |what: String, here: String, published: String| {
        if here != published {
            found.push(format!("{name}: {what}: {here}, the published files have {published}"));
        }
    };
    let joined = |counts: [usize; PAIRS]| counts.map(|n| n.to_string()).join("/");
    compare("people in the camera pairs".into(), joined(images.people()), joined(PEOPLE));
    let keys = images.keys();
    let here: [usize; PAIRS] = std::array::from_fn(|i| keys.iter().filter(|key| key.pair == i + 1).count());
    match kind {
        BoxKind::Detected => compare("images in the camera pairs".into(), joined(here), joined(DETECTED_IMAGES)),
        BoxKind::Labeled => compare("images".into(), keys.len().to_string(), LABELED_IMAGES.to_string()),
    }
    if let Some(protocol) = protocol {
        for (folder, detected, labeled) in LISTED {
            let published = if *kind == BoxKind::Detected { detected } else { labeled };
            let text = |(ids, images)| {
                format!("{} with {}", plural(ids, "identity", "identities"), plural(images, "image", "images"))
            };
            compare(format!("{folder} of the new protocol"), text(protocol.counts(folder)), text(published));
        }
        let unlisted = keys.len().saturating_sub(protocol.listed().len());
        if unlisted > 0 {
            found
                .push(format!("{name}: {} in no list of the new protocol", plural(unlisted, "image is", "images are")));
        }
    }
    found
}
