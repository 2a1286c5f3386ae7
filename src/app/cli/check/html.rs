//! The report as one HTML page, with small pictures of the images that it names.

use std::fmt::Write;
use std::io::Cursor;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use image::imageops::{FilterType, resize};
use image::{ImageFormat, RgbImage};

use super::Report;
use crate::Result;
use crate::base::atomic::atomic_write;
use crate::base::text::{Shown, plural};
use crate::data::check::{Finding, Subject};

/// The longer side of a small picture, pixels.
const SIDE: u32 = 96;
/// Cases of a finding that are shown, and images of a case.
const SHOWN: usize = 12;
const OF_A_CASE: usize = 4;

const STYLE: &str = "body{font:15px/1.45 system-ui,sans-serif;max-width:64rem;margin:2rem auto;padding:0 1rem;color:#1d1d1f}\
h1{font-size:1.4rem}h2{font-size:1.05rem;margin:1.6rem 0 .4rem}table{border-collapse:collapse}td,th{padding:.15rem .8rem .15rem 0;text-align:right}\
td:first-child,th:first-child{text-align:left}.problem{color:#b00020}.warning{color:#8a5a00}.note{color:#48505a}\
.cases{display:flex;flex-wrap:wrap;gap:.6rem}figure{margin:0;max-width:15rem;font-size:.75rem;overflow-wrap:anywhere}\
figure img{margin-right:.2rem;border:1px solid #ccc}";

/// Writes the report to a file.
///
/// # Errors
/// The file cannot be written.
pub(crate) fn write(path: &Path, report: &Report, subject: &Subject, upright: bool) -> Result<()> {
    let page = page(report, subject, upright);
    atomic_write(path, |file| file.write_all(page.as_bytes()))
}

/// Returns the page.
fn page(report: &Report, subject: &Subject, upright: bool) -> String {
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{name}</title><style>{STYLE}</style></head><body>\n\
         <h1>{name}</h1>\n<p>{label}</p>\n",
        name = escaped(&report.name),
        label = escaped(&report.label)
    );
    let _ = writeln!(
        page,
        "<table><tr><th>subset</th><th>{}</th><th>images</th><th>cameras</th><th>fewest images</th><th>middle</th><th>most</th></tr>",
        subject.groups_word()
    );
    for row in &report.counts {
        let [fewest, middle, most] = row.images_of_a_group;
        let cameras = row.cameras.map_or_else(|| "-".to_string(), |cameras| cameras.to_string());
        let _ = writeln!(
            page,
            "<tr><td>{}</td><td>{}</td><td>{}</td><td>{cameras}</td><td>{fewest}</td><td>{middle}</td><td>{most}</td></tr>",
            row.subset, row.groups, row.images
        );
    }
    page += "</table>\n";
    for warning in &report.warnings {
        let _ = writeln!(page, "<p class=\"warning\">{}</p>", escaped(warning));
    }
    report.findings.iter().for_each(|finding| page += &section(finding, subject, upright));
    if report.findings.is_empty() {
        page += "<p>Nothing was found.</p>\n";
    }
    if let Some(cost) = &report.cost {
        let _ = writeln!(page, "<h2>Cost</h2>\n<p>{}</p>", escaped(&cost.to_string()));
    }
    page + "</body></html>\n"
}

/// Returns the part of a finding.
fn section(finding: &Finding, subject: &Subject, upright: bool) -> String {
    let class = finding.severity.word();
    let mut text = format!("<h2 class=\"{class}\">{class}: {}</h2>\n<div class=\"cases\">\n", escaped(&finding.text));
    for case in finding.cases.iter().take(SHOWN) {
        text += "<figure>";
        for &index in case.iter().take(OF_A_CASE) {
            if let Some(picture) = small_picture(subject, index, upright) {
                let _ = write!(text, "<img alt=\"\" src=\"data:image/png;base64,{picture}\">");
            }
        }
        let more = case.len().saturating_sub(OF_A_CASE);
        let more = (more > 0).then(|| format!("and {more} more"));
        let names: Vec<String> = case
            .iter()
            .take(OF_A_CASE)
            .map(|&index| {
                let item = &subject.items[index];
                let camera =
                    item.camera.map_or_else(String::new, |camera| format!(", camera {}", subject.camera(camera)));
                let name = escaped(&item.image.name().shown().to_string());
                format!("{name} ({}, {}{})", item.subset, escaped(&subject.group(item.group)), escaped(&camera))
            })
            .chain(more)
            .collect();
        let _ = writeln!(text, "<figcaption>{}</figcaption></figure>", names.join("<br>"));
    }
    text += "</div>\n";
    if finding.cases.len() > SHOWN {
        let more = plural(finding.cases.len() - SHOWN, "more is", "more are");
        let _ = writeln!(text, "<p>{more} in the JSON report.</p>");
    }
    text
}

/// Returns a scaled copy as a PNG in base 64; `None` for an image that cannot be decoded.
fn small_picture(subject: &Subject, index: usize, upright: bool) -> Option<String> {
    let (image, _share) = subject.items[index].image.decode(upright).ok()?;
    let (width, height) = (u32::try_from(image.width).ok()?, u32::try_from(image.height).ok()?);
    let image = RgbImage::from_raw(width, height, image.pixels)?;
    let scale = f64::from(SIDE) / f64::from(width.max(height));
    let side = |len: u32| ((f64::from(len) * scale.min(1.0)).round() as u32).max(1);
    let small = resize(&image, side(width), side(height), FilterType::Triangle);
    let mut bytes = Cursor::new(Vec::new());
    small.write_to(&mut bytes, ImageFormat::Png).ok()?;
    Some(STANDARD.encode(bytes.into_inner()))
}

/// Escapes the characters that HTML would interpret.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
