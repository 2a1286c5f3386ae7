//! Whether the vendor's libraries or the crate's own kernels compute a pass, and the times by which that was chosen.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde_json::Value;

use super::Call;
use crate::base::atomic::atomic_write;
use crate::base::settings::choice;
use crate::base::text::plural;
use crate::{Error, Result};

choice! {
    /// Which passes of convolutions and cells the vendor's libraries compute on a GPU.
    pub enum VendorUse {
        /// Those in which they are faster than the crate's own kernels, measured when a plan is made, and remembered in a file.
        #[default]
        Auto = "auto",
        /// All that they take.
        Always = "always",
        /// None.
        Never = "never",
    }
}

/// A pass that a library and the crate's own kernels can compute.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum MeasuredPass {
    /// A pass of a convolution.
    Conv(Call),
    /// The forward pass of a cell whose gates are the output of a convolution.
    Cell { gates: Call, differentiated: bool },
}

/// Writes the pass as its times are named in the file.
impl fmt::Display for MeasuredPass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MeasuredPass::Conv(call) => write!(f, "{call}"),
            MeasuredPass::Cell { gates, differentiated: true } => write!(f, "a cell in training, from {gates}"),
            MeasuredPass::Cell { gates, differentiated: false } => write!(f, "a cell in evaluation, from {gates}"),
        }
    }
}

/// The seconds of both ways to compute a pass.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Times {
    /// By the crate's own kernels.
    pub own: f64,
    /// By the vendor's libraries; `None` if they refused when they were called.
    pub library: Option<f64>,
}

impl Times {
    /// Returns whether the libraries are as fast or faster.
    pub(crate) fn by_library(&self) -> bool {
        self.library.is_some_and(|library| library <= self.own)
    }
}

/// The times of passes on a device: those of a file, and those that were measured since.
#[derive(Debug, Default)]
pub(crate) struct Measured {
    /// Where times are kept from run to run.
    file: Option<PathBuf>,
    passes: Mutex<Passes>,
}

#[derive(Debug, Default)]
struct Passes {
    /// The times of the file by [`name`]; read at the first question.
    kept: Option<BTreeMap<String, Times>>,
    /// The passes of this run. Those without times could not be measured.
    asked: HashMap<MeasuredPass, Option<Times>>,
    /// What was measured and is not in the file yet.
    unsaved: BTreeMap<String, Times>,
    /// How many passes were measured, and whether any were asked for, since [`Measured::take_news`] was called.
    measured: usize,
    changed: bool,
    /// What is wrong with the file, for [`Measured::take_news`].
    complaints: Vec<String>,
}

/// Returns the folder in which a user's programs keep what they can compute again, as the XDG specification says.
fn cache_folder() -> Option<PathBuf> {
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    absolute("XDG_CACHE_HOME").or_else(|| Some(absolute("HOME")?.join(".cache")))
}

/// Returns the name of a measurement in the file. Times are valid for one device, driver and set of libraries, and for one set of kernels.
fn name(device: &str, pass: &MeasuredPass) -> String {
    format!("{device}: {pass}")
}

impl Measured {
    /// Returns the times that the user's cache keeps.
    pub(super) fn of_user() -> Measured {
        let measured = Measured::in_file(cache_folder().map(|folder| folder.join("ptl/times.json")));
        if measured.file.is_none() {
            let complaint = "times of passes are not kept, because neither XDG_CACHE_HOME nor HOME names a folder";
            measured.lock().complaints.push(complaint.into());
        }
        measured
    }

    /// Returns the times of a file, or of this run only.
    fn in_file(file: Option<PathBuf>) -> Measured {
        Measured { file, passes: Mutex::default() }
    }

    /// Returns the times of a pass, which are those that `measure` returns if they are not known. `device` names the device and all else on
    /// which times depend. `None` if there is no memory for the measurement, now and whenever the same is asked again.
    ///
    /// # Errors
    /// Other errors of `measure`.
    pub(crate) fn times(
        &self,
        device: impl FnOnce() -> String,
        pass: MeasuredPass,
        measure: impl FnOnce() -> Result<Times>,
    ) -> Result<Option<Times>> {
        let mut guard = self.lock();
        let passes = &mut *guard;
        if let Some(&known) = passes.asked.get(&pass) {
            return Ok(known);
        }
        let (complaints, name) = (&mut passes.complaints, name(&device(), &pass));
        let read = || self.file.as_deref().map_or_else(BTreeMap::new, |file| read(file, complaints));
        let known = match passes.kept.get_or_insert_with(read).get(&name) {
            Some(&known) => Some(known),
            None => match measure() {
                Err(Error::DeviceMemory { .. }) => None,
                measured => {
                    let new = measured?;
                    passes.unsaved.insert(name, new);
                    passes.measured += 1;
                    Some(new)
                }
            },
        };
        passes.asked.insert(pass, known);
        passes.changed = true;
        Ok(known)
    }

