"""The whole road on pipelines without code of their own: folder, bank, labels, ranker, search, export.

Three stand for what a denoiser may draw: pixels (DeepFloyd IF, after Imagen), tokens (aMUSEd, after Muse) and
latents. Wan 2.2 has two denoisers.
"""

import contextlib
import dataclasses
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import save_file
from support.tiny_pipelines import PROMPTS, dit, sd15, tiny_vae
from support.unseen_pipelines import UNSEEN_PIPELINES, wan22
from torch import nn

import qsd
from qsd.bank import Applier, Bank
from qsd.cli import main
from qsd.cli.fit import run
from qsd.configs.sampling import sample_configs
from qsd.denoisers.components import denoiser_of, denoisers_of
from qsd.evaluation.generate import Generator
from qsd.export import load_export
from qsd.search import SearchSettings
from qsd.store import Store
from qsd.support.errors import QsdError
from qsd.support.packages import missing_package

RANKED = ("deepfloyd", "amused", "latent")
PIPELINES = UNSEEN_PIPELINES | {"latent": sd15, "wan22": wan22}


def labeled(
    build: Any, folder: Path, num_configs: int, **changes: Any
) -> tuple[Any, Bank, Store, qsd.EvaluationSettings]:
    """A pipeline that was saved and opened again, its bank, and a store of labels without real images."""
    build().save_pretrained(folder / "pipeline")
    (folder / "prompts.txt").write_text("\n".join(PROMPTS))
    settings = qsd.EvaluationSettings(
        prompts=str(folder / "prompts.txt"), num_images=2, steps=2, guidance=1.0, batch_size=2, **changes
    )
    pipe = qsd.load_pipeline(folder / "pipeline")
    bank = qsd.build_bank(pipe)
    store = qsd.label(pipe, bank, folder / "store.h5", num_configs=num_configs, evaluator=settings)
    return pipe, bank, store, settings


def check_export(pipe: Any, bank: Bank, config: Any, settings: qsd.EvaluationSettings, out: Path) -> None:
    """What is exported draws the latents that the bank's config draws, opened in either way."""
    qsd.export(pipe, bank, config, out)
    denoiser = denoiser_of(pipe)
    (name,) = denoisers_of(pipe)
    with Applier(bank, denoiser) as applier:
        applier.apply(config)
        expected = latents(pipe, settings)
    reopened = qsd.load_pipeline(out)
    assert torch.equal(latents(reopened, settings), expected)
    again = type(denoiser).from_pretrained(out / name)
    loaded = load_export(out)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in loaded.state_dict().items())
    setattr(reopened, name, loaded)
    assert torch.equal(latents(reopened, settings), expected)


def latents(pipe: Any, settings: qsd.EvaluationSettings) -> torch.Tensor:
    return torch.cat([latents for _, latents, _ in Generator(pipe, settings).batches(0)])


@pytest.mark.parametrize("family", [name for name in PIPELINES if name != "wan22"])
def test_from_folder_to_export(family: str, tmp_path: Path) -> None:
    size: dict[str, Any] = {} if family in RANKED else {"height": 32, "width": 32}
    if family == "wan":
        size["num_frames"] = 5
    num_configs = 12 if family in RANKED else 3
    pipe, bank, store, settings = labeled(PIPELINES[family], tmp_path, num_configs, **size)
    assert store.header.label_names == ["psnr", "latent_mse"]
    assert store.header.provenance["full_precision"] == {"psnr": 100.0, "latent_mse": 0.0}
    assert (store.values("psnr") < 100).all()
    assert (store.values("latent_mse") > 0).all()
    config = sample_configs(bank.options, len(bank.layers), 1, seed=9, available=bank.available)[0]
    if family in RANKED:
        probed = qsd.probe(pipe, bank, store.path, evaluator=settings, num_images=2)
        assert not len(probed.header.responses.missing())
        assert len(probed.records) == num_configs
        config = searched(bank, tmp_path)
    check_export(pipe, bank, config, settings, tmp_path / "export")


def searched(bank: Bank, folder: Path) -> Any:
    """The best config of at most 4.5 bits by a ranker fitted to the store for two epochs."""
    config = {
        "seed_everything": 0,
        "out": str(folder / "ranker"),
        "trainer": {
            "max_epochs": 2,
            "accelerator": "cpu",
            "logger": False,
            "num_sanity_val_steps": 0,
            "default_root_dir": str(folder),
        },
        "data": {"stores": [str(folder / "store.h5")], "target": "psnr", "folds": 2},
        "model": {"network": {"width": 8, "depth": 1, "heads": 2}},
    }
    (folder / "fit.yaml").write_text(yaml.safe_dump(config))
    run(["fit", "--config", str(folder / "fit.yaml")])
    ranker = qsd.load_ranker(folder / "ranker")
    assert ranker.target == "psnr"
    front = qsd.search(
        ranker, bank, max_bits=4.5, settings=SearchSettings(generations=2, population=8, improve_rounds=1)
    )
    best = front.best()
    assert bank.average_bits(best[None])[0] <= 4.5
    return best


