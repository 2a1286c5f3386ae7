//! Compares whole networks with weights by formula: evaluation, gradients, two training steps, three Adam steps.

use std::collections::HashMap;

use ptl::engine::graph::{Graph, Mode, StateId, Var};
use ptl::engine::latent_state::{LatentStates, StateInit};
use ptl::engine::op;
use ptl::engine::optim::{Optimizer, Segment, UpdateRule};
use ptl::engine::session::Session;
use ptl::engine::shape::Shape;
use ptl::engine::store::Store;
use ptl::eval::extract::normalize;
use ptl::nn::{Classifier, ClassifierConfig, Mgn, MgnConfig, Network as _, Pool, ResNetConfig, StemKind};
use serde_json::Value;

use crate::engine::{to_nchw, to_nhwc};
use crate::optim::update;
use crate::support::{Checker, GoldenFile, Summary, Variant, exact, files, formula_tensor, input, state_dict_tensor};

#[test]
fn golden_resnets() {
    for path in files("net_resnet*.json") {
        let small = path.to_string_lossy().contains("resnet18_c10.");
        for variant in exact().into_iter().take(if small { 2 } else { 1 }) {
            Network::new(GoldenFile::open(&path), variant).check();
        }
    }
}

/// Runs the networks one after the other: each takes 2 to 3.5 GB.
#[test]
fn golden_mgn() {
    for path in files("net_mgn*.json") {
        Network::new(GoldenFile::open(&path), exact().swap_remove(0)).check();
    }
}

/// Runs the networks of full size in the emulator, which takes long.
#[test]
#[ignore = "hours in the emulator"]
fn golden_mgn_on_the_emulated_gpu() {
    for path in files("net_mgn*.json") {
        for variant in exact().into_iter().skip(1) {
            Network::new(GoldenFile::open(&path), variant).check();
        }
    }
}

/// Compares names and shapes with the published state dicts.
#[test]
fn golden_mgn_keys() {
    for path in files("keys_mgn*.json") {
        let golden = GoldenFile::open(&path);
        let text = |key: &str| golden.json[key].as_str().unwrap_or_else(|| panic!("{key}")).to_string();
        let number = |key: &str| golden.json[key].as_u64().unwrap_or_else(|| panic!("{key}")) as usize;
        let config = MgnConfig {
            architecture: text("backbone").parse().expect("a ResNet"),
            base: 64,
            embedding: 256,
            cell_width: golden.name.contains("_ptl").then_some(1.0),
            classes: number("num_classes"),
        };
        let mut store = Store::new();
        Mgn::new(&mut store, &config, 0);
        let parameters = store.count(None);
        let params = store.params.iter().map(|p| (p.name.clone(), p.shape.clone()));
        let buffers = store.buffers.iter().map(|b| (b.name.clone(), vec![b.values.len()]));
        let counters = store.counters.iter().map(|(name, _)| (name.clone(), Vec::new()));
        let got: HashMap<String, Vec<usize>> = params.chain(buffers).chain(counters).collect();
        let want: HashMap<String, Vec<usize>> =
            golden.json["keys"].as_array().expect("keys").iter().map(entry).collect();
        let mut checker = Checker::new(&golden.name);
        checker.that(parameters == number("n_params"), || format!("{parameters} parameters"));
        for (name, shape) in &want {
            checker.that(got.get(name) == Some(shape), || format!("{name}: {:?}, not {shape:?}", got.get(name)));
        }
        for name in got.keys() {
            checker.that(want.contains_key(name), || format!("{name} is not in the published state dict"));
        }
    }
}

/// Returns name and shape in one line of a list of keys.
fn entry(line: &Value) -> (String, Vec<usize>) {
    let shape = serde_json::from_value(line[1].clone()).expect("a shape");
    (line[0].as_str().expect("a name").to_string(), shape)
}

enum Modules {
    Classifier(Box<Classifier>),
    Mgn { mgn: Box<Mgn>, cells: bool },
}

struct Network {
    variant: Variant,
    golden: GoldenFile,
    tag: String,
    input_shape: [usize; 4],
    store: Store,
    modules: Modules,
    states: LatentStates,
}

