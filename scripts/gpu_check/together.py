"""Starts a command as several processes that find each other, with the variables of torchrun; ends all of them if one fails.

together.py PROCESSES COMMAND...
"""

import os
import signal
import subprocess
import sys
import time


def main():
    """Returns the exit code: 0, or that of the process that failed first."""
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    count, command = int(sys.argv[1]), sys.argv[2:]
    processes = []
    try:
        for rank in range(count):
            numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "MASTER_PORT": os.getpid()}
            environment = {**os.environ, **{name: str(number) for name, number in numbers.items()}}
            processes.append(subprocess.Popen(command, env=environment))
        while True:
            codes = [process.poll() for process in processes]
            failed = [code for code in codes if code]
            if failed:
                return 1 if failed[0] < 0 else failed[0]
            if None not in codes:
                return 0
            time.sleep(0.1)
    finally:
        # One that waits for another in NCCL does not end when it is asked to.
        for process in processes:
            process.kill()
            process.wait()


if __name__ == "__main__":
    sys.exit(main())
