//! Whether the vendor's libraries or the crate's own kernels compute a pass, and the times by which that was chosen.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::base::atomic::atomic_write;
use crate::base::settings::choice;
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

/// The seconds of both ways to compute a pass.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Times {
    /// By the crate's own kernels.
    pub own: f64,
    /// By the vendor's libraries.
    pub library: f64,
}

impl Times {
    /// Returns whether the libraries are as fast or faster.
    pub(crate) fn by_library(&self) -> bool {
        self.library <= self.own
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
    /// By [`name`]; read from the file at the first question.
    times: Option<BTreeMap<String, Times>>,
    /// The passes of this run. Those without times could not be measured.
    asked: BTreeMap<String, Option<Times>>,
    /// Those that were measured in this run.
    new: BTreeSet<String>,
    /// Whether passes were asked for the first time since [`Measured::take_news`] was called.
    changed: bool,
    /// What is wrong with the file, for [`Measured::take_news`].
    complaints: Vec<String>,
}

/// Returns the folder in which a user's programs keep what they can compute again, as the XDG specification says.
fn cache_folder() -> Option<PathBuf> {
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    absolute("XDG_CACHE_HOME").or_else(|| Some(absolute("HOME")?.join(".cache")))
}

/// Returns the name of a measurement in the file. Times are valid for one device, driver and set of libraries, and for one version of ptl.
fn name(device: &str, pass: &str) -> String {
    format!("ptl {}, {device}: {pass}", env!("CARGO_PKG_VERSION"))
}

impl Measured {
    /// Returns the times that the user's cache keeps, or none if there is no such folder.
    pub(super) fn of_user() -> Measured {
        Measured { file: cache_folder().map(|folder| folder.join("ptl/times.json")), ..Measured::default() }
    }

    /// Returns the times of a pass. If they are not known, takes those that `measure` returns, and writes them to the file. `None` if there
    /// is no memory for the measurement, now and whenever the same is asked again.
    ///
    /// # Errors
    /// Other errors of `measure`.
    pub(crate) fn times(
        &self,
        device: &str,
        pass: &str,
        measure: impl FnOnce() -> Result<Times>,
    ) -> Result<Option<Times>> {
        let mut guard = self.lock();
        let passes = &mut *guard;
        let name = name(device, pass);
        if let Some(&known) = passes.asked.get(&name) {
            return Ok(known);
        }
        let complaints = &mut passes.complaints;
        let read = || self.file.as_deref().map_or_else(BTreeMap::new, |file| read(file, complaints));
        let times = passes.times.get_or_insert_with(read);
        let known = match times.get(&name) {
            Some(&known) => Some(known),
            None => match measure() {
                Err(Error::DeviceMemory { .. }) => None,
                measured => Some(measured?),
            },
        };
        if let Some(new) = known.filter(|_| !times.contains_key(&name)) {
            times.insert(name.clone(), new);
            passes.new.insert(name.clone());
            if let Some(file) = &self.file {
                write(file, times, &mut passes.complaints);
            }
        }
        passes.asked.insert(name, known);
        passes.changed = true;
        Ok(known)
    }

    /// Returns who computes the passes of this run, and what is wrong with the file; nothing if that has not changed since the last call.
    pub(super) fn take_news(&self) -> Vec<String> {
        let mut passes = self.lock();
        let mut news: Vec<String> = Vec::new();
        for complaint in passes.complaints.drain(..) {
            if !news.contains(&complaint) {
                news.push(complaint);
            }
        }
        if std::mem::take(&mut passes.changed) {
            let all = passes.asked.len();
            let unmeasured = passes.asked.values().filter(|times| times.is_none()).count();
            let by_library = passes.asked.values().flatten().filter(|times| times.by_library()).count();
            let file =
                self.file.as_deref().map_or_else(String::new, |file| format!("; times are in {}", file.display()));
            news.push(format!(
                "of {all} passes of convolutions and cells, the vendor's libraries compute {by_library} and ptl's own kernels {}, as measured \
                 on this GPU ({} of them now{file})",
                all - by_library,
                passes.new.len()
            ));
            if unmeasured > 0 {
                news.push(format!(
                    "ptl's own kernels compute {unmeasured} of these because there was no memory to measure them"
                ));
            }
        }
        news
    }

