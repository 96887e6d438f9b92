"""How good a generator is, in numbers: each metric of one file, and what puts them together (`evaluate`)."""
