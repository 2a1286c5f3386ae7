//! Processes that train together: how this process learns that it is one of several, and how they are started and ended.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use std::{env, fs, io, thread};

use super::ExitCode;
use super::output::{print_error_of, stderr_reporter};
use super::signals;
use crate::base::error::IoContext;
use crate::base::progress::Reporter;
use crate::base::text::plural;
use crate::engine::collective::{Collective, Meeting, Rendezvous};
use crate::engine::device::{Device, DeviceKind, DeviceOptions, VendorUse};
use crate::{Error, Result};

/// Variables in which launchers of MPI programs say how many processes they have started, and which of them this is: Open MPI, MPICH and Slurm by
/// PMI, MVAPICH, Slurm by PMIx.
const LAUNCHERS: [[&str; 2]; 4] = [
    ["OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"],
    ["PMI_SIZE", "PMI_RANK"],
    ["MV2_COMM_WORLD_SIZE", "MV2_COMM_WORLD_RANK"],
    ["SLURM_STEP_NUM_TASKS", "SLURM_PROCID"],
];
/// The most processes for each core that `--ranks` starts.
const PER_CORE: usize = 8;
/// How long a rank waits before it reports an error, so that ranks with the same error do not all report it: the first one ends the others.
const REPORTS_LATER: Duration = Duration::from_secs(3);

/// This process as one of those that a launcher has started.
#[derive(Clone, Copy)]
struct Launched {
    rank: usize,
    ranks: usize,
    /// The number of this process among those of the same machine, if torchrun has started it: MPI does not connect it.
    torchrun: Option<usize>,
}

/// Returns a number in an environment variable.
fn number(name: &str) -> Option<usize> {
    env::var(name).ok()?.parse().ok()
}

/// Returns what a launcher says that has started more than one process.
fn launched() -> Option<Launched> {
    // Slurm sets its variables in every shell of an allocation; only with PMIx are its tasks ranks of MPI.
    let counts = |name: &str| !name.starts_with("SLURM") || env::var_os("PMIX_RANK").is_some();
    let of_mpi = |[size, rank]: &[&str; 2]| {
        Some(Launched { ranks: number(size).filter(|_| counts(size))?, rank: number(rank)?, torchrun: None })
    };
    let of_torchrun = || {
        // Where one process is started on each machine, as by Kubernetes' PyTorchJob, its number there may be left out.
        let local = number("LOCAL_RANK").unwrap_or(0);
        Some(Launched { ranks: number("WORLD_SIZE")?, rank: number("RANK")?, torchrun: Some(local) })
    };
    LAUNCHERS.iter().find_map(of_mpi).filter(|mpi| mpi.ranks > 1).or_else(of_torchrun).filter(|found| found.ranks > 1)
}

/// Refuses variables of torchrun that do not say which process this is: each would train alone.
fn check_torchrun() -> Result<()> {
    let Ok(size) = env::var("WORLD_SIZE") else { return Ok(()) };
    let reason = match (number("WORLD_SIZE"), number("RANK")) {
        (Some(size), Some(rank)) if rank < size => return Ok(()),
        (Some(0 | 1), None) => return Ok(()),
        (None, _) => "it is no number of processes",
        (_, None) => "RANK, which says the number of this process, is missing",
        _ => "RANK, which counts from 0, is too large for so many processes",
    };
    let reason = format!("{reason}: start processes by torchrun, or unset WORLD_SIZE to run alone");
    Err(Error::Setting { setting: "the environment variable WORLD_SIZE".into(), value: size, reason })
}

/// Refuses a command that one process runs, where several were started: each would do all of the work.
pub(super) fn refuse_several(command: &str) -> Result<()> {
    match launched() {
        Some(Launched { ranks, .. }) => Err(Error::Ranks {
            reason: format!(
                "{ranks} processes were started, and `{command}` is the work of one: start it without mpirun or torchrun"
            ),
        }),
        None => Ok(()),
    }
}

