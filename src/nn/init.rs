//! Registers the parameters of modules: names by nesting, initial values by a seed.

use rand::RngExt;
use rand_distr::{Distribution, Normal};

use crate::base::rng::{Purpose, stream};
use crate::engine::store::{BufferId, CounterId, Group, Layout, ParamId, Store};

/// Distribution of the initial values of a parameter.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Init {
    /// The same value everywhere.
    Constant(f32),
    /// N(0, 2/fan_in), where fan_in is the product of all sizes but the first.
    KaimingFanIn,
    /// N(0, 2/fan_out), where fan_out is outputs times taps.
    KaimingFanOut,
    /// N(mean, std²).
    Normal {
        /// Mean of the values.
        mean: f32,
        /// Standard deviation of the values.
        std: f32,
    },
    /// U(-1/√fan_in, 1/√fan_in), PyTorch's default for biases; the fan is the weight's.
    Uniform {
        /// Inputs of one output: input channels times taps of the kernel.
        fan_in: usize,
    },
}

/// A name prefix in a store, with the seed of initial values and the group of the parameters that are registered.
pub struct Scope<'a> {
    store: &'a mut Store,
    prefix: String,
    seed: u64,
    group: Group,
    stage: usize,
}

impl<'a> Scope<'a> {
    /// Returns the root scope, whose names have no prefix.
    pub fn root(store: &'a mut Store, seed: u64) -> Scope<'a> {
        Scope { store, prefix: String::new(), seed, group: Group::Head, stage: 0 }
    }

    /// Returns the scope `prefix.name`.
    pub fn child(&mut self, name: impl std::fmt::Display) -> Scope<'_> {
        let prefix = self.path(name);
        Scope { store: self.store, prefix, seed: self.seed, group: self.group, stage: self.stage }
    }

    /// Returns the same scope for parameters of another group.
    pub fn in_group(mut self, group: Group) -> Scope<'a> {
        self.group = group;
        self
    }

    /// Returns the same scope for parameters of a stage of a backbone.
    pub(crate) fn at_stage(mut self, stage: usize) -> Scope<'a> {
        self.stage = stage;
        self
    }

    /// Returns the full name of `name` in this scope.
    pub fn path(&self, name: impl std::fmt::Display) -> String {
        if self.prefix.is_empty() { name.to_string() } else { format!("{}.{name}", self.prefix) }
    }

    /// Registers a parameter of torch's shape `shape`. Its initial values depend only on the seed and its full name, so a part that two
    /// networks have in common is initialised equally.
    pub fn param(&mut self, name: &str, shape: &[usize], layout: Layout, init: Init) -> ParamId {
        let name = self.path(name);
        if self.store.has_only_shapes() {
            return self.add(name, shape, layout);
        }
        let mut rng = stream(self.seed, Purpose::Init, 0, fnv1a(&name));
        let len = shape.iter().product();
        let taps: usize = shape.iter().skip(2).product();
        let mut draw_normal = |mean: f32, std: f32| -> Vec<f32> {
            let normal = Normal::new(mean, std).expect("a finite standard deviation");
            (0..len).map(|_| normal.sample(&mut rng)).collect()
        };
        let torch: Vec<f32> = match init {
            Init::Constant(value) => vec![value; len],
            Init::KaimingFanIn => draw_normal(0.0, (2.0 / (len / shape[0]) as f32).sqrt()),
            Init::KaimingFanOut => draw_normal(0.0, (2.0 / (shape[0] * taps) as f32).sqrt()),
            Init::Normal { mean, std } => draw_normal(mean, std),
            Init::Uniform { fan_in } => {
                let bound = 1.0 / (fan_in as f32).sqrt();
                (0..len).map(|_| rng.random_range(-bound..bound)).collect()
            }
        };
        let id = self.add(name, shape, layout);
        let param = self.store.param(id).clone();
        param.from_torch(&torch, self.store.value_mut(id));
        id
    }

    fn add(&mut self, name: String, shape: &[usize], layout: Layout) -> ParamId {
        let id = self.store.add_param(name, shape, layout, self.group);
        self.store.params[id.0].stage = self.stage;
        id
    }

    /// Registers a buffer of `len` numbers, each `value`.
    pub fn buffer(&mut self, name: &str, len: usize, value: f32) -> BufferId {
        let name = self.path(name);
        self.store.add_buffer(name, len, value)
    }

    /// Registers a `num_batches_tracked` counter.
    pub(crate) fn counter(&mut self, name: &str) -> CounterId {
        let name = self.path(name);
        self.store.add_counter(name)
    }
}

/// Returns the FNV-1a hash of a name, which is the number of its random stream.
fn fnv1a(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}