    /// Writes what was measured to the file. Returns who computes the passes of this run, and what is wrong with the file; nothing if that has
    /// not changed since the last call, or if times are not for a file.
    pub(super) fn take_news(&self) -> Vec<String> {
        let mut guard = self.lock();
        let passes = &mut *guard;
        let mut news = Vec::new();
        if let (true, Some(file)) = (std::mem::take(&mut passes.changed), &self.file) {
            let unmeasured = passes.asked.values().filter(|times| times.is_none()).count();
            let by_library = passes.asked.values().flatten().filter(|times| times.by_library()).count() + unmeasured;
            let (all, now) = (passes.asked.len(), std::mem::take(&mut passes.measured));
            news.push(format!(
                "cuDNN and cuBLASLt compute {by_library} of {} of convolutions and cells, where they were faster, and ptl's kernels the others \
                 ({} measured now; times are in {})",
                plural(all, "pass", "passes"),
                plural(now, "pass was", "passes were"),
                file.display()
            ));
            if unmeasured > 0 {
                let passes = plural(unmeasured, "pass", "passes");
                news.push(format!("there was no memory to measure {passes}, so cuDNN and cuBLASLt compute them"));
            }
        }
        self.save(passes);
        news.append(&mut passes.complaints);
        news
    }

    /// Writes what was measured to the file, where there is one.
    fn save(&self, passes: &mut Passes) {
        let unsaved = std::mem::take(&mut passes.unsaved);
        let Some(file) = self.file.as_deref().filter(|_| !unsaved.is_empty()) else { return };
        if let Err(reason) = add(file, unsaved) {
            passes.complaints.push(format!(
                "times of passes are not kept in {} ({reason}), so the next run measures again and may choose otherwise: set `gpu.vendor` to \
                 always or never to avoid that",
                file.display()
            ));
        }
    }

    /// Locks the passes, even if another thread panicked while it had them: they are valid between any two statements.
    fn lock(&self) -> MutexGuard<'_, Passes> {
        self.passes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes what was measured and not yet written.
impl Drop for Measured {
    fn drop(&mut self) {
        self.save(&mut self.lock());
    }
}

/// Returns the times of a file; none if there is no such file. Says how many of its entries are no times.
fn read(file: &Path, complaints: &mut Vec<String>) -> BTreeMap<String, Times> {
    let text = match fs::read_to_string(file) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return BTreeMap::new(),
        Err(error) => {
            complaints.push(format!("{} cannot be read ({error}): passes are measured again", file.display()));
            return BTreeMap::new();
        }
    };
    let entries: BTreeMap<String, Value> = serde_json::from_str(&text).unwrap_or_else(|error| {
        complaints.push(format!("{} does not hold times ({error}): passes are measured again", file.display()));
        BTreeMap::new()
    });
    let all = entries.len();
    let times = entries.into_iter().filter_map(|(name, value)| Some((name, serde_json::from_value(value).ok()?)));
    let times: BTreeMap<String, Times> = times.collect();
    if times.len() < all {
        let broken = plural(all - times.len(), "entry", "entries");
        complaints.push(format!("{broken} of {} hold no times: these passes are measured again", file.display()));
    }
    times
}

