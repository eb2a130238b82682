"""What is raised where something of the user's cannot be, or cannot go on."""


class ConfigError(ValueError):
    """A mistake of the user's, in one sentence: the field, the value, what is accepted."""


class PassingError(ConfigError):
    """What may be possible a moment later: a folder is in use, memory is short."""


class RunError(RuntimeError):
    """What was begun cannot go on, in one sentence; what could be saved has been."""

    def __init__(self, sentence: str, status: int = 1):
        super().__init__(sentence)
        self.status = status  # of the process
