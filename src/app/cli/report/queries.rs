//! Re-identification: ranked galleries of some queries with heat maps, pairs of cameras, verification, thresholds.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::heat::overlay;
use super::{Examined, charts, folded, paragraph, thumbnail, titled};
use crate::Result;
use crate::app::cli::html::{escaped, table};
use crate::app::cli::plot::{self, Captions, Series};
use crate::base::text::{listed, plural};
use crate::data::{Dataset, ImageSource};
use crate::eval::Output;
use crate::eval::calibration::Calibration;
use crate::eval::camera_pairs::camera_table;
use crate::eval::features_file::FeatureSet;
use crate::eval::occlusion::Covered;
use crate::eval::ranking::{QueryResult, RankingReport};
use crate::eval::report::{Evaluation, Outcome};

/// Number of gallery images of a query.
const NEAREST: usize = 10;

/// Largest number of points of the curves of distances.
const POINTS: usize = 100;

/// A ranking of features with its results.
pub(crate) struct Ranked<'a, 'f> {
    pub query: &'a FeatureSet,
    pub gallery: &'a FeatureSet,
    pub evaluation: &'a Evaluation<'f>,
    pub outcome: &'a Outcome,
    /// The data set of the features.
    pub dataset: &'a Dataset,
}

impl Ranked<'_, '_> {
    /// Returns the ranking that is shown: the re-ranked one if there is one.
    fn report(&self) -> &RankingReport {
        self.outcome.reranked.as_ref().map_or(&self.outcome.plain, |(_, report)| report)
    }

    fn result(&self, query: usize) -> Option<&QueryResult> {
        self.report().per_query.get(query).and_then(Option::as_ref)
    }

    /// Returns `count` queries at even distances from good to bad, and as many of the worst others. If the protocol has no figures of single queries, returns queries at
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
        let spread = spread(&valid);
        let worst = valid.iter().rev().filter(|query| !spread.contains(query)).copied().take(count).collect();
        [spread, worst]
    }

    /// Returns the class of a gallery image on the page: a match of the query, or another identity.
    fn class(&self, query: usize, g: usize) -> &'static str {
        if self.gallery.pids[g] == self.query.pids[query] { "match" } else { "other" }
    }

    /// Returns identity and camera of an image, as the user names them.
    fn who(&self, set: &FeatureSet, index: usize) -> String {
        let names = &self.dataset.names;
        let name =
            |number: i64, names: &BTreeMap<i64, String>| names.get(&number).cloned().unwrap_or(number.to_string());
        format!("{}, camera {}", name(set.pids[index], &names.ids), name(set.camids[index], &names.cameras))
    }

    /// Returns the gallery images of a query that heat maps are drawn with: the nearest, and the nearest match if it is another one.
    fn partners(&self, query: usize, nearest: &[(usize, f32)]) -> Vec<usize> {
        let is_match = |g: &&(usize, f32)| self.gallery.pids[g.0] == self.query.pids[query];
        let (first, of_same) = (nearest.first(), nearest.iter().find(is_match));
        let second = of_same.filter(|same| Some(same.0) != first.map(|first| first.0));
        first.into_iter().chain(second).map(|(g, _)| *g).collect()
    }
}

/// Returns what the page shows of a ranking. `calibration` are the thresholds that were found beside the weights, or why they cannot be used.
///
/// # Errors
/// An image cannot be read; the device fails; [`crate::Error::Stopped`].
pub(crate) fn of_queries(
    ranked: &Ranked,
    calibration: &Result<Option<Calibration>>,
    examined: &mut Examined,
) -> Result<String> {
    let mut html = format!("<pre>{}</pre>\n", escaped(&ranked.outcome.to_string()));
    let [spread, worst] = ranked.chosen(examined.amount.count);
    let pictures = [("Queries from good to bad", spread), ("Worst queries", worst)];
    let total = pictures.iter().map(|(_, queries)| queries.len()).sum();
    html += &paragraph(
        "Below an image are its rank and distance, then identity and camera. A green frame is a match of the query, a red one another identity. In a \
         heat map, the similarity falls where the image is coloured and covered, most where it is red.",
    );
    if ranked.outcome.reranked.is_some() {
        html += &paragraph(
            "Ranks, distances and AP of queries are those of the re-ranking; cosines, pairs of cameras and verification are those of the features.",
        );
    }
    let mut task = examined.amount.heat_maps.then(|| examined.start(total, "queries"));
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
        let names = &ranked.dataset.names.cameras;
        if !names.is_empty() {
            let names = names.iter().map(|(number, name)| format!("{number} {name}"));
            html += &paragraph(&format!("Cameras by their numbers: {}.", listed(names)));
        }
    }
    if let Some(roc) = &ranked.outcome.roc {
        html += &format!("<h3>Verification</h3>\n<pre>{}</pre>\n", escaped(&roc.table()));
    }
    html += "<h3>Thresholds</h3>\n";
    html += &match calibration {
        Ok(Some(calibration)) => thresholds(calibration),
        Ok(None) => paragraph(
            "There is no calibration beside the weights: ptl-train calibrate measures thresholds for decisions.",
        ),
        Err(error) => paragraph(&format!("The calibration beside the weights cannot be used: {error}.")),
    };
    Ok(html)
}

