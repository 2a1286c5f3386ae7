//! Reads the images in `cuhk-03.mat`, which is HDF5 behind a header of MATLAB's; cells are tables of references.
//!
//! `/detected` and `/labeled` refer to one table for each camera pair, `[10, people]` references to images
//! `[3, width, height]` u8, or to an empty marker; columns 1 to 5 are by the pair's first camera, 6 to 10 by its second. `/testsets` refers to the splits of the classic protocol, `[2, test ids]` f64: pair and person, from 1.

use std::path::{Path, PathBuf};

use hdf5_pure::{DType, Dataset, File, Layout, Object};

use super::{BoxKind, PAIRS};
use crate::base::input;
use crate::data::Rgb;
use crate::{Error, Result};

/// Images of a person: at most ten.
const COLUMNS: usize = 10;
/// Longest side of an image; larger ones mean a broken file. Pedestrian boxes have a few hundred pixels.
const LARGEST: u64 = 4096;
/// Largest number of people in a pair, of test identities in a split, and of splits.
const MANY: u64 = 1 << 16;
/// Most test identities of all splits together.
const MOST_TEST_IDS: usize = 1 << 20;
/// Smallest number of bytes of the file for each reference in a table: the header of an image takes more.
const BYTES_OF_A_REFERENCE: u64 = 64;
/// Largest number of bytes of a chunk; chunks of an image are not larger than the image.
const LARGEST_CHUNK: u64 = 64 << 20;
/// Deflate makes at most this many bytes of one.
const MAX_INFLATION: u64 = 1032;

/// Identifies an image; all numbers count from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ImageKey {
    /// Pair of cameras, 1 to 5.
    pub pair: usize,
    /// Number of the person among those of the pair.
    pub person: usize,
    /// Column in the table of the pair, 1 to 10.
    pub column: usize,
}

impl ImageKey {
    /// Returns the camera within the pair, 1 or 2.
    pub fn view(self) -> usize {
        if self.column <= COLUMNS / 2 { 1 } else { 2 }
    }

    /// Returns the camera among those of all pairs, 1 to 10.
    pub fn camera(self) -> usize {
        (self.pair - 1) * 2 + self.view()
    }

    /// Returns the name in the lists of the new protocol, without its ending: `1_001_1_01`.
    pub fn name(self) -> String {
        format!("{}_{:03}_{}_{:02}", self.pair, self.person, self.view(), self.column)
    }
}

/// An open `cuhk-03.mat`.
pub struct MatFile {
    path: PathBuf,
    /// Bytes of the file.
    len: u64,
    file: File,
}

/// All images with one kind of boxes; pixels are read one image at a time.
pub struct Images {
    path: PathBuf,
    /// Bytes of the file.
    len: u64,
    tables: Vec<Table>,
}

/// The images of one camera pair.
struct Table {
    people: usize,
    /// `[10, people]`, `None` where there is no image.
    cells: Vec<Option<Box<Dataset>>>,
}

impl MatFile {
    /// Opens the file without reading its images.
    ///
    /// # Errors
    /// [`Error::MatFile`]: it is no HDF5, cut off or broken. As [`input::open`].
    pub fn open(path: &Path) -> Result<MatFile> {
        // Opened first for the error messages of the system.
        let (_, len) = input::open(path)?;
        let file = File::open_streaming(path).map_err(|error| Error::MatFile {
            path: path.to_path_buf(),
            reason: format!("it cannot be read as HDF5 ({error}): is it cuhk-03.mat, and complete?"),
        })?;
        Ok(MatFile { path: path.to_path_buf(), len, file })
    }

    /// Returns the images with one kind of boxes.
    ///
    /// # Errors
    /// The file has no such tables, or they are broken.
    pub fn images(&self, kind: BoxKind) -> Result<Images> {
        let name = kind.name();
        let tables = self.references(name)?;
        if tables.len() != PAIRS {
            return Err(self.error(format!("/{name} has {} camera pairs instead of {PAIRS}", tables.len())));
        }
        let tables =
            tables.into_iter().enumerate().map(|(i, table)| self.table(&format!("/{name}, pair {}", i + 1), &table));
        Ok(Images { path: self.path.clone(), len: self.len, tables: tables.collect::<Result<_>>()? })
    }

