"""Packages that another library leaves out where they are not installed, and uses all the same."""

import ast
import linecache
import traceback


def missing_package(error: NameError) -> str:
    """The package to install for a name that was not imported: ``torchvision`` for ``transforms``.

    Args:
        error: caught, from a module that says ``if there: from torchvision import transforms``.

    Returns:
        What the module imports the name from; where it does not say, the name itself.
    """
    name = str(error.name)
    frames = traceback.extract_tb(error.__traceback__)
    source = "".join(linecache.getlines(frames[-1].filename)) if frames else ""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Import | ast.ImportFrom):
            continue
        for alias in node.names:
            whole = node.module or "." if isinstance(node, ast.ImportFrom) else alias.name
            package = whole.partition(".")[0]
            if name == (alias.asname or (package if isinstance(node, ast.Import) else alias.name)):
                return package or name
    return name