/// A recorded network with its loss.
struct Recorded {
    session: Session,
    images: Var,
    labels: Var,
    /// Outputs by their names in the golden file.
    outputs: Vec<(&'static str, Var)>,
    /// Each loss with its weight in the sum.
    losses: Vec<(Var, f32)>,
}

impl Network {
    fn new(golden: GoldenFile, variant: Variant) -> Network {
        let meta = &golden.json["meta"];
        let text = |key: &str| meta[key].as_str().unwrap_or_else(|| panic!("meta.{key}")).to_string();
        let classes = meta["num_classes"].as_u64().expect("num_classes") as usize;
        let shape: Vec<usize> = serde_json::from_value(meta["input_shape"].clone()).expect("input_shape");
        let (tag, kind) = (text("tag"), text("kind"));
        let mut store = Store::new();
        let modules = if kind.starts_with("mgn") {
            let cells = kind == "mgn_ptl";
            let architecture = "resnet50".parse().expect("a ResNet");
            let cell_width = cells.then_some(1.0);
            let config = MgnConfig { architecture, base: 64, embedding: 256, cell_width, classes };
            Modules::Mgn { mgn: Box::new(Mgn::new(&mut store, &config, 0)), cells }
        } else {
            let architecture = kind.parse().expect("a ResNet");
            let (stem, pool) = (StemKind::Imagenet, Pool::Avg);
            let backbone = ResNetConfig { architecture, base: 64, stem, last_stride: 2, classes: None };
            let config = ClassifierConfig { backbone, pool, ptl: None, classes };
            Modules::Classifier(Box::new(Classifier::new(&mut store, &config, 0).expect("a classifier")))
        };
        let mut network = Network {
            variant,
            golden,
            tag,
            input_shape: shape.try_into().expect("four sizes"),
            store,
            modules,
            states: LatentStates::new(StateInit::Zeros, 0),
        };
        network.fill();
        network
    }

    /// Sets weights and statistics by formula.
    fn fill(&mut self) {
        let salt = self.golden.salt();
        for param in &self.store.params {
            let torch = state_dict_tensor(salt, &self.tag, &param.name, &param.shape);
            param.from_torch(&torch, &mut self.store.values[param.range.clone()]);
        }
        for buffer in &mut self.store.buffers {
            buffer.values = state_dict_tensor(salt, &self.tag, &buffer.name, &[buffer.values.len()]).into();
        }
        self.store.counters.iter_mut().for_each(|(_, count)| *count = 0);
        self.states.reset();
    }

    /// Sets all latent states by formula.
    fn fill_states(&mut self, recorded: &Recorded) {
        let batch = self.input_shape[0];
        for (i, decl) in recorded.session.graph().states().iter().enumerate() {
            let shape = Shape { n: batch, ..decl.slot };
            let key = format!("{}/latent.{}", self.tag, cell_name(&decl.name));
            let torch = formula_tensor(self.golden.salt(), &key, shape.len(), 0.0, 0.5);
            self.states.set_current(StateId::from_index(i), to_nhwc(&torch, shape));
        }
    }

    fn record(&self, mode: Mode) -> Recorded {
        let [n, c, h, w] = self.input_shape;
        let mut graph = Graph::new(mode);
        let images = graph.input_with_grad(Shape::new(n, h, w, c));
        let labels = graph.labels(n);
        let (outputs, losses) = match &self.modules {
            Modules::Classifier(classifier) => {
                let outputs = classifier.forward(&mut graph, &self.store, images).expect("the network records");
                let logits = outputs.logits[0];
                let loss = op::cross_entropy(&mut graph, logits, labels, 0.0).expect("the loss records");
                (vec![("logits", logits)], vec![(loss, 1.0)])
            }
            Modules::Mgn { mgn, .. } => {
                let recorded = mgn.forward(&mut graph, &self.store, images).expect("the network records");
                let mut losses = Vec::new();
                for &embedding in &recorded.embeddings {
                    let loss =
                        op::batch_hard_triplet(&mut graph, embedding, labels, None, 1.2).expect("the loss records");
                    losses.push((loss, 1.0 / 3.0));
                }
                for &logits in &recorded.logits {
                    let loss = op::cross_entropy(&mut graph, logits, labels, 0.0).expect("the loss records");
                    losses.push((loss, 1.0 / 8.0));
                }
                let vars = recorded.embeddings.into_iter().chain(recorded.logits).chain([recorded.feature]);
                (MGN_OUTPUTS.into_iter().zip(vars).collect(), losses)
            }
        };
        outputs.iter().for_each(|&(_, output)| graph.keep(output));
        losses.iter().for_each(|&(loss, _)| graph.root(loss));
        let session = Session::new(graph, &self.store, &self.variant.device).unwrap().poisoned();
        Recorded { session, images, labels, outputs, losses }
    }

