//! Searches folders for images.

use std::cmp::Ordering;
use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};

use crate::base::error::IoContext;
use crate::base::text::{Shown, are, listed, plural};
use crate::{Error, Result};

/// Endings of image files, in lower case. The format of a file is told by its content.
pub(super) const ENDINGS: [&str; 15] =
    ["jpg", "jpeg", "jpe", "jfif", "png", "apng", "bmp", "ppm", "pgm", "pbm", "pnm", "webp", "tif", "tiff", "gif"];

/// Endings of image formats that cannot be decoded, in lower case.
const UNREAD: [&str; 41] = [
    "heic", "heif", "hif", "avif", "jxl", "jp2", "j2k", "jpf", "jpx", "jpc", "svg", "svgz", "psd", "psb", "xcf", "eps",
    "ico", "icns", "tga", "dds", "exr", "hdr", "pfm", "qoi", "dcm", "raw", "dng", "cr2", "cr3", "crw", "nef", "nrw",
    "arw", "sr2", "srf", "orf", "rw2", "raf", "pef", "srw", "3fr",
];

/// Images of a folder, and warnings.
#[derive(Debug)]
pub struct ImageList {
    /// Paths of the images, sorted by their bytes.
    pub images: Vec<PathBuf>,
    /// Warnings, one sentence each.
    pub warnings: Vec<String>,
}

/// Lists the image files in `root` and the folders below it. Links are followed; hidden files and folders are left out.
///
/// # Errors
/// A folder cannot be read, or there is no image.
pub fn list_images(root: &Path) -> Result<ImageList> {
    let mut passed = PassedBy::default();
    let images = images_below(root, &mut passed)?;
    let warnings = passed.warnings(root);
    match (images.is_empty(), warnings.is_empty()) {
        (false, _) => Ok(ImageList { images, warnings }),
        (true, true) => Err(Error::NoImages { subset: "readable", dataset: root.shown().to_string() }),
        (true, false) => Err(Error::NotADataset {
            path: root.into(),
            reason: format!("it has no image that is read{}", passed.hint()),
        }),
    }
}

/// What a search for images left out.
#[derive(Debug, Default)]
pub(super) struct PassedBy {
    /// Number of images of formats that cannot be decoded, by ending.
    unread: BTreeMap<String, usize>,
    /// Broken links.
    broken: Vec<PathBuf>,
    /// Linked folders that were searched already, or that contain the link.
    again: Vec<PathBuf>,
}

impl PassedBy {
    fn kinds(&self) -> String {
        listed(self.unread.iter().map(|(ending, count)| format!("{count} {}", ending.shown())))
    }

    /// Returns a sentence for each kind of what was left out.
    pub(crate) fn warnings(&self, folder: &Path) -> Vec<String> {
        let mut warnings = Vec::new();
        let folder = folder.shown();
        let names = |paths: &[PathBuf]| listed(paths.iter().map(|path| path.shown()));
        let unread: usize = self.unread.values().sum();
        if unread > 0 {
            warnings.push(format!(
                "{folder}: {} of formats that are not read {} left out ({}): convert them to JPEG or PNG",
                plural(unread, "image", "images"),
                are(unread),
                self.kinds()
            ));
        }
        if !self.broken.is_empty() {
            let links =
                plural(self.broken.len(), "link leads nowhere and is left out", "links lead nowhere and are left out");
            warnings.push(format!("{folder}: {links} ({})", names(&self.broken)));
        }
        if !self.again.is_empty() {
            warnings.push(format!(
                "{folder}: {} reached a second time by links and left out there ({})",
                plural(self.again.len(), "folder is", "folders are"),
                names(&self.again)
            ));
        }
        warnings
    }

    /// Notes a link to a folder that contains the link.
    pub(crate) fn leads_back(&mut self, link: PathBuf) {
        self.again.push(link);
    }

    /// Returns a possible reason why there is no image, to be appended to a sentence that says so.
    pub(super) fn hint(&self) -> String {
        if !self.unread.is_empty() {
            format!(", but {} of formats that are not: convert them to JPEG or PNG", self.kinds())
        } else if let Some(link) = self.broken.first() {
            format!(", and the link {} leads nowhere", link.shown())
        } else {
            String::new()
        }
    }
}