/// Connects this process with the others that were started with it.
///
/// # Errors
/// Another number was started than is wanted; the program was built without MPI, or for another MPI; torchrun's processes have no GPUs.
fn join(wanted: Option<usize>) -> Result<Collective> {
    let launched = launched();
    if wanted != Some(1) && launched.is_none_or(|launched| launched.torchrun.is_some()) {
        check_torchrun()?;
    }
    let ranks = launched.map_or(1, |launched| launched.ranks);
    match (wanted, launched) {
        // Alone, whatever was started beside it.
        (Some(1), _) => Ok(Collective::single()),
        (Some(wanted), _) if ranks != wanted => Err(Error::Setting {
            setting: "--ranks".into(),
            value: wanted.to_string(),
            reason: format!("a launcher has started {}: leave it out", plural(ranks, "process", "processes")),
        }),
        (_, None) => Ok(Collective::single()),
        (_, Some(Launched { torchrun: None, .. })) => Collective::of_mpi(ranks),
        (_, Some(Launched { rank, torchrun: Some(local_rank), .. })) => connect_gpus(rank, ranks, local_rank),
    }
}

/// Connects processes that torchrun has started, by their GPUs.
///
/// # Errors
/// There is no GPU or NCCL for each of them, or they do not find each other.
fn connect_gpus(rank: usize, ranks: usize, local_rank: usize) -> Result<Collective> {
    let connect = || {
        // Another connection of the same GPU exchanges what training computes.
        let options =
            DeviceOptions { kind: DeviceKind::Cuda(0), local_rank, vendor: VendorUse::Never, ..Default::default() };
        let device = Device::open(&options)?;
        let rendezvous = Rendezvous::new(&meeting_place(ranks)?, rank, ranks)?;
        device.gpu().expect("a GPU was opened").clone().connect(Meeting::Files(&rendezvous))
    };
    connect().map_err(|error| match error {
        Error::NoDevice { .. } => Error::Ranks {
            reason: format!(
                "{ranks} processes that torchrun has started exchange numbers by NCCL between GPUs (on CPUs, start them by mpirun or --ranks; to \
                 run alone, unset WORLD_SIZE): \
                 {error}"
            ),
        },
        other => other,
    })
}

/// Returns the folder in which the processes of torchrun meet: `PTL_RENDEZVOUS`, or a temporary one if all are on this machine.
///
/// # Errors
/// They are on several machines, and there is no such variable.
fn meeting_place(ranks: usize) -> Result<PathBuf> {
    let port = env::var("MASTER_PORT").unwrap_or_default();
    if let Some(folder) = env::var_os("PTL_RENDEZVOUS").filter(|folder| !folder.is_empty()) {
        // Several trainings may use the folder at the same time.
        let address = env::var("MASTER_ADDR").unwrap_or_default();
        return Ok(Path::new(&folder).join(format!("{address}-{port}").replace(['/', ':'], "_")));
    }
    if number("LOCAL_WORLD_SIZE") != Some(ranks) {
        let reason = "torchrun has started processes on several machines: name a folder that all of them see by the variable PTL_RENDEZVOUS, where they \
                      meet";
        return Err(Error::Ranks { reason: reason.into() });
    }
    // torchrun is the parent of all.
    #[cfg(unix)]
    let parent = std::os::unix::process::parent_id();
    #[cfg(not(unix))]
    let parent = 0;
    Ok(env::temp_dir().join(format!("ptl-{parent}-{port}")))
}