    /// Reads the test identities of each split: pair and person, from 1.
    ///
    /// # Errors
    /// The file has no such tables, or they are broken.
    pub fn test_sets(&self) -> Result<Vec<Vec<[usize; 2]>>> {
        let read = |(i, set): (usize, Dataset)| {
            let what = format!("/testsets, split {}", i + 1);
            let shape = set.shape().map_err(|e| self.broken(&what, e))?;
            let [2, ids @ 1..=MANY] = shape[..] else {
                return Err(self.error(format!("{what} has the shape {shape:?} instead of [2, test ids]")));
            };
            checked(&set, &shape, 8, self.len).map_err(|reason| self.error(format!("{what} {reason}")))?;
            let values = set.read_f64().map_err(|e| self.broken(&what, e))?;
            let (pairs, people) = values.split_at_checked(ids as usize).unwrap_or_default();
            let whole = |x: f64| ((1.0..=MANY as f64).contains(&x) && x.fract() == 0.0).then_some(x as usize);
            let ids: Option<Vec<[usize; 2]>> =
                pairs.iter().zip(people).map(|(&pair, &person)| Some([whole(pair)?, whole(person)?])).collect();
            ids.ok_or_else(|| self.error(format!("{what} holds numbers that are no camera pair and person")))
        };
        let mut sets = Vec::new();
        let mut ids = 0;
        for set in self.references("testsets")?.into_iter().enumerate() {
            sets.push(read(set)?);
            ids += sets.last().map_or(0, Vec::len);
            if ids > MOST_TEST_IDS {
                return Err(self.error(format!("/testsets has more than {MOST_TEST_IDS} test identities")));
            }
        }
        Ok(sets)
    }

    /// Returns what the top-level table `name` refers to.
    fn references(&self, name: &str) -> Result<Vec<Dataset>> {
        let missing = |error| {
            self.error(format!("it has no table /{name} ({error}): is it the cuhk-03.mat of the CUHK03 data set?"))
        };
        let table = self.file.dataset(name).map_err(missing)?;
        let shape = table.shape().map_err(|e| self.broken(name, e))?;
        self.dereferenced(name, &table, &shape)
    }

    fn dereferenced(&self, what: &str, table: &Dataset, shape: &[u64]) -> Result<Vec<Dataset>> {
        let most = (self.len / BYTES_OF_A_REFERENCE).min(MANY * COLUMNS as u64);
        if elements(shape).is_none_or(|n| n > most) {
            let len = self.len;
            return Err(self.error(format!("{what} has the shape {shape:?}, which cannot be in {len} bytes")));
        }
        checked(table, shape, 8, self.len).map_err(|reason| self.error(format!("{what} {reason}")))?;
        let objects = table.dereference().map_err(|e| self.broken(what, e))?;
        let dataset = |object| match object {
            Object::Dataset(dataset) => Ok(*dataset),
            _ => Err(self.error(format!("{what} refers to something that is no array"))),
        };
        objects.into_iter().map(dataset).collect()
    }

    fn table(&self, what: &str, table: &Dataset) -> Result<Table> {
        let shape = table.shape().map_err(|e| self.broken(what, e))?;
        let [10, people] = shape[..] else {
            return Err(self.error(format!("{what} has the shape {shape:?} instead of [{COLUMNS}, people]")));
        };
        let cells = self.dereferenced(what, table, &shape)?.into_iter();
        let image = |cell: Dataset| match cell.shape().map_err(|e| self.broken(what, e))?.len() {
            3 => Ok(Some(Box::new(cell))),
            _ => Ok(None),
        };
        Ok(Table { people: people as usize, cells: cells.map(image).collect::<Result<_>>()? })
    }

    fn broken(&self, what: &str, error: hdf5_pure::Error) -> Error {
        self.error(format!("{what} cannot be read ({error}): is the file complete?"))
    }

    fn error(&self, reason: String) -> Error {
        Error::MatFile { path: self.path.clone(), reason }
    }
}

impl Images {
    /// Returns the number of people in each camera pair.
    pub fn people(&self) -> [usize; PAIRS] {
        std::array::from_fn(|i| self.tables[i].people)
    }

    /// Returns the identity of a person. Identities are numbered through all pairs, from 1.
    pub fn pid(&self, pair: usize, person: usize) -> i64 {
        (self.people()[..pair - 1].iter().sum::<usize>() + person) as i64
    }

    /// Returns the keys of all images, in the order of pair, person and column.
    pub fn keys(&self) -> Vec<ImageKey> {
        let of = |(i, table): (usize, &Table)| {
            let (pair, people) = (i + 1, table.people);
            let all =
                (1..=people).flat_map(move |person| (1..=COLUMNS).map(move |column| ImageKey { pair, person, column }));
            all.filter(|key| self.cell(*key).is_some()).collect::<Vec<_>>()
        };
        self.tables.iter().enumerate().flat_map(of).collect()
    }

