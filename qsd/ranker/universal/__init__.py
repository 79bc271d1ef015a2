"""The universal ranker: what options change in a denoiser of which nothing was measured yet."""
