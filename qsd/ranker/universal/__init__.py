"""The universal ranker: what each option of each layer of a denoiser changes, before anything was measured."""
