//! Limits of memory, numbers that are too large, files that claim more data than they have, and inputs that are not files.

use std::fs;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::{GzEncoder, ZlibEncoder};
use tempfile::TempDir;

use super::{fails_with, fixture, path, program, succeeds, text, tiny};

/// One GiB in KiB.
const GIB: u64 = 1 << 20;

/// Runs the program with at most `kib` of address space, on two threads.
fn limited(kib: u64, args: &[&str]) -> Output {
    let script = format!("ulimit -v {kib}; exec \"$0\" \"$@\"");
    let mut command = Command::new("sh");
    command.args(["-c", &script]).arg(program().get_program()).args(args);
    command.env("RAYON_NUM_THREADS", "2").env("MALLOC_ARENA_MAX", "2").output().unwrap()
}

/// Checks that the output is one sentence with all `parts`, and no panic or abort.
fn one_sentence(output: &Output, parts: &[&str]) {
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert_eq!(stderr.lines().filter(|line| line.starts_with("error: ")).count(), 1, "{stderr}");
    assert!(!stderr.contains("panicked"), "{stderr}");
    parts.iter().for_each(|part| assert!(stderr.contains(part), "{part:?} is not in: {stderr}"));
}

/// Returns whether this system has such limits; prints a message if not.
fn has_limits() -> bool {
    let readable = Path::new("/proc/self/limits").exists();
    if !readable {
        super::say("SKIPPED: the limits of a process cannot be read here");
    }
    readable
}

#[test]
fn what_does_not_fit_is_refused_before_anything_is_built() {
    if !has_limits() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let out = path(&folder, "run");
    let train = ["train", "--data", &fixture().data, "--out", &out, "--epochs", "1"];
    let of = |kib: u64, flags: &[&str]| limited(kib, &[&train, flags].concat());
    let large = ["--arch", "resnet50-ptl", "--ids", "4", "--images", "2", "--threads", "1"];
    let begun = Instant::now();
    one_sentence(
        &of(GIB, &large),
        &["training resnet50-ptl with batches of 8 images", "ulimit -v", "MiB are available"],
    );
    one_sentence(&of(4 * GIB, &["--arch", "resnet18", "--width", "16"]), &["smaller network"]);
    let batches = ["--arch", "resnet18", "--width", "0.125", "--threads", "1"];
    one_sentence(&of(4 * GIB, &[&batches[..], &["--ids", "4", "--images", "1024"]].concat()), &["--ids, --images"]);
    one_sentence(&of(4 * GIB, &[&batches[..], &["--eval-batch", "65536"]].concat()), &["a smaller --eval-batch"]);
    one_sentence(
        &of(
            4 * GIB,
            &[&batches[..], &["--workers", "1024", "--passes", "8000", "--ids", "4", "--images", "64"]].concat(),
        ),
        &["fewer --workers"],
    );
    assert!(!Path::new(&out).exists(), "a run folder is left");
    assert!(begun.elapsed() < Duration::from_secs(60), "building took {:?}", begun.elapsed());

    // A checkpoint is checked in the same way.
    let evaluate = ["evaluate", "--checkpoint", &fixture().run, "--data", &fixture().data];
    let output = limited(GIB, &[&evaluate[..], &["--eval-batch", "65536"]].concat());
    one_sentence(&output, &["evaluating resnet18-ptl with batches of 65536 images", "a smaller --eval-batch"]);

    // A training that fits runs; an image cache that does not fit is made smaller.
    let fits =
        tiny(&["train", "--data", &fixture().data, "--out", &out, "--epochs", "1", "--data.cache_mb", "999999999999"]);
    let output = limited(GIB, &[&fits[..], &["--threads", "2"]].concat());
    assert!(output.status.success(), "{}", text(&output.stderr));
}

