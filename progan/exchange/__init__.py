"""Networks to and from files that other programs read."""
