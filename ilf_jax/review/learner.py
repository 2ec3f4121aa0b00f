"""The learner at hand, see below."""


class Learner:
    """Placeholder while the room is being built."""
