//! Processes that find each other by files in a folder that all of them see.
//!
//! Rank 0 has bytes for the others: NCCL's id. A folder may hold files of processes that were killed. So each process draws a token for this
//! meeting: rank 0 offers the bytes to the tokens that it reads, a rank takes an offer to its own token only, and rank 0 waits until all ranks have
//! taken the offer with its own token.

use std::fs;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::base::error::IoContext;
use crate::base::text::listed;
use crate::{Error, Result};

/// How long a process looks before it looks again.
const PAUSE: Duration = Duration::from_millis(20);
/// How long a process waits for the others: machines may start one after the other, and a shared folder shows new files late.
const PATIENCE: Duration = Duration::from_secs(300);

/// One of several processes that meet in a folder.
#[derive(Clone, Debug)]
pub struct Rendezvous {
    folder: PathBuf,
    rank: usize,
    ranks: usize,
    patience: Duration,
}

/// What rank 0 writes.
#[derive(Serialize, Deserialize)]
struct Offer {
    token: String,
    /// The tokens of the ranks from 1 on.
    to: Vec<String>,
    bytes: Vec<u8>,
}

impl Rendezvous {
    /// Returns process `rank` of `ranks`, which meet in `folder`; creates the folder.
    ///
    /// # Errors
    /// The folder cannot be created.
    pub fn new(folder: &Path, rank: usize, ranks: usize) -> Result<Rendezvous> {
        fs::create_dir_all(folder).at("create", folder)?;
        Ok(Rendezvous { folder: folder.into(), rank, ranks, patience: PATIENCE })
    }

    /// Returns the number of this process, from 0 on.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// Returns the number of processes.
    pub fn ranks(&self) -> usize {
        self.ranks
    }

    /// Replaces the bytes by those of rank 0, when all ranks are here. To be called once.
    ///
    /// # Errors
    /// Others do not come within five minutes, or the folder cannot be read or written.
    ///
    /// # Panics
    /// Rank 0 has another number of bytes.
    pub fn broadcast(&self, bytes: &mut [u8]) -> Result<()> {
        // The keys of a hasher are random.
        let token = format!("{:016x}", RandomState::new().build_hasher().finish());
        self.write(&self.file("hello", self.rank), &token)?;
        if self.rank == 0 {
            return self.give(&token, bytes);
        }
        self.until(|| {
            let offer = self.read("offer")?.and_then(|text| serde_json::from_str::<Offer>(&text).ok());
            let Some(offer) = offer.filter(|offer| offer.to.get(self.rank - 1) == Some(&token)) else {
                return Ok(Err(self.missing()?));
            };
            bytes.copy_from_slice(&offer.bytes);
            self.write(&self.file("taken", self.rank), &offer.token)?;
            Ok(Ok(()))
        })
    }

    /// Offers the bytes to all other ranks until they have taken them, and removes all files.
    fn give(&self, token: &str, bytes: &[u8]) -> Result<()> {
        let others = || 1..self.ranks;
        let mut offered = None;
        self.until(|| {
            let to = self.hellos()?.into_iter().skip(1).collect::<Option<Vec<_>>>();
            let Some(to) = to else { return Ok(Err(self.missing()?)) };
            if offered.as_ref() != Some(&to) {
                let offer = Offer { token: token.into(), to: to.clone(), bytes: bytes.into() };
                self.write("offer", &serde_json::to_string(&offer).expect("text and numbers"))?;
                offered = Some(to);
            }
            let mut missing = Vec::new();
            for rank in others() {
                if self.read(&self.file("taken", rank))?.as_deref() != Some(token) {
                    missing.push(rank);
                }
            }
            Ok(if missing.is_empty() { Ok(()) } else { Err(missing) })
        })?;
        // The meeting is over: what cannot be removed misleads nobody.
        for name in (0..self.ranks).flat_map(|rank| ["hello", "taken"].map(|kind| self.file(kind, rank))) {
            let _ = fs::remove_file(self.folder.join(name));
        }
        let _ = fs::remove_file(self.folder.join("offer"));
        let _ = fs::remove_dir(&self.folder);
        Ok(())
    }

    /// Returns the tokens of the ranks that have come.
    fn hellos(&self) -> Result<Vec<Option<String>>> {
        (0..self.ranks).map(|rank| self.read(&self.file("hello", rank))).collect()
    }

