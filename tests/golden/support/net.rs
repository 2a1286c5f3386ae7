//! Whole networks: weights and inputs by formula, and summaries of tensors.

use serde_json::Value;

use super::formula::{formula, formula_tensor};

/// Returns the tensor `key` of a state dict by formula, in the layout of its `shape` (convolutions: [out, in, kh, kw]).
pub fn state_dict_tensor(salt: &str, tag: &str, key: &str, shape: &[usize]) -> Vec<f32> {
    let n = shape.iter().product();
    let full_key = format!("{tag}/{key}");
    let make = |shift, scale| formula_tensor(salt, &full_key, n, shift, scale);
    if key.ends_with("num_batches_tracked") {
        vec![0.0; n]
    } else if key.ends_with("running_mean") {
        make(0.0, 0.1)
    } else if key.ends_with("running_var") {
        formula(salt, &full_key).take(n).map(|u| (1.0 + 0.5 * u.abs()) as f32).collect()
    } else if key.ends_with("bn3.weight") {
        make(0.1, 0.01)
    } else if shape.len() >= 2 {
        let fan_in: usize = shape[1..].iter().product();
        make(0.0, (3.0 / fan_in as f64).sqrt())
    } else if key.ends_with("bias") {
        make(0.0, 0.1)
    } else {
        make(1.0, 0.1)
    }
}

/// Returns a network input [N, C, H, W]: noise plus an offset and a vertical slope for each image and channel. `name` is `input1` or
/// `input2`.
pub fn input(salt: &str, tag: &str, name: &str, shape: [usize; 4]) -> Vec<f32> {
    let [n, c, h, w] = shape;
    let plane = |what: &str| formula(salt, &format!("{tag}/{name}.{what}")).take(n * c).collect::<Vec<_>>();
    let (offset, slope) = (plane("offset"), plane("slope"));
    let value = |(i, u): (usize, f64)| {
        let (nc, y) = (i / (h * w), i / w % h);
        let ramp = 2.0 * y as f64 / (h - 1) as f64 - 1.0;
        (0.5 * u + 1.5 * offset[nc] + 1.5 * slope[nc] * ramp) as f32
    };
    formula(salt, &format!("{tag}/{name}")).take(n * c * h * w).enumerate().map(value).collect()
}

/// What the JSON files store of a large tensor.
#[derive(Debug)]
pub struct Summary {
    pub l2: f64,
    /// Σ t_i u_i with u from the key `<tag>/probe/<name>`.
    pub proj: f64,
    /// Some of the first values.
    pub first: Vec<f64>,
}

impl Summary {
    /// Reads a JSON summary: an object, or a list of `l2` and `proj` alone. `None` for `null` (a parameter without gradient).
    pub fn stored(json: &Value) -> Option<Self> {
        let number = |v: &Value| v.as_f64().unwrap_or_else(|| panic!("no number in {json}"));
        match json {
            Value::Null => None,
            Value::Array(list) => {
                assert_eq!(list.len(), 2, "{json}");
                Some(Self { l2: number(&list[0]), proj: number(&list[1]), first: Vec::new() })
            }
            _ => {
                let first = json["first"].as_array().expect("a list").iter().map(number).collect();
                Some(Self { l2: number(&json["l2"]), proj: number(&json["proj"]), first })
            }
        }
    }

    /// Summarises `tensor` (row-major in torch's layout). `probe` is the parameter or buffer name, `act` for activations, `lat.bconvN` for
    /// latent states, `input1` for input gradients.
    pub fn of(tensor: &[f32], salt: &str, tag: &str, probe: &str, first: usize) -> Self {
        let values = || tensor.iter().map(|&t| f64::from(t));
        let probe = formula(salt, &format!("{tag}/probe/{probe}"));
        Self {
            l2: values().map(|t| t * t).sum::<f64>().sqrt(),
            proj: values().zip(probe).map(|(t, u)| t * u).sum(),
            first: values().take(first).collect(),
        }
    }
}