    /// Runs the forward pass. Returns the sum of the losses, and each of them.
    fn forward(&mut self, recorded: &mut Recorded, which: usize) -> (f64, Vec<f64>) {
        let [n, c, h, w] = self.input_shape;
        let x = input(self.golden.salt(), &self.tag, &format!("input{which}"), self.input_shape);
        let labels: Vec<u32> =
            serde_json::from_value(self.golden.json[format!("labels{which}")].clone()).expect("labels");
        let session = &mut recorded.session;
        session.set(recorded.images, &to_nhwc(&x, Shape::new(n, h, w, c))).unwrap();
        session.set(recorded.labels, bytemuck::cast_slice(&labels)).unwrap();
        session.forward(&mut self.store, &mut self.states).unwrap();
        let parts: Vec<f64> = recorded.losses.iter().map(|l| f64::from(session.value(l.0).unwrap()[0])).collect();
        (parts.iter().zip(&recorded.losses).map(|(part, (_, weight))| part * f64::from(*weight)).sum(), parts)
    }

    fn backward(&mut self, recorded: &mut Recorded) {
        self.store.grads.fill(f32::NAN);
        recorded.losses.iter().for_each(|&(loss, weight)| recorded.session.set_grad(loss, &[weight]).unwrap());
        recorded.session.backward(&mut self.store, &mut self.states).unwrap();
    }

    fn check(&mut self) {
        let mut checker = self.variant.checker(&self.golden.name);
        let eval = match &self.modules {
            Modules::Mgn { cells: true, .. } => {
                // The states of `eval_c0zero`; `evalgrad` starts from formula states, as does `eval_c0formula`.
                let mut recorded = self.record(Mode::EvalGrad);
                self.forward(&mut recorded, 1);
                self.outputs(&mut checker, &recorded, "eval_c0zero", 1e-5);
                self.latent_states(&mut checker, &recorded, "eval_c0zero.latent_after", 1e-5);
                self.features(&mut checker, "eval_c0zero");
                "eval_c0formula"
            }
            Modules::Mgn { cells: false, .. } => {
                self.features(&mut checker, "eval");
                "eval"
            }
            Modules::Classifier(_) => "eval",
        };
        let mut recorded = self.record(Mode::EvalGrad);
        self.fill_states(&recorded);
        let (loss, parts) = self.forward(&mut recorded, 1);
        self.backward(&mut recorded);
        self.outputs(&mut checker, &recorded, eval, 1e-5);
        self.latent_states(&mut checker, &recorded, &format!("{eval}.latent_after"), 1e-5);
        checker.close("evalgrad.loss", &[loss], &[self.number("evalgrad.loss")], 1e-5);
        self.parts(&mut checker, "evalgrad", &parts);
        self.gradients(&mut checker, &recorded, "evalgrad", [2e-3, 5e-3], [5e-5, 5e-5]);
        // "proj" of the input gradient is a sum of terms that nearly cancel: relative to l2, as everywhere.
        self.input_gradient(&mut checker, &recorded, "evalgrad", [2e-3, 5e-3]);
        drop(recorded);

        self.states.reset();
        let mut recorded = self.record(Mode::Train);
        for which in [1, 2] {
            let key = format!("train{which}");
            let (loss, parts) = self.forward(&mut recorded, which);
            self.backward(&mut recorded);
            checker.close(&format!("{key}.loss"), &[loss], &[self.number(&format!("{key}.loss"))], 1e-5);
            self.parts(&mut checker, &key, &parts);
            self.outputs(&mut checker, &recorded, &key, 5e-4);
            self.latent_states(&mut checker, &recorded, &format!("{key}.latent"), 1e-4);
            self.gradients(&mut checker, &recorded, &key, [3e-2, 2e-1], [1e-3, 5e-3]);
            self.input_gradient(&mut checker, &recorded, &key, [1e-3, 5e-2]);
            for buffer in &self.store.buffers {
                let want = self.summary(&format!("{key}.buffers"), &buffer.name);
                let got = Summary::of(&buffer.values, self.golden.salt(), &self.tag, &buffer.name, 0);
                checker.close(&format!("{key} {}", buffer.name), &[got.l2], &[want.l2], 1e-5);
            }
            for (name, count) in &self.store.counters {
                let want = &self.golden.json[format!("{key}.buffers")][name];
                checker.that(want.as_u64() == Some(*count), || format!("{key}: {name} is {count}, not {want}"));
            }
        }
        drop(recorded);
        self.adam(&mut checker);
    }

