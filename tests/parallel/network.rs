//! A network without batch normalisation, put together here, in processes that call the library: what they exchange is exact.

use ptl::engine::collective::{Collective, Meeting};
use ptl::engine::device::{Device, DeviceKind, DeviceOptions};
use ptl::engine::graph::{Graph, Mode};
use ptl::engine::latent_state::{LatentStates, StateInit};
use ptl::engine::op::{self, CrossEntropyOptions};
use ptl::engine::optim::{Optimizer, Segment, UpdateRule};
use ptl::engine::session::Session;
use ptl::engine::shape::Shape;
use ptl::engine::store::{Group, Layout, Store};

use super::{alone, mpirun};

const IMAGES: usize = 8;
const CLASSES: usize = 4;
const STEPS: usize = 20;

/// Returns numbers between -1 and 1 that depend on `seed`.
fn numbers(count: usize, seed: usize) -> Vec<f32> {
    (0..count).map(|i| ((i * 7919 + seed * 104_729) as f32 * 0.61).sin()).collect()
}

/// Trains a cell, a convolution and a classifier with both losses, as one of `ranks`, and returns the loss of each step, the weights and the state
/// of all images.
fn train(ranks: &Collective) -> Vec<f32> {
    let own = ranks.part(IMAGES);
    let mut store = Store::new();
    let mut param = |name: &str, shape: &[usize]| store.add_param(name.into(), shape, Layout::Conv, Group::Head);
    let (cell, conv) = (param("cell", &[16, 3, 3, 3]), param("conv", &[6, 4, 3, 3]));
    let classifier = param("classifier", &[CLASSES, 6]);
    let start = numbers(store.values.len(), 1);
    store.values.iter_mut().zip(start).for_each(|(value, number)| *value = 0.4 * number);
    let mut graph = Graph::new(Mode::Train);
    let images = graph.input(Shape::new(own.len(), 6, 4, 3));
    let (labels, all_labels) = (graph.labels(own.len()), graph.labels(IMAGES));
    let x = op::bconv_cell(&mut graph, &store, "cell", images, cell, [1, 1], [1, 1]).unwrap();
    let x = op::conv2d(&mut graph, &store, x, conv, None, [2, 2], [1, 1]).unwrap();
    let x = op::global_avg_pool(&mut graph, x).unwrap();
    let logits = op::linear(&mut graph, &store, x, classifier, None).unwrap();
    let entropy = op::cross_entropy(&mut graph, logits, labels, CrossEntropyOptions::default()).unwrap();
    let all = op::gather_batch(&mut graph, x, ranks).unwrap();
    let triplet = op::batch_hard_triplet(&mut graph, all, all_labels, None, 0.5).unwrap();
    [entropy, triplet].into_iter().for_each(|loss| graph.root(loss));
    let mut session = Session::new(graph, &store, &Device::cpu()).unwrap();
    let mut states = LatentStates::new(StateInit::Normal, 5).of_ranks(ranks);
    let mut sgd = Optimizer::new(&UpdateRule::Sgd { momentum: 0.9, nesterov: false }, store.values.len()).unwrap();
    let whole = [Segment { range: 0..store.values.len(), lr: 0.02, weight_decay: 1e-3 }];
    let mut found = Vec::new();
    for step in 0..STEPS {
        let len = 6 * 4 * 3;
        session.set(images, &numbers(IMAGES * len, 10 + step)[own.start * len..own.end * len]).unwrap();
        let of_step: Vec<f32> = (0..IMAGES).map(|i| f32::from_bits(((i / 2 + step) % CLASSES) as u32)).collect();
        session.set(labels, &of_step[own.clone()]).unwrap();
        session.set(all_labels, &of_step).unwrap();
        session.forward(&mut store, &mut states).unwrap();
        session.set_grad(entropy, &[1.0 / ranks.ranks() as f32]).unwrap();
        session.set_grad(triplet, &[1.0]).unwrap();
        session.backward(&mut store, &mut states).unwrap();
        ranks.sum(&mut store.grads);
        sgd.step(&mut store.values, &store.grads, &whole);
        let mut losses = [f64::from(session.value(entropy).unwrap()[0]) / ranks.ranks() as f64];
        ranks.sum_f64(&mut losses);
        found.extend([losses[0] as f32, session.value(triplet).unwrap()[0]]);
    }
    found.extend_from_slice(&store.values);
    let decls = session.graph().states().to_vec();
    let states = states.gathered().unwrap();
    found.extend_from_slice(states.current(ptl::engine::graph::StateId::from_index(decls.len() - 1)));
    found
}

