//! The folders where NVIDIA's libraries are looked for, and their order.

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Where to look. The loader's own search (`LD_LIBRARY_PATH`, the system's cache) comes after all of these.
#[derive(Clone, Debug, Default)]
pub(super) struct Places {
    /// The active Python environment, where pip puts NVIDIA's packages.
    pub venv: Option<PathBuf>,
    /// The active conda environment.
    pub conda: Option<PathBuf>,
    /// The folders where `python3` looks for modules: a machine's Python may have NVIDIA's packages without being an active environment.
    pub python: Vec<PathBuf>,
    /// A CUDA toolkit.
    pub toolkit: Option<PathBuf>,
    /// Folders of the system.
    pub system: Vec<PathBuf>,
}

impl Places {
    /// Returns the places of this process: `VIRTUAL_ENV`, `CONDA_PREFIX`, those of `python3`, `CUDA_HOME`, then the usual folders.
    pub(super) fn here() -> Places {
        let folder = |variable: &str| env::var_os(variable).filter(|value| !value.is_empty()).map(PathBuf::from);
        Places {
            venv: folder("VIRTUAL_ENV"),
            conda: folder("CONDA_PREFIX"),
            python: module_folders("python3"),
            toolkit: folder("CUDA_HOME"),
            system: vec![
                PathBuf::from("/usr/local/cuda/lib64"),
                PathBuf::from(format!("/usr/lib/{}-linux-gnu", env::consts::ARCH)),
            ],
        }
    }

    /// Returns all folders in order; some may not exist.
    pub(super) fn folders(&self) -> Vec<PathBuf> {
        let mut folders: Vec<PathBuf> = self.venv.iter().flat_map(|venv| pip_folders(venv)).collect();
        if let Some(conda) = &self.conda {
            folders.extend(pip_folders(conda));
            folders.push(conda.join("lib"));
        }
        folders.extend(self.python.iter().flat_map(|modules| package_folders(modules)));
        folders.extend(self.toolkit.iter().map(|toolkit| toolkit.join("lib64")));
        folders.extend(self.system.iter().cloned());
        folders
    }

    /// Returns the files with one of the `names`, folder by folder, within a folder in the order of `names`.
    pub(super) fn find(&self, names: &[&str]) -> Vec<PathBuf> {
        let files = self.folders().into_iter().flat_map(|folder| names.iter().map(move |name| folder.join(name)));
        files.filter(|file| file.is_file()).collect()
    }
}

/// Returns the folders `PREFIX/lib/pythonX.Y/site-packages/nvidia/PACKAGE/lib`, sorted.
fn pip_folders(prefix: &Path) -> Vec<PathBuf> {
    let is_python = |path: &PathBuf| path.file_name().and_then(OsStr::to_str).is_some_and(|n| n.starts_with("python"));
    let pythons = ["lib", "lib64"].into_iter().flat_map(|lib| entries(&prefix.join(lib))).filter(is_python);
    pythons.flat_map(|python| package_folders(&python.join("site-packages"))).collect()
}

/// Returns the folders `MODULES/nvidia/PACKAGE/lib`, sorted.
fn package_folders(modules: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    entries(&modules.join("nvidia")).into_iter().map(|package| package.join("lib"))
}

/// Asks a Python for the folders where it looks for modules; none if it cannot be run.
fn module_folders(python: &str) -> Vec<PathBuf> {
    let mut command = Command::new(python);
    command.args(["-c", "import sys; print(*sys.path, sep='\\n')"]).stdin(Stdio::null());
    let Ok(output) = command.output() else { return Vec::new() };
    // The first one is empty and means the current folder, from which nothing is loaded.
    String::from_utf8_lossy(&output.stdout).lines().map(PathBuf::from).filter(|folder| folder.is_absolute()).collect()
}

/// Returns the entries of a folder, sorted; none if it cannot be read.
fn entries(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    paths.sort();
    paths
}

