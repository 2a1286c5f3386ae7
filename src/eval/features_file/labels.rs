//! Which image a feature is of: lists of names in Market-1501's style, and CSV files.

use std::path::{Path, PathBuf};

use crate::data::parse_name;
use crate::text::Shown;
use crate::{Error, Result, input};

/// First line of a CSV file of labels.
const HEADER: &str = "path,pid,camid";
/// Largest file of labels, bytes.
const LARGEST: u64 = 1 << 30;

/// Path, identity and camera of each feature.
#[derive(Debug, Default, PartialEq)]
pub(super) struct ImageLabels {
    pub paths: Vec<PathBuf>,
    pub pids: Vec<i64>,
    pub camids: Vec<i64>,
}

impl ImageLabels {
    /// Reads a CSV file that starts with `path,pid,camid`, or a list of paths, one a line, whose names carry both.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::FeatureFile`] with the line that says something else.
    pub fn read(file: &Path) -> Result<ImageLabels> {
        let text = input::read_text(file, LARGEST)?;
        let mut lines = text.lines().enumerate();
        let is_csv = text.lines().next().is_some_and(|line| line.trim().trim_start_matches('\u{feff}') == HEADER);
        if is_csv {
            lines.next();
        }
        let mut labels = ImageLabels::default();
        for (i, line) in lines.filter(|(_, line)| !line.trim().is_empty()) {
            let entry = if is_csv { csv_entry(line) } else { named_entry(Path::new(line)) };
            let (path, pid, camid) = entry.ok_or_else(|| Error::FeatureFile {
                path: file.into(),
                reason: match is_csv {
                    true => format!("line {}, `{}`, is not path,pid,camid with two whole numbers", i + 1, line.shown()),
                    false => format!(
                        "line {}, `{}`, has no name like 0002_c1s1_000451_03.jpg: write a CSV file with the header {HEADER}",
                        i + 1,
                        line.shown()
                    ),
                },
            })?;
            labels.push(path, pid, camid);
        }
        Ok(labels)
    }

    /// From the names of images; `None` if one does not carry both.
    pub fn of_names(paths: &[PathBuf]) -> Option<ImageLabels> {
        let mut labels = ImageLabels::default();
        for path in paths {
            let (path, pid, camid) = named_entry(path)?;
            labels.push(path, pid, camid);
        }
        Some(labels)
    }

    fn push(&mut self, path: PathBuf, pid: i64, camid: i64) {
        self.paths.push(path);
        self.pids.push(pid);
        self.camids.push(camid);
    }
}

/// The two numbers end the line; what is before them is the path, commas and all.
fn csv_entry(line: &str) -> Option<(PathBuf, i64, i64)> {
    let mut cells = line.trim_end().rsplitn(3, ',');
    let (camid, pid, path) = (cells.next()?, cells.next()?, cells.next()?.trim());
    let path =
        path.strip_prefix('"').and_then(|p| p.strip_suffix('"')).map_or(path.into(), |p| p.replace("\"\"", "\""));
    Some((path.into(), pid.trim().parse().ok()?, camid.trim().parse().ok()?))
}

fn named_entry(path: &Path) -> Option<(PathBuf, i64, i64)> {
    let (pid, camid) = parse_name(path.file_name()?.to_str()?)?;
    Some((path.into(), pid, camid))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn read(text: &str) -> Result<ImageLabels> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("labels.txt");
        fs::write(&file, text).unwrap();
        ImageLabels::read(&file)
    }

    #[test]
    fn names_and_csv_say_the_same() {
        let names = read("query/0001_c1s1_1_0.jpg\n-1_c12s1_2.png\n\n").unwrap();
        let csv = read("path,pid,camid\r\nquery/0001_c1s1_1_0.jpg,1,1\r\n\"-1_c12s1_2.png\", -1, 12\r\n").unwrap();
        assert_eq!(names, csv);
        assert_eq!((names.pids, names.camids), (vec![1, -1], vec![1, 12]));
        let odd = read("path,pid,camid\n\"a, \"\"b\"\".jpg\",3,4\nc,d.jpg,5,6\n").unwrap();
        assert_eq!(odd.paths, [Path::new("a, \"b\".jpg"), Path::new("c,d.jpg")]);
    }

    #[test]
    fn a_line_that_is_neither_is_named() {
        let error = |text| read(text).unwrap_err().to_string();
        assert!(error("0001_c1.jpg\nholiday.jpg\n").contains("line 2, `holiday.jpg`, has no name like"));
        assert!(error("path,pid,camid\na.jpg,one,2\n").contains("line 2, `a.jpg,one,2`, is not path,pid,camid"));
        assert!(error("path,pid\na.jpg,1\n").contains("line 1"));
    }
}
