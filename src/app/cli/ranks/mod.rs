//! Processes that train together: how this process learns that it is one of several, and how they are started and ended.

mod launched;
mod mpirun;

use std::time::Duration;
use std::{env, fs, thread};

use super::ExitCode;
use super::args::RanksFlag;
use super::output::{print_error_of, stderr_reporter};
use super::signals;
use crate::base::process::user;
use crate::base::progress::Reporter;
use crate::base::text::plural;
use crate::config::Overrides;
use crate::engine::collective::{Collective, Meeting, Rendezvous};
use crate::engine::device::{Device, DeviceKind, DeviceOptions, VendorUse};
use crate::{Error, Result};
use launched::{Launched, Launcher, Variables};

/// How long a rank waits before it reports an error, so that ranks with the same error do not all report it: the first one ends the others.
const REPORTS_LATER: Duration = Duration::from_secs(3);

/// Returns the variables of this process.
fn variables() -> Variables<impl Fn(&str) -> Option<String>> {
    Variables(|name: &str| env::var(name).ok())
}

/// Refuses a command that one process runs, where several were started: each would do all of the work.
pub(super) fn refuse_several(command: &str) -> Result<()> {
    match variables().launched() {
        Some(Launched { ranks, .. }) => Err(Error::Ranks {
            reason: format!(
                "{ranks} processes were started, and `{command}` is the work of one: start it without mpirun or torchrun"
            ),
        }),
        None => Ok(()),
    }
}

/// Connects this process with the others that were started with it. `device` returns the one that computes.
///
/// # Errors
/// Another number was started than is wanted; nothing connects them; the program was built without MPI, or for another MPI; torchrun's processes have
/// no GPUs; those of `device`.
fn join(wanted: Option<usize>, device: impl FnOnce() -> Result<DeviceKind>) -> Result<Collective> {
    if wanted == Some(1) {
        // Alone, whatever was started beside it.
        return Ok(Collective::single());
    }
    variables().check()?;
    let launched = variables().launched();
    let ranks = launched.map_or(1, |launched| launched.ranks);
    match (wanted, launched) {
        (Some(wanted), _) if ranks != wanted => Err(Error::Setting {
            setting: "--ranks".into(),
            value: wanted.to_string(),
            reason: format!("a launcher has started {}: leave it out", plural(ranks, "process", "processes")),
        }),
        (_, None) => Ok(Collective::single()),
        (_, Some(Launched { by: Launcher::Mpi, .. })) => Collective::of_mpi(ranks),
        (_, Some(Launched { rank, by: Launcher::Torchrun { local_rank }, .. })) => {
            connect_gpus(rank, ranks, local_rank, device()?)
        }
    }
}

/// Connects processes that torchrun has started, by their GPUs.
///
/// # Errors
/// There is no GPU or NCCL for each of them, or they do not find each other.
fn connect_gpus(rank: usize, ranks: usize, local_rank: usize, device: DeviceKind) -> Result<Collective> {
    let needs_gpus = |why: &str| Error::Ranks {
        reason: format!(
            "{ranks} processes that torchrun has started exchange numbers by NCCL between GPUs ({why}): without GPUs, start processes by ptl-train \
             train --ranks or by mpirun, and unset WORLD_SIZE to run alone"
        ),
    };
    let number = match device {
        DeviceKind::Auto => 0,
        DeviceKind::Cuda(number) => number,
        DeviceKind::Cpu | DeviceKind::Emulated => return Err(needs_gpus(&format!("`device` is {device}"))),
    };
    // Another connection of the same GPU exchanges what training computes.
    let kind = DeviceKind::Cuda(number);
    let options = DeviceOptions { kind, local_rank, vendor: VendorUse::Never, ..Default::default() };
    let connect = || {
        let device = Device::open(&options)?;
        let place = variables().meeting_place(ranks, &env::temp_dir(), user())?;
        let rendezvous = Rendezvous::new(&place, rank, ranks)?;
        device.gpu().expect("a GPU was opened").clone().connect(Meeting::Files(&rendezvous))
    };
    let connected = connect().map_err(|error| match error {
        // Keeps what is missing; the sentence has its own advice where no GPU can be had.
        Error::NoDevice { .. } => needs_gpus(&error.to_string()),
        other => other,
    })?;
    Ok(connected.with_local_rank(local_rank))
}

/// Returns the number of compute threads of this process: the cores that it may use, divided by the processes that may use the same.
pub(super) fn threads(ranks: &Collective) -> usize {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let allowed = status.lines().find(|line| line.starts_with("Cpus_allowed_list")).unwrap_or_default();
    let sharing = ranks.here_with(allowed).iter().filter(|&&here| here).count();
    (thread::available_parallelism().map_or(1, usize::from) / sharing.max(1)).max(1)
}

/// Lets the first of several processes report its error, which ends the others: they may have the same. Returns whether this process is to report its
/// own.
pub(super) fn let_first_report() -> bool {
    if variables().launched().is_some_and(|launched| launched.rank > 0) {
        let asked_before = signals::terminated();
        thread::sleep(REPORTS_LATER);
        // Launchers end processes so, because of the error of another one.
        return asked_before || !signals::terminated();
    }
    true
}

/// Does `work` as one of `wanted` processes, or of those that were started; an error of one ends them all. Starts the processes that are wanted, if
/// this is the only one. `what` names the work, and `device` returns the device that does it.
///
/// # Errors
/// Those of [`mpirun::start`], [`join`], `device` and `work`; other processes do other work.
pub(super) fn together(
    what: &str,
    wanted: RanksFlag,
    device: impl FnOnce() -> Result<DeviceKind>,
    work: impl FnOnce(&Collective) -> Result<ExitCode>,
) -> Result<ExitCode> {
    let wanted = wanted.ranks.map(usize::from);
    if let Some(wanted) = wanted.filter(|&wanted| wanted > 1 && variables().launched().is_none()) {
        return mpirun::start(wanted);
    }
    let ranks = join(wanted, device)?;
    let _end = EndOnPanic(&ranks);
    let same_work = || match ranks.first_difference(what) {
        None => Ok(()),
        Some((rank, [first, other])) => {
            let reason = format!(
                "process 0 was started with `{first}`, and process {rank} with `{other}`: start all with the same"
            );
            Err(Error::Ranks { reason })
        }
    };
    same_work().and_then(|()| work(&ranks)).inspect_err(|error| end_all(error, &ranks))
}

/// Returns the device that these flags name.
///
/// # Errors
/// There is no such device.
pub(super) fn device_of(flags: &Overrides) -> Result<DeviceKind> {
    let Some(text) = flags.text("device") else { return Ok(DeviceKind::default()) };
    text.parse().map_err(|reason| Error::Setting { setting: "--device".into(), value: text.into(), reason })
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
        if let_first_report() {
            print_error_of(error, &format!("process {} of {}: ", ranks.rank(), ranks.ranks()));
        }
        ranks.abort(1);
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;
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
