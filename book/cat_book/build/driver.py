"""The driver: runs pages that are not up to date side by side, with progress and a manifest.

Each kernel gets max(1, cores // jobs) threads, however few pages are left to run; an interrupted page keeps
the number of threads it was begun with, so that what it resumes continues with the same bits. Ctrl-C ends all
pages at once; if the driver is killed its pages notice and end (see `cat_book.build.page`).
"""

import contextlib
import json
import os
import queue
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
from filelock import FileLock, Timeout

from cat_book.build.editions import EditionError
from cat_book.build.fingerprints import page_digest, shared_digests
from cat_book.build.manifest import finished_entry, machine, now, page_state, read_manifest, write_manifest
from cat_book.build.page import end_processes
from cat_core.tasks.schema import nearest
from cat_core.training.provenance import RUNS

BOOK = Path(__file__).resolve().parents[2]  # the folder that holds the package cat_book
HEARTBEAT = 10.0  # seconds between two lines on how a page is doing
GIB = 2**30


def _cgroup(*names):
    """The whole numbers in files of a container's control group; [] without container or limit ("max")."""
    try:
        return [int(number) for name in names for number in Path("/sys/fs/cgroup", name).read_text().split()]
    except (OSError, ValueError):
        return []


def usable_cores():
    """Cores this process may use: its affinity, and the quota of a container where there is one."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    cpu = _cgroup("cpu.max")  # quota and period
    return min(cores, max(1, -(-cpu[0] // cpu[1]))) if cpu else cores


def free_memory():
    """Bytes of memory that can be had, within a container's limit where there is one."""
    free, memory = psutil.virtual_memory().available, _cgroup("memory.max", "memory.current")
    return min(free, memory[0] - memory[1]) if memory else free


def minutes(seconds):
    """A duration for people: "48 s", "7 min 30 s", "2 h 05 min"."""
    seconds = round(seconds)
    if seconds < 100:
        return f"{seconds} s"
    if seconds < 5400:
        return f"{seconds // 60} min {seconds % 60:02} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60:02} min"


