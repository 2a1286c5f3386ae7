//! Labels of features: lists of names in the style of Market-1501, and CSV files.

use std::path::{Path, PathBuf};

use csv::StringRecord;

use crate::base::input;
use crate::base::text::Shown;
use crate::base::text_table::{TextTable, byte, column, field, fields, within_line};
use crate::data::parse_name;
use crate::{Error, Result};

/// Columns of a CSV file of labels.
const COLUMNS: [&str; 3] = ["path", "pid", "camid"];
/// Bytes of the largest file.
const LARGEST: u64 = 1 << 30;

/// Path, identity and camera of each feature.
#[derive(Debug, Default, PartialEq)]
pub(super) struct ImageLabels {
    pub paths: Vec<PathBuf>,
    pub pids: Vec<i64>,
    pub camids: Vec<i64>,
}

impl ImageLabels {
    /// Reads a CSV file with the columns `path`, `pid` and `camid`, or a list of paths, one on each line, whose names tell identity and
    /// camera.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::FeatureFile`] with the wrong line.
    pub(super) fn read(file: &Path) -> Result<ImageLabels> {
        let bad = |reason: String| Error::FeatureFile { path: file.into(), reason };
        let is_table = |header: &[&str]| !matches!(columns(header), Ok(None));
        let table = TextTable::new(input::read(file, LARGEST)?, is_table).map_err(bad)?;
        let header = table.header().map_err(|error| bad(table.explain(&error).1))?;
        let columns = header.as_ref().map_or(Ok(None), |header| columns(&fields(header))).map_err(bad)?;
        let mut labels = ImageLabels::default();
        // In a list of names, each whole line is a name.
        let Some(columns) = columns else {
            let text = table.text().ok_or_else(|| bad("it is no UTF-8 text: save it as UTF-8".into()))?;
            for (i, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
                let (path, pid, camid) = named_entry(Path::new(line)).ok_or_else(|| {
                    bad(format!(
                        "line {}, `{}`, has no name like 0002_c1s1_000451_03.jpg: write a CSV file with the header {}",
                        i + 1,
                        line.shown(),
                        COLUMNS.join(",")
                    ))
                })?;
                labels.push(path, pid, camid);
            }
            return Ok(labels);
        };
        let mut reader = table.reader(true);
        let mut record = StringRecord::new();
        let mut is_header = true;
        while reader.read_record(&mut record).map_err(|error| {
            let (line, reason) = table.explain(&error);
            bad(format!("line {line}: {reason}"))
        })? {
            if std::mem::take(&mut is_header) {
                continue;
            }
            record
                .iter()
                .try_for_each(within_line)
                .map_err(|reason| bad(format!("line {}: {reason}", table.line(byte(record.position())))))?;
            let (path, pid, camid) = csv_entry(&record, &columns, table.separator()).ok_or_else(|| {
                let line = table.line(byte(record.position()));
                let shown = record.iter().collect::<Vec<_>>().join(",");
                bad(format!("line {line}, `{}`, is not path,pid,camid with two whole numbers", shown.shown()))
            })?;
            labels.push(path, pid, camid);
        }
        Ok(labels)
    }

