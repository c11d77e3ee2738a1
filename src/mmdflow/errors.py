"""The library's errors. Every message is one line."""


class InputError(ValueError):
    """Bad input. The message names the field, the value and what is allowed."""


class DivergedError(RuntimeError):
    """A computation became non-finite. The message says where, and what to change."""
