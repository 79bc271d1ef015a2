#!/usr/bin/env bash
# diffusers 0.42.1: EasyAnimateControlPipeline cannot be called at all; its encode_prompt refuses what its call gives it.
#
# The call of the pipeline hands `text_encoder_index` to the pipeline's own `encode_prompt`, which has no such argument,
# before anything is encoded or drawn, whatever the components are. The class is exported and documented, and its
# siblings EasyAnimatePipeline and EasyAnimateInpaintPipeline take the same prompt. The output is
#
#   EasyAnimatePipeline: encodes the prompt
#   EasyAnimateInpaintPipeline: encodes the prompt
#   EasyAnimateControlPipeline: TypeError: unexpected keyword argument 'text_encoder_index'
#
# Needs Python 3.10 or later; uses the torch of $PYTHON if it has one, else installs torch 2.13.0.
set -euo pipefail
python="${PYTHON:-python3}"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
"$python" -c 'import torch, transformers' 2>/dev/null ||
    "$python" -m pip install -q --target "$work" torch==2.13.0 transformers==5.23.0
"$python" -m pip install -q --no-deps --target "$work" --upgrade diffusers==0.42.1
PYTHONPATH="$work" "$python" - 2>/dev/null <<'PYTHON'
import re

import diffusers
import torch


class Encoder(torch.nn.Module):
    """A text encoder without weights, which is never reached."""

    dtype, device = torch.float32, torch.device("cpu")


class Tokenizer:
    """Stops where a prompt arrives."""

    def apply_chat_template(self, *arguments, **named):
        raise RuntimeError("encodes the prompt")


transformer = diffusers.EasyAnimateTransformer3DModel(
    num_attention_heads=2,
    attention_head_dim=16,
    in_channels=4,
    out_channels=4,
    num_layers=1,
    patch_size=2,
    text_embed_dim=16,
    text_embed_dim_t5=None,
)
found = {}
for name in ("EasyAnimatePipeline", "EasyAnimateInpaintPipeline", "EasyAnimateControlPipeline"):
    pipe = getattr(diffusers, name)(
        vae=diffusers.AutoencoderKLMagvit(block_out_channels=(8, 8, 8, 8), norm_num_groups=4),
        text_encoder=None,
        tokenizer=None,
        transformer=transformer,
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
    )
    pipe.text_encoder, pipe.tokenizer = Encoder(), Tokenizer()
    try:
        video = {"control_video": torch.rand(1, 3, 5, 64, 64)} if "Control" in name else {}
        pipe("a fox that runs", height=64, width=64, num_frames=5, **video)
        found[name] = "draws"
    except TypeError as error:
        found[name] = "TypeError: " + re.sub(r"^.*got an ", "", str(error))
    except Exception as error:
        found[name] = str(error)
    print(f"{name}: {found[name]}")
assert found["EasyAnimatePipeline"] == found["EasyAnimateInpaintPipeline"] == "encodes the prompt"
assert "text_encoder_index" in found["EasyAnimateControlPipeline"], "the finding no longer holds"
PYTHON
