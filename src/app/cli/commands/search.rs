//! `ptl-train search`: the nearest images of a gallery, and which queries are unknown to it.

use std::path::{Path, PathBuf};
use std::time::Instant;

use serde::{Serialize, Serializer};
use serde_json::{Value, json};

use super::shared::{check_outputs, feature_inputs, find_threshold, open_images, refuse_classifier, set_threads};
use crate::app::cli::ExitCode;
use crate::app::cli::args::SearchArgs;
use crate::app::cli::output::{print, stderr_reporter};
use crate::base::atomic::atomic_write;
use crate::base::csv_out::write_csv;
use crate::base::progress::Reporter;
use crate::base::report::Table;
use crate::base::text::{Shown, plural};
use crate::config::{Command, Config, Setting};
use crate::data::Dataset;
use crate::engine::device::{Device, DeviceOptions, VendorUse};
use crate::eval::Output;
use crate::eval::calibration::{Calibration, WantedRate, find_calibration};
use crate::eval::features_file::{FeatureFile, FeatureFormat, FeatureOrigin, JUNK};
use crate::eval::search::{Answer, FPIR_LEVELS, Hit, OpenSet, open_set, search as search_gallery};
use crate::model::{TrainedModel, model_file};
use crate::{Error, Result};

/// FPIR of the threshold, if none is given.
const FPIR: f64 = 0.01;
/// Number of queries that are printed.
const PRINTED: usize = 20;

/// What is searched for.
struct Queries {
    /// `[queries, dim]`.
    features: Vec<f32>,
    dim: usize,
    names: Vec<String>,
    /// Identities; empty if not known.
    pids: Vec<i64>,
    origin: Option<FeatureOrigin>,
    /// Where their features come from, for messages.
    source: PathBuf,
}

/// The largest distance of an answer, and where it comes from.
struct Threshold {
    distance: f64,
    from: String,
}

/// Runs `ptl-train search`.
pub(crate) fn search(args: &SearchArgs) -> Result<ExitCode> {
    check_files(args)?;
    if args.out.is_none() && args.settings.0.has("eval.raw_csv") {
        let reason = "only --out writes a CSV file: add that, or leave it out".into();
        return Err(Error::Setting { setting: "--raw-csv".into(), value: "(given)".into(), reason });
    }
    let mut gallery = FeatureFile::open(&args.gallery, args.gallery_labels.as_deref())?;
    let reporter = stderr_reporter();
    let (queries, config, device) = match (&args.query, &args.checkpoint) {
        (Some(_), _) => of_features(args)?,
        (None, Some(_)) => of_images(args, &reporter)?,
        (None, None) => unreachable!("the arguments need one of the two"),
    };
    let gallery_name = args.gallery.shown().to_string();
    FeatureOrigin::check(&queries.source, queries.origin.as_ref(), gallery.origin.as_ref(), &gallery_name)?;
    // A threshold that is given needs no calibration.
    let checkpoint = args.checkpoint.as_ref().filter(|_| args.threshold.is_none());
    let beside = checkpoint.map(|path| Ok(Calibration::beside(&model_file(path)?))).transpose()?;
    let origin = queries.origin.as_ref().or(gallery.origin.as_ref());
    let calibration = find_calibration(args.calibration.as_deref(), beside.as_deref(), origin)?;
    if queries.origin.is_none() || gallery.origin.is_none() {
        reporter.message(
            "queries or gallery do not say which model made them: whether it is the same model for both is not checked",
        );
    }
    if let Some(reason) = gallery.why_unlabelled() {
        reporter.message(&format!("the gallery's images have no identities: {reason}"));
    }
    let threshold = threshold(args, calibration.as_ref(), &reporter)?;
    let searched = gallery.searched();
    let note = match gallery.len() - searched {
        0 => String::new(),
        junk => format!("; {junk} of identity -1 left out"),
    };
    reporter.message(&format!(
        "{gallery_name}: {} of {}{note}",
        plural(gallery.len(), "feature", "features"),
        plural(gallery.dim(), "number", "numbers")
    ));
    if let Some(calibration) = &calibration
        && args.fmr.is_none()
        && searched / 2 > calibration.data.gallery
    {
        reporter.warn(&format!(
            "the threshold was measured with a gallery of {}, and this one has {searched}: unknown identities will find someone more often \
             than the rate says",
            plural(calibration.data.gallery, "image", "images"),
        ));
    }
    if let Some(rate) = args.fmr
        && rate * searched as f64 > 0.1
    {
        reporter.warn(&format!(
            "FMR {rate} is a rate of single pairs, and the gallery has {}: many unknown queries will find someone; --fpir is for searches",
            plural(searched, "image", "images")
        ));
    }
    let start = Instant::now();
    let found = search_gallery((&queries.features, queries.dim), &mut gallery, args.top as usize, &device, &reporter)?;
    let seconds = start.elapsed().as_secs_f64();
    reporter.message(&format!(
        "searched {} for {} in {seconds:.1} s: {:.0} images/s",
        plural(searched, "image", "images"),
        plural(queries.names.len(), "query", "queries"),
        searched as f64 / seconds
    ));
    let figures = figures(&queries, &gallery, &found, threshold.as_ref());
    let result = SearchResult { queries: &queries, gallery: &gallery, found: &found, threshold, figures };
    if let Some(path) = &args.out {
        result.write_csv(path, &config)?;
        reporter.message(&format!("answers written to {}", path.shown()));
    }
    if let Some(path) = &args.json {
        atomic_write(path, |file| {
            serde_json::to_writer_pretty(&mut *file, &result.report(&gallery_name, seconds))?;
            file.write_all(b"\n")
        })?;
        reporter.message(&format!("report written to {}", path.shown()));
    }
    print(&result.to_text())?;
    Ok(ExitCode::SUCCESS)
}

