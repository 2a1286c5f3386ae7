//! Processes that train together: how this process learns that it is one of several, and how they are started and ended.

use std::process::Command;
use std::time::Duration;
use std::{env, fs, io, thread};

use super::ExitCode;
use super::output::{print_error_of, stderr_reporter};
use crate::base::error::IoContext;
use crate::base::progress::Reporter;
use crate::engine::collective::Collective;
use crate::{Error, Result};

/// Variables in which launchers of MPI programs say how many processes they have started, and which of them this is: Open MPI, MPICH and Slurm by
/// PMI, MVAPICH, Slurm by PMIx.
const LAUNCHERS: [[&str; 2]; 4] = [
    ["OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"],
    ["PMI_SIZE", "PMI_RANK"],
    ["MV2_COMM_WORLD_SIZE", "MV2_COMM_WORLD_RANK"],
    ["SLURM_STEP_NUM_TASKS", "SLURM_PROCID"],
];
/// How long a rank waits before it reports an error, so that ranks with the same error do not all report it: the first one ends the others.
const REPORTS_LATER: Duration = Duration::from_secs(3);

/// Returns the number of processes that a launcher has started, and which of them this is. `None` for one process.
fn launched() -> Option<[usize; 2]> {
    let read = |name: &str| env::var(name).ok()?.parse::<usize>().ok();
    let both = |[size, rank]: &[&str; 2]| Some([read(size)?, read(rank).unwrap_or(0)]);
    LAUNCHERS.iter().find_map(both).filter(|[size, _]| *size > 1)
}

/// Refuses a command that one process runs, where several were started: each would do all of the work.
pub(super) fn refuse_several(command: &str) -> Result<()> {
    match launched() {
        Some([ranks, _]) => Err(Error::Ranks {
            reason: format!(
                "{ranks} processes were started, and `{command}` is the work of one: start it without mpirun"
            ),
        }),
        None => Ok(()),
    }
}

/// Connects this process with the others that were started with it. With `wanted` processes where none were started, becomes the `mpirun` that
/// starts them.
///
/// # Errors
/// `mpirun` is not there; another number was started than is wanted; the program was built without MPI, or for another MPI.
fn join(wanted: Option<usize>) -> Result<Collective> {
    if wanted == Some(1) {
        return Ok(Collective::single());
    }
    let several = wanted;
    match (launched().map(|[ranks, _]| ranks), several) {
        (Some(ranks), Some(wanted)) if ranks != wanted => Err(Error::Setting {
            setting: "--ranks".into(),
            value: wanted.to_string(),
            reason: format!("{ranks} processes were started: leave it out beside mpirun"),
        }),
        (Some(ranks), _) => Collective::of_mpi(ranks),
        (None, Some(wanted)) if cfg!(feature = "mpi") => Err(start(wanted)),
        // Says how to build a program that can.
        (None, Some(wanted)) => Collective::of_mpi(wanted),
        (None, None) => match env::var("WORLD_SIZE").ok().and_then(|size| size.parse::<usize>().ok()) {
            Some(size) if size > 1 && env::var("LOCAL_RANK").is_ok() => Err(Error::Ranks {
                reason: format!(
                    "torchrun has started {size} processes, which cannot find each other on CPUs: start them by mpirun, or by --ranks"
                ),
            }),
            _ => Ok(Collective::single()),
        },
    }
}

/// Replaces this process by an `mpirun` that starts it `ranks` times. Returns only if that fails.
#[cfg(unix)]
fn start(ranks: usize) -> Error {
    use std::os::unix::process::CommandExt;

    let program = match env::current_exe().at("find", "this program") {
        Ok(program) => program,
        Err(error) => return error,
    };
    let mut mpirun = Command::new("mpirun");
    mpirun.arg("-np").arg(ranks.to_string()).arg(program);
    let mut words = env::args_os().skip(1);
    while let Some(word) = words.next() {
        match word.to_str() {
            Some("--ranks") => drop(words.next()),
            Some(text) if text.starts_with("--ranks=") => {}
            _ => drop(mpirun.arg(word)),
        }
    }
    // Open MPI refuses to work for root, and to start more processes than there are cores, unless it is told that this is wanted.
    for name in ["OMPI_ALLOW_RUN_AS_ROOT", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "OMPI_MCA_rmaps_base_oversubscribe"] {
        mpirun.env(name, "1");
    }
    // Processes divide the cores themselves: bound to one, each would have one thread.
    mpirun.env("OMPI_MCA_hwloc_base_binding_policy", "none").env("PRTE_MCA_hwloc_default_binding_policy", "none");
    mpirun.env("PRTE_MCA_rmaps_default_mapping_policy", ":oversubscribe");
    let error = mpirun.exec();
    match error.kind() {
        io::ErrorKind::NotFound => {
            Error::Ranks { reason: "there is no mpirun on the PATH: install an MPI (Debian: openmpi-bin)".into() }
        }
        _ => Err::<(), _>(error).at("start", "mpirun").expect_err("it is one"),
    }
}

#[cfg(not(unix))]
fn start(ranks: usize) -> Error {
    Error::Ranks { reason: format!("start {ranks} processes by mpiexec: --ranks needs a Unix system") }
}

/// Returns the number of compute threads of this process: the cores that it may use, divided by the processes that may use the same.
pub(super) fn threads(ranks: &Collective) -> usize {
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let allowed = status.lines().find(|line| line.starts_with("Cpus_allowed_list")).unwrap_or_default();
    let own = format!("{host}{allowed}");
    let sharing = ranks.gather_each(own.as_bytes()).iter().filter(|other| *other == own.as_bytes()).count();
    (thread::available_parallelism().map_or(1, usize::from) / sharing.max(1)).max(1)
}

/// Lets the first of several processes report its error, which ends the others: they may have the same.
pub(super) fn let_first_report() {
    if launched().is_some_and(|[_, rank]| rank > 0) {
        thread::sleep(REPORTS_LATER);
    }
}

/// Does `work` as one of `wanted` processes, or of those that were started; an error of one ends them all.
///
/// # Errors
/// Those of [`join`] and of `work`.
pub(super) fn together(wanted: Option<usize>, work: impl FnOnce(&Collective) -> Result<ExitCode>) -> Result<ExitCode> {
    let ranks = join(wanted)?;
    let _end = EndOnPanic(&ranks);
    work(&ranks).inspect_err(|error| end_all(error, &ranks))
}

/// Ends the other processes if this one panics: they would wait for it.
struct EndOnPanic<'a>(&'a Collective);

impl Drop for EndOnPanic<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.abort(101);
        }
    }
}

/// Returns where messages of this process go: only the first one reports.
pub(super) fn reporter(ranks: &Collective) -> Reporter {
    if ranks.is_first() { stderr_reporter() } else { Reporter::silent() }
}

/// Reports the error of a process that has others, and ends them all.
fn end_all(error: &Error, ranks: &Collective) {
    if ranks.has_others() {
        let_first_report();
        print_error_of(error, &format!("process {} of {}: ", ranks.rank(), ranks.ranks()));
        ranks.abort(1);
    }
}
