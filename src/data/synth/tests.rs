use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Mutex;

use super::*;
use crate::data::{Dataset, DatasetKind, ImageRecord, Interpolation, LoadOptions, Transform, load};
use crate::eval::ranking::{Labels, RankingOptions, evaluate_distances};

fn small(domain: Domain) -> SynthConfig {
    SynthConfig { domain, train_ids: 4, test_ids: 5, cams: 3, height: 64, width: 32, ..SynthConfig::default() }
}

fn generated(config: &SynthConfig) -> (tempfile::TempDir, Dataset) {
    let folder = tempfile::tempdir().unwrap();
    generate(folder.path(), config, &StopFlag::default(), &|_, _| {}).unwrap();
    let dataset = load(folder.path(), DatasetKind::Auto, &LoadOptions::default()).unwrap();
    (folder, dataset)
}

/// Returns the path within the folder and the bytes of every file.
fn contents(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut files = Vec::new();
    for name in [TRAIN, QUERY, GALLERY] {
        for entry in fs::read_dir(folder.join(name)).unwrap() {
            let path = entry.unwrap().path();
            files.push((path.strip_prefix(folder).unwrap().to_path_buf(), fs::read(&path).unwrap()));
        }
    }
    files.sort();
    files
}

#[test]
fn the_layout_is_that_of_market_1501_and_every_query_has_a_match() {
    for config in [small(Domain::Source), SynthConfig { cams: 2, images_per_cam: 1, ..small(Domain::Target) }] {
        let (_folder, data) = generated(&config);
        assert_eq!(data.warnings, [""; 0]);
        let pids = |records: &[ImageRecord]| records.iter().map(|r| r.pid).collect::<BTreeSet<_>>();
        assert_eq!(pids(&data.train), (1..=4).collect());
        assert_eq!(pids(&data.query), (5..=9).collect());
        assert_eq!(pids(&data.gallery), [0].into_iter().chain(5..=9).collect());
        assert!(data.queries_without_match().is_empty());
        data.check_for_evaluation().unwrap();

        let test = 5 * config.cams * config.images_per_cam;
        let distractors = data.gallery.iter().filter(|r| r.pid == 0).count();
        assert_eq!(data.train.len(), 4 * config.cams * config.images_per_cam);
        assert_eq!(data.query.len(), 5 * (config.cams / 2));
        assert_eq!(data.gallery.len() - distractors, test - data.query.len());
        assert_eq!(distractors, test.div_ceil(8));
        assert_eq!(data.train.len() + data.query.len() + data.gallery.len(), config.images());
        let cameras: BTreeSet<i64> = data.query.iter().map(|r| r.camid).collect();
        assert_eq!(cameras, (1..=config.cams as i64).collect(), "queries come from every camera");
        let image = image::open(&data.query[0].path).unwrap();
        assert_eq!((image.height(), image.width()), (64, 32));
        let name = data.train[0].path.file_name().unwrap();
        assert_eq!(name, "0001_c1s1_000000_00.jpg");
    }
}

#[test]
fn the_bytes_depend_on_the_configuration_and_not_on_the_threads() {
    let files = |config: &SynthConfig, threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let (folder, _) = pool.install(|| generated(config));
        contents(folder.path())
    };
    let config = small(Domain::Target);
    let first = files(&config, 1);
    assert!(first == files(&config, 3));
    let others = [SynthConfig { seed: 1, ..config.clone() }, SynthConfig { domain: Domain::Source, ..config }];
    for other in others {
        let same = files(&other, 2).iter().zip(&first).filter(|(a, b)| a.1 == b.1).count();
        assert_eq!(same, 0, "{other:?}");
    }
}

#[test]
fn progress_counts_every_image_once() {
    let (folder, seen) = (tempfile::tempdir().unwrap(), Mutex::new(Vec::new()));
    let config = small(Domain::Source);
    generate(folder.path(), &config, &StopFlag::default(), &|done, total| seen.lock().unwrap().push((done, total)))
        .unwrap();
    let mut seen = seen.into_inner().unwrap();
    seen.sort_unstable();
    assert_eq!(seen, (1..=config.images()).map(|done| (done, config.images())).collect::<Vec<_>>());
}

