"""What an export costs beside its full-precision pipeline: bytes, loading, memory, time."""

import dataclasses
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import nn

from qsd.denoisers.components import denoisers_of
from qsd.denoisers.identity import config_hash
from qsd.denoisers.input_files import load_inputs, save_inputs
from qsd.denoisers.pipeline import check_device, dtype_of, load_pipeline
from qsd.denoisers.recording import record_inputs
from qsd.evaluation.generate import Generator
from qsd.evaluation.peers import check_peer, quantize_by
from qsd.evaluation.settings import EvaluationSettings
from qsd.export.folder import exports_in, is_export
from qsd.export.read import load_export
from qsd.export.shards import read_config
from qsd.runtime import cache_weights
from qsd.support.errors import QsdError
from qsd.support.heap import peak_bytes
from qsd.support.progress import Progress

FULL, PACKED, CACHED = "full precision", "packed", "packed, cached"


@dataclasses.dataclass(frozen=True)
class Workload:
    """What is timed.

    Attributes:
        batch_sizes: images of a denoiser call and of a drawn batch.
        sizes: heights, equal to widths, of the images in pixels; empty takes the pipeline's smallest.
        steps: denoising steps of drawn images; 0 draws none.
        guidance: of drawn images.
        repeats: timed denoiser calls, whose median counts.
        threads: of the processor.
        dtype: of the computation, as ``bfloat16``.
        device: where.
    """

    batch_sizes: tuple[int, ...] = (1, 4)
    sizes: tuple[int, ...] = ()
    steps: int = 4
    guidance: float = 1.0
    repeats: int = 5
    threads: int = 1
    dtype: str = "float32"
    device: str = "cpu"

    @property
    def torch_dtype(self) -> torch.dtype:
        """The dtype.

        Raises:
            QsdError: there is none of that name.
        """
        return dtype_of(self.dtype)


@dataclasses.dataclass(frozen=True)
class Call:
    """Time of one shape of denoiser calls and of drawn images, in seconds.

    Attributes:
        batch_size: images.
        size: pixels of a side, None for the pipeline's smallest.
        tokens: latent positions of one image (before patches are made of them).
        call_seconds: wall time of a denoiser call, median.
        call_cpu_seconds: processor time of the same over all threads.
        image_seconds: wall time per drawn image with all steps and decoding, None if none was drawn.
    """

    batch_size: int
    size: int | None
    tokens: int
    call_seconds: float
    call_cpu_seconds: float
    image_seconds: float | None


@dataclasses.dataclass(frozen=True)
class Costs:
    """Of one form of the denoiser. Memory beyond that of the process with everything imported.

    Attributes:
        name: :data:`FULL`, :data:`PACKED`, :data:`CACHED`, or a peer's.
        file_bytes: of the denoiser's safetensors files; None for peers, which quantize while loading.
        load_seconds: to open the denoiser.
        load_peak_bytes: most memory meanwhile.
        held_bytes: of its parameters and buffers.
        peak_bytes: most memory with all calls.
        calls: one for each batch size and size.
    """

    name: str
    file_bytes: int | None
    load_seconds: float
    load_peak_bytes: int
    held_bytes: int
    peak_bytes: int
    calls: list[Call]


def measure_costs(
    export: str | Path,
    pipeline: str | Path,
    workload: Workload,
    *,
    peers: Sequence[str] = (),
    progress: Progress | None = None,
) -> list[Costs]:
    """Measures all forms one after the other, each in a process of its own, so that peaks are its own.

    Args:
        export: folder written by :func:`qsd.export.export`.
        pipeline: the full-precision pipeline that it was made from.
        workload: what to time.
        peers: names of other libraries (:data:`qsd.evaluation.peers.PEERS`), at 4 bits.
        progress: called after every form.

    Raises:
        QsdError: no export, no pipeline, another pipeline, several exported denoisers, an unknown or absent
            peer or device.
    """
    dtype = workload.torch_dtype
    check_device(workload.device)
    folder = Path(export)
    folders = [folder] if is_export(folder) else [folder / name for name in exports_in(folder)]
    if len(folders) != 1:
        raise QsdError(f"{export}: holds {len(folders)} exported denoisers; name the folder of one")
    for peer in peers:
        check_peer(peer)
    pipe = load_pipeline(pipeline, dtype=dtype)
    name = folders[0].name if folders[0].name in denoisers_of(pipe) else next(iter(denoisers_of(pipe)))
    _check_the_same(folders[0], denoisers_of(pipe)[name], pipeline)
    found = []
    with tempfile.TemporaryDirectory() as scratch:
        shapes = _record(pipe, name, workload, Path(scratch))
        del pipe
        names = (FULL, PACKED, CACHED, *peers)
        for done, form in enumerate(names):
            arguments = (form, str(folders[0]), str(pipeline), name, workload, shapes, scratch)
            with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
                found.append(pool.submit(_measure, *arguments).result())
            if progress:
                progress(done + 1, len(names), form)
    return found