def test_two_denoisers_share_one_budget(tmp_path: Path) -> None:
    pipe, bank, store, settings = labeled(wan22, tmp_path, 3, height=32, width=32, num_frames=5)
    first = [layer.name.startswith("transformer.") for layer in bank.layers]
    assert 2 * sum(first) == len(bank.layers)
    assert (store.values("psnr") < 100).all()
    probed = qsd.probe(pipe, bank, store.path, evaluator=settings, num_images=2)
    assert not len(probed.header.responses.missing())
    front = qsd.search(
        None, bank, method="knapsack", store=probed, score="energies", max_bits=4.5, settings=SearchSettings()
    )
    config = front.best()
    with Applier(bank, denoiser_of(pipe)) as applier:
        applier.apply(config)
        expected = latents(pipe, settings)
    qsd.export(pipe, bank, config, tmp_path / "export")
    assert torch.equal(latents(qsd.load_pipeline(tmp_path / "export"), settings), expected)


def test_one_of_two_denoisers_is_exported_alone(tmp_path: Path) -> None:
    pipe, _, _, settings = labeled(wan22, tmp_path, 0, height=32, width=32, num_frames=5)
    folder, bank_file, out = str(tmp_path / "pipeline"), str(tmp_path / "bank"), tmp_path / "export"
    options = "[uaq-4, lloyd-3:f8]"
    assert main(["bank", "--pipeline", folder, "--out", bank_file, "--options", options,
                 "--denoiser", "transformer_2"]) == 0  # fmt: skip
    assert main(["export", "--pipeline", folder, "--bank", bank_file, "--config-file", "uaq-4",
                 "--denoiser", "transformer_2", "--out", str(out)]) == 0  # fmt: skip
    bank = Bank.load(bank_file)
    with Applier(bank, pipe.transformer_2) as applier:
        applier.apply(bank.uniform_config("uaq-4"))
        expected = latents(pipe, settings)
    assert torch.equal(latents(qsd.load_pipeline(out), settings), expected)


def test_equal_embedders_of_a_dit_are_one_layer(tmp_path: Path) -> None:
    pipe, bank, store, settings = labeled(dit, tmp_path, 3)
    embedders = [layer for layer in bank.layers if "timestep_embedder.linear_1" in layer.name]
    assert [layer.tied for layer in embedders] == [
        ("transformer_blocks.1.norm1.emb.timestep_embedder.linear_1",)
    ]
    assert (store.values("psnr") < 100).all()
    config = sample_configs(bank.options, len(bank.layers), 1, seed=9, available=bank.available)[0]
    check_export(pipe, bank, config, settings, tmp_path / "export")


