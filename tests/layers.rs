//! Imports run downwards only: the `use` lines and paths of each file in `src/` name no layer above its own.

use std::fs;
use std::path::{Path, PathBuf};

/// From the bottom to the top, as docs/architecture.md lists them.
const LAYERS: [&str; 12] =
    ["base", "engine", "io", "nn", "data", "eval", "config", "run_dir", "model", "train", "study", "app"];

fn files_below(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files_below(&path, files);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            files.push(path);
        }
    }
}

/// The code of a file without comments and without its unit tests, which may use any layer.
fn code(text: &str) -> String {
    let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    code.lines().map(|line| line.split("//").next().unwrap_or_default()).collect::<Vec<_>>().join("\n")
}

/// The names that follow `crate::` in a path, those of a list in braces too.
fn named(code: &str) -> Vec<String> {
    let word =
        |text: &str| -> String { text.trim().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect() };
    let mut names = Vec::new();
    for rest in code.split("crate::").skip(1) {
        let Some(list) = rest.strip_prefix('{') else {
            names.push(word(rest));
            continue;
        };
        let (mut depth, mut item) = (0, String::new());
        for c in list.chars() {
            match c {
                '{' => depth += 1,
                '}' if depth == 0 => break,
                '}' => depth -= 1,
                ',' if depth == 0 => names.push(word(&std::mem::take(&mut item))),
                _ => {}
            }
            if depth == 0 && c != ',' {
                item.push(c);
            }
        }
        names.push(word(&item));
    }
    names
}

#[test]
fn imports_run_downwards() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    files_below(&src, &mut files);
    let (mut upwards, mut checked) = (Vec::new(), 0);
    for file in &files {
        let inner = file.strip_prefix(&src).unwrap();
        let of_tests = inner.iter().any(|part| part == "tests" || part == "tests.rs");
        let folder = inner.iter().next().unwrap().to_str().unwrap();
        let Some(own) = LAYERS.iter().position(|layer| *layer == folder) else {
            assert!(["lib.rs", "bin"].contains(&folder), "{} is in no layer", inner.display());
            continue;
        };
        if of_tests {
            continue;
        }
        for name in named(&code(&fs::read_to_string(file).unwrap())) {
            let Some(other) = LAYERS.iter().position(|layer| *layer == name) else { continue };
            checked += 1;
            if other > own {
                upwards.push(format!("{} imports {name}", inner.display()));
            }
        }
    }
    assert!(checked > 500, "{checked} imports were found");
    assert!(upwards.is_empty(), "imports that run upwards:\n{}", upwards.join("\n"));
}

#[test]
fn names_are_found_in_every_form() {
    let code = "use crate::data::{a, b};\nuse crate::{Error, nn::{x, y}, io};\nlet z = crate::eval::f();";
    assert_eq!(named(code), ["data", "Error", "nn", "io", "eval"]);
}
