"""The kinds of files that ``fuzz.py`` damages: how an original is made, and how it is read."""

import dataclasses
import json
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

Read = Callable[[Path], str]


class Kind:
    """A kind of file: a folder with an original, the file in it that is mutated, and its reader."""

    def __init__(
        self,
        folder: Path,
        file: str,
        read: Read,
        *,
        hashed: bool = True,
        cuts: Sequence[int] = (),
        weight: float = 1,
    ) -> None:
        self.folder = folder
        self.file = file
        self.read = read
        self.hashed = hashed
        self.weight = weight  # how many inputs: fewer where reading is slow
        self.cuts = cuts  # sizes at which the file is whole as well

    def accepted(self, scratch: Path) -> set[str]:
        """Fingerprints of what may be read."""
        found = {self.read(self.folder)}
        content = (self.folder / self.file).read_bytes()
        for size in self.cuts:
            shutil.copytree(self.folder, scratch)
            (scratch / self.file).write_bytes(content[:size])
            found.add(self.read(scratch))
            shutil.rmtree(scratch)
        return found


def kinds(folder: Path) -> dict[str, Kind]:
    """Makes the originals."""
    import torch
    from support.tiny import pixart_inputs, tiny_pixart

    from qsd.bank import build_bank
    from qsd.quantizers import DEFAULT_OPTIONS, parse_options

    torch.manual_seed(0)
    bank = build_bank(tiny_pixart(), parse_options(["uaq-4", "kmeans_c-3"]), activations=["16", "8"])
    table = build_bank(tiny_pixart(), [option for option in DEFAULT_OPTIONS if "f8" in str(option)])
    return {
        **_stores(folder),
        **_banks(folder, {"bank": bank, "default bank": table}),
        **_documents(folder, bank),
        **_rankers(folder),
        **_exports(folder, bank),
        **_inputs(folder, pixart_inputs()),
        **_settings(folder),
        **_texts(folder),
        **_images(folder),
    }


def _place(folder: Path, name: str) -> Path:
    place = folder / name
    place.mkdir()
    return place