/// Adds times to a file. What another program wrote there stays: both programs use that from the next run on.
fn add(file: &Path, times: BTreeMap<String, Times>) -> std::result::Result<(), String> {
    if let Some(folder) = file.parent() {
        fs::create_dir_all(folder).map_err(|error| error.to_string())?;
    }
    // One program at a time reads, adds and writes. On a file system without locks, times of another program may be lost.
    let lock = File::create(file.with_extension("lock")).map_err(|error| error.to_string())?;
    let _ = lock.lock();
    let mut all = read(file, &mut Vec::new());
    for (name, new) in times {
        all.entry(name).or_insert(new);
    }
    let text = serde_json::to_string_pretty(&all).expect("names and numbers");
    atomic_write(file, |out| writeln!(out, "{text}")).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::device::Pass;
    use crate::engine::geometry::Conv2dGeometry;
    use crate::engine::precision::Precision;

    const FAST: Times = Times { own: 2e-6, library: Some(1e-6) };
    const SLOW: Times = Times { own: 1e-6, library: Some(3e-6) };
    const REFUSED: Times = Times { own: 1e-6, library: None };

    fn in_file(file: &Path) -> Measured {
        Measured::in_file(Some(file.into()))
    }

    fn pass(channels: usize) -> MeasuredPass {
        let geometry = Conv2dGeometry::new(2, [8, 8], 4, channels, [3, 3], [1, 1], [1, 1]).unwrap();
        MeasuredPass::Conv(Call { geometry, precision: Precision::Bf16, pass: Pass::Forward })
    }

    /// Returns the times of a pass, which are `new` if they are not known.
    fn times(measured: &Measured, device: &str, channels: usize, new: Option<Times>) -> Times {
        let measure = || Ok(new.expect("known"));
        measured.times(|| device.into(), pass(channels), measure).unwrap().unwrap()
    }

    #[test]
    fn times_are_measured_once_for_each_device_and_pass_and_kept_in_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("new/times.json");
        let measured = in_file(&file);
        assert_eq!(times(&measured, "one", 4, Some(FAST)), FAST);
        assert_eq!(times(&measured, "one", 4, None), FAST);
        assert_eq!(times(&measured, "one", 8, Some(SLOW)), SLOW);
        assert_eq!(times(&measured, "one", 16, Some(REFUSED)), REFUSED);
        assert!(FAST.by_library() && !SLOW.by_library() && !REFUSED.by_library());
        let news = measured.take_news();
        let start = "cuDNN and cuBLASLt compute 1 of 3 passes of convolutions and cells, where they were faster, and ptl's kernels the others (3 \
                     passes were measured now; times are in ";
        assert!(news.len() == 1 && news[0].starts_with(start), "{news:#?}");
        assert!(measured.take_news().is_empty());

        let again = in_file(&file);
        assert_eq!(times(&again, "one", 4, None), FAST);
        assert_eq!(times(&again, "one", 16, None), REFUSED);
        assert!(again.take_news()[0].contains("(0 passes were measured now"));
        // Another device has times of its own. They are written at the end, too.
        let other = in_file(&file);
        assert_eq!(times(&other, "two", 4, Some(SLOW)), SLOW);
        drop(other);
        let last = in_file(&file);
        assert_eq!((times(&last, "two", 4, None), times(&last, "one", 8, None)), (SLOW, SLOW));
    }

    #[test]
    fn programs_that_measure_at_once_keep_all_times_and_the_first_of_equal_ones() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("times.json");
        std::thread::scope(|scope| {
            for device in ["one", "two", "three"] {
                let file = &file;
                scope.spawn(move || {
                    for channels in 1..20 {
                        times(&in_file(file), device, channels, Some(FAST));
                    }
                });
            }
        });
        let [first, second] = [in_file(&file), in_file(&file)];
        assert!(["one", "two", "three"].iter().all(|device| times(&first, device, 19, None) == FAST));
        times(&first, "four", 1, Some(FAST));
        times(&second, "four", 1, Some(SLOW));
        drop(first);
        drop(second);
        assert_eq!(times(&in_file(&file), "four", 1, None), FAST);
    }

    #[test]
    fn a_file_that_cannot_be_used_is_said_once_and_does_not_end_a_run() {
        let folder = tempfile::tempdir().unwrap();
        let broken = folder.path().join("times.json");
        fs::write(&broken, "[1]").unwrap();
        let measured = in_file(&broken);
        times(&measured, "one", 4, Some(FAST));
        assert!(measured.take_news().iter().any(|text| text.contains("does not hold times")));
        assert_eq!(times(&in_file(&broken), "one", 4, None), FAST);

        let text = fs::read_to_string(&broken).unwrap();
        fs::write(&broken, text.replacen('{', "{\"other\": {\"own\": null},", 1)).unwrap();
        let measured = in_file(&broken);
        assert_eq!(times(&measured, "one", 4, None), FAST);
        assert!(measured.take_news().iter().any(|text| text.starts_with("1 entry of ")));

        // A file where a folder should be.
        let measured = in_file(&broken.join("times.json"));
        [4, 8].into_iter().for_each(|channels| assert_eq!(times(&measured, "one", channels, Some(FAST)), FAST));
        let news = measured.take_news();
        assert_eq!(news.iter().filter(|text| text.contains("are not kept in")).count(), 1, "{news:#?}");
    }

    #[test]
    fn without_memory_nothing_is_measured_and_the_answer_stays() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("times.json");
        let measured = in_file(&file);
        let full = || {
            let (purpose, advice) = ("a buffer".into(), String::new());
            Err(Error::DeviceMemory { purpose, needed: 2, free: 1, total: 1, advice })
        };
        assert_eq!(measured.times(|| "one".into(), pass(4), full).unwrap(), None);
        assert_eq!(measured.times(|| "one".into(), pass(4), || unreachable!()).unwrap(), None);
        assert!(measured.take_news()[1].starts_with("there was no memory to measure 1 pass"));
        assert!(!file.exists());
    }
}
