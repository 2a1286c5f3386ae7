//! Re-identification: ranked galleries of some queries with heat maps, pairs of cameras, verification, thresholds.

use std::fmt::Write;

use super::heat::{SIDE, overlay};
use super::{Examined, folded, paragraph};
use crate::Result;
use crate::app::cli::html::{escaped, picture, small, table};
use crate::app::cli::plot::{self, Captions, Series};
use crate::base::text::{Shown as _, plural};
use crate::data::ImageSource;
use crate::eval::Output;
use crate::eval::calibration::Calibration;
use crate::eval::camera_pairs::camera_table;
use crate::eval::features_file::FeatureSet;
use crate::eval::occlusion::Covered;
use crate::eval::ranking::{QueryResult, RankingReport};
use crate::eval::report::{Evaluation, Outcome};

/// Number of gallery images of a query.
const NEAREST: usize = 10;

/// A ranking of features with its results.
pub(crate) struct Ranked<'a, 'f> {
    pub query: &'a FeatureSet,
    pub gallery: &'a FeatureSet,
    pub evaluation: &'a Evaluation<'f>,
    pub outcome: &'a Outcome,
}

impl Ranked<'_, '_> {
    /// Returns the ranking that is shown: the re-ranked one if there is one.
    fn report(&self) -> &RankingReport {
        self.outcome.reranked.as_ref().map_or(&self.outcome.plain, |(_, report)| report)
    }

    fn result(&self, query: usize) -> Option<&QueryResult> {
        self.report().per_query.get(query).and_then(Option::as_ref)
    }

    /// Returns `count` queries from good to bad, and as many of the worst. If the protocol has no figures of single queries, returns queries at
    /// even distances, and none as worst.
    fn chosen(&self, count: usize) -> [Vec<usize>; 2] {
        let mut valid: Vec<usize> = (0..self.query.len()).filter(|&q| self.result(q).is_some()).collect();
        let ap = |&q: &usize| self.result(q).map_or(0.0, |result| result.ap);
        let spread = |of: &[usize]| -> Vec<usize> {
            let shown = count.min(of.len());
            (0..shown).map(|i| of[(2 * i + 1) * of.len() / (2 * shown)]).collect()
        };
        if valid.is_empty() {
            return [spread(&(0..self.query.len()).collect::<Vec<_>>()), Vec::new()];
        }
        valid.sort_by(|a, b| ap(b).total_cmp(&ap(a)));
        let worst = valid.iter().rev().copied().take(count).collect();
        [spread(&valid), worst]
    }

    /// Returns the gallery images of a query that heat maps are drawn with: the nearest, and the nearest match if it is another one.
    fn partners(&self, query: usize, nearest: &[(usize, f32)]) -> Vec<usize> {
        let is_match = |g: &&(usize, f32)| self.gallery.pids[g.0] == self.query.pids[query];
        let (first, of_same) = (nearest.first(), nearest.iter().find(is_match));
        let second = of_same.filter(|same| Some(same.0) != first.map(|first| first.0));
        first.into_iter().chain(second).map(|(g, _)| *g).collect()
    }
}

/// Returns what the page shows of a ranking; `calibration` are the thresholds that were found beside the weights.
///
/// # Errors
/// An image cannot be read; the device fails; [`crate::Error::Stopped`].
pub(crate) fn of_queries(
    ranked: &Ranked,
    calibration: Option<&Calibration>,
    examined: &mut Examined,
) -> Result<String> {
    let mut html = format!("<pre>{}</pre>\n", escaped(&ranked.outcome.to_string()));
    let [spread, worst] = ranked.chosen(examined.shown.count);
    let pictures = [("Queries from good to bad", spread), ("Worst queries", worst)];
    let total = pictures.iter().map(|(_, queries)| queries.len()).sum();
    let mut task = examined.shown.heat_maps.then(|| examined.start(total, "queries"));
    for (title, queries) in pictures.iter().filter(|(_, queries)| !queries.is_empty()) {
        let _ = writeln!(html, "<h3>{title}</h3>");
        for &query in queries {
            html += &ranked_row(ranked, query, examined)?;
            task.iter_mut().for_each(|task| task.advance(1, ""));
        }
    }
    task.into_iter().for_each(|task| task.finish(""));
    if let Some(pairs) = &ranked.outcome.camera_pairs {
        html += &format!("<h3>Pairs of cameras</h3>\n{}", table(&camera_table(pairs)));
    }
    if let Some(roc) = &ranked.outcome.roc {
        html += &format!("<h3>Verification</h3>\n<pre>{}</pre>\n", escaped(&roc.table()));
    }
    html += "<h3>Thresholds</h3>\n";
    html += &calibration.map_or_else(
        || {
            paragraph(
                "There is no calibration beside the weights: ptl-train calibrate measures thresholds for decisions.",
            )
        },
        thresholds,
    );
    Ok(html)
}

