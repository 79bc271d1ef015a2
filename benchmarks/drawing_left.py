"""Why some pipelines of diffusers have no case."""

_TORCHVISION = "torchvision, which was not installed, is needed"
_NO_DENOISER = "no denoiser"
_STAGES = "drawn from latents of another pipeline, and `latents` of a call is decided by qsd"
_TEXT = "text by a language model, no pictures or sound"
_EXAMPLES = "drawn from a grid of examples with a gap in it, which no folder of pictures says"
_QFORMER = "an encoder that calls what transformers 5 has no more"

LEFT_OUT: dict[str, str] = {
    "OmniGenPipeline": _TORCHVISION,
    "Cosmos2_5_TransferPipeline": _TORCHVISION,
    "FluxPriorReduxPipeline": _NO_DENOISER,
    "LTXLatentUpsamplePipeline": _NO_DENOISER,
    "LTX2LatentUpsamplePipeline": _NO_DENOISER,
    "LTX2DFRTemporalRefinePipeline": _STAGES,
    "LTX2VideoDiffusionDecodePipeline": _STAGES,
    "DiffusionGemmaPipeline": _TEXT,
    "LLaDA2Pipeline": _TEXT,
    "RFD4ProteinaPipeline": "proteins, no pictures or sound",
    "VisualClozePipeline": _EXAMPLES,
    "VisualClozeGenerationPipeline": _EXAMPLES,
    "BlipDiffusionPipeline": _QFORMER,
    "BlipDiffusionControlNetPipeline": _QFORMER,
    "EasyAnimateControlPipeline": "its own `encode_prompt` is given an argument that it does not take",
    "VersatileDiffusionDualGuidedPipeline": "its U-Net gives transformers an argument that they do not take",
    "VersatileDiffusionPipeline": "no call of its own, only those of the pipelines that it is split into",
}
"""Class name -> what stands behind the names of all that it holds for."""
