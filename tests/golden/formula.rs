//! Tests the support code itself: numbers, weights and inputs by formula agree with the stored ones.

use crate::support::{Checker, GoldenFile, Summary, files, fnv1a64, formula, formula_tensor, input, state_dict_tensor};

/// Largest error of the JSON reader, which may miss the last bit of an f64.
const ROUNDED: f64 = 1e-15;

fn numbers(json: &serde_json::Value) -> Vec<f64> {
    json.as_array().expect("a list").iter().map(|v| v.as_f64().expect("a number")).collect()
}

#[test]
fn golden_formula_numbers() {
    for path in files("formula_check.json") {
        let golden = GoldenFile::open(&path);
        let key = golden.json["key"].as_str().expect("key");
        let hashed = golden.json["string_hashed"].as_str().expect("string_hashed");
        let want = numbers(&golden.json["u"]);
        let got: Vec<f64> = formula(golden.salt(), key).take(want.len()).collect();
        assert_eq!(format!("{:016x}", fnv1a64(hashed)), golden.json["fnv1a64_hex"].as_str().expect("hash"));
        assert_eq!(got, want, "{}", path.display());
    }
}

#[test]
fn golden_formula_tensors() {
    for path in files("bconv_*.safetensors") {
        let golden = GoldenFile::open(&path);
        let scale = golden.metadata.get("xs").map_or(1.5, |xs| xs.parse().expect("a number"));
        let key = if golden.has("x1") { "x1" } else { "x1.first16" };
        let want = golden.f32(key);
        let got = formula_tensor(golden.salt(), &format!("{}/x1", golden.name), want.len(), 0.0, scale);
        assert_eq!(got, want, "{}", path.display());
    }
}

#[test]
fn golden_formula_networks() {
    for path in files("net_*.json") {
        let golden = GoldenFile::open(&path);
        let meta = &golden.json["meta"];
        let tag = meta["tag"].as_str().expect("tag");
        let mut checker = Checker::new(&golden.name);

        let shape: Vec<usize> = numbers(&meta["input_shape"]).iter().map(|&d| d as usize).collect();
        let shape: [usize; 4] = shape.try_into().expect("four dimensions");
        for name in ["input1", "input2"] {
            let want = Summary::stored(&golden.json[name]).expect("a summary");
            let x = input(golden.salt(), tag, name, shape);
            let got = Summary::of(&x, golden.salt(), tag, name, want.first.len());
            let stored = |key: &str| golden.json[name][key].as_f64().expect("a number");
            checker.that(x.len() as f64 == stored("n"), || format!("{name}: {} elements", x.len()));
            let sum: f64 = x.iter().map(|&v| f64::from(v)).sum();
            checker.close(&format!("{name}.l2, sum"), &[got.l2, sum], &[want.l2, stored("sum")], 1e-12);
            checker.close(&format!("{name}.proj"), &[got.proj], &[want.proj], 1e-9);
            checker.close(&format!("{name}.first"), &got.first, &want.first, ROUNDED);
        }

        for (key, first) in golden.json["weight_check"].as_object().expect("weight_check") {
            // Only the first elements are stored, without the shape. In a weight of two or more dimensions, their scale sqrt(3 / fan_in)
            // gives fan_in; that this is a whole number confirms the rule.
            let want = numbers(first);
            let batch_norm = key.contains("bn") || want.iter().all(|&w| w > 0.5);
            let vector = key.ends_with("bias") || batch_norm;
            let u = formula(golden.salt(), &format!("{tag}/{key}")).next().expect("endless");
            let fan_in = (3.0 * (u / want[0]).powi(2)).round() as usize;
            let shape = if vector { vec![want.len()] } else { vec![want.len(), fan_in] };
            let got = state_dict_tensor(golden.salt(), tag, key, &shape);
            checker.close(key, &got[..want.len()], &want, ROUNDED);
        }
    }
}