/// Returns the file that is mapped at `address`, according to the text of `/proc/self/maps`.
pub(super) fn mapped_file(maps: &str, address: usize) -> Option<PathBuf> {
    // start-end permissions offset device inode path
    let line = maps.lines().find(|line| {
        let range = line.split(' ').next().and_then(|range| range.split_once('-'));
        let number = |text| usize::from_str_radix(text, 16).ok();
        range.and_then(|(start, end)| Some((number(start)?..number(end)?).contains(&address))).unwrap_or(false)
    })?;
    line.find('/').map(|path| PathBuf::from(&line[path..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn touch(file: PathBuf) -> PathBuf {
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, "").unwrap();
        file
    }

    /// Every place has the library. It is removed from one after the other, and then found in the next.
    #[test]
    fn pip_comes_before_conda_before_python_before_the_toolkit_before_the_system() {
        let root = tempfile::tempdir().unwrap();
        let at = |path: &str| root.path().join(path);
        let places = Places {
            venv: Some(at("venv")),
            conda: Some(at("conda")),
            python: vec![at("dist-packages")],
            toolkit: Some(at("cuda")),
            system: vec![at("usr/local/cuda/lib64"), at("usr/lib")],
        };
        assert_eq!(places.find(&["libcublasLt.so.13"]), Vec::<PathBuf>::new());
        let folders = [
            "venv/lib/python3.12/site-packages/nvidia/cu13/lib",
            "venv/lib/python3.12/site-packages/nvidia/cublas/lib",
            "venv/lib64/python3.12/site-packages/nvidia/cu13/lib",
            "conda/lib/python3.11/site-packages/nvidia/cublas/lib",
            "conda/lib",
            "dist-packages/nvidia/cublas/lib",
            "cuda/lib64",
            "usr/local/cuda/lib64",
            "usr/lib",
        ];
        let files: Vec<PathBuf> = folders.iter().map(|f| touch(at(f).join("libcublasLt.so.13"))).collect();
        touch(at("venv/lib/other/site-packages/nvidia/cublas/lib/libcublasLt.so.13"));
        for first in 0..files.len() {
            assert_eq!(places.find(&["libcublasLt.so.13", "libcublasLt.so.12"]), files[first..]);
            fs::remove_file(&files[first]).unwrap();
        }
    }

    /// The script stands for a Python that prints its folders.
    #[cfg(unix)]
    #[test]
    fn a_python_is_asked_for_its_folders() {
        use std::os::unix::fs::PermissionsExt;
        let root = tempfile::tempdir().unwrap();
        let python = touch(root.path().join("python3"));
        fs::write(&python, "#!/bin/sh\n[ \"$1\" = -c ] && printf '%s\\n' '' relative /usr/lib/python3 /opt/more\n")
            .unwrap();
        fs::set_permissions(&python, fs::Permissions::from_mode(0o755)).unwrap();
        let folders = module_folders(python.to_str().unwrap());
        assert_eq!(folders, ["/usr/lib/python3", "/opt/more"].map(PathBuf::from));
        assert!(module_folders("no-such-python").is_empty());
    }

    #[test]
    fn a_nearer_folder_wins_over_a_preferred_name() {
        let root = tempfile::tempdir().unwrap();
        let (near, far) = (root.path().join("near"), root.path().join("far"));
        let old = touch(near.join("libcublasLt.so.12"));
        let new = touch(near.join("libcublasLt.so.13"));
        let other = touch(far.join("libcublasLt.so.13"));
        let places = Places { system: vec![near, far], ..Places::default() };
        assert_eq!(places.find(&["libcublasLt.so.13", "libcublasLt.so.12"]), [new, old, other]);
    }

    #[test]
    fn an_address_leads_to_its_file() {
        let maps = "\
7f0000000000-7f0000001000 r--p 00000000 08:01 11 /usr/lib/libcudnn.so.9.1.0
7f0000001000-7f0000002000 r-xp 00001000 08:01 11 /usr/lib/libcudnn.so.9.1.0
7f0000003000-7f0000004000 r-xp 00001000 08:01 12 /opt/my libraries/libcublasLt.so.13
7f0000005000-7f0000006000 rw-p 00000000 00:00 0
";
        let file = |address| mapped_file(maps, address);
        assert_eq!(file(0x7f00_0000_1fff), Some(PathBuf::from("/usr/lib/libcudnn.so.9.1.0")));
        assert_eq!(file(0x7f00_0000_2000), None);
        assert_eq!(file(0x7f00_0000_3000), Some(PathBuf::from("/opt/my libraries/libcublasLt.so.13")));
        assert_eq!(file(0x7f00_0000_5000), None);
        if let Ok(maps) = fs::read_to_string("/proc/self/maps") {
            let own = mapped_file(&maps, an_address_leads_to_its_file as *const () as usize);
            assert_eq!(own, env::current_exe().ok());
        }
    }
}
