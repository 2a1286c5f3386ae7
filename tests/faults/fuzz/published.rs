//! Fuzzes re-identification data sets in their published form: names of files, lists, MATLAB's and HDF5's files.

use std::ffi::OsStr;
use std::fs;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use flate2::read::{GzDecoder, ZlibDecoder};
use ptl::data::convert::cuhk03::{BoxKind, MatFile, NewProtocol};
use ptl::data::convert::mat5;
use ptl::data::{DatasetKind, LoadOptions, load};

use super::{fixture, fuzz, written};

fn load_as(folder: &Path, kind: DatasetKind) -> ptl::Result<()> {
    let dataset = load(folder, kind, &LoadOptions::default())?;
    assert!(!dataset.train.is_empty() && !dataset.query.is_empty() && !dataset.gallery.is_empty());
    let classes = dataset.train_classes();
    assert!(classes <= dataset.train.len());
    dataset.check_for_training(2)?;
    dataset.check_for_evaluation()
}

/// Fuzzes names of images, the only labels of Market-1501's layout. They may hold any bytes but two.
#[test]
fn names_of_images() {
    let seeds = ["0002_c1s1_000451_03.jpg", "-1_c3.png", "0001_c12_f0246350.jpg"].map(Into::into);
    fuzz("image-names", &seeds, |folder, bytes| {
        let root = folder.join("market");
        let good =
            ["bounding_box_train/0001_c1.jpg", "bounding_box_train/0001_c2.jpg", "bounding_box_train/0003_c1.jpg"];
        let test = ["query/0005_c1.jpg", "bounding_box_test/0005_c2.jpg", "bounding_box_train/0003_c2.jpg"];
        good.iter().chain(&test).for_each(|name| drop(written(&root, name, "")));
        let name: Vec<u8> = bytes.iter().filter(|byte| !matches!(byte, 0 | b'/')).copied().take(250).collect();
        let name = OsStr::from_bytes(if matches!(&name[..], b"" | b"." | b"..") { b"x" } else { &name });
        for subset in ["bounding_box_train", "query", "bounding_box_test"] {
            fs::write(root.join(subset).join(name), "").unwrap();
        }
        let loaded = load_as(&root, DatasetKind::Market1501);
        fs::remove_dir_all(&root).unwrap();
        loaded
    });
}

#[test]
fn lists_of_msmt17() {
    let lines = |pids: [usize; 3]| -> Vec<String> {
        let line = |pid: &usize| {
            [1, 2].map(|camera| format!("{pid:04}/{pid:04}_000_{camera:02}_0303morning_0006_0.jpg {pid}"))
        };
        pids.iter().flat_map(line).collect()
    };
    let list = lines([0, 1, 2]).join("\n");
    fuzz("msmt17-lists", &[list.clone().into()], |folder, bytes| {
        for subset in ["train", "test"] {
            for line in list.lines() {
                written(folder, &format!("{subset}/{}", line.split(' ').next().unwrap()), "");
            }
        }
        for name in ["train", "val", "query", "gallery"] {
            written(folder, &format!("list_{name}.txt"), bytes);
        }
        load_as(folder, DatasetKind::Msmt17)
    });
}

