//! What every work has in common: doing it, and the numbers that are compared with the other program's.

use std::collections::BTreeMap;
use std::time::Instant;

use serde::Serialize;

/// A work that is set up.
pub trait Work {
    /// Does the work from the inputs that both programs have, and returns numbers that must be equal in both.
    fn check(&mut self) -> Check;

    /// Does the work once.
    fn run(&mut self) -> Run;
}

/// The time of a run.
#[derive(Debug, Default, Serialize)]
pub struct Run {
    /// Seconds of the work.
    pub seconds: f64,
    /// Seconds of each of its parts, if it has parts.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub parts: Vec<f64>,
    /// The loss, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loss: Option<f64>,
}

impl Run {
    /// Measures `work`.
    pub fn of(work: impl FnOnce()) -> Run {
        Run { seconds: seconds(work), ..Run::default() }
    }

    /// Returns the means of several runs, and the loss of the last.
    pub fn mean(runs: impl ExactSizeIterator<Item = Run>) -> Run {
        let share = 1.0 / runs.len() as f64;
        runs.fold(Run::default(), |mut mean, run| {
            mean.seconds += share * run.seconds;
            mean.parts.resize(run.parts.len(), 0.0);
            mean.parts.iter_mut().zip(run.parts).for_each(|(mean, part)| *mean += share * part);
            Run { loss: run.loss, ..mean }
        })
    }
}

/// Returns the seconds that `work` takes.
pub fn seconds(work: impl FnOnce()) -> f64 {
    let start = Instant::now();
    work();
    start.elapsed().as_secs_f64()
}

/// Numbers that must be equal in both programs, by name.
#[derive(Debug, Default, Serialize)]
pub struct Check {
    scalars: BTreeMap<String, f64>,
    derived: BTreeMap<String, f64>,
    tensors: BTreeMap<String, Digest>,
}

impl Check {
    /// Adds a number.
    pub fn scalar(mut self, name: impl Into<String>, value: f64) -> Check {
        self.scalars.insert(name.into(), value);
        self
    }

    /// Adds a number that depends on gradients, in which rounding differs more.
    pub fn derivative(mut self, name: impl Into<String>, value: f64) -> Check {
        self.derived.insert(name.into(), value);
        self
    }

    /// Adds a tensor; activations are in the order `[n, h, w, c]`, weights in PyTorch's.
    pub fn tensor(mut self, name: impl Into<String>, values: &[f32]) -> Check {
        self.tensors.insert(name.into(), Digest::new(values));
        self
    }
}

/// A tensor in few numbers.
#[derive(Debug, Serialize)]
struct Digest {
    len: usize,
    norm: f64,
    /// Evenly spaced elements.
    sample: Vec<f32>,
}

/// The largest number of elements in [`Digest::sample`].
const SAMPLE: usize = 1000;

impl Digest {
    fn new(values: &[f32]) -> Digest {
        let count = values.len().min(SAMPLE);
        let sample = (0..count).map(|i| values[i * values.len() / count]).collect();
        let norm = values.iter().map(|&v| f64::from(v) * f64::from(v)).sum::<f64>().sqrt();
        Digest { len: values.len(), norm, sample }
    }
}
