//! Tests the conversion on small files in the published form, intact and damaged.

use std::fs;

use hdf5_pure::{FileBuilder, GroupBuilder};
use tempfile::TempDir;

use super::*;
use crate::base::progress::Reporter;
use crate::base::stop::StopFlag;
use crate::data::convert::mat5::tests as mat5;
use crate::data::{Dataset, LoadOptions, load};

/// People of the pairs.
const PEOPLE: [usize; PAIRS] = [2, 1, 1, 1, 1];
/// Width and height of all images.
const SIZE: [usize; 2] = [4, 6];

/// Returns the value of an image at a column, row and colour.
fn pixel(kind: BoxKind, key: ImageKey, x: usize, y: usize, c: usize) -> u8 {
    (kind as usize * 100 + key.pair * 20 + key.person * 10 + key.column + 5 * x + 3 * y + c) as u8
}

/// Columns 1, 2, 6 and 7; detected boxes lack the last one of the first person.
fn has(kind: BoxKind, key: ImageKey) -> bool {
    let lost = kind == BoxKind::Detected && (key.pair, key.person, key.column) == (1, 1, 7);
    matches!(key.column, 1 | 2 | 6 | 7) && !lost
}

fn keys(kind: BoxKind) -> Vec<ImageKey> {
    let mut keys = Vec::new();
    for (i, &people) in PEOPLE.iter().enumerate() {
        for person in 1..=people {
            keys.extend((1..=10).map(|column| ImageKey { pair: i + 1, person, column }));
        }
    }
    keys.retain(|&key| has(kind, key));
    keys
}

/// Returns the bytes of `cuhk-03.mat`. Each test set has the pairs, then the people, of two identities.
fn image_file(test_sets: &[[f64; 4]]) -> Vec<u8> {
    let mut file = FileBuilder::new();
    file.with_userblock(512);
    let mut refs = file.create_group("refs");
    for kind in BoxKind::ALL {
        let mut tables = Vec::new();
        for (i, &people) in PEOPLE.iter().enumerate() {
            let mut cells = Vec::new();
            for column in 1..=10 {
                for person in 1..=people {
                    let key = ImageKey { pair: i + 1, person, column };
                    let name = format!("{}_{}", kind.name(), key.name());
                    one_image(&mut refs, &name, kind, key);
                    cells.push(format!("refs/{name}"));
                }
            }
            let name = format!("{}_{}", kind.name(), i + 1);
            let cells: Vec<&str> = cells.iter().map(String::as_str).collect();
            refs.create_dataset(&name).with_path_references(&cells).with_shape(&[10, people as u64]);
            tables.push(format!("refs/{name}"));
        }
        let tables: Vec<&str> = tables.iter().map(String::as_str).collect();
        file.create_dataset(kind.name()).with_path_references(&tables).with_shape(&[1, PAIRS as u64]);
    }
    let sets: Vec<String> = (0..test_sets.len()).map(|i| format!("refs/set{i}")).collect();
    for (i, set) in test_sets.iter().enumerate() {
        refs.create_dataset(&format!("set{i}")).with_f64_data(set).with_shape(&[2, 2]);
    }
    file.add_group(refs.finish());
    let sets: Vec<&str> = sets.iter().map(String::as_str).collect();
    file.create_dataset("testsets").with_path_references(&sets).with_shape(&[1, test_sets.len() as u64]);
    file.finish().unwrap()
}

fn one_image(refs: &mut GroupBuilder, name: &str, kind: BoxKind, key: ImageKey) {
    if !has(kind, key) {
        refs.create_dataset(name).with_u64_data(&[0, 0]).with_shape(&[2]);
        return;
    }
    let [width, height] = SIZE;
    let value = |i: usize| pixel(kind, key, i / height % width, i % height, i / (width * height));
    let values: Vec<u8> = (0..3 * width * height).map(value).collect();
    let shape = [3, width as u64, height as u64];
    let dataset = refs.create_dataset(name).with_u8_data(&values).with_shape(&shape);
    // Both forms occur.
    if key.column != 2 {
        dataset.with_chunks(&shape).with_deflate(6);
    }
}