#[test]
fn numbers_that_are_too_large_are_refused_in_one_sentence() {
    let folder = tempfile::tempdir().unwrap();
    let out = path(&folder, "run");
    let refused = [
        ("--passes", "99999999999", "sampler.passes = 99999999999"),
        ("--epochs", "9223372036854775807", "schedule.epochs"),
        ("--warmup-epochs", "9223372036854775807", "schedule.warmup_epochs"),
        ("--workers", "99999999999", "train.workers"),
        ("--threads", "99999999999", "threads"),
        ("--ids", "99999999999", "sampler.ids"),
        ("--images", "99999999999", "sampler.images"),
        ("--height", "100000", "model.height"),
        ("--image-width", "9223372036854775807", "model.image_width"),
        ("--width", "1e30", "model.width"),
        ("--cell-width", "1e30", "ptl.cell_width"),
        ("--embedding", "9223372036854775807", "model.embedding"),
        ("--eval-batch", "9223372036854775807", "eval.batch"),
        ("--k1", "9223372036854775807", "eval.k1"),
        ("--k2", "9223372036854775807", "eval.k2"),
        ("--accumulate", "9223372036854775807", "train.accumulate"),
        ("--augment.pad", "9223372036854775807", "augment.pad"),
        ("--epochs", "99999999999999999999999", "99999999999999999999999"),
    ];
    for (flag, value, part) in refused {
        let args = tiny(&["train", "--data", &fixture().data, "--out", &out, flag, value]);
        // The last value of a flag counts.
        let output = program().args(&args).args([flag, value]).output().unwrap();
        let stderr = text(&output.stderr);
        assert!(matches!(output.status.code(), Some(1 | 2)), "{flag}: {stderr}");
        assert!(stderr.contains(part) && !stderr.contains("panicked"), "{flag}: {stderr}");
        assert!(!Path::new(&out).exists(), "{flag} left a folder");
    }
    // Large numbers that are valid.
    let large =
        ["--passes", "2000", "--max-steps", "1", "--workers", "64", "--threads", "64", "--patience", "99999999999"];
    let larger = ["--eval-every", "9223372036854775807", "--train.log_every", "9223372036854775807"];
    succeeds(&[&tiny(&["train", "--data", &fixture().data, "--out", &out])[..], &large, &larger].concat());
    let evaluate = ["evaluate", "--checkpoint", &out, "--data", &fixture().data, "--rerank"];
    succeeds(&[&evaluate[..], &["--k1", "1000", "--k2", "1000"]].concat());
}

#[test]
fn a_device_that_is_not_there_leaves_no_folder() {
    use ptl::engine::device::{Device, DeviceKind, DeviceOptions};
    if Device::open(&DeviceOptions { kind: DeviceKind::Cuda(0), ..DeviceOptions::default() }).is_ok() {
        return super::say("SKIPPED: there is a GPU");
    }
    let folder = tempfile::tempdir().unwrap();
    let out = path(&folder, "new/run");
    fails_with(1, &tiny(&["train", "--data", &fixture().data, "--out", &out, "--device", "cuda"]), &["cuda: "]);
    let npy = path(&folder, "new/features.npy");
    let extract = ["extract", "--checkpoint", &fixture().run, "--data", &fixture().data, "--out", &npy];
    fails_with(1, &[&extract[..], &["--device", "cuda"]].concat(), &["cuda: "]);
    assert!(!folder.path().join("new").exists());
}

fn pipe(folder: &TempDir, name: &str) -> String {
    let pipe = path(folder, name);
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    pipe
}

/// Inputs that never end are refused at once: a pipe without a writer, a device.
#[test]
fn pipes_and_devices_are_no_input() {
    let folder = tempfile::tempdir().unwrap();
    let data = &fixture().data;
    let begun = Instant::now();
    let zero = |name: &str| {
        let link = path(&folder, name);
        std::os::unix::fs::symlink("/dev/zero", &link).unwrap();
        link
    };
    fs::write(folder.path().join("good.npy"), npy(4, 2)).unwrap();
    fs::write(folder.path().join("good.csv"), "path,pid,camid\na,1,1\nb,1,2\nc,2,1\nd,2,2\n").unwrap();
    let good = path(&folder, "good.npy");
    for (what, file) in [("a pipe", pipe(&folder, "c.toml")), ("a device", zero("z.toml")), ("a folder", data.clone())]
    {
        fails_with(1, &["train", "--config", &file, "--data", data], &[what, "name a regular file"]);
    }
    for (name, what) in
        [("f.safetensors", "a pipe"), ("f.npy", "a pipe"), ("z.safetensors", "a device"), ("z.npy", "a device")]
    {
        let file = if what == "a pipe" { pipe(&folder, name) } else { zero(name) };
        fails_with(1, &["rank", "--query", &file, "--gallery", &good], &[what, "name a regular file"]);
    }
    let (list, mat, zero_mat) = (pipe(&folder, "list.csv"), pipe(&folder, "a.mat"), zero("z.mat"));
    fails_with(1, &["rank", "--query", &good, "--gallery", &good, "--query-labels", &list], &["a pipe"]);
    let out = path(&folder, "cuhk03");
    for file in [&mat, &zero_mat] {
        fails_with(1, &["convert", "cuhk03", "--mat", file, "--out", &out], &["name a regular file"]);
    }
    let published = published(&folder);
    for file in [&mat, &zero_mat] {
        let lists = ["--detected-config", file, "--labeled-config", &published[2]];
        let args = [&["convert", "cuhk03", "--mat", &published[0], "--out", &out][..], &lists].concat();
        fails_with(1, &args, &["name a regular file"]);
    }
    // Files of a run.
    for name in ["metrics.jsonl", "items.csv", "config.toml"] {
        let run = path(&folder, &format!("run-{name}"));
        assert!(Command::new("cp").args(["-r", &fixture().run, &run]).status().unwrap().success());
        fs::remove_file(Path::new(&run).join(name)).unwrap();
        pipe(&folder, &format!("run-{name}/{name}"));
        if name == "metrics.jsonl" {
            fails_with(1, &["train", "--resume", &run, "--epochs", "3"], &["metrics.jsonl is a pipe"]);
        } else {
            let output = super::ptl(&["compare", &fixture().run, &run]);
            assert_eq!(output.status.code(), Some(1), "{name}: {}", text(&output.stderr));
        }
    }
    assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", begun.elapsed());
}

