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
    use std::process::{Child, Command, ExitStatus};
    use std::sync::{Arc, Mutex, PoisonError};
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
    /// How long this process sleeps before it looks again whether mpirun has ended.
    const LOOKS_AGAIN: Duration = Duration::from_millis(20);
    /// The signals that ask for the end.
    const REQUESTS: [i32; 4] = [libc::SIGHUP, libc::SIGINT, libc::SIGUSR1, libc::SIGTERM];

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
        // Handles signals from here on: one may come while mpirun starts.
        let started: Arc<Mutex<Option<Child>>> = Arc::default();
        let asked = started.clone();
        let stop = signals::stop_flag(move || {
            let asked = asked.clone();
            thread::spawn(move || {
                loop {
                    ask_to_stop(&asked);
                    thread::sleep(ASKED_AGAIN);
                }
            });
        });
        let mpirun = match command(ranks)?.spawn() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(Error::Ranks {
                    reason: "there is no mpirun on the PATH: install an MPI (Debian: openmpi-bin)".into(),
                });
            }
            started => started.at("start", "mpirun")?,
        };
        *started.lock().unwrap_or_else(PoisonError::into_inner) = Some(mpirun);
        let status = loop {
            if let Some(status) = ended(&started).at("wait for", "mpirun")? {
                break status;
            }
            thread::sleep(LOOKS_AGAIN);
        };
        let (code, error) = outcome(status, stop.requested().then(signals::exit_code));
        error.iter().for_each(print_error);
        Ok(ExitCode::from(code))
    }

    /// Returns how the process has ended, or `None` if it has not.
    fn ended(started: &Mutex<Option<Child>>) -> io::Result<Option<ExitStatus>> {
        started.lock().unwrap_or_else(PoisonError::into_inner).as_mut().map_or(Ok(None), Child::try_wait)
    }

    /// Sends SIGUSR1 to the process, if it was started and has not ended.
    fn ask_to_stop(started: &Mutex<Option<Child>>) {
        let mut started = started.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(mpirun) = started.as_mut()
            && let Ok(None) = mpirun.try_wait()
        {
            // SAFETY: the number is this process's until someone has waited for it, which happens under the lock, and has not happened yet.
            unsafe { libc::kill(mpirun.id() as libc::pid_t, libc::SIGUSR1) };
        }
    }

    /// Returns the exit code of this process after mpirun has ended so, and an error that no other process has reported. `asked` is the exit code of a
    /// process that was asked to stop, if this one was.
    fn outcome(status: ExitStatus, asked: Option<u8>) -> (u8, Option<Error>) {
        // Of a process that a signal has ended, mpirun returns 128 and the number of the signal. Processes that were asked to stop return as much.
        let of_process = status.code().map(|code| code - 128).filter(|signal| (1..=64).contains(signal));
        let signal = status.signal().or(of_process);
        let stopped = status.success() || signal.is_some_and(|signal| REQUESTS.contains(&signal));
        if let Some(asked) = asked.filter(|_| stopped) {
            return (asked, None);
        }
        let code = status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1);
        let whose = if status.signal().is_some() { "mpirun" } else { "one of the processes" };
        // A process that was asked to stop has said so; mpirun does not.
        let unsaid = signal.filter(|signal| status.signal().is_some() || !REQUESTS.contains(signal));
        let reason = |signal| {
            format!(
                "signal {signal} has ended {whose}: go on from the last checkpoint by ptl-train train --resume with the run folder"
            )
        };
        (code, unsaid.map(|signal| Error::Ranks { reason: reason(signal) }))
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
        // A torchrun that started this process has nothing to do with those.
        mpirun.env_remove("TORCHELASTIC_RUN_ID");
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

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn only_a_stop_that_was_asked_for_and_went_well_ends_like_one() {
            let exit = |code: i32| ExitStatus::from_raw(code << 8);
            let by_signal = ExitStatus::from_raw;
            let asked = Some(130);
            for (status, asked, code, said) in [
                (exit(0), None, 0, None),
                (exit(1), None, 1, None),
                (exit(143), None, 143, None),
                (exit(137), None, 137, Some("signal 9 has ended one of the processes")),
                (by_signal(15), None, 1, Some("signal 15 has ended mpirun")),
                (exit(0), asked, 130, None),
                (exit(138), asked, 130, None),
                (by_signal(libc::SIGUSR1), asked, 130, None),
                // The checkpoint could not be written; the system was out of memory.
                (exit(1), asked, 1, None),
                (exit(137), asked, 137, Some("signal 9 has ended one of the processes")),
                (by_signal(9), asked, 1, Some("signal 9 has ended mpirun")),
            ] {
                let (found, error) = outcome(status, asked);
                let error = error.map(|error| error.to_string());
                assert_eq!((found, error.is_some()), (code, said.is_some()), "{status} {asked:?}: {error:?}");
                assert!(error.unwrap_or_default().contains(said.unwrap_or_default()), "{status}");
            }
        }
    }
}