/// Returns a query with its nearest gallery images, and heat maps of some of them.
fn ranked_row(ranked: &Ranked, query: usize, examined: &mut Examined) -> Result<String> {
    let upright = examined.model.options.transform.upright;
    let nearest = ranked.evaluation.nearest(query, NEAREST)?;
    let figure = |set: &FeatureSet, index: usize, class: &str, text: &str| -> Result<String> {
        let image = source(set, index);
        let picture = thumbnail(&image, upright)?;
        Ok(titled(class, &picture, [text, &ranked.who(set, index)], &image.below(&ranked.dataset.root)))
    };
    let result = ranked.result(query);
    let ap = result.map_or_else(|| "query".into(), |result| format!("AP {:.1} %", 100.0 * result.ap));
    let mut row = figure(ranked.query, query, "query", &ap)?;
    for (rank, &(g, distance)) in nearest.iter().enumerate() {
        row += &figure(ranked.gallery, g, ranked.class(query, g), &format!("{}: {distance:.3}", rank + 1))?;
    }
    let mut html = format!("<div class=\"ranked\">{row}</div>\n");
    if let Some(result) = result.filter(|result| result.first_match_rank > NEAREST) {
        html += &paragraph(&format!("The first match has rank {}.", result.first_match_rank));
    }
    if examined.amount.heat_maps && !nearest.is_empty() {
        html += &folded("heat maps: where the similarity falls", &heat_maps(ranked, query, &nearest, examined)?);
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
        // Of the images as they are, and not scaled down.
        let similarity = cosine(row(ranked.query, query), row(ranked.gallery, g));
        let rank = 1 + nearest.iter().position(|(other, _)| *other == g).expect("one of the nearest");
        for ((image, covered), other, class, text) in
            [(&of_query, &of_gallery, "of-query", "query"), (&of_gallery, &of_query, ranked.class(query, g), "gallery")]
        {
            let map = covered.heat_map(|feature| cosine(feature, other.1.whole()));
            let picture = overlay(&thumbnail(image, upright)?, &map);
            let below = format!("cosine {similarity:.3}, falls by up to {:.3}", map.largest_fall);
            let name = image.below(&ranked.dataset.root);
            html += &titled(class, &picture, [&format!("{text}, rank {rank}"), &below], &name);
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

fn row(set: &FeatureSet, index: usize) -> &[f32] {
    &set.features[index * set.dim..][..set.dim]
}

fn source(set: &FeatureSet, index: usize) -> ImageSource {
    ImageSource::File(set.paths[index].clone())
}

/// Returns the tables of a calibration, and how often pairs have each distance.
fn thresholds(calibration: &Calibration) -> String {
    let histogram = &calibration.histogram;
    let is_seen = |bin: &usize| histogram.genuine[*bin] + histogram.impostors[*bin] > 0;
    let bins = (0..histogram.genuine.len()).rfind(is_seen).map_or(0, |last| last + 1);
    let together = bins.div_ceil(POINTS).max(1);
    let width = together as f64 * histogram.bin_width;
    let shares = |name: &str, counts: &[u64]| {
        let total: u64 = counts.iter().sum();
        let point = |(i, counts): (usize, &[u64])| {
            ((i as f64 + 0.5) * width, 100.0 * counts.iter().sum::<u64>() as f64 / total as f64)
        };
        let points = counts[..bins].chunks(together).enumerate().map(point).collect();
        Series { name: format!("{name}: {}", plural(total as usize, "pair", "pairs")), points }
    };
    let series = [shares("one identity", &histogram.genuine), shares("two identities", &histogram.impostors)];
    let y = format!("% of the pairs in steps of {width:.3}");
    let chart = plot::curves(Captions { title: "Distances of pairs", x: "distance", y: &y }, &series);
    let data = paragraph(&format!("Calibrated on {}.", calibration.data.name));
    format!("{data}<pre>{}</pre>\n{}", escaped(&calibration.tables()), charts(&[chart]))
}