/// Returns the lists of the new protocol: the first pair is tested, column 1 is the query.
fn lists(kind: BoxKind) -> Vec<u8> {
    let keys = keys(kind);
    let indices = |wanted: fn(&ImageKey) -> bool| {
        let all = keys.iter().enumerate().filter(|(_, key)| wanted(key));
        all.map(|(i, _)| (i + 1) as f64).collect::<Vec<_>>()
    };
    let pid = |key: &ImageKey| PEOPLE[..key.pair - 1].iter().sum::<usize>() + key.person;
    let names: Vec<String> = keys.iter().map(|key| key.name() + ".png").collect();
    mat5::file(&[
        mat5::column("train_idx", &indices(|key| key.pair > 1)),
        mat5::column("gallery_idx", &indices(|key| key.pair == 1 && key.column > 1)),
        mat5::zipped(&mat5::column("query_idx", &indices(|key| key.pair == 1 && key.column == 1))),
        mat5::column("labels", &keys.iter().map(|key| pid(key) as f64).collect::<Vec<_>>()),
        mat5::zipped(&mat5::strings("filelist", &names)),
        mat5::column("camId", &keys.iter().map(|key| key.view() as f64).collect::<Vec<_>>()),
    ])
}

/// Creates a folder with the three published files.
fn published() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(mat(&folder), image_file(&[[1.0, 3.0, 2.0, 1.0], [1.0, 1.0, 1.0, 2.0]])).unwrap();
    for kind in BoxKind::ALL {
        fs::write(kind.config_beside(&mat(&folder)), lists(kind)).unwrap();
    }
    folder
}

fn mat(folder: &TempDir) -> PathBuf {
    folder.path().join("cuhk-03.mat")
}

fn run(folder: &TempDir, configs: [Option<&Path>; 2], stop: &StopFlag) -> crate::Result<Outcome> {
    let out = folder.path().join("out");
    convert(&Job { mat: &mat(folder), configs, out: &out, reporter: &Reporter::silent(), stop })
}

fn run_whole(folder: &TempDir) -> crate::Result<Outcome> {
    let [detected, labeled] = BoxKind::ALL.map(|kind| kind.config_beside(&mat(folder)));
    run(folder, [Some(&detected), Some(&labeled)], &StopFlag::default())
}

fn failure(folder: &TempDir) -> String {
    let error = run_whole(folder).unwrap_err().to_string();
    let out = folder.path().join("out");
    assert!(!out.exists() || fs::read_dir(&out).unwrap().next().is_none(), "{error}: something is left");
    error
}

fn loaded(folder: &TempDir, kind: DatasetKind) -> Dataset {
    load(&folder.path().join("out"), kind, &LoadOptions::default()).unwrap()
}