def announce(root, edition, todo, jobs, cores):
    """Print what the pages `todo` will need and what there is; warn if it will not be enough."""
    needs, total = edition.needs, sum(page.core_seconds for page in edition.run_pages.values())
    seconds = needs["core_seconds"] * (sum(page.core_seconds for page in todo) / total if total else 1)
    longest = max((page.core_seconds for page in todo), default=0) / max(1, cores // jobs)
    estimate = max(seconds / min(cores, max(jobs, 1)), longest)
    free_disk, free_ram = shutil.disk_usage(root).free / GIB, free_memory() / GIB
    print(
        f"Needs about {minutes(estimate)} on {cores} cores ({seconds:.0f} core-seconds, less if stored), "
        f"{needs['memory_gib']:g} GiB of memory ({free_ram:.1f} free), "
        f"{needs['disk_gib']:g} GiB of disk ({free_disk:.1f} free).",
        flush=True,
    )
    if free_ram < needs["memory_gib"]:
        print("warning: memory may not be enough; --jobs 1 needs the least", flush=True)
    if free_disk < needs["disk_gib"]:
        print("warning: the disk may not have enough room", flush=True)


class Display:
    """One line for each event; how pages are doing every ten seconds, or in one moving line on a terminal."""

    def __init__(self, stream=None):
        self.stream = stream or sys.stdout
        self.moving = self.stream.isatty()
        self.started = time.monotonic()
        self._beat = {}
        self._width = 0

    def _clock(self):
        return "[{:3}:{:02}]".format(*divmod(int(time.monotonic() - self.started), 60))

    def event(self, page, text):
        self._clear()
        print(f"{self._clock()} {page:<16} {text}", file=self.stream, flush=True)
        self._beat[page] = time.monotonic()

    def _clear(self):
        if self._width:
            print("\r" + " " * self._width + "\r", end="", file=self.stream)
            self._width = 0

    def heartbeat(self, workers):
        if self.moving:
            self._clear()
            line = f"{self._clock()} " + "   ".join(f"{worker.page.name} {worker.progress()}" for worker in workers)
            line = line[: shutil.get_terminal_size().columns - 1]
            print(line, end="", file=self.stream, flush=True)
            self._width = len(line)
            return
        for worker in workers:
            if time.monotonic() - self._beat.get(worker.page.name, 0) >= HEARTBEAT:
                self.event(worker.page.name, worker.progress())


class Worker:
    """A page that is running: its process, and what it has reported so far."""

    def __init__(self, root, edition, page, threads, reports):
        self.page = page
        self.folder = root / RUNS / edition.name
        self.temporary = self.folder / f".{page.name}.{os.getpid()}.tmp.ipynb"
        self.log = self.folder / f"{page.name}.failed.log"
        self.began = time.monotonic()
        self.cell = self.cells = 0
        self.line, self.kernels, self.outcome = "", [], None
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, (str(BOOK), os.environ.get("PYTHONPATH")))),  # for the kernel
            **dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads)),
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "TOKENIZERS_PARALLELISM": "false",
            "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "64",  # batches of ever new lengths fill a larger one
            "JUPYTER_PREFER_ENV_PATH": "1",  # not a kernel of the same name in the home folder
            "PYDEVD_DISABLE_FILE_VALIDATION": "1",
            "PYTHONIOENCODING": "utf-8",
        }
        # A group of its own: Ctrl-C in the terminal reaches the driver alone, which then ends its pages.
        windows = os.name == "nt"
        group = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP} if windows else {"start_new_session": True}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "encoding": "utf-8"}
        with self.log.open("wb") as log:
            command = [sys.executable, "-m", "cat_book.build.page"]
            self.process = subprocess.Popen(command, cwd=root, env=environment, stderr=log, **pipes, **group)
        parameters = {name: list(value) if isinstance(value, tuple) else value for name, value in page.given.items()}
        job = {"input": str(page.path), "output": str(self.temporary), "parameters": parameters, "cwd": str(root)}
        threading.Thread(target=self._listen, args=(reports,), daemon=True).start()
        with contextlib.suppress(OSError):  # it died at once: the end of its reports says so
            self.process.stdin.write(json.dumps(job) + "\n")
            self.process.stdin.flush()

    def _listen(self, reports):
        for line in self.process.stdout:
            with contextlib.suppress(ValueError):
                reports.put((self, json.loads(line)))
        reports.put((self, None))

    def take(self, report):
        """Note a report; True when it was the last one."""
        if report is None:
            status = self.process.wait()
            if self.outcome is None:  # killed, or out of memory
                end_processes(self.kernels)
                self.outcome = ": ".join([f"its process ended early (status {status})", *self.logged()[-1:]])
            return True
        self.cell, self.cells = report.get("cell", self.cell), report.get("cells", self.cells)
        self.line = "" if "cell" in report else report.get("line", self.line)
        self.kernels = report.get("kernel", self.kernels)
        if "done" in report or "failed" in report:
            self.outcome = report.get("failed", "")
        return False

    def logged(self):
        """What the page's process and kernel wrote to their error output, less what every kernel says."""
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        return [line for line in lines if line.strip() and "[IPKernelApp]" not in line]

    def progress(self):
        """How far it is, in a few words."""
        return f"cell {self.cell}/{self.cells}  {self.line}".rstrip() if self.cells else "starting"

    def end(self):
        """Stop the page at once."""
        with contextlib.suppress(OSError):
            self.process.stdin.close()  # its process takes the kernel along
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            end_processes([self.process.pid])
        self.temporary.unlink(missing_ok=True)
        self.log.unlink(missing_ok=True)


