"""An extension of mkdocstrings' parser: the section "Example" of a docstring is code with its output, as "Examples" is."""

import re
from typing import Any

from griffe import Extension, Object


class ExampleSections(Extension):
    """Rename the section, so that its lines are not taken for Markdown."""

    def on_object(self, *, obj: Object, **context: Any) -> None:
        """Rename it in the docstring of a module, class, function or attribute."""
        if obj.docstring is not None:
            obj.docstring.value = re.sub(r"^Example:$", "Examples:", obj.docstring.value, flags=re.MULTILINE)
