"""qsd finds out which parts of a diffusion model can be stored in 3 or 4 bits, and ships the result."""
