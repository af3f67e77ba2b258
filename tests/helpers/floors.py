"""A package's layout, read from its source with ``ast``: who imports whom, and how long files and functions are."""

import ast
from pathlib import Path

LONGEST_FILE = 450
LONGEST_FUNCTION = 60  # lines, docstring not counted


def sources(folder):
    """Module name -> its syntax tree and number of lines, of a package's folder."""
    found = {}
    for path in sorted(Path(folder).rglob("*.py")):
        parts = path.relative_to(Path(folder).parent).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        text = path.read_text(encoding="utf-8")
        found[name] = (ast.parse(text), len(text.splitlines()), path.name == "__init__.py")
    return found


def imports(modules):
    """(importer, imported, line) of every import inside the package, those in functions and for types included."""
    found = []
    for name, (tree, _, is_package) in modules.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                targets = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                base = node.module or ""
                if node.level:
                    above = name.split(".")[: len(name.split(".")) - node.level + is_package]
                    base = ".".join([*above, *([node.module] if node.module else [])])
                named = [f"{base}.{alias.name}" for alias in node.names]
                targets = [target if target in modules else base for target in named]
            else:
                continue
            found += [(name, target, node.lineno) for target in dict.fromkeys(targets) if target in modules]
    return found


def place_of(module, floors):
    """(floor, room) of a module by the longest name that fits it, or None. A name without a dot is one module alone."""
    fitting = [
        (len(room), i, room)
        for i, floor in enumerate(floors)
        for room in floor
        if module == room or "." in room and module.startswith(room + ".")
    ]
    return max(fitting)[1:] if fitting else None


def climbs(found, floors):
    """What is wrong: modules on no floor, imports of a floor above or of another room on the same floor."""
    wrong = []
    for importer, imported, line in found:
        here, there = place_of(importer, floors), place_of(imported, floors)
        if here is None or there is None:
            wrong.append(f"{importer if here is None else imported} stands on no floor")
        elif there[0] > here[0]:
            wrong.append(f"{importer}:{line} imports {imported}, of a floor above")
        elif there[0] == here[0] and there[1] != here[1]:
            wrong.append(f"{importer}:{line} imports {imported}, of another room on the same floor")
    return sorted(set(wrong))


def forbidden(found, pairs):
    """Imports of ``imported`` (a prefix) by ``importer`` (a prefix) that a pair forbids."""
    return [
        f"{importer}:{line} must not import {imported}"
        for importer, imported, line in found
        for begin, end in pairs
        if f"{importer}.".startswith(f"{begin}.") and f"{imported}.".startswith(f"{end}.")
    ]


def circles(found):
    """Circles of modules that import each other, each named once.

    A package that imports its own modules, and is imported by them, is a circle as well.
    """
    graph = {}
    for importer, imported, _ in found:
        if importer != imported:
            graph.setdefault(importer, set()).add(imported)
    wrong, state, path = [], {}, []

    def visit(module):
        state[module] = "open"
        path.append(module)
        for other in sorted(graph.get(module, ())):
            if state.get(other) == "open":
                wrong.append(" -> ".join([*path[path.index(other) :], other]))
            elif other not in state:
                visit(other)
        path.pop()
        state[module] = "done"

    for module in sorted(graph):
        if module not in state:
            visit(module)
    return wrong


def lengths(modules):
    """Name -> lines, of every file and function that is too long."""
    long = {}
    for name, (tree, lines, _) in modules.items():
        if lines > LONGEST_FILE:
            long[name] = lines
        for node, path in functions(tree):
            code = node.end_lineno - node.lineno + 1
            if ast.get_docstring(node) is not None:
                code -= node.body[0].end_lineno - node.body[0].lineno + 1
            if code > LONGEST_FUNCTION:
                long[f"{name}:{path}"] = code
    return long


def functions(node, path=""):
    """Every function and method in a tree, with its path; nested ones count for the outer one as well."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            inner = f"{path}.{child.name}".lstrip(".")
            if not isinstance(child, ast.ClassDef):
                yield child, inner
            yield from functions(child, inner)
        else:
            yield from functions(child, path)
