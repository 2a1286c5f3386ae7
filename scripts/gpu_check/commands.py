"""Runs programs with a time limit, their output in a file."""

import os
import signal
import subprocess

from report import CUT_OFF, FAILED, PASSED

# What ends a program from outside.
REQUESTS = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
# Advice at the end of an error, after the line that says what is wrong.
ADVICE = ("note: ", "Set TORCH", "For even more", "You can suppress")


def last_line(log):
    """Returns the last line of a log that is not advice, shortened: most errors are one line."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines()]
    lines = [line for line in lines if line and not line.startswith(ADVICE)]
    return lines[-1][:300] if lines else "it printed nothing"


def run(arguments, log, seconds, environment=None):
    """Runs a program for at most `seconds`, and returns how it ended and a remark. All that it started ends with it."""
    with open(log, "wb") as file:
        try:
            process = subprocess.Popen(
                [str(argument) for argument in arguments],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(environment or {})},
                start_new_session=True,
            )
        except OSError as error:
            return FAILED, f"{arguments[0]} cannot be run: {error}"
        try:
            code = process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            return CUT_OFF, f"the time of the phase was over; last line: {last_line(log)}"
        finally:
            end(process)
    if code == 0:
        return PASSED, ""
    if -code in REQUESTS or code - 128 in REQUESTS:
        return CUT_OFF, f"it was ended from outside; last line: {last_line(log)}"
    return FAILED, last_line(log) if code > 0 else f"signal {-code}; last line: {last_line(log)}"


def end(process):
    """Ends a process and all that it started, first by asking."""
    for request in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, request)
            process.wait(timeout=5)
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            continue
