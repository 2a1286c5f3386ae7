//! Reports a ranking for `evaluate` and `rank`: ranks, prints, writes, draws.

use std::fs;

use serde_json::to_string_pretty;

use crate::Result;
use crate::app::cli::args::ReportArgs;
use crate::app::cli::output::print;
use crate::base::atomic::atomic_write;
use crate::base::error::IoContext;
use crate::base::progress::Reporter;
use crate::base::text::{Shown, plural};
use crate::engine::device::Device;
use crate::eval::camera_pairs::camera_table;
use crate::eval::features_file::FeatureSet;
use crate::eval::pictures;
use crate::eval::ranking::{RankingOptions, RankingReport};
use crate::eval::report::{Details, Evaluation};
use crate::eval::rerank::RerankOptions;

/// The features to rank, and where they come from.
pub(super) struct Subject<'a> {
    pub query: &'a FeatureSet,
    pub gallery: &'a FeatureSet,
    pub trained_on: Option<&'a str>,
    pub evaluated_on: &'a str,
}

/// Creates the folder of the report, and refuses a folder for pictures that cannot be used, before any work.
pub(super) fn check_report(args: &ReportArgs) -> Result<()> {
    if let Some(folder) = args.out.as_ref().and_then(|path| path.parent()) {
        fs::create_dir_all(folder).at("create", folder)?;
    }
    args.gallery_pictures.as_deref().map_or(Ok(()), pictures::check_folder)
}

/// Ranks the features of `subject`, and prints, writes and draws the results.
pub(super) fn report(
    subject: &Subject,
    ranking: RankingOptions,
    rerank: Option<RerankOptions>,
    device: &Device,
    args: &ReportArgs,
    reporter: &Reporter,
) -> Result<()> {
    let ranking = RankingOptions { pessimistic_ties: args.pessimistic_ties, ..ranking };
    let evaluation = Evaluation::new(subject.query, subject.gallery, ranking, rerank, device, reporter)?;
    let everything = args.out.is_some();
    let details = Details { roc: args.roc || everything, camera_pairs: args.camera_pairs || everything };
    let outcome = evaluation.run(details, reporter)?;
    if let Some(path) = &args.out {
        let json = evaluation.to_json(&outcome, subject.trained_on, subject.evaluated_on);
        let text = to_string_pretty(&json).expect("plain values");
        atomic_write(path, |file| writeln!(file, "{text}"))?;
        reporter.message(&format!("report written to {}", path.shown()));
    }
    let mut text = match subject.trained_on {
        Some(trained_on) => format!("trained on {trained_on}, evaluated on {}\n{outcome}\n", subject.evaluated_on),
        None => format!("{outcome}\n"),
    };
    if let Some(roc) = outcome.roc.as_ref().filter(|_| args.roc) {
        text.push_str(&format!("\n{}\n", roc.table()));
    }
    if let Some(pairs) = outcome.camera_pairs.as_ref().filter(|_| args.camera_pairs) {
        text.push_str(&format!("\n{}", camera_table(pairs)));
    }
    print(&text)?;
    // Drawn last: images may be missing, and the figures are printed already.
    if let Some(folder) = &args.gallery_pictures {
        let worst = args.pictures_worst.then(|| outcome.reranked.as_ref().map_or(&outcome.plain, |(_, report)| report));
        let chosen = chosen_queries(subject.query.len(), args.pictures, worst);
        let drawn = pictures::draw(folder, &evaluation, subject.query, subject.gallery, &chosen)?;
        reporter.message(&format!("{} in {}", plural(drawn.len(), "picture", "pictures"), folder.shown()));
    }
    Ok(())
}

/// Returns the first `count` queries, or those with the lowest average precision in `worst`.
fn chosen_queries(queries: usize, count: usize, worst: Option<&RankingReport>) -> Vec<usize> {
    let mut chosen: Vec<usize> = (0..queries).collect();
    if let Some(report) = worst {
        let ap = |q: usize| report.per_query.get(q).and_then(Option::as_ref).map_or(f64::INFINITY, |result| result.ap);
        chosen.sort_by(|&a, &b| ap(a).total_cmp(&ap(b)));
    }
    chosen.truncate(count);
    chosen
}
