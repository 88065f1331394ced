"""`pantry inspect`: every global that a pickle would import, read off its opcodes; nothing is executed.

It follows pickles of any protocol, joblib's files with arrays between the opcodes, all of them inside gzip, zlib, bz2,
xz or lzma, and the pickles in a zip archive, such as torch.save writes. Memory stays constant whatever the size. What
cannot be followed is said: a list of imports counts as whole only where there is no problem.
"""

from pathlib import Path
from typing import Any

from loader.inspection.files import inspect_file
from loader.inspection.result import Global, Inspection, Part, document_of, globals_of, text_of

__all__ = ["Global", "Inspection", "Part", "document_of", "globals_of", "inspect", "inspect_file", "text_of"]


def inspect(path: Path) -> tuple[str, dict[str, Any], bool]:
    """Return what a file would import as lines for a person, as JSON fields, and whether all of it is understood.

    Raises:
        UsageError: there is no such file.
        LoaderError: it cannot be read.
    """
    found = inspect_file(path)
    return text_of(found), document_of(found), found.understood