/// Runs [`train`] as a process that `mpirun` has started; not a test of its own.
#[test]
#[ignore = "started by mpirun"]
fn as_rank() {
    let ranks = std::env::var("PTL_TEST_RANKS").expect("started by the test below").parse().unwrap();
    let ranks = Collective::of_mpi(ranks).unwrap();
    check_exchanges(&ranks);
    let found = train(&ranks);
    // The same where only (emulated) GPUs connect the processes.
    let options = DeviceOptions { kind: DeviceKind::Emulated, ..DeviceOptions::default() };
    let gpu = Device::open(&options).unwrap().gpu().unwrap().clone();
    let by_gpu = gpu.connect(Meeting::Ranks(&ranks)).unwrap();
    check_exchanges(&by_gpu);
    assert_eq!((by_gpu.local_rank(), by_gpu.local_ranks()), (ranks.rank(), ranks.ranks()));
    assert_eq!(train(&by_gpu), found);
    if ranks.is_first() {
        let found: Vec<String> = found.iter().map(ToString::to_string).collect();
        println!("\nnumbers: {}", found.join(" "));
    }
}

/// Checks small exchanges of every kind, and some of more bytes than are sent at a time.
fn check_exchanges(ranks: &Collective) {
    let own = vec![ranks.rank() as u32 + 1; ranks.rank() + 1];
    let each: Vec<Vec<u32>> = (1..=ranks.ranks()).map(|n| vec![n as u32; n]).collect();
    assert_eq!(ranks.gather_each(&own), each);
    assert_eq!(ranks.broadcast_text(if ranks.is_first() { "from the first" } else { "" }), "from the first");
    assert!(ranks.any(ranks.rank() == 1) && !ranks.any(false) && !ranks.agree(&ranks.rank().to_string()));
    let parts: Vec<usize> = (0..ranks.ranks()).map(|_| ranks.part(7).len()).collect();
    assert!(parts.iter().all(|part| (7 / ranks.ranks()..=7usize.div_ceil(ranks.ranks())).contains(part)));
    const MANY: usize = 300_001;
    let [rank, count] = [ranks.rank(), ranks.ranks()].map(|number| number as f64);
    let all = count * (count + 1.0) / 2.0;
    let mut sums: Vec<f64> = (0..MANY).map(|i| i as f64 * (rank + 1.0)).collect();
    ranks.sum_f64(&mut sums);
    assert!(sums.iter().enumerate().all(|(i, &sum)| sum == i as f64 * all));
    let mut sums: Vec<f32> = (0..MANY).map(|i| (i % 100) as f32 * (rank as f32 + 1.0)).collect();
    ranks.sum(&mut sums);
    assert!(sums.iter().enumerate().all(|(i, &sum)| sum == (i % 100) as f32 * all as f32));
    let own: Vec<u32> = (0..MANY).map(|i| (i * 10 + ranks.rank()) as u32).collect();
    let gathered = ranks.gather(&own);
    let expected = (0..ranks.ranks()).flat_map(|rank| (0..MANY).map(move |i| (i * 10 + rank) as u32));
    assert!(gathered.into_iter().eq(expected));
    let mut shared = own;
    ranks.broadcast(&mut shared);
    assert!(shared.into_iter().eq((0..MANY).map(|i| (i * 10) as u32)));
}

#[test]
fn a_network_without_batch_normalisation_is_exact() {
    let _alone = alone();
    let one = train(&Collective::single());
    for ranks in [2, 4] {
        let mut command = mpirun(ranks);
        command.arg(std::env::current_exe().unwrap()).args(["as_rank", "--ignored", "--nocapture"]);
        let output = command.env("PTL_TEST_RANKS", ranks.to_string()).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
        let line = text.lines().find_map(|line| line.strip_prefix("numbers: ")).expect("the numbers of rank 0");
        let many: Vec<f32> = line.split(' ').map(|number| number.parse().unwrap()).collect();
        assert_eq!(one.len(), many.len());
        let (difference, size) = one.iter().zip(&many).fold((0f64, 0f64), |(difference, size), (a, b)| {
            (difference.max(f64::from((a - b).abs())), size.max(f64::from(a.abs())))
        });
        println!("{ranks} processes: {difference:.1e} of {size:.2}");
        assert!(difference <= 1e-6 * size.max(1.0), "{difference:e} of {size}");
        assert!(one[0] > one[2 * STEPS - 2], "the loss falls");
    }
}
