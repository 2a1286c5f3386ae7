//! Imports run downwards: no file in `src/` names a layer above its own, and no modules of one layer import each other in a circle.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// The layers from the bottom to the top, as docs/architecture.md lists them.
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

/// Returns the code of a file without comments and without its unit tests, which may use any layer.
fn code(text: &str) -> String {
    let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    code.lines().map(|line| line.split("//").next().unwrap_or_default()).collect::<Vec<_>>().join("\n")
}

/// Adds the path at the start of `text` to `paths`, each item of a list in braces as a path of its own. Returns the text after it.
fn expand<'a>(text: &'a str, before: &[&'a str], paths: &mut Vec<Vec<&'a str>>) -> &'a str {
    let text = text.trim_start();
    if let Some(mut list) = text.strip_prefix('{') {
        loop {
            let rest = expand(list, before, paths);
            let end = rest.find([',', '}']).unwrap_or(rest.len());
            match rest[end..].strip_prefix(',') {
                Some(rest) => list = rest,
                None => return rest[end..].strip_prefix('}').unwrap_or_default(),
            }
        }
    }
    let (word, rest) = text.split_at(text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len()));
    let path = [before, &[word]].concat();
    match rest.strip_prefix("::") {
        Some(rest) => expand(rest, &path, paths),
        None => {
            paths.push(path);
            rest
        }
    }
}

/// Returns the paths from the crate's root that `code` names by `crate::` and `super::`; `module` is the path of the code's own module.
fn named<'a>(code: &'a str, module: &[&'a str]) -> Vec<Vec<&'a str>> {
    let mut paths = Vec::new();
    for (at, _) in code.match_indices("crate::").chain(code.match_indices("super::")) {
        if !code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':') {
            expand(&code[at..], &[], &mut paths);
        }
    }
    let from_root = |path: Vec<&'a str>| {
        let ups = path.iter().take_while(|word| **word == "super").count();
        match path[0] {
            "crate" => path[1..].to_vec(),
            _ => [&module[..module.len().saturating_sub(ups)], &path[ups..]].concat(),
        }
    };
    paths.into_iter().map(from_root).collect()
}

/// A file of `src/`: the path of its module, and its code.
struct Module {
    path: Vec<String>,
    code: String,
}

impl Module {
    fn path(&self) -> Vec<&str> {
        self.path.iter().map(String::as_str).collect()
    }
}

/// Returns the modules of all layers; those of unit tests are left out.
fn modules() -> Vec<Module> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    files_below(&src, &mut files);
    let mut modules = Vec::new();
    for file in files {
        let inner = file.strip_prefix(&src).unwrap().with_extension("");
        let mut path: Vec<String> = inner.iter().map(|part| part.to_str().unwrap().to_string()).collect();
        path.pop_if(|name| name == "mod");
        if !LAYERS.contains(&path[0].as_str()) {
            assert!(["lib", "bin"].contains(&path[0].as_str()), "{} is in no layer", file.display());
        } else if !path.contains(&"tests".to_string()) {
            modules.push(Module { path, code: code(&fs::read_to_string(file).unwrap()) });
        }
    }
    modules
}

#[test]
fn imports_run_downwards() {
    let layer = |name: &str| LAYERS.iter().position(|layer| *layer == name);
    let (mut upwards, mut checked) = (Vec::new(), 0);
    for module in modules() {
        let own = layer(&module.path[0]).unwrap();
        for path in named(&module.code, &module.path()) {
            let Some(other) = path.first().and_then(|name| layer(name)) else { continue };
            checked += usize::from(other != own);
            if other > own {
                upwards.push(format!("{} imports {}", module.path.join("::"), path.join("::")));
            }
        }
    }
    assert!(checked > 500, "{checked} imports were found");
    assert!(upwards.is_empty(), "imports that run upwards:\n{}", upwards.join("\n"));
}

/// A layer, and a module directly in it.
type Submodule<'a> = [&'a str; 2];

/// Returns all that `module` imports, directly and through others.
fn reachable<'a>(
    imports: &BTreeMap<Submodule<'a>, BTreeSet<Submodule<'a>>>,
    module: &Submodule<'a>,
) -> BTreeSet<Submodule<'a>> {
    let (mut reached, mut open) = (BTreeSet::new(), vec![*module]);
    while let Some(module) = open.pop() {
        open.extend(imports[&module].iter().filter(|other| reached.insert(**other)));
    }
    reached
}

#[test]
fn no_modules_of_a_layer_import_each_other_in_a_circle() {
    let modules = modules();
    let mut imports: BTreeMap<Submodule<'_>, BTreeSet<Submodule<'_>>> = BTreeMap::new();
    for module in modules.iter().filter(|module| module.path.len() > 1) {
        imports.insert([&module.path[0], &module.path[1]], BTreeSet::new());
    }
    let keys: Vec<Submodule<'_>> = imports.keys().copied().collect();
    let known = |layer: &str, name: &str| keys.iter().copied().find(|key| *key == [layer, name]);
    // The names under which a layer's `mod.rs` re-exports items of its modules.
    let mut exported: BTreeMap<Submodule<'_>, Submodule<'_>> = BTreeMap::new();
    for module in modules.iter().filter(|module| module.path.len() == 1) {
        let mut paths = Vec::new();
        for text in module.code.split("pub use ").skip(1) {
            expand(text, &[], &mut paths);
        }
        for path in paths {
            let source = known(&module.path[0], path[0]);
            exported.extend(source.map(|source| ([&module.path[0], *path.last().unwrap()], source)));
        }
    }
    let mut found = 0;
    for module in modules.iter().filter(|module| module.path.len() > 1) {
        let own = known(&module.path[0], &module.path[1]).unwrap();
        for path in named(&module.code, &module.path()).iter().filter(|path| path.len() > 1 && path[0] == own[0]) {
            let other = known(path[0], path[1]).or_else(|| exported.get(&[path[0], path[1]]).copied());
            if let Some(other) = other.filter(|other| *other != own) {
                found += 1;
                imports.get_mut(&own).unwrap().insert(other);
            }
        }
    }
    assert!(found > 300, "{found} imports were found");
    let circles: Vec<String> = imports
        .keys()
        .filter(|module| reachable(&imports, module).contains(*module))
        .map(|module| module.join("::"))
        .collect();
    assert!(circles.is_empty(), "modules that import each other in a circle: {}", circles.join(", "));
}

#[test]
fn paths_are_found_in_every_form() {
    let code = "use crate::data::{a, b::{c, self}};\nuse crate::{Error, nn::{x as y, z}, io};\nlet q = crate::eval::f();\nuse super::super::m;";
    let paths: Vec<String> = named(code, &["engine", "op", "add"]).iter().map(|path| path.join("::")).collect();
    assert_eq!(
        paths,
        ["data::a", "data::b::c", "data::b::self", "Error", "nn::x", "nn::z", "io", "eval::f", "engine::m"]
    );
}
