//! What launchers say, by environment variables, about the processes that they have started.

use std::path::{Path, PathBuf};

use crate::base::text::plural;
use crate::{Error, Result};

/// The variables with which launchers of MPI programs say how many processes they have started, and which of them this is: Open MPI, MPICH and Slurm
/// by PMI, MVAPICH.
const OF_MPI: [[&str; 2]; 3] = [
    ["OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"],
    ["PMI_SIZE", "PMI_RANK"],
    ["MV2_COMM_WORLD_SIZE", "MV2_COMM_WORLD_RANK"],
];
/// Those of Slurm, whose tasks are processes of MPI only if it also sets the variable of PMIx.
const OF_SLURM: [&str; 2] = ["SLURM_STEP_NUM_TASKS", "SLURM_PROCID"];
const PMIX: &str = "PMIX_RANK";

/// The environment variables of a process.
pub(super) struct Variables<F>(pub F);

/// This process as one of those that a launcher has started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Launched {
    pub rank: usize,
    pub ranks: usize,
    pub by: Launcher,
}

/// What has started processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Launcher {
    /// One that connects them by MPI.
    Mpi,
    /// `torchrun` or the like: only GPUs connect the processes.
    Torchrun {
        /// The number of this process among those of the same machine.
        local_rank: usize,
    },
}

impl<F: Fn(&str) -> Option<String>> Variables<F> {
    fn text(&self, name: &str) -> Option<String> {
        self.0(name).filter(|text| !text.is_empty())
    }

    fn number(&self, name: &str) -> Option<usize> {
        self.text(name)?.parse().ok()
    }

    /// Returns what a launcher says that has started more than one process.
    pub(super) fn launched(&self) -> Option<Launched> {
        if self.by_torchrun() { self.of_torchrun() } else { self.of_mpi().or_else(|| self.of_torchrun()) }
    }

    /// Returns whether `torchrun` has started this process. Something else may have started `torchrun`, whose variables are still there.
    fn by_torchrun(&self) -> bool {
        ["TORCHELASTIC_RUN_ID", "WORLD_SIZE"].iter().all(|name| self.text(name).is_some())
    }

    fn of_torchrun(&self) -> Option<Launched> {
        // Where one process is started on each machine, as by Kubernetes' PyTorchJob, its number there may be left out.
        let local_rank = self.number("LOCAL_RANK").unwrap_or(0);
        let by = Launcher::Torchrun { local_rank };
        let found = Launched { ranks: self.number("WORLD_SIZE")?, rank: self.number("RANK")?, by };
        Some(found).filter(|found| found.ranks > 1)
    }

    fn of_mpi(&self) -> Option<Launched> {
        let slurm = self.text(PMIX).map(|_| OF_SLURM);
        let found = |[size, rank]: [&str; 2]| {
            let found = Launched { ranks: self.number(size)?, rank: self.number(rank)?, by: Launcher::Mpi };
            Some(found).filter(|found| found.ranks > 1)
        };
        OF_MPI.into_iter().chain(slurm).find_map(found)
    }

    /// Refuses variables that tell of several processes, but not how they are connected: each would do all of the work.
    ///
    /// # Errors
    /// [`Error::Setting`], [`Error::Ranks`].
    pub(super) fn check(&self) -> Result<()> {
        if self.by_torchrun() || self.of_mpi().is_none() {
            self.check_torchrun()?;
        }
        match self.number(OF_SLURM[0]) {
            Some(tasks) if tasks > 1 && self.launched().is_none() && self.text("WORLD_SIZE").is_none() => {
                Err(Error::Ranks {
                    reason: format!(
                        "Slurm has started {}, and does not connect them: start them by `srun --mpi=pmix` to work together, or unset {} for each to \
                         work alone",
                        plural(tasks, "task", "tasks"),
                        OF_SLURM[0]
                    ),
                })
            }
            _ => Ok(()),
        }
    }

