"""``qsd graph``."""

from collections import Counter
from collections.abc import Sequence

from qsd.cli.console import console, messages, print_json, run_function
from qsd.denoisers import trace
from qsd.denoisers.draw import draw
from qsd.denoisers.pipeline import denoiser_of, load_pipeline


def graph(pipeline: str, out: str | None = None, block: int | None = None, json: bool = False) -> None:
    """Traces a pipeline's denoiser and draws its graph, weight nodes coloured by role.

    Args:
        pipeline: diffusers folder, shipped pipeline, or hub id.
        out: picture to write (.svg, .png or .pdf); none only counts.
        block: draw only this block.
        json: print the counts as JSON.
    """
    with messages.status("tracing"):
        denoiser = denoiser_of(load_pipeline(pipeline))
        traced = trace(denoiser)
    if out:
        draw(traced.graph, out, block=block)
    counts = {
        "kinds": dict(Counter(node.kind for node in traced.graph.nodes)),
        "roles": dict(Counter(layer.role for layer in traced.layers)),
    }
    facts = {
        "denoiser": type(denoiser).__name__,
        "nodes": traced.graph.num_nodes,
        "edges": traced.graph.num_edges,
        "weight_layers": len(traced.layers),
        "weights": sum(layer.num_weights for layer in traced.layers),
    }
    if json:
        print_json(facts | counts)
        return
    console.print(
        f"{facts['denoiser']}: {facts['nodes']} nodes, {facts['edges']} edges, "
        f"{facts['weight_layers']} weight layers, {facts['weights']:,} weights"
    )
    for title, numbers in counts.items():
        console.print(f"{title}: " + ", ".join(f"{name} {count}" for name, count in numbers.items()))
    if out:
        console.print(f"wrote {out}")


def run(words: Sequence[str]) -> None:
    """Runs the verb."""
    run_function(graph, words)