@pytest.mark.parametrize("silent", [True, False])
def test_a_denoiser_without_a_part_in_what_is_drawn_is_said(
    silent: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pipe = sd15()
    if silent:
        pipe.unet.conv_out.weight.data.zero_()
        pipe.unet.conv_out.bias.data.zero_()
    pipe.save_pretrained(tmp_path / "pipeline")
    (tmp_path / "prompts.txt").write_text("\n".join(PROMPTS))
    settings = qsd.EvaluationSettings(
        prompts=str(tmp_path / "prompts.txt"), num_images=2, steps=2, guidance=1.0, batch_size=2
    )
    pipe = qsd.load_pipeline(tmp_path / "pipeline")
    bank = qsd.build_bank(pipe, options=("uaq-4", "lloyd-3"))
    store = qsd.label(pipe, bank, tmp_path / "store.h5", num_configs=2, evaluator=settings)
    assert ("all 2 configs draw bit for bit what full precision draws" in caplog.text) == silent
    qsd.probe(pipe, bank, store.path, evaluator=settings, num_images=2, budget=0.25)
    assert ("layers draw bit for bit" in caplog.text) == silent


def redrawing(vae: Any) -> Any:
    parts = sd15().components | {"vae": vae}
    return diffusers.StableDiffusionImg2ImgPipeline(**parts, requires_safety_checker=False)


def see_through(folder: Path, alpha: int) -> str:
    """Two pictures of the same colours."""
    folder.mkdir()
    values = np.random.default_rng(0)
    for index in range(2):
        pixels = values.integers(0, 256, (16, 16, 4), dtype=np.uint8)
        pixels[..., 3] = alpha
        Image.fromarray(pixels).save(folder / f"{index}.png")
    return str(folder)


@pytest.mark.parametrize(("channels", "differ"), [(4, True), (3, False)])
def test_transparency_counts_where_the_encoder_reads_it(channels: int, differ: bool, tmp_path: Path) -> None:
    redrawing(tiny_vae(in_channels=channels)).save_pretrained(tmp_path / "pipeline")
    pipe = qsd.load_pipeline(tmp_path / "pipeline")
    (tmp_path / "prompts.txt").write_text("\n".join(PROMPTS))
    settings = [
        qsd.EvaluationSettings(
            prompts=str(tmp_path / "prompts.txt"),
            images=see_through(tmp_path / str(alpha), alpha),
            num_images=2,
            steps=4,
            guidance=1.0,
            batch_size=2,
        )
        for alpha in (255, 30)
    ]
    bank = qsd.build_bank(pipe, options=("uaq-4", "lloyd-3"))  # recorded with a picture of its own
    store = qsd.label(pipe, bank, tmp_path / "store.h5", num_configs=1, evaluator=settings[0])
    assert (store.values("psnr") < 100).all()
    assert torch.equal(latents(pipe, settings[0]), latents(pipe, settings[1])) != differ


def test_a_config_entry_that_was_a_default_may_be_set_later(tmp_path: Path) -> None:
    pipe = sd15()
    pipe.unet.conv_in = nn.Conv2d(4, pipe.unet.conv_in.out_channels, 5, padding=2)
    with pytest.raises(QsdError, match=r"was changed after it was loaded: 'conv_in\.weight'"):
        qsd.build_bank(pipe, options=("uaq-4",))
    pipe.unet.register_to_config(conv_in_kernel=5)
    bank = qsd.build_bank(pipe, options=("uaq-4",))
    qsd.export(pipe, bank, bank.uniform_config("uaq-4"), tmp_path)
    assert load_export(tmp_path).conv_in.kernel_size == (5, 5)


def test_pictures_in_another_type_reach_the_autoencoder(tmp_path: Path) -> None:
    redrawing(tiny_vae()).save_pretrained(tmp_path)
    vae = qsd.load_pipeline(tmp_path).vae
    picture = torch.rand(1, 3, 16, 16).bfloat16()
    encoded = vae.encode(picture).latent_dist.mean  # as pipelines give it that do not ask for its type
    assert encoded.dtype == torch.float32
    assert torch.equal(encoded, type(vae).encode(vae, picture.float()).latent_dist.mean)


@pytest.mark.parametrize(
    ("imported", "name", "package"),
    [
        ("from torchvision import transforms", "transforms", "torchvision"),
        ("import torchvision.ops as ops", "ops", "torchvision"),
        ("import ftfy", "ftfy", "ftfy"),
        ("import other", "ftfy", "ftfy"),
    ],
)
def test_the_package_of_a_name_that_was_not_imported(
    imported: str, name: str, package: str, tmp_path: Path
) -> None:
    file = tmp_path / "module.py"
    file.write_text(f"if False:\n    {imported}\n\n{name}.do()\n")
    with pytest.raises(NameError) as caught:
        exec(compile(file.read_text(), str(file), "exec"), {})
    assert missing_package(caught.value) == package


@pytest.mark.parametrize("changed", [False, True])
def test_weights_that_a_draw_writes_over_are_no_other_pipeline(changed: bool, tmp_path: Path) -> None:
    pipe = sd15()
    pipe.vae.scratch = nn.Parameter(torch.zeros(2))
    decode = pipe.vae.decode

    def rendering(z: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        pipe.vae.scratch.copy_(z.flatten()[:2])
        return decode(z, *args, **kwargs)

    pipe.vae.decode = rendering
    (tmp_path / "prompts.txt").write_text("\n".join(PROMPTS))
    settings = qsd.EvaluationSettings(
        prompts=str(tmp_path / "prompts.txt"), num_images=2, steps=2, guidance=1.0, batch_size=2
    )
    bank = qsd.build_bank(pipe, options=("uaq-4", "lloyd-3"))
    qsd.label(pipe, bank, tmp_path / "store.h5", num_configs=1, evaluator=settings)
    assert pipe.vae.scratch.any()
    if changed:
        with torch.no_grad():
            pipe.vae.scratch.zero_()
            pipe.vae.post_quant_conv.bias.add_(1)
    refused = pytest.raises(QsdError, match=r"begun with components\.vae\.weights")
    with refused if changed else contextlib.nullcontext():
        qsd.label(pipe, bank, tmp_path / "store.h5", num_configs=2, evaluator=settings)


def test_text_that_a_call_gives_encoded_needs_no_prompts(tmp_path: Path) -> None:
    pipe = sd15()
    (tmp_path / "prompts.txt").write_text("\n".join(PROMPTS))
    asked = qsd.EvaluationSettings(
        prompts=str(tmp_path / "prompts.txt"), num_images=2, steps=2, guidance=1.0, batch_size=2
    )
    encoded = pipe.encode_prompt(PROMPTS[:2], pipe.device, 1, False)[0].detach()
    save_file({"prompt_embeds": encoded}, tmp_path / "encoded.safetensors")
    given = dataclasses.replace(
        asked, prompts=None, call={"prompt_embeds": str(tmp_path / "encoded.safetensors")}
    )
    bank = qsd.build_bank(pipe, options=("uaq-4", "lloyd-3"), evaluator=given)
    store = qsd.label(pipe, bank, tmp_path / "store.h5", num_configs=1, evaluator=given)
    assert (store.values("psnr") < 100).all()
    assert torch.equal(latents(pipe, given), latents(pipe, asked))
