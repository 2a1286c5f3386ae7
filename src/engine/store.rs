//! The numbers of a model: parameters and their gradients in two flat buffers, and batch-norm statistics, all with torch's names.

use std::ops::Range;

use crate::Result;
use crate::base::memory;
use crate::engine::device::Mirrored;

/// Index of a parameter in its [`Store`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ParamId(pub(crate) usize);

/// Index of a buffer (running statistics) in its [`Store`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BufferId(pub(crate) usize);

/// Index of a `num_batches_tracked` counter in its [`Store`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CounterId(pub(crate) usize);

/// The order of a parameter's numbers in memory. [`Param::shape`] is in torch's order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// As in torch.
    Plain,
    /// `[out, in, kh, kw]` (or `[out, in]`) in torch, `[kh, kw, in, out]` in memory: the right-hand matrix of an NHWC
    /// convolution.
    Conv,
}

/// The part of a network that a parameter belongs to. Each can be frozen and can have its own learning rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Group {
    /// The pre-trained network.
    Backbone,
    /// Copies of the pre-trained network's last stages, one for each granularity (MGN).
    Branches,
    /// BConv-Cells and fuse modules.
    Ptl,
    /// Embedding, neck and classifier.
    Head,
}

/// A tensor that can be trained.
#[derive(Clone, Debug)]
pub struct Param {
    /// Name in the state dict, e.g. `backbone.layer1.0.conv1.weight`.
    pub name: String,
    /// torch's shape.
    pub shape: Vec<usize>,
    /// Order of the numbers in memory.
    pub layout: Layout,
    /// The part of the network that it belongs to.
    pub group: Group,
    /// The stage of the backbone, from 1; 0 is the stem, or a parameter outside the backbone.
    pub stage: usize,
    /// If false, no gradient is computed and no optimiser changes it.
    pub trainable: bool,
    /// Its range in [`Store::values`] and [`Store::grads`].
    pub range: Range<usize>,
}

/// A tensor that is saved but not trained, e.g. `running_mean`; always one-dimensional.
#[derive(Clone, Debug)]
pub struct Buffer {
    /// Name in the state dict, e.g. `backbone.bn1.running_mean`.
    pub name: String,
    /// The numbers, `[len]`.
    pub values: Mirrored,
}

/// All numbers of a model.
#[derive(Clone, Debug, Default)]
pub struct Store {
    /// Names, shapes and places of the parameters; a [`ParamId`] is an index.
    pub params: Vec<Param>,
    /// Parameters, one after the other.
    pub values: Mirrored,
    /// Gradients, at the offsets of `values`.
    pub grads: Mirrored,
    /// Running statistics; a [`BufferId`] is an index.
    pub buffers: Vec<Buffer>,
    /// `num_batches_tracked` by name.
    pub counters: Vec<(String, u64)>,
    /// Whether there are names and shapes only, without numbers.
    shapes_only: bool,
}

impl Store {
    /// Returns an empty store.
    pub fn new() -> Store {
        Store::default()
    }

    /// Returns an empty store that registers names and shapes, and takes no memory for numbers until [`Store::allocate`]. With it, a
    /// network's needs are known, and files can be checked against it, before its memory is taken.
    pub(crate) fn of_shapes() -> Store {
        Store { shapes_only: true, ..Store::default() }
    }

    /// Returns whether there are names and shapes only, without numbers.
    pub(crate) fn has_only_shapes(&self) -> bool {
        self.shapes_only
    }

    /// Returns an empty store with room for `parameters` numbers.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`](crate::Error::OutOfMemory) if there is not enough memory.
    pub(crate) fn with_room(parameters: usize) -> Result<Store> {
        let values = memory::reserved::<f32>("the weights", parameters)?;
        Ok(Store { values: values.into(), ..Store::default() })
    }

    /// Takes the memory for the parameters of a store of shapes, and fills it with zeros.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`](crate::Error::OutOfMemory) if there is not enough memory.
    pub fn allocate(&mut self) -> Result<()> {
        let len = self.values.len();
        let mut values = memory::reserved("the weights", len)?;
        values.resize(len, 0.0);
        self.values = values.into();
        self.shapes_only = false;
        Ok(())
    }

    /// Brings parameters and statistics to the host: see [`Mirrored::fetch`].
    ///
    /// # Errors
    /// The device was lost.
    pub fn fetch(&self) -> Result<()> {
        self.values.fetch()?;
        self.buffers.iter().try_for_each(|buffer| buffer.values.fetch())
    }

    /// Registers a parameter that has the shape `shape` in torch, and fills it with zeros.
    pub fn add_param(&mut self, name: String, shape: &[usize], layout: Layout, group: Group) -> ParamId {
        let start = self.values.len();
        let range = start..start + shape.iter().product::<usize>();
        if self.shapes_only {
            self.values = Mirrored::zeros(range.end);
        } else {
            self.values.resize(range.end, 0.0);
        }
        self.grads = Mirrored::zeros(range.end);
        self.params.push(Param { name, shape: shape.to_vec(), layout, group, stage: 0, trainable: true, range });
        ParamId(self.params.len() - 1)
    }