    fn check_torchrun(&self) -> Result<()> {
        let Some(size) = self.text("WORLD_SIZE") else { return Ok(()) };
        let reason = match (self.number("WORLD_SIZE"), self.number("RANK")) {
            (Some(size), Some(rank)) if rank < size => return if size > 1 { self.check_local() } else { Ok(()) },
            (Some(0 | 1), None) => return Ok(()),
            (None, _) => "it is no number of processes",
            (_, None) if self.text("RANK").is_some() => "RANK, which says the number of this process, is no number",
            (_, None) => "RANK, which says the number of this process, is missing",
            _ => "RANK, which counts from 0, is too large for so many processes",
        };
        let reason = format!("{reason}: start processes by torchrun, or unset WORLD_SIZE to run alone");
        Err(Error::Setting { setting: "the environment variable WORLD_SIZE".into(), value: size, reason })
    }

    /// Refuses processes of `torchrun` of which several would take the same GPU.
    fn check_local(&self) -> Result<()> {
        let reason = match (self.text("LOCAL_RANK"), self.number("LOCAL_RANK")) {
            (_, Some(_)) => return Ok(()),
            (None, _) if self.number("LOCAL_WORLD_SIZE").unwrap_or(1) <= 1 => return Ok(()),
            (None, _) => "it is missing, and LOCAL_WORLD_SIZE tells of several processes on this machine",
            (Some(_), None) => "it is no number of a process",
        };
        let reason = format!("{reason}: start processes by torchrun, or unset WORLD_SIZE to run alone");
        let value = self.text("LOCAL_RANK").unwrap_or_default();
        Err(Error::Setting { setting: "the environment variable LOCAL_RANK".into(), value, reason })
    }

