//! Any folder of images, without identities.

use std::fs;
use std::path::{Path, PathBuf};

use crate::error::IoContext;
use crate::text::Shown;
use crate::{Error, Result};

/// Endings of image files, in lower case.
pub(super) const ENDINGS: [&str; 5] = ["jpg", "jpeg", "png", "bmp", "ppm"];

/// Image files in `root` and the folders below it, sorted by path; hidden ones are left out.
///
/// # Errors
/// A folder cannot be read, or there is no image.
pub fn list_images(root: &Path) -> Result<Vec<PathBuf>> {
    let images = images_below(root)?;
    if images.is_empty() {
        return Err(Error::NoImages { subset: "readable", dataset: root.shown().to_string() });
    }
    Ok(images)
}

/// As [`list_images`], where none is no error. The order is that of the paths' bytes, whatever the file system's.
pub(super) fn images_below(root: &Path) -> Result<Vec<PathBuf>> {
    let mut images = Vec::new();
    let mut folders = vec![root.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).at("read", &folder)? {
            let entry = entry.at("read", &folder)?;
            let path = entry.path();
            if entry.file_name().to_string_lossy().starts_with('.') {
                continue;
            }
            // A link to a folder may lead back up: only real ones are entered.
            if entry.file_type().at("read", &path)?.is_dir() {
                folders.push(path);
            } else if is_image(&path) {
                images.push(path);
            }
        }
    }
    images.sort_by(|a, b| a.as_os_str().as_encoded_bytes().cmp(b.as_os_str().as_encoded_bytes()));
    Ok(images)
}

/// Whether a name ends as an image file's does.
pub(super) fn is_image(path: &Path) -> bool {
    let ending = path.extension().and_then(|e| e.to_str()).unwrap_or("").to_ascii_lowercase();
    ENDINGS.contains(&ending.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_images_below_in_order() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("b/c")).unwrap();
        for name in ["z.JPG", "b/a.png", "b/c/x.bmp", "b/notes.txt", ".hidden.jpg"] {
            fs::write(root.path().join(name), "").unwrap();
        }
        let found = list_images(root.path()).unwrap();
        let names: Vec<_> = found.iter().map(|p| p.strip_prefix(root.path()).unwrap().to_str().unwrap()).collect();
        assert_eq!(names, ["b/a.png", "b/c/x.bmp", "z.JPG"]);
    }

    #[test]
    fn no_image_is_an_error() {
        let root = tempfile::tempdir().unwrap();
        assert!(matches!(list_images(root.path()), Err(Error::NoImages { .. })));
        assert!(matches!(list_images(&root.path().join("no")), Err(Error::Io { .. })));
    }
}