/// Returns the `.npy` file of a matrix of ones.
fn npy(rows: usize, dim: usize) -> Vec<u8> {
    let dict = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({rows}, {dim}), }}\n");
    let mut bytes = [b"\x93NUMPY\x01\x00", &(dict.len() as u16).to_le_bytes()[..], dict.as_bytes()].concat();
    bytes.extend((0..rows * dim).flat_map(|_| 1.0f32.to_le_bytes()));
    bytes
}

/// Writes the published files of CUHK03: images, and lists for detected and labeled boxes.
fn published(folder: &TempDir) -> [String; 3] {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/golden/cuhk03");
    let mut mat = Vec::new();
    let zipped = fs::File::open(golden.join("cuhk-03.mat.gz")).unwrap();
    GzDecoder::new(zipped).read_to_end(&mut mat).unwrap();
    let target = path(folder, "cuhk-03.mat");
    fs::write(&target, mat).unwrap();
    let list = |kind| golden.join(format!("cuhk03_new_protocol_config_{kind}.mat")).display().to_string();
    [target, list("detected"), list("labeled")]
}

fn converted(kib: u64, mat: &str, lists: [&str; 2], out: &str) -> Output {
    let _ = fs::remove_dir_all(out);
    let args =
        ["convert", "cuhk03", "--mat", mat, "--detected-config", lists[0], "--labeled-config", lists[1], "--out", out];
    limited(kib, &args)
}

/// Compresses `start` and many zeros to a short stream.
fn zlib_of_zeros(start: &[u8], zeros: usize) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(start).unwrap();
    let block = vec![0; 1 << 20];
    (0..zeros >> 20).for_each(|_| encoder.write_all(&block).unwrap());
    encoder.finish().unwrap()
}

#[test]
fn matlab_files_take_no_more_memory_than_their_length_justifies() {
    if !has_limits() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let [mat, _, labeled] = published(&folder);
    let out = path(&folder, "out");
    let element = |kind: u32, data: &[u8]| [&kind.to_le_bytes(), &(data.len() as u32).to_le_bytes(), data].concat();
    let zeros = 15 << 20;
    let head = [
        element(6, &[9, 0, 0, 0, 0, 0, 0, 0]),
        element(5, &[&1i32.to_le_bytes()[..], &(zeros as i32).to_le_bytes()].concat()),
        [1u32.to_le_bytes(), 1u32.to_le_bytes()].concat(),
        vec![b'x', 0, 0, 0, 0, 0, 0, 0],
        [2u32.to_le_bytes(), (zeros as u32).to_le_bytes()].concat(),
    ]
    .concat();
    let tag = [14u32.to_le_bytes(), ((head.len() + zeros) as u32).to_le_bytes()].concat();
    let array = element(15, &zlib_of_zeros(&[tag, head].concat(), zeros));
    let mut bomb = b"MATLAB 5.0 MAT-file".to_vec();
    bomb.resize(124, b' ');
    bomb.extend_from_slice(&[0, 1, b'I', b'M']);
    bomb.extend(array.repeat(40));
    assert!(bomb.len() < 1 << 20);
    let bombed = path(&folder, "bomb.mat");
    fs::write(&bombed, bomb).unwrap();
    one_sentence(&converted(GIB, &mat, [&bombed, &labeled], &out), &["bomb.mat", "more than 16 MiB"]);
}

