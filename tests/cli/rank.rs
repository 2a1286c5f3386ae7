//! Features that are nearly equal, very large or very small are ranked as in f64.

use std::fmt::Write;
use std::fs;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tempfile::TempDir;

use super::{fails_with, json, path, succeeds};

/// Writes features of `identities` and their labels.
fn write(folder: &TempDir, name: &str, rows: &[Vec<f64>], identities: usize, camera: usize) -> String {
    let header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({}, {}), }}", rows.len(), rows[0].len());
    let header = format!("{header:<117}\n");
    let mut bytes = [b"\x93NUMPY\x01\x00", &(header.len() as u16).to_le_bytes()[..], header.as_bytes()].concat();
    bytes.extend(rows.iter().flatten().flat_map(|x| (*x as f32).to_le_bytes()));
    let mut labels = String::from("path,pid,camid\n");
    for i in 0..rows.len() {
        writeln!(labels, "{i}.jpg,{},{camera}", i % identities + 1).unwrap();
    }
    fs::write(folder.path().join(format!("{name}.csv")), labels).unwrap();
    let file = path(folder, &format!("{name}.npy"));
    fs::write(&file, bytes).unwrap();
    file
}

#[test]
fn features_that_cancel_overflow_or_underflow_rank_right() {
    let mut rng = ChaCha8Rng::seed_from_u64(0);
    let mut random = |n: usize| -> Vec<f64> { (0..n).map(|_| rng.random_range(-1.7..1.7)).collect() };
    let centres: Vec<Vec<f64>> = (0..20).map(|_| random(256)).collect();
    let base = random(256);
    let mut rows = |n: usize| -> Vec<Vec<f64>> {
        (0..n).map(|i| centres[i % 20].iter().zip(random(256)).map(|(c, x)| c + 0.5 * x).collect()).collect()
    };
    let sets = [rows(20), rows(200)];
    // All cosines are above 0.99999.
    let narrow = |row: &[f64]| -> Vec<f64> {
        let row: Vec<f64> = base.iter().zip(row).map(|(b, x)| b + 3e-4 * x).collect();
        let norm = row.iter().map(|x| x * x).sum::<f64>().sqrt();
        row.iter().map(|x| x / norm).collect()
    };
    let moved = |offset: f64, scale: f64| move |row: &[f64]| row.iter().map(|x| scale * (x + offset)).collect();
    let cases: [(&str, Box<dyn Fn(&[f64]) -> Vec<f64>>); 7] = [
        ("0", Box::new(moved(0.0, 1.0))),
        ("1e3", Box::new(moved(1e3, 1.0))),
        ("1e4", Box::new(moved(1e4, 1.0))),
        ("narrow", Box::new(narrow)),
        ("long", Box::new(moved(0.0, 1e18))),
        ("short", Box::new(moved(0.0, 1e-24))),
        ("shortest", Box::new(moved(0.0, 1e-38))),
    ];
    let folder = tempfile::tempdir().unwrap();
    for (name, change) in cases {
        let files: Vec<String> = ["q", "g"]
            .iter()
            .zip(&sets)
            .enumerate()
            .map(|(camera, (side, rows))| {
                let rows: Vec<Vec<f64>> = rows.iter().map(|row| change(row)).collect();
                write(&folder, &format!("{side}{name}"), &rows, 20, camera)
            })
            .collect();
        let out = path(&folder, &format!("{name}.json"));
        succeeds(&["rank", "--query", &files[0], "--gallery", &files[1], "--rerank", "--roc", "--out", &out]);
        let report = json(&out);
        for figures in ["plain", "reranked"] {
            let map = report[figures]["mAP"].as_f64().unwrap();
            assert!((map - 1.0).abs() < 1e-12, "{name}, {figures}: {map}");
            assert_eq!(report[figures]["cmc"][0].as_f64(), Some(1.0), "{name}, {figures}");
        }
        assert_eq!(report["roc"]["eer"].as_f64(), Some(0.0), "{name}");
    }
}

#[test]
fn features_of_one_camera_rank_if_all_images_count() {
    let folder = tempfile::tempdir().unwrap();
    let rows = |n: usize, offset: f64| -> Vec<Vec<f64>> {
        (0..n).map(|i| (0..4).map(|k| if k == i % 4 { 1.0 } else { offset * (i + 1) as f64 }).collect()).collect()
    };
    // The same names in both, as in lists of two folders.
    let query = write(&folder, "q", &rows(4, 0.01), 4, 1);
    let gallery = write(&folder, "g", &rows(8, 0.02), 4, 1);
    let out = path(&folder, "out.json");
    let rank = |gallery: &str, flags: &[&str]| {
        let args = ["rank", "--query", &query, "--gallery", gallery, "--out", &out];
        [&args[..], flags].concat().into_iter().map(str::to_string).collect::<Vec<_>>()
    };
    let run = |args: Vec<String>| succeeds(&args.iter().map(String::as_str).collect::<Vec<_>>());
    let fails =
        |args: Vec<String>, parts: &[&str]| fails_with(1, &args.iter().map(String::as_str).collect::<Vec<_>>(), parts);
    fails(rank(&gallery, &[]), &["has a match in the gallery that counts", "--same-camera keep"]);
    let printed = run(rank(&gallery, &["--same-camera", "keep"]));
    assert!(printed.contains("4 ranked, 0 skipped without a match; images by the query's camera count"), "{printed}");
    assert_eq!((&json(&out)["protocol"], &json(&out)["plain"]["mAP"]), (&"any-camera".into(), &1.0.into()));
    let with_queries = write(&folder, "h", &[rows(3, 0.01), rows(5, 0.02)].concat(), 4, 1);
    let refused = ["--same-camera = keep", "3 queries are in the gallery too, where each would find itself (0.jpg"];
    fails(rank(&with_queries, &["--same-camera", "keep"]), &refused);
}
