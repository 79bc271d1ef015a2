"""``qsd search``."""

import contextlib
import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jsonargparse.typing import NonNegativeInt, PositiveInt

from qsd.api import search as search_configs
from qsd.api import smallest
from qsd.bank import Bank
from qsd.cli.console import bar, command_line, console, messages, print_json, run_function
from qsd.cli.found import front_table, round_json, round_table, rows_of, say_answer
from qsd.cli.front_files import facts_of, write_front
from qsd.cli.joint_search import JointWords, run_joint
from qsd.cli.overwriting import check_replaceable
from qsd.cli.search_words import bounds_of, check_words, rules_of
from qsd.denoisers.pipeline import DtypeName, check_device, load_pipeline
from qsd.evaluation import EvaluationSettings
from qsd.labels import Measurer, Pool, Run
from qsd.labels import verify as verify_configs
from qsd.labels.conditions import check_conditions, store_conditions
from qsd.labels.rounds import Round, verify_rounds
from qsd.ranker.bounds import Answer
from qsd.ranker.checkpoint import Ranker, load_ranker
from qsd.ranker.tasks import OrthogonalitySettings, ScoreName
from qsd.ranker.universal.binding import bind
from qsd.ranker.universal.files import SHIPPED, is_universal, load_universal
from qsd.search import Front, MethodName, SearchSettings
from qsd.search.coupling import FormatName, parse_couplings
from qsd.store import Store
from qsd.support.errors import QsdError
from qsd.support.paths import find


