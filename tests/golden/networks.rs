//! Whole ResNets with formula weights: evaluation, gradients, two training steps, three Adam steps.

use ptl::graph::{Graph, Mode, Var};
use ptl::latent_state::{LatentStates, StateInit};
use ptl::nn::{Architecture, ResNet, ResNetConfig, Scope};
use ptl::op;
use ptl::optim::{OptimConfig, Optimizer, Segment};
use ptl::session::Session;
use ptl::shape::Shape;
use ptl::store::Store;
use serde_json::Value;

use crate::engine::{to_nchw, to_nhwc};
use crate::support::{Checker, GoldenFile, Summary, files, input, state_dict_tensor};

#[test]
fn golden_networks() {
    for path in files("net_resnet*.json") {
        Network::new(GoldenFile::open(&path)).check();
    }
}

struct Network {
    golden: GoldenFile,
    tag: String,
    input_shape: [usize; 4],
    store: Store,
    resnet: ResNet,
    states: LatentStates,
}

/// A recorded network with its loss.
struct Recorded {
    session: Session,
    images: Var,
    labels: Var,
    logits: Var,
    loss: Var,
}

impl Network {
    fn new(golden: GoldenFile) -> Network {
        let meta = &golden.json["meta"];
        let text = |key: &str| meta[key].as_str().unwrap_or_else(|| panic!("meta.{key}")).to_string();
        let architecture: Architecture = text("kind").parse().expect("a ResNet");
        let classes = meta["num_classes"].as_u64().expect("num_classes") as usize;
        let shape: Vec<usize> = serde_json::from_value(meta["input_shape"].clone()).expect("input_shape");
        let tag = text("tag");
        let mut store = Store::new();
        let config = ResNetConfig { architecture, base: 64, last_stride: 2, classes: Some(classes) };
        let resnet = ResNet::new(Scope::root(&mut store, 0), config);
        let mut network = Network {
            golden,
            tag,
            input_shape: shape.try_into().expect("four sizes"),
            store,
            resnet,
            states: LatentStates::new(StateInit::Zeros, 0),
        };
        network.fill();
        network
    }

    /// Formula weights and statistics.
    fn fill(&mut self) {
        let salt = self.golden.salt();
        for param in &self.store.params {
            let torch = state_dict_tensor(salt, &self.tag, &param.name, &param.shape);
            param.from_torch(&torch, &mut self.store.values[param.range.clone()]);
        }
        for buffer in &mut self.store.buffers {
            buffer.values = state_dict_tensor(salt, &self.tag, &buffer.name, &[buffer.values.len()]);
        }
    }

    fn record(&self, mode: Mode) -> Recorded {
        let [n, c, h, w] = self.input_shape;
        let mut graph = Graph::new(mode);
        let images = graph.input_with_grad(Shape::new(n, h, w, c));
        let labels = graph.input(Shape::vectors(n, 1));
        let logits = self.resnet.logits(&mut graph, &self.store, images).expect("the network records");
        let loss = op::cross_entropy(&mut graph, logits, labels, 0.0).expect("the loss records");
        graph.keep(logits);
        graph.root(loss);
        Recorded { session: Session::new(graph, &self.store).unwrap().poisoned(), images, labels, logits, loss }
    }

    fn forward(&mut self, recorded: &mut Recorded, which: usize) -> f32 {
        let [n, c, h, w] = self.input_shape;
        let x = input(self.golden.salt(), &self.tag, &format!("input{which}"), self.input_shape);
        let labels: Vec<u32> =
            serde_json::from_value(self.golden.json[format!("labels{which}")].clone()).expect("labels");
        recorded.session.set(recorded.images, &to_nhwc(&x, Shape::new(n, h, w, c)));
        recorded.session.set(recorded.labels, bytemuck::cast_slice(&labels));
        recorded.session.forward(&mut self.store, &mut self.states);
        recorded.session.value(recorded.loss)[0]
    }

    fn backward(&mut self, recorded: &mut Recorded) {
        self.store.grads.fill(f32::NAN);
        recorded.session.set_grad(recorded.loss, &[1.0]);
        recorded.session.backward(&mut self.store, &self.states);
    }

    fn check(&mut self) {
        let mut checker = Checker::new(&self.golden.name);
        let logits = |golden: &GoldenFile, key: &str| golden.f32(&format!("{key}.logits"));

        let mut recorded = self.record(Mode::EvalGrad);
        let loss = self.forward(&mut recorded, 1);
        self.backward(&mut recorded);
        checker.close("eval.logits", recorded.session.value(recorded.logits), &logits(&self.golden, "eval"), 1e-5);
        checker.close("evalgrad.loss", &[loss], &[self.number("evalgrad.loss")], 1e-5);
        self.gradients(&mut checker, "evalgrad", [2e-3, 5e-3], [5e-5, 5e-5]);
        // "proj" of the input gradient is a sum of terms that nearly cancel: relative to l2, as everywhere.
        self.input_gradient(&mut checker, &recorded, "evalgrad", [2e-3, 5e-3]);

        let mut recorded = self.record(Mode::Train);
        for which in [1, 2] {
            let key = format!("train{which}");
            let loss = self.forward(&mut recorded, which);
            self.backward(&mut recorded);
            checker.close(&format!("{key}.loss"), &[loss], &[self.number(&format!("{key}.loss"))], 1e-5);
            let got = recorded.session.value(recorded.logits);
            checker.close(&format!("{key}.logits"), got, &logits(&self.golden, &key), 5e-4);
            self.gradients(&mut checker, &key, [3e-2, 2e-1], [1e-3, 5e-3]);
            self.input_gradient(&mut checker, &recorded, &key, [1e-3, 5e-2]);
            for buffer in &self.store.buffers {
                let want = self.summary(&format!("{key}.buffers"), &buffer.name);
                let got = Summary::of(&buffer.values, self.golden.salt(), &self.tag, &buffer.name, 0);
                checker.close(&format!("{key} {}", buffer.name), &[got.l2], &[want.l2], 1e-5);
            }
            let tracked = self.store.counters.iter().all(|(_, count)| *count == which as u64);
            checker.that(tracked, || format!("{key}: num_batches_tracked is not {which} everywhere"));
        }
        self.adam(&mut checker);
    }

