"""What the benchmarks share: time in turns, peak memory, and where a result was measured."""

import json
import platform
import random
import re
import statistics
import sys
import time
from importlib.metadata import version
from pathlib import Path

import torch
from pytorch_metric_learning import losses as pml_losses
from torch.profiler import ProfilerActivity, profile

from pml_center import losses
from pml_center.losses.watch import BATCHES_AT_REST


def step_of(loss, embeddings, labels, autocast=False, optimizer=None):
    """One forward and backward, and the step of an optimizer if there is one, as a function without arguments."""

    def clear():
        loss.zero_grad(set_to_none=True)
        embeddings.grad = None

    def step():
        clear()
        with torch.autocast(embeddings.device.type, torch.bfloat16, enabled=autocast):
            value = loss(embeddings, labels)
        value.backward()
        if optimizer is not None:
            optimizer.step()

    step.clear = clear
    return step


def steps_of_both(name, embeddings, labels, classes, autocast=False):
    """Steps of our loss and of PML's of a name, by their module, once the watch for a forgotten optimizer has gone."""
    steps = {}
    for module in (losses, pml_losses):
        loss = getattr(module, name)(num_classes=classes, embedding_size=embeddings.shape[1]).to(embeddings.device)
        optimizer = torch.optim.SGD(loss.parameters(), lr=1e-3)
        steps[module] = step_of(loss, embeddings, labels, autocast)
        for _ in range(BATCHES_AT_REST + 1):
            steps[module]()
            optimizer.step()
    return steps


def synchronize(device):
    if device == "cuda":
        torch.cuda.synchronize()


def seconds(steps, device, budget, untimed=0, clock=time.perf_counter):
    """Median seconds of each step; they take turns, in an order of each round's own, until the budget is
    spent, at least five rounds.

    Each turn begins with ``untimed`` steps, so that none pays for what the one before left in caches and allocator.
    ``clock`` may count the time of the processor, which on a busy machine is steadier for a single thread.
    """
    times = {name: [] for name in steps}
    order = list(steps.items())
    started = time.perf_counter()
    rounds = 0
    while rounds < 6 or time.perf_counter() - started < budget:
        random.Random(rounds).shuffle(order)  # so that none always follows the same other
        for name, step in order:
            for _ in range(untimed):
                step()
            synchronize(device)
            before = clock()
            step()
            synchronize(device)
            if rounds:  # the first round warms up
                times[name].append(clock() - before)
        rounds += 1
    return {name: statistics.median(values) for name, values in times.items()}


def peak_bytes(step, device):
    """Peak of allocated bytes above the start of a step."""
    step()
    step.clear()  # what the last step left must not be freed in this one
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        return torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step()
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    total = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        total += event.nbytes()
        peak = max(peak, total)
    return peak


def resident(field):
    """A line of what Linux says of this process's memory, in bytes."""
    return 1024 * int(re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="utf-8"))[1])


def resident_peak(step):
    """How far the resident set rises during a step, in bytes: what numpy and faiss allocate counts too."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # forget the last peak
    before = resident("VmRSS")
    step()
    return resident("VmHWM") - before


def processor():
    """The name of the CPU, where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def circumstances(script, device, threads, packages=("torch", "pytorch-metric-learning")):
    """The command, the machine and the versions, for the head of a result."""
    return {
        "command": " ".join([f"python docs/benchmarks/{Path(script).name}", *sys.argv[1:]]),
        "machine": torch.cuda.get_device_name() if device == "cuda" else processor(),
        "threads": threads,
        "versions": {name: version(name) for name in packages},
    }


def measured_with(result):
    """The same as the beginning of a sentence."""
    versions = ", ".join(f"{name} {number}" for name, number in result["versions"].items())
    threads = f"{result['threads']} thread{'s' * (result['threads'] > 1)}"
    return f"Measured with `{result['command']}` on {result['machine']}, {threads}, {versions}"


def table(rows, left_out=()):
    """Rows of equal keys as lines of a Markdown table; the first column to the left, numbers to the right."""
    columns = [name for name in rows[0] if name not in left_out]
    lines = ["| " + " | ".join(columns) + " |", "|---" + "|---:" * (len(columns) - 1) + "|"]
    return lines + ["| " + " | ".join(str(row[name]) for name in columns) + " |" for row in rows]


def write(result, page, path):
    """A result as JSON, and its page beside it."""
    path = Path(path)
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    path.with_suffix(".md").write_text(page, encoding="utf-8")