/// Checks the files that will be written.
fn check_files(args: &SearchArgs) -> Result<()> {
    let mut inputs = feature_inputs(&args.gallery).to_vec();
    inputs.extend(args.query.iter().flat_map(|query| feature_inputs(query)));
    let named = [&args.query_labels, &args.gallery_labels, &args.calibration, &args.images];
    inputs.extend(named.into_iter().flatten().cloned());
    let inputs: Vec<&Path> = inputs.iter().map(PathBuf::as_path).collect();
    check_outputs(&[("--out", args.out.as_deref()), ("--json", args.json.as_deref())], &inputs)
}

/// Reads the features of the queries from a file.
fn of_features(args: &SearchArgs) -> Result<(Queries, Config, Device)> {
    let flags = &args.settings.0;
    // Those of rankings are the ones that need no network.
    let is_used = |setting: &Setting| setting.commands.contains(&Command::Rank) || setting.path == "eval.raw_csv";
    if let Some((setting, value)) = flags.iter().find(|(setting, _)| !is_used(setting)) {
        let reason = "no network runs, because --query names features: leave it out, or search for --images".into();
        return Err(Error::Setting { setting: format!("`{}`", setting.path), value: value.to_string(), reason });
    }
    let source = args.query.clone().expect("checked by the caller");
    let mut file = FeatureFile::open(&source, args.query_labels.as_deref())?;
    let config = Config::load(&Config::default(), None, flags)?;
    set_threads(&config)?;
    // Distances use the crate's own kernels, so no library is needed.
    let device = Device::open(&DeviceOptions { vendor: VendorUse::Never, ..config.device_options() })?;
    let features = file.read_all()?;
    let names = (0..file.len()).map(|row| image_name(&file, row)).collect();
    let FeatureFile { pids, origin, .. } = &mut file;
    let (pids, origin) = (std::mem::take(pids), origin.take());
    Ok((Queries { features, dim: file.dim(), names, pids, origin, source }, config, device))
}

/// Returns the name of an image as it is, so that other programs find it.
fn image_name(file: &FeatureFile, row: usize) -> String {
    file.paths.get(row).map_or_else(|| file.name(row), |path| path.to_string_lossy().into_owned())
}

