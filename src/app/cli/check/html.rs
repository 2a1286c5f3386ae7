//! The report as one HTML page, with small pictures of the images that it names.

use std::fmt::Write;
use std::path::Path;

use super::{Report, counts_table};
use crate::Result;
use crate::app::cli::html::{document, escaped, picture, small, table};
use crate::base::atomic::atomic_write;
use crate::base::text::{Shown, plural};
use crate::data::check::{Finding, Subject};

/// The longer side of a small picture, pixels.
const SIDE: usize = 96;
/// Cases of a finding that are shown, and images of a case.
const SHOWN: usize = 12;
const OF_A_CASE: usize = 4;

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
    let mut page = format!("<p>{}</p>\n{}", escaped(&report.label), table(&counts_table(&report.counts, subject)));
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
    document(&report.name, "", &page)
}

/// Returns the part of a finding.
fn section(finding: &Finding, subject: &Subject, upright: bool) -> String {
    let class = finding.severity.word();
    let mut text = format!("<h2 class=\"{class}\">{class}: {}</h2>\n<div class=\"cases\">\n", escaped(&finding.text));
    for case in finding.cases.iter().take(SHOWN) {
        text += "<figure>";
        for &index in case.iter().take(OF_A_CASE) {
            if let Some(picture) = small_picture(subject, index, upright) {
                let _ = write!(text, "<img alt=\"\" src=\"{picture}\">");
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

/// Returns the address of a small copy of an image; `None` for an image that cannot be decoded.
fn small_picture(subject: &Subject, index: usize, upright: bool) -> Option<String> {
    let (image, _share) = subject.items[index].image.decode(upright).ok()?;
    Some(picture(&small(&image, SIDE)))
}