#[test]
fn all_four_data_sets_load_and_the_bytes_are_the_same_again() {
    let folder = published();
    let images = keys(BoxKind::Detected).len() + keys(BoxKind::Labeled).len();
    assert_eq!(run_whole(&folder).unwrap(), Outcome::Finished { images: 2 * images });
    for (kind, train, query, gallery) in [
        (DatasetKind::Cuhk03NpDetected, 16, 2, 5),
        (DatasetKind::Cuhk03NpLabeled, 16, 2, 6),
        (DatasetKind::Cuhk03ClassicDetected, 15, 8, 8),
        (DatasetKind::Cuhk03ClassicLabeled, 16, 8, 8),
    ] {
        let mut data = loaded(&folder, kind);
        assert_eq!([data.train.len(), data.query.len(), data.gallery.len()], [train, query, gallery], "{kind}");
        data.drop_or_refuse_broken(false, &|| {}).unwrap();
        data.check_for_evaluation().unwrap();
    }
    let classic = loaded(&folder, DatasetKind::Cuhk03ClassicDetected);
    assert_eq!(classic.query.iter().map(|r| r.pid).collect::<Vec<_>>(), [2, 2, 2, 2, 4, 4, 4, 4]);
    assert_eq!(classic.query.iter().map(|r| r.camid).collect::<Vec<_>>(), [1, 1, 2, 2, 5, 5, 6, 6]);
    let again = published();
    run_whole(&again).unwrap();
    for file in
        ["labeled/query/0001/0001_c1_01.jpg", "classic/detected/splits.json", "classic/detected/images/3_001_2_06.jpg"]
    {
        let [first, second] = [&folder, &again].map(|f| fs::read(f.path().join("out").join(file)).unwrap());
        assert_eq!(first, second, "{file}");
    }
    assert!(matches!(run_whole(&folder), Err(crate::Error::FolderNotEmpty { .. })));
}

#[test]
fn pixels_are_turned_from_matlabs_order_and_jpeg_keeps_them_nearly() {
    let folder = published();
    let images = MatFile::open(&mat(&folder)).unwrap().images(BoxKind::Labeled).unwrap();
    assert_eq!((images.people(), images.keys()), (PEOPLE, keys(BoxKind::Labeled)));
    for key in images.keys() {
        let image = images.read(key).unwrap();
        assert_eq!([image.width, image.height], SIZE);
        for (i, &value) in image.pixels.iter().enumerate() {
            assert_eq!(value, pixel(BoxKind::Labeled, key, i / 3 % SIZE[0], i / 3 / SIZE[0], i % 3));
        }
    }
    assert_eq!(images.pid(3, 1), 4);
    run_whole(&folder).unwrap();
    let file = folder.path().join("out/labeled/bounding_box_train/0003/0003_c4_07.jpg");
    let decoded = image::open(file).unwrap().into_rgb8();
    let want = images.read(ImageKey { pair: 2, person: 1, column: 7 }).unwrap();
    assert!(decoded.as_raw().iter().zip(&want.pixels).all(|(&a, &b)| a.abs_diff(b) <= 6));
}

#[test]
fn without_lists_only_the_classic_splits_are_written() {
    let folder = published();
    run(&folder, [None, None], &StopFlag::default()).unwrap();
    let names: Vec<_> = fs::read_dir(folder.path().join("out")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names, ["classic"]);
    assert_eq!(loaded(&folder, DatasetKind::Cuhk03ClassicLabeled).train.len(), 16);
}

#[test]
fn a_stop_leaves_nothing() {
    let folder = published();
    let stop = StopFlag::default();
    stop.request();
    assert_eq!(run(&folder, [None, None], &stop).unwrap(), Outcome::Stopped);
    assert!(!folder.path().join("out").exists());
}

#[test]
fn swapped_and_foreign_files_are_named() {
    let folder = published();
    let [detected, labeled] = BoxKind::ALL.map(|kind| kind.config_beside(&mat(&folder)));
    let swapped = run(&folder, [Some(&labeled), Some(&detected)], &StopFlag::default()).unwrap_err().to_string();
    assert!(swapped.contains("1 of 24 images that it lists") && swapped.contains("1_001_2_07"), "{swapped}");
    assert!(swapped.contains("labeled.mat") && swapped.contains("swapped?"), "{swapped}");

    let good = fs::read(&detected).unwrap();
    for (bytes, part) in [
        (fs::read(mat(&folder)).unwrap(), "no MATLAB file of version 5"),
        (mat5::file(&[mat5::column("x", &[1.0])]), "no variable filelist"),
        (good[..good.len() - 20].to_vec(), "cut off or broken"),
    ] {
        fs::write(&detected, bytes).unwrap();
        let error = failure(&folder);
        assert!(error.contains("config_detected.mat: ") && error.contains(part), "{error}");
    }
    fs::write(&detected, good).unwrap();
    fs::write(mat(&folder), lists(BoxKind::Labeled)).unwrap();
    assert!(failure(&folder).contains("cuhk-03.mat: it cannot be read as HDF5"));
    fs::remove_file(mat(&folder)).unwrap();
    assert!(failure(&folder).starts_with("cannot read "));
    let mut other = FileBuilder::new();
    other.create_dataset("x").with_f64_data(&[1.0]).with_shape(&[1]);
    fs::write(mat(&folder), other.finish().unwrap()).unwrap();
    assert!(failure(&folder).contains("it has no table /testsets"));
    fs::write(mat(&folder), image_file(&[[1.0, 3.0, 2.0, 2.0]])).unwrap();
    assert!(failure(&folder).contains("/testsets names person 2 of pair 3, /detected has no such one"));
    fs::write(mat(&folder), image_file(&[[1.0, 0.5, 2.0, 2.0]])).unwrap();
    assert!(failure(&folder).contains("no camera pair and person"));
}