/// Returns the folders and linked folders directly in `folder`, sorted; none if it cannot be read.
pub(super) fn subfolders(folder: &Path) -> Vec<PathBuf> {
    let mut folders: Vec<PathBuf> = entries(folder).unwrap_or_default().into_iter().map(|(path, _)| path).collect();
    folders.retain(|path| path.is_dir());
    folders.sort();
    folders
}

/// Returns `folder`, and the folders directly in it that have an image directly in them.
pub(super) fn with_images(folder: Option<&Path>) -> Option<(PathBuf, Vec<PathBuf>)> {
    let folder = folder?;
    let has_images = |folder: &PathBuf| {
        let mut passed = PassedBy::default();
        let entries = entries(folder).unwrap_or_default();
        entries.into_iter().any(|(path, kind)| matches!(entry(&path, kind, &mut passed), Entry::Image))
    };
    let mut folders = subfolders(folder);
    folders.retain(has_images);
    Some((folder.to_path_buf(), folders))
}

/// The kind of an entry of a folder.
pub(super) enum Entry {
    Folder,
    LinkedFolder,
    Image,
    /// Something else; it has been noted if a warning should mention it.
    Other,
}

/// Returns the kind of an entry. A broken link with the name of an image counts as an image, which decoding will report.
pub(super) fn entry(path: &Path, kind: fs::FileType, passed: &mut PassedBy) -> Entry {
    if kind.is_dir() {
        return Entry::Folder;
    }
    let mut broken = false;
    if kind.is_symlink() {
        match fs::metadata(path) {
            Ok(metadata) if metadata.is_dir() => return Entry::LinkedFolder,
            Ok(_) => {}
            Err(_) => broken = true,
        }
    }
    let ending = path.extension().map(|e| e.to_string_lossy().to_ascii_lowercase()).unwrap_or_default();
    if ENDINGS.contains(&ending.as_str()) {
        return Entry::Image;
    }
    if broken {
        passed.broken.push(path.into());
    } else if UNREAD.contains(&ending.as_str()) {
        *passed.unread.entry(ending).or_default() += 1;
    }
    Entry::Other
}

/// Compares paths by their bytes, which every file system and machine does alike.
pub(super) fn by_bytes(a: &Path, b: &Path) -> Ordering {
    a.as_os_str().as_encoded_bytes().cmp(b.as_os_str().as_encoded_bytes())
}

/// Returns whether the linked folder contains the link itself.
pub(super) fn leads_up(link: &Path, real_parent: &Path) -> bool {
    fs::canonicalize(link).is_ok_and(|real| real_parent.starts_with(real))
}

/// Returns the visible entries of a folder with their kind; links are not followed.
pub(super) fn entries(folder: &Path) -> Result<Vec<(PathBuf, fs::FileType)>> {
    let mut entries = Vec::new();
    for entry in fs::read_dir(folder).at("read", folder)? {
        let entry = entry.at("read", folder)?;
        if !entry.file_name().as_encoded_bytes().starts_with(b".") {
            let path = entry.path();
            let kind = entry.file_type().at("read", &path)?;
            entries.push((path, kind));
        }
    }
    Ok(entries)
}

