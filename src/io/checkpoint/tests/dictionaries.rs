//! Tests which dictionary of a checkpoint is taken for that of the weights.

use super::companions::{TENSOR, dict, names, names_of, with_storage};
use super::damage::{legacy, parse};
use crate::io::checkpoint::Place;

#[test]
fn the_one_dictionary_of_tensors_is_found() {
    let tensor = || TENSOR.to_vec();
    let weights = |name: &str| dict(&[(name, tensor()), ("epoch", b"K\x03".to_vec())]);
    assert_eq!(names(weights("w")).unwrap(), ["w"]);
    assert_eq!(names(dict(&[("state_dict", weights("w")), ("epoch", b"K\x0c".to_vec())])).unwrap(), ["w"]);
    assert_eq!(names(dict(&[("anything", weights("w"))])).unwrap(), ["w"]);
    // A known key wins over others, and over tensors beside it.
    assert_eq!(names(dict(&[("ema", weights("e")), ("model", weights("w"))])).unwrap(), ["w"]);
    assert_eq!(names(dict(&[("best", tensor()), ("net", weights("w"))])).unwrap(), ["w"]);
    assert_eq!(names(dict(&[("model", dict(&[("state_dict", weights("w"))]))])).unwrap(), ["w"]);
    // The optimiser's state lies deeper and is no candidate.
    let optimizer = dict(&[("state", dict(&[("0", weights("exp_avg"))]))]);
    assert_eq!(names(dict(&[("model", weights("w")), ("optimizer", optimizer)])).unwrap(), ["w"]);
    // The segments that wrappers add to names are removed, unless two names would become equal.
    assert_eq!(names(dict(&[("module.a", tensor()), ("b._orig_mod.c", tensor())])).unwrap(), ["a", "b.c"]);
    assert_eq!(names(dict(&[("module.a", tensor()), ("a", tensor())])).unwrap(), ["a", "module.a"]);
    // Few numbers beside many weights are no weights.
    let many: Vec<(&str, Vec<u8>)> = ["a", "b", "c", "d", "e"].map(|name| (name, tensor())).into();
    assert_eq!(names(dict(&[("best", tensor()), ("mine", dict(&many))])).unwrap().len(), 5);
    assert_eq!(names(dict(&[("w", tensor()), ("statistics", dict(&many[..2]))])).unwrap(), ["w"]);

    let error = names(dict(&[("a", weights("w")), ("b", weights("w"))])).unwrap_err();
    assert!(error.contains("several") && error.contains("a, b") && error.contains("`train.weights_dict`"), "{error}");
    let error = names(dict(&[("model", weights("w")), ("net", weights("w"))])).unwrap_err();
    assert!(error.contains("model, net"), "{error}");
    let none = parse(legacy(&[dict(&[("epoch", b"K\x03".to_vec())]), b".".to_vec()].concat())).err().unwrap();
    assert!(none.contains("no dictionary of tensors"), "{none}");
}

#[test]
fn averaged_weights_are_taken_where_they_are_named_or_alone() {
    let weights = |name: &str| dict(&[(name, TENSOR.to_vec())]);
    for (network, average) in
        [("state_dict", "state_dict_ema"), ("model", "model_ema"), ("student", "teacher"), ("net", "ema")]
    {
        let both = || dict(&[(average, weights("averaged")), (network, weights("w"))]);
        assert_eq!(names(both()).unwrap(), ["w"]);
        assert_eq!(names_of(both(), Some(average)).unwrap(), ["averaged"]);
        assert_eq!(names_of(both(), Some(network)).unwrap(), ["w"]);
        assert_eq!(names(dict(&[(average, weights("averaged")), ("epoch", b"K\x03".to_vec())])).unwrap(), ["averaged"]);
        let file = with_storage(&[both(), b".".to_vec()].concat(), None).unwrap();
        let choice = Place::default().choice(&file);
        assert!(choice.contains(&format!("its dictionary {network}")) && choice.contains(average), "{choice}");
    }
    // By its path, by a key on it, or by the first part of the names.
    let deep = || dict(&[("ema", dict(&[("module", weights("averaged"))])), ("model", weights("teacher.w"))]);
    for (asked, found) in [("ema.module", "averaged"), ("ema", "averaged"), ("model", "teacher.w"), ("teacher", "w")] {
        assert_eq!(names_of(deep(), Some(asked)).unwrap(), [found], "{asked}");
    }
    let error = names_of(deep(), Some("swa")).unwrap_err();
    assert!(error.contains("no names under swa") && error.contains("model, ema.module, teacher"), "{error}");
}