    /// Locks the passes, even if another thread panicked while it had them: they are valid between any two statements.
    fn lock(&self) -> MutexGuard<'_, Passes> {
        self.passes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns the times of a file; none if there is no such file.
fn read(file: &Path, complaints: &mut Vec<String>) -> BTreeMap<String, Times> {
    let text = match std::fs::read_to_string(file) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return BTreeMap::new(),
        Err(error) => {
            complaints.push(format!("{} cannot be read ({error}): passes are measured again", file.display()));
            return BTreeMap::new();
        }
    };
    serde_json::from_str(&text).unwrap_or_else(|error| {
        complaints.push(format!("{} does not hold times ({error}): passes are measured again", file.display()));
        BTreeMap::new()
    })
}

/// Writes all times to a file, and leaves alone what another program wrote there meanwhile.
fn write(file: &Path, times: &BTreeMap<String, Times>, complaints: &mut Vec<String>) {
    let mut all = read(file, &mut Vec::new());
    all.extend(times.iter().map(|(name, &times)| (name.clone(), times)));
    let made = file.parent().map_or(Ok(()), std::fs::create_dir_all).map_err(|error| error.to_string());
    let text = serde_json::to_string_pretty(&all).expect("names and numbers");
    let write = || atomic_write(file, |out| writeln!(out, "{text}")).map_err(|error| error.to_string());
    if let Err(reason) = made.and_then(|()| write()) {
        complaints.push(format!(
            "times are not kept in {} ({reason}), so the next run may choose otherwise: `gpu.vendor` always or never does not measure",
            file.display()
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FAST: Times = Times { own: 2e-6, library: 1e-6 };
    const SLOW: Times = Times { own: 1e-6, library: 3e-6 };

    fn in_file(file: &Path) -> Measured {
        Measured { file: Some(file.into()), ..Measured::default() }
    }

    /// Returns the times of a pass, which are `new` if they are not known.
    fn times(measured: &Measured, device: &str, pass: &str, new: Option<Times>) -> Times {
        measured.times(device, pass, || Ok(new.expect("known"))).unwrap().unwrap()
    }

    #[test]
    fn times_are_measured_once_for_each_device_and_pass_and_kept_in_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("new/times.json");
        let measured = in_file(&file);
        assert_eq!(times(&measured, "one", "a", Some(FAST)), FAST);
        assert_eq!(times(&measured, "one", "a", None), FAST);
        assert_eq!(times(&measured, "one", "b", Some(SLOW)), SLOW);
        assert_eq!(times(&measured, "two", "a", Some(SLOW)), SLOW);
        assert!(FAST.by_library() && !SLOW.by_library());
        let news = measured.take_news();
        assert_eq!(news.len(), 1);
        let start = "of 3 passes of convolutions and cells, the vendor's libraries compute 1 and ptl's own kernels 2, as measured on this GPU \
                     (3 of them now; times are in ";
        assert!(news[0].starts_with(start), "{}", news[0]);
        assert!(measured.take_news().is_empty());

        let again = in_file(&file);
        assert_eq!(times(&again, "one", "a", None), FAST);
        assert_eq!(times(&again, "two", "a", None), SLOW);
        assert!(again.take_news()[0].contains("(0 of them now"));
    }

    #[test]
    fn a_file_that_cannot_be_used_is_said_once_and_does_not_end_a_run() {
        let folder = tempfile::tempdir().unwrap();
        let broken = folder.path().join("times.json");
        std::fs::write(&broken, "[1]").unwrap();
        let measured = in_file(&broken);
        times(&measured, "one", "a", Some(FAST));
        assert!(measured.take_news()[0].contains("does not hold times"));
        assert_eq!(times(&in_file(&broken), "one", "a", None), FAST);

        // A file where a folder should be.
        let measured = in_file(&broken.join("times.json"));
        ["a", "b"].iter().for_each(|pass| assert_eq!(times(&measured, "one", pass, Some(FAST)), FAST));
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
        assert_eq!(measured.times("one", "a", full).unwrap(), None);
        assert_eq!(measured.times("one", "a", || unreachable!()).unwrap(), None);
        assert!(
            measured.take_news()[1].starts_with("ptl's own kernels compute 1 of these because there was no memory")
        );
        assert!(!file.exists());
    }
}