@contextlib.contextmanager
def locked(path, what, wait=True):
    """Hold a lock that the system frees however this process ends; say so while waiting for it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        if not wait:
            raise EditionError(f"{what} is being worked on by another process: wait until it has ended") from None
        print(f"Another process is working on {what}: waiting for it (Ctrl-C to give up) ...", flush=True)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def choose_pages(edition, wanted):
    """The pages meant by `wanted` (names or unambiguous beginnings such as 05); all pages if it is empty."""
    chosen = {}
    for name in wanted or edition.run_pages:
        matches = [name] if name in edition.pages else [page for page in edition.pages if page.startswith(name)]
        if len(matches) != 1:
            raise EditionError(f"--page {name}: no such page{nearest(name, edition.pages)}")
        page = chosen[matches[0]] = edition.pages[matches[0]]
        if page.left_out:
            raise EditionError(f"--page {name}: edition '{edition.name}' leaves {page.name} out: {page.left_out}")
    return list(chosen.values())


def run(root, edition, wanted=(), jobs=None, force=False):
    """Run the pages that are not up to date; returns how many failed."""
    cores = usable_cores()
    jobs = cores if jobs is None else jobs
    if jobs < 1:
        raise EditionError(f"--jobs {jobs}: expected at least 1")
    pages = choose_pages(edition, wanted)
    folder = root / RUNS / edition.name
    with locked(folder / ".lock", f"edition '{edition.name}'"):
        for stale in folder.glob(".*.tmp.ipynb"):
            stale.unlink(missing_ok=True)
        manifest = read_manifest(root, edition.name)
        if manifest["pages"] and manifest.get("overrides", []) != list(edition.overrides) and not force:
            raise EditionError(
                f"variant '{edition.name}' was run with {' '.join(manifest['overrides']) or 'no changes'}: "
                "choose another --name, or --force to replace it"
            )
        manifest |= {"edition": edition.name, "base": edition.base, "overrides": list(edition.overrides)}
        manifest |= {"description": edition.description, "needs": edition.needs}
        shared = shared_digests(root)
        digests = {page.name: page_digest(root, page, shared) for page in pages}
        states = {name: page_state(root, edition.name, manifest, name, digest) for name, digest in digests.items()}
        todo = [page for page in pages if force or states[page.name] != "up to date"]
        counts = f"{len(todo)} of {len(pages)} pages to run, {len(pages) - len(todo)} unchanged"
        print(f"Edition '{edition.name}': {counts}.", flush=True)
        if not todo:
            return 0
        announce(root, edition, todo, jobs, cores)
        todo.sort(key=lambda page: -page.core_seconds)  # stable: equal ones in reading order
        return _run_pages(root, edition, manifest, todo, digests, jobs, cores)


def _run_pages(root, edition, manifest, todo, digests, jobs, cores):
    display, reports, running, failed = Display(), queue.Queue(), [], []
    common, count = machine(root, cores), len(todo)
    try:
        while todo or running:
            while todo and len(running) < jobs:
                page = todo.pop(0)
                before, digest = manifest["unfinished"].get(page.name, {}), digests[page.name]
                threads, again = max(1, cores // jobs), ""
                if before.get("digest") == digest:
                    threads, again = before.get("threads", threads), ", going on where it was interrupted"
                manifest["unfinished"][page.name] = {"digest": digest, "threads": threads, "started": now()}
                write_manifest(root, edition.name, manifest)
                running.append(Worker(root, edition, page, threads, reports))
                display.event(page.name, f"started with {threads} thread{'s' * (threads > 1)}{again}")
            with contextlib.suppress(queue.Empty):
                worker, report = reports.get(timeout=0.5)
                if worker.take(report):
                    running.remove(worker)
                    if not _conclude(root, edition, manifest, worker, common, display):
                        failed.append(worker.page.name)
            display.heartbeat(running)
    except BaseException:
        for worker in running:
            worker.end()
        raise
    took, end = minutes(time.monotonic() - display.started), f"; failed: {', '.join(failed)}" if failed else "."
    print(f"Edition '{edition.name}': {count - len(failed)} of {count} pages run in {took}{end}", flush=True)
    return len(failed)


def _conclude(root, edition, manifest, worker, common, display):
    """Put the executed copy in its place and note the run in the manifest; True if the page ran through."""
    name, seconds = worker.page.name, time.monotonic() - worker.began
    copy, broken = worker.folder / f"{name}.ipynb", worker.folder / f"{name}.failed.ipynb"
    if worker.outcome:
        kept = worker.temporary.is_file()
        if kept:
            os.replace(worker.temporary, broken)
        if not worker.logged():
            worker.log.unlink()
        manifest["unfinished"][name]["error"] = worker.outcome
        where = f"; see {broken.relative_to(root).as_posix()}" if kept else ""
        display.event(name, f"FAILED after {minutes(seconds)}: {worker.outcome}{where}")
    else:
        os.replace(worker.temporary, copy)
        for left in (broken, worker.log):
            left.unlink(missing_ok=True)
        begun = manifest["unfinished"].pop(name)
        manifest["pages"][name] = finished_entry(root, edition.name, worker.page, copy, begun, common, seconds)
        display.event(name, f"done in {minutes(seconds)}")
    write_manifest(root, edition.name, manifest)
    return not worker.outcome
