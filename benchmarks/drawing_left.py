"""Why some pipelines of diffusers have no case."""

_TORCHVISION = "need torchvision, which was not installed"
_ENLARGE = "have no denoiser"
_STAGES = "draw from the latents of another pipeline alone, which no file gives (`latents` is decided by qsd)"
_TEXT = "write text by a language model, not pictures or sound"
_EXAMPLES = "draw from a grid of examples with a gap in it, which no folder of pictures says"
_QFORMER = "encode by a class that calls what transformers 5 has no more"

LEFT_OUT: dict[str, str] = {
    "OmniGenPipeline": _TORCHVISION,
    "Cosmos2_5_TransferPipeline": _TORCHVISION,
    "FluxPriorReduxPipeline": _ENLARGE,
    "LTXLatentUpsamplePipeline": _ENLARGE,
    "LTX2LatentUpsamplePipeline": _ENLARGE,
    "LTX2DFRTemporalRefinePipeline": _STAGES,
    "LTX2VideoDiffusionDecodePipeline": _STAGES,
    "DiffusionGemmaPipeline": _TEXT,
    "LLaDA2Pipeline": _TEXT,
    "RFD4ProteinaPipeline": "draws proteins, not pictures or sound",
    "VisualClozePipeline": _EXAMPLES,
    "VisualClozeGenerationPipeline": _EXAMPLES,
    "BlipDiffusionPipeline": _QFORMER,
    "BlipDiffusionControlNetPipeline": _QFORMER,
    "EasyAnimateControlPipeline": "gives its own `encode_prompt` an argument that it does not take",
    "VersatileDiffusionDualGuidedPipeline": "gives its U-Net's transformers an argument that they do not take",
    "VersatileDiffusionPipeline": "has no call, only those of the pipelines that it is split into",
}
"""Class name -> reason, which a list of names may stand before."""
