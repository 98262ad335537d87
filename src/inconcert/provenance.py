"""Which source files a result depends on, and a fingerprint of them that ignores what cannot change a number.

Two users: a run record stores the fingerprint of the algorithm and environment that made it (FRESH or STALE is decided
by it), and the book's build graph re-executes a notebook when a file of its import closure changes.
Source text is read and nothing is imported, so asking is cheap and has no side effects. The machine counts as
provenance too: `processor` names it.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import io
import json
import platform
import tokenize
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from inconcert.config import InputError

PACKAGE = Path(__file__).resolve().parent
"""The folder of the `inconcert` sources."""


CHOOSING = frozenset([
    "SUITES", "PARALLEL", "SMALL_OPTIONS", "READINGS", "COEFFICIENTS", "ACTOR_SIZES", "AUXILIARY", "ALONE", "NETWORKS",
    "SMOKE", "LAPTOP", "LAPTOP_ELSEWHERE", "LAPTOP_OF", "PAPER", "PAPER_SEEDS", "VARIANTS", "variants", "tiers",
    "choose_setting", "settle", "configure", "HARL", "HARL_BUDGETS", "_PARTICLES", "_FOOTBALL", "ROLES", "CASES",
    "PAIRS", "OTHERS", "BATTLE", "BATTLES", "OTHER_BATTLES", "BATTLE_CASES",
])  # fmt: skip
"""Names at the top of a module that only choose a setting, or list the suites. A record keeps the setting that was
chosen and is compared with today's choice, so a new variant or suite leaves the records of the others fresh."""


class _Import(NamedTuple):
    module: str
    names: tuple[str, ...]  # of `from module import names`; empty for `import module`


def source_of(module: str, package: Path = PACKAGE) -> Path | None:
    """The file of `module` ("inconcert.envs.coordsum"), or None where that is not one of our modules."""
    first, *rest = module.split(".")
    if first != package.name:
        return None
    stem = package.joinpath(*rest)
    for candidate in (stem / "__init__.py", stem.with_suffix(".py")):
        if (rest or candidate.name == "__init__.py") and candidate.is_file():
            return candidate
    return None


def closure(modules: Iterable[str], package: Path = PACKAGE) -> list[Path]:
    """All files of the package that importing `modules` reads, sorted.

    Follows every `import` and `from ... import` found in the syntax tree, those inside functions included; those under
    `if TYPE_CHECKING:` are not (they never run). A package passed through on the way to a submodule counts with
    what its `__init__.py` imports at module level; its lazily imported names count only where they are asked for.
    Environment suites are imported by name at run time: name their modules too.

    Args:
        modules: dotted names, such as "inconcert.algorithms.mappo".
        package: folder of the package that the names start with.

    Raises:
        InputError: a name that is no module of the package.
    """
    found: set[tuple[Path, bool]] = set()  # (file, whether imports inside its functions count)
    todo: list[tuple[str, bool]] = []
    for module in modules:
        if source_of(module, package) is None:
            raise InputError(f"no module {module!r} in {package.name}")
        todo.append((module, True))
    while todo:
        module, deep = todo.pop()
        path = source_of(module, package)
        if path is None or (path, deep) in found:
            continue
        found.add((path, deep))
        parents = module.split(".")[:-1]
        todo += [(".".join(parents[: end + 1]), False) for end in range(len(parents))]
        base = module if path.name == "__init__.py" else ".".join(parents)
        todo += _targets(_imports_of(path.read_text(encoding="utf-8"), path, base, deep), package)
    return sorted({path for path, _ in found})


def _targets(imports: Iterable[_Import], package: Path) -> Iterator[tuple[str, bool]]:
    """Our modules among `imports`; the flag says whether the whole module is asked for or only passed through."""
    for module, names in imports:
        if source_of(module, package) is None:
            continue
        members = [f"{module}.{name}" for name in names]
        submodules = [member for member in members if source_of(member, package) is not None]
        yield from ((member, True) for member in submodules)
        if len(submodules) < len(members) or not members:
            yield module, True


@functools.lru_cache(maxsize=1024)
def _imports_of(source: str, where: Path, base: str, deep: bool) -> tuple[_Import, ...]:
    """The imports of a file; kept, because every record on a page asks for those of the same few files."""
    return tuple(_imports(_parse(source, where), base, deep))