    fn outputs(&self, checker: &mut Checker, recorded: &Recorded, key: &str, tolerance: f64) {
        for (name, var) in &recorded.outputs {
            let want = self.golden.f32(&format!("{key}.{name}"));
            checker.close(&format!("{key}.{name}"), &recorded.session.value(*var).unwrap(), &want, tolerance);
        }
    }

    /// Compares the single losses of an MGN.
    fn parts(&self, checker: &mut Checker, key: &str, parts: &[f64]) {
        if matches!(self.modules, Modules::Mgn { .. }) {
            let stored = &self.golden.json[format!("{key}.parts")];
            let list = |name: &str| serde_json::from_value::<Vec<f64>>(stored[name].clone()).expect("losses");
            let want: Vec<f64> = list("triplets").into_iter().chain(list("ces")).collect();
            checker.close(&format!("{key}.parts"), parts, &want, 5e-5);
        }
    }

    fn latent_states(&self, checker: &mut Checker, recorded: &Recorded, key: &str, tolerance: f64) {
        for (i, decl) in recorded.session.graph().states().iter().enumerate() {
            let state = self.states.current(StateId::from_index(i));
            let torch = to_nchw(state, Shape { n: self.input_shape[0], ..decl.slot });
            let cell = cell_name(&decl.name);
            let want = self.summary(key, cell);
            let probe = format!("lat.{cell}");
            let got = Summary::of(&torch, self.golden.salt(), &self.tag, &probe, want.first.len());
            checker.close(&format!("{key} {cell}.l2"), &[got.l2], &[want.l2], tolerance);
            checker.close_absolute(&format!("{key} {cell}.proj"), &[got.proj], &[want.proj], tolerance * want.l2);
            checker.close(&format!("{key} {cell}.first"), &got.first, &want.first, tolerance);
        }
    }

    /// Compares the retrieval feature of image and mirror image together, with states of zero before each.
    fn features(&mut self, checker: &mut Checker, key: &str) {
        let Modules::Mgn { mgn, .. } = &self.modules else { return };
        let [n, c, h, w] = self.input_shape;
        let shape = Shape::new(n, h, w, c);
        let mut graph = Graph::new(Mode::Eval);
        let images = graph.input(shape);
        let feature = mgn.forward(&mut graph, &self.store, images).expect("the network records").feature;
        graph.keep(feature);
        let mut session = Session::new(graph, &self.store, &self.variant.device).unwrap();
        let x = input(self.golden.salt(), &self.tag, "input1", self.input_shape);
        let mut pixels = to_nhwc(&x, shape);
        let mut features = vec![0.0; session.graph().shape(feature).len()];
        for _ in 0..2 {
            session.set(images, &pixels).unwrap();
            let mut states = LatentStates::new(StateInit::Zeros, 0);
            session.forward(&mut self.store, &mut states).unwrap();
            features.iter_mut().zip(&session.value(feature).unwrap()[..]).for_each(|(sum, v)| *sum += v);
            for row in pixels.chunks_exact_mut(w * c) {
                let (row, _) = row.as_chunks_mut::<3>();
                row.reverse();
            }
        }
        features.chunks_exact_mut(session.graph().shape(feature).c).for_each(normalize);
        let name = format!("{key}.feature_flip_norm");
        checker.close(&name, &features, &self.golden.f32(&name), 1e-5);
    }