    /// Reads the labels from the names of images. Returns `None` if a name does not tell identity and camera.
    pub(crate) fn of_names(paths: &[PathBuf]) -> Option<ImageLabels> {
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

/// Reads a list of paths, one on each line.
///
/// # Errors
/// [`Error::Io`]; the file is no UTF-8 text.
pub(super) fn names(file: &Path) -> Result<Vec<PathBuf>> {
    let text = input::read_text(file, LARGEST)?;
    Ok(text.lines().filter(|line| !line.trim().is_empty()).map(PathBuf::from).collect())
}

/// Indices of the three columns, and the number of all columns.
struct Columns {
    places: [usize; 3],
    count: usize,
}

/// Finds the three columns, if the header has them. The error is the reason if it has one twice.
fn columns(header: &[&str]) -> Result<Option<Columns>, String> {
    let mut places = [0; 3];
    for (place, name) in places.iter_mut().zip(COLUMNS) {
        let Some(found) = column(header, &[name])? else { return Ok(None) };
        *place = found;
    }
    Ok(Some(Columns { places, count: header.len() }))
}

/// Reads a row. If the numbers are the last two columns, the path may contain unquoted separators.
fn csv_entry(record: &StringRecord, columns: &Columns, separator: char) -> Option<(PathBuf, i64, i64)> {
    let number = |index: usize| field(record.get(index)?).parse::<i64>().ok();
    let [path, pid, camid] = columns.places;
    match record.len().checked_sub(columns.count)? {
        0 => Some((field(record.get(path)?).into(), number(pid)?, number(camid)?)),
        more if columns.places == [0, 1, 2] && columns.count == 3 => {
            let parts: Vec<&str> = record.iter().take(1 + more).collect();
            Some((parts.join(&separator.to_string()).into(), number(pid + more)?, number(camid + more)?))
        }
        _ => None,
    }
}

fn named_entry(path: &Path) -> Option<(PathBuf, i64, i64)> {
    // The list may come from Windows.
    let (pid, camid) = parse_name(path.to_str()?.rsplit(['/', '\\']).next()?)?;
    Some((path.into(), pid, camid))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: impl AsRef<[u8]>) -> Result<ImageLabels> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("labels.txt");
        std::fs::write(&file, text).unwrap();
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
    fn however_a_program_writes_the_table_it_is_read() {
        let want = read("path,pid,camid\na.jpg,1,2\nb c.jpg,3,4\n").unwrap();
        for text in [
            "\u{feff}\"path\",\"pid\",\"camid\"\r\n\"a.jpg\",\"1\",\"2\"\r\n\"b c.jpg\",\"3\",\"4\"\r\n",
            "path , pid , camid\na.jpg , 1 , 2\n\nb c.jpg , 3 , 4\n",
            "\"path\", \"pid\", \"camid\"\n\"a.jpg\", \"1\", 2\n\"b c.jpg\", 3, 4\n",
            "path;pid;camid\na.jpg;1;2\nb c.jpg;3;4\n",
            "Path\tPID\tCamID\na.jpg\t1\t2\nb c.jpg\t3\t4\n",
            "\"\",camid,path,pid,note\n1,2,a.jpg,1,x\n2,4,b c.jpg,3,\n",
        ] {
            assert_eq!(read(text).unwrap(), want, "{text:?}");
        }
        let wide: Vec<u8> =
            "\u{feff}path,pid,camid\na.jpg,1,2\nb c.jpg,3,4\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
        assert_eq!(read(wide).unwrap(), want);
        let error = read("path,pid,camid,note\na.jpg,1,2,x\na,b.jpg,1,2,x\n").unwrap_err().to_string();
        assert!(error.contains("line 3"), "{error}");
        let windows = read("query\\0001_c1s1_1_0.jpg\n").unwrap();
        assert_eq!((windows.pids, windows.camids), (vec![1], vec![1]));
        let list = read("a,b/0001_c1,s1.jpg\n\"0002_c3.jpg\n").unwrap_err().to_string();
        assert!(list.contains("line 2"), "{list}");
    }

    #[test]
    fn a_line_that_is_neither_is_named() {
        let error = |text: &str| read(text).unwrap_err().to_string();
        assert!(error("0001_c1.jpg\nholiday.jpg\n").contains("line 2, `holiday.jpg`, has no name like"));
        assert!(error("path,pid,camid\na.jpg,one,2\n").contains("line 2, `a.jpg,one,2`, is not path,pid,camid"));
        assert!(error("path,pid\na.jpg,1\n").contains("line 1"));
        for header in ["path,pid,camid,pid", "path;PID;pid;camid", "path\tpid\tpid"] {
            assert!(error(&format!("{header}\n")).contains("it has the column pid more than once"), "{header}");
        }
    }
}
