"""Plain Python threads for kernels that release the interpreter lock.

Work is split by its shape and never by the number of threads, so results do not depend on ``threads``. Pools
are made on first use, per process and per size; a forked child makes its own.
"""

import os
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from threading import Lock

from wavedil.checks import whole

HANDOVER = 3e-4  # seconds of work that pay for waking another thread: measured, 0.05 to 0.1 ms are lost by it

_pools: dict[int, ThreadPoolExecutor] = {}
_lock = Lock()


def _forget_pools():
    global _lock
    _pools.clear()  # a forked child has the parent's objects, and none of its threads
    _lock = Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_pools)


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def check_threads(threads) -> int:
    """The number of threads to use: ``None`` means one a core. More than there are cores is allowed."""
    if threads is None:
        return cores()
    return whole("kernels", "threads", threads)


def worth(threads, seconds) -> int:
    """`check_threads`, but one for work of one thread that would be over before a second thread has begun."""
    threads = check_threads(threads)
    return threads if seconds > HANDOVER else 1


def _pool(threads):
    with _lock:
        if threads not in _pools:
            _pools[threads] = ThreadPoolExecutor(threads, thread_name_prefix="wavedil")
        return _pools[threads]


def run(tasks, threads):
    """Call every ``(function, *arguments)`` of ``tasks``, on so many threads; errors are raised here.

    Each thread gets its share of the list at once: handing out short tasks one by one costs more than they do.
    """
    tasks = list(tasks)
    threads = min(threads, len(tasks))
    if threads <= 1:
        _run_all(tasks)
        return
    pool = _pool(threads)
    futures = [pool.submit(_run_all, tasks[first::threads]) for first in range(1, threads)]
    try:
        _run_all(tasks[::threads])
    finally:
        wait(futures)
    for future in futures:
        future.result()


def _run_all(tasks):
    for function, *arguments in tasks:
        function(*arguments)


def run_graph(tasks, threads):
    """Call the tasks of a graph, each one after all that it waits for.

    Parameters
    ----------
    tasks : dict
        name -> (names to wait for, function, *arguments). Names that are not in the graph count as done. The
        order of the dict must itself be a valid order, and is the one that a single thread follows.
    threads : int
    """
    if threads == 1:
        for _, function, *arguments in tasks.values():
            function(*arguments)
        return
    pool = _pool(threads)
    open_needs = {name: {n for n in needs if n in tasks} for name, (needs, *_) in tasks.items()}
    waiting_for = {}
    for name, needs in open_needs.items():
        for need in needs:
            waiting_for.setdefault(need, []).append(name)
    running = {pool.submit(*tasks[name][1:]): name for name, needs in open_needs.items() if not needs}
    try:
        while running:
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                name = running.pop(future)
                future.result()
                for other in waiting_for.get(name, ()):
                    open_needs[other].discard(name)
                    if not open_needs[other]:
                        running[pool.submit(*tasks[other][1:])] = other
    finally:
        wait(running)
