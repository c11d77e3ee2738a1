"""The run-time type checker of the tests: beartype, with integers accepted where floats are.

It checks the first calls of each test. Laws that run on dozens of drawn examples repeat the same calls ten thousands of times,
and their checks would take longer than the laws themselves.
"""

import functools

from beartype import BeartypeConf, beartype
from jaxtyping import config

#: Checked calls of a test, arguments and results counted one by one.
CALLS = 250
_beartype = beartype(conf=BeartypeConf(is_pep484_tower=True))
_made = 0


def begin():
    """Check again, from the first call on: a test begins."""
    global _made
    _made = 0
    config.update("jaxtyping_disable", False)


def checker(function):
    """Return the function with its types checked; the last check that is due switches them off for the rest of the test."""
    checked = _beartype(function)

    @functools.wraps(function)
    def counted(*args, **kwargs):
        global _made
        _made += 1
        if _made >= CALLS:
            config.update("jaxtyping_disable", True)
        return checked(*args, **kwargs)

    return counted