def _check_the_same(folder: Path, denoiser: Any, pipeline: str | Path) -> None:
    """Refuses a pipeline of another class or configuration than the export's.

    Raises:
        QsdError: it is one.
    """
    exported = {key: value for key, value in read_config(folder).items() if key != "quantization_config"}
    kinds = str(exported.get("_class_name")), type(denoiser).__name__
    if kinds[0] != kinds[1] or config_hash(exported) != config_hash(denoiser):
        raise QsdError(
            f"{folder}: is a {kinds[0]}, and {pipeline} has a {kinds[1]} of another configuration; name the "
            "pipeline that it was made from"
        )


_Shape = tuple[int, "int | None", int]


def _record(pipe: Any, name: str, workload: Workload, scratch: Path) -> list[_Shape]:
    """Writes the inputs of a denoiser call for every shape: batch size, pixels, latent positions."""
    shapes: list[_Shape] = []
    for size in workload.sizes or (None,):
        call = {} if size is None else {"height": size, "width": size}
        inputs = record_inputs(pipe, name, **call)[name]
        for batch in workload.batch_sizes:
            latents = next(v for v in inputs.values() if isinstance(v, torch.Tensor) and v.ndim > 1)
            tokens = latents[0].numel() // latents.shape[1] if latents.ndim > 3 else latents.shape[1]
            save_inputs(_repeated(inputs, batch), scratch / f"{len(shapes)}.json")
            shapes.append((batch, size, tokens))
    return shapes


def _repeated(value: Any, batch: int) -> Any:
    """Arguments of one image as those of a batch."""
    if isinstance(value, torch.Tensor) and value.ndim and len(value) == 1:
        return value.expand(batch, *value.shape[1:])
    if isinstance(value, Mapping):
        return {key: _repeated(item, batch) for key, item in value.items()}
    return value


def _measure(
    form: str,
    export: str,
    pipeline: str,
    name: str,
    workload: Workload,
    shapes: Sequence[_Shape],
    scratch: str,
) -> Costs:
    """One form; runs in a process of its own."""
    torch.set_num_threads(workload.threads)
    dtype = workload.torch_dtype
    before = psutil.Process().memory_info().rss
    start = time.perf_counter()
    denoiser = _loaded(form, export, pipeline, name, workload)
    load_seconds, load_peak = time.perf_counter() - start, _peak(workload) - before
    held = sum(tensor.nbytes for tensor in (*denoiser.parameters(), *denoiser.buffers()))
    if form == CACHED:
        held += cache_weights(denoiser)
    timed = [_timed_call(denoiser, Path(scratch) / f"{i}.json", workload) for i in range(len(shapes))]
    peak = _peak(workload) - before
    drawn: list[float | None] = [None] * len(shapes)
    if workload.steps:
        pipe: Any = load_pipeline(pipeline, device=workload.device, dtype=dtype)
        setattr(pipe, name, denoiser)
        drawn = [_image_seconds(pipe, batch, size, workload, Path(scratch)) for batch, size, _ in shapes]
    calls = [
        Call(*shape, *seconds, image) for shape, seconds, image in zip(shapes, timed, drawn, strict=True)
    ]
    files = Path(export) if form in (PACKED, CACHED) else None
    size = sum(path.stat().st_size for path in files.glob("*.safetensors")) if files else None
    if form == FULL and (Path(pipeline) / name).is_dir():
        size = sum(path.stat().st_size for path in (Path(pipeline) / name).glob("*.safetensors"))
    return Costs(form, size, load_seconds, load_peak, held, peak, calls)