    /// Returns the folder in which `ranks` processes of torchrun meet, which is the same for all of one training: in `PTL_RENDEZVOUS`, or in
    /// `temporary` if all are on this machine. `user` is a number of the user, since users share that.
    ///
    /// # Errors
    /// They are on several machines, and there is no such variable.
    pub(super) fn meeting_place(&self, ranks: usize, temporary: &Path, user: u32) -> Result<PathBuf> {
        let part = |name: &str| self.text(name).unwrap_or_default().replace(['/', ':'], "_");
        let [address, port, run] = ["MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RUN_ID"].map(part);
        if let Some(folder) = self.text("PTL_RENDEZVOUS") {
            // Several trainings may use the folder at the same time.
            return Ok(Path::new(&folder).join(format!("{address}-{port}-{run}")));
        }
        if self.number("LOCAL_WORLD_SIZE") != Some(ranks) {
            let reason = "torchrun has started processes on several machines: name a folder that all of them see by the variable PTL_RENDEZVOUS, where they \
                          meet";
            return Err(Error::Ranks { reason: reason.into() });
        }
        Ok(temporary.join(format!("ptl-{user}-{port}-{run}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns variables from words such as `RANK=1`.
    fn variables(text: &str) -> Variables<impl Fn(&str) -> Option<String>> {
        let words: Vec<(String, String)> =
            text.split(' ').filter_map(|word| word.split_once('=')).map(|(a, b)| (a.into(), b.into())).collect();
        Variables(move |name: &str| words.iter().find(|(word, _)| word == name).map(|(_, value)| value.clone()))
    }

    #[test]
    fn the_launcher_that_started_this_process_is_found() {
        let mpi = |rank, ranks| Some(Launched { rank, ranks, by: Launcher::Mpi });
        let torchrun = |rank, ranks, local_rank| Some(Launched { rank, ranks, by: Launcher::Torchrun { local_rank } });
        let cases = [
            ("", None),
            ("OMPI_COMM_WORLD_SIZE=4 OMPI_COMM_WORLD_RANK=3", mpi(3, 4)),
            ("OMPI_COMM_WORLD_SIZE=1 OMPI_COMM_WORLD_RANK=0", None),
            ("PMI_SIZE=2 PMI_RANK=1", mpi(1, 2)),
            ("SLURM_STEP_NUM_TASKS=2 SLURM_PROCID=1", None),
            ("SLURM_STEP_NUM_TASKS=2 SLURM_PROCID=1 PMIX_RANK=1", mpi(1, 2)),
            ("WORLD_SIZE=2 RANK=1 LOCAL_RANK=1", torchrun(1, 2, 1)),
            ("WORLD_SIZE=2 RANK=1", torchrun(1, 2, 0)),
            ("WORLD_SIZE=1 RANK=0 LOCAL_RANK=0", None),
            // An mpirun within an environment that was made for torchrun, and a torchrun that srun has started.
            ("WORLD_SIZE=8 RANK=0 OMPI_COMM_WORLD_SIZE=2 OMPI_COMM_WORLD_RANK=1", mpi(1, 2)),
            (
                "SLURM_STEP_NUM_TASKS=2 SLURM_PROCID=1 PMIX_RANK=1 WORLD_SIZE=8 RANK=5 LOCAL_RANK=1 TORCHELASTIC_RUN_ID=a",
                torchrun(5, 8, 1),
            ),
            ("OMPI_COMM_WORLD_SIZE=2 OMPI_COMM_WORLD_RANK=1 WORLD_SIZE=1 RANK=0 TORCHELASTIC_RUN_ID=a", None),
            ("OMPI_COMM_WORLD_SIZE=2 OMPI_COMM_WORLD_RANK=1 TORCHELASTIC_RUN_ID=a", mpi(1, 2)),
        ];
        for (text, launched) in cases {
            assert_eq!(variables(text).launched(), launched, "{text}");
        }
    }

    #[test]
    fn processes_that_nothing_connects_are_refused() {
        for (text, part) in [
            ("WORLD_SIZE=2", "RANK, which says the number of this process, is missing"),
            ("WORLD_SIZE=two RANK=0", "it is no number"),
            ("WORLD_SIZE=2 RANK=x", "RANK, which says the number of this process, is no number"),
            ("WORLD_SIZE=2 RANK=2", "RANK, which counts from 0, is too large"),
            ("WORLD_SIZE=2 RANK=1 LOCAL_RANK=x", "LOCAL_RANK = x: it is no number of a process"),
            ("WORLD_SIZE=2 RANK=1 LOCAL_WORLD_SIZE=2", "it is missing, and LOCAL_WORLD_SIZE tells of several"),
            (
                "OMPI_COMM_WORLD_SIZE=2 OMPI_COMM_WORLD_RANK=1 WORLD_SIZE=2 RANK=x TORCHELASTIC_RUN_ID=a",
                "RANK, which says the number of this process, is no number",
            ),
            ("SLURM_STEP_NUM_TASKS=4 SLURM_PROCID=1", "Slurm has started 4 tasks, and does not connect them"),
        ] {
            let refused = variables(text).check().unwrap_err().to_string();
            assert!(refused.contains(part), "{refused}");
        }
        for text in [
            "",
            "WORLD_SIZE=1",
            "WORLD_SIZE=2 RANK=1",
            "WORLD_SIZE=2 RANK=1 LOCAL_WORLD_SIZE=1",
            "WORLD_SIZE=1 RANK=0 LOCAL_RANK=x",
            "WORLD_SIZE= RANK=",
            "WORLD_SIZE=2 OMPI_COMM_WORLD_SIZE=2 OMPI_COMM_WORLD_RANK=1",
            "SLURM_STEP_NUM_TASKS=1",
            "SLURM_STEP_NUM_TASKS=4 PMI_SIZE=4 PMI_RANK=0",
            "SLURM_STEP_NUM_TASKS=4 WORLD_SIZE=4 RANK=0",
        ] {
            assert!(variables(text).check().is_ok(), "{text}");
        }
    }

    #[test]
    fn processes_of_one_training_meet_in_a_folder_of_their_own() {
        let place = |text: &str| {
            let place = variables(text).meeting_place(2, Path::new("tmp"), 7);
            place.map(|path| path.to_string_lossy().into_owned()).map_err(|error| error.to_string())
        };
        assert_eq!(
            place("LOCAL_WORLD_SIZE=2 MASTER_PORT=29500 TORCHELASTIC_RUN_ID=a/b").unwrap(),
            "tmp/ptl-7-29500-a_b"
        );
        let shared = "PTL_RENDEZVOUS=shared MASTER_ADDR=fe80::1 MASTER_PORT=29500";
        assert_eq!(place(shared).unwrap(), "shared/fe80__1-29500-");
        for text in ["LOCAL_WORLD_SIZE=1", "", "PTL_RENDEZVOUS= LOCAL_WORLD_SIZE=1"] {
            assert!(place(text).unwrap_err().contains("by the variable PTL_RENDEZVOUS"), "{text}");
        }
    }
}