#[test]
fn a_folder_with_something_in_it_is_refused_and_stays_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("notes.txt"), "mine").unwrap();
    let error = generate(folder.path(), &small(Domain::Source), &StopFlag::default(), &|_, _| {}).unwrap_err();
    assert!(matches!(&error, Error::FolderNotEmpty { path } if path == folder.path()));
    assert!(error.to_string().contains("not empty"), "{error}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn a_request_to_stop_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (new, empty) = (folder.path().join("new"), folder.path().join("empty"));
    fs::create_dir(&empty).unwrap();
    for dir in [&new, &empty] {
        let stop = StopFlag::default();
        let at_the_fifth = |done, _| {
            if done == 5 {
                stop.request();
            }
        };
        assert_eq!(generate(dir, &small(Domain::Source), &stop, &at_the_fifth).unwrap(), Outcome::Stopped);
        assert!(!is_complete(dir));
    }
    assert!(!new.exists());
    assert_eq!(fs::read_dir(&empty).unwrap().count(), 0);
    let again = generate(&empty, &small(Domain::Source), &StopFlag::default(), &|_, _| {}).unwrap();
    assert!(again == Outcome::Finished && is_complete(&empty));
}

#[test]
fn settings_that_cannot_work_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let config = SynthConfig { cams: 1, ..small(Domain::Source) };
    let error =
        generate(&folder.path().join("new"), &config, &StopFlag::default(), &|_, _| {}).unwrap_err().to_string();
    assert_eq!(error, "cams = 1: at least 2 is needed");
    assert!(!folder.path().join("new").exists());
    assert!("market".parse::<Domain>().unwrap_err().to_string().contains("source and target"));
    for domain in [Domain::Source, Domain::Target] {
        assert_eq!(domain.to_string().parse::<Domain>().unwrap(), domain);
        assert_eq!(serde_json::to_string(&domain).unwrap(), format!("\"{domain}\""));
    }
}

/// Returns the shares of 8x8x8 colours in each of `stripes` horizontal stripes.
fn histogram(record: &ImageRecord, stripes: usize) -> Vec<f32> {
    let transform = Transform::squeeze([96, 48], Interpolation::Bilinear);
    let pixels = transform.load(&record.path).unwrap();
    let mut bins = vec![0.0; stripes * 512];
    for (i, p) in pixels.chunks_exact(3).enumerate() {
        let colour = p.iter().fold(0, |bin, v| bin * 8 + *v as usize / 32);
        bins[i * stripes / (96 * 48) * 512 + colour] += 1.0 / (96 * 48) as f32;
    }
    bins
}

/// Returns the mAP of ranking a test split by the L1 distance of colour histograms.
fn histogram_map(data: &Dataset, stripes: usize) -> f64 {
    let features = |records: &[ImageRecord]| records.par_iter().map(|r| histogram(r, stripes)).collect::<Vec<_>>();
    let (query, gallery) = (features(&data.query), features(&data.gallery));
    let l1 = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| (a - b).abs()).sum::<f32>();
    let distances: Vec<f32> = query.iter().flat_map(|q| gallery.iter().map(|g| l1(q, g))).collect();
    let column = |records: &[ImageRecord], of: fn(&ImageRecord) -> i64| records.iter().map(of).collect::<Vec<_>>();
    let (query_pids, query_cams) = (column(&data.query, |r| r.pid), column(&data.query, |r| r.camid));
    let (pids, camids) = (column(&data.gallery, |r| r.pid), column(&data.gallery, |r| r.camid));
    let query_labels = Labels { pids: &query_pids, camids: &query_cams };
    let gallery_labels = Labels { pids: &pids, camids: &camids };
    evaluate_distances(&distances, query_labels, gallery_labels, &RankingOptions::default()).unwrap().map
}

#[test]
fn colour_histograms_rank_badly() {
    for (domain, bound) in [(Domain::Source, 0.35), (Domain::Target, 0.20)] {
        let config = SynthConfig { domain, train_ids: 1, test_ids: 60, ..SynthConfig::default() };
        let (_folder, data) = generated(&config);
        for stripes in [1, 3] {
            let map = histogram_map(&data, stripes);
            println!("{domain}, {stripes} stripes: mAP {map:.3}");
            assert!(map < bound, "{domain}, {stripes} stripes: mAP {map:.3}");
        }
    }
}

/// Returns the pixels of every image of a configuration, in a fixed order.
fn rendered(config: &SynthConfig) -> Vec<Vec<u8>> {
    let cameras = cameras(config);
    config.jobs().par_iter().enumerate().map(|(index, job)| render(config, &cameras, job, index)).collect()
}

fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let (sum, count) = values.fold((0.0, 0), |(sum, count), value| (sum + value, count + 1));
    sum / f64::from(count)
}

#[test]
fn by_default_images_are_those_of_earlier_versions() {
    // Means of eighths of the rows of the first and of the last image: single values may differ by the rounding of a system's powers.
    let expected = [
        (Domain::Source, [[203, 180, 197, 187, 153, 124, 123, 128], [208, 193, 186, 182, 166, 146, 143, 155]]),
        (Domain::Target, [[113, 100, 82, 73, 58, 63, 68, 66], [120, 133, 94, 86, 97, 128, 135, 113]]),
    ];
    for (domain, expected) in expected {
        let images = rendered(&small(domain));
        for (image, expected) in [&images[0], &images[images.len() - 1]].into_iter().zip(expected) {
            let eighths = image.chunks(image.len() / 8).map(|rows| mean(rows.iter().map(|&v| f64::from(v))));
            let found: Vec<i32> = eighths.map(|v| v.round() as i32).collect();
            let close =
                found.iter().zip(&expected).all(|(found, expected): (&i32, &i32)| (found - expected).abs() <= 1);
            assert!(close, "{domain}: {found:?} instead of {expected:?}");
        }
    }
}

#[test]
fn a_gap_changes_the_target_alone_and_a_seed_draws_it_again() {
    for &gap in Gap::ALL {
        assert_eq!(gap.name().parse(), Ok(gap));
        let source = SynthConfig { gap, ..small(Domain::Source) };
        let target = SynthConfig { domain: Domain::Target, ..source.clone() };
        let none = |config: &SynthConfig| rendered(&SynthConfig { gap: Gap::None, ..config.clone() });
        assert!(rendered(&source) == none(&source), "{gap}");
        let images = rendered(&target);
        assert!(images == rendered(&target), "{gap}");
        assert_eq!(images == none(&target), gap == Gap::None, "{gap}");
        let other = rendered(&SynthConfig { seed: 1, ..target });
        assert!(images.iter().zip(&other).all(|(a, b)| a != b), "{gap}");
    }
}

#[test]
fn each_gap_changes_what_it_says() {
    let config = SynthConfig { train_ids: 8, test_ids: 1, cams: 8, gap: Gap::None, ..small(Domain::Target) };
    let images = |gap| rendered(&SynthConfig { gap, ..config.clone() });
    let none = images(Gap::None);
    let brightness = |images: &[Vec<u8>]| mean(images.iter().flatten().map(|&v| f64::from(v)));
    // The share of values that differ from those without a gap by more than noise does.
    let changed = |images: &[Vec<u8>]| {
        let pairs = images.iter().flatten().zip(none.iter().flatten());
        mean(pairs.map(|(&a, &b)| f64::from(u8::from(a.abs_diff(b) > 24))))
    };
    // The correlation of edges with those without a gap, which light hardly changes.
    let edges = |image: &[u8]| image.windows(4).map(|w| f64::from(w[3]) - f64::from(w[0])).collect::<Vec<_>>();
    let likeness = |images: &[Vec<u8>]| {
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        mean(images.iter().zip(&none).map(|(a, b)| {
            let (a, b) = (edges(a), edges(b));
            dot(&a, &b) / (dot(&a, &a) * dot(&b, &b)).sqrt()
        }))
    };
    // What each gap may do: by how much the brightness differs, the share of changed values, the likeness of edges.
    let expected = [
        (Gap::None, 0.0..=0.0, 0.0..=0.0, 0.99..=1.01),
        (Gap::Light, 20.0..=80.0, 0.5..=0.9, 0.7..=0.97),
        (Gap::Viewpoint, 0.0..=12.0, 0.2..=0.6, 0.0..=0.35),
        (Gap::Occlusion, 0.0..=12.0, 0.1..=0.4, 0.6..=0.9),
        (Gap::All, 8.0..=60.0, 0.4..=0.9, 0.0..=0.35),
    ];
    for (gap, other_brightness, changes, same_edges) in expected {
        let images = images(gap);
        let found = ((brightness(&images) - brightness(&none)).abs(), changed(&images), likeness(&images));
        println!("{gap}: {found:.2?}");
        assert!(other_brightness.contains(&found.0), "{gap}: {found:?}");
        assert!(changes.contains(&found.1), "{gap}: {found:?}");
        assert!(same_edges.contains(&found.2), "{gap}: {found:?}");
    }
}
