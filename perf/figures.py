"""Counts what makes the code hard to read, in the sources of pipeline/ and guest/. Prints one line each.

    python -m perf.figures           the figures (make figures)
    python -m perf.figures --list    the figures with the places that they count

Lower figures are better:

- *functions over 50 lines*: from the first statement to the last, without the head and the docstring.
- *functions with 8 or more parameters*: ``self`` and ``cls`` do not count, ``*args`` and ``**kwargs`` do.
- *loop heads that unpack 10 or more names*: of ``for`` statements and of comprehensions.
- *files in the fullest folder*: its Python files with ``__init__.py``, without those of its sub-folders.
- *loose modules in pipeline/*: the Python files directly in pipeline/, without ``__init__.py``.
- *files over 400 lines*: all lines.
- *fmt: skip*: comments that keep the formatter away.
- *classes with over 40 attributes*: declared fields, slots, and what methods assign to ``self``.
- *Any*, *cast*: uses of these names of typing; imports do not count.
- *upward imports*: imports that the table of layers does not allow (tests/test_layers.py).
"""

import argparse
import ast
import io
import sys
import tokenize
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from tests.test_layers import upward_imports

ROOT = Path(__file__).resolve().parent.parent
TOPS = ("pipeline", "guest")

BODY_LINES = 50
PARAMETERS = 8
LOOP_NAMES = 10
FILE_LINES = 400
ATTRIBUTES = 40

Function = ast.FunctionDef | ast.AsyncFunctionDef
Loop = ast.For | ast.AsyncFor | ast.comprehension


class Source(NamedTuple):
    """A source file. ``path`` is relative to the root, ``nodes`` is its whole syntax tree."""

    path: Path
    text: str
    nodes: list[ast.AST]

    def find(self, *kinds: type[ast.AST]) -> Iterator[Any]:
        """The syntax nodes of these kinds."""
        return (node for node in self.nodes if isinstance(node, kinds))

    def place(self, line: int, what: str) -> str:
        return f"{self.path}:{line}: {what}"


def body_lines(function: Function) -> int:
    """Lines of the body without the docstring."""
    body = function.body[1:] if ast.get_docstring(function) is not None else function.body
    return (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0


def parameters(function: Function) -> int:
    """The number of parameters that a caller may pass."""
    given = function.args
    places = [each.arg for each in (*given.posonlyargs, *given.args)]
    bound = places[:1] in (["self"], ["cls"])
    return len(places) - bound + len(given.kwonlyargs) + bool(given.vararg) + bool(given.kwarg)


def names(loop: Loop) -> int:
    """The number of names that the head of a loop binds."""
    return sum(isinstance(node, ast.Name) for node in ast.walk(loop.target))


def attributes(owner: ast.ClassDef) -> int:
    """The number of attributes that this class itself gives its objects."""
    found: set[str] = set()
    for node in owner.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found.add(node.target.id)
        elif isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__slots__":
            found |= {str(each.value) for each in ast.walk(node.value) if isinstance(each, ast.Constant)}
    for each in ast.walk(owner):
        if (
            isinstance(each, ast.Attribute)
            and isinstance(each.ctx, ast.Store)
            and isinstance(each.value, ast.Name)
            and each.value.id == "self"
        ):
            found.add(each.attr)
    return len(found)


def uses(source: Source, name: str) -> list[int]:
    """The lines with a name of typing, written alone or as an attribute."""
    alone = [node.lineno for node in source.find(ast.Name) if node.id == name]
    attributes = [
        node.lineno
        for node in source.find(ast.Attribute)
        if node.attr == name and isinstance(node.value, ast.Name) and node.value.id == "typing"
    ]
    return sorted(alone + attributes)


def comments(source: Source, words: str) -> Iterator[int]:
    """The lines with these words in a comment."""
    if words not in source.text:
        return
    for token in tokenize.generate_tokens(io.StringIO(source.text).readline):
        if token.type == tokenize.COMMENT and words in token.string:
            yield token.start[0]


def read(root: Path, tops: Iterable[str] = TOPS) -> list[Source]:
    """All sources below the folders ``tops`` of root."""
    paths = [path for top in tops for path in sorted(root.joinpath(top).rglob("*.py"))]
    texts = [(path.relative_to(root), path.read_text()) for path in paths]
    return [Source(path, text, list(ast.walk(ast.parse(text, str(path))))) for path, text in texts]


def measure(sources: list[Source]) -> dict[str, list[str]]:
    """The places that each figure counts, for all figures except upward imports."""
    functions = [
        (source, node) for source in sources for node in source.find(ast.FunctionDef, ast.AsyncFunctionDef)
    ]
    loops = [
        (source, node) for source in sources for node in source.find(ast.For, ast.AsyncFor, ast.comprehension)
    ]
    classes = [(source, node) for source in sources for node in source.find(ast.ClassDef)]
    folders = Counter(source.path.parent for source in sources)
    fullest = max(folders, key=lambda folder: folders[folder], default=Path())
    return {
        f"functions over {BODY_LINES} lines": [
            source.place(node.lineno, f"{node.name}, {count} lines")
            for source, node in functions
            if (count := body_lines(node)) > BODY_LINES
        ],
        f"functions with {PARAMETERS} or more parameters": [
            source.place(node.lineno, f"{node.name}, {count} parameters")
            for source, node in functions
            if (count := parameters(node)) >= PARAMETERS
        ],
        f"loop heads that unpack {LOOP_NAMES} or more names": [
            source.place(node.target.lineno, f"{count} names")
            for source, node in loops
            if (count := names(node)) >= LOOP_NAMES
        ],
        "files in the fullest folder": [
            str(source.path) for source in sources if source.path.parent == fullest
        ],
        "loose modules in pipeline/": [
            str(source.path)
            for source in sources
            if source.path.parent == Path("pipeline") and source.path.name != "__init__.py"
        ],
        f"files over {FILE_LINES} lines": [
            f"{source.path}: {count} lines"
            for source in sources
            if (count := len(source.text.splitlines())) > FILE_LINES
        ],
        "fmt: skip": [
            f"{source.path}:{line}" for source in sources for line in comments(source, "fmt: skip")
        ],
        f"classes with over {ATTRIBUTES} attributes": [
            source.place(node.lineno, f"{node.name}, {count} attributes")
            for source, node in classes
            if (count := attributes(node)) > ATTRIBUTES
        ],
        "Any": [f"{source.path}:{line}" for source in sources for line in uses(source, "Any")],
        "cast": [f"{source.path}:{line}" for source in sources for line in uses(source, "cast")],
    }


def main(argv: list[str] | None = None) -> int:
    """Print the figures of this checkout."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--list", action="store_true", help="name the places that each figure counts")
    args = parser.parse_args(argv)
    for name, places in (measure(read(ROOT)) | {"upward imports": upward_imports()}).items():
        print(f"{len(places):4} {name}")
        for place in places if args.list else ():
            print(f"       {place}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
