//! Thresholds of distances for decisions, measured on identities that the network was not trained on: whether two images show the same
//! person, and whether the person of an image is in a gallery.
//!
//! FMR, the false match rate, is the share of pairs of two identities at most at the threshold's distance, and TMR, the true match rate, that of
//! pairs of one identity (ISO/IEC 19795-1). A pair has a query and a gallery image; two images that are both queries and in the gallery make two.
//! FMR and TMR are the FPR and TPR of [`roc`](super::roc). Intervals are of 95 %, over identities.

mod measure;

use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub use self::measure::{CalibrationInput, CalibrationRates, calibrate};
use super::features_file::FeatureOrigin;
use super::interval::Proportion;
use super::ranking::GalleryFilter;
use super::search::OpenSet;
use crate::base::atomic::atomic_write;
use crate::base::input;
use crate::base::report::Table;
use crate::{Error, Result};

/// The version of the file.
const VERSION: u32 = 1;
/// Largest accepted file, bytes.
const LARGEST: u64 = 1 << 24;

/// The images that a calibration was measured on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CalibrationData {
    /// Name of the data set.
    pub name: String,
    /// Number of queries with a match.
    pub queries: usize,
    /// Number of gallery images.
    pub gallery: usize,
    /// Number of identities in the gallery.
    pub gallery_identities: usize,
    /// Which pairs do not count.
    pub filter: GalleryFilter,
}

/// A threshold for pairs of images.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PairThreshold {
    /// The wanted FMR.
    pub wanted_fmr: f64,
    /// The largest distance whose FMR is at most that.
    pub threshold: f64,
    /// FMR at the threshold.
    pub fmr: Proportion,
    /// TMR at the threshold.
    pub tmr: Proportion,
}

/// Numbers of pairs by distance.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Histogram {
    /// Width of a bin; the first begins at 0.
    pub bin_width: f64,
    /// Pairs of one identity in each bin.
    pub genuine: Vec<u64>,
    /// Pairs of two identities in each bin.
    pub impostors: Vec<u64>,
}

impl Histogram {
    /// Returns the shares `[FMR, TMR]` of pairs that are at `distance` or nearer; all pairs in its bin are taken to be.
    pub fn rates(&self, distance: f64) -> [f64; 2] {
        let bins = ((distance / self.bin_width) as usize).saturating_add(1).min(self.genuine.len());
        let share = |counts: &[u64]| counts[..bins].iter().sum::<u64>() as f64 / counts.iter().sum::<u64>() as f64;
        [share(&self.impostors), share(&self.genuine)]
    }
}

/// The part of the file that every version has.
#[derive(Deserialize)]
struct Version {
    version: u32,
}

/// A rate that a threshold is wanted for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum WantedRate {
    /// A false match rate of pairs.
    Fmr(f64),
    /// A false positive identification rate of searches.
    Fpir(f64),
}

impl fmt::Display for WantedRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WantedRate::Fmr(rate) => write!(f, "FMR {rate}"),
            WantedRate::Fpir(rate) => write!(f, "FPIR {rate}"),
        }
    }
}

/// Thresholds of a model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Calibration {
    version: u32,
    /// The model and settings that the thresholds are for.
    pub origin: FeatureOrigin,
    /// The images.
    pub data: CalibrationData,
    /// Thresholds for pairs, one for each wanted FMR that could be measured.
    pub verification: Vec<PairThreshold>,
    /// Thresholds for searches in a gallery as large as this one. Each query counts twice: as known, and without the images of its identity in
    /// the gallery as unknown.
    pub identification: OpenSet,
    /// All pairs by their distance.
    pub histogram: Histogram,
}

impl Calibration {
    /// Returns the usual place of the calibration of a file of weights: `NAME.calibration.json` beside it.
    pub fn beside(weights: &Path) -> PathBuf {
        weights.with_extension("calibration.json")
    }

