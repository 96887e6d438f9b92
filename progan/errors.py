"""The two ways a run ends early that are not defects. Anything else that escapes is a defect and shows its
traceback.
"""


class UserError(ValueError):
    """A user's mistake: one sentence that names what was typed, what is wrong and the mend. The CLI exits with 2."""


class RunFailed(RuntimeError):
    """A run that cannot go on (a non-finite loss, memory that does not suffice): one sentence. The CLI exits with 1."""