def _imports(node: ast.AST, base: str, deep: bool) -> Iterator[_Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (_Import(alias.name, ()) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            start = base.split(".")[: len(base.split(".")) - child.level + 1] if child.level else []
            module = ".".join([*start, *([child.module] if child.module else [])])
            yield _Import(module, tuple(alias.name for alias in child.names))
        elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            for other in child.orelse:
                yield from _imports(ast.Module([other], []), base, deep)
        elif deep or not isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            yield from _imports(child, base, deep)


def _parse(source: str, where: object) -> ast.Module:
    try:
        return ast.parse(source)
    except SyntaxError as error:
        raise InputError(f"{where} does not parse: {error.msg} (line {error.lineno})") from None


def suites(package: Path = PACKAGE) -> dict[str, str]:
    """Suite name -> module, read from the table `SUITES` in `envs/__init__.py` without importing it."""
    path = package / "envs" / "__init__.py"
    if not path.is_file():
        return {}
    for node in _parse(path.read_text(encoding="utf-8"), path).body:
        if isinstance(node, (ast.Assign, ast.AnnAssign)) and isinstance(node.value, ast.Dict):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if any(isinstance(target, ast.Name) and target.id == "SUITES" for target in targets):
                return ast.literal_eval(node.value)
    return {}


def notebook_modules(path: Path | str, strings: Iterable[str] = (), package: Path = PACKAGE) -> list[str]:
    """Our modules that the code cells of the notebook at `path` import, sorted.

    A notebook that can make environments also depends on the suites it names: for every string in its code, or among
    `strings` (its parameters), that starts like "coordsum/", the suite's module is in the list.

    Raises:
        InputError: not a notebook, or a code cell that does not parse.
    """
    path = Path(path)
    try:
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is not a readable notebook ({type(error).__name__})") from None
    found: set[str] = set()
    texts = list(strings)
    for number, cell in enumerate(cells):
        if cell.get("cell_type") != "code":
            continue
        tree = _parse_cell("".join(cell["source"]), f"{path}, cell {number}")
        found |= {module for module, _ in _targets(_imports(tree, package.name, deep=True), package)}
        constants = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)]
        texts += [value for value in constants if isinstance(value, str)]
    environments = source_of(f"{package.name}.envs", package)
    if environments is not None and environments in closure(found, package):
        for suite, module in suites(package).items():
            if any(text.startswith(f"{suite}/") for text in texts):
                found.add(module)
    return sorted(found)


def _parse_cell(source: str, where: str) -> ast.Module:
    """Parse a cell; lines of IPython (`%magic`, `!shell`) are no imports and are left out."""
    try:
        return ast.parse(source)
    except SyntaxError:
        if source.lstrip().startswith("%%"):
            return ast.Module([], [])
        lines = [
            line[: len(line) - len(line.lstrip())] + "pass" if line.lstrip().startswith(("%", "!")) else line
            for line in source.split("\n")
        ]
        return _parse("\n".join(lines), where)


def fingerprint(paths: Iterable[Path | str], package: Path = PACKAGE) -> str:
    """SHA-256 over the code of `paths`, whatever their order, as 64 hexadecimal digits.

    Comments, docstrings (any string that stands alone as a statement), blank lines, blanks at line ends, the release
    number (`__version__ = ...`) and what is named in `CHOOSING` do not count; every other character does, and so does
    a file's place in the package. The text is hashed, not the syntax tree: every Python version gives the same digits.
    """
    digest = hashlib.sha256()
    for name, path in sorted((_place(Path(path), package), Path(path)) for path in set(map(Path, paths))):
        digest.update(f"{name}\0{code_of(path.read_text(encoding='utf-8'))}\0".encode())
    return digest.hexdigest()


def _place(path: Path, package: Path) -> str:
    path = path.resolve()
    return path.relative_to(package.parent).as_posix() if path.is_relative_to(package) else path.name


@functools.lru_cache(maxsize=1024)  # see `_imports_of`
def code_of(source: str) -> str:
    """`source` without what `fingerprint` does not count; multi-line strings stay as they are."""
    rows = source.split("\n")
    for node in filter(_chooses, _parse(source, "source").body):
        rows[node.lineno - 1 : node.end_lineno] = [""] * ((node.end_lineno or node.lineno) - node.lineno + 1)
    source = "\n".join(rows)
    lines = [row.encode() for row in rows]  # the tree counts columns in bytes, the tokens in characters
    cuts = [
        (node.lineno, node.col_offset, node.end_lineno or node.lineno, node.end_col_offset or 0)
        for node in ast.walk(_parse(source, "source"))
        if isinstance(node, ast.stmt) and _is_idle(node)
    ]
    verbatim: set[int] = set()  # rows that end inside a string: their blanks are part of it
    open_strings: list[int] = []
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        (row, column), (last, end) = token.start, token.end
        kind = tokenize.tok_name[token.type]
        if kind == "COMMENT":
            cuts.append((row, len(rows[row - 1][:column].encode()), row, len(rows[row - 1][:end].encode())))
        elif kind == "STRING":
            verbatim |= set(range(row, last))
        elif kind == "FSTRING_START":  # Python 3.12 and later cut f-strings up; 3.11 has them as STRING
            open_strings.append(row)
        elif kind == "FSTRING_END":
            verbatim |= set(range(open_strings.pop(), last))
    for first, start, last, end in sorted(cuts, reverse=True):  # from the end, so that earlier positions stay valid
        verbatim -= set(range(first, last))
        tail = lines[last - 1][end:]
        lines[first - 1] = lines[first - 1][:start] + (tail if first == last else b"")
        if first != last:
            lines[first:last] = [b""] * (last - first - 1) + [tail]
    kept = [
        line if row in verbatim else line.rstrip()
        for row, line in enumerate(lines, start=1)
        if row in verbatim or line.strip()
    ]
    return b"\n".join(kept).decode()


def _chooses(node: ast.stmt) -> bool:
    """Whether a statement at the top of a module defines a name of `CHOOSING`, and nothing else."""
    if isinstance(node, ast.FunctionDef):
        return node.name in CHOOSING
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return bool(targets) and all(isinstance(target, ast.Name) and target.id in CHOOSING for target in targets)


def _is_idle(node: ast.AST) -> bool:
    """A statement that cannot change a number: a bare string, or the release number."""
    if isinstance(node, ast.Expr):
        return isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
    if isinstance(node, ast.Assign):
        return any(isinstance(target, ast.Name) and target.id == "__version__" for target in node.targets)
    return False


def processor() -> str:
    """The model name of this machine's processor."""
    information = Path("/proc/cpuinfo")
    if information.is_file():
        for line in information.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
