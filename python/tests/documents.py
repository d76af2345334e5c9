"""Code blocks of the founding documents: finding them, and reading those that are signatures."""

from __future__ import annotations

import ast
import inspect
import os
import pathlib
import re
from dataclasses import dataclass

SEEDS = os.environ.get("FAIRWAY_SEEDS", "")

_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_PROTOTYPE = re.compile(r"^(?:\w+ = )?([\w.]+)\(", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    document: str  # "000"
    number: int  # of the blocks of its language in the document, from 1
    text: str

    @property
    def key(self) -> tuple[str, int]:
        return self.document, self.number


def text_of(document: str) -> str:
    (path,) = pathlib.Path(SEEDS).glob(f"{document}_*.txt")
    return path.read_text(encoding="utf-8")


def blocks(language: str) -> list[Block]:
    """All blocks of the documents, with the package's name replaced."""
    found = []
    for path in sorted(pathlib.Path(SEEDS).glob("*.txt")):
        document = path.name[:3]
        all_blocks = _BLOCK.findall(path.read_text(encoding="utf-8"))
        texts = [body for kind, body in all_blocks if kind == language]
        for number, body in enumerate(texts, start=1):
            found.append(Block(document, number, body.replace("metal_marlin", "fairway")))
    return found


def without_ellipses(text: str) -> str:
    """Parameters and arguments that a document leaves out as `...` are left out."""
    text = re.sub(r",\s*\.\.\.(?=\s*[,)])", "", text)
    return re.sub(r"\(\s*\.\.\.\s*\)", "()", text)


def prototypes(text: str) -> dict[str, ast.FunctionDef]:
    """`result = object.name(parameter: type = default, ...) -> type` by name, as functions.

    Fails if a line that is neither a prototype nor a comment is left over.
    """
    found: dict[str, ast.FunctionDef] = {}
    rest = text
    while match := _PROTOTYPE.search(rest):
        depth, end = 1, match.end()
        while depth:
            depth += {"(": 1, ")": -1}.get(rest[end], 0)
            end += 1
        line_end = rest.find("\n", end)
        parameters, returns = rest[match.end() : end - 1], rest[end:line_end].split("#")[0].strip()
        name = match.group(1).split(".")[-1]
        source = f"def {name}({parameters}) {returns}: pass"
        (definition,) = ast.parse(source).body
        assert isinstance(definition, ast.FunctionDef)
        found[name] = definition
        rest = rest[: match.start()] + rest[line_end:]
    lines = (line.strip() for line in rest.splitlines())
    left = [line for line in lines if line and not line.startswith("#")]
    if left:
        raise AssertionError(f"neither prototype nor comment: {left}")
    return found


_REQUIRED = inspect.Parameter.empty


def documented_parameters(definition: ast.FunctionDef) -> dict[str, object]:
    """Parameter -> default, _REQUIRED without one; self is left out."""
    names = [argument.arg for argument in definition.args.args]
    given = [ast.literal_eval(default) for default in definition.args.defaults]
    defaults = [_REQUIRED] * (len(names) - len(given)) + given
    return {name: value for name, value in zip(names, defaults) if name != "self"}


def signature_problems(definition: ast.FunctionDef, function) -> list[str]:
    """What the real function lacks of the documented one; more defaulted parameters are fine."""
    real = dict(inspect.signature(function).parameters)
    real.pop("self", None)
    documented = documented_parameters(definition)
    problems = []
    if list(real)[: len(documented)] != list(documented):
        problems.append(f"parameters {list(real)}, documented {list(documented)}")
    for name, default in documented.items():
        if name in real and real[name].default != default:
            problems.append(f"{name} has the default {real[name].default}, documented {default}")
    for name, parameter in real.items():
        if name not in documented and parameter.default is _REQUIRED:
            problems.append(f"{name} is required and not documented")
    return [f"{definition.name}: {problem}" for problem in problems]
