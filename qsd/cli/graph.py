"""``qsd graph``."""

from collections import Counter
from collections.abc import Sequence

from qsd.cli.console import console, messages, print_json, run_function
from qsd.denoisers import GraphKind, holdings, load_inputs, trace_whole
from qsd.denoisers.components import class_name
from qsd.denoisers.draw import draw
from qsd.denoisers.pipeline import DtypeName, load_pipeline
from qsd.evaluation import EvaluationSettings
from qsd.evaluation.recording_call import recording_call


def graph(
    pipeline: str,
    out: str | None = None,
    block: int | None = None,
    denoiser: str | None = None,
    inputs: str | None = None,
    evaluation: EvaluationSettings | None = None,
    graph: GraphKind = "traced",
    dtype: DtypeName = "float32",
    json: bool = False,
) -> None:
    """Traces a pipeline's denoiser and draws its graph, weight nodes coloured by role.

    Args:
        pipeline: diffusers folder, shipped pipeline, or hub id.
        out: picture to write (.svg, .png or .pdf); none only counts.
        block: draw only this block.
        denoiser: name of the component to restrict to, where a pipeline has several denoisers.
        inputs: JSON file of the arguments of the denoiser's forward (qsd.save_inputs); none records them from
            the pipeline's own call.
        evaluation: of the labels to come: that call is given its prompts, images, sizes and call, which some
            pipelines need.
        graph: traced, or chain for a denoiser that cannot be traced (weights in module order).
        dtype: float32, bfloat16 or float16, of the weights that are loaded.
        json: print the counts as JSON.
    """
    with messages.status("tracing"):
        pipe = load_pipeline(pipeline, dtype=dtype)
        module, traced = trace_whole(
            pipe,
            denoiser=denoiser,
            inputs=load_inputs(inputs) if inputs else None,
            graph=graph,
            call=recording_call(pipe, evaluation),
        )
    if out:
        draw(traced.graph, out, block=block)
    counts = {
        "kinds": dict(Counter(node.kind for node in traced.graph.nodes)),
        "roles": dict(Counter(layer.role for layer in traced.layers)),
    }
    facts = {
        "denoiser": class_name(module),
        "nodes": traced.graph.num_nodes,
        "edges": traced.graph.num_edges,
        "weight_layers": len(traced.layers),
        "weights": sum(layer.num_weights for layer in traced.layers),
    }
    held = holdings(module, traced.layers)
    if json:
        print_json(facts | counts | {"holdings": held.to_json()})
        return
    console.print(
        f"{facts['denoiser']}: {facts['nodes']} nodes, {facts['edges']} edges, "
        f"{facts['weight_layers']} weight layers, {facts['weights']:,} weights"
    )
    for title, numbers in counts.items():
        console.print(f"{title}: " + ", ".join(f"{name} {count}" for name, count in numbers.items()))
    console.print("\n".join(held.lines()))
    if out:
        console.print(f"wrote {out}")


def run(words: Sequence[str]) -> None:
    """Runs the verb."""
    run_function(graph, words)
