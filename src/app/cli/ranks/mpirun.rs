//! `--ranks N`: starts `mpirun` with N processes of this program.

use crate::app::cli::ExitCode;
use crate::{Error, Result};

#[cfg(unix)]
pub(super) use unix::start;

#[cfg(not(unix))]
pub(super) fn start(ranks: usize) -> Result<ExitCode> {
    Err(Error::Ranks { reason: format!("start {ranks} processes by mpiexec: --ranks needs a Unix system") })
}

#[cfg(unix)]
mod unix {
    use std::os::unix::process::{CommandExt, ExitStatusExt};
    use std::process::Command;
    use std::time::Duration;
    use std::{env, io, thread};

    use super::{Error, ExitCode, Result};
    use crate::app::cli::output::print_error;
    use crate::app::cli::signals;
    use crate::base::error::IoContext;
    use crate::engine::collective::Collective;

    /// The most processes for each core that are started.
    const PER_CORE: usize = 8;
    /// How long the processes have to take a request to stop before it is sent again: they may not have been there yet.
    const ASKED_AGAIN: Duration = Duration::from_secs(1);

    /// Lets an `mpirun` start this program `ranks` times, and returns its exit code. A signal to this process stops the others after their step, with
    /// a checkpoint: `mpirun` passes SIGUSR1 on, and would not wait after any other. It runs in a group of its own, so that Ctrl-C does not reach it.
    /// A second signal ends this process, and with it all.
    pub(in super::super) fn start(ranks: usize) -> Result<ExitCode> {
        let most = PER_CORE * thread::available_parallelism().map_or(1, usize::from);
        if ranks > most {
            let reason = format!("this machine has cores for {most} at most: start them on several machines by mpirun");
            return Err(Error::Setting { setting: "--ranks".into(), value: ranks.to_string(), reason });
        }
        if !cfg!(feature = "mpi") {
            // Says how to build a program that can.
            Collective::of_mpi(ranks)?;
        }
        let mut mpirun = match command(ranks)?.spawn() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(Error::Ranks {
                    reason: "there is no mpirun on the PATH: install an MPI (Debian: openmpi-bin)".into(),
                });
            }
            started => started.at("start", "mpirun")?,
        };
        let pid = mpirun.id() as libc::pid_t;
        let stop = signals::stop_flag(move || {
            thread::spawn(move || {
                loop {
                    // SAFETY: the process ends at once after it has waited for mpirun, so that this number belongs to no other process.
                    unsafe { libc::kill(pid, libc::SIGUSR1) };
                    thread::sleep(ASKED_AGAIN);
                }
            });
        });
        let status = mpirun.wait().at("wait for", "mpirun")?;
        if stop.requested() {
            return Ok(ExitCode::from(signals::exit_code()));
        }
        // Of a process, mpirun returns 128 and the number of the signal. After a request to stop, processes return as much, and have said so.
        let requests = [libc::SIGHUP, libc::SIGINT, libc::SIGUSR1, libc::SIGTERM];
        let of_process = status.code().map(|code| code - 128);
        let of_process = of_process.filter(|signal| (1..=64).contains(signal) && !requests.contains(signal));
        if let Some(signal) = status.signal().or(of_process) {
            let whose = if status.signal().is_some() { "mpirun" } else { "one of the processes" };
            print_error(&Error::Ranks {
                reason: format!(
                    "signal {signal} has ended {whose}: go on from the last checkpoint by ptl-train train --resume with the run folder"
                ),
            });
        }
        Ok(ExitCode::from(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1)))
    }

    /// Returns the command line of this process without `--ranks`, for `ranks` processes.
    fn command(ranks: usize) -> Result<Command> {
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
        // The processes say themselves what is wrong.
        mpirun.env("OMPI_MCA_orte_execute_quiet", "1");
        // SAFETY: the function only asks the system to end mpirun when this process has ended.
        unsafe {
            mpirun.process_group(0).pre_exec(|| {
                #[cfg(target_os = "linux")]
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM);
                Ok(())
            });
        }
        Ok(mpirun)
    }
}