    /// Returns the ranks that have not come; rank 0 if all left a file, which may be one of a killed process.
    fn missing(&self) -> Result<Vec<usize>> {
        let hellos = self.hellos()?;
        let missing: Vec<usize> = (0..self.ranks).filter(|&rank| hellos[rank].is_none()).collect();
        Ok(if missing.is_empty() { vec![0] } else { missing })
    }

    /// Calls `look` until it is done. It returns the ranks that are still missing.
    fn until(&self, mut look: impl FnMut() -> Result<std::result::Result<(), Vec<usize>>>) -> Result<()> {
        let begun = Instant::now();
        loop {
            let Err(missing) = look()? else { return Ok(()) };
            if begun.elapsed() > self.patience {
                let missing = listed(missing.iter().map(|rank| format!("process {rank}")));
                return Err(Error::Ranks {
                    reason: format!(
                        "process {} of {} did not meet {missing} in {} within {} s: all machines must see the same folder (PTL_RENDEZVOUS), and \
                         all processes must be started at about the same time",
                        self.rank,
                        self.ranks,
                        self.folder.display(),
                        self.patience.as_secs()
                    ),
                });
            }
            thread::sleep(PAUSE);
        }
    }

    fn file(&self, kind: &str, rank: usize) -> String {
        format!("{kind}-{rank}")
    }

    /// Returns the content of a file, or `None` if there is none.
    fn read(&self, name: &str) -> Result<Option<String>> {
        let path = self.folder.join(name);
        match fs::read_to_string(&path) {
            // A handle of a file that was replaced on another machine is stale: the next look finds the new one.
            Err(error) if [io::ErrorKind::NotFound, io::ErrorKind::StaleNetworkFileHandle].contains(&error.kind()) => {
                Ok(None)
            }
            read => read.at("read", path).map(Some),
        }
    }

    /// Writes a file, which others see whole or not at all.
    fn write(&self, name: &str, text: &str) -> Result<()> {
        let path = self.folder.join(name);
        let new = self.folder.join(format!("{name}.new"));
        fs::write(&new, text).at("write", &new)?;
        fs::rename(&new, &path).at("write", path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lets `ranks` processes meet in a folder; each begins after the milliseconds of `delays`.
    fn meet(folder: &Path, delays: &[u64]) -> Vec<Vec<u8>> {
        thread::scope(|scope| {
            let meet = |rank: usize, delay: u64| {
                thread::sleep(Duration::from_millis(delay));
                let mut bytes = vec![rank as u8 + 1; 128];
                Rendezvous::new(folder, rank, delays.len()).unwrap().broadcast(&mut bytes).unwrap();
                bytes
            };
            let threads: Vec<_> =
                delays.iter().enumerate().map(|(rank, &delay)| scope.spawn(move || meet(rank, delay))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        })
    }

    #[test]
    fn all_get_the_bytes_of_the_first_whoever_comes_first() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("a/b");
        for delays in [[0, 100, 200], [200, 100, 0], [100, 0, 200]] {
            assert_eq!(meet(&folder, &delays), vec![vec![1; 128]; 3]);
            assert!(!folder.exists(), "nothing is left");
        }
        assert_eq!(meet(&folder, &[0]), [[1; 128]]);
    }

    #[test]
    fn files_of_killed_processes_mislead_nobody() {
        let folder = tempfile::tempdir().unwrap();
        // What the files were when rank 0 was killed at its last step: an offer that all had taken.
        let old = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
        for delays in [[0, 150, 300], [300, 150, 0]] {
            fs::create_dir_all(folder.path()).unwrap();
            old("offer", r#"{"token":"old","to":["one","two"],"bytes":[9]}"#);
            for rank in [1, 2] {
                old(&format!("hello-{rank}"), ["one", "two"][rank - 1]);
                old(&format!("taken-{rank}"), "old");
            }
            assert_eq!(meet(folder.path(), &delays), vec![vec![1; 128]; 3]);
        }
    }

    #[test]
    fn who_does_not_come_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let alone = |rank: usize, missing: &str| {
            let me = Rendezvous::new(folder.path(), rank, 3).unwrap();
            let me = Rendezvous { patience: Duration::from_millis(100), ..me };
            let said = me.broadcast(&mut [0; 4]).unwrap_err().to_string();
            assert!(said.starts_with(&format!("process {rank} of 3 did not meet {missing} in ")), "{said}");
        };
        alone(1, "process 0, process 2");
        alone(0, "process 2");
        alone(1, "process 2");
        // Of the files, the first and the last are of processes that ended.
        alone(2, "process 0");
    }
}
