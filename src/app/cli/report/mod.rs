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

use super::html::{document, escaped};
use crate::base::progress::{Reporter, Task};
use crate::config::Config;
use crate::eval::Model;
use crate::run_dir::RunDir;

const STYLE: &str = "body{max-width:76rem}.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(30rem,100%),1fr));gap:1rem}\
.ranked{display:flex;gap:.35rem;overflow-x:auto;padding:.3rem 0;align-items:flex-start}.ranked figure{width:6.1rem;flex:none}\
.ranked img{border:4px solid #6e7781;display:block;box-sizing:border-box;width:100%}.ranked .match img{border-color:#009e46}.ranked .other img{border-color:#d5281e}\
.ranked .query{margin-right:1rem}pre{overflow-x:auto;font-size:.8rem}";

/// Runs that differ only in their seed.
pub(crate) struct Arm {
    pub name: String,
    /// Sorted by seed.
    pub runs: Vec<RunDir>,
    /// The settings of the first run.
    pub config: Config,
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
pub(crate) struct Shown {
    pub count: usize,
    pub heat_maps: bool,
}

/// A model that draws heat maps, and their progress.
pub(crate) struct Examined<'a, 'b> {
    pub model: &'a mut Model<'b>,
    pub reporter: &'a Reporter,
    pub shown: Shown,
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
    let links: String =
        there().map(|(i, section)| format!("<a href=\"#part{i}\">{}</a> ", escaped(&section.title))).collect();
    let parts: String = there()
        .map(|(i, section)| {
            format!("<section id=\"part{i}\"><h2>{}</h2>\n{}</section>\n", escaped(&section.title), section.html)
        })
        .collect();
    document(title, STYLE, &format!("<nav>{links}</nav>\n{parts}"))
}

/// Returns a paragraph.
fn paragraph(text: &str) -> String {
    format!("<p>{}</p>\n", escaped(text))
}

/// Returns contents that are shown on request.
fn folded(summary: &str, html: &str) -> String {
    format!("<details><summary>{}</summary>\n{html}</details>\n", escaped(summary))
}

/// Returns charts side by side where the page is wide enough.
fn charts(svgs: &[String]) -> String {
    if svgs.is_empty() { String::new() } else { format!("<div class=\"charts\">\n{}</div>\n", svgs.concat()) }
}
