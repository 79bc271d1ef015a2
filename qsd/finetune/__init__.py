"""Fine-tuning of exported denoisers at fixed size: what is stored beside the codes learns, codes stay."""

from qsd.finetune.running import FinetuneSettings, finetune

__all__ = ["FinetuneSettings", "finetune"]