/// Makes numbers all over the file large: sizes, addresses, counts.
#[test]
fn hdf5_files_take_no_more_memory_than_their_length_justifies() {
    if !has_limits() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let [mat, detected, labeled] = published(&folder);
    let out = path(&folder, "out");
    let good = fs::read(&mat).unwrap();
    let lists = [&detected[..], &labeled];
    assert!(converted(GIB, &mat, lists, &out).status.success());
    let spoilt = path(&folder, "spoilt.mat");
    let mut refused = 0;
    // Changes zero bytes after numbers: the upper halves of sizes.
    let upper = (4..good.len()).filter(|&at| good[at - 4..at].iter().any(|&byte| byte != 0) && good[at] == 0);
    let places: Vec<usize> = upper.collect();
    for at in places.iter().step_by(places.len() / 24) {
        let mut bytes = good.clone();
        bytes[*at] = 1;
        fs::write(&spoilt, bytes).unwrap();
        let output = converted(GIB, &spoilt, lists, &out);
        match output.status.code() {
            Some(0) => {}
            _ => {
                one_sentence(&output, &["error: "]);
                refused += 1;
            }
        }
    }
    assert!(refused > 0, "nothing was spoilt");
    // Changes the size of a stored chunk to 4 GiB.
    let mut bytes = good;
    bytes[650_135] = 1;
    fs::write(&spoilt, bytes).unwrap();
    one_sentence(&converted(GIB, &spoilt, lists, &out), &["spoilt.mat"]);
}

#[test]
fn images_in_one_file_take_no_more_memory_than_its_length_justifies() {
    if !has_limits() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let idx = |name: &str, sides: &[u32], bytes: usize| {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(&[0, 0, 8, sides.len() as u8]).unwrap();
        sides.iter().for_each(|side| encoder.write_all(&side.to_be_bytes()).unwrap());
        let block = vec![0; 1 << 20];
        (0..bytes >> 20).for_each(|_| encoder.write_all(&block).unwrap());
        let zipped = encoder.finish().unwrap();
        assert!(zipped.len() < 1 << 20);
        fs::write(folder.path().join(name), zipped).unwrap();
    };
    let data = folder.path().display().to_string();
    let train = ["train", "--task", "classify", "--data", &data, "--arch", "cifar-resnet20", "--epochs", "1"];
    for subset in ["train", "t10k"] {
        idx(&format!("{subset}-labels-idx1-ubyte.gz"), &[1 << 20], 1 << 20);
        // 1 GB of images of 1024 pixels, from 1 MB.
        idx(&format!("{subset}-images-idx3-ubyte.gz"), &[900 << 10, 32, 32], 900 << 20);
    }
    one_sentence(&limited(GIB, &train), &["train-images-idx3-ubyte.gz", "cut off"]);
    // 60 million images of one pixel.
    for subset in ["train", "t10k"] {
        idx(&format!("{subset}-labels-idx1-ubyte.gz"), &[60 << 20], 60 << 20);
        idx(&format!("{subset}-images-idx3-ubyte.gz"), &[60 << 20, 1, 1], 60 << 20);
    }
    one_sentence(&limited(GIB, &train), &["train-images-idx3-ubyte.gz"]);
}

/// The headers claim more numbers than the files have.
#[test]
fn feature_files_shorter_than_their_headers_claim_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let good = path(&folder, "good.npy");
    fs::write(&good, npy(4, 2)).unwrap();
    let write = |name: &str, bytes: &[u8]| {
        let file = path(&folder, name);
        fs::write(&file, bytes).unwrap();
        file
    };
    let mut large = npy(1, 1);
    let shape = large.windows(6).position(|part| part == b"(1, 1)").unwrap();
    large.splice(shape..shape + 6, *b"(1<<9)");
    let claims = npy(1, 1).iter().map(|&byte| if byte == b'1' { b'9' } else { byte }).collect::<Vec<u8>>();
    let tensors = br#"{"features":{"dtype":"F32","shape":[1073741824,16],"data_offsets":[0,68719476736]}}"#;
    let header = [&(tensors.len() as u64).to_le_bytes()[..], tensors].concat();
    let files = [write("a.npy", &large), write("b.npy", &claims), write("c.safetensors", &header)];
    for file in &files {
        one_sentence(&limited(GIB, &["rank", "--query", file, "--gallery", &good]), &[file]);
    }
}
