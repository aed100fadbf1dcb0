"""Write shards in several local processes. The parent only waits, reports progress, and finally ends them."""

import multiprocessing
import signal
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

from impact_pl.config import PrecomputeConfig
from impact_pl.errors import UserError

GRACE_SECONDS = 10.0

Write = Callable[[PrecomputeConfig, list[int], Callable[[], None]], None]  # a function that a new process can import


def run_workers(write: Write, config: PrecomputeConfig, numbers: list[int], advance: Callable[[], None]) -> None:
    """Write the shards with these numbers in ``config.workers`` processes; ``advance`` is called for each record.

    Each process calls ``write`` with the configuration, its share of the numbers, and a callback for each record.

    If this call ends by Ctrl-C, SIGTERM or an error, it ends the processes too. A process whose parent was killed by
    kill -9 exits after its current record.

    Raises:
        UserError: A worker reported a user's mistake, or was killed.
    """
    context = multiprocessing.get_context("spawn")  # a fork of a process that has used OpenMP or CUDA hangs
    workers: dict[Connection, BaseProcess] = {}
    try:
        for share in (numbers[first :: config.workers] for first in range(min(config.workers, len(numbers)))):
            receiver, sender = context.Pipe(duplex=False)
            process = context.Process(target=_work, args=(write, config, share, sender), daemon=True)
            process.start()
            sender.close()  # only the worker's end remains open, so its death ends receiving
            workers[receiver] = process
        running = dict(workers)
        while running:
            ready = wait(list(running))
            for receiver in [receiver for receiver in running if receiver in ready]:
                try:
                    message = receiver.recv()
                except EOFError:
                    _check_end(running.pop(receiver))
                    continue
                if message is not None:
                    raise UserError(message)
                advance()
    finally:
        _stop(list(workers.values()))


def _check_end(process: BaseProcess) -> None:
    process.join()
    if process.exitcode:
        how = f"exit code {process.exitcode}" if process.exitcode > 0 else f"signal {-process.exitcode}"
        raise UserError(
            f"a worker process ended with {how} (9 is often a lack of memory); finished shards are kept: "
            "run the same command again, with fewer workers if memory is short"
        )


def _stop(processes: list[BaseProcess]) -> None:
    for process in processes:
        process.terminate()
    for process in processes:
        process.join(GRACE_SECONDS)
        if process.exitcode is None:
            process.kill()
            process.join()


def _work(write: Write, config: PrecomputeConfig, numbers: list[int], sender: Connection) -> None:
    """Run a worker: send None for each record, or the message of a user's mistake."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        write(config, numbers, lambda: sender.send(None))
    except BrokenPipeError:  # nobody waits for this any more
        sys.exit(1)
    except (UserError, OSError) as error:
        sender.send(str(error))
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # an exception while the interpreter ends would be printed
