//! Finds files that a list names, even where another system wrote the names differently.

use std::collections::HashMap;
use std::ffi::OsString;
use std::path::{Component, Path, PathBuf};

use unicode_normalization::UnicodeNormalization;

/// Finds files by their names in lists, and caches the folders that it reads for that.
#[derive(Default)]
pub(super) struct Finder {
    /// For each folder, its names by their composed form.
    folders: HashMap<PathBuf, HashMap<String, Vec<OsString>>>,
}

impl Finder {
    /// Returns the file that `name` means, relative to `folder` unless it is an absolute path: the file of exactly that name, else the one
    /// with `/` for `\`, else the only one whose accented letters are encoded differently. If there is none, returns the path as named.
    pub(super) fn find(&mut self, folder: &Path, name: &str) -> PathBuf {
        let named = folder.join(name);
        if named.is_file() {
            return named;
        }
        let slashes = name.contains('\\').then(|| folder.join(name.replace('\\', "/")));
        if let Some(path) = slashes.as_ref().filter(|path| path.is_file()) {
            return path.clone();
        }
        let written_otherwise =
            [Some(&named), slashes.as_ref()].into_iter().flatten().find_map(|path| self.find_composed(path));
        written_otherwise.unwrap_or(named)
    }

    /// Returns the only file whose path has the same composed form.
    fn find_composed(&mut self, path: &Path) -> Option<PathBuf> {
        if path.to_str().is_none_or(str::is_ascii) {
            return None;
        }
        let mut found = PathBuf::new();
        for part in path.components() {
            let next = found.join(part);
            found = match part {
                Component::Normal(name) if !next.exists() => {
                    let names = self.folders.entry(found.clone()).or_insert_with(|| names_in(&found));
                    match &names.get(&composed(name.to_str()?))?[..] {
                        [one] => found.join(one),
                        _ => return None,
                    }
                }
                _ => next,
            };
        }
        found.is_file().then_some(found)
    }
}

fn names_in(folder: &Path) -> HashMap<String, Vec<OsString>> {
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let mut names: HashMap<String, Vec<OsString>> = HashMap::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        if let Some(text) = name.to_str() {
            names.entry(composed(text)).or_default().push(name);
        }
    }
    names
}

/// What to do where images of a whole data set are missing.
pub(super) const UNPACK_AGAIN: &str = "unpack the archive again, or name the folder that holds the images too";

/// Composes the letters of a name (Unicode NFC): a letter with an accent becomes one character if there is one. The same name may be
/// written either way.
pub(super) fn composed(name: &str) -> String {
    name.nfc().collect()
}

/// Gives names that look the same the encoding of the first of them.
pub(super) fn unify<'a>(names: impl Iterator<Item = &'a mut String>) {
    let mut forms: HashMap<String, String> = HashMap::new();
    for name in names.filter(|name| !name.is_ascii()) {
        name.clone_from(forms.entry(composed(name)).or_insert_with(|| name.clone()));
    }
}

/// Returns a hint for an error about a path that was not found, by the form of the path.
pub(super) fn advice(path: &str) -> &'static str {
    let drive = path.as_bytes().get(1) == Some(&b':') && path.as_bytes()[0].is_ascii_alphabetic();
    if drive || path.starts_with("\\\\") {
        "it is an absolute path of a Windows machine: write paths relative to the list's folder, with /"
    } else if path.contains('\\') {
        "its path has Windows' separators, and there is no such file with / either: check the folder that the paths are relative to"
    } else if Path::new(path).is_absolute() {
        "it is an absolute path, perhaps of another machine: write paths relative to the list's folder"
    } else {
        UNPACK_AGAIN
    }
}

/// Returns a path from a list relative to the folder of the images, which it must not leave. `./` is dropped, an absolute path into the
/// folder becomes relative, and Windows' separators are read as `/`.
///
/// # Errors
/// The reason: the path leaves the folder.
pub(super) fn below(folder: &Path, name: &str) -> Result<PathBuf, String> {
    let named = Path::new(name);
    let inner = named.strip_prefix(folder).unwrap_or(named);
    let inner = match inner.to_str() {
        Some(text) if text.contains('\\') && !folder.join(inner).exists() => PathBuf::from(text.replace('\\', "/")),
        _ => inner.to_path_buf(),
    };
    let mut path = PathBuf::new();
    for part in inner.components() {
        match part {
            Component::Normal(part) => path.push(part),
            Component::CurDir => {}
            Component::RootDir | Component::Prefix(_) => {
                return Err(format!(
                    "{name} is an absolute path outside of the image folder: write it relative to that"
                ));
            }
            Component::ParentDir => return Err(format!("{name} leaves the image folder")),
        }
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_other_systems_find_the_file() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        std::fs::create_dir(root.join("Stra\u{df}e")).unwrap();
        std::fs::create_dir(root.join("u\u{308}ber")).unwrap();
        for name in ["a.png", "Stra\u{df}e/b.png", "u\u{308}ber/e\u{301}.png", "odd\\name.png"] {
            std::fs::write(root.join(name), "").unwrap();
        }
        let mut finder = Finder::default();
        let mut found = |name: &str| finder.find(root, name);
        assert_eq!(found("./a.png"), root.join("a.png"));
        assert_eq!(found("Stra\u{df}e\\b.png"), root.join("Stra\u{df}e/b.png"));
        assert_eq!(found("odd\\name.png"), root.join("odd\\name.png"));
        for name in ["\u{fc}ber/\u{e9}.png", "\u{fc}ber\\\u{e9}.png", "u\u{308}ber/\u{e9}.png"] {
            assert_eq!(found(name), root.join("u\u{308}ber/e\u{301}.png"), "{name}");
        }
        let whole = root.join("a.png");
        assert_eq!(found(whole.to_str().unwrap()), whole);
        assert_eq!(found("none\\\u{e9}.png"), root.join("none\\\u{e9}.png"));
        // Two that look the same: neither is meant for sure.
        std::fs::write(root.join("o\u{302}\u{301}.png"), "").unwrap();
        std::fs::write(root.join("\u{f4}\u{301}.png"), "").unwrap();
        assert!(!found("\u{1ed1}.png").exists());
    }

    #[test]
    fn paths_in_lists_stay_below_their_folder() {
        let folder = Path::new("/data/train");
        assert_eq!(below(folder, "./a/./b.jpg").unwrap(), Path::new("a/b.jpg"));
        assert_eq!(below(folder, "/data/train/a/b.jpg").unwrap(), Path::new("a/b.jpg"));
        assert_eq!(below(folder, "a\\b.jpg").unwrap(), Path::new("a/b.jpg"));
        assert!(below(folder, "a/../../b.jpg").unwrap_err().contains("leaves the image folder"));
        assert!(below(folder, "..\\b.jpg").unwrap_err().contains("leaves the image folder"));
        assert!(below(folder, "/data/test/a.jpg").unwrap_err().contains("an absolute path outside"));
    }

    #[test]
    fn advice_follows_the_form_of_the_path() {
        for (path, part) in [
            ("C:\\a.jpg", "Windows machine"),
            ("img\\a.jpg", "Windows' separators"),
            ("/home/x/a.jpg", "another machine"),
            ("img/a.jpg", "unpack the archive"),
        ] {
            assert!(advice(path).contains(part), "{path}");
        }
    }
}