/// Returns a query with its nearest gallery images, and heat maps of some of them.
fn ranked_row(ranked: &Ranked, query: usize, examined: &mut Examined) -> Result<String> {
    let upright = examined.model.options.transform.upright;
    let nearest = ranked.evaluation.nearest(query, NEAREST)?;
    let figure = |set: &FeatureSet, index: usize, class: &str, text: &str| -> Result<String> {
        let (image, _share) = source(set, index).decode(upright)?;
        let caption = format!("{text}\n{}, camera {}", set.pids[index], set.camids[index]);
        Ok(titled(class, &picture(&small(&image, SIDE)), &caption, &set.name(index)))
    };
    let result = ranked.result(query);
    let ap = result.map_or_else(|| "query".into(), |result| format!("AP {:.1} %", 100.0 * result.ap));
    let mut row = figure(ranked.query, query, "query", &ap)?;
    for (rank, &(g, distance)) in nearest.iter().enumerate() {
        let class = if ranked.gallery.pids[g] == ranked.query.pids[query] { "match" } else { "other" };
        row += &figure(ranked.gallery, g, class, &format!("{}: {distance:.3}", rank + 1))?;
    }
    let mut html = format!("<div class=\"ranked\">{row}</div>\n");
    if let Some(result) = result.filter(|result| result.first_match_rank > NEAREST) {
        html += &paragraph(&format!("The first match has rank {}.", result.first_match_rank));
    }
    if examined.shown.heat_maps && !nearest.is_empty() {
        html += &folded("what the similarity depends on", &heat_maps(ranked, query, &nearest, examined)?);
    }
    Ok(html)
}

/// Returns heat maps of a query and some gallery images: where the similarity of the two falls if a part of one is covered.
fn heat_maps(ranked: &Ranked, query: usize, nearest: &[(usize, f32)], examined: &mut Examined) -> Result<String> {
    let upright = examined.model.options.transform.upright;
    let mut cover = |set: &FeatureSet, index: usize| -> Result<(ImageSource, Covered)> {
        let image = source(set, index);
        let covered = examined.model.cover(&image, Output::Feature)?;
        Ok((image, covered))
    };
    let of_query = cover(ranked.query, query)?;
    let mut html = "<div class=\"ranked\">".to_string();
    for g in ranked.partners(query, nearest) {
        let of_gallery = cover(ranked.gallery, g)?;
        let rank = 1 + nearest.iter().position(|(other, _)| *other == g).expect("one of the nearest");
        let is_match = ranked.gallery.pids[g] == ranked.query.pids[query];
        let class = if is_match { "match" } else { "other" };
        for ((image, covered), other, class, text) in
            [(&of_query, &of_gallery, "of-query", "query"), (&of_gallery, &of_query, class, "gallery")]
        {
            let map = covered.heat_map(|feature| cosine(feature, other.1.whole()));
            let (pixels, _share) = image.decode(upright)?;
            let caption = format!("{text}, rank {rank}\ncosine {:.3}\nfalls by up to {:.3}", map.score, map.largest());
            html += &titled(class, &overlay(&pixels, &map), &caption, &image.name());
        }
    }
    Ok(html + "</div>\n")
}

/// Returns the cosine of two features.
fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let product = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum::<f64>();
    let lengths = (product(a, a) * product(b, b)).sqrt();
    if lengths == 0.0 { 0.0 } else { product(a, b) / lengths }
}

fn source(set: &FeatureSet, index: usize) -> ImageSource {
    ImageSource::File(set.paths[index].clone())
}

/// Returns a picture with lines of text below it, and a name that is shown on request.
pub(super) fn titled(class: &str, address: &str, caption: &str, name: &str) -> String {
    let (caption, name) = (escaped(caption).replace('\n', "<br>"), escaped(&name.shown().to_string()));
    format!(
        "<figure class=\"{class}\"><img alt=\"{name}\" title=\"{name}\" src=\"{address}\"><figcaption>{caption}</figcaption></figure>"
    )
}

/// Returns the tables of a calibration, and how often pairs have each distance.
fn thresholds(calibration: &Calibration) -> String {
    let histogram = &calibration.histogram;
    let shares = |name: &str, counts: &[u64]| {
        let total = counts.iter().sum::<u64>() as f64;
        let point =
            |(bin, &count): (usize, &u64)| ((bin as f64 + 0.5) * histogram.bin_width, 100.0 * count as f64 / total);
        Series {
            name: format!("{name}: {}", plural(counts.iter().sum::<u64>() as usize, "pair", "pairs")),
            points: merged(counts.iter().enumerate().map(point).collect()),
        }
    };
    let series = [shares("one identity", &histogram.genuine), shares("two identities", &histogram.impostors)];
    let captions = Captions { title: "Distances of pairs", x: "distance", y: "% of the pairs" };
    let data = paragraph(&format!("Calibrated on {}.", calibration.data.name));
    format!(
        "{data}<pre>{}</pre>\n{}",
        escaped(&calibration.tables()),
        super::charts(&[plot::curves(captions, &series)])
    )
}

/// Returns at most 100 points, each the sum of neighbours, from the first to the last that is not 0.
fn merged(points: Vec<(f64, f64)>) -> Vec<(f64, f64)> {
    const MOST: usize = 100;
    let together = points.len().div_ceil(MOST).max(1);
    let sum = |points: &[(f64, f64)]| {
        let middle = points.iter().map(|(x, _)| x).sum::<f64>() / points.len() as f64;
        (middle, points.iter().map(|(_, y)| y).sum())
    };
    points.chunks(together).map(sum).collect()
}