    /// Every parameter's gradient, and the median over parameters, in l2 and proj (relative to l2).
    fn gradients(&self, checker: &mut Checker, key: &str, each: [f64; 2], median: [f64; 2]) {
        let mut deviations = [Vec::new(), Vec::new()];
        for param in &self.store.params {
            let want = self.summary(&format!("{key}.grad"), &param.name);
            let torch = param.to_torch(&self.store.grads[param.range.clone()]);
            let got = Summary::of(&torch, self.golden.salt(), &self.tag, &param.name, 0);
            let found = [(got.l2 - want.l2).abs() / want.l2, (got.proj - want.proj).abs() / want.l2];
            for (i, what) in ["l2", "proj"].into_iter().enumerate() {
                checker.that(found[i] <= each[i], || {
                    format!("{key} gradient of {}: {what} off by {:e}, allowed {:e}", param.name, found[i], each[i])
                });
                deviations[i].push(found[i]);
            }
        }
        for (i, list) in deviations.iter_mut().enumerate() {
            list.sort_by(f64::total_cmp);
            let middle = list[list.len() / 2];
            checker.that(middle <= median[i], || format!("{key}: median over parameters {middle:e} > {:e}", median[i]));
        }
    }

    fn input_gradient(&self, checker: &mut Checker, recorded: &Recorded, key: &str, tolerance: [f64; 2]) {
        let [n, c, h, w] = self.input_shape;
        let torch = to_nchw(recorded.session.grad(recorded.images), Shape::new(n, h, w, c));
        let got = Summary::of(&torch, self.golden.salt(), &self.tag, "input1", 0);
        let want = Summary::stored(&self.golden.json[format!("{key}.dinput")]).expect("a summary");
        checker.close(&format!("{key}.dinput.l2"), &[got.l2], &[want.l2], tolerance[0]);
        checker.close_absolute(&format!("{key}.dinput.proj"), &[got.proj], &[want.proj], tolerance[1] * want.l2);
    }

    fn adam(&mut self, checker: &mut Checker) {
        self.fill();
        self.store.counters.iter_mut().for_each(|(_, count)| *count = 0);
        let config = OptimConfig::Adam { betas: [0.9, 0.999], eps: 1e-8, amsgrad: true };
        let mut optimizer = Optimizer::new(&config, self.store.values.len()).expect("an optimiser");
        let segments = [Segment { range: 0..self.store.values.len(), lr: 2e-4, weight_decay: 5e-4 }];
        let mut recorded = self.record(Mode::Train);
        let losses: Vec<f64> = serde_json::from_value(self.golden.json["adam.losses"].clone()).expect("losses");
        for (i, (which, tolerance)) in [(1, 1e-5), (2, 5e-3), (1, 2e-2)].into_iter().enumerate() {
            let loss = self.forward(&mut recorded, which);
            self.backward(&mut recorded);
            checker.close(&format!("adam.losses[{i}]"), &[loss], &[losses[i]], tolerance);
            optimizer.step(&mut self.store.values, &self.store.grads, &segments);
        }
        for param in &self.store.params {
            let want = self.summary("adam.params_after3", &param.name);
            let torch = param.to_torch(&self.store.values[param.range.clone()]);
            let got = Summary::of(&torch, self.golden.salt(), &self.tag, &param.name, 0);
            checker.close(&format!("adam {}.l2", param.name), &[got.l2], &[want.l2], 1e-3);
            checker.close_absolute(&format!("adam {}.proj", param.name), &[got.proj], &[want.proj], 2e-2 * want.l2);
        }
        let mut recorded = self.record(Mode::EvalGrad);
        self.forward(&mut recorded, 1);
        let want = self.golden.f32("adam.eval_after3.logits");
        checker.close("adam.eval_after3.logits", recorded.session.value(recorded.logits), &want, 1e-1);
    }

    fn number(&self, key: &str) -> f64 {
        self.golden.json[key].as_f64().unwrap_or_else(|| panic!("{key}"))
    }

    fn summary(&self, key: &str, name: &str) -> Summary {
        let stored: &Value = &self.golden.json[key][name];
        Summary::stored(stored).unwrap_or_else(|| panic!("{key}: {name}"))
    }
}
