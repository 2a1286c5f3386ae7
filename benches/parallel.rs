//! Measures what a training step takes in two processes with one thread each, against one process with two threads and the same batch:
//! `cargo bench --features mpi --bench parallel [-- ARCH [RANKS]]`. Prints one line for each, with the time of the exchange of gradients.

use std::env;
use std::process::Command;
use std::time::Instant;

use ptl::config::Config;
use ptl::engine::collective::Collective;
use ptl::engine::device::Device;
use ptl::train::Trainer;

mod support;

/// Set where this program is one of several processes.
const RANKS: &str = "PTL_BENCH_RANKS";
/// Steps that are measured, after one that is not.
const STEPS: usize = 5;

/// Measures steps as one of `ranks` with `threads`, and prints the median.
fn measure(arch: &str, ranks: &Collective, threads: usize) {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).use_current_thread().build_global();
    pool.expect("no thread computes yet");
    let mut config = Config::default();
    config.model.arch = arch.into();
    let mut trainer = Trainer::of_ranks(ranks.clone(), Device::cpu(), &config, support::CLASSES, |_, _| Ok(()))
        .expect("the default configuration is a network");
    let mut batch = support::batch(&config);
    let (own, image) = (ranks.part(batch.labels.len()), batch.pixels.len() / batch.labels.len());
    batch.pixels = batch.pixels[own.start * image..own.end * image].to_vec();
    batch.params = batch.params[own.clone()].to_vec();
    batch.labels = batch.labels[own.clone()].to_vec();
    batch.indices = batch.indices[own].to_vec();
    trainer.step(&batch, None, 1e-4).expect("a finite loss");
    let median = |mut times: Vec<f64>| {
        times.sort_by(f64::total_cmp);
        times[times.len() / 2]
    };
    let timed = |work: &mut dyn FnMut()| {
        ranks.barrier();
        let begun = Instant::now();
        work();
        begun.elapsed().as_secs_f64()
    };
    let mut step = || {
        trainer.step(&batch, None, 1e-4).expect("a finite loss");
    };
    let steps = median((0..STEPS).map(|_| timed(&mut step)).collect());
    let mut gradients = vec![1.0f32; trainer.store.values.len()];
    let exchange = median((0..STEPS).map(|_| timed(&mut || ranks.sum(&mut gradients))).collect());
    if ranks.is_first() {
        println!(
            "{arch}, {} images of {}x{}: {} processes with {threads} threads each: {steps:.3} s a step, {exchange:.3} s ({:.1} %) to add up {:.1} M \
             gradients",
            config.batch(),
            config.model.height,
            config.model.image_width,
            ranks.ranks(),
            100.0 * exchange / steps,
            gradients.len() as f64 / 1e6,
        );
    }
}

fn main() {
    let words: Vec<String> = env::args().skip(1).filter(|word| !word.starts_with("--")).collect();
    let arch = words.first().map_or("resnet50-ptl", String::as_str);
    if let Ok(ranks) = env::var(RANKS) {
        let ranks = ranks.parse().expect("set below");
        return measure(arch, &Collective::of_mpi(ranks).expect("mpirun has started it"), 1);
    }
    let ranks = words.get(1).map_or("2", String::as_str);
    let mut mpirun = Command::new("mpirun");
    mpirun.env("OMPI_ALLOW_RUN_AS_ROOT", "1").env("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1").env(RANKS, ranks);
    mpirun.args(["-np", ranks]).arg(env::current_exe().expect("this program")).arg(arch);
    assert!(mpirun.status().expect("mpirun is there").success());
    measure(arch, &Collective::single(), ranks.parse().expect("a number of processes"));
}