    /// Registers a buffer of `len` numbers, each `value`.
    pub fn add_buffer(&mut self, name: String, len: usize, value: f32) -> BufferId {
        // A store of shapes gets zeros, which take memory only when they are read.
        let values = if self.shapes_only { Mirrored::zeros(len) } else { vec![value; len].into() };
        self.buffers.push(Buffer { name, values });
        BufferId(self.buffers.len() - 1)
    }

    /// Registers a `num_batches_tracked` counter.
    pub fn add_counter(&mut self, name: String) -> CounterId {
        self.counters.push((name, 0));
        CounterId(self.counters.len() - 1)
    }

    /// Returns a parameter's name, shape and place.
    pub fn param(&self, id: ParamId) -> &Param {
        &self.params[id.0]
    }

    /// Returns the values of a parameter, in the order of memory.
    pub fn value(&self, id: ParamId) -> &[f32] {
        &self.values[self.params[id.0].range.clone()]
    }

    /// Returns the values of a parameter for writing, in the order of memory.
    pub fn value_mut(&mut self, id: ParamId) -> &mut [f32] {
        &mut self.values[self.params[id.0].range.clone()]
    }

    /// Returns the gradient of a parameter, in the order of memory.
    pub fn grad(&self, id: ParamId) -> &[f32] {
        &self.grads[self.params[id.0].range.clone()]
    }

    /// Freezes or unfreezes all parameters of a group.
    pub fn set_trainable(&mut self, group: Group, trainable: bool) {
        self.params.iter_mut().filter(|p| p.group == group).for_each(|p| p.trainable = trainable);
    }

    /// Returns how many numbers all buffers have together.
    pub(crate) fn buffer_numbers(&self) -> usize {
        self.buffers.iter().map(|buffer| buffer.values.len()).sum()
    }

    /// Returns how many numbers the parameters of `group` have together; `None` stands for all groups.
    pub fn count(&self, group: Option<Group>) -> usize {
        self.params.iter().filter(|p| group.is_none_or(|g| p.group == g)).map(|p| p.range.len()).sum()
    }
}

impl Param {
    /// Reorders `values` from the order of memory to torch's.
    pub fn to_torch(&self, values: &[f32]) -> Vec<f32> {
        let mut torch = vec![0.0; values.len()];
        self.for_each_pair(|memory, t| torch[t] = values[memory]);
        torch
    }

    /// Reorders `torch` from torch's order to the order of memory, into `values`.
    pub fn from_torch(&self, torch: &[f32], values: &mut [f32]) {
        self.for_each_pair(|memory, t| values[memory] = torch[t]);
    }

    fn for_each_pair(&self, mut visit: impl FnMut(usize, usize)) {
        match self.layout {
            Layout::Plain => (0..self.range.len()).for_each(|i| visit(i, i)),
            Layout::Conv => {
                let (out, input) = (self.shape[0], self.shape[1]);
                let taps: usize = self.shape[2..].iter().product();
                for tap in 0..taps {
                    for i in 0..input {
                        for o in 0..out {
                            visit((tap * input + i) * out + o, (o * input + i) * taps + tap);
                        }
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Error;

    #[test]
    fn a_store_of_shapes_has_names_and_no_numbers() {
        let mut store = Store::of_shapes();
        // More than any machine has.
        let id = store.add_param("w".into(), &[1 << 20, 1 << 20], Layout::Plain, Group::Head);
        assert_eq!((store.count(None), store.param(id).range.clone()), (1 << 40, 0..1 << 40));
        assert!(matches!(Store::with_room(1 << 50), Err(Error::OutOfMemory { .. })));
        let mut store = Store::with_room(4).unwrap();
        let id = store.add_param("w".into(), &[4], Layout::Plain, Group::Head);
        assert_eq!((store.value(id), store.grad(id)), (&[0.0; 4][..], &[0.0; 4][..]));
    }

    #[test]
    fn conv_layout_round_trips_and_puts_out_channels_fastest() {
        let mut store = Store::new();
        let id = store.add_param("w".into(), &[2, 3, 1, 2], Layout::Conv, Group::Backbone);
        let torch: Vec<f32> = (0..12).map(|i| i as f32).collect();
        let param = store.param(id).clone();
        param.from_torch(&torch, store.value_mut(id));
        // memory[0..2] is tap 0, input 0, outputs 0 and 1: torch [0,0,0,0] = 0 and [1,0,0,0] = 6.
        assert_eq!(store.value(id)[..2], [0.0, 6.0]);
        assert_eq!(param.to_torch(store.value(id)), torch);
    }
}
