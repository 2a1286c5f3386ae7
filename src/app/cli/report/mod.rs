//! The report of runs as one HTML page: a file for each of its parts.

mod classes;
mod curves;
mod figures;
mod heat;
mod queries;
mod settings;

pub(crate) use classes::of_classes;
pub(crate) use curves::{states, training};
pub(crate) use figures::figures;
pub(crate) use queries::{Ranked, of_queries};
pub(crate) use settings::{costs, settings};

use image::RgbImage;

use super::html::{document, escaped, picture as picture_address, small};
use crate::Result;
use crate::base::progress::{Reporter, Task};
use crate::base::text::Shown;
use crate::config::Config;
use crate::data::ImageSource;
use crate::eval::Model;
use crate::run_dir::RunDir;

const STYLE: &str = "body{max-width:76rem}.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(30rem,100%),1fr));gap:1rem}\
.ranked{display:flex;gap:.35rem;overflow-x:auto;padding:.3rem 0;align-items:flex-start}.ranked figure{width:6.1rem;flex:none}\
.ranked img{border:4px solid #6e7781;display:block;box-sizing:border-box;width:100%;max-height:14rem;object-fit:contain}.ranked .match img{border-color:#009e46}.ranked .other img{border-color:#d5281e}\
.ranked .query{margin-right:1rem}pre{overflow-x:auto;font-size:.8rem}";

/// Longer side of a picture, pixels.
const SIDE: usize = 160;

/// Runs that differ only in their seed.
pub(crate) struct Arm {
    pub name: String,
    /// Sorted by seed.
    pub runs: Vec<RunDir>,
    /// The settings of the first run.
    pub config: Config,
    /// Number of images or queries of the first run, and its main figure in [0, 1], where it has them.
    pub measured: Option<(usize, f64)>,
}

/// A part of the page. A part without contents is left out.
pub(crate) struct Section {
    pub title: String,
    pub html: String,
}

impl Section {
    pub(crate) fn new(title: impl Into<String>, html: String) -> Section {
        Section { title: title.into(), html }
    }
}

/// How many images of a kind are shown, and whether heat maps are drawn.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Amount {
    pub count: usize,
    pub heat_maps: bool,
}

/// A model that draws heat maps, and their progress.
pub(crate) struct Examined<'a, 'b> {
    pub model: &'a mut Model<'b>,
    pub reporter: &'a Reporter,
    pub amount: Amount,
}

impl Examined<'_, '_> {
    /// Starts to show the progress of heat maps of `total` things, of which `unit` is the name.
    fn start(&self, total: usize, unit: &'static str) -> Task {
        self.reporter.start("heat maps", total as u64, unit)
    }
}

/// Returns the page.
pub(crate) fn page(title: &str, sections: &[Section]) -> String {
    let there = || sections.iter().filter(|section| !section.html.is_empty()).enumerate();
    let links: String = there()
        .map(|(i, section)| format!("<a href=\"#part{i}\">{}</a> ", escaped(&section.title.shown().to_string())))
        .collect();
    let parts: String = there()
        .map(|(i, section)| {
            format!(
                "<section id=\"part{i}\"><h2>{}</h2>\n{}</section>\n",
                escaped(&section.title.shown().to_string()),
                section.html
            )
        })
        .collect();
    document(title, STYLE, &format!("<nav>{links}</nav>\n{parts}"))
}

/// Returns a picture with lines of text below it, and a name that is shown on request.
fn titled(class: &str, picture: &RgbImage, caption: [&str; 2], name: &str) -> String {
    let lines = caption.map(|line| escaped(&line.shown().to_string())).join("<br>");
    let (name, address) = (escaped(&name.shown().to_string()), picture_address(picture));
    format!(
        "<figure class=\"{class}\"><img alt=\"{name}\" title=\"{name}\" src=\"{address}\"><figcaption>{lines}</figcaption></figure>"
    )
}

/// Decodes an image and scales it down for the page.
fn thumbnail(image: &ImageSource, upright: bool) -> Result<RgbImage> {
    // The share of the memory for decoding is kept until only the small copy is left.
    let (pixels, _share) = image.decode(upright)?;
    Ok(small(&pixels, SIDE))
}

/// Returns a paragraph.
pub(crate) fn paragraph(text: &str) -> String {
    format!("<p>{}</p>\n", escaped(&text.shown().to_string()))
}

/// Returns contents that are shown on request.
fn folded(summary: &str, html: &str) -> String {
    format!("<details><summary>{}</summary>\n{html}</details>\n", escaped(&summary.shown().to_string()))
}

/// Returns charts side by side where the page is wide enough.
fn charts(svgs: &[String]) -> String {
    if svgs.is_empty() { String::new() } else { format!("<div class=\"charts\">\n{}</div>\n", svgs.concat()) }
}
