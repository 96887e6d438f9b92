"""Pictures into files that move: walks through the latents, the growth of a run, and the writers of animations."""
