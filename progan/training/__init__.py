"""Training: one state (state), two steps (steps), one loop (loop), and what surrounds them."""