def search(
    bank: str,
    out: str,
    ranker: str | None = None,
    method: MethodName = "evolution",
    max_bits: float | None = None,
    max_bytes: int | None = None,
    max_act_bits: float | None = None,
    max_bops: float | None = None,
    steps: str | None = None,
    max_fid: float | None = None,
    min_psnr: float | None = None,
    within: str | None = None,
    confidence: float = 0.9,
    keep: str | None = None,
    at_least: str | None = None,
    couple: str | None = None,
    format: FormatName = "qsd",
    objectives: str | None = None,
    store: str | None = None,
    verify: NonNegativeInt = 0,
    rounds: PositiveInt = 1,
    verify_seeds: PositiveInt = 2,
    pipeline: str | None = None,
    evaluation: EvaluationSettings | None = None,
    score: ScoreName = "errors",
    orthogonality: OrthogonalitySettings = OrthogonalitySettings(),  # noqa: B008
    settings: SearchSettings = SearchSettings(),  # noqa: B008
    seed: NonNegativeInt = 0,
    workers: PositiveInt = 1,
    device: str = "cpu",
    dtype: DtypeName = "float32",
    overwrite: bool = False,
    json: bool = False,
) -> None:
    """Searches good configs within a size budget that is never exceeded.

    Writes `front.json` (the Pareto front, configs by layer name), `best.json` (its best config, ready for
    `qsd measure` and `qsd export`) and the picture `front.png` and `front.svg`. With --max-fid, --min-psnr
    or --within it searches the smallest config that keeps the bound, and `best.json` is that. With --verify
    it measures the front's best under fresh noise, appends the records to the store, refits the ranker and
    searches again.

    Args:
        bank: the denoiser's bank (`qsd bank`).
        out: folder to write to.
        ranker: folder of a trained ranker (`qsd fit`); predicts the configs of any method. Methods without
            need of one are length, greedy, knapsack, orthogonality, uniform and random. `universal` is one
            for denoisers that it has never seen: it needs no labels and no probes, and takes those that
            --store has.
        method: evolution (NSGA-II and local search over the ranker), operation and block (Qua²SeDiMo's
            constructions from a graph network's hop scores), orthogonality (MPQ-Diff), length (evolution
            over the length of the probed change, no labels), knapsack (exact over a --score), greedy (one
            layer at a time by PSNR), uniform, random.
        max_bits: budget in average bits per weight, codebooks and scales included.
        max_bytes: budget in bytes instead.
        max_act_bits: budget in mean bits of activations, each layer counting by its multiply-accumulates;
            weights and activations are then searched together, which needs a ranker of a bank with activation
            options; with --method orthogonality no ranker.
        max_bops: budget in bit-operations (multiply-accumulates x weight bits x activation bits) of one
            forward pass of one image; likewise.
        steps: file of `qsd probe --steps-groups`; with one of these budgets, options of activations by group
            of sampling steps are chosen for the config that was found, within the budget in the mean over
            the steps, and written to `schedule.json`. Method orthogonality needs no ranker and writes one for
            as many groups as it compares steps (--orthogonality.steps).
        max_fid: find the smallest config whose FID is at most that.
        min_psnr: find the smallest config whose PSNR in dB is at least that.
        within: find the smallest config whose FID is at most so many times full precision's, such as 1.1x.
        confidence: probability with which these bounds must hold.
        keep: layers with a fixed option, such as "proj_out=keep,blocks.0.*=uaq-4"; * stands for anything;
            with a budget of activations also "proj_out=keep@16" or "proj_out=@16".
        at_least: layers with an option of at least the bits of the one named, likewise.
        couple: layers that share an option: qkv (query, key and value of one attention), segments (of one
            weight), or both, as in "qkv,segments".
        format: what the result is for, also written --for: qsd, sdnq, gguf or comfy. Only options that it can
            hold are searched, and layers that it stores as one weight share an option.
        objectives: labels that the ranker predicts, such as fid,psnr ("target" is its target): NSGA-II finds
            a front of all of them and of bytes instead of weighing them by the target; `best.json` is its
            member of the best target.
        store: probed store for length, greedy and knapsack over energies; labeled for ridge; the ranker's
            own for --verify, which appends to it.
        verify: measure so many of the front's best per round; needs --ranker, --store, --pipeline and
            --evaluation.
        rounds: searches, each with what the one before has learned.
        verify_seeds: fresh noise seeds per measured config.
        pipeline: diffusers folder, shipped pipeline, or hub id; for --verify and orthogonality.
        evaluation: how to draw and measure, for the same; the store's own settings for --verify.
        score: of knapsack: errors (of weights), ridge (on labels), energies (probed).
        orthogonality: settings of that method.
        settings: how much to search.
        seed: equal seeds give equal fronts.
        workers: processes that measure side by side on the CPU, one thread each.
        device: where one process measures when workers is 1.
        dtype: float32, bfloat16 or float16, of everything but the image autoencoder.
        overwrite: replace a front of another denoiser, ranker, method, budget or seed; one of the same is
            replaced anyway.
        json: print the front's sizes and predictions as JSON.
    """
    if max_act_bits is not None or max_bops is not None:
        words = JointWords(
            bank=bank,
            out=out,
            ranker=ranker,
            pipeline=pipeline,
            steps=steps,
            method=method,
            max_bits=max_bits,
            max_act_bits=max_act_bits,
            max_bops=max_bops,
            keep=rules_of("keep", keep),
            at_least=rules_of("at-least", at_least),
            evaluation=evaluation,
            orthogonality=orthogonality,
            seed=seed,
            device=device,
            dtype=dtype,
            overwrite=overwrite,
            json=json,
        )
        others = {
            **{"max_bytes": max_bytes, "max_fid": max_fid, "min_psnr": min_psnr, "within": within},
            **{"store": store, "verify": verify, "rounds": rounds > 1, "couple": couple},
            **{"for": format != "qsd", "objectives": objectives, "score": score != "errors"},
            **{"settings": settings != SearchSettings(), "workers": workers > 1},
        }
        run_joint(words, others)
        return
    if steps is not None:
        raise QsdError("steps: a schedule of activations needs --max-act-bits or --max-bops")
    for word, rules in (("keep", keep), ("at-least", at_least)):
        if rules and "@" in rules:
            raise QsdError(f"{word} {rules}: @ names activations, which need --max-act-bits or --max-bops")
    check_device(device)
    loaded_bank = Bank.load(bank)
    opened = Store.open(find(store)) if store else None
    loaded_ranker = _ranker(ranker, loaded_bank, opened) if ranker else None
    bounds = bounds_of(loaded_ranker, max_fid, min_psnr, within)
    check_words(method, loaded_ranker, bounds, objectives, score, verify, rounds)
    asked: dict[str, Any] = {
        "keep": rules_of("keep", keep),
        "at_least": rules_of("at-least", at_least),
        "couple": sorted(parse_couplings(couple)),
        "format": format,
        "objectives": (objectives or "").replace(",", " ").split(),
        "bounds": [*map(str, bounds), *([f"confidence {confidence}"] if bounds else [])],
    }
    wanted: dict[str, Any] = {
        "denoiser": loaded_bank.denoiser,
        "ranker": (
            {"target": loaded_ranker.target, "provenance": loaded_ranker.provenance} if loaded_ranker else {}
        ),
        "method": method,
        "budget": max_bits if max_bytes is None else f"{max_bytes} bytes",
        "seed": seed,
        **asked,
    }
    file = Path(out) / "front.json"
    if file.exists():
        check_replaceable(file, wanted, lambda: facts_of(file, max_bits), overwrite=overwrite)
    else:  # a search of weights and activations writes best.json alone
        check_replaceable(Path(out) / "best.json", {"method": method}, dict, overwrite=overwrite)
    shared: dict[str, Any] = {
        "max_bits": max_bits,
        "max_bytes": max_bytes,
        "keep": asked["keep"],
        "at_least": asked["at_least"],
        "couple": asked["couple"],
        "format": format,
        "settings": settings,
        "command": command_line(),
    }
    target = loaded_ranker.target if loaded_ranker else f"{method} score"
    answer: Answer | None = None
    found: list[Round] = []
    unseen: dict[str, Any] | None = None

    def run_search(current: Ranker | None, number: int) -> Front:
        nonlocal answer
        with bar("Search") as progress:
            if bounds:
                assert current is not None, "checked at the start"
                answer = smallest(
                    *(current, loaded_bank, bounds),
                    confidence=confidence,
                    seed=seed + number,
                    progress=progress,
                    **shared,
                )
                return answer.front
            draws = method == "orthogonality" and pipeline is not None
            return search_configs(
                *(current, loaded_bank),
                method=method,
                store=opened,
                pipe=load_pipeline(pipeline, device=device, dtype=dtype, encoders=False)
                if draws and pipeline
                else None,
                evaluator=evaluation,
                score=score,
                orthogonality=orthogonality,
                objectives=asked["objectives"],
                seed=seed + number,
                progress=progress,
                **shared,
            )

    if verify:
        if loaded_ranker is None or store is None or pipeline is None or evaluation is None:
            raise QsdError("verify: needs --ranker, --store, --pipeline and --evaluation")
        with contextlib.ExitStack() as stack:
            writing = stack.enter_context(Store.writing(find(store)))
            pipe = load_pipeline(pipeline, device=device, dtype=dtype, encoders=False)
            recorded = writing.header.conditions
            config_seed = recorded.get("config_seed", 0)
            ours = store_conditions(pipe, loaded_bank, evaluation, config_seed=config_seed)
            check_conditions(store, recorded, ours)
            run: Run
            if workers > 1:
                run = stack.enter_context(
                    Pool(Measurer, pipeline, bank, evaluation, workers, device, dtype)
                ).run
            else:
                run = Measurer(pipe, loaded_bank, evaluation).run
            found, _ = verify_rounds(
                *(writing, loaded_ranker, run_search, run),
                verify=verify,
                rounds=rounds,
                seeds=verify_seeds,
                progress=stack.enter_context(bar("Measure")),
            )
            front = found[-1].front
            if evaluation.held_out() is not evaluation:
                held_out = Measurer(pipe, loaded_bank, evaluation.held_out())
                (unseen,) = verify_configs(
                    *(front.best()[None], list(range(1, 1 + verify_seeds)), held_out.run),
                    num_images=evaluation.num_images,
                )
    else:
        front = run_search(loaded_ranker, 0)
    noted = front.meta.settings | {"asked": asked}
    front.meta = dataclasses.replace(front.meta, seed=seed, settings=noted)  # rounds count on from it
    best = front.best_index()
    write_front(front, loaded_bank, Path(out), quality_label=f"predicted {target}", best=best)
    if json:
        document: dict[str, Any] = {"front": f"{out}/front.json", "members": rows_of(front), "best": best}
        if answer is not None:
            document["bounds"] = [str(bound) for bound in bounds]
            document |= {"probability": answer.probability, "bytes_even_odds": answer.even}
        if found:
            document["rounds"] = [round_json(one) for one in found]
            document["winner_held_out"] = unseen
        print_json(document)
        return
    for number, one in enumerate(found):
        if one.reused:
            messages.print(f"round {number + 1}: {one.reused} measurements were in {store} already")
    console.print(front_table(front, target, out, answer))
    if loaded_ranker is not None and (remark := _extrapolation(loaded_ranker, loaded_bank, front, best)):
        messages.print(remark)
    for number, one in enumerate(found):
        console.print(round_table(one, number + 1, target))
    if unseen is not None:
        numbers = ", ".join(f"{name} {unseen[name]:.4g}" for name in unseen if name != "seeds")
        console.print(f"the winner on held-out prompts or real images: {numbers}")
    if answer is not None:
        say_answer(answer, bounds, confidence)


def _ranker(name: str, bank: Bank, store: Store | None) -> Ranker:
    """The ranker of a folder; a universal one is bound to the bank and to what the store knows."""
    if name == "universal" and not Path(name).exists():
        name = SHIPPED
    if not is_universal(find(name)):
        return load_ranker(name, bank.denoiser)
    bound = bind(load_universal(name), bank, store)
    messages.print(f"universal ranker: {'; '.join(bound.notes)}")
    return bound.ranker


def _extrapolation(ranker: Ranker, bank: Bank, front: Front, best: int) -> str:
    return ranker.over(bank.options).extrapolation(front.configs[best : best + 1])


def run(words: Sequence[str]) -> None:
    """Runs the verb."""
    run_function(search, [re.sub(r"^--for(?==|$)", "--format", word) for word in words])