#[test]
fn lists_that_contradict_themselves_are_refused() {
    let names = ["1_001_1_01.png", "1_002_2_06.png"].map(String::from);
    let with = |train: &[f64], query: &[f64], labels: &[f64], cameras: &[f64]| {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.mat");
        let lists =
            [("train_idx", train), ("gallery_idx", &[]), ("query_idx", query), ("labels", labels), ("camId", cameras)];
        let mut arrays: Vec<Vec<u8>> = lists.iter().map(|(name, values)| mat5::column(name, values)).collect();
        arrays.push(mat5::strings("filelist", &names));
        fs::write(&path, mat5::file(&arrays)).unwrap();
        NewProtocol::read(&path)
    };
    let (labels, cameras) = ([1.0, 2.0], [1.0, 2.0]);
    let good = with(&[1.0], &[2.0], &labels, &cameras).unwrap();
    assert_eq!(good.counts("query"), (1, 1));
    assert_eq!(good.listed()[0].path, Path::new("bounding_box_train/0001/0001_c1_01.jpg"));
    for (found, part) in [
        (with(&[1.0], &[3.0], &labels, &cameras), "query_idx names image 3 of 2"),
        (with(&[0.0], &[2.0], &labels, &cameras), "train_idx holds something else"),
        (with(&[1.5], &[2.0], &labels, &cameras), "train_idx holds something else"),
        (with(&[1.0, 2.0], &[2.0], &labels, &cameras), "image 2 is in"),
        (with(&[1.0], &[2.0], &[1.0], &cameras), "labels 1 and camId 2"),
        (with(&[1.0], &[2.0], &[1.0, 1.0], &cameras), "identity 1 to 1_002_2_06.png and to another"),
        (with(&[1.0], &[2.0], &labels, &[1.0, 1.0]), "camId of 1_002_2_06.png is 1"),
    ] {
        let error = found.unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    }
}

/// Checks that a file cut anywhere, or with a byte changed anywhere, gives images or an error: no panic, no endless loop.
#[test]
fn a_broken_image_file_never_panics() {
    let folder = published();
    let good = fs::read(mat(&folder)).unwrap();
    let read = |bytes: &[u8]| -> crate::Result<()> {
        fs::write(mat(&folder), bytes).unwrap();
        let file = MatFile::open(&mat(&folder))?;
        file.test_sets()?;
        let images = file.images(BoxKind::Detected)?;
        images.keys().into_iter().try_for_each(|key| images.read(key).map(drop))
    };
    read(&good).unwrap();
    for length in (0..good.len()).step_by(good.len() / 60) {
        assert!(read(&good[..length]).is_err(), "cut at {length}");
    }
    for i in (0..good.len()).step_by(good.len() / 400) {
        let mut bytes = good.clone();
        bytes[i] ^= 0xff;
        let _ = read(&bytes);
    }
}