/// Computes the features of images.
fn of_images(args: &SearchArgs, reporter: &Reporter) -> Result<(Queries, Config, Device)> {
    let [checkpoint, images] =
        [&args.checkpoint, &args.images].map(|path| path.clone().expect("the arguments need it"));
    let mut trained = TrainedModel::open(&checkpoint, &args.settings.0)?;
    refuse_classifier(&trained, &checkpoint)?;
    let config = trained.config.clone();
    set_threads(&config)?;
    reporter.message(&format!("device: {}", trained.device));
    trained.say_choice(reporter);
    let records = open_images(&images, &config, reporter)?;
    FeatureFormat::Safetensors.check_paths(&records.iter().map(|record| record.path.clone()).collect::<Vec<_>>())?;
    let (features, dim) = trained.model(reporter).run(Dataset::samples(&records), Output::Feature)?;
    let paths: Vec<PathBuf> = records.into_iter().map(|record| record.path).collect();
    let names = paths.iter().map(|path| path.to_string_lossy().into_owned()).collect();
    let origin = Some(trained.feature_origin()?);
    Ok((Queries { features, dim, names, pids: Vec::new(), origin, source: images }, config, trained.device))
}

/// Returns the threshold that the arguments ask for; `None` if there is none.
fn threshold(args: &SearchArgs, calibration: Option<&Calibration>, reporter: &Reporter) -> Result<Option<Threshold>> {
    if let Some(distance) = args.threshold {
        return Ok(Some(Threshold { distance, from: "as given".into() }));
    }
    let wanted = args.fmr.map(WantedRate::Fmr).or(args.fpir.map(WantedRate::Fpir));
    let found = find_threshold(calibration, wanted, WantedRate::Fpir(FPIR), reporter)?;
    Ok(found.map(|(distance, rate)| Threshold { distance, from: rate.to_string() }))
}

/// Returns figures of open-set identification, if identities are known and some queries are not in the gallery.
fn figures(
    queries: &Queries,
    gallery: &FeatureFile,
    found: &[Vec<Hit>],
    threshold: Option<&Threshold>,
) -> Option<OpenSet> {
    if queries.pids.is_empty() || gallery.pids.is_empty() {
        return None;
    }
    let mut identities: Vec<i64> = gallery.pids.clone();
    identities.sort_unstable();
    identities.dedup();
    let answer =
        |(pid, hits): (&i64, &Vec<Hit>)| Answer::new(*pid, identities.binary_search(pid).is_ok(), hits, &gallery.pids);
    // Nothing is right or wrong for images without an identity.
    let labelled = queries.pids.iter().zip(found).filter(|(pid, _)| **pid != JUNK);
    let answers: Vec<Answer> = labelled.map(answer).collect();
    let given: Vec<f64> = threshold.iter().map(|threshold| threshold.distance).collect();
    open_set(&answers, &FPIR_LEVELS, &given)
}

/// All that a search has found.
struct SearchResult<'a> {
    queries: &'a Queries,
    gallery: &'a FeatureFile,
    found: &'a [Vec<Hit>],
    threshold: Option<Threshold>,
    figures: Option<OpenSet>,
}

/// The JSON file.
#[derive(Serialize)]
struct Report<'a> {
    gallery: Value,
    threshold: Option<Value>,
    open_set: Option<&'a OpenSet>,
    seconds: f64,
    answers: Answers<'a>,
}

/// The answers, of which one at a time is in memory as JSON.
struct Answers<'a>(&'a SearchResult<'a>);

impl Serialize for Answers<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let SearchResult { queries, gallery, found, .. } = self.0;
        serializer.collect_seq(queries.names.iter().zip(*found).map(|(name, hits)| {
            let images = hits.iter().map(|hit| {
                json!({
                    "row": hit.row,
                    "image": image_name(gallery, hit.row),
                    "identity": gallery.identity(hit.row),
                    "pid": gallery.pids.get(hit.row),
                    "camid": gallery.camids.get(hit.row),
                    "distance": hit.distance,
                })
            });
            json!({
                "query": name,
                "decision": Some(self.0.decision(hits)).filter(|decision| !decision.is_empty()),
                "images": images.collect::<Vec<_>>(),
            })
        }))
    }
}