#[test]
fn splits_of_cuhk03() {
    let images = [
        "[\"a.jpg\",1,1]",
        "[\"b.jpg\",1,2]",
        "[\"c.jpg\",2,1]",
        "[\"d.jpg\",2,2]",
        "[\"e.jpg\",3,1]",
        "[\"f.jpg\",3,2]",
    ];
    let splits =
        format!(r#"{{"dataset":"cuhk03-classic-detected","images":[{}],"splits":[[1],[2]]}}"#, images.join(","));
    fuzz("cuhk03-splits", &[splits.into()], |folder, bytes| {
        ["a", "b", "c", "d", "e", "f"].iter().for_each(|name| drop(written(folder, &format!("{name}.jpg"), "")));
        written(folder, "splits.json", bytes);
        load_as(folder, DatasetKind::Cuhk03ClassicDetected)
    });
}

/// Fuzzes a table of identities. A table that is read may lack a part, which the checks then report.
#[test]
fn tables_of_identities() {
    let rows = "path,id,camera,split\na.jpg,fox,1,train\nb.jpg,fox,2,train\nc.jpg,elk,1,train\nd.jpg,elk,2,train\ne.jpg,3,1,query\nf.jpg,3,2,gallery\n";
    let undivided = "path;identity;sequence\na.jpg;1;x\nb.jpg;1;y\nc.jpg;2;x\nd.jpg;2;y\n";
    fuzz("table-of-identities", &[rows.into(), undivided.into()], |folder, bytes| {
        ["a", "b", "c", "d", "e", "f"].iter().for_each(|name| drop(written(folder, &format!("{name}.jpg"), "")));
        let table = written(folder, "people.csv", bytes);
        let dataset = load(&table, DatasetKind::Csv, &LoadOptions::default())?;
        assert!(!dataset.train.is_empty() || !dataset.query.is_empty() || !dataset.gallery.is_empty());
        assert!(dataset.train.iter().chain(&dataset.query).chain(&dataset.gallery).all(|record| record.pid > 0));
        dataset.check_for_training(2)?;
        if dataset.has_no_split { Ok(()) } else { dataset.check_for_evaluation() }
    });
}

#[test]
fn lists_of_vehicles() {
    let names = ["1", "2", "3", "4"];
    fuzz("vehicle-id-lists", &["1 7\n2 7\n3 8\n4 8\n".into()], |folder, bytes| {
        names.iter().for_each(|name| drop(written(folder, &format!("image/{name}.jpg"), "")));
        ["train_list", "test_list_800"].iter().for_each(|list| {
            written(folder, &format!("train_test_split/{list}.txt"), bytes);
        });
        load_as(folder, DatasetKind::VehicleId800)
    });
    let info = "id/image;Camera ID\n1/1;3\n1/2;4\n2/3;3\n2/4;4\n";
    let list = "1/1.jpg\n1/2\n2/3\n2/4\n";
    fuzz("veri-wild-lists", &[info.into(), list.into()], |folder, bytes| {
        ["1/1", "1/2", "2/3", "2/4"].iter().for_each(|name| drop(written(folder, &format!("images/{name}.jpg"), "")));
        let is_info = bytes.contains(&b';');
        written(folder, "train_test_split/vehicle_info.txt", if is_info { bytes } else { info.as_bytes() });
        for name in ["train_list", "test_3000_query", "test_3000"] {
            written(folder, &format!("train_test_split/{name}.txt"), if is_info { list.as_bytes() } else { bytes });
        }
        load_as(folder, DatasetKind::VeriWild3000)
    });
}

fn protocols() -> [Vec<u8>; 2] {
    BoxKind::ALL.map(|kind| fixture(&format!("golden/cuhk03/cuhk03_new_protocol_config_{}.mat", kind.name())))
}

fn read_protocol(folder: &Path, bytes: &[u8]) -> ptl::Result<()> {
    let path = written(folder, "lists.mat", bytes);
    for variable in mat5::read(&path)? {
        if let mat5::Value::Numbers(numbers) = &variable.value {
            assert_eq!(numbers.len(), variable.dims.iter().product::<usize>());
        }
    }
    let protocol = NewProtocol::read(&path)?;
    assert!(protocol.listed().iter().all(|listed| listed.pid > 0 && listed.path.is_relative()));
    Ok(())
}

#[test]
fn matlab_files() {
    fuzz("mat5", &protocols(), read_protocol);
}

/// Fuzzes the arrays of compressed elements, stored uncompressed.
#[test]
fn arrays_of_matlab_files() {
    fuzz("mat5-arrays", &protocols().map(|file| inflated(&file)), read_protocol);
}

fn inflated(file: &[u8]) -> Vec<u8> {
    let (header, mut rest) = file.split_at(128);
    let mut bytes = header.to_vec();
    while let Some((tag, after)) = rest.split_at_checked(8) {
        let len = u32::from_le_bytes(tag[4..].try_into().unwrap()) as usize;
        match tag[0] {
            15 => drop(ZlibDecoder::new(&after[..len]).read_to_end(&mut bytes).unwrap()),
            _ => bytes.extend([tag, &after[..len]].concat()),
        }
        rest = &after[len..];
    }
    bytes
}

/// Bytes of MATLAB's block before the HDF5 file.
const BLOCK: usize = 512;

#[test]
fn hdf5_files() {
    let mut published = Vec::new();
    GzDecoder::new(&fixture("golden/cuhk03/cuhk-03.mat.gz")[..]).read_to_end(&mut published).unwrap();
    for (reader, file) in [("hdf5", fixture("fuzz/cuhk-03.mat")), ("hdf5-published", published)] {
        let (block, file) = file.split_at(BLOCK);
        fuzz(reader, &[file.to_vec()], |folder, bytes| read_images(folder, &[block, bytes].concat()));
    }
}

fn read_images(folder: &Path, bytes: &[u8]) -> ptl::Result<()> {
    let file = MatFile::open(&written(folder, "cuhk-03.mat", bytes))?;
    file.test_sets()?;
    for kind in BoxKind::ALL {
        let images = file.images(kind)?;
        for key in images.keys() {
            let image = images.read(key)?;
            assert_eq!(image.pixels.len(), 3 * image.width * image.height);
        }
    }
    Ok(())
}
