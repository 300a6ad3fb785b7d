"""What the proxy can say: the lines of its log, its errors, its reasons, as they stand in its
source.

Owns how they are found: by the names of the calls that they are given to.
"""

from __future__ import annotations

import ast
import functools
import itertools
import re
from collections.abc import Iterator
from pathlib import Path

SOURCE = Path(__file__).parents[2] / "redisproxy"
#: In texts: anything.
ANY = "~"
#: Two marks in a row, as where another's text, with a full stop of its own, stands within a
#: sentence of ours.
DOUBLED = r"(?<!\.)(?:\.\.|\.[;:,]|[?!;:,][.;:,])(?![^\s\"])"


def parsed() -> Iterator[tuple[Path, ast.Module]]:
    for path in sorted(SOURCE.rglob("*.py")):
        yield path, ast.parse(path.read_text())


class Texts(ast.NodeVisitor):
    """Strings of one module: fields in them are ANY, names of texts are these texts.

    logged: lines of the log; failures: how many there are that come with a traceback; reasons: of
    problems, and why Redis cannot be used; errors: what a client is answered, with the -; states:
    what is told of Redis; all: any string.
    """

    def __init__(self, module: ast.Module, constants: dict[str, str]) -> None:
        self._constants = constants
        self._scopes: list[dict[str, list[str]]] = []
        self.logged: set[str] = set()
        self.failures = 0
        self.reasons: set[str] = set()
        self.errors: set[str] = set()
        self.states: set[str] = set()
        self.all: set[str] = set()
        self.visit(module)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        scope: dict[str, list[str]] = {}
        self._scopes.append(scope)
        for part in ast.walk(node):
            if isinstance(part, ast.Assign) and isinstance(part.targets[0], ast.Name):
                scope.setdefault(part.targets[0].id, []).extend(self.of(part.value))
            elif isinstance(part, ast.AugAssign) and isinstance(part.target, ast.Name):
                scope.setdefault(part.target.id, []).extend(ANY + text for text in self.of(part.value))
            elif isinstance(part, ast.Return) and node.name == "_state" and part.value is not None:
                self.states.update(text for text in self.of(part.value) if text.startswith("is "))
        self.generic_visit(node)
        self._scopes.pop()

    visit_AsyncFunctionDef = visit_FunctionDef  # type: ignore[assignment]

    def of(self, node: ast.AST) -> list[str]:
        """What it may be; nothing where that is no text."""
        if isinstance(node, ast.Constant) and isinstance(node.value, str | bytes):
            return [node.value if isinstance(node.value, str) else node.value.decode("latin-1")]
        if isinstance(node, ast.JoinedStr):
            parts = [self.of(part) or [ANY] for part in node.values]
            return ["".join(chosen) for chosen in itertools.islice(itertools.product(*parts), 50)]
        if isinstance(node, ast.FormattedValue):
            return self.of(node.value)
        if isinstance(node, ast.IfExp):
            return self.of(node.body) + self.of(node.orelse)
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mod):
            return [re.sub(r"%[a-z]", ANY, text) for text in self.of(node.left)]
        if isinstance(node, ast.Name):
            for scope in reversed(self._scopes):
                if node.id in scope:
                    return scope[node.id]
            return [self._constants[node.id]] if node.id in self._constants else []
        return []

    def visit_Call(self, node: ast.Call) -> None:
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        given = [text for argument in node.args for text in self.of(argument)]
        logs = isinstance(node.func, ast.Attribute) and ast.unparse(node.func.value).endswith("_log")
        if node.args and (
            logs or name == "tell" or (isinstance(node.func, ast.IfExp) and "_log." in ast.unparse(node.func))
        ):
            self._log(name, node)
        elif name in ("bug", "log_bug"):
            self.failures += 1
        elif name == "_again":
            self.logged |= {f"worker {ANY} ({ANY}) {text}; another is started in {ANY} s" for text in given}
        elif name in ("Problem", "MalformedError", "DocumentError", "ReadFailure", "RequestError"):
            self.reasons |= {text for text in given if " " in text.strip(ANY)}
        elif (
            name
            in (
                "UpstreamError",
                "RedisUnreachable",
                "AclUserError",
                "UserUnknown",
                "of_all",
                "of_one",
                "_tell_helpless",
            )
            and node.args
        ):
            self.reasons |= set(self.of(node.args[0]))
        elif ast.unparse(node.func) == "wrong.append":
            self.reasons |= set(given)  # of annotations
        elif name == "_tell_state":
            self.states.update(given)
        elif name == "ForeignChannelError":
            self.errors |= {f"-NOPERM {text}" for text in given}
        self.generic_visit(node)

    def _log(self, name: str, node: ast.Call) -> None:
        if name in ("failure", "debug"):
            self.failures += name == "failure"
            return
        worker = name == "tell" and len(node.args) > 1
        for text in self.of(node.args[min(len(node.args) - 1, worker or name == "emit")]):
            only = re.fullmatch(r"\{(\w+)\}", text)
            known = [self.of(keyword.value) for keyword in node.keywords if only and keyword.arg == only[1]]
            for told in known[0] if known and known[0] else [re.sub(r"\{\w+[^{}]*\}", ANY, text)]:
                self.logged.add(f"worker {ANY} ({ANY}) {told}" if worker else re.sub(r"\{\w+[^{}]*\}", ANY, told))

    def generic_visit(self, node: ast.AST) -> None:
        for text in self.of(node) if isinstance(node, ast.Constant | ast.JoinedStr | ast.BinOp) else ():
            self.all.add(text.strip())
            if re.match(r"-?(ERR|NOPERM|NOAUTH|WRONGPASS|NOPROTO|LOADING) \S", text) and "\n" not in text.strip():
                self.errors.add("-" + re.sub(r"%[a-z]", ANY, text).strip().removeprefix("-"))
        if isinstance(node, ast.JoinedStr):  # its parts are no texts of their own
            for part in node.values:
                if isinstance(part, ast.FormattedValue):
                    self.visit(part)
            return
        super().generic_visit(node)


@functools.cache
def said() -> Texts:
    """Of all modules together."""
    constants = {
        node.targets[0].id: node.value.value
        for _, module in parsed()
        for node in module.body
        if isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Name)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    }
    whole = Texts(ast.Module([], []), constants)
    for _, module in parsed():
        found = Texts(module, constants)
        for name in ("logged", "reasons", "errors", "states", "all"):
            getattr(whole, name).update(getattr(found, name))
        whole.failures += found.failures
    return whole
