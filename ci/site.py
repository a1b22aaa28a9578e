"""Hooks of mkdocs.yml: pages that are not in docs/, and links that work on the site as in the repository.

README.md and its neighbours become pages. The pages of the Python API list the names that `amp_export/__init__.pyi`
exports, so that none is missing. A link to a file that is not a page leads to the repository.
"""

from __future__ import annotations

import ast
import itertools
import posixpath
import re
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from mkdocs.structure.files import File

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

PROJECT = Path(__file__).parents[1]

ROOT_PAGES = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CODE_OF_CONDUCT.md": "conduct.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
}

INTRODUCTIONS = {
    "functions": "The commands as functions. All names on these pages are imported from `amp_export`.",
    "options": "Each function takes a few essential arguments, and everything else in one of these frozen objects.",
    "choices": 'Values that options take. Each is also a string: `Dtype.FLOAT16` equals `"float16"`.',
    "results": "What the functions return, and what that consists of.",
    "errors": "Imported from `amp_export.errors`. `AmpExportError` is the base of all of them.",
}

LINK = re.compile(r"(?<=\]\()(?P<target>[^)#\s]+)(?P<anchor>#[^)\s]*)?(?=\))")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are not in docs/."""
    for source, page in ROOT_PAGES.items():
        files.append(File.generated(config, page, content=(PROJECT / source).read_text(encoding="utf-8")))
    for name, names in public_names().items():
        text = [f"# {name.capitalize()}\n\n{INTRODUCTIONS[name]}\n"]
        text += [_choice(path) if name == "choices" else f"::: {path}\n" for path in names]
        files.append(File.generated(config, f"reference/{name}.md", content="\n".join(text)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, **_: Any) -> str:
    """Rewrite links to files of the repository as links to pages of the site, or to the repository on the web."""
    here = page.file.src_uri
    sources = {name: source for source, name in ROOT_PAGES.items()}
    folder = PurePosixPath(sources.get(here, f"docs/{here}")).parent.as_posix()

    def lead(match: re.Match[str]) -> str:
        target, anchor = match["target"], match["anchor"] or ""
        if "://" in target:
            return match[0]
        path = posixpath.normpath(posixpath.join(folder, target))
        name = ROOT_PAGES.get(path) or (path.removeprefix("docs/") if path.startswith("docs/") else None)
        if name is not None:
            return posixpath.relpath(name, posixpath.dirname(here) or ".") + anchor
        return f"{config.repo_url}/blob/main/{path}{anchor}" if (PROJECT / path).is_file() else match[0]

    return LINK.sub(lead, markdown)


def public_names() -> dict[str, list[str]]:
    """Return the public names by page, in the order of their modules."""
    stub = ast.parse((PROJECT / "amp_export" / "__init__.pyi").read_text(encoding="utf-8"))
    pages: dict[str, list[str]] = {page: [] for page in INTRODUCTIONS}
    for line in stub.body:
        assert isinstance(line, ast.ImportFrom)
        for name in (alias.name for alias in line.names):
            path = f"amp_export.{line.module}.{name}"
            if name == "__version__" or line.module == "errors":
                continue
            if line.module == "options":
                pages["choices"].append(path)
            elif line.module == "verb_options":
                pages["options"].append(path)
            else:
                pages["functions" if name.islower() else "results"].append(path)
    # all errors are public: a base class may be caught
    pages["errors"] = [f"amp_export.errors.{node.name}" for node in _module("errors") if isinstance(node, ast.ClassDef)]
    return pages


def _choice(path: str) -> str:
    """Return the text of an enum: its docstring, then its members, each with its own docstring if there is one."""
    name = path.rpartition(".")[2]
    body = next(node for node in _module("options") if isinstance(node, ast.ClassDef) and node.name == name).body
    members = []
    for statement, following in itertools.zip_longest(body, body[1:]):
        match statement:
            case ast.Assign(targets=[ast.Name(id=member)], value=ast.Constant(value=str(value))):
                match following:
                    case ast.Expr(value=ast.Constant(value=str(text))):
                        members.append(f'- `{member} = "{value}"`: {" ".join(text.split())}\n')
                    case _:
                        members.append(f'- `{member} = "{value}"`\n')
    options = "    options:\n      members: false\n      show_bases: false\n"
    return f"::: {path}\n{options}\n{''.join(members)}"


def _module(name: str) -> list[ast.stmt]:
    return ast.parse((PROJECT / "amp_export" / f"{name}.py").read_text(encoding="utf-8")).body