    /// Writes the calibration; replaces a file that is there.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn write(&self, path: &Path) -> Result<()> {
        atomic_write(path, |file| {
            serde_json::to_writer_pretty(&mut *file, self)?;
            file.write_all(b"\n")
        })
    }

    /// Reads a calibration.
    ///
    /// # Errors
    /// The file cannot be read, is no calibration, or has values that none can have.
    pub fn read(path: &Path) -> Result<Calibration> {
        let bad = |reason: String| Error::Calibration { path: path.into(), reason };
        let text = input::read(path, LARGEST)?;
        let no_calibration = |e: serde_json::Error| bad(format!("it is no file of `ptl-train calibrate` ({e})"));
        let Version { version } = serde_json::from_slice(&text).map_err(no_calibration)?;
        if version != VERSION {
            return Err(bad(format!("it has version {version}, and version {VERSION} is known: calibrate again")));
        }
        let calibration: Calibration = serde_json::from_slice(&text).map_err(no_calibration)?;
        calibration.check().map_err(bad)?;
        Ok(calibration)
    }

    fn check(&self) -> Result<(), String> {
        let pairs = self.verification.iter().flat_map(|point| [&point.fmr, &point.tmr]);
        let searches = self.identification.points.iter().flat_map(|point| [&point.fpir, &point.tpir]);
        let is_share = |share: &f64| (0.0..=1.0).contains(share);
        let mut shares = pairs.chain(searches).flat_map(|of| [of.share, of.interval[0], of.interval[1]]);
        if let Some(odd) = shares.find(|share| !is_share(share)) {
            return Err(format!("its rate {odd} is not between 0 and 1"));
        }
        let thresholds = self.verification.iter().map(|point| point.threshold);
        let mut thresholds = thresholds.chain(self.identification.points.iter().map(|point| point.threshold));
        if let Some(odd) = thresholds.find(|threshold| !threshold.is_finite() || *threshold < 0.0) {
            return Err(format!("its threshold {odd} is no distance"));
        }
        let Histogram { bin_width, genuine, impostors } = &self.histogram;
        let total = |counts: &[u64]| counts.iter().try_fold(0u64, |sum, count| sum.checked_add(*count)).unwrap_or(0);
        let counts = [genuine, impostors].map(|counts| total(counts));
        if !(bin_width.is_finite() && *bin_width > 0.0) || genuine.len() != impostors.len() || counts.contains(&0) {
            return Err("its histogram has no pairs, or cannot be read".into());
        }
        Ok(())
    }

    /// Returns the largest distance that is accepted at a wanted rate.
    ///
    /// # Errors
    /// [`Error::Setting`] names the rates that there are.
    pub fn threshold(&self, wanted: WantedRate) -> Result<f64> {
        let of_pairs = self.verification.iter().map(|point| (point.wanted_fmr, point.threshold));
        let points = &self.identification.points;
        let of_searches = points.iter().filter_map(|point| Some((point.wanted_fpir?, point.threshold)));
        let (option, rate, known): (_, _, Vec<(f64, f64)>) = match wanted {
            WantedRate::Fmr(rate) => ("`fmr`", rate, of_pairs.collect()),
            WantedRate::Fpir(rate) => ("`fpir`", rate, of_searches.collect()),
        };
        let same = |known: f64| (known - rate).abs() <= 1e-9 * rate;
        if let Some((_, threshold)) = known.iter().find(|(known, _)| same(*known)) {
            return Ok(*threshold);
        }
        let rates: Vec<String> = known.iter().map(|(rate, _)| rate.to_string()).collect();
        let reason = if rates.is_empty() {
            "the calibration has no threshold of this kind: calibrate on more identities, or with a larger rate".into()
        } else {
            format!("the calibration has {}: name one of these, or calibrate with this one too", rates.join(", "))
        };
        Err(Error::Setting { setting: option.into(), value: rate.to_string(), reason })
    }

    /// Returns the wanted rate, if there is a threshold for it, else the smallest one of its kind.
    ///
    /// # Errors
    /// As [`Calibration::threshold`], if there is none of its kind.
    pub fn nearest_to(&self, wanted: WantedRate) -> Result<WantedRate> {
        let smallest = |rates: &mut dyn Iterator<Item = f64>| rates.min_by(f64::total_cmp);
        let known = match wanted {
            WantedRate::Fmr(_) => {
                smallest(&mut self.verification.iter().map(|point| point.wanted_fmr)).map(WantedRate::Fmr)
            }
            WantedRate::Fpir(_) => {
                smallest(&mut self.identification.points.iter().filter_map(|point| point.wanted_fpir))
                    .map(WantedRate::Fpir)
            }
        };
        match (self.threshold(wanted), known) {
            (Err(_), Some(known)) => Ok(known),
            (found, _) => found.map(|_| wanted),
        }
    }

    /// Returns the number of pairs of two identities.
    pub fn impostors(&self) -> u64 {
        self.histogram.impostors.iter().sum()
    }

    /// Returns the thresholds as tables.
    pub fn tables(&self) -> String {
        let mut pairs = Table::new(["two images", "threshold", "false matches", "FMR %", "95 %", "TMR %", "95 %"]);
        for PairThreshold { wanted_fmr, threshold, fmr, tmr } in &self.verification {
            pairs.row([
                format!("FMR {wanted_fmr}"),
                format!("{threshold:.4}"),
                fmr.count.to_string(),
                fmr.percent(),
                fmr.percent_interval(),
                tmr.percent(),
                tmr.percent_interval(),
            ]);
        }
        let Histogram { genuine, impostors, .. } = &self.histogram;
        let [genuine, impostors] = [genuine, impostors].map(|counts| counts.iter().sum::<u64>());
        let CalibrationData { queries, gallery, gallery_identities, .. } = self.data;
        let mut search = Table::new(["search", "threshold", "FPIR %", "95 %", "TPIR (rank 1) %", "95 %"]);
        self.identification.add_rows(&mut search);
        format!(
            "{pairs}pairs: {genuine} of one identity, {impostors} of two\n\n{search}{queries} queries, each with and without its identity \
             in the gallery of {gallery} images ({gallery_identities} identities)"
        )
    }
}

/// Reads the calibration `named`, or else the one `beside` the weights, if that exists, and checks that it is for features of `origin`, if
/// that is known.
///
/// # Errors
/// As [`Calibration::read`]; it is for other features.
pub fn find_calibration(
    named: Option<&Path>,
    beside: Option<&Path>,
    origin: Option<&FeatureOrigin>,
) -> Result<Option<Calibration>> {
    let Some(path) = named.or(beside.filter(|path| path.exists())) else { return Ok(None) };
    let calibration = Calibration::read(path)?;
    match origin.and_then(|origin| calibration.origin.difference(origin, "this model")) {
        Some(reason) => Err(Error::Calibration { path: path.into(), reason: format!("{reason}, or calibrate again") }),
        None => Ok(Some(calibration)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_of_a_distance_come_from_its_bin() {
        let histogram = Histogram { bin_width: 0.5, genuine: vec![3, 1, 0, 0], impostors: vec![0, 1, 4, 5] };
        assert_eq!(histogram.rates(0.0), [0.0, 0.75]);
        assert_eq!(histogram.rates(0.7), [0.1, 1.0]);
        assert_eq!([1.9, 2.0, 1e30, f64::INFINITY].map(|d| histogram.rates(d)), [[1.0, 1.0]; 4]);
    }
}