/// Lists images as [`list_images`] does, but it is no error if there are none, and what was left out is added to `passed`. Every real
/// folder is searched once: linked ones after the others, in the order of their paths, so that the result does not depend on the
/// file system.
pub(super) fn images_below(root: &Path, passed: &mut PassedBy) -> Result<Vec<PathBuf>> {
    let mut images = Vec::new();
    let mut searched = HashSet::new();
    // Each with its canonical path.
    let mut folders = vec![(root.to_path_buf(), fs::canonicalize(root).at("read", root)?)];
    let mut links: Vec<(PathBuf, PathBuf)> = Vec::new();
    loop {
        while let Some((folder, real)) = folders.pop() {
            if !searched.insert(real.clone()) {
                passed.again.push(folder);
                continue;
            }
            for (path, kind) in entries(&folder)? {
                match entry(&path, kind, passed) {
                    Entry::Folder => {
                        let real = real.join(path.file_name().unwrap_or_default());
                        folders.push((path, real));
                    }
                    Entry::LinkedFolder => links.push((path, real.clone())),
                    Entry::Image => images.push(path),
                    Entry::Other => {}
                }
            }
        }
        links.sort_by(|(a, _), (b, _)| by_bytes(b, a));
        let Some((link, parent)) = links.pop() else { break };
        match fs::canonicalize(&link) {
            Ok(real) if !parent.starts_with(&real) => folders.push((link, real)),
            Ok(_) => passed.again.push(link),
            Err(_) => passed.broken.push(link),
        }
    }
    images.sort_by(|a, b| by_bytes(a, b));
    Ok(images)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn touch(root: &Path, names: &[&str]) {
        for name in names {
            let path = root.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
    }

    fn names(root: &Path, list: &ImageList) -> Vec<String> {
        list.images.iter().map(|p| p.strip_prefix(root).unwrap().to_str().unwrap().to_string()).collect()
    }

    #[test]
    fn finds_images_below_in_order() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        touch(
            root,
            &["z.JPG", "b/a.png", "b/c/x.bmp", "b/notes.txt", ".hidden.jpg", "q.WebP", "r.TIFF", "s.gif", "t.Tif"],
        );
        let found = list_images(root).unwrap();
        assert_eq!(names(root, &found), ["b/a.png", "b/c/x.bmp", "q.WebP", "r.TIFF", "s.gif", "t.Tif", "z.JPG"]);
        assert_eq!(found.warnings, [""; 0]);
    }

    #[test]
    fn no_image_is_an_error() {
        let root = tempfile::tempdir().unwrap();
        assert!(matches!(list_images(root.path()), Err(Error::NoImages { .. })));
        assert!(matches!(list_images(&root.path().join("no")), Err(Error::Io { .. })));
        touch(root.path(), &["a.heic", "b.HEIC", "c.svg"]);
        let error = list_images(root.path()).unwrap_err().to_string();
        assert!(error.contains("no image that is read, but 2 heic, 1 svg of formats that are not"), "{error}");
    }

    #[test]
    fn images_of_other_formats_are_counted() {
        let root = tempfile::tempdir().unwrap();
        touch(root.path(), &["a.jpg", "b/IMG_1.HEIC", "b/IMG_2.heic", "c.NEF", "d.txt", "e.psd"]);
        let warnings = list_images(root.path()).unwrap().warnings;
        assert_eq!(warnings.len(), 1);
        assert!(
            warnings[0].contains("4 images of formats that are not read are left out (2 heic, 1 nef, 1 psd)"),
            "{warnings:?}"
        );
    }

    #[cfg(unix)]
    #[test]
    fn linked_folders_are_searched_once_and_loops_and_broken_links_are_named() {
        use std::os::unix::fs::symlink;
        let (root, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (root, other) = (root.path(), other.path());
        touch(other, &["x/1.jpg", "x/deep/2.jpg", "y/3.jpg"]);
        touch(root, &["a/0.jpg", "z/5.jpg"]);
        symlink(other.join("x"), root.join("a/linked")).unwrap();
        symlink(other.join("y/3.jpg"), root.join("file.jpg")).unwrap();
        // Links to a folder above, to one above the root, to a folder that is searched under its own name, and a circle outside.
        symlink(root, root.join("a/up")).unwrap();
        symlink(root.parent().unwrap(), root.join("above")).unwrap();
        symlink(root.join("z"), root.join("b")).unwrap();
        symlink(other.join("x"), other.join("x/deep/circle")).unwrap();
        symlink(root.join("nowhere"), root.join("0005")).unwrap();
        symlink(root.join("circle"), root.join("circle")).unwrap();
        let found = list_images(root).unwrap();
        assert_eq!(names(root, &found), ["a/0.jpg", "a/linked/1.jpg", "a/linked/deep/2.jpg", "file.jpg", "z/5.jpg"]);
        assert!(found.warnings[0].contains("2 links lead nowhere") && found.warnings[0].contains("0005"), "{found:?}");
        let again = &found.warnings[1];
        assert!(again.contains("4 folders are reached a second time by links"), "{again}");
        for link in ["a/up", "above", "/b", "deep/circle"] {
            assert!(again.contains(link), "{link} in {again}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn names_that_are_no_text_are_names() {
        use std::ffi::OsStr;
        use std::os::unix::ffi::OsStrExt;
        let root = tempfile::tempdir().unwrap();
        let name = root.path().join(OsStr::from_bytes(b"caf\xe9.jpg"));
        // Some file systems refuse such names.
        if fs::write(&name, "").is_ok() {
            assert_eq!(list_images(root.path()).unwrap().images, [name]);
        }
    }
}