/// Lets an `mpirun` start this program `ranks` times, and returns its exit code. A signal to this process stops the others after their step, with a
/// checkpoint: `mpirun` passes SIGUSR1 on, and would not wait after any other. It runs in a group of its own, so that Ctrl-C does not reach it.
#[cfg(unix)]
fn start(ranks: usize) -> Result<ExitCode> {
    use std::os::unix::process::CommandExt;

    let most = PER_CORE * thread::available_parallelism().map_or(1, usize::from);
    if ranks > most {
        let reason = format!("this machine has cores for {most} at most: start them on several machines by mpirun");
        return Err(Error::Setting { setting: "--ranks".into(), value: ranks.to_string(), reason });
    }
    if !cfg!(feature = "mpi") {
        // Says how to build a program that can.
        Collective::of_mpi(ranks)?;
    }
    let program = env::current_exe().at("find", "this program")?;
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
    // SAFETY: the function only asks the system to end mpirun when this process has ended.
    unsafe {
        mpirun.process_group(0).pre_exec(|| {
            #[cfg(target_os = "linux")]
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM);
            Ok(())
        });
    }
    let mut mpirun = match mpirun.spawn() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(Error::Ranks {
                reason: "there is no mpirun on the PATH: install an MPI (Debian: openmpi-bin)".into(),
            });
        }
        started => started.at("start", "mpirun")?,
    };
    let pid = mpirun.id() as libc::pid_t;
    let stop = signals::stop_flag(move || {
        // SAFETY: mpirun is a child that has not been waited for: its number belongs to no other process.
        unsafe { libc::kill(pid, libc::SIGUSR1) };
    });
    let status = mpirun.wait().at("wait for", "mpirun")?;
    Ok(match status.code() {
        Some(0) => ExitCode::SUCCESS,
        _ if stop.requested() => ExitCode::from(signals::exit_code()),
        code => ExitCode::from(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1)),
    })
}

#[cfg(not(unix))]
fn start(ranks: usize) -> Result<ExitCode> {
    Err(Error::Ranks { reason: format!("start {ranks} processes by mpiexec: --ranks needs a Unix system") })
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
    if launched().is_some_and(|launched| launched.rank > 0) {
        thread::sleep(REPORTS_LATER);
    }
}

/// Does `work` as one of `wanted` processes, or of those that were started; an error of one ends them all. Starts the processes that are wanted, if
/// this is the only one.
///
/// # Errors
/// Those of [`start`], [`join`] and of `work`.
pub(super) fn together(wanted: Option<usize>, work: impl FnOnce(&Collective) -> Result<ExitCode>) -> Result<ExitCode> {
    if let Some(wanted) = wanted.filter(|&wanted| wanted > 1 && launched().is_none()) {
        return start(wanted);
    }
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

/// Returns whether this process was started together with others. Then SIGUSR1 asks for a stop, too.
pub(super) fn are_several() -> bool {
    launched().is_some()
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::engine::collective::Transport;

    /// The second of two processes, without the first.
    #[derive(Debug)]
    struct Second;

    impl Transport for Second {
        fn rank(&self) -> usize {
            1
        }

        fn ranks(&self) -> usize {
            2
        }

        fn sum_f32(&self, _numbers: &mut [f32]) {}

        fn sum_f64(&self, _numbers: &mut [f64]) {}

        fn gather(&self, own: &[u8], all: &mut [u8]) {
            all.chunks_exact_mut(own.len()).for_each(|part| part.copy_from_slice(own));
        }

        fn broadcast(&self, _bytes: &mut [u8]) {}

        fn abort(&self, code: i32) -> ! {
            println!("all ended with {code}");
            std::process::exit(code)
        }
    }

    /// Set in a process that the test below starts.
    const PLANTED: &str = "PTL_TEST_PLANTED";

    #[test]
    fn a_panic_and_an_error_end_all_processes() {
        if let Ok(planted) = env::var(PLANTED) {
            let ranks = Collective::new(Arc::new(Second));
            let _end = EndOnPanic(&ranks);
            assert_ne!(planted, "panic", "planted");
            end_all(&Error::Ranks { reason: "planted".into() }, &ranks);
            unreachable!("the process has ended");
        }
        for (planted, code, said) in [("panic", 101, "planted"), ("error", 1, "error: process 1 of 2: planted")] {
            let mut child = Command::new(env::current_exe().unwrap());
            child.args(["a_panic_and_an_error_end_all_processes", "--nocapture", "--test-threads", "1"]);
            let output = child.env(PLANTED, planted).output().unwrap();
            assert_eq!(output.status.code(), Some(code), "{output:?}");
            let [out, err] = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
            assert!(out.contains(&format!("all ended with {code}")) && err.contains(said), "{out}\n{err}");
        }
    }
}