    /// Returns whether there is such an image.
    pub fn has(&self, key: ImageKey) -> bool {
        self.cell(key).is_some()
    }

    /// Reads one image.
    ///
    /// # Errors
    /// There is none, or it is broken.
    pub fn read(&self, key: ImageKey) -> Result<Rgb> {
        let refuse = |reason: String| Error::MatFile {
            path: self.path.clone(),
            reason: format!("image {} {reason}", key.name()),
        };
        let broken = |error: hdf5_pure::Error| refuse(format!("cannot be read ({error}): is the file complete?"));
        let cell = self.cell(key).ok_or_else(|| refuse("is not there".into()))?;
        let shape = cell.shape().map_err(broken)?;
        let [3, width @ 1..=LARGEST, height @ 1..=LARGEST] = shape[..] else {
            return Err(refuse(format!("has the shape {shape:?} instead of [3, width, height]")));
        };
        let dtype = cell.dtype().map_err(broken)?;
        if dtype != DType::U8 {
            return Err(refuse(format!("holds {dtype:?} instead of bytes")));
        }
        checked(cell, &shape, 1, self.len).map_err(refuse)?;
        let planes = cell.read_raw().map_err(broken)?;
        let (width, height) = (width as usize, height as usize);
        if planes.len() != 3 * width * height {
            return Err(refuse(format!("has {} bytes instead of {}", planes.len(), 3 * width * height)));
        }
        Ok(Rgb { width, height, pixels: interleaved(&planes, width, height) })
    }

    fn cell(&self, key: ImageKey) -> Option<&Dataset> {
        let table = self.tables.get(key.pair.checked_sub(1)?)?;
        let (person, column) = (key.person.checked_sub(1)?, key.column.checked_sub(1)?);
        (person < table.people && column < COLUMNS)
            .then(|| table.cells.get(column * table.people + person)?.as_deref())?
    }
}

/// Returns the number of elements of an array.
fn elements(shape: &[u64]) -> Option<u64> {
    shape.iter().try_fold(1u64, |product, &n| product.checked_mul(n))
}

/// Refuses an array of `shape` with elements of `size` bytes if its stored form is different, or does not fit into a file of `len`
/// bytes: the library allocates the memory that the file claims to need.
fn checked(array: &Dataset, shape: &[u64], size: u64, len: u64) -> Result<(), String> {
    let unreadable = |error: hdf5_pure::Error| format!("cannot be read ({error}): is the file complete?");
    let stored = array.element_size().map_err(unreadable)?;
    if stored != size {
        return Err(format!("has elements of {stored} bytes instead of {size}"));
    }
    let bytes = elements(shape).and_then(|n| n.checked_mul(size));
    let bytes = bytes.filter(|bytes| bytes / MAX_INFLATION <= len);
    let bytes = bytes.ok_or_else(|| format!("has the shape {shape:?}, too large for a file of {len} bytes"))?;
    let inside = |start: u64, size: u64| start.checked_add(size).is_some_and(|end| end <= len);
    match array.layout().map_err(unreadable)? {
        Layout::Compact { size } if size == bytes => Ok(()),
        // Without an address, nothing was written.
        Layout::Contiguous { address: Some(start), size } if size == bytes && inside(start, size) => Ok(()),
        Layout::Contiguous { address: None, .. } if bytes == 0 => Ok(()),
        Layout::Chunked { chunk_shape, .. } => {
            if elements(&chunk_shape).and_then(|n| n.checked_mul(size)).is_none_or(|bytes| bytes > LARGEST_CHUNK) {
                return Err(format!("is stored in chunks of {chunk_shape:?}, which are too large"));
            }
            let chunks = array.chunks().map_err(unreadable)?;
            match chunks.iter().find(|chunk| !inside(chunk.address, chunk.storage_size)) {
                Some(_) => Err(format!("has a chunk beyond the {len} bytes of the file: is it complete?")),
                None => Ok(()),
            }
        }
        layout => Err(format!("is stored as {layout:?}, not as {bytes} bytes within the {len} of the file")),
    }
}

/// Reorders `[3, width, height]` to `[height, width, 3]`.
fn interleaved(planes: &[u8], width: usize, height: usize) -> Vec<u8> {
    let mut pixels = vec![0; planes.len()];
    for (c, plane) in planes.chunks_exact(width * height).enumerate() {
        for (x, column) in plane.chunks_exact(height).enumerate() {
            for (y, &value) in column.iter().enumerate() {
                pixels[(y * width + x) * 3 + c] = value;
            }
        }
    }
    pixels
}
