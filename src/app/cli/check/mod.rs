//! The report of `ptl-train check`, as text, JSON and HTML.

mod cost;
mod html;

use serde_json::{Value, json};

use crate::base::report::Table;
use crate::base::text::{Shown, listed, plural};
use crate::data::check::{Counts, Finding, Severity, Subject};
pub(crate) use cost::{Cost, MEASURED, measure};
pub(crate) use html::write as write_html;

/// Everything that was found.
pub(crate) struct Report {
    /// The data set as the user named it, and what it was read as.
    pub name: String,
    pub label: String,
    /// Numbers of each subset.
    pub counts: Vec<Counts>,
    /// The worst first.
    pub findings: Vec<Finding>,
    /// Sentences from reading the data set.
    pub warnings: Vec<String>,
    /// `None` if it was not asked for, or nothing could be trained.
    pub cost: Option<Cost>,
}

impl Report {
    /// Returns the number of problems.
    pub(crate) fn problems(&self) -> usize {
        self.findings.iter().filter(|finding| finding.severity == Severity::Problem).count()
    }

    /// Returns the report for people.
    pub(crate) fn to_text(&self, subject: &Subject) -> String {
        let mut text = format!("{}: {}\n{}\n", self.name, self.label, counts_table(&self.counts, subject));
        for warning in &self.warnings {
            text += &format!("reading: {warning}\n");
        }
        for finding in &self.findings {
            let word = finding.severity.word();
            let names = finding.cases.iter().map(|case| {
                let names = names_of(subject, &case[..case.len().min(2)]).join(" and ");
                if case.len() > 2 { format!("{names} and {} more", case.len() - 2) } else { names }
            });
            let names = if finding.cases.is_empty() { String::new() } else { format!(": {}", listed(names)) };
            text += &format!("{word}: {} [{}]{names}\n", finding.text, finding.kind);
        }
        if let Some(cost) = &self.cost {
            text += &format!("{cost}\n");
        }
        text + &match (self.problems(), self.findings.len()) {
            (0, 0) => "nothing was found".to_string(),
            (0, _) => "no problem was found".to_string(),
            (problems, _) => format!("{} found", plural(problems, "kind of problem was", "kinds of problems were")),
        }
    }

    /// Returns the report for programs, with all images of each finding.
    pub(crate) fn to_json(&self, subject: &Subject) -> Value {
        let finding = |finding: &Finding| {
            let mut value = json!(finding);
            value["count"] = json!(finding.cases.len());
            value["images"] = finding.cases.iter().map(|case| json!(names_of(subject, case))).collect();
            value
        };
        json!({
            "data": self.name,
            "label": self.label,
            "counts": self.counts,
            "problems": self.problems(),
            "findings": self.findings.iter().map(finding).collect::<Vec<_>>(),
            "warnings": self.warnings,
            "cost": self.cost,
        })
    }
}

/// Returns the counts as a table.
fn counts_table(counts: &[Counts], subject: &Subject) -> Table {
    let mut table = Table::new(["subset", subject.groups_word(), "images", "cameras", "fewest", "middle", "most"]);
    for row in counts {
        let [fewest, middle, most] = row.images_of_a_group.map(|images| images.to_string());
        let cameras = row.cameras.map_or_else(|| "-".to_string(), |cameras| cameras.to_string());
        table.row([
            row.subset.to_string(),
            row.groups.to_string(),
            row.images.to_string(),
            cameras,
            fewest,
            middle,
            most,
        ]);
    }
    table
}

/// Returns the names of the images of a case.
fn names_of(subject: &Subject, case: &[usize]) -> Vec<String> {
    case.iter().map(|&index| subject.items[index].image.name().shown().to_string()).collect()
}