def _loaded(form: str, export: str, pipeline: str, name: str, workload: Workload) -> nn.Module:
    if form in (PACKED, CACHED):
        return load_export(export, device=workload.device, dtype=workload.torch_dtype).eval()
    import diffusers

    from qsd.support.paths import find

    folder = Path(find(pipeline)) / name
    dense: Any = diffusers.AutoModel.from_pretrained(str(folder), torch_dtype=workload.torch_dtype)
    dense = dense.eval().requires_grad_(False).to(workload.device)
    return dense if form == FULL else quantize_by(form, dense)


def _peak(workload: Workload) -> int:
    if workload.device.startswith("cuda"):
        return torch.cuda.max_memory_allocated()
    return peak_bytes()


@torch.inference_mode()
def _timed_call(denoiser: nn.Module, file: Path, workload: Workload) -> tuple[float, float]:
    """Wall and processor seconds of a denoiser call, medians."""
    inputs = _moved(load_inputs(file), workload)
    walls, processors = [], []
    for _ in range(1 + workload.repeats):
        start, cpu = time.perf_counter(), time.process_time()
        denoiser(**inputs)
        if workload.device.startswith("cuda"):
            torch.cuda.synchronize()  # kernels run behind the caller's back
        walls.append(time.perf_counter() - start)
        processors.append(time.process_time() - cpu)
    return statistics.median(walls[1:]), statistics.median(processors[1:])


def _moved(value: Any, workload: Workload) -> Any:
    if isinstance(value, torch.Tensor):
        floating = value.is_floating_point()
        return value.to(workload.device, workload.torch_dtype if floating else value.dtype)
    if isinstance(value, Mapping):
        return {key: _moved(item, workload) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_moved(item, workload) for item in value)
    return value


def _image_seconds(pipe: Any, batch: int, size: int | None, workload: Workload, scratch: Path) -> float:
    """Wall time per image of a drawn batch, prompts encoded before."""
    drawn = max(batch, 2)  # settings ask for two images at least
    prompts = scratch / "prompts.txt"
    prompts.write_text("0\n" * drawn, encoding="utf-8")  # a prompt, and the number of a class
    settings = EvaluationSettings(
        prompts=str(prompts),
        num_images=drawn,
        steps=workload.steps,
        guidance=workload.guidance,
        height=size,
        width=size,
        batch_size=batch,
    )
    generator = Generator(pipe, settings)
    start = time.perf_counter()
    for _ in generator.batches(0):
        pass
    return (time.perf_counter() - start) / drawn


def rows_of(costs: Sequence[Costs]) -> list[list[str]]:
    """Rows of texts: heading, then a line for each form and shape, ratios to full precision."""
    heading = [
        "form",
        "file MB",
        "load s",
        "load MB",
        "peak MB",
        "batch",
        "latent",
        "call ms",
        "x",
        "s/image",
    ]
    full = {(call.batch_size, call.size): call for call in costs[0].calls}
    rows = [heading]
    for cost in costs:
        file = "" if cost.file_bytes is None else f"{cost.file_bytes / 1e6:.1f}"
        memory = [
            f"{cost.load_seconds:.2f}",
            f"{cost.load_peak_bytes / 1e6:.0f}",
            f"{cost.peak_bytes / 1e6:.0f}",
        ]
        for position, call in enumerate(cost.calls):
            ratio = call.call_cpu_seconds / full[call.batch_size, call.size].call_cpu_seconds
            image = "" if call.image_seconds is None else f"{call.image_seconds:.3f}"
            facts = [cost.name, file, *memory] if position == 0 else [""] * 5
            shape = [str(call.batch_size), str(call.tokens)]
            rows.append([*facts, *shape, f"{1e3 * call.call_seconds:.1f}", f"{ratio:.2f}", image])
    return rows