def _stores(folder: Path) -> dict[str, Kind]:
    from support.synthetic_store import as_schema_1, synthetic_store

    from qsd.store import Basis, Store

    plain, journaled, old = (_place(folder, name) for name in ("store", "journal", "schema-1"))
    with Store.writing(
        synthetic_store(plain / "s.h5", num_records=8, num_blocks=1, probed=True).path
    ) as store:
        responses = store.header.responses
        assert responses is not None
        ones = np.ones
        bases = {
            name: Basis(
                ones((values.shape[2], 4, 2), np.int8), ones((values.shape[2], 4), "f4"), ones(4, "f4")
            )
            for name, values in responses.spaces.items()
        }
        responses = dataclasses.replace(responses, bases=bases)
        store.rewrite(dataclasses.replace(store.header, responses=responses))
    as_schema_1(synthetic_store(old / "s.h5", num_records=8, num_blocks=1, probed=True).path)
    path = synthetic_store(journaled / "s.h5", num_records=3, num_blocks=1).path
    try:
        with Store.writing(path) as store:
            for index in range(3, 6):
                config = np.full(len(store.header.layers), index % 3, np.int8)
                store.append(index=index, config=config, labels={"fid": 1.5}, noise_seed=0, seconds=1.0)
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        pass
    size = (journaled / "s.h5.journal").stat().st_size
    cuts = range(40, size, (size - 40) // 3)  # after its header and after each of its three records

    def read(place: Path) -> str:
        opened = Store.open(place / "s.h5")
        return fingerprint(vars(opened.header), vars(opened.records))

    return {
        "store": Kind(plain, "s.h5", read),
        "store of schema 1": Kind(old, "s.h5", read, hashed=False),
        "journal": Kind(journaled, "s.h5.journal", read, cuts=cuts),
        "journaled store": Kind(journaled, "s.h5", read),
    }


def _banks(folder: Path, banks: dict[str, Any]) -> dict[str, Kind]:
    from qsd.bank import Bank

    def read(place: Path) -> str:
        opened = Bank.load(place / "bank.safetensors")
        weights = [weight and weight.tensors() for row in opened.weights for weight in row]
        return fingerprint({key: value for key, value in vars(opened).items() if key != "weights"}, weights)

    found = {}
    for name, bank in banks.items():
        place = _place(folder, name)
        bank.save(place / "bank.safetensors")
        found[name] = Kind(place, "bank.safetensors", read)
    return found


def _documents(folder: Path, bank: Any) -> dict[str, Kind]:
    from qsd.configs.document import config_to_json, load_config, save_config
    from qsd.configs.schedule import Schedule, load_schedule, save_schedule
    from qsd.export.recipe import read_recipe, recipe_of
    from qsd.search.front import Front, FrontMeta
    from qsd.support.documents import write_json

    place = _place(folder, "documents")
    names, options = bank.layer_names, [str(option) for option in bank.options]
    rounding = [str(option) for option in bank.activation_options]
    config = bank.uniform_config("uaq-4")
    document = config_to_json(config, names, options, bank.denoiser, bank.options_hash, command="qsd")
    save_config(place / "config.json", document)
    activations = np.tile(np.array([[0], [1]], np.int8), len(names))
    save_schedule(place / "steps.json", Schedule.split(8, activations), names, rounding, bank.denoiser)
    write_json(place / "recipe.json", recipe_of(bank, config, {"command": "qsd"}))
    meta = FrontMeta(tuple(names[:4]), tuple(options), denoiser=bank.denoiser)
    numbers = np.array([1.0, 2.0])
    some = np.array([[0, 1, 0, 1], [1, 1, 1, 0]], np.int8)
    Front(some, numbers, numbers, np.array([9, 12]), numbers, meta).save(place / "front.json")

    def read_config(place: Path) -> str:
        return fingerprint(load_config(place / "config.json", names, options, bank.denoiser))

    def read_schedule(place: Path) -> str:
        return fingerprint(vars(load_schedule(place / "steps.json", names, rounding, bank.denoiser)))

    def read_front(place: Path) -> str:
        return fingerprint(vars(Front.load(place / "front.json")))

    def recipe(place: Path) -> str:
        return fingerprint(read_recipe(place / "recipe.json"))

    return {
        "config": Kind(place, "config.json", read_config, hashed=False),
        "schedule": Kind(place, "steps.json", read_schedule, hashed=False),
        "recipe": Kind(place, "recipe.json", recipe, hashed=False),
        "front": Kind(place, "front.json", read_front),
    }


def _rankers(folder: Path) -> dict[str, Kind]:
    from support.synthetic_store import synthetic_header

    from qsd.ranker.checkpoint import load_ranker, save_ranker
    from qsd.ranker.ensemble import Ensemble, Member
    from qsd.ranker.features import GraphFeatures
    from qsd.ranker.network import NetworkSettings
    from qsd.ranker.posteriors import TARGET
    from qsd.ranker.predictors import EnsemblePredictor

    place = _place(folder, "ranker")
    header = synthetic_header(1)
    graph = GraphFeatures.of(header)
    settings = NetworkSettings(width=8, depth=2, heads=2)
    members = Ensemble([Member(settings, [graph], 1) for _ in range(2)]).eval()
    posteriors = {TARGET: EnsemblePredictor(members, graph, 0, 2.0, 0.25)}
    save_ranker(place / "ranker", members, [header], "-fid", [posteriors])

    def read(place: Path) -> str:
        ranker = load_ranker(place / "ranker")
        return fingerprint(ranker.members.state_dict(), ranker.target, vars(ranker.header), ranker.metrics)

    return {
        "ranker.json": Kind(place, "ranker/ranker.json", read),
        "ranker member": Kind(place, "ranker/member-1.safetensors", read),
        "ranker posterior": Kind(place, "ranker/posterior-0.safetensors", read),
    }


def _exports(folder: Path, bank: Any) -> dict[str, Kind]:
    from support.tiny import tiny_pixart

    from qsd.export import export
    from qsd.export.read import load_export

    place = _place(folder, "export")
    export(tiny_pixart(), bank, bank.uniform_config("uaq-4"), place / "out")

    def read(place: Path) -> str:
        return fingerprint(load_export(place / "out" / "transformer").state_dict())

    weights = "out/transformer/diffusion_pytorch_model.safetensors"
    return {
        "export config": Kind(place, "out/transformer/config.json", read, weight=0.4),
        "export weights": Kind(place, weights, read, weight=0.4),
    }


def _inputs(folder: Path, inputs: dict[str, Any]) -> dict[str, Kind]:
    from qsd.denoisers import load_inputs, save_inputs

    place = _place(folder, "inputs")
    save_inputs(inputs, place / "inputs.json")

    def read(place: Path) -> str:
        return fingerprint(load_inputs(place / "inputs.json"))

    return {
        "inputs": Kind(place, "inputs.json", read),
        "inputs' tensors": Kind(place, "inputs.safetensors", read),
    }


def _settings(folder: Path) -> dict[str, Kind]:
    from qsd.cli.allowed import check_classes
    from qsd.cli.config_files import with_config_files
    from qsd.cli.flags import FlagsParser
    from qsd.cli.label import label
    from qsd.support.errors import QsdError
    from qsd.support.paths import find
    from qsd.support.yaml_files import read_yaml

    place = _place(folder, "yaml")
    (place / "fit.yaml").write_text(
        "base: ranker.yaml\ndata:\n  stores: [a.h5, b.h5]\n  folds: 3\ntrainer: &t {max_epochs: 5}\nx: *t\n"
    )
    shutil.copy(find("label_digits.yaml"), place / "label.yaml")
    parser = FlagsParser(prog="qsd label")
    parser.add_argument("--config", action="config")
    parser.add_function_arguments(label)

    def read_fit(place: Path) -> str:
        return fingerprint(read_yaml(place / "fit.yaml"))

    def read_label(place: Path) -> str:
        words = ["label", "--bank", "b", "--store", "s", "--config", str(place / "label.yaml")]
        try:
            parsed = parser.parse_args(check_classes(with_config_files(words))[1:]).as_dict()
        except SystemExit as stop:  # the parser has said what is wrong
            raise QsdError(f"exit {stop.code}") from None
        return fingerprint({key: value for key, value in parsed.items() if key != "config"})

    return {
        "fit YAML": Kind(place, "fit.yaml", read_fit, hashed=False),
        "label YAML": Kind(place, "label.yaml", read_label, hashed=False, weight=0.5),
    }


def _texts(folder: Path) -> dict[str, Kind]:
    from qsd.evaluation.texts import read_classes, read_texts

    place = _place(folder, "texts")
    prompts = [f"a photo of a {thing}" for thing in ("cat", "dog", "hat", "house")]
    (place / "prompts.txt").write_text("\n".join(prompts) + "\n")
    (place / "prompts.csv").write_text("prompt,class\n" + "".join(f'"{p}",1\n' for p in prompts))
    captions = [{"image_id": number, "id": number, "caption": text} for number, text in enumerate(prompts)]
    (place / "captions.json").write_text(json.dumps({"annotations": captions}))
    (place / "classes.txt").write_text("0\n1\n2\n3\n")

    def reader(name: str) -> Read:
        return lambda place: fingerprint(read_texts(str(place / name), 4, "prompts"))

    return {
        "prompts": Kind(place, "prompts.txt", reader("prompts.txt"), hashed=False),
        "prompts CSV": Kind(place, "prompts.csv", reader("prompts.csv"), hashed=False),
        "captions": Kind(place, "captions.json", reader("captions.json"), hashed=False),
        "classes": Kind(
            place,
            "classes.txt",
            lambda place: fingerprint(read_classes(str(place / "classes.txt"), 4)),
            hashed=False,
        ),
    }


def _images(folder: Path) -> dict[str, Kind]:
    import torch
    from PIL import Image
    from safetensors.torch import save_file

    from qsd.evaluation.extractors import ClassifierFeatures
    from qsd.evaluation.images import open_images
    from qsd.support.paths import find

    place = _place(folder, "images")
    pixels = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)
    for sort in ("png", "jpg"):
        (place / sort).mkdir()
        for number, image in enumerate(pixels):
            Image.fromarray(image).save(place / sort / f"{number}.{sort}")
    tensors = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()
    save_file({"images": tensors}, place / "images.safetensors")
    shutil.copytree(find("checkpoints/digits-classifier"), place / "classifier")
    shown = torch.from_numpy(pixels).permute(0, 3, 1, 2)

    def reader(name: str) -> Read:
        return lambda place: fingerprint(list(open_images(str(place / name)).batches(2)))

    def read_classifier(place: Path) -> str:
        return fingerprint(ClassifierFeatures(str(place / "classifier"))(shown))

    weights = "classifier/model.safetensors"
    return {
        "PNG": Kind(place, "png/1.png", reader("png"), hashed=False),
        "JPEG": Kind(place, "jpg/1.jpg", reader("jpg"), hashed=False),
        "images": Kind(place, "images.safetensors", reader("images.safetensors"), hashed=False),
        "classifier": Kind(place, "classifier/config.json", read_classifier, hashed=False, weight=0.2),
        "its weights": Kind(place, weights, read_classifier, hashed=False, weight=0.2),
    }


def fingerprint(*values: Any) -> str:
    """A fingerprint of nested values, arrays and tensors."""
    import torch

    from qsd.support.hashing import array_hash, bytes_hash
    from qsd.support.tensors import tensor_hash

    def described(value: Any) -> Any:
        if isinstance(value, np.ndarray):
            return array_hash(value)
        if isinstance(value, torch.Tensor):
            return tensor_hash(value)
        if isinstance(value, dict):
            return {str(key): described(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [described(item) for item in value]
        if hasattr(value, "__dict__") and not isinstance(value, type):
            return [type(value).__name__, described(vars(value))]
        return repr(value)

    return bytes_hash(json.dumps(described(list(values)), sort_keys=True).encode())