    /// Compares every parameter's gradient in l2 and proj (relative to l2), and the median deviations over parameters.
    fn gradients(&self, checker: &mut Checker, recorded: &Recorded, key: &str, each: [f64; 2], median: [f64; 2]) {
        let mut deviations = [Vec::new(), Vec::new()];
        for (i, param) in self.store.params.iter().enumerate() {
            let stored = self.golden.json[format!("{key}.grad")].get(&param.name);
            let want = Summary::stored(stored.unwrap_or_else(|| panic!("{key}.grad: {}", param.name)));
            checker.that(recorded.session.has_grad(i) == want.is_some(), || {
                format!("{key}: who has a gradient: {}", param.name)
            });
            let Some(want) = want else { continue };
            let torch = param.to_torch(&self.store.grads[param.range.clone()]);
            let got = Summary::of(&torch, self.golden.salt(), &self.tag, &param.name, 0);
            if want.l2 < 1e-8 {
                // Exactly zero by algebra (a bias before a batch norm): only its size can be checked.
                checker.that(got.l2 <= 1e-5, || format!("{key} gradient of {}: {:e}, not 0", param.name, got.l2));
                continue;
            }
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
        let torch = to_nchw(&recorded.session.grad(recorded.images).unwrap(), Shape::new(n, h, w, c));
        let got = Summary::of(&torch, self.golden.salt(), &self.tag, "input1", 0);
        let want = Summary::stored(&self.golden.json[format!("{key}.dinput")]).expect("a summary");
        checker.close(&format!("{key}.dinput.l2"), &[got.l2], &[want.l2], tolerance[0]);
        checker.close_absolute(&format!("{key}.dinput.proj"), &[got.proj], &[want.proj], tolerance[1] * want.l2);
    }

    fn adam(&mut self, checker: &mut Checker) {
        self.fill();
        let config = UpdateRule::Adam { betas: [0.9, 0.999], eps: 1e-8, amsgrad: true };
        let mut optimizer = Optimizer::new(&config, self.store.values.len()).expect("an optimiser");
        let mut recorded = self.record(Mode::Train);
        let trained = self.store.params.iter().enumerate().filter(|(i, _)| recorded.session.has_grad(*i));
        let segment = |range| Segment { range, lr: 2e-4, weight_decay: 5e-4 };
        let segments: Vec<Segment> = trained.map(|(_, param)| segment(param.range.clone())).collect();
        let losses: Vec<f64> = serde_json::from_value(self.golden.json["adam.losses"].clone()).expect("losses");
        for (i, (which, tolerance)) in [(1, 1e-5), (2, 5e-3), (1, 2e-2)].into_iter().enumerate() {
            let (loss, _) = self.forward(&mut recorded, which);
            self.backward(&mut recorded);
            checker.close(&format!("adam.losses[{i}]"), &[loss], &[losses[i]], tolerance);
            let Store { values, grads, .. } = &mut self.store;
            update(&self.variant.device, &mut optimizer, values, grads, &segments);
        }
        for param in &self.store.params {
            let want = self.summary("adam.params_after3", &param.name);
            let torch = param.to_torch(&self.store.values[param.range.clone()]);
            let got = Summary::of(&torch, self.golden.salt(), &self.tag, &param.name, 0);
            checker.close(&format!("adam {}.l2", param.name), &[got.l2], &[want.l2], 1e-3);
            checker.close_absolute(&format!("adam {}.proj", param.name), &[got.proj], &[want.proj], 2e-2 * want.l2);
        }
        drop(recorded);
        self.states.reset();
        let mut recorded = self.record(Mode::EvalGrad);
        self.forward(&mut recorded, 1);
        // Of an MGN, the stored output is the retrieval feature.
        for (name, var) in &recorded.outputs {
            let key = format!("adam.eval_after3.{name}");
            if self.golden.has(&key) {
                checker.close(&key, &recorded.session.value(*var).unwrap(), &self.golden.f32(&key), 1e-1);
            }
        }
    }

    fn number(&self, key: &str) -> f64 {
        self.golden.json[key].as_f64().unwrap_or_else(|| panic!("{key}"))
    }

    fn summary(&self, key: &str, name: &str) -> Summary {
        let stored: &Value = &self.golden.json[key][name];
        Summary::stored(stored).unwrap_or_else(|| panic!("{key}: {name}"))
    }
}

/// Outputs of an MGN in the order in which it records them: three embeddings, eight logits, the feature.
const MGN_OUTPUTS: [&str; 12] =
    ["fg_p1", "fg_p2", "fg_p3", "l_p1", "l_p2", "l_p3", "l0_p2", "l1_p2", "l0_p3", "l1_p3", "l2_p3", "predict"];

/// Returns the cell of a state: `bconv3` of `ptl.bconv3.latent_state`.
fn cell_name(state: &str) -> &str {
    state.split('.').nth(1).expect("a cell in a branch")
}