impl SearchResult<'_> {
    /// Returns the decision about a query: empty without a threshold.
    fn decision(&self, hits: &[Hit]) -> &'static str {
        match &self.threshold {
            None => "",
            Some(threshold) if hits.first().is_some_and(|hit| hit.distance <= threshold.distance) => "known",
            Some(_) => "unknown",
        }
    }

    fn write_csv(&self, path: &Path, config: &Config) -> Result<()> {
        let label = |labels: &[i64], row: usize| labels.get(row).map_or_else(String::new, i64::to_string);
        write_csv(path, config.eval.cells(), |csv| {
            csv.row(["query", "decision", "rank", "image", "identity", "pid", "camid", "distance"])?;
            for (name, hits) in self.queries.names.iter().zip(self.found) {
                let decision = self.decision(hits);
                for (rank, hit) in (1..).zip(hits) {
                    csv.row([
                        name.clone(),
                        decision.into(),
                        format!("{rank}"),
                        image_name(self.gallery, hit.row),
                        self.gallery.identity(hit.row).unwrap_or_default(),
                        label(&self.gallery.pids, hit.row),
                        label(&self.gallery.camids, hit.row),
                        hit.distance.to_string(),
                    ])?;
                }
            }
            Ok(())
        })
    }

    fn report<'b>(&'b self, gallery: &str, seconds: f64) -> Report<'b> {
        let images = self.gallery.len();
        Report {
            gallery: json!({ "file": gallery, "images": images, "searched": self.gallery.searched(), "feature_length": self.queries.dim }),
            threshold: self.threshold.as_ref().map(|t| json!({ "distance": t.distance, "from": t.from })),
            open_set: self.figures.as_ref(),
            seconds,
            answers: Answers(self),
        }
    }

    fn to_text(&self) -> String {
        let mut table = Table::new(["query", "nearest image", "identity", "distance", "decision"]);
        for (name, hits) in self.queries.names.iter().zip(self.found).take(PRINTED) {
            let hit = hits.first();
            table.row([
                name.shown().to_string(),
                hit.map_or_else(|| "(none)".into(), |hit| self.gallery.name(hit.row)),
                hit.and_then(|hit| self.gallery.identity(hit.row))
                    .map_or_else(|| "-".into(), |id| id.shown().to_string()),
                hit.map_or_else(|| "-".into(), |hit| format!("{:.4}", hit.distance)),
                Some(self.decision(hits)).filter(|decision| !decision.is_empty()).unwrap_or("-").into(),
            ]);
        }
        let mut text = table.to_string();
        let more = self.found.len().saturating_sub(PRINTED);
        if more > 0 {
            text += &format!("and {}: --out writes all\n", plural(more, "more query", "more queries"));
        }
        match &self.threshold {
            None => text += "no decisions: there is no threshold; name one with --calibration or --threshold\n",
            Some(Threshold { distance, from }) => {
                let unknown = self.found.iter().filter(|hits| self.decision(hits) == "unknown").count();
                let all = plural(self.found.len(), "query is", "queries are");
                text += &format!("{unknown} of {all} unknown, with no image up to distance {distance:.4} ({from})\n");
            }
        }
        if let Some(figures) = &self.figures {
            text += &format!("\n{}\n", figures.table());
            let shown = |rate: &&f64| figures.points.iter().any(|point| point.wanted_fpir == Some(**rate));
            let missing: Vec<String> = FPIR_LEVELS.iter().filter(|rate| !shown(rate)).map(f64::to_string).collect();
            if !missing.is_empty() {
                text += &format!("no threshold for FPIR {}: too few queries of others\n", missing.join(", "));
            }
            let left_out = self.queries.pids.iter().filter(|pid| **pid == JUNK).count();
            if left_out > 0 {
                text += &format!(
                    "{} of identity -1 left out of these figures\n",
                    plural(left_out, "query is", "queries are")
                );
            }
        }
        text
    }
}
